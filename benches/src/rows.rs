//! What is measured, and with what it is compared.

/// A figure of a row, as the guest names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// Its key in the line.
    pub(crate) key: &'static str,
    /// What follows the number in the table.
    pub(crate) unit: &'static str,
    /// Whether more is better.
    pub(crate) more_is_better: bool,
}

const RATE: Figure = Figure {
    key: "per_s",
    unit: "/s",
    more_is_better: true,
};
const MIB: Figure = Figure {
    key: "mib_per_s",
    unit: "MiB/s",
    more_is_better: true,
};
const P50: Figure = micros("p50_us");
const P99: Figure = micros("p99_us");
const BYTES: Figure = Figure {
    key: "bytes_each",
    unit: "B",
    more_is_better: false,
};
const ALIVE: Figure = Figure {
    key: "alive",
    unit: "",
    more_is_better: true,
};
const MS: Figure = millis("ms");

const fn micros(key: &'static str) -> Figure {
    Figure {
        key,
        unit: "us",
        more_is_better: false,
    }
}

const fn millis(key: &'static str) -> Figure {
    Figure {
        key,
        unit: "ms",
        more_is_better: false,
    }
}

/// What Lunatic 0.13.2 did, once, on a quiet machine of this kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lunatic {
    /// It did this much, and Erlang did that much on the same day in the named row. Today's figure is
    /// taken to have moved as Erlang's.
    Did {
        /// Lunatic then.
        then: f64,
        /// Erlang then.
        erlang_then: f64,
        /// The row whose Erlang figure of today is compared with `erlang_then`.
        row: &'static str,
    },
    /// Measured without an Erlang figure beside it: taken as it was.
    Unscaled(f64),
    /// It has no such thing, or does not survive it.
    Cannot(&'static str),
    /// Nobody measured it.
    Unknown,
}

/// Where a row runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one program.
    One,
    /// The same, with the guest that only waits.
    OneIdle,
    /// On two daemons of one machine.
    Two,
    /// The same, with the guest that declares more memory.
    TwoLarge,
}

/// One row, with its sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// What people read.
    pub(crate) title: &'static str,
    /// The rows as the guest takes them.
    pub(crate) sizes: &'static [&'static str],
    /// The same, so small that only right and wrong can be told.
    pub(crate) short: &'static str,
    pub(crate) place: Place,
    pub(crate) figures: &'static [(Figure, Lunatic)],
    /// Whether Erlang's driver has it.
    pub(crate) erlang: bool,
}

use Lunatic::{Cannot, Did, Unknown, Unscaled};

const fn did(then: f64, erlang_then: f64, row: &'static str) -> Lunatic {
    Did {
        then,
        erlang_then,
        row,
    }
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        title: "spawn, allocate, report, end",
        sizes: &[
            "local_spawn:10000",
            "local_spawn:100000",
            "local_spawn:300000",
        ],
        short: "local_spawn:200",
        place: Place::One,
        // Lunatic: 7 000 to 14 000.
        figures: &[(RATE, did(14e3, 616e3, "local_spawn_empty:300000"))],
        erlang: true,
    },
    Row {
        title: "spawn, end (Erlang: counted, no message)",
        sizes: &["local_spawn_empty:300000"],
        short: "local_spawn_empty:200",
        place: Place::One,
        figures: &[(RATE, did(14e3, 616e3, "local_spawn_empty:300000"))],
        erlang: true,
    },
    Row {
        title: "spawn linked, fail, told; 1000 under way",
        sizes: &["local_link:10000", "local_link:100000"],
        short: "local_link:200",
        place: Place::One,
        figures: &[(RATE, did(10e3, 460e3, "local_link:100000"))],
        erlang: true,
    },
    Row {
        title: "the same, one after the other",
        sizes: &["local_link_seq:50000"],
        short: "local_link_seq:50",
        place: Place::One,
        figures: &[(RATE, Unknown)],
        erlang: true,
    },
    Row {
        title: "round trips, one pair, 64 B",
        sizes: &["local_ping:500000"],
        short: "local_ping:1000",
        place: Place::One,
        figures: &[(RATE, did(0.47e6, 2.5e6, "local_ping:500000"))],
        erlang: true,
    },
    Row {
        title: "2, 100, 1000 senders to one mailbox",
        sizes: &[
            "local_fanin:2:400000",
            "local_fanin:100:400000",
            "local_fanin:1000:400000",
        ],
        short: "local_fanin:10:1000",
        place: Place::One,
        figures: &[(RATE, did(1.3e6, 4.2e6, "local_fanin:1000:400000"))],
        erlang: true,
    },
    Row {
        title: "receive by tag behind 0, 10 000, 100 000",
        sizes: &[
            "local_backlog:0:1000",
            "local_backlog:10000:1000",
            "local_backlog:100000:100",
        ],
        short: "local_backlog:500:10",
        place: Place::One,
        figures: &[(P50, Unscaled(347.0)), (micros("first_us"), Unknown)],
        erlang: true,
    },
    Row {
        title: "idle processes that then answer",
        sizes: &["local_idle:20000", "local_idle:50000", "local_idle:200000"],
        short: "local_idle:300",
        place: Place::OneIdle,
        figures: &[
            // More than it could have at default kernel settings.
            (ALIVE, Unscaled(10_288.0)),
            (BYTES, Unscaled(27e3)),
            (RATE, Unknown),
        ],
        erlang: true,
    },
    Row {
        title: "round trip 64 B",
        sizes: &["remote_ping:64:10000"],
        short: "remote_ping:64:100",
        place: Place::Two,
        figures: &[
            (P50, did(590.0, 103.0, "remote_ping:64:10000")),
            (P99, Unknown),
        ],
        erlang: true,
    },
    Row {
        title: "one way 64 B",
        sizes: &["remote_oneway:64:400000"],
        short: "remote_oneway:64:1000",
        place: Place::Two,
        figures: &[(RATE, did(120e3, 228e3, "remote_oneway:64:400000"))],
        erlang: true,
    },
    Row {
        title: "one way 1 KiB",
        sizes: &["remote_oneway:1024:50000"],
        short: "remote_oneway:1024:200",
        place: Place::Two,
        figures: &[(RATE, Unknown)],
        erlang: true,
    },
    Row {
        title: "messages of 64 KiB, 1 MiB, 16 MiB, two under way",
        sizes: &[
            "remote_bulk:65536:3000",
            "remote_bulk:1048576:200",
            "remote_bulk:16777216:16",
        ],
        short: "remote_bulk:1048576:3",
        place: Place::TwoLarge,
        figures: &[(MIB, did(8.0, 1662.0, "remote_bulk:16777216:16"))],
        erlang: true,
    },
    Row {
        title: "remote spawn, one after the other",
        sizes: &["remote_spawn_seq:5000"],
        short: "remote_spawn_seq:20",
        place: Place::Two,
        figures: &[(RATE, did(2.6e3, 9.3e3, "remote_spawn_seq:5000"))],
        erlang: true,
    },
    Row {
        title: "remote spawn, 10, 100, 1000 under way",
        sizes: &[
            "remote_spawn:20000:10",
            "remote_spawn:40000:100",
            "remote_spawn:40000:1000",
        ],
        short: "remote_spawn:100:10",
        place: Place::Two,
        figures: &[(RATE, Cannot("freezes"))],
        erlang: true,
    },
    Row {
        title: "remote spawn linked, fail, told; 100, 1000 under way",
        sizes: &[
            "remote_spawn_link:20000:100",
            "remote_spawn_link:20000:1000",
        ],
        short: "remote_spawn_link:100:10",
        place: Place::Two,
        figures: &[(RATE, Cannot("has none"))],
        erlang: true,
    },
    Row {
        title: "remote link, acknowledged, one after the other",
        sizes: &["remote_link_seq:5000"],
        short: "remote_link_seq:50",
        place: Place::Two,
        figures: &[(RATE, Cannot("has none"))],
        erlang: true,
    },
    Row {
        title: "remote link, acknowledged, 100 under way",
        sizes: &["remote_link:1000:100", "remote_link:10000:100"],
        short: "remote_link:100:10",
        place: Place::Two,
        figures: &[(RATE, Cannot("has none"))],
        erlang: true,
    },
    Row {
        title: "one process there fails, 1000, 10 000 links here told",
        sizes: &["remote_fanout:1000", "remote_fanout:10000"],
        short: "remote_fanout:50",
        place: Place::Two,
        figures: &[(MS, Cannot("never tells"))],
        erlang: true,
    },
    Row {
        title: "node killed, 10 000 links told",
        sizes: &["remote_sigkill:10000"],
        short: "remote_sigkill:50",
        place: Place::Two,
        figures: &[
            (millis("first_ms"), Unknown),
            (millis("last_ms"), Cannot("never tells")),
        ],
        erlang: true,
    },
    Row {
        title: "32 callers x 50 remote spawns, all heard",
        sizes: &["remote_concurrent:32:50"],
        short: "remote_concurrent:4:5",
        place: Place::Two,
        figures: &[(RATE, Cannot("deadlocks"))],
        erlang: true,
    },
];
