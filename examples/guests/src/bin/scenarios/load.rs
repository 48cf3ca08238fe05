//! Much at once: bulk, receivers that sleep or are slow, senders that have to wait, and everything
//! together for a long time.
//!
//! Payloads are numbered and stamped: each block of 4 KiB begins with its own number, so that a
//! message that comes twice, late, short or mixed with another is seen.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tidelock_guest::{
    exists, kill, link, me, monitor, monitor_node, node_id, receive, request, send, send_after,
    Data, LinkError, Monitor, NodeId, Pid, Received, Spawn, SpawnError,
};

use super::{
    echoes, ends, fails, leaves, mortal, pid, read, report, report_all, start, start_linked, tell,
    told, Dice, Line, DONE, FAILED, GO, NO_TIME, PATIENCE, RAN,
};

/// The number of a message that was taken in.
const TAKEN: i64 = 11;
/// The number of a message that was sent.
const SENT: i64 = 12;
/// A timer fired.
const LATE: i64 = 13;
/// Nobody sends this.
const NEVER: i64 = 14;

/// Time that a call is given which cannot be answered in it.
const SHORT: Option<Duration> = Some(Duration::from_millis(300));

const BLOCK: usize = 4096;

/// Makes a payload the one with this number.
fn stamp(payload: &mut [u8], number: u64) {
    for (at, block) in payload.chunks_mut(BLOCK).enumerate() {
        if let Some(place) = block.get_mut(..8) {
            place.copy_from_slice(&(number + at as u64).to_le_bytes());
        }
    }
}

fn is_stamped(payload: &[u8], number: u64) -> bool {
    let mut blocks = payload.chunks(BLOCK).enumerate();
    blocks.all(|(at, block)| block.len() < 8 || read(block) == number + at as u64)
}

/// Says the number of each message to its parent, or that it was to be another.
fn acknowledges(parent: u64) {
    let parent = pid(parent);
    let mut next = 0;
    loop {
        if let Received::Data(Data { bytes, .. }) = receive(&[], None) {
            let right = is_stamped(&bytes, next);
            tell(parent, if right { TAKEN } else { FAILED }, next);
            next += 1;
        }
    }
}

/// Sends stamped messages there for some time, `window` of them not acknowledged.
pub(super) fn bulk(node: NodeId, ms: u64, window: u64, bytes: u64) {
    let child = start_linked(node, 20, acknowledges);
    let mut payload = vec![0; bytes.max(8) as usize];
    let (mut sent, mut taken, mut wrong) = (0_u64, 0_u64, 0_u64);
    let began = Instant::now();
    loop {
        while sent - taken < window && began.elapsed() < Duration::from_millis(ms) {
            stamp(&mut payload, sent);
            send(child, GO, &payload);
            sent += 1;
        }
        if taken == sent {
            break;
        }
        match receive(&[], PATIENCE) {
            Received::Data(Data { tag, bytes }) => {
                wrong += u64::from(tag != TAKEN || read(&bytes) != taken);
                taken += 1;
            }
            other => {
                report(&other);
                break;
            }
        }
    }
    Line::new("bulk")
        .number("sent", sent)
        .number("taken", taken)
        .number("wrong", wrong)
        .number("ms", began.elapsed().as_millis())
        .say();
    kill(child);
}

// ---- a receiver that sleeps --------------------------------------------------------------------

/// Never takes what comes.
pub(super) fn sleeper() {
    Line::new("sleeping").say();
    receive(&[NEVER], None);
}

/// Links and monitors a process, sends it `count` messages, and says so once all of them are there.
pub(super) fn pile(to: Pid, count: u64, bytes: u64) {
    link(to, 21, PATIENCE).expect("it lives");
    monitor(to);
    let mut payload = vec![0; bytes.max(8) as usize];
    for number in 0..count {
        stamp(&mut payload, number);
        send(to, GO, &payload);
    }
    // The question takes the same lane, behind the messages.
    let lives = exists(to);
    Line::new("piled").number("lives", u8::from(lives)).say();
    report_all();
}

// ---- a sender that has to wait -----------------------------------------------------------------

/// Counts stamped messages until it is told how many there were.
pub(super) fn counts() {
    Line::new("counting").say();
    let (mut count, mut wrong, mut others) = (0, 0_u64, 0_u64);
    loop {
        match receive(&[], None) {
            Received::Data(Data { tag: GO, bytes }) => {
                wrong += u64::from(!is_stamped(&bytes, count));
                count += 1;
            }
            Received::Data(Data { tag: DONE, .. }) => break,
            _ => others += 1,
        }
    }
    Line::new("counted")
        .number("count", count)
        .number("wrong", wrong)
        .number("others", others)
        .say();
}

/// Has a process here send `count` messages to one there whose node takes nothing, of which
/// `free` find room; then shows what still works here, and what gives up in time.
pub(super) fn press(to: Pid, count: u64, bytes: u64, free: u64) {
    fn sender(main: u64) {
        let main = pid(main);
        let (to, count, bytes, free) = (pid(told(GO)), told(GO), told(GO), told(GO));
        let mut payload = vec![0; bytes as usize];
        for number in 0..count {
            stamp(&mut payload, number);
            if number == free {
                let late = Duration::from_millis(200);
                send_after(main, LATE, &number.to_le_bytes(), late);
            }
            send(to, GO, &payload);
            tell(main, SENT, number);
        }
        send(to, DONE, &[]);
        tell(main, DONE, count);
    }
    let sender = start(node_id(), sender);
    for word in [to.raw(), count, bytes, free] {
        tell(sender, GO, word);
    }
    for number in 0..free {
        assert_eq!(told(SENT), number);
    }
    told(LATE);
    let line = Line::new("late");

    // Whoever waits for that node gives up when it said it would.
    let linked = link(to, 22, SHORT);
    let spawn = Spawn::new().on(to.node()).within(SHORT);
    let spawned = spawn.start(mortal, me().raw());
    let asked = request(to, 23, &0_u64.to_le_bytes(), 24, SHORT);
    let line = line
        .number("link", u8::from(linked == Err(LinkError::TimedOut)))
        .number(
            "spawn",
            u8::from(matches!(spawned, Err(SpawnError::TimedOut(_)))),
        )
        .number("request", u8::from(asked == Received::Timeout));

    // And who has nothing to do with it is not held up.
    let echo = start_linked(node_id(), 25, echoes);
    for number in 0..1000 {
        tell(echo, GO, number);
    }
    let back = (0..1000).filter(|number| told(GO) == *number).count();
    kill(echo);
    // Its link.
    receive(&[25], PATIENCE);
    let more = receive(&[SENT, DONE], NO_TIME);
    line.number("back", back)
        .number("waits", u8::from(more == Received::Timeout))
        .say();

    for number in free..count {
        assert_eq!(told(SENT), number);
    }
    Line::new("pressed").number("count", told(DONE)).say();
}

// ---- receivers that are too slow ---------------------------------------------------------------

/// Takes its time for each message.
fn slow(parent: u64) {
    let parent = pid(parent);
    let mut next = 0;
    loop {
        match receive(&[], None) {
            Received::Data(Data { tag: DONE, .. }) => return tell(parent, DONE, next),
            Received::Data(Data { tag, bytes }) => {
                if !is_stamped(&bytes, next) {
                    tell(parent, FAILED, next);
                } else if tag == RAN {
                    tell(parent, TAKEN, next);
                }
                next += 1;
                super::spin(20_000);
            }
            _ => {}
        }
    }
}

/// What one sender of an overload has seen.
#[derive(Default)]
struct Overload {
    sent: u64,
    taken: u64,
    wrong: u64,
    /// Receivers that ended because their mailboxes were full, and otherwise.
    full: u64,
    otherwise: u64,
    links: u64,
}

impl Overload {
    /// Books what comes; `true` if it says that the present receiver has ended.
    fn book(&mut self, received: &Received) -> bool {
        match received {
            Received::Data(Data { tag: TAKEN, .. }) => self.taken += 1,
            Received::Data(_) => self.wrong += 1,
            Received::LinkDied(_) => self.links += 1,
            Received::Down(down) => {
                let full = down.reason.to_string() == "mailbox full";
                self.full += u64::from(full);
                self.otherwise += u64::from(!full);
                return true;
            }
            Received::NodeDown(_) => self.otherwise += 1,
            Received::Timeout => {}
        }
        false
    }
}

/// Sends there for some time what a slow process takes. Without a `window` it outruns that process, and
/// finds another one whenever it is told of the end; with one it does not.
pub(super) fn overload(node: NodeId, ms: u64, window: u64, bytes: u64) {
    let mut payload = vec![0; bytes.max(8) as usize];
    let tag = if window > 0 { RAN } else { GO };
    let mut all = Overload::default();
    let (mut receivers, mut lost) = (0_u64, 0_u64);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(ms) {
        let child = start_linked(node, 26, slow);
        let watch = monitor(child);
        receivers += 1;
        let mut number = 0;
        all.taken = 0;
        let ended = loop {
            if began.elapsed() >= Duration::from_millis(ms) {
                break false;
            }
            let wait = if window > 0 && number - all.taken >= window {
                PATIENCE
            } else {
                NO_TIME
            };
            let received = receive(&[], wait);
            if all.book(&received) {
                break true;
            }
            if received == Received::Timeout {
                stamp(&mut payload, number);
                send(child, tag, &payload);
                number += 1;
                all.sent += 1;
            }
        };
        if !ended {
            lost += last_words(&mut all, child, watch, number);
        }
    }
    while let received @ (Received::LinkDied(_) | Received::Down(_)) = receive(&[], SHORT) {
        all.book(&received);
    }
    Line::new("overload")
        .number("receivers", receivers)
        .number("sent", all.sent)
        .number("full", all.full)
        .number("otherwise", all.otherwise)
        .number("links", all.links)
        .number("wrong", all.wrong)
        .number("lost", lost)
        .say();
}

/// Asks the last receiver how many messages it took of those sent, and returns how many are missing.
fn last_words(all: &mut Overload, child: Pid, watch: Monitor, sent: u64) -> u64 {
    tell(child, DONE, sent);
    loop {
        match receive(&[], PATIENCE) {
            Received::Data(Data { tag: DONE, bytes }) => {
                // It has nothing left to do.
                let end = receive(&[], PATIENCE);
                let normal = matches!(&end, Received::Down(down) if down.reason.is_normal() && down.reference == watch.reference());
                all.otherwise += u64::from(!normal);
                return sent - read(&bytes);
            }
            Received::Timeout => return sent,
            received if all.book(&received) => return 0,
            _ => {}
        }
    }
}

// ---- everything together -----------------------------------------------------------------------

/// What one process is owed, and has been told.
#[derive(Default)]
struct Book {
    links: BTreeMap<i64, Pid>,
    downs: BTreeMap<u64, Pid>,
    /// A link whose end is news only if the node is lost before it ends normally.
    maybe: Option<i64>,
    told: u64,
    /// Told of what was not owed, or not any more, or owed otherwise.
    wrong: u64,
    /// The other node was lost; what is owed is told all the same.
    cut: bool,
    /// Data that has come and was not looked at.
    data: VecDeque<Data>,
}

impl Book {
    fn enter(&mut self, received: Received) {
        match received {
            Received::LinkDied(died) => {
                let lost = died.reason.is_node_down() && self.maybe == Some(died.tag);
                if lost {
                    self.maybe = None;
                }
                let owed = lost || self.links.remove(&died.tag) == Some(died.pid);
                self.told += u64::from(owed);
                self.wrong += u64::from(!owed);
            }
            Received::Down(down) => {
                let owed = self.downs.remove(&down.reference) == Some(down.pid);
                self.told += u64::from(owed);
                self.wrong += u64::from(!owed);
            }
            Received::NodeDown(_) => {
                // What is owed now may be of the next session already.
                self.wrong += u64::from(self.cut);
                self.told += 1;
                self.cut = true;
            }
            Received::Data(data) => self.data.push_back(data),
            Received::Timeout => self.wrong += 1,
        }
    }

    /// The next message; `None` once the node is lost.
    fn data(&mut self) -> Option<Data> {
        while self.data.is_empty() && !self.cut {
            let received = receive(&[], PATIENCE);
            if received == Received::Timeout {
                self.wrong += 1;
                return None;
            }
            self.enter(received);
        }
        self.data.pop_front()
    }

    /// Waits until all that is owed was told.
    fn settle(&mut self) {
        while !self.links.is_empty() || !self.downs.is_empty() {
            match receive(&[], PATIENCE) {
                Received::Timeout => break,
                received => self.enter(received),
            }
        }
    }
}

/// For some time, or until that node is lost, has processes there that are spawned, linked,
/// monitored, sent to, and that end in every way.
pub(super) fn churn(node: NodeId, ms: u64, seed: u64) {
    let mut dice = Dice(seed | 1);
    let mut book = Book::default();
    let (mut rounds, mut messages, mut bulk_bytes) = (0_u64, 0_u64, 0_u64);
    monitor_node(node);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(ms) && !book.cut {
        let way = dice.roll(6);
        let entry = match way {
            0 => ends,
            1 => fails,
            2 => leaves,
            3 => mortal,
            4 => echoes,
            _ => acknowledges,
        };
        let tag = 1000 + rounds as i64;
        let spawn = Spawn::new().on(node).linked(tag);
        let Ok(child) = spawn.start(entry, me().raw()) else {
            // Its node is lost, and we are to hear of that.
            while !book.cut {
                let before = book.wrong;
                book.enter(receive(&[], PATIENCE));
                if book.wrong > before {
                    break;
                }
            }
            break;
        };
        if way > 0 {
            book.links.insert(tag, child);
        } else {
            book.maybe = Some(tag);
        }
        book.downs.insert(monitor(child).reference(), child);
        match way {
            0..=2 => tell(child, GO, 0),
            3 => {
                book.data();
                kill(child);
            }
            4 => {
                let count = 1 + dice.roll(200);
                for number in 0..count {
                    tell(child, GO, number);
                }
                for number in 0..count {
                    let Some(data) = book.data() else { break };
                    book.wrong += u64::from(read(&data.bytes) != number);
                    messages += 2;
                }
                kill(child);
            }
            _ => {
                let mut payload = vec![0; (1 + dice.roll(16 << 20)) as usize];
                stamp(&mut payload, 0);
                send(child, GO, &payload);
                if let Some(data) = book.data() {
                    book.wrong += u64::from(data.tag != TAKEN);
                    messages += 2;
                    bulk_bytes += payload.len() as u64;
                }
                kill(child);
            }
        }
        book.settle();
        book.data.clear();
        rounds += 1;
    }
    book.settle();
    // Whatever comes now was not owed.
    loop {
        match receive(&[], SHORT) {
            Received::Timeout => break,
            Received::NodeDown(_) if !book.cut => book.cut = true,
            Received::Data(_) if book.cut => {}
            _ => book.wrong += 1,
        }
    }
    Line::new("churn")
        .number("rounds", rounds)
        .number("told", book.told)
        .number("lost", book.links.len() + book.downs.len())
        .number("wrong", book.wrong)
        .number("cut", u8::from(book.cut))
        .number("messages", messages)
        .number("bulk_bytes", bulk_bytes)
        .say();
}
