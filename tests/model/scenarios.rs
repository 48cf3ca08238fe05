//! What may happen how often: one table, one line of reason each.
//!
//! Whatever a budget allows may happen at any moment, or never. Deliveries, notices and what a
//! machine does on its own are not budgeted. Every scenario has two sizes: the usual one, and a
//! deep one for hours when nobody waits.

use std::fmt;

use tidelock_proto::link::LinkForm::{self, Notice, Value};

use super::world::Kind;
use super::{C, P, PAIRS, T};

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Usual,
    Deep,
}

/// How often each thing may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Calls of `link`, per pair of [`super::PAIRS`].
    pub(crate) link: [u8; 6],
    /// Calls of `unlink`, per pair.
    pub(crate) unlink: [u8; 6],
    /// Ends of their own, per role.
    pub(crate) end: [u8; 4],
    /// Deadlines of `link` and `unlink`.
    pub(crate) give_up: u8,
    pub(crate) spawn: u8,
    /// Deadlines of `spawn`.
    pub(crate) give_spawn_up: u8,
    pub(crate) parked_too_long: u8,
    pub(crate) kill: u8,
    pub(crate) monitor: u8,
    pub(crate) demonitor: u8,
    /// Monitors of the other node.
    pub(crate) monitor_node: u8,
    /// Connections that are cut.
    pub(crate) cut: u8,
    /// Dials, per side.
    pub(crate) dial: [u8; 2],
    /// Crashes, per side.
    pub(crate) crash: [u8; 2],
}

const NONE: Budget = Budget {
    link: [0; 6],
    unlink: [0; 6],
    end: [0; 4],
    give_up: 0,
    spawn: 0,
    give_spawn_up: 0,
    parked_too_long: 0,
    kill: 0,
    monitor: 0,
    demonitor: 0,
    monitor_node: 0,
    cut: 0,
    dial: [0; 2],
    crash: [0; 2],
};

/// One part of the space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) budget: Budget,
    /// The side T lives on.
    pub(crate) third: usize,
    pub(crate) forms: &'static [LinkForm],
    /// A session is open at the beginning.
    pub(crate) open: bool,
    /// C lives at the beginning and need not be spawned.
    pub(crate) child_lives: bool,
    /// How a spawn may be asked for: linked, monitored.
    pub(crate) spawns: &'static [(bool, bool)],
    pub(crate) spawners: &'static [usize],
    /// Who may kill whom.
    pub(crate) kills: &'static [(usize, usize)],
    /// Who may monitor whom.
    pub(crate) monitors: &'static [(usize, usize)],
    /// Who ends of a LinkDied.
    pub(crate) die_of_links: &'static [usize],
    /// Whoever is killed, or must end of a link, still answers for a while.
    pub(crate) slow_ends: bool,
    /// Several frames may arrive in one read.
    pub(crate) batches: bool,
    pub(crate) connections_max: usize,
    /// What the deep run allows beyond that.
    pub(crate) deeper: fn(&mut Budget),
    /// At least this many distinct states must be reached, usually and in the deep run, or the
    /// model has shrunk.
    pub(crate) states_min: [usize; 2],
}

const BASE: Scenario = Scenario {
    name: "",
    budget: NONE,
    third: 0,
    forms: &[Notice],
    open: true,
    child_lives: false,
    spawns: &[(true, false)],
    spawners: &[P],
    kills: &[(T, C)],
    monitors: &[(T, C)],
    die_of_links: &[],
    slow_ends: false,
    batches: true,
    connections_max: 5,
    deeper: |_| {},
    states_min: [1, 1],
};

/// A parent that is killed from the child's node while its spawn is on the way.
const KILL_PARENT: Scenario = Scenario {
    name: "kill_parent",
    budget: Budget {
        link: [0, 0, 1, 0, 0, 1],
        end: [0, 1, 0, 0],
        spawn: 1,
        give_spawn_up: 1,
        kill: 1,
        cut: 1,
        ..NONE
    },
    third: 1,
    kills: &[(T, P), (T, C)],
    die_of_links: &[P, C],
    deeper: |budget| {
        budget.link = [0, 1, 1, 1, 0, 1];
        budget.unlink = [0, 0, 1, 0, 0, 1];
        budget.end = [0, 1, 1, 0];
    },
    states_min: [25_000, 1_700_000],
    ..BASE
};

/// Every scenario of the model.
pub(crate) const ALL: &[Scenario] = &[
    // Two processes on two nodes: the link table, both forms, deadlines, one session that may go.
    Scenario {
        name: "links",
        budget: Budget {
            link: [0, 0, 2, 1, 0, 0],
            unlink: [0, 0, 2, 1, 0, 0],
            end: [0, 1, 1, 0],
            give_up: 2,
            cut: 1,
            ..NONE
        },
        forms: &[Notice, Value],
        child_lives: true,
        deeper: |budget| {
            budget.link = [0, 0, 2, 2, 0, 0];
            budget.unlink = [0, 0, 2, 2, 0, 0];
            budget.give_up = 2;
        },
        states_min: [200_000, 1_500_000],
        ..BASE
    },
    // The same table over a session that is lost and dialled again, by either.
    Scenario {
        name: "links_again",
        budget: Budget {
            link: [0, 0, 2, 1, 0, 0],
            unlink: [0, 0, 1, 1, 0, 0],
            end: [0, 1, 1, 0],
            give_up: 1,
            cut: 1,
            dial: [1, 1],
            ..NONE
        },
        child_lives: true,
        deeper: |budget| {
            budget.cut = 2;
        },
        states_min: [270_000, 1_300_000],
        ..BASE
    },
    // Two processes of one node, and a remote one: local links obey the same table.
    Scenario {
        name: "links_here",
        budget: Budget {
            link: [1, 0, 1, 1, 0, 0],
            unlink: [0, 0, 1, 1, 0, 0],
            end: [1, 1, 1, 0],
            give_up: 1,
            cut: 1,
            ..NONE
        },
        third: 1,
        child_lives: true,
        die_of_links: &[C],
        deeper: |budget| {
            budget.link = [1, 0, 2, 2, 0, 0];
        },
        states_min: [320_000, 4_300_000],
        ..BASE
    },
    // Three processes linked in a ring.
    Scenario {
        name: "ring",
        budget: Budget {
            link: [1, 0, 0, 1, 0, 1],
            unlink: [1, 0, 0, 0, 0, 1],
            end: [1, 1, 0, 0],
            cut: 1,
            ..NONE
        },
        child_lives: true,
        die_of_links: &[P, C, T],
        deeper: |budget| {
            budget.link = [1, 1, 0, 1, 0, 1];
            budget.end = [1, 1, 1, 0];
        },
        states_min: [24_000, 330_000],
        ..BASE
    },
    // Spawn, with a third process that guesses the child's pid, links it, kills it while it is
    // parked, and a session that may go.
    Scenario {
        name: "spawn",
        budget: Budget {
            link: [1, 1, 1, 0, 0, 0],
            unlink: [1, 0, 1, 0, 0, 0],
            end: [1, 1, 1, 0],
            spawn: 1,
            give_spawn_up: 1,
            parked_too_long: 1,
            kill: 1,
            cut: 1,
            ..NONE
        },
        deeper: |budget| budget.link[3] = 1,
        states_min: [680_000, 3_200_000],
        ..BASE
    },
    // The guess crosses the making of the child.
    Scenario {
        name: "guess",
        budget: Budget {
            link: [0, 0, 3, 1, 0, 0],
            unlink: [0, 0, 1, 0, 0, 0],
            end: [1, 1, 1, 0],
            give_up: 1,
            spawn: 1,
            give_spawn_up: 1,
            cut: 1,
            ..NONE
        },
        deeper: |budget| {
            budget.unlink = [0, 0, 1, 1, 0, 0];
            budget.kill = 1;
        },
        states_min: [620_000, 5_000_000],
        ..BASE
    },
    // The same guess from the child's own node.
    Scenario {
        name: "guess_here",
        budget: Budget {
            link: [0, 0, 2, 1, 0, 0],
            unlink: [0, 0, 1, 1, 0, 0],
            end: [1, 0, 1, 0],
            spawn: 1,
            give_spawn_up: 1,
            kill: 1,
            cut: 1,
            ..NONE
        },
        third: 1,
        deeper: |budget| {
            budget.end = [1, 1, 1, 0];
            budget.give_up = 1;
        },
        states_min: [240_000, 2_100_000],
        ..BASE
    },
    // The parent guesses the pid of its own child to come.
    Scenario {
        name: "parent_guess",
        budget: Budget {
            link: [2, 1, 0, 0, 0, 0],
            unlink: [1, 1, 0, 0, 0, 0],
            end: [1, 1, 0, 0],
            give_up: 1,
            spawn: 1,
            give_spawn_up: 1,
            parked_too_long: 1,
            cut: 1,
            ..NONE
        },
        forms: &[Notice, Value],
        deeper: |budget| {
            budget.link = [3, 1, 0, 0, 0, 0];
            budget.give_up = 2;
        },
        states_min: [200_000, 1_400_000],
        ..BASE
    },
    // Two spawns: the second is asked for while the first one's tombstone stands, and T spawns too.
    Scenario {
        name: "spawns",
        budget: Budget {
            end: [1, 0, 0, 0],
            spawn: 2,
            give_spawn_up: 2,
            parked_too_long: 1,
            cut: 1,
            ..NONE
        },
        spawns: &[(true, false), (true, true)],
        spawners: &[P, T],
        deeper: |budget| {
            budget.end = [1, 1, 0, 1];
            budget.spawn = 2;
            budget.kill = 1;
            budget.cut = 1;
        },
        states_min: [200_000, 800_000],
        ..BASE
    },
    KILL_PARENT,
    // The same where ends take their time: whoever must end still answers, and is given its child.
    Scenario {
        name: "slow_ends",
        slow_ends: true,
        deeper: |budget| {
            budget.link = [0, 1, 1, 0, 0, 1];
            budget.unlink = [0, 0, 1, 0, 0, 1];
        },
        states_min: [25_000, 25_000],
        ..KILL_PARENT
    },
    // Links that cross the end of somebody who was killed and still answers.
    Scenario {
        name: "slow_links",
        budget: Budget {
            link: [0, 0, 1, 1, 0, 0],
            unlink: [0, 0, 1, 1, 0, 0],
            give_up: 1,
            kill: 1,
            cut: 1,
            ..NONE
        },
        child_lives: true,
        slow_ends: true,
        deeper: |budget| {
            budget.link = [0, 0, 2, 1, 0, 0];
            budget.end = [0, 0, 1, 0];
        },
        states_min: [3_000, 3_000],
        ..BASE
    },
    // Spawn over a session that is lost and dialled again.
    Scenario {
        name: "spawn_again",
        budget: Budget {
            link: [0, 0, 1, 0, 0, 0],
            end: [1, 0, 0, 0],
            spawn: 1,
            give_spawn_up: 1,
            kill: 1,
            cut: 2,
            dial: [1, 1],
            ..NONE
        },
        deeper: |budget| {
            budget.link = [0, 1, 1, 0, 0, 0];
            budget.end = [1, 1, 0, 0];
            budget.dial = [2, 1];
        },
        states_min: [110_000, 400_000],
        ..BASE
    },
    // Spawns of two parents over two sessions: the second session uses the first one's numbers again.
    Scenario {
        name: "spawns_again",
        budget: Budget {
            end: [1, 0, 1, 0],
            spawn: 2,
            give_spawn_up: 1,
            cut: 1,
            dial: [1, 1],
            ..NONE
        },
        spawners: &[P, T],
        deeper: |budget| {
            budget.end = [1, 1, 1, 0];
            budget.give_spawn_up = 2;
            budget.cut = 2;
            budget.dial = [2, 1];
        },
        states_min: [110_000, 1_300_000],
        ..BASE
    },
    // A child that is linked, monitored or both, and a second monitor.
    Scenario {
        name: "spawn_monitor",
        budget: Budget {
            end: [1, 1, 1, 0],
            spawn: 1,
            give_spawn_up: 1,
            kill: 1,
            monitor: 1,
            demonitor: 1,
            cut: 1,
            dial: [1, 0],
            ..NONE
        },
        spawns: &[(true, false), (false, true), (true, true), (false, false)],
        deeper: |budget| {
            budget.monitor = 2;
        },
        states_min: [200_000, 1_400_000],
        ..BASE
    },
    // Monitors beside links, over sessions that come and go; two monitors of one target stack.
    Scenario {
        name: "monitors",
        budget: Budget {
            link: [0, 0, 1, 0, 0, 0],
            unlink: [0, 0, 1, 0, 0, 0],
            end: [0, 1, 1, 0],
            monitor: 2,
            demonitor: 1,
            cut: 1,
            dial: [1, 1],
            crash: [0, 1],
            ..NONE
        },
        child_lives: true,
        deeper: |budget| {
            budget.cut = 2;
            budget.demonitor = 2;
        },
        states_min: [89_000, 520_000],
        ..BASE
    },
    // Monitors of nodes, over sessions that come and go.
    Scenario {
        name: "node_monitors",
        budget: Budget {
            link: [0, 0, 1, 0, 0, 0],
            end: [0, 1, 1, 0],
            monitor_node: 2,
            cut: 1,
            dial: [1, 1],
            crash: [0, 1],
            ..NONE
        },
        child_lives: true,
        deeper: |budget| {
            budget.monitor_node = 3;
            budget.cut = 2;
            budget.dial = [2, 1];
        },
        states_min: [16_000, 300_000],
        ..BASE
    },
    // Sessions alone: dials that cross, cuts, stale epochs.
    Scenario {
        name: "dials",
        budget: Budget {
            cut: 3,
            dial: [2, 2],
            ..NONE
        },
        open: false,
        child_lives: true,
        deeper: |budget| {
            budget.cut = 4;
            budget.dial = [3, 3];
        },
        states_min: [11_000, 130_000],
        ..BASE
    },
    // Dials that cross, with links over the session that stays.
    Scenario {
        name: "dials_links",
        budget: Budget {
            link: [0, 0, 1, 1, 0, 0],
            unlink: [0, 0, 1, 0, 0, 0],
            cut: 1,
            dial: [2, 2],
            crash: [0, 1],
            ..NONE
        },
        open: false,
        child_lives: true,
        deeper: |budget| {
            budget.link = [0, 0, 2, 1, 0, 0];
            budget.cut = 2;
        },
        states_min: [56_000, 950_000],
        ..BASE
    },
    // A sound network: dials must lead to a session, and links over it hold.
    Scenario {
        name: "sound",
        budget: Budget {
            link: [0, 0, 1, 1, 0, 0],
            dial: [1, 1],
            ..NONE
        },
        open: false,
        child_lives: true,
        deeper: |budget| {
            budget.link = [0, 0, 2, 2, 0, 0];
            budget.unlink = [0, 0, 1, 1, 0, 0];
            budget.dial = [2, 2];
        },
        states_min: [340, 35_000],
        ..BASE
    },
    // Either node may crash at any time.
    Scenario {
        name: "crash",
        budget: Budget {
            link: [0, 1, 1, 0, 0, 0],
            end: [1, 0, 0, 0],
            spawn: 1,
            give_spawn_up: 1,
            cut: 1,
            dial: [1, 1],
            crash: [1, 1],
            ..NONE
        },
        deeper: |budget| {
            budget.link = [1, 1, 1, 0, 0, 0];
            budget.unlink = [1, 0, 0, 0, 0, 0];
        },
        states_min: [22_000, 200_000],
        ..BASE
    },
];

/// The scenario with this name, in that size.
pub(crate) fn scenario(name: &str, depth: Depth) -> Scenario {
    let found = ALL.iter().find(|scenario| scenario.name == name);
    let mut scenario = *found.expect("a scenario of the table");
    if depth == Depth::Deep {
        (scenario.deeper)(&mut scenario.budget);
    }
    scenario
}

impl Scenario {
    /// The kinds of step that must have been taken when this scenario is explored.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let b = &self.budget;
        let any = |budgets: &[u8]| budgets.iter().any(|budget| *budget > 0);
        let links = any(&b.link);
        let of = [
            (true, Kind::Deliver),
            (b.cut > 0 || any(&b.crash), Kind::Notice),
            (b.dial[0].min(b.dial[1]) > 0 && b.cut > 0, Kind::DialFails),
            (b.spawn > 0, Kind::Made),
            (b.spawn > 0, Kind::Refuse),
            (links, Kind::Take),
            (self.slow_ends, Kind::Finish),
            (links, Kind::Link),
            (any(&b.unlink), Kind::Unlink),
            (b.give_up + b.give_spawn_up > 0, Kind::GiveUp),
            (any(&b.end), Kind::End),
            (b.spawn > 0, Kind::Spawn),
            (b.parked_too_long > 0, Kind::ParkedTooLong),
            (b.kill > 0, Kind::Kill),
            (b.monitor > 0, Kind::Monitor),
            (b.demonitor > 0, Kind::Demonitor),
            (b.monitor_node > 0, Kind::MonitorNode),
            (b.cut > 0, Kind::Cut),
            (any(&b.dial), Kind::Dial),
            (any(&b.crash), Kind::Crash),
        ];
        let wanted = of.into_iter().filter(|(wanted, _)| *wanted);
        wanted.map(|(_, kind)| kind).collect()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("at most")?;
        for (word, calls) in [("link", self.link), ("unlink", self.unlink)] {
            for ((owner, peer), count) in PAIRS.iter().zip(calls) {
                if count > 0 {
                    write!(f, " {count} {word} {}→{},", ROLE[*owner], ROLE[*peer])?;
                }
            }
        }
        for (role, count) in ROLE.iter().zip(self.end) {
            if count > 0 {
                write!(f, " {count} end of {role},")?;
            }
        }
        for (word, count) in [
            ("link deadline", self.give_up),
            ("spawn", self.spawn),
            ("spawn deadline", self.give_spawn_up),
            ("child parked too long", self.parked_too_long),
            ("kill", self.kill),
            ("monitor", self.monitor),
            ("demonitor", self.demonitor),
            ("monitor of a node", self.monitor_node),
            ("cut", self.cut),
            ("dial by n1", self.dial[0]),
            ("dial by n2", self.dial[1]),
            ("crash of n1", self.crash[0]),
            ("crash of n2", self.crash[1]),
        ] {
            if count > 0 {
                write!(f, " {count} {word},")?;
            }
        }
        f.write_str(" in any order")
    }
}

/// What a story calls each role.
const ROLE: [&str; 4] = ["P", "C", "T", "D"];
