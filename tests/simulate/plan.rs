//! What happens to the cluster of one seed, and when.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::chance::Chance;
use super::network::Weather;
use super::script::BEAT;

/// From here on the network is whole and nobody begins anything.
pub(crate) const QUIET_AT: Duration = Duration::from_secs(22);
/// When half of those who live are killed, so that halves of links show.
pub(crate) const REAPING_AT: Duration = Duration::from_secs(28);
/// The end.
pub(crate) const END_AT: Duration = Duration::from_millis(31_500);

/// Nodes of a cluster.
pub(crate) const NODES: usize = 3;
/// Native processes that each node keeps alive.
pub(crate) const ACTORS: usize = 7;
/// Faults of a seed.
const FAULTS: usize = 5;
/// What may be left out of a plan: each of its faults, and each of what follows.
const PARTS: usize = FAULTS + 4;
/// Certificates run out.
pub(crate) const CERTIFICATES: u32 = 1 << FAULTS;
/// A node leaves.
pub(crate) const LEAVE: u32 = 1 << (FAULTS + 1);
/// Who crashed stays down for longer than a lease.
const LONG_CRASHES: u32 = 1 << (FAULTS + 2);
/// Processes monitor nodes and set timers, too.
const MORE_DEEDS: u32 = 1 << (FAULTS + 3);

/// Something bad. Nodes are numbered by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing gets from one to the other, for so long.
    OneWay(usize, usize, Duration),
    /// Nothing gets through in either direction.
    Partition(usize, usize, Duration),
    /// A node reaches nobody.
    Isolate(usize, Duration),
    /// A node's process is gone at once; its name starts again so much later.
    Crash(usize, Duration),
    /// A node leaves (SIGTERM). Its processes are killed first, as the daemon does it, or it goes with all of
    /// them. Its name starts again so much later, or never.
    Leave(usize, bool, Option<Duration>),
    /// A node stands still (SIGSTOP, SIGCONT).
    Pause(usize, Duration),
    /// So many per mille of all datagrams are lost.
    Storm(u64, Duration),
    /// Control tells nobody anything.
    ControlDown(Duration),
}

impl Fault {
    /// How long it lasts; for a crash and for who leaves, until the name starts again.
    pub(crate) fn length(&self) -> Duration {
        match self {
            Fault::OneWay(_, _, length)
            | Fault::Partition(_, _, length)
            | Fault::Isolate(_, length)
            | Fault::Pause(_, length)
            | Fault::Crash(_, length)
            | Fault::Storm(_, length)
            | Fault::ControlDown(length) => *length,
            Fault::Leave(_, _, back) => back.unwrap_or(END_AT),
        }
    }

    /// Whether sessions between two machines may end of it. Control is off the data path.
    pub(crate) fn touches(&self, a: usize, b: usize) -> bool {
        match *self {
            Fault::OneWay(x, y, _) | Fault::Partition(x, y, _) => {
                (x, y) == (a, b) || (y, x) == (a, b)
            }
            Fault::Isolate(x, _)
            | Fault::Crash(x, _)
            | Fault::Leave(x, ..)
            | Fault::Pause(x, _) => x == a || x == b,
            Fault::Storm(..) => true,
            Fault::ControlDown(_) => false,
        }
    }
}

/// A fault and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// A certificate that a node shows from some time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paper {
    pub(crate) shown_at: Duration,
    /// `None`: longer than any run.
    pub(crate) until: Option<Duration>,
}

/// What follows from a seed, or less than that: a plan is shrunk by leaving things out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Which of the seed's faults happen, and what else of it.
    pub(crate) mask: u32,
    pub(crate) actors: usize,
    /// When the actors fall silent.
    pub(crate) quiet_at: Duration,
}

impl Plan {
    /// All that a seed has. In one of six nodes leave, crash for long, and processes do more; certificates run out in
    /// three of five, of these as of the others.
    pub(crate) fn of(seed: u64) -> Self {
        let mut mask = (1 << FAULTS) - 1;
        let leaves = seed % 6 == 5;
        if leaves {
            mask |= LEAVE | LONG_CRASHES | MORE_DEEDS;
        }
        if seed.is_multiple_of(2) || leaves && seed / 6 % 5 >= 2 {
            mask |= CERTIFICATES;
        }
        Plan {
            seed,
            mask,
            actors: ACTORS,
            quiet_at: QUIET_AT,
        }
    }

    pub(crate) fn weather(&self) -> Weather {
        let mut chance = Chance::of(self.seed, 2);
        Weather {
            lost_per_mille: [0, 0, 10, 50][chance.below(4) as usize],
            twice_per_mille: [0, 20][chance.below(2) as usize],
            late_per_mille: [0, 30][chance.below(2) as usize],
            jitter: Duration::from_millis([0, 2, 20][chance.below(3) as usize]),
            shortest: Duration::from_millis([8, 8, 16, 32][chance.below(4) as usize]),
        }
    }

    /// How fast a node's clock is, in parts per million.
    pub(crate) fn skew(&self, start: u64) -> i64 {
        Chance::of(self.seed, 100 + start).below(20_001) as i64 - 10_000
    }

    /// The certificates of a node that starts at `now`, in order; the last one lasts. Half of the nodes renew
    /// theirs, in time or too late.
    pub(crate) fn papers(&self, start: u64, now: Duration) -> Vec<Paper> {
        let mut chance = Chance::of(self.seed, 300 + start);
        let (mut shown_at, mut papers) = (now, Vec::new());
        let mut left = [0, 0, 1, 2][chance.below(4) as usize];
        while left > 0 && self.mask & CERTIFICATES != 0 {
            // Dates are in seconds.
            let until = Duration::from_secs(shown_at.as_secs() + 4 + chance.below(9));
            let early = Duration::from_millis(2_000 + chance.below(1_500));
            let late = Duration::from_millis(500 + chance.below(4_000));
            let renewed_at = match chance.per_mille(500) {
                true => (until - early).max(shown_at + Duration::from_millis(500)),
                false => until + late,
            };
            if renewed_at >= self.quiet_at {
                break;
            }
            let until = Some(until);
            papers.push(Paper { shown_at, until });
            (shown_at, left) = (renewed_at, left - 1);
        }
        let until = None;
        papers.push(Paper { shown_at, until });
        papers
    }

    /// Whether processes monitor nodes and set timers.
    pub(crate) fn has_more_deeds(&self) -> bool {
        self.mask & MORE_DEEDS != 0
    }

    pub(crate) fn faults(&self) -> Vec<Due> {
        let mut chance = Chance::of(self.seed, 3);
        let mut all: Vec<Due> = (0..FAULTS).map(|_| due(&mut chance)).collect();
        // Streams of their own: a seed without these parts is what it always was.
        let mut long = Chance::of(self.seed, 6);
        for due in &mut all {
            let length = Duration::from_millis(3_600 + long.below(4_400));
            if self.mask & LONG_CRASHES != 0
                && let Fault::Crash(_, later) = &mut due.fault
            {
                *later = length;
            }
        }
        let mut bit = 0;
        all.retain(|_| {
            bit += 1;
            self.mask & (1 << (bit - 1)) != 0
        });
        if self.mask & LEAVE != 0 {
            all.push(leave(&mut Chance::of(self.seed, 5)));
        }
        all.sort_by_key(|due| due.at);
        all
    }

    /// Plans with less in them, the boldest first.
    pub(crate) fn smaller(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for bit in (0..PARTS).filter(|bit| self.mask & (1 << bit) != 0) {
            plans.push(Plan {
                mask: self.mask & !(1 << bit),
                ..self.clone()
            });
        }
        for actors in [1, 2, self.actors.saturating_sub(1)] {
            if actors > 0 && actors < self.actors {
                plans.push(Plan {
                    actors,
                    ..self.clone()
                });
            }
        }
        for (parts, of) in [(1, 4), (1, 2), (3, 4), (9, 10)] {
            let quiet_at = self.quiet_at * parts / of;
            if quiet_at > Duration::from_secs(1) {
                plans.push(Plan {
                    quiet_at,
                    ..self.clone()
                });
            }
        }
        plans
    }
}

fn due(chance: &mut Chance) -> Due {
    let a = chance.below(NODES as u64) as usize;
    let b = (a + 1 + chance.below(NODES as u64 - 1) as usize) % NODES;
    let short = Duration::from_millis(200 + chance.below(2_500));
    let long = Duration::from_millis(3_600 + chance.below(3_000));
    let some = if chance.per_mille(600) { long } else { short };
    let fault = match chance.below(12) {
        0..=2 => Fault::OneWay(a, b, some),
        3..=4 => Fault::Partition(a, b, some),
        5 => Fault::Isolate(a, some),
        6..=7 => Fault::Crash(a, short),
        8..=9 => Fault::Pause(a, some),
        10 => Fault::Storm(50 + chance.below(250), some),
        _ => Fault::ControlDown(long * 2),
    };
    let at = Duration::from_millis(1_500 + chance.below(18_000));
    let at = rather_in_a_beat(chance, at);
    Due { at, fault }
}

/// Early enough that whoever comes back is judged for a while.
fn leave(chance: &mut Chance) -> Due {
    let name = chance.below(NODES as u64) as usize;
    let kills = chance.per_mille(500);
    let back = Duration::from_millis(500 + chance.below(5_000));
    let back = chance.per_mille(600).then_some(back);
    let at = Duration::from_millis(2_000 + chance.below(11_000));
    let at = rather_in_a_beat(chance, at);
    let fault = Fault::Leave(name, kills, back);
    Due { at, fault }
}

/// Mostly in the middle of what begins at a beat.
fn rather_in_a_beat(chance: &mut Chance, at: Duration) -> Duration {
    if !chance.per_mille(600) {
        return at;
    }
    let beats = at.as_millis() / BEAT.as_millis();
    BEAT * beats as u32 + Duration::from_millis(40 + chance.below(60))
}

/// As `TIDELOCK_PLAN` takes it: seed, faults, actors, and when they fall silent in ms.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mask, actors, quiet) = (self.mask, self.actors, self.quiet_at.as_millis());
        write!(f, "{}:{mask}:{actors}:{quiet}", self.seed)
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not SEED:FAULTS:ACTORS:QUIET_MS");
        let parts: Vec<u64> = text
            .split(':')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong())?;
        let [seed, mask, actors, quiet] = parts[..] else {
            return Err(wrong());
        };
        Ok(Plan {
            seed,
            mask: mask as u32,
            actors: actors as usize,
            quiet_at: Duration::from_millis(quiet),
        })
    }
}
