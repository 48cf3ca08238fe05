//! Messages of their own streams: written one after the other, read two at a time, and delivered in the lane's order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidelock::{LinkSignal, Message, Pid};
use tidelock_proto::session::{Action, SessionError};
use tidelock_proto::wire::{BulkHead, Route};
use tokio::sync::{Semaphore, mpsc};

use super::driver::{Driver, READ_BYTES};
use super::{Live, WRITE_BYTES, progress};
use crate::lock;
use crate::transport::{Opened, TransportError, Unknown};

/// Messages held back because a bulk message of the same pair is ahead, in bytes; the bulk messages
/// that are announced and have not come count as [`BULK_COST_BYTES`] each.
pub(super) const HELD_BYTES_MAX: usize = 64 << 20;
/// What one pair may have behind its bulk messages before its own next message waits. So it takes eight such pairs
/// until anybody else waits for them.
const PAIR_BYTES_MAX: usize = HELD_BYTES_MAX / 16;
/// What keeping the place of a bulk message counts, whatever its length: a peer that announces streams and
/// never sends them, or sends empty ones that it never announces, uses up its bounds, too. A correct peer
/// has about a thousand under way at most, since it stops at [`HELD_BYTES_MAX`] of its own.
const BULK_COST_BYTES: usize = 1 << 10;
/// Bulk messages read at the same time.
pub(super) const BULK_READERS: usize = 2;
/// Bytes of bulk messages that may be complete before the lane names them.
const EARLY_BYTES_MAX: usize = 2 * HELD_BYTES_MAX;

/// A bulk message whose place in the lane is taken.
pub(crate) struct Outgoing {
    pub(super) pair: (Pid, Pid),
    pub(super) stream: u64,
    pub(super) bytes: Bytes,
}

pub(crate) type BulkOut = mpsc::UnboundedReceiver<Outgoing>;

/// What was appended to the lane behind bulk messages of the same pair, which the peer holds back until it has those.
/// It ends the session that makes it hold more than [`HELD_BYTES_MAX`], so all senders wait at the half of that, and
/// before it those whose own it is.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Those that have a bulk message under way.
    pairs: HashMap<(Pid, Pid), OfPair>,
    bytes: usize,
}

/// What of that is one pair's.
#[derive(Debug, Default)]
struct OfPair {
    /// For each bulk message that is under way, oldest first: what was appended after it.
    after: VecDeque<usize>,
    bytes: usize,
}

impl Behind {
    /// Whether everybody should wait.
    pub(super) fn is_congested(&self) -> bool {
        self.bytes > HELD_BYTES_MAX / 2
    }

    /// Whether a message of this pair should wait.
    pub(super) fn holds_up(&self, pair: (Pid, Pid)) -> bool {
        let own = self.pairs.get(&pair).map_or(0, |own| own.bytes);
        own > PAIR_BYTES_MAX || self.is_congested()
    }

    /// Something was appended. It counts if its pair has a bulk message under way.
    pub(super) fn push(&mut self, pair: (Pid, Pid), cost: usize) {
        if let Some(own) = self.pairs.get_mut(&pair)
            && let Some(last) = own.after.back_mut()
        {
            *last += cost;
            own.bytes += cost;
            self.bytes += cost;
        }
    }

    /// The place of a bulk message was appended.
    pub(super) fn push_bulk(&mut self, pair: (Pid, Pid)) {
        let own = self.pairs.entry(pair).or_default();
        own.after.push_back(BULK_COST_BYTES);
        own.bytes += BULK_COST_BYTES;
        self.bytes += BULK_COST_BYTES;
    }

    /// The peer has the oldest bulk message of a pair, and what came after it.
    fn pop(&mut self, pair: (Pid, Pid)) {
        let Some(own) = self.pairs.get_mut(&pair) else {
            return;
        };
        let cost = own.after.pop_front().unwrap_or(0);
        own.bytes -= cost;
        self.bytes -= cost;
        if own.after.is_empty() {
            self.pairs.remove(&pair);
        }
    }
}

/// Writes bulk messages one after the other, each on a stream of its own.
pub(super) async fn write_bulk(live: Arc<Live>, mut bulk: BulkOut, lease: Duration) {
    while let Some(Outgoing {
        pair,
        stream,
        bytes,
    }) = bulk.recv().await
    {
        let length = bytes.len() as u64;
        let connection = &live.connection;
        let sent = async {
            let mut lane = progress(connection, lease, connection.open_bulk(stream)).await?;
            for start in (0..bytes.len()).step_by(WRITE_BYTES) {
                let end = bytes.len().min(start + WRITE_BYTES);
                progress(connection, lease, lane.write(bytes.slice(start..end))).await?;
            }
            progress(connection, lease, lane.finish()).await
        };
        if let Err(why) = sent.await {
            live.broke(why);
            return;
        }
        lock(&live.behind).pop(pair);
        live.bulk_backlog.fetch_sub(length, Ordering::Relaxed);
        live.drained.notify_waiters();
    }
}

/// A signal or message that waits behind a bulk message of the same pair.
pub(super) enum Held {
    Action(Action),
    Bulk(Route, Option<i64>, BulkHead),
}

impl Held {
    /// What keeping it counts.
    pub(super) fn cost(&self) -> usize {
        match self {
            Held::Action(Action::Message(_, _, payload)) => message_cost(payload.len()),
            Held::Action(Action::Deliver(_, signal)) => signal_cost(signal),
            Held::Action(_) => 128,
            Held::Bulk(..) => BULK_COST_BYTES,
        }
    }
}

/// What holding a message back counts.
pub(super) fn message_cost(bytes: usize) -> usize {
    bytes + 64
}

/// What holding a signal back counts.
pub(super) fn signal_cost(signal: &LinkSignal) -> usize {
    match signal {
        LinkSignal::Exit { reason, .. } | LinkSignal::Down { reason, .. } => {
            128 + reason.text_bytes()
        }
        _ => 128,
    }
}

impl Driver {
    /// The lane has come to a bulk message, and nothing of its pair is ahead of it.
    pub(super) fn bulk_named(
        &mut self,
        route: Route,
        tag: Option<i64>,
        head: BulkHead,
    ) -> Result<(), SessionError> {
        let Some(data) = self.early_bulk.remove(&head.stream) else {
            let pair = (route.from, route.to);
            if self.awaited.insert(head.stream, pair).is_some() {
                return Err(SessionError::Misbehaved(
                    "a bulk stream carries one message".into(),
                ));
            }
            let held = Held::Bulk(route, tag, head);
            self.held_bytes += held.cost();
            self.held.entry(pair).or_default().push_front(held);
            return self.check_held();
        };
        self.early_bytes -= early_cost(&data);
        if data.len() as u64 != head.bytes {
            return Err(SessionError::Misbehaved(
                "a bulk stream carries as many bytes as were announced".into(),
            ));
        }
        let message = Message::new(tag, data);
        self.env
            .deliver_messages(route.environ, route.to, [message]);
        Ok(())
    }

    pub(super) fn check_held(&self) -> Result<(), SessionError> {
        if self.held_bytes > HELD_BYTES_MAX {
            return Err(SessionError::Backlog(self.held_bytes));
        }
        Ok(())
    }

    /// A bulk stream is complete. If it is awaited, what was held behind it goes on.
    pub(super) fn bulk_arrived(&mut self, stream: u64, bytes: Bytes) -> Result<(), SessionError> {
        self.early_bytes += early_cost(&bytes);
        lock(&self.announced).remove(&stream);
        if self.early_bytes > EARLY_BYTES_MAX || self.early_bulk.insert(stream, bytes).is_some() {
            return Err(SessionError::Misbehaved(
                "a bulk stream is named in the lane".into(),
            ));
        }
        let Some(pair) = self.awaited.remove(&stream) else {
            return Ok(());
        };
        let mut queue = self.held.remove(&pair).unwrap_or_default();
        while let Some(held) = queue.pop_front() {
            self.held_bytes -= held.cost();
            match held {
                Held::Bulk(route, tag, head) => {
                    self.bulk_named(route, tag, head)?;
                    // It has not come, and is the first again: what is behind it stays behind it.
                    if let Some(first) = self.held.get_mut(&pair).and_then(VecDeque::pop_front) {
                        queue.push_front(first);
                        self.held.insert(pair, queue);
                        return Ok(());
                    }
                }
                Held::Action(action) => self.act(action)?,
            }
        }
        Ok(())
    }
}

/// What keeping a bulk message that nobody awaits yet counts.
fn early_cost(bytes: &Bytes) -> usize {
    bytes.len() + BULK_COST_BYTES
}

/// How long the bulk messages are that the lane has named and whose streams are not complete. Each is one of
/// what a session holds, and counts there.
pub(super) type Announced = Arc<Mutex<HashMap<u64, u64>>>;

pub(super) async fn read_bulk(
    stream: Unknown,
    turns: Arc<Semaphore>,
    announced: Announced,
    max: usize,
    done: mpsc::Sender<Result<(u64, Bytes), SessionError>>,
) {
    let lost = |error: TransportError| SessionError::Lost(error.to_string());
    let outcome = async {
        let (number, mut reader) = match stream.identify().await.map_err(lost)? {
            Opened::Bulk(number, reader) => (number, reader),
            Opened::Lane(_) => {
                let rule = "a session has one lane each way";
                return Err(SessionError::Misbehaved(rule.into()));
            }
        };
        // The others stay with the sender: QUIC's window holds them back.
        let _turn = turns.acquire().await;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.read(READ_BYTES).await.map_err(lost)? {
            if bytes.len() + chunk.len() > max {
                let rule = format!("a bulk message is at most {max} bytes");
                return Err(SessionError::Misbehaved(rule));
            }
            if bytes.capacity() - bytes.len() < chunk.len() {
                // Growing copies, so it is done once if the lane has come to this message.
                let whole = lock(&announced).get(&number).copied().unwrap_or(0);
                let whole = usize::try_from(whole).unwrap_or(usize::MAX);
                let more = match whole.saturating_sub(bytes.len()) {
                    0 => (3 * bytes.capacity()).max(READ_BYTES),
                    rest => rest.max(chunk.len()),
                };
                bytes.reserve(more.min(max));
            }
            bytes.extend_from_slice(&chunk);
        }
        // What nobody counts is not kept.
        let tight = match bytes.capacity() / 2 > bytes.len() + BULK_COST_BYTES {
            true => Bytes::copy_from_slice(&bytes),
            false => bytes.freeze(),
        };
        Ok((number, tight))
    };
    let outcome = outcome.await;
    // If nobody listens, the session is over.
    let _: Result<(), _> = done.send(outcome).await;
}

#[cfg(test)]
mod tests {
    use tidelock::NodeId;

    use super::*;

    #[test]
    fn what_comes_after_a_bulk_message_of_its_pair_counts_until_that_is_there() {
        let pid = |number| Pid::new(NodeId(1), number).expect("a small number");
        let (one, other) = ((pid(1), pid(2)), (pid(1), pid(3)));
        let mut behind = Behind::default();
        behind.push(one, HELD_BYTES_MAX);
        assert_eq!(behind.bytes, 0, "nothing is ahead of it");
        behind.push_bulk(one);
        behind.push(one, 1000);
        behind.push(other, HELD_BYTES_MAX);
        assert_eq!(behind.bytes, BULK_COST_BYTES + 1000);
        behind.push_bulk(one);
        behind.push(one, HELD_BYTES_MAX / 2);
        assert!(behind.is_congested());
        behind.pop(one);
        assert_eq!(behind.bytes, BULK_COST_BYTES + HELD_BYTES_MAX / 2);
        behind.pop(one);
        assert!(!behind.is_congested());
        behind.push_bulk(one);
        behind.push(one, PAIR_BYTES_MAX);
        assert!(behind.holds_up(one) && !behind.holds_up(other));
        assert!(!behind.is_congested());
        behind.pop(one);
        assert!(!behind.holds_up(one));
        assert_eq!((behind.bytes, behind.pairs.len()), (0, 0));
    }
}
