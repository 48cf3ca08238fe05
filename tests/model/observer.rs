//! Who is owed what, as somebody outside the system sees it.
//!
//! The observer hears calls, returns and notices, and which half of a link exists. It has no part
//! in what happens. What it writes into [`Observer::broken`] is the promise that was broken.

use tidelock_proto::Pid;

use super::{ROLES, role};

/// What one process is owed about another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Half {
    /// One LinkDied, or a `link()` that returns the end: not less, not more.
    pub(crate) owed: bool,
    /// It called `unlink`, so it must hear of nothing.
    pub(crate) quiet: bool,
}

/// What became of one spawn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Spawn {
    /// The session and the number of the request.
    pub(crate) key: (u64, u64),
    linked: bool,
    adopted: bool,
    failed: bool,
    ran: bool,
}

/// What somebody outside remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Observer {
    halves: [[Half; ROLES]; ROLES],
    spawns: Vec<Spawn>,
    /// The highest epoch that opened on each side.
    opened: [u64; 2],
    /// The network or a node was harmed: a dial may have failed for that.
    pub(crate) hurt: bool,
    /// The first promise that was broken.
    pub(crate) broken: Option<&'static str>,
}

impl Observer {
    /// Notes a broken promise; the first one stands.
    pub(crate) fn break_promise(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    /// What `owner` is owed about `peer`.
    pub(crate) fn half(&mut self, owner: Pid, peer: Pid) -> &mut Half {
        &mut self.halves[role(owner)][role(peer)]
    }

    /// Whether `owner` is owed a LinkDied about `peer`.
    pub(crate) fn owes(&self, owner: Pid, peer: Pid) -> bool {
        self.halves[role(owner)][role(peer)].owed
    }

    /// `owner` is linked to `peer` from here on.
    pub(crate) fn linked(&mut self, owner: Pid, peer: Pid) {
        *self.half(owner, peer) = Half {
            owed: true,
            quiet: false,
        };
    }

    /// `owner` called `unlink(peer)`, or gave its `link(peer)` up.
    pub(crate) fn unlinked(&mut self, owner: Pid, peer: Pid) {
        *self.half(owner, peer) = Half {
            owed: false,
            quiet: true,
        };
    }

    /// `owner` was told of `peer`'s end, by a LinkDied or by what `link` returned.
    pub(crate) fn told(&mut self, owner: Pid, peer: Pid) {
        let half = self.half(owner, peer);
        let (owed, quiet) = (half.owed, half.quiet);
        half.owed = false;
        if !owed {
            self.break_promise(if quiet {
                "P2: a LinkDied after unlink()"
            } else {
                "P1: told twice, or without a link"
            });
        }
    }

    /// `owner` acts on a LinkDied about `peer`; `stale`: it is older than its last `link(peer)`.
    pub(crate) fn taken(&mut self, owner: Pid, peer: Pid, stale: bool) {
        if self.half(owner, peer).quiet {
            self.break_promise("P2: a LinkDied after unlink()");
        }
        if stale {
            self.break_promise("P1: a LinkDied of an earlier link is taken after link()");
        }
    }

    /// `pid` ended: nobody owes it anything.
    pub(crate) fn ended(&mut self, pid: Pid) {
        self.halves[role(pid)] = Default::default();
    }

    /// A spawn was asked for.
    pub(crate) fn asked(&mut self, key: (u64, u64), linked: bool) {
        self.spawns.push(Spawn {
            key,
            linked,
            ..Spawn::default()
        });
    }

    fn spawn(&mut self, key: (u64, u64)) -> &mut Spawn {
        let found = self.spawns.iter_mut().find(|spawn| spawn.key == key);
        found.expect("it was asked for")
    }

    /// The parent's half of a spawn is in place.
    pub(crate) fn adopted(&mut self, key: (u64, u64)) {
        self.spawn(key).adopted = true;
    }

    /// `spawn` returned an error, or its caller ended.
    pub(crate) fn failed(&mut self, key: (u64, u64)) {
        self.spawn(key).failed = true;
        self.judge(key);
    }

    /// The child of a spawn runs.
    pub(crate) fn ran(&mut self, key: (u64, u64)) {
        self.spawn(key).ran = true;
        self.judge(key);
    }

    fn judge(&mut self, key: (u64, u64)) {
        let spawn = self.spawn(key).clone();
        if spawn.ran && spawn.linked && !spawn.adopted {
            self.break_promise("P3: the child runs before its parent's half exists");
        }
        if spawn.ran && spawn.failed {
            self.break_promise("P4: the child runs although spawn() failed");
        }
    }

    /// A session opened on this side.
    pub(crate) fn opened(&mut self, side: usize, epoch: u64) {
        if epoch <= self.opened[side] {
            self.break_promise("P7: an epoch opens twice, or out of order");
        }
        self.opened[side] = epoch;
    }
}
