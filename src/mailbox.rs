//! What waits for one process: bounded, first in first out, selective by tag.
//!
//! A receive by tag moves what it passes over into an index, once. The next one finds its message
//! there, so its cost does not grow with the backlog. Nothing is ever moved back, so a receive that
//! times out leaves the order as it was.
//!
//! # Invariants
//!
//! * Everything in `skipped` arrived before everything in `fresh`.
//! * `by_tag` names exactly the tagged entries of `skipped`, oldest first.
//! * `notices` names the entries of `fresh` that the process has not settled.

mod queue;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidelock_proto::{ExitReason, NodeId, Numbers, Pid};

use self::queue::Queue;
use crate::Resource;

/// Bytes that every entry of a mailbox counts on top of its payload.
pub const MAILBOX_ENTRY_BYTES: usize = 64;

/// Entries that one step of a receive by tag passes over at the most. Whoever sends to the process waits for
/// the step, the thread of a node's sessions among them.
const SCAN_MAX: usize = 1024;
/// Wanted tags that are compared one by one; more are in order, and looked up.
const FEW_TAGS: usize = 8;

/// Whether these can be wanted of a mailbox. Whoever receives brings them in order before it is locked.
pub(crate) fn is_in_order(tags: &[i64]) -> bool {
    tags.len() <= FEW_TAGS || tags.is_sorted()
}

/// A message, as guests send it.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// What selective receives match; `None` matches no tag.
    pub tag: Option<i64>,
    /// The payload.
    pub data: Bytes,
    /// Things that only travel within one node: modules, sockets.
    pub resources: Vec<Resource>,
}

impl Message {
    /// A message of bytes alone.
    pub fn new(tag: Option<i64>, data: Bytes) -> Self {
        Message {
            tag,
            data,
            resources: Vec::new(),
        }
    }
}

/// What a process receives.
#[derive(Debug, Clone)]
pub enum Received {
    /// A message.
    Message(Message),
    /// A linked process ended, and this process traps that.
    LinkDied {
        /// Who ended.
        pid: Pid,
        /// The link's tag.
        tag: Option<i64>,
        /// Why.
        reason: ExitReason,
    },
    /// A monitored process ended.
    Down {
        /// Who ended.
        pid: Pid,
        /// The monitor, now used up.
        reference: u64,
        /// Why.
        reason: ExitReason,
    },
    /// A monitored node cannot be reached any more.
    NodeDown {
        /// Which node.
        node: NodeId,
        /// The monitor, now used up.
        reference: u64,
        /// How that was noticed.
        reason: ExitReason,
    },
}

/// What a receive accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// The oldest of any kind.
    Any,
    /// The oldest with this tag.
    Tag(i64),
    /// The oldest with one of these tags.
    Tags(Vec<i64>),
    /// The oldest with this tag that arrived after the mark.
    Since(i64, Mark),
}

impl Filter {
    /// Once, for all the looks of one receive.
    pub(crate) fn bring_in_order(&mut self) {
        if let Filter::Tags(tags) = self {
            tags.sort_unstable();
        }
    }
}

/// A moment in the life of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

/// A LinkDied that the process has not settled: it may still be withdrawn, or end the process.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pub(crate) number: u64,
    pub(crate) about: Pid,
    pub(crate) tag: Option<i64>,
    pub(crate) reason: ExitReason,
}

/// What arrived, in little room: a long backlog is made of plain messages.
#[derive(Debug)]
enum Entry {
    /// A message without resources.
    Data(Option<i64>, Bytes),
    Received(Box<Received>),
    Notice(Box<Notice>),
    /// A notice that was settled, and is received as it is.
    Died(Box<Notice>),
    /// A notice of an end with an exit code, settled or not.
    Exited(Exited),
    /// A notice that was withdrawn, or that nobody sees.
    Nothing,
}

/// A notice of an end with an exit code. It needs no memory of its own, which whoever tells of the end would make, and
/// whoever is told would give back, mostly on another thread.
#[derive(Debug)]
struct Exited {
    number: u64,
    about: Pid,
    tag: Option<i64>,
    code: i32,
    /// Whether it is received as it is.
    settled: bool,
}

impl Exited {
    fn notice(&self) -> Notice {
        Notice {
            number: self.number,
            about: self.about,
            tag: self.tag,
            reason: ExitReason::Exit(self.code),
        }
    }
}

/// A backlog is counted in these.
const _: () = assert!(size_of::<Entry>() <= 48);

impl From<Notice> for Entry {
    fn from(notice: Notice) -> Self {
        match notice.reason {
            ExitReason::Exit(code) => Entry::Exited(Exited {
                number: notice.number,
                about: notice.about,
                tag: notice.tag,
                code,
                settled: false,
            }),
            _ => Entry::Notice(Box::new(notice)),
        }
    }
}

impl From<Message> for Entry {
    fn from(message: Message) -> Self {
        if message.resources.is_empty() {
            Entry::Data(message.tag, message.data)
        } else {
            Entry::Received(Box::new(Received::Message(message)))
        }
    }
}

impl Entry {
    fn tag(&self) -> Option<i64> {
        match self {
            Entry::Data(tag, _) => *tag,
            Entry::Received(received) => match received.as_ref() {
                Received::Message(message) => message.tag,
                Received::LinkDied { tag, .. } => *tag,
                Received::Down { .. } | Received::NodeDown { .. } => None,
            },
            Entry::Died(notice) => notice.tag,
            Entry::Exited(exited) => exited.tag,
            Entry::Notice(_) | Entry::Nothing => None,
        }
    }

    fn bytes(&self) -> usize {
        MAILBOX_ENTRY_BYTES
            + match self {
                Entry::Data(_, data) => data.len(),
                Entry::Received(received) => match received.as_ref() {
                    Received::Message(message) => {
                        message.data.len() + message.resources.len() * size_of::<Resource>()
                    }
                    Received::LinkDied { reason, .. }
                    | Received::Down { reason, .. }
                    | Received::NodeDown { reason, .. } => reason.text_bytes(),
                },
                Entry::Notice(notice) | Entry::Died(notice) => notice.reason.text_bytes(),
                Entry::Exited(_) | Entry::Nothing => 0,
            }
    }

    /// Whether there is something to receive. All notices have been settled.
    fn is_something(&self) -> bool {
        match self {
            Entry::Data(..) | Entry::Received(_) | Entry::Died(_) => true,
            Entry::Exited(exited) => exited.settled,
            Entry::Notice(_) | Entry::Nothing => false,
        }
    }

    fn received(self) -> Option<Received> {
        match self {
            Entry::Data(tag, data) => Some(Received::Message(Message::new(tag, data))),
            Entry::Received(received) => Some(*received),
            Entry::Died(notice) => Some(Received::LinkDied {
                pid: notice.about,
                tag: notice.tag,
                reason: notice.reason,
            }),
            Entry::Exited(exited) if exited.settled => Some(Received::LinkDied {
                pid: exited.about,
                tag: exited.tag,
                reason: ExitReason::Exit(exited.code),
            }),
            Entry::Exited(_) | Entry::Notice(_) | Entry::Nothing => None,
        }
    }
}

/// The mailbox of one process.
///
/// Its fields are in this order: what each message and each end looks at comes first, on the fewest cache lines.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Mailbox {
    /// Arrived, and not passed over by a receive by tag. The number of the first is `base`.
    fresh: Queue<Entry>,
    base: u64,
    bytes: usize,
    notices: Numbers,
    /// Passed over.
    skipped: BTreeMap<u64, Entry>,
    by_tag: BTreeMap<i64, VecDeque<u64>>,
}

impl Mailbox {
    /// How many entries wait.
    pub(crate) fn len(&self) -> usize {
        self.fresh.len() + self.skipped.len()
    }

    /// Bytes of everything that waits, with a flat amount per entry.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the news of an end.
    pub(crate) fn push(&mut self, received: Received) {
        self.push_entry(Entry::Received(Box::new(received)));
    }

    pub(crate) fn push_message(&mut self, message: Message) {
        self.push_entry(message.into());
    }

    fn push_entry(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.fresh.push_back(entry);
    }

    pub(crate) fn push_notice(&mut self, notice: Notice) {
        self.notices.push(self.base + self.fresh.len() as u64);
        self.push_entry(notice.into());
    }

    /// Whether there are notices to settle.
    pub(crate) fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// Settles the oldest notice: `judge` says whether the process receives it.
    pub(crate) fn settle(&mut self, judge: impl FnOnce(&Notice) -> bool) {
        let Some(number) = self.notices.pop() else {
            return;
        };
        let at = usize::try_from(number - self.base).expect("a mailbox fits into memory");
        let entry = self
            .fresh
            .get_mut(at)
            .expect("a notice is not taken before");
        self.bytes -= entry.bytes();
        match std::mem::replace(entry, Entry::Nothing) {
            Entry::Notice(notice) => {
                if judge(&notice) {
                    *entry = Entry::Died(notice);
                }
            }
            Entry::Exited(mut exited) => {
                exited.settled = judge(&exited.notice());
                if exited.settled {
                    *entry = Entry::Exited(exited);
                }
            }
            other => debug_assert!(false, "no notice: {other:?}"),
        }
        self.bytes += entry.bytes();
        // A process that never receives has none of them for long.
        while let Some(Entry::Nothing) = self.fresh.front() {
            self.pop_front();
            self.bytes -= Entry::Nothing.bytes();
        }
    }

    /// The present moment: what arrives from now on is after the mark.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.base + self.fresh.len() as u64)
    }

    /// Takes the oldest entry that `filter` accepts, of those it looks at. All notices have been settled, and
    /// tags [are in order](is_in_order).
    ///
    /// `None` says that there is none only if nothing is [fresh](Self::has_fresh) afterwards: one step looks at a
    /// thousand that were not looked at before.
    pub(crate) fn pop(&mut self, filter: &Filter) -> Option<Received> {
        debug_assert!(self.notices.is_empty(), "settle first");
        let entry = match filter {
            Filter::Any => self.pop_any(),
            Filter::Tag(wanted) => self
                .pop_skipped(std::slice::from_ref(wanted))
                .or_else(|| self.pop_fresh(|_, tag| tag == *wanted)),
            Filter::Tags(tags) => self.pop_tags(tags),
            Filter::Since(wanted, mark) => {
                self.pop_fresh(|number, tag| number >= mark.0 && tag == *wanted)
            }
        }?;
        self.bytes -= entry.bytes();
        entry.received()
    }

    #[inline(never)]
    fn pop_tags(&mut self, tags: &[i64]) -> Option<Entry> {
        debug_assert!(is_in_order(tags), "brought in order before");
        if tags.len() <= FEW_TAGS {
            return self
                .pop_skipped(tags)
                .or_else(|| self.pop_fresh(|_, tag| tags.contains(&tag)));
        }
        let is_wanted = |tag: i64| tags.binary_search(&tag).is_ok();
        let skipped = if self.by_tag.len() < tags.len() {
            let wanted = self.by_tag.iter().filter(|(tag, _)| is_wanted(**tag));
            let oldest = wanted.filter_map(|(tag, numbers)| Some((*numbers.front()?, *tag)));
            oldest.min().and_then(|found| self.take_skipped(found))
        } else {
            self.pop_skipped(tags)
        };
        skipped.or_else(|| self.pop_fresh(|_, tag| is_wanted(tag)))
    }

    fn pop_any(&mut self) -> Option<Entry> {
        if let Some((number, entry)) = self.skipped.pop_first() {
            if let Some(tag) = entry.tag() {
                let front = self.pop_index(tag);
                debug_assert_eq!(front, Some(number));
            }
            return Some(entry);
        }
        loop {
            let entry = self.pop_front()?;
            if entry.is_something() {
                return Some(entry);
            }
            self.bytes -= entry.bytes();
        }
    }

    fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.fresh.pop_front()?;
        self.base += 1;
        Some(entry)
    }

    fn pop_index(&mut self, tag: i64) -> Option<u64> {
        let numbers = self.by_tag.get_mut(&tag)?;
        let front = numbers.pop_front();
        if numbers.is_empty() {
            self.by_tag.remove(&tag);
        }
        front
    }

    fn pop_skipped(&mut self, tags: &[i64]) -> Option<Entry> {
        let oldest = |tag: &i64| self.by_tag.get(tag)?.front().map(|number| (*number, *tag));
        let found = tags.iter().filter_map(oldest).min()?;
        self.take_skipped(found)
    }

    fn take_skipped(&mut self, (number, tag): (u64, i64)) -> Option<Entry> {
        self.pop_index(tag);
        self.skipped.remove(&number)
    }

    /// Whether something was not looked at since it arrived.
    pub(crate) fn has_fresh(&self) -> bool {
        self.fresh.front().is_some()
    }

    /// Looks through what is fresh, for a while; what is passed over is indexed and not looked at again.
    fn pop_fresh(&mut self, accept: impl Fn(u64, i64) -> bool) -> Option<Entry> {
        for _ in 0..SCAN_MAX {
            let number = self.base;
            let entry = self.pop_front()?;
            let tag = entry.tag();
            if tag.is_some_and(|tag| accept(number, tag)) {
                return Some(entry);
            }
            if !entry.is_something() {
                self.bytes -= entry.bytes();
                continue;
            }
            if let Some(tag) = tag {
                self.by_tag.entry(tag).or_default().push_back(number);
            }
            self.skipped.insert(number, entry);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(tag: i64, text: &str) -> Message {
        Message {
            tag: (tag != 0).then_some(tag),
            data: Bytes::copy_from_slice(text.as_bytes()),
            resources: Vec::new(),
        }
    }

    fn text(received: Option<Received>) -> Option<String> {
        match received? {
            Received::Message(message) => Some(String::from_utf8(message.data.to_vec()).unwrap()),
            other => Some(format!("{other:?}")),
        }
    }

    #[test]
    fn order_survives_receives_that_find_nothing() {
        let mut mailbox = Mailbox::default();
        for (tag, name) in [(1, "a"), (2, "b"), (0, "c"), (1, "d"), (2, "e")] {
            mailbox.push_message(tagged(tag, name));
        }
        assert_eq!(text(mailbox.pop(&Filter::Tag(9))), None);
        mailbox.push_message(tagged(9, "f"));
        assert_eq!(text(mailbox.pop(&Filter::Tag(2))).as_deref(), Some("b"));
        assert_eq!(
            text(mailbox.pop(&Filter::Tags(vec![9, 1]))).as_deref(),
            Some("a")
        );
        let rest: Vec<_> = std::iter::from_fn(|| text(mailbox.pop(&Filter::Any))).collect();
        assert_eq!(rest, ["c", "d", "e", "f"]);
        assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
        assert!(mailbox.by_tag.is_empty());
    }

    #[test]
    fn a_mark_hides_what_came_before_it() {
        let mut mailbox = Mailbox::default();
        mailbox.push_message(tagged(5, "old"));
        let mark = mailbox.mark();
        assert_eq!(text(mailbox.pop(&Filter::Since(5, mark))), None);
        mailbox.push_message(tagged(6, "other"));
        mailbox.push_message(tagged(5, "new"));
        assert_eq!(
            text(mailbox.pop(&Filter::Since(5, mark))).as_deref(),
            Some("new")
        );
        assert_eq!(text(mailbox.pop(&Filter::Any)).as_deref(), Some("old"));
        assert_eq!(text(mailbox.pop(&Filter::Any)).as_deref(), Some("other"));
    }

    #[test]
    fn bytes_are_counted_whatever_a_message_carries() {
        let mut mailbox = Mailbox::default();
        let mut message = tagged(3, "bytes");
        mailbox.push_message(message.clone());
        assert_eq!(mailbox.bytes(), MAILBOX_ENTRY_BYTES + 5);
        message.resources.push(std::sync::Arc::new(()));
        mailbox.push_message(message);
        let of_both = 2 * (MAILBOX_ENTRY_BYTES + 5) + size_of::<Resource>();
        assert_eq!(mailbox.bytes(), of_both);
        assert!(mailbox.pop(&Filter::Tag(9)).is_none());
        for resources in [0, 1] {
            let Some(Received::Message(message)) = mailbox.pop(&Filter::Tag(3)) else {
                panic!("two messages were passed over");
            };
            assert_eq!(message.resources.len(), resources);
            let counted = MAILBOX_ENTRY_BYTES + 5 + size_of::<Resource>();
            assert_eq!(mailbox.bytes(), (1 - resources) * counted);
        }
        assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
    }

    #[test]
    fn a_withdrawn_notice_leaves_no_trace() {
        let mut mailbox = Mailbox::default();
        let about = Pid::new(NodeId(1), 1).unwrap();
        let notice = |number| Notice {
            number,
            about,
            tag: Some(3),
            reason: ExitReason::NoProcess,
        };
        mailbox.push_message(tagged(3, "first"));
        mailbox.push_notice(notice(1));
        mailbox.push_notice(notice(2));
        mailbox.settle(|_| false);
        mailbox.settle(|_| true);
        assert_eq!(text(mailbox.pop(&Filter::Tag(3))).as_deref(), Some("first"));
        assert!(matches!(
            mailbox.pop(&Filter::Tag(3)),
            Some(Received::LinkDied { .. })
        ));
        assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
    }

    #[test]
    fn notices_are_settled_in_order_and_received_where_they_stand() {
        let mut mailbox = Mailbox::default();
        let about = |number: u64| Pid::new(NodeId(1), number).unwrap();
        let notice = |number| Notice {
            number,
            about: about(number),
            tag: Some(1),
            reason: ExitReason::Trap("why".into()),
        };
        let died = |received: Option<Received>| match received {
            Some(Received::LinkDied { pid, tag, reason }) => {
                assert_eq!(tag, Some(1));
                assert_eq!(reason, ExitReason::Trap("why".into()));
                pid.local()
            }
            other => panic!("{other:?}"),
        };
        // One at a time.
        for number in 1..10 {
            mailbox.push_notice(notice(number));
            let before = mailbox.bytes();
            mailbox.settle(|notice| notice.number == number);
            assert_eq!(mailbox.bytes(), before);
            assert_eq!(died(mailbox.pop(&Filter::Any)), number);
        }
        assert!(matches!(mailbox.notices, Numbers::None), "no memory");
        // Several at a time, twice.
        for _ in 0..2 {
            for number in 1..=4 {
                mailbox.push_notice(notice(number));
                mailbox.push_message(tagged(2, "between"));
            }
            let mut settled = Vec::new();
            while mailbox.has_notices() {
                mailbox.settle(|notice| {
                    settled.push(notice.number);
                    notice.number != 2
                });
            }
            assert_eq!(settled, [1, 2, 3, 4]);
            let filter = Filter::Tag(1);
            let received: Vec<u64> = (0..3).map(|_| died(mailbox.pop(&filter))).collect();
            assert_eq!(received, [1, 3, 4]);
            let rest = std::iter::from_fn(|| text(mailbox.pop(&Filter::Any)));
            assert!(rest.eq(["between"; 4].map(String::from)));
            assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
        }
    }

    #[test]
    fn an_exit_code_is_told_as_any_other_end_and_needs_no_memory() {
        let mut mailbox = Mailbox::default();
        let about = Pid::new(NodeId(1), 9).unwrap();
        let notice = |number| Notice {
            number,
            about,
            tag: Some(3),
            reason: ExitReason::Exit(-7),
        };
        for received in [true, false] {
            mailbox.push_message(tagged(2, "first"));
            mailbox.push_notice(notice(5));
            assert_eq!(mailbox.bytes(), 2 * MAILBOX_ENTRY_BYTES + 5);
            assert!(matches!(mailbox.fresh.get_mut(1), Some(Entry::Exited(_))));
            mailbox.settle(|told| {
                assert_eq!((told.number, told.about, told.tag), (5, about, Some(3)));
                assert_eq!(told.reason, ExitReason::Exit(-7));
                received
            });
            let died = mailbox.pop(&Filter::Tag(3));
            let is_told = matches!(
                died,
                Some(Received::LinkDied { pid, tag: Some(3), reason: ExitReason::Exit(-7) })
                    if pid == about
            );
            assert_eq!((is_told, died.is_some()), (received, received));
            assert_eq!(text(mailbox.pop(&Filter::Any)).as_deref(), Some("first"));
            assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
        }
        assert!(mailbox.by_tag.is_empty());
    }

    #[test]
    fn a_settled_notice_stays_where_it_was_put() {
        let mut mailbox = Mailbox::default();
        mailbox.push_notice(Notice {
            number: 1,
            about: Pid::new(NodeId(1), 1).unwrap(),
            tag: None,
            reason: ExitReason::NoProcess,
        });
        let mut place = std::ptr::null();
        mailbox.settle(|notice| {
            place = std::ptr::from_ref(notice);
            true
        });
        let Some(Entry::Died(notice)) = mailbox.fresh.front() else {
            panic!("it was settled");
        };
        assert_eq!(std::ptr::from_ref(notice.as_ref()), place);
    }

    #[test]
    fn what_each_message_needs_comes_first() {
        let needed = std::mem::offset_of!(Mailbox, notices) + size_of::<Numbers>();
        assert!(needed <= std::mem::offset_of!(Mailbox, skipped));
        assert!(std::mem::offset_of!(Mailbox, bytes) < needed);
        assert!(std::mem::offset_of!(Mailbox, skipped) < std::mem::offset_of!(Mailbox, by_tag));
    }

    #[test]
    fn one_step_looks_at_so_many_and_the_next_goes_on() {
        let total = 3 * SCAN_MAX + 10;
        let many: Vec<i64> = (-100..0).chain([2]).collect();
        for filter in [Filter::Tag(2), Filter::Tags(vec![3, 2]), Filter::Tags(many)] {
            let mut mailbox = Mailbox::default();
            for number in 0..total {
                mailbox.push_message(tagged(1, &number.to_string()));
            }
            mailbox.push_message(tagged(2, "wanted"));
            for _ in 0..3 {
                assert_eq!(text(mailbox.pop(&filter)), None);
                assert!(mailbox.has_fresh());
            }
            mailbox.push_message(tagged(2, "later"));
            assert_eq!(text(mailbox.pop(&filter)).as_deref(), Some("wanted"));
            assert_eq!(text(mailbox.pop(&filter)).as_deref(), Some("later"));
            assert_eq!(text(mailbox.pop(&filter)), None);
            assert!(!mailbox.has_fresh(), "now that is sure");
            let rest = std::iter::from_fn(|| text(mailbox.pop(&Filter::Any)));
            let in_order = (0..total).map(|number| number.to_string());
            assert!(rest.eq(in_order));
        }
    }

    #[test]
    fn the_oldest_of_many_tags_comes_first_whichever_are_fewer() {
        let wanted: Vec<i64> = (2..22).collect();
        for kinds in [5, 500] {
            let mut mailbox = Mailbox::default();
            let tag = |number: i64| 1 + number % kinds;
            for number in 0..1000 {
                mailbox.push_message(tagged(tag(number), &number.to_string()));
            }
            assert_eq!(text(mailbox.pop(&Filter::Tag(-1))), None);
            assert!(!mailbox.has_fresh(), "all of it was passed over");
            let filter = Filter::Tags(wanted.clone());
            let received = std::iter::from_fn(|| text(mailbox.pop(&filter)));
            let in_order = (0..1000).filter(|number| wanted.contains(&tag(*number)));
            assert!(received.eq(in_order.map(|number| number.to_string())));
        }
    }

    #[test]
    fn a_withdrawn_notice_that_nobody_reads_takes_no_place() {
        let mut mailbox = Mailbox::default();
        let about = Pid::new(NodeId(1), 1).unwrap();
        for number in 0..100 {
            mailbox.push_notice(Notice {
                number,
                about,
                tag: None,
                reason: ExitReason::Trap("x".repeat(100)),
            });
            assert_eq!(
                mailbox.bytes(),
                MAILBOX_ENTRY_BYTES + 100,
                "its text counts"
            );
            mailbox.settle(|_| false);
            assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
        }
    }
}
