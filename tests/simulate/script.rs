//! What the processes of a simulated cluster do: everything a guest can, by chance, and write it down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidelock::{
    Context, ExitReason, Filter, LinkError, LinkForm, Message, Module, NodeId, Param, Pid,
    Received, SpawnRequest,
};
use tokio::time::Instant;

use super::chance::Chance;
use super::journal::{Journal, Linked, What};
use super::network::Clock;

/// How long a call waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// At multiples of this, many act at once.
const BEAT_MS: u64 = 300;

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
    /// When nobody begins anything any more.
    pub(crate) quiet_at: Duration,
}

impl World {
    pub(crate) fn new(module: Module, quiet_at: Duration) -> Arc<Self> {
        Arc::new(World {
            module,
            roster: Mutex::default(),
            nodes: Mutex::default(),
            rivals: Mutex::default(),
            single: Mutex::default(),
            tokens: AtomicU32::new(1),
            numbers: AtomicU32::new(1),
            quiet_at,
        })
    }

    fn enters(&self, pid: Pid) {
        self.roster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pid);
    }

    /// Finds a rival for somebody, now or when the next one looks for one.
    fn match_up(&self, pid: Pid) {
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

    fn rival(&self, pid: Pid) -> Option<Pid> {
        let rivals = self.rivals.lock().unwrap_or_else(PoisonError::into_inner);
        rivals.get(&pid).copied()
    }

    /// Somebody, rather one of the last forty.
    fn somebody(&self, chance: &mut Chance) -> Option<Pid> {
        let roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let young = roster.len().saturating_sub(40);
        let from = if chance.per_mille(100) { 0 } else { young };
        chance.pick(&roster[from..]).copied()
    }
}

/// One process.
pub(crate) struct Actor {
    pub(crate) me: Context,
    pub(crate) scribe: Scribe,
    pub(crate) world: Arc<World>,
    pub(crate) chance: Chance,
    /// Whom it dealt with lately: most calls are about them, so that calls cross.
    pub(crate) friends: Vec<Pid>,
    pub(crate) monitors: Vec<u64>,
}

impl Actor {
    pub(crate) async fn run(mut self) -> ExitReason {
        let pid = self.me.pid();
        self.scribe.write(What::Began(pid));
        self.world.enters(pid);
        self.world.match_up(pid);
        let fragile = self.chance.per_mille(120);
        self.me.set_die_when_link_dies(fragile);
        while self.scribe.now() < self.world.quiet_at {
            // Mostly in bursts, and all at the same beat: what crosses is what can go wrong.
            let now = self.scribe.now().as_millis() as u64;
            let beat = BEAT_MS - now % BEAT_MS;
            let pause = match self.chance.below(6) {
                0 => self.chance.below(4),
                1 => self.chance.below(40),
                2..=4 => beat + self.chance.below(25),
                _ => self.chance.below(1_500),
            };
            self.listen(Some(Instant::now() + Duration::from_millis(pause)))
                .await;
            if let Some(end) = self.act().await {
                return end;
            }
        }
        self.listen(None).await;
        ExitReason::Normal
    }

    async fn listen(&mut self, until: Option<Instant>) {
        while let Some(received) = self.me.receive(Filter::Any, until).await {
            self.note(received);
        }
    }

    /// Reads what is there already.
    fn empty(&mut self) {
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
            Received::LinkDied { pid: about, .. } => What::LinkDied { by, about },
            Received::Down {
                pid: about,
                reference,
                ..
            } => What::Down {
                by,
                about,
                reference,
            },
            Received::NodeDown { .. } => return,
        });
    }

    fn partner(&mut self) -> Option<Pid> {
        let me = self.me.pid();
        if self.chance.per_mille(20) {
            self.world.match_up(me);
        }
        if self.chance.per_mille(600)
            && let Some(rival) = self.world.rival(me)
        {
            return Some(rival);
        }
        if !self.friends.is_empty() && self.chance.per_mille(700) {
            return self.chance.pick(&self.friends).copied();
        }
        let somebody = self
            .world
            .somebody(&mut self.chance)
            .filter(|pid| *pid != me)?;
        if self.friends.len() >= 3 {
            self.friends.remove(0);
        }
        self.friends.push(somebody);
        Some(somebody)
    }

    /// One deed; an answer is the end.
    async fn act(&mut self) -> Option<ExitReason> {
        let by = self.me.pid();
        let to = self.partner()?;
        match self.chance.below(100) {
            0..=24 => {
                let number = u64::from(self.world.numbers.fetch_add(1, Ordering::Relaxed));
                let size = if self.chance.per_mille(8) { 70_000 } else { 24 };
                let message = Message {
                    tag: None,
                    data: written(by, to, number, size),
                    resources: Vec::new(),
                };
                let sent = self.me.send(to, message).await;
                self.scribe.write(match sent {
                    Ok(()) => What::Sent { by, to, number },
                    Err(_) => What::NotSent { by, to },
                });
            }
            25..=54 => {
                self.scribe.write(What::LinkCalled { by, to });
                let form = if self.chance.per_mille(500) {
                    LinkForm::Value
                } else {
                    LinkForm::Notice
                };
                let deadline = Some(Instant::now() + self.patience());
                let how = match self.me.link(to, Some(1), form, deadline).await {
                    Ok(()) => Linked::Yes,
                    Err(LinkError::Ended(_)) => Linked::Gone,
                    Err(_) => Linked::TimedOut,
                };
                self.scribe.write(What::LinkReturned { by, to, how });
            }
            55..=76 => {
                self.empty();
                self.scribe.write(What::UnlinkCalled { by, to });
                let deadline = Some(Instant::now() + self.patience());
                let in_time = self.me.unlink(to, deadline).await.is_ok();
                self.scribe.write(What::UnlinkReturned { by, to, in_time });
            }
            77..=82 => {
                let reference = self.me.monitor(to).await;
                self.monitors.push(reference);
                self.scribe
                    .write(What::MonitorReturned { by, to, reference });
            }
            83..=85 => {
                self.empty();
                if let Some(reference) = self.chance.pick(&self.monitors).copied() {
                    self.monitors.retain(|other| *other != reference);
                    self.me.demonitor(reference);
                    self.scribe.write(What::Demonitored { by, reference });
                }
            }
            86..=93 => self.spawn().await,
            94..=95 => {
                self.scribe.write(What::Killed { by, target: to });
                self.me.kill(to).await;
            }
            96 => return Some(ExitReason::Normal),
            97..=98 => return Some(ExitReason::Exit(1)),
            _ => {}
        }
        None
    }

    /// How long a call waits: mostly long enough.
    fn patience(&mut self) -> Duration {
        match self.chance.below(4) {
            0 => Duration::from_millis(self.chance.below(60)),
            _ => PATIENCE,
        }
    }

    async fn spawn(&mut self) {
        let by = self.me.pid();
        let on = {
            let nodes = self.world.nodes.lock();
            let nodes = nodes.unwrap_or_else(PoisonError::into_inner);
            self.chance.pick(&nodes).copied()
        };
        let Some(on) = on else { return };
        let token = self.world.tokens.fetch_add(1, Ordering::Relaxed);
        self.scribe.write(What::SpawnCalled { by, on, token });
        let request = SpawnRequest {
            module: self.world.module.clone(),
            entry: "child".into(),
            params: vec![Param::I64(i64::from(token))],
            config: None,
            link: Some(Some(2)),
        };
        let deadline = Some(Instant::now() + self.patience());
        let child = self.me.spawn_on(on, request, deadline).await.ok();
        if let Some(child) = child {
            self.world.enters(child);
            self.friends.push(child);
            if self.friends.len() > 3 {
                self.friends.remove(0);
            }
        }
        self.scribe.write(What::SpawnReturned { by, token, child });
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
