//! Three processes on three nodes: what one session's end does to the links over the others.
//!
//! Goal: show that P1–P4, P6 and the Downs of monitors hold when a process has something over two
//! sessions, of which each may be lost at any point while the other lives on. Method: as
//! `model_combined.rs`, with three nodes, every two of them with a session of their own, and one
//! process each: P, C and T. A world holds the shipped blocks and sessions, and what travels
//! between them is the bytes they made. A session that is lost is not dialled again; that and two
//! processes on one node are in `model_combined.rs`.
//!
//! ```text
//! TIDELOCK_MODEL=quick cargo test -p tidelock-proto
//! cargo test --release -p tidelock-proto --test model_three -- --nocapture
//! TIDELOCK_MODEL=deep cargo test --release -p tidelock-proto --test model_three -- --nocapture
//! ```
//!
//! That this model would notice is shown by its own last test: a node that forgets to tell one
//! process of a session's end breaks a promise.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::env;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Instant;

use tidelock_proto::link::{Block, Effect, LinkForm, LinkOutcome, Signal, answer_for_nobody};
use tidelock_proto::session::{Action, Limits, Session};
use tidelock_proto::spawn::{Prepare, ProcessConfig, Refusal};
use tidelock_proto::{Environ, ExitReason, ModuleHash, NodeId, Pid};

const P: usize = 0;
const C: usize = 1;
const T: usize = 2;
const NAMES: [&str; 3] = ["P", "C", "T"];

/// The quick form looks at so many states.
const QUICK_STATES: usize = 3_000;

fn node(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

/// The process of each node; C's pid can be guessed before C is spawned.
fn pid(at: usize) -> Pid {
    Pid::new(node(at), 1).unwrap()
}

fn at(pid: Pid) -> usize {
    pid.node().0 as usize - 1
}

fn lost(peer: usize) -> ExitReason {
    ExitReason::NodeDown {
        node: node(peer),
        how: String::new(),
    }
}

/// What may happen how often, at any moment or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    /// Calls of `link`, by caller and target.
    link: [[u8; 3]; 3],
    unlink: [[u8; 3]; 3],
    monitor: [[u8; 3]; 3],
    demonitor: u8,
    end: [u8; 3],
    /// Deadlines of `link`, `unlink` and `spawn`: each is a cancel.
    give_up: u8,
    cut: u8,
    /// P spawns C, linked and monitored; without it C is there from the beginning.
    spawn: u8,
}

const NONE: Budget = Budget {
    link: [[0; 3]; 3],
    unlink: [[0; 3]; 3],
    monitor: [[0; 3]; 3],
    demonitor: 0,
    end: [0; 3],
    give_up: 0,
    cut: 0,
    spawn: 0,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wait {
    Link(usize),
    Unlink(usize),
    Spawn(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    block: Block,
    mailbox: VecDeque<(usize, u64)>,
    wait: Option<Wait>,
    parked: Option<u64>,
    /// Monitors it asked for and has not heard of.
    watching: BTreeMap<u64, usize>,
}

impl Process {
    fn new(at: usize) -> Self {
        Process {
            block: Block::new(pid(at)),
            mailbox: VecDeque::new(),
            wait: None,
            parked: None,
            watching: BTreeMap::new(),
        }
    }
}

/// What the one spawn came to, for the observer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Spawned {
    monitor: u64,
    adopted: bool,
    failed: bool,
    ran: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    processes: [Option<Rc<Process>>; 3],
    /// `ends[a][b]`: a's end of its session with b.
    ends: [[Option<Rc<Session>>; 3]; 3],
    /// `lanes[a][b]`: reads that are on the way from a to b.
    lanes: [[VecDeque<Rc<[u8]>>; 3]; 3],
    /// Sessions that are cut, by the smaller and the larger node.
    cut: [[bool; 3]; 3],
    making: Option<(u64, Rc<Prepare>)>,
    budget: Budget,
    /// `owed[a][b]`: a is owed one LinkDied about b.
    owed: [[bool; 3]; 3],
    /// `quiet[a][b]`: a called `unlink(b)`, and must hear of nothing.
    quiet: [[bool; 3]; 3],
    spawned: Spawned,
    broken: Option<&'static str>,
    /// The rule of the driver that is removed.
    deaf: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Deliver(usize, usize),
    Notice(usize, usize),
    Made,
    Refuse,
    Take(usize),
    Link(usize, usize),
    Unlink(usize, usize),
    Monitor(usize, usize),
    Demonitor(usize, u64),
    End(usize),
    GiveUp(usize),
    Spawn,
    Cut(usize, usize),
}

impl World {
    fn new(budget: Budget, deaf: bool) -> Self {
        let session = |a: usize, b: usize| {
            let session = Session::new(node(a), node(b), 1, Limits::default());
            (a != b).then(|| Rc::new(session))
        };
        let mut processes = [0, 1, 2].map(|at| Some(Rc::new(Process::new(at))));
        if budget.spawn > 0 {
            processes[C] = None;
        }
        World {
            processes,
            ends: [0, 1, 2].map(|a| [0, 1, 2].map(|b| session(a, b))),
            lanes: Default::default(),
            cut: [[false; 3]; 3],
            making: None,
            budget,
            owed: [[false; 3]; 3],
            quiet: [[false; 3]; 3],
            spawned: Spawned::default(),
            broken: None,
            deaf,
        }
    }

    /// Every step that can happen next, and how many of them need nobody's will.
    fn steps(&self) -> (Vec<Step>, usize) {
        let mut steps = Vec::new();
        for (a, b) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
            if self.ends[b][a].is_some() && !self.lanes[a][b].is_empty() {
                steps.push(Step::Deliver(a, b));
            }
            if self.ends[a][b].is_some() && (self.is_cut(a, b) || self.ends[b][a].is_none()) {
                steps.push(Step::Notice(a, b));
            }
        }
        if self.making.is_some() {
            steps.extend([Step::Made, Step::Refuse]);
        }
        for (me, process) in self.processes.iter().enumerate() {
            if process
                .as_ref()
                .is_some_and(|process| process.parked.is_none() && !process.mailbox.is_empty())
            {
                steps.push(Step::Take(me));
            }
        }
        let required = steps.len();
        for (me, process) in self.processes.iter().enumerate() {
            if let Some(process) = process {
                self.guest_steps(me, process, &mut steps);
            }
        }
        if self.budget.cut > 0 {
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                if !self.cut[a][b] {
                    steps.push(Step::Cut(a, b));
                }
            }
        }
        (steps, required)
    }

    fn guest_steps(&self, me: usize, process: &Process, steps: &mut Vec<Step>) {
        let budget = &self.budget;
        if budget.end[me] > 0 {
            steps.push(Step::End(me));
        }
        if process.wait.is_some() && budget.give_up > 0 {
            steps.push(Step::GiveUp(me));
        }
        if process.wait.is_some() || process.parked.is_some() {
            return;
        }
        for peer in 0..3 {
            if budget.link[me][peer] > 0 && !process.block.has_queued(pid(peer)) {
                steps.push(Step::Link(me, peer));
            }
            if budget.unlink[me][peer] > 0
                && process.block.links().any(|linked| linked == pid(peer))
            {
                steps.push(Step::Unlink(me, peer));
            }
            if budget.monitor[me][peer] > 0 {
                steps.push(Step::Monitor(me, peer));
            }
        }
        if budget.demonitor > 0 {
            let held = process.watching.keys();
            steps.extend(held.map(|reference| Step::Demonitor(me, *reference)));
        }
        if budget.spawn > 0 && me == P {
            steps.push(Step::Spawn);
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut[a.min(b)][a.max(b)]
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Deliver(from, to) => self.deliver(from, to),
            Step::Notice(me, peer) => self.session_ends(me, peer),
            Step::Made => self.made(),
            Step::Refuse => {
                let (reference, _) = self.making.take().expect("it is being made");
                if let Some(session) = self.session(C, P) {
                    session.refuse(reference, Refusal::Draining);
                }
            }
            Step::Take(me) => {
                let process = self.process(me).expect("it runs");
                let (about, number) = process.mailbox.pop_front().expect("a notice");
                let counts = process.block.take(pid(about), number);
                if counts && self.quiet[me][about] {
                    self.break_promise("P2: a LinkDied after unlink()");
                }
            }
            Step::Link(me, peer) => {
                self.budget.link[me][peer] -= 1;
                self.process(me).expect("it runs").wait = Some(Wait::Link(peer));
                (self.owed[me][peer], self.quiet[me][peer]) = (true, false);
                self.on_block(me, |block, out| {
                    block.link(pid(peer), None, LinkForm::Notice, out);
                });
            }
            Step::Unlink(me, peer) => {
                self.budget.unlink[me][peer] -= 1;
                self.process(me).expect("it runs").wait = Some(Wait::Unlink(peer));
                self.unlink(me, peer);
            }
            Step::Monitor(me, peer) => {
                self.budget.monitor[me][peer] -= 1;
                let process = self.process(me).expect("it runs");
                let mut effects = Vec::new();
                let reference = process.block.monitor(pid(peer), &mut effects);
                process.watching.insert(reference, peer);
                self.carry_out(me, effects);
            }
            Step::Demonitor(me, reference) => {
                self.budget.demonitor -= 1;
                self.process(me)
                    .expect("it runs")
                    .watching
                    .remove(&reference);
                self.on_block(me, |block, out| block.demonitor(reference, out));
            }
            Step::End(me) => {
                self.budget.end[me] -= 1;
                self.ends(me, ExitReason::Exit(1));
            }
            Step::GiveUp(me) => self.give_up(me),
            Step::Spawn => self.spawn(),
            Step::Cut(a, b) => {
                self.budget.cut -= 1;
                self.cut[a][b] = true;
            }
        }
        for (a, b) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
            if self.ends[a][b].as_ref().is_none_or(|end| end.unsent() == 0) {
                continue;
            }
            let session = self.session(a, b).expect("it wrote");
            let bytes = session.poll_transmit().expect("it wrote");
            session.transmitted(bytes.len());
            if !self.is_cut(a, b) && self.ends[b][a].is_some() {
                self.lanes[a][b].push_back(bytes.into());
            }
        }
    }

    fn process(&mut self, at: usize) -> Option<&mut Process> {
        self.processes[at].as_mut().map(Rc::make_mut)
    }

    fn session(&mut self, me: usize, peer: usize) -> Option<&mut Session> {
        self.ends[me][peer].as_mut().map(Rc::make_mut)
    }

    fn break_promise(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    fn on_block(&mut self, me: usize, step: impl FnOnce(&mut Block, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        if let Some(process) = self.process(me) {
            step(&mut process.block, &mut effects);
        }
        self.carry_out(me, effects);
    }

    fn carry_out(&mut self, me: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(to, signal) => self.send(me, at(to), signal),
                Effect::Tell { number, about, .. } => {
                    let about = at(about);
                    if !std::mem::take(&mut self.owed[me][about]) {
                        self.break_promise("P1: told twice, or without a link");
                    }
                    if let Some(process) = self.process(me) {
                        process.mailbox.push_back((about, number));
                    }
                }
                Effect::LinkReturns(peer, outcome) => {
                    let Some(process) = self.process(me) else {
                        continue;
                    };
                    let waits = process.wait == Some(Wait::Link(at(peer)));
                    let holds = outcome != LinkOutcome::Linked || process.block.is_linked(peer);
                    process.wait = None;
                    if !waits || !holds {
                        self.break_promise("P1: link() returns to nobody, or without a link");
                    }
                }
                Effect::UnlinkReturns(peer) => {
                    if let Some(process) = self.process(me)
                        && process.wait == Some(Wait::Unlink(at(peer)))
                    {
                        process.wait = None;
                    }
                }
                Effect::Down {
                    reference, about, ..
                } => {
                    let heard = self.process(me).is_none_or(|process| {
                        process.watching.remove(&reference) == Some(at(about))
                    });
                    if !heard {
                        self.break_promise("a Down comes twice, or after demonitor()");
                    }
                }
                Effect::CancelSpawn(_, reference) => {
                    self.spawned.failed = true;
                    if let Some(session) = self.session(P, C) {
                        session.cancel(reference);
                    }
                }
                Effect::Kill(_) | Effect::NodeDown { .. } => unreachable!("not in this model"),
            }
        }
    }

    fn send(&mut self, me: usize, to: usize, signal: Signal) {
        let sent = self.session(me, to).is_some_and(|session| {
            session
                .signal(Environ::default(), pid(me), pid(to), &signal)
                .is_ok()
        });
        if !sent {
            self.on_block(me, |block, out| {
                block.unsent(pid(to), &signal, &lost(to), out);
            });
        }
    }

    fn deliver(&mut self, from: usize, to: usize) {
        let bytes = self.lanes[from][to].pop_front().expect("a read");
        let session = self.session(to, from).expect("it reads");
        if session.handle_bytes(&bytes).is_err() {
            self.break_promise("a correct peer is accused of breaking the protocol");
        }
        while let Some(action) = self.session(to, from).and_then(Session::poll_action) {
            match action {
                Action::Deliver(_, signal) => self.arrive(from, to, signal),
                Action::Make(reference, prepare) => {
                    self.making = Some((reference, Rc::new(*prepare)));
                }
                Action::Adopt(reference, child) => self.adopt(reference, child),
                Action::Refused(reference, _) => {
                    if let Some(process) = self.process(P) {
                        process.block.asked(node(C), reference);
                    }
                    self.spawn_fails(reference);
                }
                Action::Run(_) => {
                    self.process(C).expect("it is parked").parked = None;
                    self.spawned.ran = true;
                }
                Action::End(reference) => self.end_parked(reference),
                Action::Message(..)
                | Action::Bulk(..)
                | Action::Query(..)
                | Action::Answered(..)
                | Action::Left
                | Action::Renew(_) => unreachable!("not in this model"),
            }
        }
    }

    fn arrive(&mut self, from: usize, to: usize, signal: Signal) {
        let Some(process) = self.process(to) else {
            if let Some(answer) = answer_for_nobody(&signal) {
                self.send(to, from, answer);
            }
            return;
        };
        let is_unlink = matches!(signal, Signal::Unlink { .. });
        let calls = process.wait == Some(Wait::Link(from));
        let before = process.block.is_linked(pid(from));
        let mut effects = Vec::new();
        process.block.handle(pid(from), signal, &mut effects);
        let after = process.block.is_linked(pid(from));
        if !before && after && !calls {
            (self.owed[to][from], self.quiet[to][from]) = (true, false);
        }
        if before && !after && is_unlink && !calls {
            self.owed[to][from] = false;
        }
        self.carry_out(to, effects);
    }

    fn ends(&mut self, me: usize, reason: ExitReason) {
        let Some(process) = self.processes[me].take() else {
            return;
        };
        let mut process = Rc::unwrap_or_clone(process);
        self.owed[me] = [false; 3];
        self.quiet[me] = [false; 3];
        let mut effects = Vec::new();
        process.block.end(reason, &mut effects);
        self.carry_out(me, effects);
        for peer in 0..3 {
            if let Some(session) = self.session(me, peer) {
                if let (P, Some(reference)) = (peer, process.parked) {
                    session.parked_ended(reference);
                }
                session.forget(pid(me));
            }
        }
    }

    fn session_ends(&mut self, me: usize, peer: usize) {
        let ending = self.session(me, peer).expect("it is open").end();
        self.ends[me][peer] = None;
        self.lanes[peer][me].clear();
        for reference in ending.asks {
            self.spawn_fails(reference);
        }
        for reference in ending.preparing {
            assert_eq!(self.making.take().map(|(made, _)| made), Some(reference));
        }
        for reference in ending.parked {
            self.end_parked(reference);
        }
        for local in ending.locals {
            assert_eq!(local, pid(me), "a session tells processes of its node");
            if !self.deaf {
                self.on_block(me, |block, out| {
                    block.session_lost(node(peer), &lost(peer), out);
                });
            }
        }
    }

    fn unlink(&mut self, me: usize, peer: usize) {
        (self.owed[me][peer], self.quiet[me][peer]) = (false, true);
        self.on_block(me, |block, out| block.unlink(pid(peer), out));
    }

    fn give_up(&mut self, me: usize) {
        self.budget.give_up -= 1;
        let wait = self.process(me).and_then(|process| process.wait.take());
        match wait.expect("it waits") {
            Wait::Link(peer) => {
                self.unlink(me, peer);
                self.on_block(me, |block, _| block.forget_unlink_caller(pid(peer)));
            }
            Wait::Unlink(peer) => {
                self.on_block(me, |block, _| block.forget_unlink_caller(pid(peer)));
            }
            Wait::Spawn(reference) => {
                self.on_block(me, |block, _| {
                    assert!(block.asked(node(C), reference), "it waits");
                });
                self.spawned.failed = true;
                if let Some(session) = self.session(P, C) {
                    session.cancel(reference);
                }
            }
        }
    }

    fn spawn(&mut self) {
        self.budget.spawn -= 1;
        let monitor = self.process(P).expect("it calls").block.fresh();
        let prepare = Prepare {
            environ: Environ::default(),
            parent: pid(P),
            module: ModuleHash([0; 32]),
            entry: String::new(),
            params: Vec::new(),
            config: ProcessConfig::default().into(),
            link: Some(None),
            monitor: Some(monitor),
        };
        let asked = self.session(P, C).map(|session| session.ask(prepare));
        if let Some(Ok(reference)) = asked {
            self.spawned.monitor = monitor;
            let process = self.process(P).expect("it calls");
            process.block.asks(node(C), reference);
            process.wait = Some(Wait::Spawn(reference));
        }
    }

    fn spawn_fails(&mut self, reference: u64) {
        self.spawned.failed = true;
        if let Some(process) = self.process(P)
            && process.wait == Some(Wait::Spawn(reference))
        {
            process.wait = None;
        }
    }

    fn made(&mut self) {
        let (reference, prepare) = self.making.take().expect("it is being made");
        let mut child = Process::new(C);
        child.parked = Some(reference);
        child
            .block
            .adopt(prepare.parent, prepare.link.expect("linked"));
        let monitor = prepare.monitor.expect("monitored");
        child.block.adopt_watcher(prepare.parent, monitor);
        if self
            .session(C, P)
            .is_some_and(|session| session.made(reference, pid(C)))
        {
            self.processes[C] = Some(child.into());
            self.owed[C][P] = true;
        }
    }

    fn adopt(&mut self, reference: u64, child: Pid) {
        let monitor = self.spawned.monitor;
        let wanted = self.process(P).is_some_and(|parent| {
            parent.wait == Some(Wait::Spawn(reference)) && parent.block.asked(node(C), reference)
        });
        if !wanted {
            return self.break_promise("Adopt comes although nobody waits for it");
        }
        let parent = self.process(P).expect("it waits");
        parent.wait = None;
        parent.block.adopt(child, None);
        parent.block.adopt_monitor(monitor, child);
        parent.watching.insert(monitor, C);
        self.owed[P][C] = true;
        self.spawned.adopted = true;
        let started = self
            .session(P, C)
            .is_some_and(|session| session.start(reference, pid(P)).is_ok());
        if !started {
            self.break_promise("a spawn that can be adopted cannot be started");
        }
    }

    fn end_parked(&mut self, reference: u64) {
        if let Some(child) = self.process(C)
            && child.parked == Some(reference)
        {
            self.ends(C, ExitReason::NotStarted(String::new()));
        }
    }

    /// The promise that is broken here.
    fn judge(&self, rests: bool) -> Option<&'static str> {
        if self.broken.is_some() {
            return self.broken;
        }
        if self.spawned.ran && !self.spawned.adopted {
            return Some("P3: the child runs before its parent's half exists");
        }
        if self.spawned.ran && self.spawned.failed {
            return Some("P4: the child runs although spawn() failed");
        }
        if !rests {
            return None;
        }
        for (me, process) in self.processes.iter().enumerate() {
            let Some(process) = process else { continue };
            if process.wait.is_some() {
                return Some("P6: a call never returns");
            }
            if process.parked.is_some() {
                return Some("P4: a child is parked for ever");
            }
            if !process.block.at_rest() {
                return Some("a block rests in the middle of something");
            }
            for peer in (0..3).filter(|peer| *peer != me) {
                let reached = self.ends[me][peer].is_some() && self.ends[peer][me].is_some();
                let other = self.processes[peer].as_ref().filter(|_| reached);
                let linked = process.block.is_linked(pid(peer));
                if linked && !other.is_some_and(|other| other.block.is_linked(pid(me))) {
                    return Some("P1: a half of a link is left");
                }
                if linked != self.owed[me][peer] {
                    return Some("P1: never told, or a link outlives its end");
                }
                let asked = process.watching.values().any(|target| *target == peer);
                let watched = other
                    .is_some_and(|other| other.block.watchers().any(|watcher| watcher == pid(me)));
                if asked != watched {
                    return Some("a monitor's Down never comes, or it watches for nobody");
                }
            }
        }
        let idle = |end: &Option<Rc<Session>>| end.as_ref().is_none_or(|end| end.at_rest());
        if !self.ends.iter().flatten().all(idle) {
            return Some("a session rests in the middle of something");
        }
        None
    }
}

fn tell(step: Step) -> String {
    let nodes = |a: usize, b: usize| format!("n{} and n{}", a + 1, b + 1);
    match step {
        Step::Deliver(from, to) => format!("n{} reads what n{} said", to + 1, from + 1),
        Step::Notice(me, peer) => format!("n{} notices that n{} is gone", me + 1, peer + 1),
        Step::Made => "n2 has made the child".into(),
        Step::Refuse => "n2 cannot make the child".into(),
        Step::Take(me) => format!("{} takes a LinkDied", NAMES[me]),
        Step::Link(me, peer) => format!("{} links {}", NAMES[me], NAMES[peer]),
        Step::Unlink(me, peer) => format!("{} unlinks {}", NAMES[me], NAMES[peer]),
        Step::Monitor(me, peer) => format!("{} monitors {}", NAMES[me], NAMES[peer]),
        Step::Demonitor(me, _) => format!("{} withdraws a monitor", NAMES[me]),
        Step::End(me) => format!("{} ends", NAMES[me]),
        Step::GiveUp(me) => format!("{} gives up waiting", NAMES[me]),
        Step::Spawn => "P spawns C, linked and monitored".into(),
        Step::Cut(a, b) => format!("the session of {} is cut", nodes(a, b)),
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

struct Findings {
    states: usize,
    rests: usize,
    complete: bool,
    broken: Option<(&'static str, Vec<String>)>,
}

/// Breadth first, so the first violation found is a shortest one.
fn explore(first: World, limit: usize) -> Findings {
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut reached: Vec<(u32, Option<Step>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(0u32, first)]);
    let (mut rests, mut complete) = (0, true);
    while let Some((index, world)) = queue.pop_front() {
        let (steps, required) = world.steps();
        rests += usize::from(required == 0);
        if let Some(promise) = world.judge(required == 0) {
            let mut story = Vec::new();
            let mut index = index;
            while let (from, Some(step)) = reached[index as usize] {
                story.insert(0, tell(step));
                index = from;
            }
            return Findings {
                states: seen.len(),
                rests,
                complete: false,
                broken: Some((promise, story)),
            };
        }
        for step in steps {
            let mut then = world.clone();
            then.take(step);
            if seen.insert(fingerprint(&then)) {
                let number = u32::try_from(reached.len()).expect("few enough");
                reached.push((index, Some(step)));
                queue.push_back((number, then));
            }
        }
        if seen.len() >= limit {
            complete = false;
            break;
        }
    }
    Findings {
        states: seen.len(),
        rests,
        complete,
        broken: None,
    }
}

/// A chain of links P→C→T→P, each of whose sessions may go.
fn ring() -> Budget {
    let mut budget = Budget {
        end: [1, 1, 0],
        give_up: 1,
        cut: 2,
        ..NONE
    };
    for (me, peer) in [(P, C), (C, T), (T, P)] {
        budget.link[me][peer] = 1;
    }
    budget.unlink[P][C] = 1;
    budget
}

/// P and T monitor C and each other, C links T; monitors are withdrawn, links given up.
fn monitors() -> Budget {
    let mut budget = Budget {
        demonitor: 1,
        end: [0, 1, 1],
        give_up: 1,
        cut: 1,
        ..NONE
    };
    for (me, peer) in [(P, C), (T, C), (P, T)] {
        budget.monitor[me][peer] = 1;
    }
    budget.link[C][T] = 1;
    budget
}

/// P spawns C on n2, and gives it up or not; T on n3 guesses its pid, links and monitors it.
fn spawn() -> Budget {
    let mut budget = Budget {
        demonitor: 1,
        end: [1, 1, 0],
        give_up: 1,
        cut: 1,
        spawn: 1,
        ..NONE
    };
    budget.link[T][C] = 1;
    budget.monitor[T][C] = 1;
    budget.link[C][T] = 1;
    budget
}

/// Explores one scenario, in the size that is asked for, and prints what that took.
#[allow(
    clippy::print_stdout,
    reason = "whoever reads the log wants the figures"
)]
fn hold_every_promise(name: &str, mut budget: Budget, deeper: fn(&mut Budget), least: [usize; 2]) {
    let asked = env::var("TIDELOCK_MODEL").unwrap_or_default();
    let (deep, quick) = (asked == "deep", asked == "quick");
    if deep {
        deeper(&mut budget);
    }
    let began = Instant::now();
    let limit = if quick { QUICK_STATES } else { usize::MAX };
    let found = explore(World::new(budget, false), limit);
    if let Some((promise, story)) = found.broken {
        panic!("{promise} after\n  {}\n{budget:?}", story.join("\n  "));
    }
    println!(
        "three {name:9} {:9} states, {:6} at rest, {:6.1} s; {budget:?}",
        found.states,
        found.rests,
        began.elapsed().as_secs_f64()
    );
    if !quick {
        assert!(found.complete, "{name} was not explored to its end");
        assert!(
            found.states >= least[usize::from(deep)],
            "only {} states of {name}",
            found.states
        );
    }
}

#[test]
fn three_in_a_ring() {
    let deeper = |budget: &mut Budget| {
        budget.unlink[C][T] = 1;
        budget.end[T] = 1;
        budget.cut = 3;
    };
    hold_every_promise("ring", ring(), deeper, [858_959, 5_765_046]);
}

#[test]
fn three_monitors() {
    let deeper = |budget: &mut Budget| budget.cut = 2;
    hold_every_promise("monitors", monitors(), deeper, [1_138_223, 4_156_338]);
}

#[test]
fn three_spawn() {
    let deeper = |budget: &mut Budget| budget.cut = 2;
    hold_every_promise("spawn", spawn(), deeper, [996_101, 4_462_893]);
}

/// A model that finds nothing proves little until it is known what it would find.
#[test]
fn a_session_whose_end_is_not_told_is_noticed() {
    for budget in [ring(), monitors()] {
        let found = explore(World::new(budget, true), usize::MAX);
        assert!(found.broken.is_some(), "{} states", found.states);
    }
}
