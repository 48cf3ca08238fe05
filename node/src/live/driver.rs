//! The task of a session: what arrives is carried out, in order; the lease; the end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use tidelock::{
    Environment, LentThread, LinkSignal, Message, Pid, Refusal, SpawnAnswer, SpawnError,
};
use tidelock_proto::lease::{Lease, Verdict};
use tidelock_proto::session::{self, Action, SessionError};
use tidelock_proto::switch::off;
use tidelock_proto::wire::{Datagram, Route};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::bulk::{Announced, BULK_READERS, Held, read_bulk};
use super::{Live, MAKING_BYTES_MAX, Waiting};
use crate::lock;
use crate::modules::Fetcher;
use crate::spin::Spin;
use crate::transport::LaneReader;

/// Bytes read from the lane before anything else gets its turn.
pub(super) const READ_BYTES: usize = 256 << 10;

/// Pieces of them, mostly a packet each, that are taken in before those who are woken run.
const PIECES_MAX: usize = 8;

/// What a peer may have sent that was not read: as much as it is given room for, and what follows while that is read.
const LANE_BYTES_MAX: usize = 16 << 20;

/// Messages delivered in one step; meanwhile their receiver cannot take any.
const MESSAGES_MAX: usize = 64;

/// Signals taken out of the session at once, whose lock those who send over it meet at. They are delivered one by one.
const SIGNALS_MAX: usize = 64;

/// Other actions taken out at once, for the same reason. They are carried out one by one.
const OTHERS_MAX: usize = 64;

/// A message that has arrived: whose it is, its tag, its bytes.
type Arrived = (Route, Option<i64>, Bytes);

/// What was taken out of the session, and is to be carried out next: messages, or signals, or others.
#[derive(Default)]
struct Batch {
    messages: Vec<Arrived>,
    signals: Vec<(Route, LinkSignal)>,
    others: Vec<Action>,
}

/// What a session's task keeps while it runs.
pub(super) struct Driver {
    live: Arc<Live>,
    pub(super) env: Environment,
    fetcher: Arc<Fetcher>,
    draining: watch::Receiver<bool>,
    /// Pairs with a bulk message under way, which is the first of what is held, and what came after it.
    pub(super) held: HashMap<(Pid, Pid), VecDeque<Held>>,
    /// What all of it counts.
    pub(super) held_bytes: usize,
    /// The streams of those first ones.
    pub(super) awaited: HashMap<u64, (Pid, Pid)>,
    pub(super) announced: Announced,
    /// Bulk messages that were complete before they were awaited.
    pub(super) early_bulk: HashMap<u64, Bytes>,
    /// What those count.
    pub(super) early_bytes: usize,
    /// Nothing more is said in the lane: the peer has said goodbye, or it is lost. What it said before still counts, bulk
    /// messages too.
    pub(super) over: Option<SessionError>,
    /// Empty, but for while it is carried out; kept for its room.
    batch: Batch,
}

impl Driver {
    pub(super) fn new(
        live: Arc<Live>,
        env: Environment,
        fetcher: Arc<Fetcher>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Driver {
            live,
            env,
            fetcher,
            draining,
            held: HashMap::new(),
            held_bytes: 0,
            awaited: HashMap::new(),
            announced: Announced::default(),
            early_bulk: HashMap::new(),
            early_bytes: 0,
            over: None,
            batch: Batch::default(),
        }
    }

    /// Runs until the session is to end, and says why. It has not been told to anybody then.
    pub(super) async fn run(
        &mut self,
        lane: &mut LaneReader,
        early: BytesMut,
        length: Duration,
    ) -> SessionError {
        let why = self.run_on(lane, early, length).await;
        // Whatever ends the rest, all that is missing are bulk messages.
        match self.over.clone() {
            Some(SessionError::Left) if !self.awaited.is_empty() => SessionError::LeftUndelivered,
            over => over.unwrap_or(why),
        }
    }

    /// The peer is lost. Unless it has said goodbye, after which the rest is on its way, nothing more comes, and what has come
    /// is here and unread.
    fn lost(&mut self, why: SessionError) {
        if self.over.is_none() {
            self.live.connection.close(&why.to_string());
            self.over = Some(why);
        }
    }

    /// What had arrived when nothing more could be written: the peer has said it, and it is told nothing else.
    async fn read_rest(&mut self, lane: &mut LaneReader) -> Result<(), SessionError> {
        let mut rest = LANE_BYTES_MAX;
        // After a goodbye the peer says nothing.
        while self.over.is_none()
            && let Some(Ok(Some(bytes))) = lane.read(READ_BYTES.min(rest)).now_or_never()
        {
            self.take_in(std::slice::from_ref(&bytes)).await?;
            rest -= bytes.len();
            if rest == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn run_on(
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
        let (mut open, mut streams) = (true, true);
        // Readers of bulk messages whose outcome is still to come.
        let mut reading = 0_usize;
        let mut spin = Spin::default();
        let mut pieces = Vec::new();
        // One timer for all: each turn sets it anew if it has to.
        let mut timer = std::pin::pin!(tokio::time::sleep_until(started));
        if !early.is_empty()
            && let Err(error) = self.take_in(&[early.split().freeze()]).await
        {
            return error;
        }
        loop {
            // What is awaited without a stream or a reader does not come.
            if let Some(why) = &self.over
                && (self.awaited.is_empty() || (!streams && reading == 0))
            {
                return why.clone();
            }
            let expires_at = live.certificates.expires_at();
            let due = expires_at.min(started + lease.poll_timeout());
            canary.hurry(live.locals() > 0);
            let due = canary.due().map_or(due, |ask_at| due.min(ask_at));
            if timer.deadline() != due || timer.is_elapsed() {
                timer.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                () = live.ending.notified() => {
                    if let Some(why) = lock(&live.verdict).clone() {
                        return why;
                    }
                    if let Err(error) = self.read_rest(lane).await {
                        return error;
                    }
                    let why = lock(&live.broken).take();
                    self.lost(why.unwrap_or(SessionError::Lost("ended here".into())));
                }
                // Before the lane: a peer that never pauses has no more time than others.
                () = timer.as_mut() => {
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
                            let suspected = lease.is_suspected();
                            if let Some(rtt) = lease.handle_pong(number, started.elapsed()) {
                                if suspected && !lease.is_suspected() {
                                    canary.fall_silent();
                                }
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
                    reading -= 1;
                    let outcome = match done {
                        Ok((stream, bytes)) => self.bulk_arrived(stream, bytes),
                        Err(error @ SessionError::Lost(_)) => {
                            let rest = self.read_rest(lane).await;
                            rest.map(|()| self.lost(error))
                        }
                        Err(error) => Err(error),
                    };
                    if let Err(error) = outcome {
                        return error;
                    }
                }
                opened = live.connection.accept_stream(), if streams => match opened {
                    Ok(stream) => {
                        let max = self.env.limits().message_bytes_max;
                        reading += 1;
                        let (turns, announced) = (readers.clone(), self.announced.clone());
                        tokio::spawn(read_bulk(stream, turns, announced, max, bulk_done.clone()));
                    }
                    // All that had arrived were there before this.
                    Err(_) => streams = false,
                },
                () = live.poked.notified() => {
                    if let Err(error) = self.carry_out() {
                        return error;
                    }
                }
                read = lane.read_pieces(&mut pieces, PIECES_MAX, READ_BYTES), if self.over.is_none() => match read {
                    Ok(true) => {
                        let taken_in = self.take_in(&pieces).await;
                        // They are not kept until the next ones come.
                        pieces.clear();
                        if let Err(error) = taken_in {
                            return error;
                        }
                        spin.arrived(std::time::Instant::now());
                    }
                    Ok(false) => self.lost(SessionError::Lost("the peer ended its lane".into())),
                    Err(error) => self.lost(SessionError::Lost(error.to_string())),
                },
                never = spin.keep_looking(&self.env) => match never {},
            }
        }
    }

    pub(super) async fn take_in(&mut self, pieces: &[Bytes]) -> Result<(), SessionError> {
        let env = self.env.clone();
        // Whoever gets a message answers from this thread: one hand-over between threads less.
        let lent = env.lend_thread();
        let handled = self.live.with(|session| {
            let mut pieces = pieces.iter();
            pieces.try_for_each(|bytes| session.handle_bytes(bytes))
        });
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
        let mut batch = std::mem::take(&mut self.batch);
        let done = self.carry_out_all(&mut batch);
        self.batch = batch;
        done
    }

    fn carry_out_all(&mut self, batch: &mut Batch) -> Result<(), SessionError> {
        let Batch {
            messages,
            signals,
            others,
        } = batch;
        let mut has_more = true;
        // After a goodbye the peer says nothing.
        while has_more && self.over.is_none() {
            // Whoever adds an action meanwhile says so (`Live::poked`).
            has_more = self.live.with(|session| {
                session.poll_messages(MESSAGES_MAX, messages);
                if messages.is_empty() {
                    session.poll_signals(SIGNALS_MAX, signals);
                }
                if messages.is_empty() && signals.is_empty() {
                    session.poll_others(OTHERS_MAX, others);
                    // What the peer has given up in the same breath is not made.
                    others.retain(|action| match action {
                        Action::Make(reference, _) => session.is_wanted(*reference),
                        _ => true,
                    });
                }
                session.has_actions()
            });
            self.deliver(messages)?;
            let mut delivered = signals.drain(..);
            delivered.try_for_each(|(route, signal)| self.act(Action::Deliver(route, signal)))?;
            others.drain(..).try_for_each(|action| self.act(action))?;
        }
        Ok(())
    }

    /// Carries out as many [`Action::Message`], those in a row for one process in one step. None is left.
    fn deliver(&mut self, messages: &mut Vec<Arrived>) -> Result<(), SessionError> {
        let mut messages = messages.drain(..);
        if !self.held.is_empty() {
            return messages
                .try_for_each(|(route, tag, data)| self.act(Action::Message(route, tag, data)));
        }
        let mut messages = messages.peekable();
        while let Some((Route { environ, to, .. }, ..)) = messages.peek() {
            let (environ, to) = (*environ, *to);
            let of_one = |(route, ..): &Arrived| (route.environ, route.to) == (environ, to);
            let mut rest = std::iter::from_fn(|| messages.next_if(of_one));
            self.env.deliver_messages(
                environ,
                to,
                rest.by_ref().map(|(_, tag, data)| Message::new(tag, data)),
            );
            // Whoever is gone takes none.
            rest.for_each(drop);
        }
        Ok(())
    }

    pub(super) fn act(&mut self, action: Action) -> Result<(), SessionError> {
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
                    self.answer_for_nobody(
                        Route {
                            environ,
                            from: to,
                            to: from,
                        },
                        &answer,
                    );
                }
            }
            Action::Message(route, tag, data) => {
                let message = Message::new(tag, data);
                self.env
                    .deliver_messages(route.environ, route.to, [message]);
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
                if let Some(task) = lock(&self.live.making).remove(reference) {
                    task.abort();
                }
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
            Action::Left => self.over = Some(SessionError::Left),
            Action::Renew(renew) => self.live.renewed(&renew)?,
        }
        Ok(())
    }

    /// Answers in place of a process that the peer's tenant does not have.
    fn answer_for_nobody(&self, route: Route, answer: &LinkSignal) {
        let Route { environ, from, to } = route;
        self.live.with(|session| {
            // If the session is over, its end is the answer.
            let _: Result<(), session::Over> = session.signal(environ, from, to, answer);
        });
        // Another tenant may have one of that number, or one was born since. It is none of the peer's business, and who it
        // has to do with stays.
        let lives = || self.env.tenant_of(from).is_some();
        if lives() {
            let _: Result<(), session::Over> = self.live.with(|session| session.note(from));
            if !lives() {
                // It may have been forgotten before it was noted.
                self.live.forget(from);
            }
        }
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
        if *self.draining.borrow() {
            let live = &self.live;
            return live.with(|session| session.refuse(reference, Refusal::Draining));
        }
        if let Some(module) = self.env.modules().find(&prepare.module) {
            // It was wanted when it was taken out of the session, and only this task lets go of it.
            return finish_make(&self.live, &self.env, reference, prepare, module);
        }
        let (live, env, fetcher) = (self.live.clone(), self.env.clone(), self.fetcher.clone());
        let bytes = prepare.bytes();
        let mut making = lock(&self.live.making);
        if making.bytes + bytes > MAKING_BYTES_MAX {
            let waiting = making.tasks.len();
            let why = Refusal::Full(format!("{waiting} spawns of yours wait for their modules"));
            drop(making);
            return live.with(|session| session.refuse(reference, why));
        }
        making.bytes += bytes;
        let task = tokio::spawn(async move {
            let fetched = fetcher.fetch(prepare.module, live.peer, &live.connection, &env);
            let fetched = fetched.await;
            lock(&live.making).remove(reference);
            match fetched {
                Ok(module)
                    if live.with(|session| session.is_wanted(reference))
                        || off("Cancel reaches a child that is made") =>
                {
                    finish_make(&live, &env, reference, prepare, module);
                }
                Ok(_) => {}
                Err(why) => live.with(|session| session.refuse(reference, why)),
            }
        });
        // It forgets itself after this: the lock is held.
        making.tasks.insert(reference, (task.abort_handle(), bytes));
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

/// Parks the child and announces it in one step with its control block.
fn finish_make(
    live: &Arc<Live>,
    env: &Environment,
    reference: u64,
    prepare: tidelock::Prepare,
    module: tidelock::Module,
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
