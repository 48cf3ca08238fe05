//! What the processes of a simulated cluster can do: everything a guest can. They write it down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tidelock::{
    Context, Filter, LinkError, LinkForm, Message, Module, NodeId, Param, Pid, Received,
    SpawnRequest,
};
use tokio::time::Instant;

use super::chance::Chance;
use super::journal::{Journal, Linked, What};
use super::network::Clock;

/// How long most calls wait.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longer than it takes to notice that a node is gone, so that the call is ended by that.
const MORE_PATIENCE: Duration = Duration::from_secs(5);

/// What the LinkDied of a child carries.
pub(crate) const CHILD_TAG: i64 = 2;
/// The longest timer, in milliseconds.
const TIMER_MS_MAX: u64 = 4_000;

/// At multiples of this, many act at once.
pub(crate) const BEAT: Duration = Duration::from_millis(300);

/// The guest that processes spawn on other nodes: says its number first, then does what the last bits of
/// it say: traps (0), returns (1), or waits for its end.
pub(crate) const CHILD: &str = r#"(module
  (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\09\00\00\00")
  (data (i32.const 24) "\0a")
  (func (export "child") (param $token i64)
    (local $at i32) (local $rest i64)
    (local.set $rest (local.get $token))
    (local.set $at (i32.const 24))
    (loop $letters
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 97) (i32.wrap_i64 (i64.and (local.get $rest) (i64.const 15)))))
      (local.set $rest (i64.shr_u (local.get $rest) (i64.const 4)))
      (br_if $letters (i32.gt_u (local.get $at) (i32.const 16))))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i64.eqz (i64.and (local.get $token) (i64.const 3))) (then (unreachable)))
    (if (i64.eq (i64.and (local.get $token) (i64.const 3)) (i64.const 1)) (then (return)))
    (loop $wait
      (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
      (br $wait))))"#;

/// Reads the number back that a child has said.
pub(crate) fn token(line: &[u8]) -> Option<u32> {
    line.iter().try_fold(0u32, |token, letter| {
        let nibble = letter.checked_sub(b'a').filter(|nibble| *nibble < 16)?;
        token.checked_mul(16)?.checked_add(u32::from(nibble))
    })
}

/// Writes for one node.
#[derive(Debug, Clone)]
pub(crate) struct Scribe {
    pub(crate) journal: Arc<Journal>,
    pub(crate) clock: Clock,
}

impl Scribe {
    pub(crate) fn now(&self) -> Duration {
        self.clock.at(Instant::now())
    }

    pub(crate) fn write(&self, what: What) {
        self.journal.write(self.now(), what);
    }
}

/// What all processes of one run know.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) module: Module,
    /// Everybody who ever lived, the youngest last.
    pub(crate) roster: Mutex<Vec<Pid>>,
    /// The nodes that run.
    pub(crate) nodes: Mutex<Vec<NodeId>>,
    /// Who has whom as a rival, on another node if there is one: most calls are between rivals.
    rivals: Mutex<BTreeMap<Pid, Pid>>,
    /// Who has no rival yet.
    single: Mutex<Vec<Pid>>,
    tokens: AtomicU32,
    numbers: AtomicU32,
    tags: AtomicU32,
    /// When nobody begins anything any more.
    pub(crate) quiet_at: Duration,
    /// Processes monitor nodes and set timers, too.
    pub(crate) has_more_deeds: bool,
}

impl World {
    pub(crate) fn new(module: Module, quiet_at: Duration, has_more_deeds: bool) -> Arc<Self> {
        Arc::new(World {
            module,
            roster: Mutex::default(),
            nodes: Mutex::default(),
            rivals: Mutex::default(),
            single: Mutex::default(),
            tokens: AtomicU32::new(1),
            numbers: AtomicU32::new(1),
            tags: AtomicU32::new(1 + CHILD_TAG as u32),
            quiet_at,
            has_more_deeds,
        })
    }

    pub(crate) fn enters(&self, pid: Pid) {
        self.roster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pid);
    }

    /// Finds a rival for somebody, now or when the next one looks for one.
    pub(crate) fn match_up(&self, pid: Pid) {
        let mut single = self.single.lock().unwrap_or_else(PoisonError::into_inner);
        let other = single.iter().position(|other| other.node() != pid.node());
        let Some(at) = other else {
            if !single.contains(&pid) {
                single.push(pid);
            }
            return;
        };
        let other = single.remove(at);
        let mut rivals = self.rivals.lock().unwrap_or_else(PoisonError::into_inner);
        rivals.insert(pid, other);
        rivals.insert(other, pid);
    }

    pub(crate) fn rival(&self, pid: Pid) -> Option<Pid> {
        let rivals = self.rivals.lock().unwrap_or_else(PoisonError::into_inner);
        rivals.get(&pid).copied()
    }

    /// Somebody, rather one of the last forty.
    pub(crate) fn somebody(&self, chance: &mut Chance) -> Option<Pid> {
        let roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let young = roster.len().saturating_sub(40);
        let from = if chance.per_mille(100) { 0 } else { young };
        chance.pick(&roster[from..]).copied()
    }
}

/// One process, and what it can do.
pub(crate) struct Player {
    pub(crate) me: Context,
    pub(crate) scribe: Scribe,
    pub(crate) world: Arc<World>,
    pub(crate) chance: Chance,
    /// References, of processes and of nodes.
    monitors: Vec<u64>,
    /// Each with the number of its message.
    timers: Vec<(u64, u64)>,
}

impl Player {
    pub(crate) fn new(me: Context, scribe: Scribe, world: Arc<World>, chance: Chance) -> Self {
        scribe.write(What::Began(me.pid()));
        Player {
            me,
            scribe,
            world,
            chance,
            monitors: Vec::new(),
            timers: Vec::new(),
        }
    }

    /// Reads until then, or to its end.
    pub(crate) async fn listen(&mut self, until: Option<Instant>) {
        while let Some(received) = self.me.receive(Filter::Any, until).await {
            self.note(received);
        }
    }

    pub(crate) async fn listen_for(&mut self, pause: Duration) {
        self.listen(Some(Instant::now() + pause)).await;
    }

    /// Reads what is there already. Every call begins with that: the judge counts on it.
    pub(crate) fn empty(&mut self) {
        while let Some(received) = self.me.try_receive(&Filter::Any) {
            self.note(received);
        }
    }

    fn note(&self, received: Received) {
        let by = self.me.pid();
        self.scribe.write(match received {
            Received::Message(message) => match read(&message.data) {
                Some((from, meant, number)) => What::Got {
                    by,
                    from,
                    meant,
                    number,
                },
                None => What::Fault(format!("{by} got a message nobody sends")),
            },
            Received::LinkDied {
                pid: about,
                tag,
                reason,
            } => What::LinkDied {
                by,
                about,
                tag,
                reason,
            },
            Received::Down {
                pid: about,
                reference,
                reason,
            } => What::Down {
                by,
                about,
                reference,
                reason,
            },
            Received::NodeDown {
                node,
                reference,
                reason,
            } => What::ToldOfNode {
                by,
                node,
                reference,
                reason,
            },
        });
    }

    /// How long a call waits: mostly long enough.
    pub(crate) fn patience(&mut self) -> Duration {
        match self.chance.below(8) {
            0..=1 => Duration::from_millis(self.chance.below(60)),
            2 => MORE_PATIENCE,
            _ => PATIENCE,
        }
    }

    fn form(&mut self) -> LinkForm {
        if self.chance.per_mille(500) {
            LinkForm::Value
        } else {
            LinkForm::Notice
        }
    }

    /// Another one for each link, as wide as any.
    fn tag(&self) -> i64 {
        i64::from(self.world.tags.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) async fn link(&mut self, to: Pid, within: Duration) {
        self.empty();
        let (by, tag) = (self.me.pid(), self.tag());
        self.scribe.write(What::LinkCalled {
            by,
            to,
            tag,
            within,
        });
        let form = self.form();
        let deadline = Some(Instant::now() + within);
        let returned = self.me.link(to, Some(tag), form, deadline).await;
        self.link_returned(to, returned);
    }

    fn link_returned(&self, to: Pid, returned: Result<(), LinkError>) {
        let (how, reason) = match returned {
            Ok(()) => (Linked::Yes, None),
            Err(LinkError::Ended(reason)) => (Linked::Gone, Some(reason)),
            Err(_) => (Linked::TimedOut, None),
        };
        let by = self.me.pid();
        self.scribe.write(What::LinkReturned {
            by,
            to,
            how,
            reason,
        });
    }

    pub(crate) async fn unlink(&mut self, to: Pid, within: Duration) {
        self.empty();
        self.finish_unlink(to, within).await;
    }

    async fn finish_unlink(&mut self, to: Pid, within: Duration) {
        let by = self.me.pid();
        self.scribe.write(What::UnlinkCalled { by, to, within });
        let deadline = Some(Instant::now() + within);
        let in_time = self.me.unlink(to, deadline).await.is_ok();
        self.scribe.write(What::UnlinkReturned { by, to, in_time });
    }

    /// Links and unlinks in one breath: nothing but the link's own answer can have come between.
    pub(crate) async fn flicker(&mut self, to: Pid, within: Duration) {
        self.empty();
        let (by, tag) = (self.me.pid(), self.tag());
        let at_once = Duration::ZERO;
        self.scribe.write(What::LinkCalled {
            by,
            to,
            tag,
            within: at_once,
        });
        let form = self.form();
        let returned = self.me.link(to, Some(tag), form, None).now_or_never();
        self.link_returned(to, returned.unwrap_or(Err(LinkError::TimedOut)));
        self.finish_unlink(to, within).await;
    }

    fn number(&self) -> u64 {
        u64::from(self.world.numbers.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) async fn send(&mut self, to: Pid) {
        let by = self.me.pid();
        let bytes = if self.chance.per_mille(8) { 70_000 } else { 24 };
        self.scribe.write(What::SendCalled { by, to, bytes });
        let number = self.number();
        let message = Message {
            tag: None,
            data: written(by, to, number, bytes),
            resources: Vec::new(),
        };
        let sent = self.me.send(to, message).await;
        self.scribe.write(match sent {
            Ok(()) => What::Sent { by, to, number },
            Err(_) => What::NotSent { by, to },
        });
    }

    pub(crate) async fn monitor(&mut self, to: Pid) {
        let by = self.me.pid();
        self.scribe.write(What::MonitorCalled { by, to });
        let reference = self.me.monitor(to).await;
        self.monitors.push(reference);
        self.scribe
            .write(What::MonitorReturned { by, to, reference });
    }

    pub(crate) async fn monitor_node(&mut self) {
        let (by, since) = (self.me.pid(), self.scribe.now());
        let Some(node) = self.node() else { return };
        self.scribe.write(What::NodeMonitorCalled { by, node });
        let reference = self.me.monitor_node(node).await;
        self.monitors.push(reference);
        self.scribe.write(What::NodeMonitorReturned {
            by,
            node,
            reference,
            since,
        });
    }

    /// One of the nodes that run.
    fn node(&mut self) -> Option<NodeId> {
        let nodes = self.world.nodes.lock();
        let nodes = nodes.unwrap_or_else(PoisonError::into_inner);
        self.chance.pick(&nodes).copied()
    }

    /// Sends something later. It is sent also if this process has ended by then.
    pub(crate) fn send_later(&mut self, to: Pid) {
        let (by, number) = (self.me.pid(), self.number());
        let delay = Duration::from_millis(self.chance.below(TIMER_MS_MAX));
        let message = Message::new(None, written(by, to, number, 24));
        self.scribe.write(What::TimerSet {
            by,
            to,
            number,
            delay,
        });
        let timer = self.me.send_after(to, message, delay);
        self.timers.push((timer, number));
    }

    pub(crate) fn cancel_timer(&mut self) {
        let by = self.me.pid();
        if let Some((timer, number)) = self.chance.pick(&self.timers).copied() {
            self.timers.retain(|(other, _)| *other != timer);
            let taken = self.me.cancel_timer(timer);
            self.scribe
                .write(What::TimerCancelled { by, number, taken });
        }
    }

    pub(crate) fn demonitor(&mut self) {
        self.empty();
        let by = self.me.pid();
        if let Some(reference) = self.chance.pick(&self.monitors).copied() {
            self.monitors.retain(|other| *other != reference);
            self.me.demonitor(reference);
            self.scribe.write(What::Demonitored { by, reference });
        }
    }

    pub(crate) async fn kill(&mut self, target: Pid) {
        let by = self.me.pid();
        self.scribe.write(What::Killed { by, target });
        self.me.kill(target).await;
        self.scribe.write(What::KillReturned { by });
    }

    /// Spawns a guest somewhere, linked.
    pub(crate) async fn spawn(&mut self, within: Duration) -> Option<Pid> {
        self.empty();
        let by = self.me.pid();
        let on = self.node()?;
        let token = self.world.tokens.fetch_add(1, Ordering::Relaxed);
        self.scribe.write(What::SpawnCalled {
            by,
            on,
            token,
            within,
        });
        let request = SpawnRequest {
            module: self.world.module.clone(),
            entry: "child".into(),
            params: vec![Param::I64(i64::from(token))],
            config: None,
            link: Some(Some(CHILD_TAG)),
        };
        let deadline = Some(Instant::now() + within);
        let child = self.me.spawn_on(on, request, deadline).await.ok();
        self.scribe.write(What::SpawnReturned { by, token, child });
        child
    }
}

fn written(from: Pid, to: Pid, number: u64, size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size);
    for part in [from.raw(), to.raw(), number] {
        bytes.extend_from_slice(&part.to_le_bytes());
    }
    bytes.resize(size.max(24), 0);
    bytes.into()
}

fn read(bytes: &[u8]) -> Option<(Pid, Pid, u64)> {
    let part = |at: usize| {
        let bytes = bytes.get(at * 8..at * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    Some((Pid::from_raw(part(0)?)?, Pid::from_raw(part(1)?)?, part(2)?))
}
