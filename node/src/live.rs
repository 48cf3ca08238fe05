//! One open session: its lanes, its lease, its end.
//!
//! One task drives a session: it reads the peer's lane, carries out what the session says, keeps
//! the lease and, at the end, tells everybody. So the order of arrival is the order of delivery,
//! and nothing is delivered after the end was told. A second task writes the lane.
//!
//! # The rules of the driver
//!
//! The same rules hold for the models, which drive the same machines:
//!
//! 1. A block's change and the appending of its signals are one step under the block's lock;
//!    the session's lock is taken inside it, never the other way round.
//! 2. Actions are carried out in order before more bytes are read: one by one, but messages in a row for one process,
//!    which change nothing else, in one step. Several may be taken out of the session at once.
//! 3. *Adopt* enters the parent's half, appends Start and answers the parent in one step under the
//!    parent's lock.
//! 4. At the end: what had arrived whole is carried out, then waiting spawns, parked children and
//!    questions are answered, then every block is told; only then may another session open.

mod bulk;
mod driver;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tidelock::{Environment, ExitReason, LinkSignal, NodeId, Parked, Pid, SpawnAnswer, SpawnError};
use tidelock_proto::session::{Over, Session, SessionError};
use tidelock_proto::switch::off;
use tidelock_proto::wire::{LANE_PAYLOAD_BYTES_MAX, Route};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::bulk::{
    Behind, BulkOut, HELD_BYTES_MAX, Outgoing, message_cost, signal_cost, write_bulk,
};
use self::driver::{Driver, READ_BYTES};
use crate::lock;
use crate::modules::Fetcher;
use crate::renewal::Certificates;
use crate::transport::{Connection, LaneReader, LaneWriter, TransportError};

/// Bytes written in one step. A peer must take a step within a lease.
const WRITE_BYTES: usize = 64 << 10;
/// A spawn that waits for its answer.
pub(crate) struct Waiting {
    pub(crate) answer: oneshot::Sender<SpawnAnswer>,
    pub(crate) parent: Pid,
    pub(crate) link: Option<Option<i64>>,
}

/// Bytes of the requests for children whose modules are not there yet; one more is refused.
const MAKING_BYTES_MAX: usize = 64 << 20;

/// Children whose modules are fetched or compiled, each by a task of its own.
#[derive(Default)]
struct Making {
    tasks: HashMap<u64, (AbortHandle, usize)>,
    /// What their requests take.
    bytes: usize,
}

impl Making {
    /// Forgets one; what it made, if anything, is somebody else's.
    fn remove(&mut self, reference: u64) -> Option<AbortHandle> {
        let (task, bytes) = self.tasks.remove(&reference)?;
        self.bytes -= bytes;
        Some(task)
    }
}

/// Told in one go; then others of this thread have a turn.
const TOLD_AT_ONCE: usize = 4096;

/// One session, as everybody who sends over it sees it.
pub(crate) struct Live {
    pub(crate) peer: NodeId,
    pub(crate) epoch: u64,
    pub(crate) opened_at: SystemTime,
    pub(crate) connection: Connection,
    /// What both sides have shown, and so how long the session may last.
    pub(crate) certificates: Certificates,
    session: Mutex<Session>,
    /// The outgoing lane has bytes.
    unsent: Notify,
    /// The backlog has shrunk, or the session is over.
    pub(crate) drained: Notify,
    /// There may be actions that no bytes brought.
    pub(crate) poked: Notify,
    /// Somebody wants the session to end, and why.
    ending: Notify,
    verdict: Mutex<Option<SessionError>>,
    /// Why nothing more can be written. What the peer has sent still counts.
    broken: Mutex<Option<SessionError>>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    parked: Mutex<BTreeMap<u64, Parked>>,
    /// Children whose modules are not there yet.
    making: Mutex<Making>,
    queries: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    bulk_out: mpsc::UnboundedSender<Outgoing>,
    bulk_backlog: AtomicU64,
    /// What the peer holds back because of bulk messages that it does not have yet.
    behind: Mutex<Behind>,
    /// As many as the session has, for whoever need not lock it.
    locals: AtomicUsize,
    /// Whether the session is over or congested, for whoever need not lock it.
    is_shut: AtomicBool,
    rtt_ns: AtomicU64,
    /// Everybody has been told of the end.
    done: AtomicBool,
    told: Notify,
}

/// What a session's task needs to run.
pub(crate) struct Drive {
    pub(crate) env: Environment,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) lease: Duration,
    pub(crate) lane_in: LaneReader,
    /// Bytes that followed the Hello.
    pub(crate) early: BytesMut,
    pub(crate) lane_out: LaneWriter,
    pub(crate) draining: watch::Receiver<bool>,
}

impl Live {
    pub(crate) fn new(
        session: Session,
        certificates: Certificates,
        connection: Connection,
    ) -> (Arc<Self>, BulkOut) {
        let (bulk_out, bulk) = mpsc::unbounded_channel();
        let live = Live {
            peer: session.peer(),
            epoch: session.epoch(),
            opened_at: SystemTime::now(),
            connection,
            certificates,
            session: Mutex::new(session),
            unsent: Notify::new(),
            drained: Notify::new(),
            poked: Notify::new(),
            ending: Notify::new(),
            verdict: Mutex::default(),
            broken: Mutex::default(),
            waiting: Mutex::default(),
            parked: Mutex::default(),
            making: Mutex::default(),
            queries: Mutex::default(),
            bulk_out,
            bulk_backlog: AtomicU64::new(0),
            behind: Mutex::default(),
            locals: AtomicUsize::new(0),
            is_shut: AtomicBool::new(false),
            rtt_ns: AtomicU64::new(0),
            done: AtomicBool::new(false),
            told: Notify::new(),
        };
        (Arc::new(live), bulk)
    }

    /// Runs something on the session and wakes the writer if there is something to write.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Session) -> T) -> T {
        let mut session = lock(&self.session);
        let before = session.unsent();
        let value = change(&mut session);
        let (after, overrun) = (session.unsent(), session.is_overrun());
        let locals = session.locals();
        // Others look at what lies beside it with each message, and would have to fetch it anew.
        if locals != self.locals.load(Ordering::Relaxed) {
            self.locals.store(locals, Ordering::Relaxed);
        }
        self.note_shut(&session);
        drop(session);
        if before == 0 && after > 0 {
            self.unsent.notify_one();
        }
        if overrun {
            self.end(SessionError::Backlog(after));
        }
        value
    }

    /// Notes whether the session takes frames of guests. Follows each change of that, under the session's lock.
    fn note_shut(&self, session: &Session) {
        let is_shut = session.is_over() || session.is_congested();
        if is_shut != self.is_shut.load(Ordering::Relaxed) {
            self.is_shut.store(is_shut, Ordering::Release);
        }
    }

    /// Whether a frame that a guest makes may be appended now.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_shut.load(Ordering::Acquire) && !self.is_behind()
    }

    /// As [`Live::is_open`], for a message of so many bytes.
    pub(crate) fn takes(&self, pair: (Pid, Pid), bytes: usize) -> bool {
        let session = lock(&self.session);
        !session.is_over() && !self.holds_up(&session, pair, bytes)
    }

    fn is_congested(&self, session: &Session) -> bool {
        session.is_congested() || self.is_behind()
    }

    /// Whether as much waits behind bulk messages as may.
    fn is_behind(&self) -> bool {
        self.bulk_backlog.load(Ordering::Relaxed) > 0 && lock(&self.behind).is_congested()
    }

    /// Whether a message should wait: as everything does, and for what waits behind bulk messages of its own pair. A
    /// bulk message waits for others of its kind, too, and nothing else does.
    pub(crate) fn holds_up(&self, session: &Session, pair: (Pid, Pid), bytes: usize) -> bool {
        if session.is_congested() {
            return true;
        }
        let is_bulk = bytes > LANE_PAYLOAD_BYTES_MAX;
        match self.bulk_backlog.load(Ordering::Relaxed) {
            0 => false,
            backlog if is_bulk && backlog > HELD_BYTES_MAX as u64 => true,
            _ => lock(&self.behind).holds_up(pair),
        }
    }

    /// Notes what was appended to the lane: the peer holds it back if a bulk message of the pair is under way.
    fn appended(&self, route: &Route, cost: impl FnOnce() -> usize) {
        if self.bulk_backlog.load(Ordering::Relaxed) > 0 {
            lock(&self.behind).push((route.from, route.to), cost());
        }
    }

    /// Appends a message, in a step of the session.
    pub(crate) fn message(
        &self,
        session: &mut Session,
        route: &Route,
        tag: Option<i64>,
        data: &[u8],
    ) -> Result<(), Over> {
        session.message(route, tag, data)?;
        self.appended(route, || message_cost(data.len()));
        Ok(())
    }

    /// Appends what a local block says, in a step of the session.
    pub(crate) fn signal(
        &self,
        session: &mut Session,
        route: &Route,
        signal: &LinkSignal,
    ) -> Result<(), Over> {
        session.signal(route.environ, route.from, route.to, signal)?;
        self.appended(route, || signal_cost(signal));
        Ok(())
    }

    pub(crate) fn is_over(&self) -> bool {
        lock(&self.session).is_over()
    }

    /// Asks the session's task to end the session. The first reason counts.
    pub(crate) fn end(&self, why: SessionError) {
        lock(&self.verdict).get_or_insert(why);
        self.ending.notify_one();
    }

    /// Notes that nothing more can be written. The session's task ends it when it has read what the peer had sent.
    fn broke(&self, why: SessionError) {
        lock(&self.broken).get_or_insert(why);
        self.ending.notify_one();
    }

    /// Says goodbye and ends the session once everything is on its way. Bulk messages are with the peer before it hears
    /// the goodbye: after that it waits for nothing from here.
    pub(crate) async fn leave(&self, patience: Duration) {
        let bulk = |live: &Self| live.bulk_backlog.load(Ordering::Relaxed) > 0;
        // On a slow network they take longer: then the peer has it as a goodbye all the same.
        let _: Result<(), _> = tokio::time::timeout(patience, self.drain(bulk)).await;
        // What somebody sends in between is waited for here, and by the peer.
        self.with(Session::goodbye);
        self.drain(|live| live.backlog() > 0).await;
        self.end(SessionError::Left);
        self.ended().await;
    }

    /// Waits until nothing is left of something, or the session is over.
    async fn drain(&self, some: impl Fn(&Self) -> bool) {
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.is_over() || !some(self) {
                return;
            }
            drained.await;
        }
    }

    /// Waits until everybody has been told of the end. Those who wait go on in the order in which they began to.
    pub(crate) async fn ended(&self) {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            if self.done.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }

    /// Everybody has been told of the end, and another session may open.
    pub(crate) fn is_told(&self) {
        self.done.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_nanos(self.rtt_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn backlog(&self) -> u64 {
        lock(&self.session).backlog() as u64 + self.bulk_backlog.load(Ordering::Relaxed)
    }

    fn has_unsent(&self) -> bool {
        lock(&self.session).unsent() > 0
    }

    /// Local processes that must hear of the end of this session.
    pub(crate) fn locals(&self) -> usize {
        self.locals.load(Ordering::Relaxed)
    }

    /// A local process ended. Costs next to nothing where no process has to do with the peer.
    pub(crate) fn forget(&self, local: Pid) {
        // What a process did before its end is seen here.
        if self.locals() > 0 {
            self.with(|session| session.forget(local));
        }
    }

    /// Sends the bytes of a bulk message whose place in the lane is taken, in the same step.
    pub(crate) fn send_bulk(&self, route: &Route, stream: u64, bytes: Bytes) {
        let pair = (route.from, route.to);
        lock(&self.behind).push_bulk(pair);
        self.bulk_backlog
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // If nobody takes it, the session is over.
        let _: Result<(), _> = self.bulk_out.send(Outgoing {
            pair,
            stream,
            bytes,
        });
    }

    pub(crate) fn wait_for_spawn(&self, reference: u64, waiting: Waiting) {
        lock(&self.waiting).insert(reference, waiting);
    }

    pub(crate) fn forget_spawn(&self, reference: u64) {
        lock(&self.waiting).remove(&reference);
    }

    pub(crate) fn wait_for_answer(&self, reference: u64, answer: oneshot::Sender<bool>) {
        lock(&self.queries).insert(reference, answer);
    }

    /// Drives the session to its end and returns why it ended.
    pub(crate) async fn drive(self: Arc<Self>, drive: Drive, bulk: BulkOut) -> SessionError {
        let Drive {
            env,
            fetcher,
            lease,
            mut lane_in,
            early,
            lane_out,
            draining,
        } = drive;
        let writer = tokio::spawn(write_lane(self.clone(), lane_out, lease));
        let bulk_writer = tokio::spawn(write_bulk(self.clone(), bulk, lease));
        let server = tokio::spawn(fetcher.clone().serve(self.connection.clone(), env.clone()));
        let mut driver = Driver::new(self.clone(), env.clone(), fetcher, draining);
        let why = driver.run(&mut lane_in, early, lease).await;
        let why = match why {
            why if why.is_left() => why,
            why => lock(&self.verdict).take().unwrap_or(why),
        };
        self.tell(&env, &why).await;
        if off("nothing of an ended session is taken in") {
            tokio::spawn(async move {
                while let Ok(Some(bytes)) = lane_in.read(READ_BYTES).await
                    && driver.take_in(&[bytes]).await.is_ok()
                {}
            });
            return why;
        }
        self.unsent.notify_one();
        server.abort();
        // The writer ends by itself: after our Goodbye it still has to see it acknowledged, before the peer hears of what is given up
        // of bulk. Whoever has said its own needs nothing more from here.
        if why == SessionError::Left && driver.over.is_none() {
            let _: Result<_, _> = tokio::time::timeout(lease, writer).await;
        } else {
            writer.abort();
        }
        bulk_writer.abort();
        self.connection.close(&why.to_string());
        self.drained.notify_waiters();
        why
    }

    /// Tells everybody that the session has ended, once. The lease of other sessions runs meanwhile, on the same
    /// thread.
    async fn tell(&self, env: &Environment, why: &SessionError) {
        let node = self.peer;
        let how = why.to_string();
        let ending = {
            let mut session = lock(&self.session);
            let ending = session.end();
            self.note_shut(&session);
            ending
        };
        for reference in ending.asks {
            if let Some(waiting) = lock(&self.waiting).remove(&reference) {
                let how = how.clone();
                // A parent that has given up needs no answer.
                let _: Result<(), _> = waiting
                    .answer
                    .send(Err(SpawnError::Unreachable { node, how }));
            }
        }
        lock(&self.waiting).clear();
        let making = std::mem::take(&mut *lock(&self.making));
        for (task, _) in making.tasks.values() {
            task.abort();
        }
        // Dropping them ends the children, unrun. What is being prepared is dropped when ready.
        let parked = std::mem::take(&mut *lock(&self.parked));
        drop(parked);
        lock(&self.queries).clear();
        let reason = ExitReason::NodeDown { node, how };
        let (began, processes) = (Instant::now(), ending.locals.len());
        for (told, local) in ending.locals.into_iter().enumerate() {
            if told > 0 && told.is_multiple_of(TOLD_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            if off("a lost session is told") {
                continue;
            }
            env.session_lost(local, node, &reason);
        }
        let ms = began.elapsed().as_micros() as f64 / 1e3;
        tracing::info!(peer = %node, processes, ms, "all who had to do with its processes were told");
    }
}

/// Writes the lane: everything that was appended since the last write, at once.
async fn write_lane(live: Arc<Live>, mut lane: LaneWriter, lease: Duration) {
    loop {
        let next = lock(&live.session).poll_transmit();
        let Some(bytes) = next else {
            if live.is_over() {
                // After a Goodbye: until the peer has acknowledged all of it.
                let _: Result<(), TransportError> = lane.finish().await;
                return;
            }
            live.drained.notify_waiters();
            live.unsent.notified().await;
            continue;
        };
        let length = bytes.len();
        let bytes = Bytes::from(bytes);
        for start in (0..length).step_by(WRITE_BYTES) {
            let end = length.min(start + WRITE_BYTES);
            if let Err(why) =
                progress(&live.connection, lease, lane.write(bytes.slice(start..end))).await
            {
                live.broke(why);
                return;
            }
            let was = {
                let mut session = lock(&live.session);
                let was = live.is_congested(&session);
                session.transmitted(end - start);
                live.note_shut(&session);
                was && !live.is_congested(&session)
            };
            if was {
                live.drained.notify_waiters();
            }
        }
    }
}

/// Waits for one step of writing, until nothing at all was written to the peer for a lease: one that
/// answers Pings and takes nothing is no use to anybody.
///
/// The step itself may take longer. It ends with what the peer has read or acknowledged, and on a slow or
/// lossy network that is up to a megabyte away; as long as bytes of any stream leave, they are let
/// out by answers to earlier ones. A peer that reads nothing has given no room for more, and a
/// network that carries nothing ends the session by its lease.
async fn progress<T>(
    connection: &Connection,
    lease: Duration,
    step: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, SessionError> {
    let lost = |error: TransportError| SessionError::Lost(error.to_string());
    let mut step = std::pin::pin!(step);
    // Nearly all are done at once, and nothing was counted for them: that takes the lock of the connection.
    if let Poll::Ready(done) = futures_util::poll!(step.as_mut()) {
        return done.map_err(lost);
    }
    loop {
        let written = connection.writes();
        match tokio::time::timeout(lease, step.as_mut()).await {
            Ok(done) => return done.map_err(lost),
            Err(_) if connection.writes() != written => {}
            Err(_) => {
                let lease = lease.as_millis();
                let why = format!("the peer took nothing for the lease of {lease} ms");
                return Err(SessionError::Lost(why));
            }
        }
    }
}
