//! Bytes to other processes, and the mailbox.

use std::fmt;
use std::time::Duration;

use crate::{NodeId, Pid, sys};

/// What [`receive`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message of a process.
    Data(Data),
    /// A linked process ended other than normally, and this process traps such ends.
    LinkDied(LinkDied),
    /// A monitored process ended.
    Down(Down),
    /// A monitored node is gone.
    NodeDown(NodeDown),
    /// Nothing that fits came within the time.
    Timeout,
}

/// A message of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// The tag it was sent with; 0 is none.
    pub tag: i64,
    /// What was sent.
    pub bytes: Vec<u8>,
}

/// The end of a linked process. The link is gone with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkDied {
    /// Who ended.
    pub pid: Pid,
    /// The tag of the link on this side; 0 is none.
    pub tag: i64,
    /// Why.
    pub reason: Reason,
}

/// The end of a monitored process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Who ended.
    pub pid: Pid,
    /// What [`monitor`](crate::monitor) returned.
    pub reference: u64,
    /// Why.
    pub reason: Reason,
}

/// The loss of a monitored node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDown {
    /// Which node.
    pub node: NodeId,
    /// What [`monitor_node`](crate::monitor_node) returned.
    pub reference: u64,
}

/// Why a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// 0 normal, 101 trap, 137 killed, 255 its node is gone, 254 there was no such process;
    /// otherwise the code the process left with.
    pub code: i32,
    /// The same for people.
    pub text: String,
}

impl Reason {
    /// Whether the process is gone because its node is.
    pub fn is_node_down(&self) -> bool {
        self.code == 255
    }

    /// Whether there was no such process in the first place.
    pub fn is_no_process(&self) -> bool {
        self.code == 254
    }

    /// Whether the process ended because it was done.
    pub fn is_normal(&self) -> bool {
        self.code == 0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Sends bytes. Tag 0 sends them without one.
///
/// It makes no difference whether `to` is on this node. If `to` has ended, nothing happens.
///
/// # Ordering
///
/// What this process sends to one other arrives in the order sent. When the node of `to`
/// takes in less than it is sent, this call waits.
pub fn send(to: Pid, tag: i64, bytes: &[u8]) {
    sys::send(to.raw(), tag, bytes);
}

/// Sends bytes and waits for a message tagged `reply_tag` that arrives after this call began.
///
/// What is already in the mailbox is not looked at, so the wait costs the same however
/// much lies there. `None` waits for ever.
pub fn request(
    to: Pid,
    tag: i64,
    bytes: &[u8],
    reply_tag: i64,
    timeout: Option<Duration>,
) -> Received {
    let timeout = milliseconds(timeout);
    received(sys::request(to.raw(), tag, bytes, reply_tag, timeout))
}

/// Takes the first message from the mailbox whose tag is one of `tags`; any at all if `tags`
/// is empty. The others stay, in order.
///
/// Messages without a tag, [`Received::Down`] and [`Received::NodeDown`] match no list but
/// the empty one. Waits at most `timeout`: `None` waits for ever, zero does not wait.
pub fn receive(tags: &[i64], timeout: Option<Duration>) -> Received {
    received(sys::receive(tags, milliseconds(timeout)))
}

/// What a handler says of the messages to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Call it with the next one.
    Continue,
    /// The process ends normally.
    Stop,
}

/// Handles messages instead of receiving them: when the first function of this process has
/// returned, `handler` is called with each message, in order, and the process waits in between
/// without a stack of its own. It takes less memory and time than one that waits in
/// [`receive`]; the rest is the same, links and monitors included.
///
/// `handler` may itself wait, for a [`request`] or a message by tag. It is never called with
/// [`Received::Timeout`]. A second call puts another handler in place of the first, whose state
/// is not dropped.
///
/// ```no_run
/// use tidelock_guest::{Next, Received, handle};
///
/// fn count(_: u64) {
///     handle(0_u64, |seen, received| {
///         if matches!(received, Received::Data(_)) {
///             *seen += 1;
///         }
///         if *seen == 1000 { Next::Stop } else { Next::Continue }
///     });
/// }
/// ```
///
/// Whatever `state` borrows lives as long as the process: the stack of this call is gone by then.
pub fn handle<S: 'static>(mut state: S, handler: fn(&mut S, Received) -> Next) {
    sys::handle(move |kind| {
        let (tag, bytes) = match kind {
            0 => sys::take_message(),
            _ => (0, Vec::new()),
        };
        handler(&mut state, received((kind, tag, bytes))) == Next::Continue
    });
}

/// Names a message that is still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId(u64);

/// Sends bytes after a while, even if this process has ended by then.
pub fn send_after(to: Pid, tag: i64, bytes: &[u8], delay: Duration) -> TimerId {
    sys::write_message(tag, bytes);
    TimerId(sys::send_after(to.raw(), milliseconds(Some(delay))))
}

/// Takes a timed message back. `false` if it was sent already.
pub fn cancel_timer(timer: TimerId) -> bool {
    sys::cancel_timer(timer.0)
}

/// Turns what the host gave, or put in the slot, into a value.
fn received((kind, tag, bytes): sys::Kind) -> Received {
    match kind {
        0 => Received::Data(Data { tag, bytes }),
        1 => Received::LinkDied(LinkDied {
            pid: Pid::from_raw(sys::died_pid()).expect("a link is to a process"),
            tag: sys::tag(),
            reason: reason(),
        }),
        2 => Received::Down(Down {
            pid: Pid::from_raw(sys::died_pid()).expect("a monitor is of a process"),
            reference: sys::died_reference(),
            reason: reason(),
        }),
        3 => Received::NodeDown(NodeDown {
            node: NodeId(sys::died_pid()),
            reference: sys::died_reference(),
        }),
        _ => Received::Timeout,
    }
}

fn reason() -> Reason {
    Reason {
        code: sys::exit_code(),
        text: sys::exit_reason(),
    }
}

/// A time limit as the host counts it: whole milliseconds, rounded up; -1 is no limit.
pub(crate) fn milliseconds(limit: Option<Duration>) -> i64 {
    match limit {
        None => -1,
        Some(limit) => i64::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX),
    }
}
