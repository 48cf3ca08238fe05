//! A simulated cluster: whole nodes, each on a clock of its own that stands still until it is told to run.
//!
//! Real: environments with native and Wasm processes, sessions, transport, QUIC, TLS, certificates and
//! tickets. Simulated: the network, the clocks, and control, of which only the membership is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidelock::{
    Engine, EngineConfig, Environment, EnvironmentConfig, ExitReason, Happening, Module, NodeId,
    Pid, Profile, Remote, SpawnOptions,
};
use tidelock_certs::testing::{USUAL_SIGNATURE_BYTES, authority, make_proofs_of_one_length};
use tidelock_certs::{Authority, Environments, Identity, Key, UnixTime};
use tidelock_node::dist::{Dist, DistConfig, Member, PeerEvent};
use tidelock_node::transport::Transport;
use tidelock_proto::session::Limits;
use tokio::runtime::Runtime;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::actor::Actor;
use super::chance::Chance;
use super::duel::{Duellist, Rival};
use super::journal::{Entry, Journal, What};
use super::network::{Clock, Network, Weather};
use super::plan::{END_AT, Fault, NODES, Plan, REAPING_AT};
use super::script::{BEAT, CHILD, Player, Scribe, World, token};

/// The lease of every node.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// What processes are called that deal with one other only.
const DUELLIST: &str = "duellist";
/// Duels that begin with every beat.
const DUELS: usize = 2;
/// How often it is looked whether somebody has left.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than any run.
const DAY: Duration = Duration::from_secs(86_400);
/// A node that leaves for longer than this is killed.
const LEAVE_MAX: Duration = Duration::from_secs(6);
/// How long control takes to list a node as lost.
const CONTROL_LEASE: Duration = Duration::from_secs(10);

/// Which node, of which name, until when.
type Shown = (NodeId, usize, Option<Duration>);

/// Decimal digits of most keys' fingerprints, byte by byte, as a ticket has them.
const USUAL_DIGITS: usize = 82;

/// What all runs of this program share: they cost seconds, and change nothing.
struct Common {
    engine: Engine,
    module: Module,
    authority: Authority,
    now: UnixTime,
    keys: Mutex<BTreeMap<(NodeId, usize), Key>>,
    identities: Mutex<BTreeMap<Shown, Arc<Identity>>>,
}

fn common() -> &'static Common {
    static COMMON: OnceLock<Common> = OnceLock::new();
    COMMON.get_or_init(|| {
        make_proofs_of_one_length();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let _inside = runtime.enter();
        // Without checks of the time in loops: a tick of the real clock must not change a run.
        let engine = Engine::new(EngineConfig {
            trusted: true,
            profile: Profile::Dense,
            ..EngineConfig::default()
        })
        .expect("an engine");
        let bytes = wat::parse_str(CHILD).expect("the child is proper text");
        let module = runtime.block_on(Module::compile(&engine, bytes));
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since.expect("it is after 1970"));
        Common {
            engine,
            module: module.expect("the child is a module"),
            authority: authority("simulated", now),
            now,
            keys: Mutex::default(),
            identities: Mutex::default(),
        }
    })
}

/// Makes something signed until its signature is as long as most are. How long one is follows from no seed, and what is
/// sent is counted in bytes here and there.
fn of_usual_length<T: AsRef<[u8]>>(mut make: impl FnMut() -> T) -> T {
    loop {
        let made = make();
        // A sequence of two numbers (ECDSA in DER), and nothing after it.
        let signed = made.as_ref();
        let end = &signed[signed.len() - USUAL_SIGNATURE_BYTES..];
        if end.starts_with(&[0x30, USUAL_SIGNATURE_BYTES as u8 - 2, 0x02]) {
            return made;
        }
    }
}

/// What a node is, until that time of a run.
fn identity(shown: Shown) -> Arc<Identity> {
    let (id, name, until) = shown;
    let common = common();
    let locked = |poison: PoisonError<_>| poison.into_inner();
    let mut keys = common.keys.lock().unwrap_or_else(PoisonError::into_inner);
    let authority = &common.authority;
    let named = format!("node-{name}");
    let issue = |key: &Key| {
        authority
            .issue_node(
                &key.signing_request(),
                &named,
                until.unwrap_or(DAY),
                common.now,
            )
            .expect("a proper request")
    };
    let new_key = || {
        let is_usual = |key: &Key| {
            let print = tidelock_certs::key_fingerprint(&issue(key)).expect("it has a key");
            let digits = print.iter().map(|byte| byte.to_string().len());
            digits.sum::<usize>() == USUAL_DIGITS
        };
        std::iter::repeat_with(Key::generate)
            .find(is_usual)
            .expect("one in eight")
    };
    let key = keys.entry((id, name)).or_insert_with(new_key);
    let made = || {
        let certificate = of_usual_length(|| issue(key));
        let ticket = of_usual_length(|| {
            authority
                .issue_ticket(&certificate, id, Environments::Any)
                .expect("a certificate of its own")
        });
        let root = authority.certificate().clone();
        let identity = Identity::new(key.clone(), vec![certificate], root, Some(ticket));
        Arc::new(identity.expect("what belongs together"))
    };
    let mut all = common.identities.lock().unwrap_or_else(locked);
    all.entry(shown).or_insert_with(made).clone()
}

/// One start of a node.
struct Machine {
    id: NodeId,
    addr: SocketAddr,
    runtime: Runtime,
    env: Environment,
    dist: Arc<Dist>,
    scribe: Scribe,
    /// When the certificate that it shows runs out, if it does.
    good_until: Option<Duration>,
    /// Has run until then.
    reached: Duration,
    /// Stands still since then.
    paused_at: Option<Duration>,
    leaving: Option<Leaving>,
}

impl Machine {
    fn run_to(&mut self, until: Duration) {
        let shown = self.scribe.clock.shows(until);
        self.runtime
            .block_on(async { tokio::time::sleep_until(shown).await });
        self.reached = until;
    }
}

/// A node that says goodbye.
struct Leaving {
    since: Duration,
    /// How long after it has left its name starts again, if it does.
    back: Option<Duration>,
    /// It has said it.
    done: Arc<AtomicBool>,
}

/// A cluster under a plan.
struct Cluster<'a> {
    plan: &'a Plan,
    network: Arc<Network>,
    journal: Arc<Journal>,
    world: Arc<World>,
    /// By name.
    machines: Vec<Option<Machine>>,
    members: BTreeMap<NodeId, Member>,
    next_id: u64,
    control_down: bool,
    /// Names that left and do not start again.
    away: BTreeSet<usize>,
    /// Actors and duels made so far, for their seeds.
    actors: u64,
    duels: u64,
    agenda: BTreeMap<(Duration, u64), Step>,
    steps: u64,
}

/// Something that is due.
#[derive(Debug, Clone)]
enum Step {
    Begin(Fault),
    Cut(usize, usize, bool),
    Restart(usize),
    /// A node that leaves is gone, if it is done.
    Gone(usize, NodeId),
    Resume(usize),
    Calm,
    ControlUp,
    Lost(NodeId),
    /// A node has a certificate that is good until then.
    Renew(NodeId, Option<Duration>),
    /// Makes up for actors that ended.
    Fill,
    /// Two processes are made that deal with each other.
    Duel,
    /// The second of them, if it is born late.
    Second(usize, Rival, u64),
    Quiet,
    Reap,
}

/// How a run went.
pub(crate) struct Run {
    pub(crate) entries: Vec<Entry>,
    pub(crate) datagrams: u64,
    /// Changes if any datagram, or its time, does.
    pub(crate) digest: u64,
}

/// Runs a plan from its start to its end.
pub(crate) fn run(plan: &Plan) -> Run {
    let mut cluster = Cluster::new(plan);
    let mut now = Duration::ZERO;
    while now < END_AT {
        while let Some(due) = cluster.agenda.first_entry()
            && due.key().0 <= now
        {
            let step = due.remove();
            cluster.carry_out(now, step);
        }
        let next = cluster.agenda.first_key_value();
        now = next.map_or(END_AT, |((at, _), _)| END_AT.min(*at));
        cluster.run_to(now);
    }
    for machine in cluster.machines.iter().flatten() {
        for info in machine.env.processes() {
            cluster.journal.write(now, What::Lives(info.pid));
        }
    }
    let (datagrams, digest) = cluster.network.trace();
    // What the end of the machines would write is no part of the run.
    let entries = cluster.journal.take();
    for machine in cluster.machines.iter().flatten() {
        cluster.network.unplug(machine.addr);
    }
    Run {
        entries,
        datagrams,
        digest,
    }
}

impl<'a> Cluster<'a> {
    fn new(plan: &'a Plan) -> Self {
        let common = common();
        let mut cluster = Cluster {
            plan,
            network: Network::new(plan.seed, plan.weather()),
            journal: Arc::default(),
            world: World::new(common.module.clone(), plan.quiet_at, plan.has_more_deeds()),
            machines: (0..NODES).map(|_| None).collect(),
            members: BTreeMap::new(),
            next_id: 1,
            control_down: false,
            away: BTreeSet::new(),
            actors: 0,
            duels: 0,
            agenda: BTreeMap::new(),
            steps: 0,
        };
        for name in 0..NODES {
            cluster.start(name, Duration::ZERO);
        }
        for due in plan.faults() {
            cluster.plan_step(due.at, Step::Begin(due.fault));
        }
        cluster.plan_step(Duration::ZERO, Step::Fill);
        cluster.plan_step(BEAT, Step::Duel);
        cluster.plan_step(plan.quiet_at, Step::Quiet);
        cluster.plan_step(REAPING_AT, Step::Reap);
        cluster
    }

    /// Runs the machine that is furthest behind, as far as it may, until all are there.
    fn run_to(&mut self, until: Duration) {
        let lookahead = self.plan.weather().lookahead();
        loop {
            let machines = self.machines.iter_mut().flatten();
            let mut awake: Vec<_> = machines
                .filter(|machine| machine.paused_at.is_none())
                .collect();
            awake.sort_by_key(|machine| machine.reached);
            let Some((first, others)) = awake.split_first_mut() else {
                return;
            };
            if first.reached >= until {
                return;
            }
            let free = others.first().map(|next| next.reached + lookahead);
            first.run_to(free.map_or(until, |free| until.min(free)));
        }
    }

    fn plan_step(&mut self, at: Duration, step: Step) {
        self.steps += 1;
        self.agenda.insert((at, self.steps), step);
    }

    fn addr(name: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1 + name as u8], 7_701 + name as u16))
    }

    fn start(&mut self, name: usize, now: Duration) {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        let addr = Self::addr(name);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // What was woken from outside comes behind the rest, not at each 31st turn: how many turns there
            // were depends on keys and nonces, which no seed decides.
            .global_queue_interval(u32::MAX)
            .event_interval(u32::MAX)
            .build()
            .expect("a runtime");
        let clock = Clock {
            base: runtime.block_on(async { Instant::now() }),
            since: now,
            fast_ppm: self.plan.skew(id.0),
        };
        let port = self.network.plug(addr, clock, common().now);
        let scribe = Scribe {
            journal: self.journal.clone(),
            clock,
        };
        self.journal.write(now, What::Started { node: id, name });
        let papers = self.plan.papers(id.0, now);
        for paper in &papers[1..] {
            self.plan_step(paper.shown_at, Step::Renew(id, paper.until));
        }
        let good_until = papers[0].until;
        let shown = What::Shows {
            node: id,
            until: good_until,
        };
        self.journal.write(now, shown);
        let identity = identity((id, name, good_until));
        let mut chance = Chance::of(self.plan.seed, 200 + id.0);
        let mut seed = [0; 32];
        for part in seed.chunks_mut(8) {
            part.copy_from_slice(&chance.next().to_le_bytes());
        }
        let heard = scribe.clone();
        let (env, dist) = runtime.block_on(async {
            let config = EnvironmentConfig {
                node: id,
                output: Some(Arc::new(move |line| {
                    if let Some(token) = token(&line.line) {
                        heard.write(What::Ran {
                            child: line.pid,
                            token,
                        });
                    }
                })),
                ..EnvironmentConfig::default()
            };
            let env = Environment::with_engine(config, common().engine.clone());
            env.modules().keep(&common().module);
            let transport =
                Transport::over(port.clone(), &identity, LEASE, seed).expect("a transport");
            let dist = Dist::new(DistConfig {
                env: env.clone(),
                transport,
                lease: LEASE,
                mesh_max: usize::MAX,
                limits: Limits::default(),
                network: tokio::runtime::Handle::current(),
            });
            let remote: Arc<dyn Remote> = dist.clone();
            env.set_remote(Arc::downgrade(&remote));
            tokio::spawn(write_sessions(scribe.clone(), id, dist.events()));
            tokio::spawn(write_ends(scribe.clone(), env.events()));
            tokio::spawn(dist.clone().accept());
            (env, dist)
        });
        self.machines[name] = Some(Machine {
            id,
            addr,
            runtime,
            env,
            dist,
            scribe,
            good_until,
            reached: now,
            paused_at: None,
            leaving: None,
        });
        // A later start of a name is the only one that is alive.
        let name = format!("node-{name}");
        for member in self.members.values_mut() {
            member.alive &= member.name != name;
        }
        let member = Member {
            id,
            name,
            addr,
            alive: true,
            tags: tidelock_control::tags::Tags::default(),
        };
        self.members.insert(id, member);
        self.tell_members(Some(id));
        self.note_nodes();
    }

    /// Control tells everybody who takes part; whoever has just joined learns it in any case.
    fn tell_members(&self, joined: Option<NodeId>) {
        for machine in self.machines.iter().flatten() {
            if !self.control_down || joined == Some(machine.id) {
                let _inside = machine.runtime.enter();
                machine.dist.set_members(self.members.values().cloned());
            }
        }
    }

    fn note_nodes(&self) {
        let nodes = self.machines.iter().flatten();
        *self
            .world
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = nodes.map(|machine| machine.id).collect();
    }

    fn fault(&self, now: Duration, text: String) {
        self.journal.write(now, What::Fault(text));
    }

    fn carry_out(&mut self, now: Duration, step: Step) {
        match step {
            Step::Begin(fault) => {
                if now < self.plan.quiet_at {
                    self.begin(now, fault);
                }
            }
            Step::Cut(a, b, cut) => {
                self.network.cut(Self::addr(a), Self::addr(b), cut);
                if !cut {
                    self.fault(now, format!("healed {a} -> {b}"));
                }
            }
            Step::Restart(name) => self.start(name, now),
            Step::Gone(name, id) => self.gone(now, name, id),
            Step::Resume(name) => self.resume(name, now),
            Step::Calm => {
                self.network.set_weather(self.plan.weather());
                self.fault(now, "the storm is over".into());
            }
            Step::ControlUp => {
                self.control_down = false;
                self.fault(now, "control is back".into());
                self.tell_members(None);
            }
            Step::Lost(id) => self.lost(id),
            Step::Renew(id, until) => self.renew(now, id, until),
            Step::Fill => self.fill(now),
            Step::Duel => self.duel(now),
            Step::Second(name, rival, number) => {
                self.duellist(name, &rival, number);
            }
            Step::Quiet => self.quiet(now),
            Step::Reap => self.reap(now),
        }
    }

    fn begin(&mut self, now: Duration, fault: Fault) {
        self.fault(now, format!("{fault:?}"));
        match fault {
            Fault::OneWay(a, b, length) => self.cut(now, a, b, length),
            Fault::Partition(a, b, length) => {
                self.cut(now, a, b, length);
                self.cut(now, b, a, length);
            }
            Fault::Isolate(a, length) => {
                for b in (0..NODES).filter(|b| *b != a) {
                    self.cut(now, a, b, length);
                    self.cut(now, b, a, length);
                }
            }
            Fault::Crash(name, later) => {
                if let Some(id) = self.stop(now, name) {
                    self.plan_step(now + CONTROL_LEASE, Step::Lost(id));
                    self.plan_step(now + later, Step::Restart(name));
                }
            }
            Fault::Leave(name, kills, back) => self.leave(now, name, kills, back),
            Fault::Pause(name, length) => {
                if let Some(machine) = &mut self.machines[name]
                    && machine.paused_at.is_none()
                {
                    machine.paused_at = Some(now);
                    self.journal.write(now, What::Paused(machine.id));
                    self.plan_step(now + length, Step::Resume(name));
                }
            }
            Fault::Storm(lost_per_mille, length) => {
                self.network.set_weather(Weather {
                    lost_per_mille,
                    late_per_mille: 100,
                    ..self.plan.weather()
                });
                self.plan_step(now + length, Step::Calm);
            }
            Fault::ControlDown(length) => {
                self.control_down = true;
                self.plan_step(now + length, Step::ControlUp);
            }
        }
    }

    /// A node's process is gone.
    fn stop(&mut self, now: Duration, name: usize) -> Option<NodeId> {
        let machine = self.machines[name].take()?;
        let id = machine.id;
        self.network.unplug(machine.addr);
        self.journal.write(now, What::Crashed(id));
        drop(machine);
        self.note_nodes();
        Some(id)
    }

    /// Control lists a node no more.
    fn lost(&mut self, id: NodeId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.alive = false;
        }
        self.tell_members(None);
    }

    /// A node leaves, in the order in which the daemon does.
    fn leave(&mut self, now: Duration, name: usize, kills: bool, back: Option<Duration>) {
        let Some(machine) = self.machines[name].as_mut() else {
            return;
        };
        if machine.paused_at.is_some() || machine.leaving.is_some() {
            return;
        }
        let (env, dist) = (machine.env.clone(), machine.dist.clone());
        let done = Arc::new(AtomicBool::new(false));
        let id = machine.id;
        let left = done.clone();
        machine.runtime.spawn(async move {
            dist.drain();
            if kills {
                env.shutdown().await;
            }
            dist.leave().await;
            left.store(true, Ordering::Relaxed);
        });
        machine.leaving = Some(Leaving {
            since: now,
            back,
            done,
        });
        self.journal.write(now, What::Leaves(id));
        self.plan_step(now + LOOK, Step::Gone(name, id));
    }

    /// Ends a node that has left, or takes too long for that.
    fn gone(&mut self, now: Duration, name: usize, id: NodeId) {
        let machine = self.machines[name].as_ref();
        // One that crashed meanwhile is gone already.
        let Some(machine) = machine.filter(|machine| machine.id == id) else {
            return;
        };
        let Some(leaving) = &machine.leaving else {
            return;
        };
        let is_done = leaving.done.load(Ordering::Relaxed) || now >= leaving.since + LEAVE_MAX;
        let back = leaving.back;
        if machine.paused_at.is_some() || !is_done {
            return self.plan_step(now + LOOK, Step::Gone(name, id));
        }
        self.stop(now, name);
        self.lost(id);
        match back {
            None => {
                self.away.insert(name);
            }
            Some(_) if now >= self.plan.quiet_at => self.start(name, now),
            Some(back) => self.plan_step(now + back, Step::Restart(name)),
        }
    }

    /// A node that stands still renews its certificate when it goes on.
    fn renew(&mut self, now: Duration, id: NodeId, until: Option<Duration>) {
        let machine = |(_, machine): &(usize, &mut Machine)| machine.id == id;
        let all = self.machines.iter_mut().enumerate();
        let Some((name, machine)) = all
            .filter_map(|(name, machine)| Some((name, machine.as_mut()?)))
            .find(machine)
        else {
            return;
        };
        if machine.paused_at.is_some() {
            return self.plan_step(now + LOOK, Step::Renew(id, until));
        }
        // What came due after this one, while both waited, was shown before it.
        if until.unwrap_or(Duration::MAX) < machine.good_until.unwrap_or(Duration::MAX) {
            return;
        }
        machine.good_until = until;
        let identity = identity((id, name, until));
        self.journal.write(now, What::Shows { node: id, until });
        let _inside = machine.runtime.enter();
        let taken = machine.dist.set_identity(&identity);
        taken.expect("an identity of the cluster");
    }

    fn cut(&mut self, now: Duration, a: usize, b: usize, length: Duration) {
        self.network.cut(Self::addr(a), Self::addr(b), true);
        self.plan_step(now + length, Step::Cut(a, b, false));
    }

    fn resume(&mut self, name: usize, now: Duration) {
        if let Some(machine) = &mut self.machines[name]
            && machine.paused_at.take().is_some()
        {
            self.journal.write(now, What::Resumed(machine.id));
            machine.reached = now;
            let missed = machine.scribe.clock.shows(now);
            // The clock jumps: every timer of the meantime is late.
            machine.runtime.block_on(async {
                let behind = missed.saturating_duration_since(Instant::now());
                tokio::time::advance(behind).await;
            });
        }
    }

    fn fill(&mut self, now: Duration) {
        let wanted = self.plan.actors;
        for name in 0..NODES {
            let Some(machine) = self.running(name) else {
                continue;
            };
            let all = machine.env.processes();
            let lives = all.iter().filter(|info| info.name != DUELLIST).count();
            for _ in lives..wanted {
                self.actors += 1;
                let number = 10_000 + self.actors;
                self.spawn(name, "actor", number, |player| Actor::new(player).run());
            }
        }
        let next = now + Duration::from_millis(500);
        if next < self.plan.quiet_at {
            self.plan_step(next, Step::Fill);
        }
    }

    /// The machine of that name, if it is there, does not stand still and stays.
    fn running(&self, name: usize) -> Option<&Machine> {
        let machine = self.machines[name].as_ref();
        machine.filter(|machine| machine.paused_at.is_none() && machine.leaving.is_none())
    }

    /// Makes a process whose chances follow from its number.
    fn spawn<F, C>(&self, name: usize, kind: &str, number: u64, code: F) -> Option<Pid>
    where
        F: FnOnce(Player) -> C,
        C: Future<Output = ExitReason> + Send + 'static,
    {
        let machine = self.running(name)?;
        let (scribe, world) = (machine.scribe.clone(), self.world.clone());
        let chance = Chance::of(self.plan.seed, number);
        let _inside = machine.runtime.enter();
        let made = machine
            .env
            .spawn_native(kind, SpawnOptions::default(), |me| {
                code(Player::new(me, scribe, world, chance))
            });
        Some(made.expect("there is room"))
    }

    /// The pid that the next process of a machine gets.
    fn next_pid(&self, name: usize) -> Option<Pid> {
        let machine = self.running(name)?;
        Pid::new(machine.id, machine.env.counters().spawned + 1)
    }

    fn duellist(&self, name: usize, rival: &Rival, number: u64) -> Option<Pid> {
        let rival = rival.clone();
        self.spawn(name, DUELLIST, number, |player| {
            Duellist::new(player, rival).run()
        })
    }

    /// A few duels begin with every beat.
    fn duel(&mut self, now: Duration) {
        for _ in 0..DUELS {
            self.duels += 1;
            let mut chance = Chance::of(self.plan.seed, 1_000_000 + self.duels);
            let a = chance.below(NODES as u64) as usize;
            let away = if chance.per_mille(150) {
                0
            } else {
                1 + chance.below(NODES as u64 - 1)
            };
            let b = (a + away as usize) % NODES;
            let (first, second) = (2_000_000 + 2 * self.duels, 2_000_001 + 2 * self.duels);
            let (of_a, of_b) = (Rival::default(), Rival::default());
            if chance.per_mille(250) {
                // The second is born in the middle of the duel, if the guess of its pid is right.
                if let Some(pid) = self.duellist(a, &of_a, first)
                    && let Some(guess) = self.next_pid(b)
                {
                    of_a.set(guess).expect("a fresh cell");
                    of_b.set(pid).expect("a fresh cell");
                }
                let late = Duration::from_millis(40 + chance.below(70));
                self.plan_step(now + late, Step::Second(b, of_b, second));
            } else if let Some(one) = self.duellist(a, &of_a, first)
                && let Some(two) = self.duellist(b, &of_b, second)
            {
                of_a.set(two).expect("a fresh cell");
                of_b.set(one).expect("a fresh cell");
            }
        }
        let next = now + BEAT;
        if next < self.plan.quiet_at {
            self.plan_step(next, Step::Duel);
        }
    }

    fn quiet(&mut self, now: Duration) {
        self.network.heal();
        self.network.set_weather(self.plan.weather());
        self.control_down = false;
        for name in 0..NODES {
            self.resume(name, now);
            if self.machines[name].is_none() && !self.away.contains(&name) {
                self.start(name, now);
            }
        }
        let left = |step: &Step| matches!(step, Step::Reap | Step::Renew(..) | Step::Gone(..));
        self.agenda.retain(|_, step| left(step));
        self.tell_members(None);
        self.journal.write(now, What::Quiet);
    }

    fn reap(&mut self, now: Duration) {
        self.journal.write(now, What::Reaping);
        let mut chance = Chance::of(self.plan.seed, 4);
        for machine in self.machines.iter().flatten() {
            let _inside = machine.runtime.enter();
            let mut all: Vec<Pid> = machine
                .env
                .processes()
                .iter()
                .map(|info| info.pid)
                .collect();
            all.sort_unstable();
            for pid in all {
                if chance.per_mille(500) {
                    machine.env.kill(pid, None);
                }
            }
        }
    }
}

async fn write_sessions(scribe: Scribe, on: NodeId, mut events: Receiver<PeerEvent>) {
    while let Some(event) = next(&mut events).await {
        scribe.write(match event {
            PeerEvent::Up { node: peer, epoch } => What::NodeUp { on, peer, epoch },
            PeerEvent::Down {
                node: peer,
                epoch,
                why,
            } => What::NodeDown {
                on,
                peer,
                epoch,
                why,
            },
        });
    }
}

async fn write_ends(scribe: Scribe, mut events: Receiver<tidelock::Event>) {
    while let Some(event) = next(&mut events).await {
        if let Happening::Ended { reason, .. } = event.what {
            let pid = event.pid;
            scribe.write(What::Ended { pid, reason });
        }
    }
}

/// An observer that missed something is no witness.
async fn next<T: Clone>(events: &mut Receiver<T>) -> Option<T> {
    match events.recv().await {
        Ok(event) => Some(event),
        Err(RecvError::Closed) => None,
        Err(RecvError::Lagged(missed)) => panic!("{missed} events were not written down"),
    }
}
