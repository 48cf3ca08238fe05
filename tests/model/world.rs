//! Two nodes, the network between them, and every step that can happen next.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;

use tidelock_proto::link::{LinkForm, Signal};
use tidelock_proto::wire::Frame;
use tidelock_proto::{ExitReason, Pid};

use super::driver::{Connection, End, Node, Process, Wait, frame_of};
use super::observer::Observer;
use super::scenarios::{Budget, Scenario};
use super::{C, P, PAIRS, ROLES, T, name, node, off, pid, role, side};

/// The whole system, and what its observer remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) nodes: [Rc<Node>; 2],
    pub(crate) connections: Vec<Connection>,
    /// Links that a second owner would report too; empty unless that rule is removed.
    pub(crate) owners: BTreeSet<(Pid, Pid)>,
    pub(crate) budget: Budget,
    pub(crate) observer: Observer,
    /// Whoever must end still answers for a while.
    pub(crate) slow_ends: bool,
    /// The side of the third process.
    third: usize,
}

/// One thing that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// `count` frames of connection `at` arrive on side `to`, from place `skip` of the lane.
    Deliver {
        at: usize,
        to: usize,
        skip: usize,
        count: usize,
    },
    /// A signal between two processes of one node arrives.
    Local(Pid, Pid),
    /// The node on this side notices that its session is gone.
    Notice(usize),
    DialFails {
        at: usize,
        side: usize,
    },
    Made {
        side: usize,
        at: usize,
        reference: u64,
    },
    Refuse {
        side: usize,
        at: usize,
        reference: u64,
    },
    /// The process takes the LinkDied at the front of its mailbox.
    Take(Pid),
    /// The task of a process that must end gets to it.
    Finish(Pid),
    Link(Pid, Pid, LinkForm),
    Unlink(Pid, Pid),
    GiveUp(Pid),
    End(Pid),
    Spawn {
        parent: Pid,
        linked: bool,
        monitored: bool,
    },
    ParkedTooLong(Pid),
    Kill(Pid, Pid),
    Monitor(Pid, Pid),
    Demonitor(Pid, u64),
    MonitorNode(Pid),
    Cut(usize),
    Dial(usize),
    Crash(usize),
}

/// What kind of step a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Deliver,
    Local,
    Notice,
    DialFails,
    Made,
    Refuse,
    Take,
    Finish,
    Link,
    Unlink,
    GiveUp,
    End,
    Spawn,
    ParkedTooLong,
    Kill,
    Monitor,
    Demonitor,
    MonitorNode,
    Cut,
    Dial,
    Crash,
}

impl Step {
    /// What kind of step this is.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Step::Deliver { .. } => Kind::Deliver,
            Step::Local(..) => Kind::Local,
            Step::Notice(_) => Kind::Notice,
            Step::DialFails { .. } => Kind::DialFails,
            Step::Made { .. } => Kind::Made,
            Step::Refuse { .. } => Kind::Refuse,
            Step::Take(_) => Kind::Take,
            Step::Finish(_) => Kind::Finish,
            Step::Link(..) => Kind::Link,
            Step::Unlink(..) => Kind::Unlink,
            Step::GiveUp(_) => Kind::GiveUp,
            Step::End(_) => Kind::End,
            Step::Spawn { .. } => Kind::Spawn,
            Step::ParkedTooLong(_) => Kind::ParkedTooLong,
            Step::Kill(..) => Kind::Kill,
            Step::Monitor(..) => Kind::Monitor,
            Step::Demonitor(..) => Kind::Demonitor,
            Step::MonitorNode(_) => Kind::MonitorNode,
            Step::Cut(_) => Kind::Cut,
            Step::Dial(_) => Kind::Dial,
            Step::Crash(_) => Kind::Crash,
        }
    }
}

impl World {
    /// How the story begins.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let mut nodes = [0, 1].map(Node::new);
        let mut born = vec![P, T];
        if scenario.child_lives {
            born.push(C);
            nodes[1].born = 1;
        }
        for role in born {
            let pid = pid(role, scenario.third);
            let home = &mut nodes[side(pid.node())].processes;
            home.insert(pid, Process::new(pid).into());
        }
        let mut world = World {
            nodes: nodes.map(Rc::new),
            connections: Vec::new(),
            owners: BTreeSet::new(),
            budget: scenario.budget,
            observer: Observer::default(),
            slow_ends: scenario.slow_ends,
            third: scenario.third,
        };
        if scenario.open {
            world.dial(0);
            for to in [1, 0] {
                world.deliver(0, to, 0, 1);
            }
        }
        world
    }

    /// Every step that can happen next. The first `required` ones need nobody's will: while there
    /// is one, the world is not at rest.
    pub(crate) fn steps(&self, scenario: &Scenario, steps: &mut Vec<Step>) -> usize {
        steps.clear();
        self.network_steps(scenario, steps);
        self.machine_steps(steps);
        let required = steps.len();
        for role in 0..ROLES {
            let pid = pid(role, scenario.third);
            let home = &self.nodes[side(pid.node())];
            if home.up
                && let Some(process) = home.processes.get(&pid)
            {
                self.process_steps(scenario, pid, process, steps);
            }
        }
        self.harm_steps(scenario, steps);
        required
    }

    fn network_steps(&self, scenario: &Scenario, steps: &mut Vec<Step>) {
        for (at, connection) in self.connections.iter().enumerate() {
            for to in [0, 1] {
                let lane = &connection.lanes[1 - to];
                let end = &connection.ends[to];
                let reads = match end {
                    End::Gone => off("one connection, one session"),
                    End::Dialling | End::Listening | End::Open(_) => true,
                };
                if !lane.is_empty() && reads && self.nodes[to].up {
                    let deliver = |skip, count| Step::Deliver {
                        at,
                        to,
                        skip,
                        count,
                    };
                    steps.push(deliver(0, 1));
                    if scenario.batches && lane.len() > 1 && matches!(end, End::Open(_)) {
                        steps.push(deliver(0, lane.len()));
                    }
                    if matches!(end, End::Open(_)) {
                        self.overtaking(lane, |skip| steps.push(deliver(skip, 1)));
                    }
                }
                let waits = matches!(end, End::Dialling | End::Listening);
                let hopeless = connection.cut || connection.ends[1 - to] == End::Gone;
                if waits && hopeless && self.nodes[to].up {
                    steps.push(Step::DialFails { at, side: to });
                }
            }
        }
        for side in [0, 1] {
            if let Some(at) = self.nodes[side].open {
                let connection = &self.connections[at];
                if connection.cut || connection.ends[1 - side] == End::Gone {
                    steps.push(Step::Notice(side));
                }
            }
        }
    }

    /// Frames that may overtake if the order of the lane is not kept.
    fn overtaking(&self, lane: &VecDeque<Rc<[u8]>>, mut found: impl FnMut(usize)) {
        let exits = off("an exit keeps its place in the lane");
        let acks = off("an answer keeps its place in the lane");
        if !exits && !acks {
            return;
        }
        for (skip, bytes) in lane.iter().enumerate().skip(1) {
            if matches!(frame_of(&lane[0]), Frame::Hello(_)) {
                return;
            }
            match frame_of(bytes) {
                Frame::Signal(_, Signal::Exit { .. }) if exits => found(skip),
                Frame::Signal(_, Signal::LinkAck { .. } | Signal::UnlinkAck { .. }) if acks => {
                    found(skip);
                }
                _ => {}
            }
        }
    }

    fn machine_steps(&self, steps: &mut Vec<Step>) {
        for (side, here) in self.nodes.iter().enumerate() {
            if !here.up {
                continue;
            }
            for (&(from, to), lane) in &here.local {
                if !lane.is_empty() {
                    steps.push(Step::Local(from, to));
                }
            }
            for &(at, reference) in here.making.keys() {
                steps.push(Step::Made {
                    side,
                    at,
                    reference,
                });
                steps.push(Step::Refuse {
                    side,
                    at,
                    reference,
                });
            }
            for (pid, process) in &here.processes {
                if process.verdict.is_some() {
                    steps.push(Step::Finish(*pid));
                } else if !process.mailbox.is_empty() && process.parked.is_none() {
                    steps.push(Step::Take(*pid));
                }
            }
        }
    }

    fn process_steps(
        &self,
        scenario: &Scenario,
        me: Pid,
        process: &Process,
        steps: &mut Vec<Step>,
    ) {
        let budget = &self.budget;
        if process.verdict.is_some() {
            return;
        }
        if process.parked.is_some() {
            if budget.parked_too_long > 0 {
                steps.push(Step::ParkedTooLong(me));
            }
            return;
        }
        if budget.end[role(me)] > 0 {
            steps.push(Step::End(me));
        }
        match process.wait {
            Some(Wait::Spawn(_)) if budget.give_spawn_up > 0 => steps.push(Step::GiveUp(me)),
            Some(Wait::Link(_) | Wait::Unlink(_)) if budget.give_up > 0 => {
                steps.push(Step::GiveUp(me));
            }
            Some(_) => {}
            None => self.guest_steps(scenario, me, process, steps),
        }
    }

    /// What the code of a process that is not suspended may do.
    fn guest_steps(&self, scenario: &Scenario, me: Pid, process: &Process, steps: &mut Vec<Step>) {
        let budget = &self.budget;
        for (k, (owner, peer)) in PAIRS.iter().enumerate() {
            let peer = pid(*peer, scenario.third);
            if *owner != role(me) {
                continue;
            }
            if budget.link[k] > 0 {
                for form in scenario.forms {
                    steps.push(Step::Link(me, peer, *form));
                }
            }
            let something = process.block.links().any(|linked| linked == peer)
                || process.mailbox.iter().any(|notice| notice.about == peer);
            if budget.unlink[k] > 0 && something {
                steps.push(Step::Unlink(me, peer));
            }
        }
        if budget.spawn > 0 && scenario.spawners.contains(&role(me)) {
            for &(linked, monitored) in scenario.spawns {
                steps.push(Step::Spawn {
                    parent: me,
                    linked,
                    monitored,
                });
            }
        }
        for &(by, target) in scenario.kills {
            if budget.kill > 0 && by == role(me) {
                steps.push(Step::Kill(me, pid(target, scenario.third)));
            }
        }
        for &(by, target) in scenario.monitors {
            if budget.monitor > 0 && by == role(me) {
                steps.push(Step::Monitor(me, pid(target, scenario.third)));
            }
        }
        if budget.monitor_node > 0 {
            steps.push(Step::MonitorNode(me));
        }
        if budget.demonitor > 0 {
            let held = process.watching.keys();
            steps.extend(held.map(|reference| Step::Demonitor(me, *reference)));
        }
    }

    fn harm_steps(&self, scenario: &Scenario, steps: &mut Vec<Step>) {
        for (at, connection) in self.connections.iter().enumerate() {
            if self.budget.cut > 0 && !connection.cut {
                steps.push(Step::Cut(at));
            }
        }
        for side in [0, 1] {
            let here = &self.nodes[side];
            let free = here.pair.open().is_none() && here.pair.dialling().is_none();
            let room = self.connections.len() < scenario.connections_max;
            if self.budget.dial[side] > 0 && here.up && free && room {
                steps.push(Step::Dial(side));
            }
            if self.budget.crash[side] > 0 && here.up {
                steps.push(Step::Crash(side));
            }
        }
    }

    /// Lets one step happen.
    pub(crate) fn take(&mut self, scenario: &Scenario, step: Step) {
        match step {
            Step::Deliver {
                at,
                to,
                skip,
                count,
            } => self.deliver(at, to, skip, count),
            Step::Local(from, to) => {
                let lanes = &mut self.node_mut(side(from.node())).local;
                let lane = lanes.get_mut(&(from, to)).expect("a lane");
                let signal = lane.pop_front().expect("a signal");
                if lane.is_empty() {
                    lanes.remove(&(from, to));
                }
                self.arrive(from, to, signal);
            }
            Step::Notice(side) => self.end_session(side),
            Step::DialFails { at, side } => self.dial_fails(at, side),
            Step::Made {
                side,
                at,
                reference,
            } => self.made(side, at, reference),
            Step::Refuse {
                side,
                at,
                reference,
            } => self.refuse(side, at, reference),
            Step::Take(me) => self.take_notice(scenario, me),
            Step::Finish(me) => self.finish(me),
            Step::ParkedTooLong(child) => {
                self.budget.parked_too_long -= 1;
                self.end_process(child, ExitReason::Limit(String::new()));
            }
            Step::Cut(at) => {
                self.budget.cut -= 1;
                self.observer.hurt = true;
                self.connections[at].cut = true;
            }
            Step::Dial(side) => {
                self.budget.dial[side] -= 1;
                self.dial(side);
            }
            Step::Crash(side) => self.crash(side),
            guest => self.take_guest(scenario, guest),
        }
        self.flush(0);
        self.flush(1);
    }

    fn take_guest(&mut self, scenario: &Scenario, step: Step) {
        match step {
            Step::Link(me, peer, form) => {
                self.budget.link[pair(me, peer)] -= 1;
                self.link(scenario, me, peer, form);
            }
            Step::Unlink(me, peer) => {
                self.budget.unlink[pair(me, peer)] -= 1;
                self.process(me).expect("it calls").wait = Some(Wait::Unlink(peer));
                self.observer.unlinked(me, peer);
                self.on_block(me, |block, out| block.unlink(peer, out));
            }
            Step::GiveUp(me) => self.give_up(me),
            Step::End(me) => {
                self.budget.end[role(me)] -= 1;
                self.end_process(me, ExitReason::Exit(1));
            }
            Step::Spawn {
                parent,
                linked,
                monitored,
            } => {
                self.budget.spawn -= 1;
                self.spawn(parent, linked, monitored);
            }
            Step::Kill(by, target) => {
                self.budget.kill -= 1;
                self.send(by, target, Signal::Kill);
            }
            Step::Monitor(me, target) => {
                self.budget.monitor -= 1;
                let mut effects = Vec::new();
                let process = self.process(me).expect("it calls");
                let reference = process.block.monitor(target, &mut effects);
                process.watching.insert(reference, target);
                self.on_block(me, |_, out| out.append(&mut effects));
            }
            Step::MonitorNode(me) => {
                self.budget.monitor_node -= 1;
                self.monitor_node(me);
            }
            Step::Demonitor(me, reference) => {
                self.budget.demonitor -= 1;
                self.process(me)
                    .expect("it calls")
                    .watching
                    .remove(&reference);
                self.on_block(me, |block, out| block.demonitor(reference, out));
            }
            _ => unreachable!("not a guest's step"),
        }
    }

    /// D4.
    fn link(&mut self, scenario: &Scenario, me: Pid, peer: Pid, form: LinkForm) {
        if off("link() drains first") {
            for notice in &mut self.process(me).expect("it calls").mailbox {
                notice.stale |= notice.about == peer;
            }
        } else {
            while let Some(process) = self.process(me)
                && process.verdict.is_none()
                && process.block.has_queued(peer)
            {
                let about = |notice: &super::driver::Notice| notice.about == peer;
                let at = process.mailbox.iter().position(about).expect("queued");
                let notice = process.mailbox.remove(at).expect("found");
                self.take_one(scenario, me, notice);
            }
        }
        if let Some(process) = self.process(me)
            && process.verdict.is_none()
        {
            process.wait = Some(Wait::Link(peer));
            self.observer.linked(me, peer);
            self.on_block(me, |block, out| block.link(peer, None, form, out));
        }
    }

    fn take_notice(&mut self, scenario: &Scenario, me: Pid) {
        let process = self.process(me).expect("it runs");
        let notice = process.mailbox.pop_front().expect("a notice");
        self.take_one(scenario, me, notice);
    }

    fn take_one(&mut self, scenario: &Scenario, me: Pid, notice: super::driver::Notice) {
        let process = self.process(me).expect("it runs");
        if !process.block.take(notice.about, notice.number) {
            return;
        }
        self.observer.taken(me, notice.about, notice.stale);
        if scenario.die_of_links.contains(&role(me)) {
            self.condemn(
                me,
                ExitReason::LinkDied {
                    pid: notice.about,
                    why: String::new(),
                },
            );
        }
    }

    /// D5.
    fn give_up(&mut self, me: Pid) {
        let process = self.process(me).expect("it waits");
        match process.wait.take().expect("it waits") {
            Wait::Link(peer) => {
                self.budget.give_up -= 1;
                self.observer.unlinked(me, peer);
                if !off("giving link() up is an unlink") {
                    self.on_block(me, |block, out| {
                        block.unlink(peer, out);
                        block.forget_unlink_caller(peer);
                    });
                }
            }
            Wait::Unlink(peer) => {
                process.block.forget_unlink_caller(peer);
                self.budget.give_up -= 1;
            }
            Wait::Spawn(reference) => {
                self.budget.give_spawn_up -= 1;
                self.give_spawn_up(me, reference);
            }
        }
    }

    fn crash(&mut self, side: usize) {
        self.budget.crash[side] -= 1;
        self.observer.hurt = true;
        let pids: Vec<Pid> = self.nodes[side].processes.keys().copied().collect();
        for pid in pids {
            self.observer.ended(pid);
        }
        *self.node_mut(side) = Node {
            up: false,
            ..Node::new(side)
        };
        for at in 0..self.connections.len() {
            self.leave(at, side);
        }
    }

    /// The promise that is broken in a world where nothing is under way.
    pub(crate) fn at_rest(&self, scenario: &Scenario) -> Option<&'static str> {
        let open = [0, 1].map(|side| self.nodes[side].open);
        if open[0] != open[1] {
            return Some("the nodes disagree about the open session");
        }
        let agreed = open[0].is_some();
        let dialled = !scenario.open && !self.connections.is_empty();
        if dialled && !self.observer.hurt && !agreed {
            return Some("dialled over a sound network, and no session is open");
        }
        for (side, here) in self.nodes.iter().enumerate() {
            if here.up && here.pair.dialling().is_some() {
                return Some("a dial hangs");
            }
            if here.pair.open().is_some() != here.open.is_some() {
                return Some("a pair thinks a session open that is not");
            }
            if let Some(End::Open(session)) = open[side].map(|at| &self.connections[at].ends[side])
                && !session.at_rest()
            {
                return Some("a spawn is forgotten: a tombstone, or a host that waits for ever");
            }
            for (pid, process) in &here.processes {
                let broken = self.rest_of(*pid, process, agreed);
                if broken.is_some() {
                    return broken;
                }
            }
        }
        None
    }

    fn alive(&self, pid: Pid) -> Option<&Process> {
        let home = &self.nodes[side(pid.node())];
        home.processes.get(&pid).map(|process| &**process)
    }

    fn rest_of(&self, me: Pid, process: &Process, agreed: bool) -> Option<&'static str> {
        match process.wait {
            Some(Wait::Link(_)) => return Some("P6: link() never returns"),
            Some(Wait::Unlink(_)) => return Some("P6: unlink() never returns"),
            Some(Wait::Spawn(_)) => return Some("P6: spawn() never returns"),
            None => {}
        }
        if process.parked.is_some() {
            return Some("P4: a child is parked for ever");
        }
        let reaches = |peer: Pid| peer.node() == me.node() || agreed;
        for role in 0..ROLES {
            let peer = pid(role, self.third);
            let linked = process.block.is_linked(peer);
            let other = self.alive(peer).filter(|_| reaches(peer));
            let owed = self.observer.owes(me, peer);
            match (linked, other) {
                (true, None) => return Some("P1: the other is gone, and the survivor is not told"),
                (true, Some(other)) if !other.block.is_linked(me) => {
                    return Some("a link is half open");
                }
                (true, Some(_)) if !owed => return Some("a link outlives its end"),
                (false, _) if owed => return Some("P1: never told"),
                (true | false, _) => {}
            }
        }
        if !process.block.at_rest() {
            return Some("a block rests in the middle of something");
        }
        for target in process.watching.values() {
            let watched = self.alive(*target).filter(|_| reaches(*target));
            if !watched.is_some_and(|target| target.block.watchers().any(|pid| pid == me)) {
                return Some("a monitor's Down never comes");
            }
        }
        if !process.watching_node.is_empty() && !agreed {
            return Some("a node-down never comes");
        }
        for watcher in process.block.watchers() {
            let knows = self
                .alive(watcher)
                .filter(|_| reaches(watcher))
                .is_some_and(|watcher| watcher.watching.values().any(|target| *target == me));
            if !knows {
                return Some("a process is watched by nobody");
            }
        }
        None
    }

    pub(crate) fn node_mut(&mut self, side: usize) -> &mut Node {
        Rc::make_mut(&mut self.nodes[side])
    }

    /// What a step looks like to somebody who tells the story.
    pub(crate) fn tell(&self, step: Step) -> String {
        match step {
            Step::Deliver {
                at,
                to,
                skip,
                count,
            } => {
                let lane = &self.connections[at].lanes[1 - to];
                let frames: Vec<String> = (skip..skip + count)
                    .map(|place| frame_of(&lane[place]))
                    .map(|frame| Telling(&frame).to_string())
                    .collect();
                let early = if skip > 0 { ", too early" } else { "" };
                format!("{} reads {}{early}", node(to), frames.join(" and "))
            }
            Step::Local(from, to) => {
                let signal = &self.nodes[side(from.node())].local[&(from, to)][0];
                format!("{} gets {}", name(to), Said(from, signal))
            }
            Step::Notice(side) => format!("{} notices that the session is gone", node(side)),
            Step::DialFails { side, .. } => format!("{} gives a connection up", node(side)),
            Step::Made { side, .. } => format!("{} has made the child", node(side)),
            Step::Refuse { side, .. } => format!("{} cannot make the child", node(side)),
            Step::Take(me) => format!("{} takes a LinkDied", name(me)),
            Step::Finish(me) => format!("{}, who must end, does", name(me)),
            Step::Link(me, peer, form) => format!("{} links {} ({form:?})", name(me), name(peer)),
            Step::Unlink(me, peer) => format!("{} unlinks {}", name(me), name(peer)),
            Step::GiveUp(me) => format!("{} gives up waiting", name(me)),
            Step::End(me) => format!("{} ends", name(me)),
            Step::Spawn {
                parent,
                linked,
                monitored,
            } => {
                let how = match (linked, monitored) {
                    (true, true) => ", linked and monitored",
                    (true, false) => ", linked",
                    (false, true) => ", monitored",
                    (false, false) => "",
                };
                format!("{} spawns{how}", name(parent))
            }
            Step::ParkedTooLong(child) => format!("{} was parked for too long", name(child)),
            Step::Kill(by, target) => format!("{} kills {}", name(by), name(target)),
            Step::Monitor(me, target) => format!("{} monitors {}", name(me), name(target)),
            Step::MonitorNode(me) => format!("{} monitors the other node", name(me)),
            Step::Demonitor(me, _) => format!("{} withdraws a monitor", name(me)),
            Step::Cut(at) => format!("connection {} is cut", at + 1),
            Step::Dial(side) => format!("{} dials", node(side)),
            Step::Crash(side) => format!("{} crashes", node(side)),
        }
    }
}

fn pair(owner: Pid, peer: Pid) -> usize {
    let roles = (role(owner), role(peer));
    let found = PAIRS.iter().position(|pair| *pair == roles);
    found.expect("a scenario links known pairs")
}

/// A frame, as a story tells it.
struct Telling<'a>(&'a Frame);

impl fmt::Display for Telling<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Frame::Hello(hello) => write!(f, "Hello, epoch {}", hello.epoch),
            Frame::Stale(known) => write!(f, "Stale, known is {known}"),
            Frame::Signal(route, signal) => {
                write!(f, "{} to {}", Said(route.from, signal), name(route.to))
            }
            Frame::Prepare(..) | Frame::Request(..) => f.write_str("Prepare"),
            Frame::Config(..) => f.write_str("Config"),
            Frame::Prepared(..) => f.write_str("Prepared"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A signal, and who says it.
struct Said<'a>(Pid, &'a Signal);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = name(self.0);
        match self.1 {
            Signal::Link { id, .. } => write!(f, "{from}'s Link {id}"),
            Signal::LinkAck { id, answer } => write!(f, "{from}'s {answer:?} for link {id}"),
            Signal::Unlink { id } => write!(f, "{from}'s Unlink {id}"),
            Signal::UnlinkAck { id } => write!(f, "{from}'s answer to unlink {id}"),
            Signal::Exit { .. } => write!(f, "{from}'s Exit"),
            Signal::Monitor { .. } => write!(f, "{from}'s Monitor"),
            Signal::MonitorAck { exists: true, .. } => write!(f, "{from}'s answer: monitored"),
            Signal::MonitorAck { exists: false, .. } => write!(f, "{from}'s answer: no process"),
            Signal::Demonitor { .. } => write!(f, "{from}'s Demonitor"),
            Signal::Down { .. } => write!(f, "{from}'s Down"),
            Signal::Kill => write!(f, "{from}'s Kill"),
        }
    }
}
