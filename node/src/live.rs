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
//! 2. Actions are carried out one by one, in order, before more bytes are read.
//! 3. *Adopt* enters the parent's half, appends Start and answers the parent in one step under the
//!    parent's lock.
//! 4. At the end: what had arrived whole is carried out, then waiting spawns, parked children and
//!    questions are answered, then every block is told; only then may another session open.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tidelock::{
    Environment, ExitReason, LentThread, Message, NodeId, Parked, Pid, Refusal, SpawnAnswer,
    SpawnError,
};
use tidelock_proto::lease::{Lease, Verdict};
use tidelock_proto::session::{Action, Session, SessionError};
use tidelock_proto::switch::off;
use tidelock_proto::wire::{BulkHead, Datagram, Route};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::lock;
use crate::modules::Fetcher;
use crate::renewal::Certificates;
use crate::spin::Spin;
use crate::transport::{Connection, LaneReader, LaneWriter, Opened, TransportError, Unknown};

/// Bytes read from the lane before anything else gets its turn.
const READ_BYTES: usize = 256 << 10;
/// Bytes written in one step. A peer must take a step within a lease.
const WRITE_BYTES: usize = 64 << 10;
/// Messages held back because a bulk message of the same pair is ahead, in bytes; the bulk messages
/// that are announced and have not come count as [`BULK_COST_BYTES`] each.
const HELD_BYTES_MAX: usize = 64 << 20;
/// What keeping the place of a bulk message counts, whatever its length: a peer that announces streams and
/// never sends them, or sends empty ones that it never announces, uses up its bounds, too. A correct peer
/// has about a thousand under way at most, since it stops at [`HELD_BYTES_MAX`] of its own.
const BULK_COST_BYTES: usize = 1 << 10;
/// Bulk messages read at the same time.
const BULK_READERS: usize = 2;
/// Bytes of bulk messages that may be complete before the lane names them.
const EARLY_BYTES_MAX: usize = 2 * HELD_BYTES_MAX;

/// A spawn that waits for its answer.
pub(crate) struct Waiting {
    pub(crate) answer: oneshot::Sender<SpawnAnswer>,
    pub(crate) parent: Pid,
    pub(crate) link: Option<Option<i64>>,
}

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
    waiting: Mutex<HashMap<u64, Waiting>>,
    parked: Mutex<BTreeMap<u64, Parked>>,
    queries: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    bulk_out: mpsc::UnboundedSender<(u64, Bytes)>,
    bulk_backlog: AtomicU64,
    /// As many as the session has, for whoever need not lock it.
    locals: AtomicUsize,
    rtt_ns: AtomicU64,
    /// Becomes true when everybody has been told of the end.
    pub(crate) done: watch::Sender<bool>,
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

type BulkOut = mpsc::UnboundedReceiver<(u64, Bytes)>;

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
            waiting: Mutex::default(),
            parked: Mutex::default(),
            queries: Mutex::default(),
            bulk_out,
            bulk_backlog: AtomicU64::new(0),
            locals: AtomicUsize::new(0),
            rtt_ns: AtomicU64::new(0),
            done: watch::Sender::new(false),
        };
        (Arc::new(live), bulk)
    }

    /// Runs something on the session and wakes the writer if there is something to write.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Session) -> T) -> T {
        let mut session = lock(&self.session);
        let before = session.unsent();
        let value = change(&mut session);
        let (after, overrun) = (session.unsent(), session.is_overrun());
        self.locals.store(session.locals(), Ordering::Relaxed);
        drop(session);
        if before == 0 && after > 0 {
            self.unsent.notify_one();
        }
        if overrun {
            self.end(SessionError::Backlog(after));
        }
        value
    }

    /// Whether a frame that a guest makes may be appended now.
    pub(crate) fn is_open(&self) -> bool {
        let session = lock(&self.session);
        !session.is_over() && !self.is_congested(&session)
    }

    fn is_congested(&self, session: &Session) -> bool {
        session.is_congested() || self.bulk_backlog.load(Ordering::Relaxed) > HELD_BYTES_MAX as u64
    }

    pub(crate) fn is_over(&self) -> bool {
        lock(&self.session).is_over()
    }

    /// Asks the session's task to end the session. The first reason counts.
    pub(crate) fn end(&self, why: SessionError) {
        lock(&self.verdict).get_or_insert(why);
        self.ending.notify_one();
    }

    /// Says goodbye and ends the session once everything is on its way.
    pub(crate) async fn leave(&self) {
        self.with(Session::goodbye);
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.is_over() || self.backlog() == 0 {
                break;
            }
            drained.await;
        }
        self.end(SessionError::Left);
        self.ended().await;
    }

    /// Waits until everybody has been told of the end.
    pub(crate) async fn ended(&self) {
        let mut done = self.done.subscribe();
        // The sender lives as long as this session.
        let _: Result<_, _> = done.wait_for(|done| *done).await;
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

    /// Sends the bytes of a bulk message whose place in the lane is taken.
    pub(crate) fn send_bulk(&self, stream: u64, bytes: Bytes) {
        self.bulk_backlog
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        // If nobody takes it, the session is over.
        let _: Result<(), _> = self.bulk_out.send((stream, bytes));
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
        let mut driver = Driver {
            live: self.clone(),
            env: env.clone(),
            fetcher,
            draining,
            held: HashMap::new(),
            held_bytes: 0,
            awaited: HashMap::new(),
            announced: Arc::default(),
            early_bulk: HashMap::new(),
            early_bytes: 0,
        };
        let why = driver.run(&mut lane_in, early, lease).await;
        let why = lock(&self.verdict).take().unwrap_or(why);
        self.tell(&env, &why);
        if off("nothing of an ended session is taken in") {
            tokio::spawn(async move {
                while let Ok(Some(bytes)) = lane_in.read(READ_BYTES).await
                    && driver.take_in(&bytes).await.is_ok()
                {}
            });
            return why;
        }
        self.unsent.notify_one();
        server.abort();
        bulk_writer.abort();
        // The writer ends by itself: after a Goodbye it still has to see it acknowledged.
        if why == SessionError::Left {
            let _: Result<_, _> = tokio::time::timeout(lease, writer).await;
        } else {
            writer.abort();
        }
        self.connection.close(&why.to_string());
        self.drained.notify_waiters();
        why
    }

    /// Tells everybody that the session has ended, once.
    fn tell(&self, env: &Environment, why: &SessionError) {
        let node = self.peer;
        let how = why.to_string();
        let ending = lock(&self.session).end();
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
        // Dropping them ends the children, unrun. What is being prepared is dropped when ready.
        let parked = std::mem::take(&mut *lock(&self.parked));
        drop(parked);
        lock(&self.queries).clear();
        let reason = ExitReason::NodeDown { node, how };
        let (began, processes) = (Instant::now(), ending.locals.len());
        for local in ending.locals {
            if off("a lost session is told") {
                continue;
            }
            env.session_lost(local, node, &reason);
        }
        let ms = began.elapsed().as_secs_f64() * 1e3;
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
                live.end(why);
                return;
            }
            let was = {
                let mut session = lock(&live.session);
                let was = live.is_congested(&session);
                session.transmitted(end - start);
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
    let mut step = std::pin::pin!(step);
    loop {
        let written = connection.writes();
        match tokio::time::timeout(lease, step.as_mut()).await {
            Ok(done) => return done.map_err(|error| SessionError::Lost(error.to_string())),
            Err(_) if connection.writes() != written => {}
            Err(_) => {
                let lease = lease.as_millis();
                let why = format!("the peer took nothing for the lease of {lease} ms");
                return Err(SessionError::Lost(why));
            }
        }
    }
}

/// Writes bulk messages one after the other, each on a stream of its own.
async fn write_bulk(live: Arc<Live>, mut bulk: BulkOut, lease: Duration) {
    while let Some((stream, bytes)) = bulk.recv().await {
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
            live.end(why);
            return;
        }
        live.bulk_backlog.fetch_sub(length, Ordering::Relaxed);
        live.drained.notify_waiters();
    }
}

/// A signal or message that waits behind a bulk message of the same pair.
enum Held {
    Action(Action),
    Bulk(Route, Option<i64>, BulkHead),
}

impl Held {
    /// What keeping it counts.
    fn cost(&self) -> usize {
        match self {
            Held::Action(Action::Message(_, _, payload)) => payload.len() + 64,
            Held::Action(_) => 128,
            Held::Bulk(..) => BULK_COST_BYTES,
        }
    }
}

struct Driver {
    live: Arc<Live>,
    env: Environment,
    fetcher: Arc<Fetcher>,
    draining: watch::Receiver<bool>,
    /// Pairs with a bulk message under way, which is the first of what is held, and what came after it.
    held: HashMap<(Pid, Pid), VecDeque<Held>>,
    /// What all of it counts.
    held_bytes: usize,
    /// The streams of those first ones.
    awaited: HashMap<u64, (Pid, Pid)>,
    announced: Announced,
    /// Bulk messages that were complete before they were awaited.
    early_bulk: HashMap<u64, Bytes>,
    /// What those count.
    early_bytes: usize,
}

impl Driver {
    async fn run(
        &mut self,
        lane: &mut LaneReader,
        mut early: BytesMut,
        length: Duration,
    ) -> SessionError {
        let live = self.live.clone();
        let started = Instant::now();
        let mut lease = Lease::new(length, Duration::ZERO);
        let mut canary = live.connection.canary();
        let (bulk_done, mut bulk_in) = mpsc::channel::<Result<(u64, Bytes), SessionError>>(64);
        let readers = Arc::new(Semaphore::new(BULK_READERS));
        let mut open = true;
        let mut spin = Spin::default();
        if !early.is_empty()
            && let Err(error) = self.take_in(&early.split()).await
        {
            return error;
        }
        loop {
            // One timer for all: each turn sets it anew.
            let expires_at = live.certificates.expires_at();
            let due = expires_at.min(started + lease.poll_timeout());
            canary.hurry(live.locals() > 0);
            let due = canary.due().map_or(due, |ask_at| due.min(ask_at));
            let timer = tokio::time::sleep_until(due);
            tokio::select! {
                biased;
                () = live.ending.notified() => {
                    return lock(&live.verdict)
                        .clone()
                        .unwrap_or(SessionError::Lost("ended here".into()));
                }
                // Before the lane: a peer that never pauses has no more time than others.
                () = timer => {
                    if due == expires_at {
                        return SessionError::Lost(
                            "the peer's certificate ran out, and it showed no later one".into());
                    }
                    canary.ask(Instant::now());
                    match lease.handle_timeout(started.elapsed()) {
                        Verdict::Ping(number) => {
                            live.connection.send_datagram(&Datagram::Ping(number).encode());
                        }
                        Verdict::Wait => {}
                        Verdict::Expired if lease.is_suspected() => {
                            return SessionError::Lost(
                                "nobody listens at its address any more".into());
                        }
                        Verdict::Expired => {
                            return SessionError::Lost(format!(
                                "no round trip within the lease of {} ms", length.as_millis()));
                        }
                        Verdict::Frozen => {
                            return SessionError::Lost("this machine stood still for a lease".into());
                        }
                    }
                }
                () = canary.refused() => {
                    if let Some(number) = lease.suspect(started.elapsed()) {
                        live.connection.send_datagram(&Datagram::Ping(number).encode());
                    }
                }
                datagram = live.connection.read_datagram(), if open => match datagram {
                    Ok(bytes) => match Datagram::decode(&bytes) {
                        Some(Datagram::Ping(number)) => {
                            let ours = lease.handle_heard(started.elapsed());
                            live.connection.send_datagram(&Datagram::Pong(number).encode());
                            if let Some(number) = ours {
                                canary.ask(Instant::now());
                                live.connection.send_datagram(&Datagram::Ping(number).encode());
                            }
                        }
                        Some(Datagram::Pong(number)) => {
                            if let Some(rtt) = lease.handle_pong(number, started.elapsed()) {
                                let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
                                live.rtt_ns.store(nanos, Ordering::Relaxed);
                            }
                        }
                        None => return SessionError::Misbehaved(
                            "a datagram is a Ping or a Pong".into()),
                    },
                    // The connection is closed. What the lane had brought before still counts.
                    Err(_) => open = false,
                },
                Some(done) = bulk_in.recv() => {
                    let outcome = match done {
                        Ok((stream, bytes)) => self.bulk_arrived(stream, bytes),
                        Err(error) => Err(error),
                    };
                    if let Err(error) = outcome {
                        return error;
                    }
                }
                opened = live.connection.accept_stream(), if open => match opened {
                    Ok(stream) => {
                        let max = self.env.limits().message_bytes_max;
                        let (turns, announced) = (readers.clone(), self.announced.clone());
                        tokio::spawn(read_bulk(stream, turns, announced, max, bulk_done.clone()));
                    }
                    Err(_) => open = false,
                },
                () = live.poked.notified() => {
                    if let Err(error) = self.carry_out() {
                        return error;
                    }
                }
                bytes = lane.read(READ_BYTES) => match bytes {
                    Ok(Some(bytes)) => {
                        if let Err(error) = self.take_in(&bytes).await {
                            return error;
                        }
                        spin.arrived(std::time::Instant::now());
                    }
                    Ok(None) => return SessionError::Lost("the peer ended its lane".into()),
                    Err(error) => return SessionError::Lost(error.to_string()),
                },
                never = spin.keep_looking(&self.env) => match never {},
            }
        }
    }

    async fn take_in(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let env = self.env.clone();
        // Whoever gets a message answers from this thread: one hand-over between threads less.
        let lent = env.lend_thread();
        let handled = self.live.with(|session| session.handle_bytes(bytes));
        // What came before a bad frame stands.
        let done = self.carry_out().and(handled);
        if let Some(woken) = lent.and_then(LentThread::set_aside) {
            if self.live.has_unsent() {
                // What the session itself answers leaves first: the peer goes on while those who were woken run.
                tokio::task::yield_now().await;
            }
            woken.run();
        }
        done
    }

    fn carry_out(&mut self) -> Result<(), SessionError> {
        loop {
            let action = self.live.with(Session::poll_action);
            let Some(action) = action else { return Ok(()) };
            self.act(action)?;
        }
    }

    fn act(&mut self, action: Action) -> Result<(), SessionError> {
        if let Action::Bulk(.., head) = &action
            && !self.early_bulk.contains_key(&head.stream)
        {
            lock(&self.announced).insert(head.stream, head.bytes);
        }
        if let Action::Deliver(route, _) | Action::Message(route, ..) | Action::Bulk(route, ..) =
            &action
            && let Some(queue) = self.held.get_mut(&(route.from, route.to))
        {
            let held = match action {
                Action::Bulk(route, tag, head) => Held::Bulk(route, tag, head),
                other => Held::Action(other),
            };
            self.held_bytes += held.cost();
            queue.push_back(held);
            return self.check_held();
        }
        match action {
            Action::Deliver(route, signal) => {
                let Route { environ, from, to } = route;
                if let Some(answer) = self.env.deliver(environ, from, to, signal)
                    && !off("the dead answer")
                {
                    self.live.with(|session| {
                        // If the session is over, its end is the answer.
                        let _: Result<(), _> = session.signal(environ, to, from, &answer);
                    });
                }
            }
            Action::Message(route, tag, data) => {
                let message = Message {
                    tag,
                    data,
                    resources: Vec::new(),
                };
                self.env.deliver_message(route.environ, route.to, message);
            }
            Action::Bulk(route, tag, head) => return self.bulk_named(route, tag, head),
            Action::Make(reference, prepare) => self.make(reference, *prepare),
            Action::Adopt(reference, child) => self.adopt(reference, child),
            Action::Refused(reference, why) => {
                if let Some(waiting) = lock(&self.live.waiting).remove(&reference) {
                    // A parent that has given up needs no answer.
                    let _: Result<(), _> = waiting.answer.send(Err(SpawnError::Refused(why)));
                }
            }
            Action::Run(reference) => {
                if let Some(parked) = lock(&self.live.parked).remove(&reference) {
                    parked.run();
                }
            }
            Action::End(reference) => {
                // Dropping it ends the child, unrun.
                let parked = lock(&self.live.parked).remove(&reference);
                drop(parked);
            }
            Action::Query(reference, pid) => {
                let tenant = self.env.tenant_of(pid);
                self.live.with(|session| {
                    // Of a tenant that is not the peer's, it learns nothing.
                    let exists = tenant.is_some_and(|tenant| session.permits(tenant));
                    session.answer(reference, exists);
                });
            }
            Action::Answered(reference, exists) => {
                if let Some(answer) = lock(&self.live.queries).remove(&reference) {
                    // Whoever asked may have stopped waiting.
                    let _: Result<(), _> = answer.send(exists);
                }
            }
            Action::Left => return Err(SessionError::Left),
            Action::Renew(renew) => self.live.renewed(&renew)?,
        }
        Ok(())
    }

    fn adopt(&mut self, reference: u64, child: Pid) {
        let Some(waiting) = lock(&self.live.waiting).remove(&reference) else {
            self.live.with(|session| session.cancel(reference));
            return;
        };
        let live = &self.live;
        let Waiting {
            answer,
            parent,
            link,
        } = waiting;
        let adopted = self.env.adopt(parent, child, link, reference, || {
            let started = live
                .with(|session| session.start(reference, parent))
                .is_ok();
            if started {
                answer_parent(answer, child);
            }
            started
        });
        if !adopted {
            live.with(|session| session.cancel(reference));
        }
    }

    /// Makes a child for the peer, off the lane: its module may have to be fetched and compiled.
    fn make(&mut self, reference: u64, prepare: tidelock::Prepare) {
        let (live, env, fetcher) = (self.live.clone(), self.env.clone(), self.fetcher.clone());
        if *self.draining.borrow() {
            return live.with(|session| session.refuse(reference, Refusal::Draining));
        }
        if let Some(module) = env.modules().find(&prepare.module) {
            return finish_make(&live, &env, reference, prepare, &module);
        }
        tokio::spawn(async move {
            let fetched = fetcher.fetch(prepare.module, live.peer, &live.connection, &env);
            match fetched.await {
                Ok(module) => finish_make(&live, &env, reference, prepare, &module),
                Err(why) => live.with(|session| session.refuse(reference, why)),
            }
        });
    }

    // ---- bulk --------------------------------------------------------------------------------

    /// The lane has come to a bulk message, and nothing of its pair is ahead of it.
    fn bulk_named(
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
        let message = Message {
            tag,
            data,
            resources: Vec::new(),
        };
        self.env.deliver_message(route.environ, route.to, message);
        Ok(())
    }

    fn check_held(&self) -> Result<(), SessionError> {
        if self.held_bytes > HELD_BYTES_MAX {
            return Err(SessionError::Backlog(self.held_bytes));
        }
        Ok(())
    }

    /// A bulk stream is complete. If it is awaited, what was held behind it goes on.
    fn bulk_arrived(&mut self, stream: u64, bytes: Bytes) -> Result<(), SessionError> {
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
                    // It has not come: what is behind it stays behind it.
                    if let Some(again) = self.held.get_mut(&pair) {
                        again.append(&mut queue);
                        return Ok(());
                    }
                }
                Held::Action(action) => self.act(action)?,
            }
        }
        Ok(())
    }
}

/// Answers a parent whose child may run from now on: in the step of Start, unless a test removes the rule.
fn answer_parent(answer: oneshot::Sender<SpawnAnswer>, child: Pid) {
    if off("the parent is answered in the step of Start") {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // The parent has stopped waiting in the meantime, or not.
            let _: Result<(), _> = answer.send(Ok(child));
        });
        return;
    }
    // The receiver outlives this step: it is dropped under the same lock.
    let _: Result<(), _> = answer.send(Ok(child));
}

/// What keeping a bulk message that nobody awaits yet counts.
fn early_cost(bytes: &Bytes) -> usize {
    bytes.len() + BULK_COST_BYTES
}

/// Parks the child and announces it in one step with its control block.
fn finish_make(
    live: &Arc<Live>,
    env: &Environment,
    reference: u64,
    prepare: tidelock::Prepare,
    module: &tidelock::Module,
) {
    match env.park(prepare, module, live.epoch, reference) {
        Ok(parked) => {
            let mut all = lock(&live.parked);
            let wanted = parked.announce(|pid| live.with(|session| session.made(reference, pid)));
            if wanted && off("a child runs at Start") {
                parked.run();
            } else if wanted {
                all.insert(reference, parked);
            } else {
                // It is dropped, and so ends unrun. If it was killed by a pid somebody guessed, the
                // parent still waits; if the parent gave up, this does nothing.
                let why = Refusal::NotPermitted("the child was killed before it began".into());
                live.with(|session| session.refuse(reference, why));
            }
        }
        Err(why) => live.with(|session| session.refuse(reference, why)),
    }
}

/// How long the bulk messages are that the lane has named and whose streams are not complete. Each is one of
/// what a session holds, and counts there.
type Announced = Arc<Mutex<HashMap<u64, u64>>>;

async fn read_bulk(
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
                // Growing copies, so it is done once if the lane has come to this message. What is not filled is
                // address space, not memory.
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
        Ok((number, bytes.freeze()))
    };
    let outcome = outcome.await;
    // If nobody listens, the session is over.
    let _: Result<(), _> = done.send(outcome).await;
}
