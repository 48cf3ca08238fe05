//! What the code of a running process may do.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tidelock_proto::link::{Effect, LinkForm, LinkOutcome};
use tidelock_proto::spawn::{Param, Prepare, ProcessConfig, Refusal};
use tidelock_proto::switch::off;
use tidelock_proto::{Environ, ExitReason, NodeId, Pid};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::environment::{Environment, SpawnOptions};
use crate::hibernation::Idle;
use crate::host::Origin;
use crate::info::Happening;
use crate::mailbox::{Filter, Mark, Message, Received, is_in_order};
use crate::process::{Core, Shared};
use crate::registry::Named;
use crate::remote::SpawnAnswer;
use crate::timers::{Place, message_bytes};
use crate::{LinkError, Module, SendError, SpawnError, TimedOut};

/// What is copied even if the receiver may not have room for it.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// A process to be made.
#[derive(Debug, Clone)]
pub struct SpawnRequest {
    /// Its code.
    pub module: Module,
    /// The exported function it runs.
    pub entry: String,
    /// The function's arguments.
    pub params: Vec<Param>,
    /// What it may do and use; `None`: what the parent may.
    pub config: Option<Arc<ProcessConfig>>,
    /// `Some(tag)`: linked to the parent, and `tag` is what the parent's LinkDied carries.
    pub link: Option<Option<i64>>,
}

/// The hands of one process: given to its code, and to nobody else.
///
/// Methods take `&mut self` where two at once would make no sense: a process does one thing after
/// the other. Once the process must end (it was killed, a link took it down, its mailbox is full),
/// waiting calls do not return any more; the code is dropped where it waits.
pub struct Context {
    shared: Arc<Shared>,
    /// Whom it sent to last on this node: most send to the same one again.
    last: Option<Arc<Shared>>,
    timers: HashMap<u64, Timer>,
    /// At how many the finished ones are swept out next.
    timers_swept: usize,
    next_timer: u64,
    /// Bytes of those that have not fired. Each of them holds it, too, so its holders tell how many there are.
    timers_held: Option<Arc<AtomicUsize>>,
}

/// A timer that was set. Whoever takes the message out first, to send it or to have it back, has it alone.
struct Timer {
    unsent: Weak<Mutex<Option<Unsent>>>,
    task: AbortHandle,
}

/// What a timer sends, and its place among the timers of its process and of the environment until it is sent.
struct Unsent {
    message: Message,
    _place: Place,
}

fn take_out(unsent: &Mutex<Option<Unsent>>) -> Option<Unsent> {
    unsent.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.shared.pid)
    }
}

impl Context {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Context {
            shared,
            last: None,
            timers: HashMap::new(),
            timers_swept: 64,
            next_timer: 0,
            timers_held: None,
        }
    }

    /// Which process this is.
    pub fn pid(&self) -> Pid {
        self.shared.pid
    }

    /// Its tenant.
    pub fn environ(&self) -> Environ {
        self.shared.about.environ
    }

    /// Where it comes from, or the one that it descends from.
    pub(crate) fn origin(&self) -> Origin {
        self.shared.about.origin
    }

    /// Who asked for it; `None`: no process did.
    pub(crate) fn parent(&self) -> Option<Pid> {
        self.shared.about.parent
    }

    /// The environment it lives in.
    pub fn environment(&self) -> &Environment {
        &self.shared.env
    }

    /// What it may do and use.
    pub fn config(&self) -> &Arc<ProcessConfig> {
        &self.shared.about.config
    }

    /// Notes for whoever looks how much memory the guest has.
    pub(crate) fn note_memory(&self, bytes: usize) {
        self.shared.memory.store(bytes, Ordering::Relaxed);
    }

    // ---- receiving ---------------------------------------------------------------------------

    /// Takes what `filter` accepts, if it is there.
    pub fn try_receive(&mut self, filter: &Filter) -> Option<Received> {
        loop {
            // Others get at the mailbox in between.
            if let Poll::Ready(received) = self.receive_step(filter) {
                return received;
            }
        }
    }

    /// As [`Context::try_receive`], in one step of bounded length; `Pending`: there is more to look at.
    pub(crate) fn receive_step(&mut self, filter: &Filter) -> Poll<Option<Received>> {
        let ordered;
        let filter = match filter {
            Filter::Tags(tags) if !is_in_order(tags) => {
                let mut tags = tags.clone();
                tags.sort_unstable();
                ordered = Filter::Tags(tags);
                &ordered
            }
            _ => filter,
        };
        let mut core = self.shared.core();
        let received = core.pop(filter);
        if received.is_none() && core.is_looking() {
            return Poll::Pending;
        }
        Poll::Ready(received)
    }

    /// Waits for what `filter` accepts, at most until `deadline`; `None`: the deadline came first.
    ///
    /// # Ordering
    ///
    /// The oldest that fits comes first; what does not fit stays where it is.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing and changes no order.
    pub async fn receive(
        &mut self,
        mut filter: Filter,
        deadline: Option<Instant>,
    ) -> Option<Received> {
        filter.bring_in_order();
        let wait = self.wait_for(&filter, |_, _| false);
        match deadline {
            None => wait.await,
            Some(deadline) => timeout_at(deadline, wait).await.ok().flatten(),
        }
    }

    /// As [`Context::receive`], of tags [in order](is_in_order). `Ok(None)`: it has waited for so long that its guest is
    /// to hibernate, and may go on.
    pub(crate) async fn receive_or_idle(
        &mut self,
        filter: &Filter,
        deadline: Option<Instant>,
    ) -> Result<Option<Received>, TimedOut> {
        let wait = self.wait_for(filter, |core, waits_since_before| {
            core.idle.found_nothing(waits_since_before)
        });
        match deadline {
            None => Ok(wait.await),
            Some(deadline) => timeout_at(deadline, wait).await.map_err(|_| TimedOut),
        }
    }

    /// Waits for what `filter` accepts, or, which is `None`, until the process is idle. That is asked whenever there is nothing,
    /// with whether it was asked before.
    fn wait_for(
        &self,
        filter: &Filter,
        is_idle: impl Fn(&mut Core, bool) -> bool,
    ) -> impl Future<Output = Option<Received>> {
        let shared = &self.shared;
        let mut waits = false;
        std::future::poll_fn(move |poller| {
            let mut core = shared.core();
            let received = core.pop(filter);
            if received.is_some() {
                return Poll::Ready(received);
            }
            if core.must_end() || core.is_looking() {
                // Our own task has to look: it may have polled us after its own check. And a long mailbox is looked
                // through in steps.
                poller.waker().wake_by_ref();
            } else if is_idle(&mut core, std::mem::replace(&mut waits, true)) {
                return Poll::Ready(None);
            } else {
                core.receiving = true;
            }
            core.wake_me(poller);
            Poll::Pending
        })
    }

    /// Lets the process hibernate when it waits for long.
    pub(crate) fn may_hibernate(&self) {
        if self.shared.env.hibernates() {
            self.shared.core().idle = Idle::Busy;
        }
    }

    /// The present moment of the mailbox, for [`Filter::Since`].
    pub fn mark(&mut self) -> Mark {
        let mut core = self.shared.core();
        core.settle();
        core.mailbox.mark()
    }

    // ---- sending -----------------------------------------------------------------------------

    /// Sends without waiting. `Err` gives the message back: [`Context::send`] would wait or fail, or it is for
    /// another node and too large for the lane (64 KiB).
    pub fn try_send(&mut self, to: Pid, message: Message) -> Result<(), Message> {
        if to.node() == self.shared.env.node() {
            let target = self.target(to);
            return target.map_or(Ok(()), |target| target.offer_message(message));
        }
        if message.resources.is_empty() && self.try_remote(to, message.tag, &message.data) {
            return Ok(());
        }
        Err(message)
    }

    /// As [`Context::try_send`], of bytes that are copied only once, to where they go. `false`: nothing was sent.
    pub(crate) fn try_send_bytes(&mut self, to: Pid, tag: Option<i64>, data: &[u8]) -> bool {
        if to.node() != self.shared.env.node() {
            return self.try_remote(to, tag, data);
        }
        let Some(target) = self.target(to) else {
            return true;
        };
        if data.len() > COPIED_BYTES_MAX && target.is_crowded() {
            return false;
        }
        let message = Message::new(tag, Bytes::copy_from_slice(data));
        target.offer_message(message).is_ok()
    }

    /// A process of this node; `None` if there is none. One that has ended since takes no message.
    fn target(&mut self, to: Pid) -> Option<&Shared> {
        if self.last.as_ref().is_none_or(|last| last.pid != to) {
            self.last = self.shared.env.find(self.shared.about.environ, to);
        }
        self.last.as_deref()
    }

    fn try_remote(&self, to: Pid, tag: Option<i64>, data: &[u8]) -> bool {
        let environ = self.shared.about.environ;
        let remote = self.shared.env.remote();
        remote.is_some_and(|remote| remote.try_message(environ, self.pid(), to, tag, data))
    }

    /// Sends a message. A process that is gone is silence; delivery is at most once.
    ///
    /// # Ordering
    ///
    /// What one process sends to another arrives in the order sent, or the session is lost.
    ///
    /// # Cancellation
    ///
    /// Dropping the future before it is done sends nothing.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was sent.
    pub async fn send(&mut self, to: Pid, message: Message) -> Result<(), SendError> {
        let environ = self.shared.about.environ;
        self.shared
            .env
            .send_as(environ, self.pid(), to, message)
            .await
    }

    /// Sends a message later. The timer outlives this process.
    ///
    /// One more timer than [`Limits`](crate::Limits) allow is not set: this process ends.
    pub fn send_after(&mut self, to: Pid, message: Message, delay: Duration) -> u64 {
        let timer = self.fired_timer();
        let unsent = match self.unsent(message) {
            Ok(unsent) => Arc::new(Mutex::new(Some(unsent))),
            Err(why) => {
                self.shared.condemn(ExitReason::Limit(why));
                return timer;
            }
        };
        if self.timers.len() >= self.timers_swept {
            self.timers
                .retain(|_, timer| timer.unsent.strong_count() > 0);
            self.timers_swept = (self.timers.len() * 2).max(64);
        }
        let (env, environ, from) = (
            self.shared.env.clone(),
            self.shared.about.environ,
            self.shared.pid,
        );
        let kept = Arc::downgrade(&unsent);
        let task = self.shared.env.scheduler().runtime().spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(unsent) = take_out(&unsent) {
                let sent = env.send_as(environ, from, to, unsent.message);
                // A node that cannot be reached is silence, as a process that is gone.
                let _: Result<(), SendError> = sent.await;
            }
        });
        let set = Timer {
            unsent: kept,
            task: task.abort_handle(),
        };
        self.timers.insert(timer, set);
        timer
    }

    /// The number of a timer that has fired, since its message is for nobody.
    pub(crate) fn fired_timer(&mut self) -> u64 {
        let timer = self.next_timer;
        self.next_timer += 1;
        timer
    }

    /// A message for a timer, with its room; without any, the bound that is reached.
    fn unsent(&mut self, message: Message) -> Result<Unsent, String> {
        let env = &self.shared.env;
        let own = self.timers_held.get_or_insert_default();
        let bytes = message_bytes(&message);
        let full = |max: usize, what: &str| {
            Err(format!(
                "{max} {what}: cancel some, or wait until they fire"
            ))
        };
        let (max, bytes_max) = (env.limits().timers_max, env.limits().timers_bytes_max);
        // One of the holders is this process.
        if Arc::strong_count(own) > max {
            return full(max, "timers under way (timers_max)");
        }
        if own.load(Ordering::Relaxed) + bytes > bytes_max {
            return full(bytes_max, "bytes of timers under way (timers_bytes_max)");
        }
        let environ = self.shared.about.environ;
        let place = env.timer_room().take(environ, own, bytes)?;
        Ok(Unsent {
            message,
            _place: place,
        })
    }

    /// Takes a timer back; `false` if there is none, or it has fired. Its message is sent if and only if it has.
    pub fn cancel_timer(&mut self, timer: u64) -> bool {
        let Some(Timer { unsent, task }) = self.timers.remove(&timer) else {
            return false;
        };
        let unsent = unsent.upgrade();
        let taken = unsent.and_then(|unsent| take_out(&unsent));
        if taken.is_some() {
            task.abort();
        }
        taken.is_some()
    }

    // ---- links and monitors ------------------------------------------------------------------

    /// Whether a link's abnormal end ends this process (the default) or becomes a message.
    pub fn set_die_when_link_dies(&mut self, die: bool) {
        let mut core = self.shared.core();
        // What came before is judged by the old rule.
        core.settle();
        core.die_when_link_dies = die;
    }

    /// Links this process and `pid`, and returns when both halves are in place.
    ///
    /// From then on each of the two that outlives the link is told of its end exactly once. Linking
    /// again replaces the tag. If `pid` is gone already, [`LinkForm::Value`] returns the reason and
    /// queues nothing, [`LinkForm::Notice`] returns `Ok` and queues a LinkDied.
    ///
    /// # Cancellation
    ///
    /// Dropping the future unlinks.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; no half remains.
    pub async fn link(
        &mut self,
        pid: Pid,
        tag: Option<i64>,
        form: LinkForm,
        deadline: Option<Instant>,
    ) -> Result<(), LinkError> {
        // Also while it waits for the way: a link from before must not remain.
        let mut pending = PendingLink {
            shared: &self.shared,
            pid,
            done: false,
        };
        if self.ready(pid.node(), deadline).await == Ready::TimedOut {
            return Err(LinkError::TimedOut);
        }
        self.shared.step(|core, effects| {
            core.settle();
            core.linked = None;
            if !core.must_end() {
                core.block.link(pid, tag, form, effects);
            }
        });
        let wait = self.wait(|core| match core.linked.take() {
            Some((peer, outcome)) if peer == pid => Some(outcome),
            _ => None,
        });
        let outcome = match deadline {
            None => wait.await,
            Some(deadline) => timeout_at(deadline, wait)
                .await
                .map_err(|_| LinkError::TimedOut)?,
        };
        pending.done = true;
        match outcome {
            LinkOutcome::Linked => {
                self.shared
                    .env
                    .happened(&self.shared, Happening::Linked { peer: pid });
                Ok(())
            }
            LinkOutcome::Told => Ok(()),
            LinkOutcome::Ended(reason) => Err(LinkError::Ended(reason)),
        }
    }

    /// Unlinks this process and `pid`. From the call on, no LinkDied of that link is acted on or
    /// received, except one that was already received into the mailbox.
    ///
    /// # Errors
    ///
    /// [`TimedOut`]: the other side has not confirmed yet. The unlink stands all the same.
    pub async fn unlink(&mut self, pid: Pid, deadline: Option<Instant>) -> Result<(), TimedOut> {
        self.shared.step(|core, effects| {
            // A LinkDied that came before the call and is not in the mailbox yet is withdrawn.
            core.unlinked = None;
            core.block.unlink(pid, effects);
        });
        let wait = self.wait(|core| core.unlinked.take().filter(|peer| *peer == pid));
        let done = match deadline {
            None => Ok(wait.await),
            Some(deadline) => timeout_at(deadline, wait).await,
        };
        if done.is_err() {
            self.shared.core().block.forget_unlink_caller(pid);
            return Err(TimedOut);
        }
        Ok(())
    }

    /// Monitors `pid`: one [`Received::Down`] with the returned reference follows, at once if there
    /// is no such process. It waits while the way to another node is congested, until that cannot be reached.
    ///
    /// One more monitor than [`Limits`](crate::Limits) allow is not made: this process ends.
    pub async fn monitor(&mut self, pid: Pid) -> u64 {
        self.ready(pid.node(), None).await;
        self.watch(|core, effects| core.block.monitor(pid, effects))
    }

    /// Makes a monitor, if there may be one more. No monitor has the reference 0.
    fn watch(&self, make: impl FnOnce(&mut Core, &mut Vec<Effect>) -> u64) -> u64 {
        let max = self.shared.env.limits().monitors_max;
        let made = self.shared.step(|core, effects| {
            let has_room = core.block.monitoring() < max;
            has_room.then(|| make(core, effects))
        });
        made.unwrap_or_else(|| {
            self.shared.condemn(ExitReason::Limit(format!(
                "{max} monitors (monitors_max): take some back"
            )));
            0
        })
    }

    /// As [`Context::monitor`], unless this process monitors `pid` already.
    pub async fn monitor_once(&mut self, pid: Pid) {
        let is_monitored = self.shared.core().block.monitors_of(pid).next().is_some();
        if !is_monitored {
            self.monitor(pid).await;
        }
    }

    /// Ends a monitor. No Down with this reference is received afterwards that was not already.
    pub fn demonitor(&mut self, reference: u64) {
        self.shared
            .step(|core, effects| core.block.demonitor(reference, effects));
    }

    /// Ends every monitor of `pid`.
    pub fn stop_monitoring(&mut self, pid: Pid) {
        self.shared.step(|core, effects| {
            let references: Vec<u64> = core.block.monitors_of(pid).collect();
            for reference in references {
                core.block.demonitor(reference, effects);
            }
        });
    }

    /// Monitors a node: one [`Received::NodeDown`] follows when the session with it ends, at once
    /// if it cannot be reached. Waiting and bounds are those of [`Context::monitor`].
    pub async fn monitor_node(&mut self, node: NodeId) -> u64 {
        self.ready(node, None).await;
        let me = self.pid();
        let remote = self.shared.env.remote();
        let own = node == self.shared.env.node();
        self.watch(|core, effects| {
            let reference = core.block.monitor_node(node);
            let noted = match remote {
                _ if own => Ok(()),
                Some(remote) => remote.note(node, me),
                None => Err(not_clustered(node)),
            };
            if let Err(reason) = noted {
                effects.push(Effect::NodeDown {
                    reference,
                    node,
                    reason,
                });
                let mut nothing = Vec::new();
                core.block.demonitor(reference, &mut nothing);
            }
            reference
        })
    }

    /// Kills a process. It cannot trap that; its links see a failure.
    pub async fn kill(&mut self, pid: Pid) {
        self.ready(pid.node(), None).await;
        self.shared.step(|_, effects| {
            effects.push(Effect::Send(pid, tidelock_proto::link::Signal::Kill));
        });
        if pid == self.pid() {
            // Nothing of this process runs after its own death.
            self.wait(|_| None::<()>).await;
        }
    }

    // ---- spawning ----------------------------------------------------------------------------

    /// Spawns a process on this node. Both halves of the link, if asked for, exist before it runs.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; nothing was made.
    pub fn spawn(&mut self, request: SpawnRequest) -> Result<Pid, SpawnError> {
        let options = self.options_of(request.config, request.link);
        self.shared.env.spawn_wasm_from(
            Some(&self.shared),
            &request.module,
            &request.entry,
            request.params,
            options,
        )
    }

    /// As [`Context::spawn`], if nobody of this tenant has the name, which is the child's before it runs.
    pub(crate) fn spawn_named(
        &mut self,
        name: &str,
        request: SpawnRequest,
    ) -> Result<Named, SpawnError> {
        let options = self.options_of(request.config, request.link);
        self.shared.env.spawn_wasm_named(
            &self.shared,
            name,
            &request.module,
            &request.entry,
            request.params,
            options,
        )
    }

    /// How a child on this node is spawned.
    fn options_of(
        &self,
        config: Option<Arc<ProcessConfig>>,
        link: Option<Option<i64>>,
    ) -> SpawnOptions {
        SpawnOptions {
            config: config.unwrap_or_else(|| self.config().clone()),
            parent: Some(self.pid()),
            link,
            environ: self.shared.about.environ,
            name: None,
        }
    }

    /// Spawns a Rust future as a process, linked to this one.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; nothing was made.
    pub fn spawn_native_link<F, C>(
        &mut self,
        name: &str,
        tag: Option<i64>,
        code: F,
    ) -> Result<Pid, SpawnError>
    where
        F: FnOnce(Context) -> C,
        C: Future<Output = ExitReason> + Send + 'static,
    {
        let options = SpawnOptions {
            config: self.config().clone(),
            parent: Some(self.pid()),
            link: Some(tag),
            environ: self.shared.about.environ,
            name: Some(name.to_owned()),
        };
        self.shared
            .env
            .spawn_native_from(Some(&self.shared), options, code)
    }

    /// Spawns a process on `node`, which may be this one.
    ///
    /// Returns once both ends hold the link, if one was asked for. The child may not have executed
    /// anything yet.
    ///
    /// # Ordering
    ///
    /// What this process sends to the child afterwards arrives after the start.
    ///
    /// # Cancellation
    ///
    /// Dropping the future withdraws the request: the child never runs, or is killed if it was
    /// started in that moment.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]; the child did not and will not run.
    pub async fn spawn_on(
        &mut self,
        node: NodeId,
        request: SpawnRequest,
        deadline: Option<Instant>,
    ) -> Result<Pid, SpawnError> {
        if node == self.shared.env.node() {
            if let Err(error) = request.module.check_entry(&request.entry, &request.params) {
                return Err(Refusal::NoFunction(error.to_string()).into());
            }
            return self.spawn(request);
        }
        if self.ready(node, deadline).await == Ready::TimedOut {
            return Err(SpawnError::TimedOut);
        }
        let remote = self.shared.env.remote();
        let remote = remote.ok_or_else(|| unreachable(node, &not_clustered(node)))?;
        let config = request.config.unwrap_or_else(|| self.config().clone());
        let prepare = Prepare {
            environ: self.shared.about.environ,
            parent: self.pid(),
            module: request.module.hash(),
            entry: request.entry,
            params: request.params,
            config,
            link: request.link,
            monitor: None,
        };
        self.shared.env.modules().keep(&request.module);
        let (reference, answer) = self.shared.step(|core, _| {
            let asked = remote
                .ask(node, prepare)
                .map_err(|reason| unreachable(node, &reason))?;
            core.block.asks(node, asked.0);
            Ok::<_, SpawnError>(asked)
        })?;
        let mut asking = PendingSpawn {
            shared: &self.shared,
            node,
            reference,
            answer: Some(answer),
        };
        let answer = asking.answer.as_mut().expect("just put there");
        let answered = match deadline {
            None => Some(answer.await),
            Some(deadline) => timeout_at(deadline, answer).await.ok(),
        };
        asking.settle(answered)
    }

    // ---- the rest ----------------------------------------------------------------------------

    /// The nodes that take part; empty without a cluster.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.shared
            .env
            .remote()
            .map(|remote| remote.nodes())
            .unwrap_or_default()
    }

    /// Those among [`Context::nodes`] that have all of these tags, by name and value.
    pub fn nodes_with(&self, tags: &[(String, String)]) -> Vec<NodeId> {
        let remote = self.shared.env.remote();
        remote
            .map(|remote| remote.nodes_with(tags))
            .unwrap_or_default()
    }

    /// Whether a process lives; `false` if its node cannot be reached.
    pub async fn exists(&self, pid: Pid) -> bool {
        if pid.node() == self.shared.env.node() {
            return self.shared.env.tenant_of(pid) == Some(self.environ());
        }
        match self.shared.env.remote() {
            Some(remote) => remote.exists(pid).await,
            None => false,
        }
    }

    /// Waits for what a step takes out of the core.
    fn wait<T>(
        &self,
        mut take: impl FnMut(&mut Core) -> Option<T> + Send,
    ) -> impl Future<Output = T> + Send {
        let shared = &self.shared;
        std::future::poll_fn(move |poller| {
            let mut core = shared.core();
            if core.must_end() {
                poller.waker().wake_by_ref();
            } else if let Some(value) = take(&mut core) {
                return Poll::Ready(value);
            }
            core.wake_me(poller);
            Poll::Pending
        })
    }

    /// What a guest makes waits here before it changes any state.
    async fn ready(&self, node: NodeId, deadline: Option<Instant>) -> Ready {
        if node == self.shared.env.node() {
            return Ready::Open;
        }
        let Some(remote) = self.shared.env.remote() else {
            return Ready::Down;
        };
        if remote.is_ready(node) {
            return Ready::Open;
        }
        let ready = remote.ready(node);
        let ready = match deadline {
            None => ready.await,
            Some(deadline) => match timeout_at(deadline, ready).await {
                Ok(ready) => ready,
                Err(_) => return Ready::TimedOut,
            },
        };
        if ready.is_ok() {
            Ready::Open
        } else {
            Ready::Down
        }
    }
}

#[derive(PartialEq)]
enum Ready {
    Open,
    /// Whatever is tried next is told that the node is down.
    Down,
    TimedOut,
}

pub(crate) fn not_clustered(node: NodeId) -> ExitReason {
    ExitReason::NodeDown {
        node,
        how: "this node is not part of a cluster".into(),
    }
}

pub(crate) fn unreachable(node: NodeId, reason: &ExitReason) -> SpawnError {
    let how = match reason {
        ExitReason::NodeDown { how, .. } => how.clone(),
        other => other.to_string(),
    };
    SpawnError::Unreachable { node, how }
}

/// A `link()` under way, from its call on; given up, it becomes a real unlink. If its process ends in it, it is
/// not given up: whoever is linked already must be told of an end.
struct PendingLink<'a> {
    shared: &'a Arc<Shared>,
    pid: Pid,
    done: bool,
}

impl Drop for PendingLink<'_> {
    fn drop(&mut self) {
        if !self.done && !off("giving link() up is an unlink") {
            self.shared.step(|core, effects| {
                if core.block.ended().is_none()
                    && (!core.must_end() || off("a process that ends gives no link() up"))
                {
                    core.block.unlink(self.pid, effects);
                    core.block.forget_unlink_caller(self.pid);
                }
            });
        }
    }
}

/// A remote spawn under way; given up, it is cancelled.
struct PendingSpawn<'a> {
    shared: &'a Arc<Shared>,
    node: NodeId,
    reference: u64,
    answer: Option<oneshot::Receiver<SpawnAnswer>>,
}

impl PendingSpawn<'_> {
    /// What `spawn` returns. Without an answer it is given up, unless it is answered in this very
    /// moment: a child that may run is never reported as failed (P4).
    fn settle(
        mut self,
        answered: Option<Result<SpawnAnswer, oneshot::error::RecvError>>,
    ) -> Result<Pid, SpawnError> {
        let mut answer = self.answer.take().expect("settled once");
        self.shared.step(|core, _| {
            let waits = core.block.asked(self.node, self.reference);
            let answered = match answered {
                Some(answered) => answered.ok(),
                None => match answer.try_recv() {
                    Ok(answered) => Some(answered),
                    Err(oneshot::error::TryRecvError::Closed) => None,
                    Err(oneshot::error::TryRecvError::Empty) => {
                        if waits && let Some(remote) = self.shared.env.remote() {
                            remote.cancel(self.node, self.reference);
                        }
                        return Err(SpawnError::TimedOut);
                    }
                },
            };
            answered.unwrap_or_else(|| {
                Err(SpawnError::Unreachable {
                    node: self.node,
                    how: "session ended".into(),
                })
            })
        })
    }
}

impl Drop for PendingSpawn<'_> {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else {
            return;
        };
        self.shared.step(|core, effects| {
            if core.block.asked(self.node, self.reference) {
                if let Some(remote) = self.shared.env.remote() {
                    remote.cancel(self.node, self.reference);
                }
            } else if let Ok(Ok(child)) = answer.try_recv() {
                // Started in this very moment, and nobody will ever know its pid.
                core.block.unlink(child, effects);
                core.block.forget_unlink_caller(child);
                effects.push(Effect::Send(child, tidelock_proto::link::Signal::Kill));
            }
        });
    }
}
