//! The driver's part in spawning: D5 and D6 of [`super::driver`].

use std::rc::Rc;

use tidelock_proto::spawn::{Prepare, ProcessConfig, Refusal};
use tidelock_proto::{Environ, ModuleHash, Pid};

use super::driver::{Ask, End, Process, Wait};
use super::world::World;
use super::{node, off, side};

impl World {
    pub(crate) fn key(&self, side: usize, reference: u64) -> (u64, u64) {
        let epoch = self.nodes[side]
            .open
            .map_or(0, |at| self.connections[at].epoch);
        (epoch, reference)
    }

    /// `parent` calls `spawn`; without a session it fails at once.
    pub(crate) fn spawn(&mut self, parent: Pid, linked: bool, monitored: bool) {
        let here = side(parent.node());
        let monitor = monitored.then(|| {
            let process = self.process(parent).expect("it calls");
            process.block.fresh()
        });
        let prepare = Prepare {
            environ: Environ::default(),
            parent,
            module: ModuleHash([0; 32]),
            entry: String::new(),
            params: Vec::new(),
            config: ProcessConfig::default().into(),
            link: linked.then_some(None),
            monitor,
        };
        let asked = self.session(here).map(|session| session.ask(prepare));
        let Some(Ok(reference)) = asked else {
            return;
        };
        let key = self.key(here, reference);
        self.observer.asked(key, linked);
        let ask = Ask {
            parent,
            linked,
            monitor,
        };
        self.node_mut(here).asks.insert(reference, ask);
        let process = self.process(parent).expect("it calls");
        process.block.asks(node(1 - here), reference);
        process.wait = Some(Wait::Spawn(reference));
    }

    /// The caller of `spawn` gives up (D5).
    pub(crate) fn give_spawn_up(&mut self, parent: Pid, reference: u64) {
        let here = side(parent.node());
        if let Some(process) = self.process(parent) {
            process.block.asked(node(1 - here), reference);
        }
        self.spawn_failed(here, reference);
        if !off("giving spawn() up is a Cancel")
            && let Some(session) = self.session(here)
        {
            session.cancel(reference);
        }
    }

    /// `spawn` returns an error, if it has not returned.
    pub(crate) fn spawn_failed(&mut self, side: usize, reference: u64) {
        let Some(ask) = self.node_mut(side).asks.remove(&reference) else {
            return;
        };
        let key = self.key(side, reference);
        self.observer.failed(key);
        if let Some(process) = self.process(ask.parent) {
            process.wait = None;
        }
    }

    /// The child is ready to be parked (D6).
    pub(crate) fn made(&mut self, side: usize, at: usize, reference: u64) {
        let prepare = self.node_mut(side).making.remove(&(at, reference)).unwrap();
        let child = Pid::new(node(side), self.nodes[side].born + 1).unwrap();
        let mut process = Process::new(child);
        process.parked = Some(reference);
        if let Some(tag) = prepare.link {
            process.block.adopt(prepare.parent, tag);
        }
        if let Some(monitor) = prepare.monitor {
            process.block.adopt_watcher(prepare.parent, monitor);
        }
        let End::Open(session) = &mut self.connections[at].ends[side] else {
            return;
        };
        if Rc::make_mut(session).made(reference, child) {
            self.node_mut(side).born += 1;
            self.node_mut(side).processes.insert(child, process.into());
            if prepare.link.is_some() {
                self.observer.linked(child, prepare.parent);
            }
            if off("a child runs at Start") {
                let key = self.key(side, reference);
                self.observer.ran(key);
            }
        }
    }

    /// The child cannot be made.
    pub(crate) fn refuse(&mut self, side: usize, at: usize, reference: u64) {
        self.node_mut(side).making.remove(&(at, reference));
        if let End::Open(session) = &mut self.connections[at].ends[side] {
            Rc::make_mut(session).refuse(reference, Refusal::Draining);
        }
    }

    pub(crate) fn adopt(&mut self, side: usize, reference: u64, child: Pid) {
        let ask = self.node_mut(side).asks.remove(&reference);
        let wanted = ask.filter(|ask| {
            self.process(ask.parent)
                .is_some_and(|parent| parent.block.asked(node(1 - side), reference))
        });
        let Some(ask) = wanted else {
            self.observer
                .break_promise("Adopt comes although nobody waits for it");
            return;
        };
        let key = self.key(side, reference);
        let parent = self.process(ask.parent).expect("it waits");
        parent.wait = None;
        if parent.verdict.is_some() {
            parent.unseen = Some(child);
        }
        if ask.linked && !off("the parent's half comes before Start") {
            parent.block.adopt(child, None);
            self.observer.linked(ask.parent, child);
            self.observer.adopted(key);
        }
        if let Some(monitor) = ask.monitor {
            let parent = self.process(ask.parent).expect("it waits");
            parent.block.adopt_monitor(monitor, child);
            parent.watching.insert(monitor, child);
        }
        if off("the block alone reports ends") && ask.linked {
            self.owners.insert((ask.parent, child));
        }
        if !off("Start follows in the same step")
            && let Some(session) = self.session(side)
            && session.start(reference, ask.parent).is_err()
        {
            self.observer
                .break_promise("a spawn that can be adopted cannot be started");
        }
    }

    pub(crate) fn parked(&self, side: usize, reference: u64) -> Option<Pid> {
        let processes = &self.nodes[side].processes;
        let found = processes
            .iter()
            .find(|(_, process)| process.parked == Some(reference));
        found.map(|(pid, _)| *pid)
    }

    pub(crate) fn run(&mut self, side: usize, reference: u64) {
        let Some(child) = self.parked(side, reference) else {
            self.observer
                .break_promise("a child is to run that is gone");
            return;
        };
        let process = self.process(child).expect("it is parked");
        process.parked = None;
        if process.verdict.is_some() {
            return;
        }
        let key = self.key(side, reference);
        self.observer.ran(key);
    }
}
