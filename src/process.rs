//! The life of one process: signals first, then its own code.
//!
//! # Who may touch what
//!
//! ```text
//!   other processes, sessions                        the process's own task
//!   ─────────────────────────                        ──────────────────────
//!   inbox   ── pump: under core's lock ──▶  core: block · mailbox · verdict
//!   (signals between blocks, in order)               │
//!   messages ───────────────────────────▶  mailbox   │ at every resumption:
//!                                                    │   settle notices, obey the verdict,
//!                                                    ▼   then poll the code
//! ```
//!
//! * `core` is changed under its lock only, in single steps. While it is held, signals for others
//!   are *appended* (to their inbox, or to a session's lane) and never handled, so two processes
//!   never wait for each other's lock.
//! * `inbox` is a leaf lock. Whoever appended to it pumps it after letting go of its own core. A
//!   signal is handled in the order in which it was appended, by whoever comes first.
//! * A message goes straight to the mailbox. Its sender has pumped before, so a message cannot
//!   overtake a signal of the same sender.
//! * The *verdict* (killed, mailbox full, a link's death) is set by anybody and obeyed by the task
//!   before it runs any more code. Only the task ends the process, in [`Shared::finish`], once.
//!
//! A process that is parked (made for another node, not started) has no task yet: see [`parked`].

mod after;
mod parked;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError};
use std::task::{Context as Poller, Poll, Waker};
use std::time::SystemTime;

use futures_util::FutureExt;
use tidelock_proto::link::{self, Block, Effect, LinkOutcome};
use tidelock_proto::spawn::ProcessConfig;
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, Pid, bounded};

use self::after::{After, Wakers, keep_room, take_room, wake};
pub use self::parked::Parked;
pub(crate) use self::parked::Parking;
use self::parked::Unrun;
use crate::context::not_clustered;
use crate::environment::Environment;
use crate::hibernation::Idle;
use crate::host::Origin;
use crate::mailbox::{Filter, Mailbox, Message, Notice, Received};
use crate::sync::{Mutex, MutexGuard, spawn};

/// What can be told to a process by its handle.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Put this into its mailbox.
    Message(Message),
    /// End it. Cannot be trapped.
    Kill,
}

/// A handle on a process, here or on another node.
pub trait Process: Send + Sync + fmt::Debug {
    /// Which process.
    fn pid(&self) -> Pid;

    /// Puts a signal on its way. A process that is gone is silence.
    ///
    /// # Ordering
    ///
    /// Signals through one handle arrive in the order sent, or the session is lost.
    ///
    /// # Errors
    ///
    /// [`crate::SendError`] if the signal was not put on its way.
    fn signal(&self, signal: Signal) -> crate::remote::Pending<'_, Result<(), crate::SendError>>;
}

/// What is kept for one process, by whoever may reach it.
///
/// Here and in what it is made of, fields are in this order: of a process that has waited for long nothing is in a
/// cache, so what is looked at when it is told something is together, on the fewest cache lines.
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) pid: Pid,
    pub(crate) env: Environment,
    pub(crate) about: About,
    /// Bytes of a guest's linear memory; the guest's limiter keeps it.
    pub(crate) memory: AtomicUsize,
    inbox: Mutex<VecDeque<(Pid, link::Signal)>>,
    core: Mutex<Core>,
}

/// What a process was made from; never changes. Whose it is comes first: whoever finds it looks at that, beside the
/// counts of those who hold it.
#[repr(C)]
pub(crate) struct About {
    pub(crate) environ: Environ,
    pub(crate) name: Arc<str>,
    pub(crate) parent: Option<Pid>,
    pub(crate) config: Arc<ProcessConfig>,
    pub(crate) started_at: SystemTime,
    /// Linked to the parent; the tag is what the parent's LinkDied carries.
    pub(crate) link: Option<Option<i64>>,
    pub(crate) module: Option<ModuleHash>,
    pub(crate) origin: Origin,
}

/// What changes, in single steps.
#[repr(C)]
pub(crate) struct Core {
    pub(crate) die_when_link_dies: bool,
    /// Since it was last polled, its code has found nothing to receive, and waits for that.
    pub(crate) receiving: bool,
    pub(crate) idle: Idle,
    /// Wakes the task.
    task: Option<Waker>,
    /// Wakes a receive or a call that may have a waker of its own.
    waiter: Option<Waker>,
    /// Set by anybody, obeyed by the task: why the process must end.
    verdict: Option<ExitReason>,
    /// Its code, if it is parked and nothing has decided that it must end.
    unrun: Option<Unrun>,
    pub(crate) received: u64,
    pub(crate) mailbox: Mailbox,
    /// What links need of it comes first.
    pub(crate) block: Block,
    pub(crate) linked: Option<(Pid, LinkOutcome)>,
    pub(crate) unlinked: Option<Pid>,
    /// Made for another node and not started: whom to tell if it ends before.
    parked: Option<(NodeId, u64, u64)>,
}

impl Core {
    /// Judges every notice: withdrawn, unseen, deadly, or received. At most one is deadly.
    pub(crate) fn settle(&mut self) {
        while self.mailbox.has_notices() && self.verdict.is_none() {
            let (block, verdict) = (&mut self.block, &mut self.verdict);
            let die = self.die_when_link_dies;
            self.mailbox.settle(|notice| {
                let (pid, reason) = (notice.about, &notice.reason);
                if !block.take(pid, notice.number) || reason.is_normal() {
                    return false;
                }
                if die {
                    let why = bounded(reason.to_string());
                    *verdict = Some(ExitReason::LinkDied { pid, why });
                }
                !die
            });
        }
    }

    /// Settles, then takes what `filter` accepts. A process that must end receives nothing.
    pub(crate) fn pop(&mut self, filter: &Filter) -> Option<Received> {
        self.settle();
        if self.verdict.is_some() {
            return None;
        }
        let received = self.mailbox.pop(filter)?;
        self.received += 1;
        Some(received)
    }

    /// After [`Core::pop`] has found nothing: whether it has not looked at all that waits.
    pub(crate) fn is_looking(&self) -> bool {
        self.mailbox.has_fresh() && !self.must_end()
    }

    /// Whether its code waits for a message, and nothing has come that it has not looked at.
    pub(crate) fn is_waiting(&self) -> bool {
        // Whatever comes takes the waker.
        self.receiving && self.task.is_some()
    }

    /// Whether it waits so, and its memory is packed meanwhile.
    pub(crate) fn is_hibernating(&self) -> bool {
        self.is_waiting() && self.idle == Idle::Asleep
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Whether the process must end before it runs any more code.
    pub(crate) fn must_end(&self) -> bool {
        self.verdict.is_some()
    }

    /// Decides that the process must end; the first reason counts.
    fn condemn(&mut self, reason: ExitReason) {
        if self.verdict.is_none() && self.block.ended().is_none() {
            self.verdict = Some(reason);
        }
    }

    /// Remembers whom to wake when something changes.
    pub(crate) fn wake_me(&mut self, poller: &Poller<'_>) {
        // The task itself is woken anyway.
        match &self.task {
            Some(task) if task.will_wake(poller.waker()) => self.waiter = None,
            _ => register(&mut self.waiter, poller),
        }
    }
}

fn register(slot: &mut Option<Waker>, poller: &Poller<'_>) {
    match slot {
        Some(waker) if waker.will_wake(poller.waker()) => {}
        _ => *slot = Some(poller.waker().clone()),
    }
}

impl Shared {
    pub(crate) fn new(env: Environment, pid: Pid, about: About) -> Arc<Self> {
        Arc::new(Shared {
            pid,
            env,
            about,
            core: Mutex::new(Core {
                block: Block::new(pid),
                mailbox: Mailbox::default(),
                verdict: None,
                die_when_link_dies: true,
                receiving: false,
                idle: Idle::Never,
                task: None,
                waiter: None,
                linked: None,
                unlinked: None,
                parked: None,
                unrun: None,
                received: 0,
            }),
            inbox: Mutex::new(VecDeque::new()),
            memory: AtomicUsize::new(0),
        })
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        // A panic under the lock is caught by the task that ends the process; the core stands.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step: changes the block and carries out what follows while the core is held.
    pub(crate) fn step<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Core, &mut Vec<Effect>) -> T,
    ) -> T {
        let (mut after, mut wakers) = (After::default(), Wakers::default());
        let mut effects = take_room();
        let mut core = self.core();
        let value = change(&mut core, &mut effects);
        self.carry(&mut core, &mut effects, &mut after, &mut wakers);
        drop(core);
        keep_room(effects);
        wakers.call();
        after.run();
        value
    }

    /// Handles what is in the inbox, in order.
    fn pump(self: &Arc<Self>, after: &mut After) {
        loop {
            let mut core = self.core();
            let (next, was_last) = {
                let mut inbox = self.inbox();
                (inbox.pop_front(), inbox.is_empty())
            };
            let Some((from, signal)) = next else { return };
            let wakers = self.handle(&mut core, from, signal, after);
            drop(core);
            wakers.call();
            if was_last {
                // Whoever has appended since handles it.
                return;
            }
        }
    }

    /// Hands a signal of another process to this one, whose core nobody holds here.
    pub(crate) fn deliver(self: &Arc<Self>, from: Pid, signal: link::Signal) {
        let mut after = After::default();
        let mut core = self.core();
        if self.inbox().is_empty() {
            // Under the lock that whoever empties the inbox holds: nothing that came before is still to be handled.
            let wakers = self.handle(&mut core, from, signal, &mut after);
            drop(core);
            wakers.call();
        } else {
            drop(core);
            self.append(from, signal);
            after.push(self.clone());
        }
        after.run();
    }

    fn inbox(&self) -> MutexGuard<'_, VecDeque<(Pid, link::Signal)>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, from: Pid, signal: link::Signal) {
        self.inbox().push_back((from, signal));
    }

    fn handle(
        self: &Arc<Self>,
        core: &mut Core,
        from: Pid,
        signal: link::Signal,
        after: &mut After,
    ) -> Wakers {
        let mut wakers = Wakers::default();
        let mut effects = take_room();
        core.block.handle(from, signal, &mut effects);
        self.carry(core, &mut effects, after, &mut wakers);
        keep_room(effects);
        wakers
    }

    /// Carries out effects in order, in the same step as the change they follow from. None is left.
    fn carry(
        self: &Arc<Self>,
        core: &mut Core,
        effects: &mut Vec<Effect>,
        after: &mut After,
        wakers: &mut Wakers,
    ) {
        for effect in effects.drain(..) {
            let mut wakes = true;
            match effect {
                Effect::Send(to, signal) => {
                    let mut more = Vec::new();
                    self.send_signal(core, to, signal, after, &mut more);
                    // Effects of a failed send belong to the same step and come first. They send nothing, so this ends.
                    if !more.is_empty() {
                        self.carry(core, &mut more, after, wakers);
                    }
                    wakes = false;
                }
                // Nobody sees it: the link is gone, and a process that never receives has nothing to read.
                Effect::Tell {
                    number,
                    about,
                    reason,
                    ..
                } if reason.is_normal() => {
                    let was_queued = core.block.take(about, number);
                    debug_assert!(was_queued, "it was queued in this step");
                    wakes = false;
                }
                Effect::Tell {
                    number,
                    about,
                    tag,
                    reason,
                } => {
                    core.mailbox.push_notice(Notice {
                        number,
                        about,
                        tag,
                        reason,
                    });
                    self.check_mailbox(core);
                }
                Effect::LinkReturns(peer, outcome) => core.linked = Some((peer, outcome)),
                Effect::UnlinkReturns(peer) => core.unlinked = Some(peer),
                Effect::Down {
                    reference,
                    about,
                    reason,
                } => {
                    core.mailbox.push(Received::Down {
                        pid: about,
                        reference,
                        reason,
                    });
                    self.check_mailbox(core);
                }
                Effect::NodeDown {
                    reference,
                    node,
                    reason,
                } => {
                    core.mailbox.push(Received::NodeDown {
                        node,
                        reference,
                        reason,
                    });
                    self.check_mailbox(core);
                }
                Effect::Kill(by) => core.condemn(ExitReason::Killed(Some(by))),
                Effect::CancelSpawn(node, reference) => {
                    if let Some(remote) = self.env.remote() {
                        remote.cancel(node, reference);
                    }
                    wakes = false;
                }
            }
            if wakes {
                wakers.add(core.wake());
            }
        }
    }

    fn send_signal(
        self: &Arc<Self>,
        core: &mut Core,
        to: Pid,
        signal: link::Signal,
        after: &mut After,
        more: &mut Vec<Effect>,
    ) {
        if to.node() == self.env.node() {
            match self.env.find(self.about.environ, to) {
                Some(target) => {
                    target.append(self.pid, signal);
                    after.push(target);
                }
                // Through the own inbox, behind whatever the dead one said before.
                None => {
                    if let Some(answer) = link::answer_for_nobody(&signal) {
                        self.append(to, answer);
                        after.push(self.clone());
                    }
                }
            }
            return;
        }
        let sent = match self.env.remote() {
            Some(remote) => remote.signal(self.about.environ, self.pid, to, &signal),
            None => Err(not_clustered(to.node())),
        };
        if let Err(reason) = sent {
            core.block.unsent(to, &signal, &reason, more);
        }
    }

    /// Puts a message into the mailbox; one that has ended takes nothing. `true`: the mailbox is above
    /// half of a bound, and local senders yield once per send.
    pub(crate) fn receive_message(&self, message: Message) -> bool {
        let mut core = self.core();
        let crowded = self.put(&mut core, message) && self.crowds(&core);
        wake(core);
        crowded
    }

    /// As [`Shared::receive_message`], unless the mailbox is crowded: then the message comes back.
    pub(crate) fn offer_message(&self, message: Message) -> Result<(), Message> {
        let mut core = self.core();
        if self.crowds(&core) {
            return Err(message);
        }
        self.put(&mut core, message);
        wake(core);
        Ok(())
    }

    /// As [`Shared::receive_message`] for each, in one step.
    pub(crate) fn receive_messages(&self, messages: impl Iterator<Item = Message>) {
        let mut core = self.core();
        for message in messages {
            if !self.put(&mut core, message) {
                break;
            }
        }
        wake(core);
    }

    /// Whether it was taken: a process that has ended, or must, takes nothing.
    fn put(&self, core: &mut Core, message: Message) -> bool {
        if core.block.ended().is_some() || core.must_end() {
            return false;
        }
        core.mailbox.push_message(message);
        self.check_mailbox(core);
        true
    }

    /// Whether [`Shared::offer_message`] would give a message back now.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowds(&self.core())
    }

    fn crowds(&self, core: &Core) -> bool {
        let limits = self.env.limits();
        core.mailbox.len() > limits.mailbox_len_max / 2
            || core.mailbox.bytes() > limits.mailbox_bytes_max / 2
    }

    fn check_mailbox(&self, core: &mut Core) {
        let limits = self.env.limits();
        if core.mailbox.len() > limits.mailbox_len_max
            || core.mailbox.bytes() > limits.mailbox_bytes_max
        {
            core.condemn(ExitReason::MailboxFull);
        }
    }

    /// Ends the process at its next resumption.
    pub(crate) fn condemn(&self, reason: ExitReason) {
        let mut core = self.core();
        core.condemn(reason);
        wake(core);
    }

    /// Looked at once in a while: whether it has waited for a message since the last look.
    pub(crate) fn has_waited(&self) -> bool {
        let mut core = self.core();
        core.is_waiting() && core.idle.see()
    }

    /// Lets it hibernate, if it still waits for a message.
    pub(crate) fn hibernate(&self) {
        let mut core = self.core();
        if core.is_waiting() && core.idle.ask() {
            wake(core);
        }
    }

    /// Whether it was asked to hibernate, and has not come to it.
    pub(crate) fn is_asked(&self) -> bool {
        self.core().idle == Idle::Asked
    }

    /// The process ends: everybody who must know is told in this one step. Later calls do nothing.
    pub(crate) fn finish(self: &Arc<Self>, reason: ExitReason) {
        let reason = reason.bounded();
        let ended = self.step(|core, effects| {
            if core.block.ended().is_some() {
                return None;
            }
            core.block.end(reason.clone(), effects);
            if let Some((node, epoch, reference)) = core.parked.take()
                && let Some(remote) = self.env.remote()
            {
                remote.parked_ended(node, epoch, reference);
            }
            let told = first_told(effects, self.env.node());
            Some((std::mem::take(&mut core.mailbox), told))
        });
        if let Some((mailbox, told)) = ended {
            drop(mailbox);
            self.env.ended(self, reason, told);
        }
    }

    /// Runs the code of a process in a task of its own.
    pub(crate) fn start<F>(self: &Arc<Self>, code: F)
    where
        F: Future<Output = ExitReason> + Send + 'static,
    {
        // Boxed, since a task that held the code itself would hold it twice: as what it was given
        // and where it is polled.
        self.begin(Box::pin(code));
    }

    fn begin<F>(self: &Arc<Self>, code: F)
    where
        F: Future<Output = ExitReason> + Send + 'static,
    {
        spawn(self.env.scheduler(), live(self.clone(), code));
    }
}

/// The first other node that hears of an end by an Exit.
fn first_told(effects: &[Effect], here: NodeId) -> Option<NodeId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(to, link::Signal::Exit { .. }) if to.node() != here => Some(to.node()),
        _ => None,
    })
}

/// The task of one process: signals first, then its code, then everybody is told.
async fn live<F: Future<Output = ExitReason>>(shared: Arc<Shared>, code: F) {
    // Also runs if the task itself is dropped: the end is told on every path.
    let mut end = End {
        shared: &shared,
        reason: Some(ExitReason::Killed(None)),
    };
    let reason = {
        let mut code = std::pin::pin!(AssertUnwindSafe(code).catch_unwind());
        let _condemned = Condemned(&shared);
        std::future::poll_fn(|poller| {
            {
                let mut core = shared.core();
                core.settle();
                if let Some(reason) = core.verdict.take() {
                    return Poll::Ready(reason);
                }
                core.receiving = false;
                register(&mut core.task, poller);
            }
            code.as_mut().poll(poller).map(|end| {
                let reason = end.unwrap_or_else(|panic| ExitReason::Fault(panic_text(&*panic)));
                // What it was condemned for in its last turn came before.
                shared.core().verdict.take().unwrap_or(reason)
            })
        })
        .await
        // The code is dropped here, before anybody is told.
    };
    end.reason = Some(reason);
}

/// Says, before the code is dropped, that its process ends: a `link()` that is dropped with it is not
/// given up, since the end itself tells the other side.
struct Condemned<'a>(&'a Shared);

impl Drop for Condemned<'_> {
    fn drop(&mut self) {
        self.0.core().condemn(ExitReason::Killed(None));
    }
}

struct End<'a> {
    shared: &'a Arc<Shared>,
    reason: Option<ExitReason>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if let Some(reason) = self.reason.take() {
            self.shared.finish(reason);
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    bounded(text.to_owned())
}
