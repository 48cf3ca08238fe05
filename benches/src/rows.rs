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
    /// The same, with the smallest guest there is.
    OneSmallest,
    /// On two daemons of one machine.
    Two,
    /// The same, with the guest that declares more memory.
    TwoLarge,
    /// The same, with a module of a megabyte and nothing compiled before.
    TwoBig,
    /// On as many daemons as the row's last number.
    Nodes,
    /// In one program, the guest that only computes.
    Compute,
    /// A program of its own each time, from its start to its exit.
    Start,
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
    /// Whose drivers have it.
    pub(crate) peers: &'static [Peer],
}

/// Who is measured in the same run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// Erlang/OTP; between nodes over TCP that is not encrypted, its default.
    Erlang,
    /// The same with its traffic in mutual TLS.
    ErlangTls,
    /// ractor, and ractor_cluster over TCP that is not encrypted.
    Ractor,
    /// kameo; between nodes over libp2p, encrypted by noise.
    Kameo,
    /// The same guest in wasmtime as it comes.
    Plain,
}

impl Peer {
    /// As a heading and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Erlang => "erlang",
            Peer::ErlangTls => "erlang tls",
            Peer::Ractor => "ractor",
            Peer::Kameo => "kameo",
            Peer::Plain => "plain",
        }
    }
}

const ERLANG: &[Peer] = &[Peer::Erlang];
/// Both kinds of connection that Erlang's nodes may have.
const BOTH_ERLANGS: &[Peer] = &[Peer::Erlang, Peer::ErlangTls];
const LOCAL: &[Peer] = &[Peer::Erlang, Peer::Ractor, Peer::Kameo];

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
        peers: ERLANG,
    },
    Row {
        title: "spawn, end (Erlang: counted, no message)",
        sizes: &[
            "local_spawn_empty:10000",
            "local_spawn_empty:100000",
            "local_spawn_empty:300000",
        ],
        short: "local_spawn_empty:200",
        place: Place::One,
        figures: &[(RATE, did(14e3, 616e3, "local_spawn_empty:300000"))],
        peers: LOCAL,
    },
    Row {
        title: "spawn linked, fail, told; 1000 under way",
        sizes: &["local_link:10000", "local_link:100000", "local_link:300000"],
        short: "local_link:200",
        place: Place::One,
        figures: &[(RATE, did(10e3, 460e3, "local_link:100000"))],
        peers: LOCAL,
    },
    Row {
        title: "the same, one after the other",
        sizes: &["local_link_seq:50000"],
        short: "local_link_seq:50",
        place: Place::One,
        figures: &[(RATE, Unknown)],
        peers: ERLANG,
    },
    Row {
        title: "round trips, one pair, 64 B",
        sizes: &["local_ping:500000"],
        short: "local_ping:1000",
        place: Place::One,
        figures: &[(RATE, did(0.47e6, 2.5e6, "local_ping:500000"))],
        peers: LOCAL,
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
        peers: LOCAL,
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
        peers: ERLANG,
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
        peers: LOCAL,
    },
    Row {
        title: "the same, once they hibernate",
        sizes: &[
            "local_hibernating:20000",
            "local_hibernating:50000",
            "local_hibernating:200000",
        ],
        short: "local_hibernating:300",
        place: Place::OneIdle,
        figures: &[
            (ALIVE, Unscaled(10_288.0)),
            (BYTES, Unscaled(27e3)),
            (RATE, Unknown),
        ],
        peers: &[],
    },
    Row {
        title: "the same, as small as they can be: on stacks, and as handlers",
        sizes: &[
            "local_smallest:200000",
            "local_handlers:200000",
            "local_handlers:1000000",
        ],
        short: "local_smallest:300",
        place: Place::OneSmallest,
        figures: &[
            (ALIVE, Unscaled(10_288.0)),
            (BYTES, Unknown),
            (RATE, Unknown),
        ],
        peers: &[],
    },
    Row {
        title: "round trip 64 B, 1 KiB, 64 KiB",
        sizes: &[
            "remote_ping:64:10000",
            "remote_ping:1024:10000",
            "remote_ping:65536:2000",
        ],
        short: "remote_ping:64:100",
        place: Place::Two,
        figures: &[
            (P50, did(590.0, 103.0, "remote_ping:64:10000")),
            (P99, Unknown),
        ],
        peers: &[Peer::Erlang, Peer::ErlangTls, Peer::Ractor, Peer::Kameo],
    },
    Row {
        title: "one way 64 B",
        sizes: &[
            "remote_oneway:64:50000",
            "remote_oneway:64:400000",
            "remote_oneway:64:1000000",
        ],
        short: "remote_oneway:64:1000",
        place: Place::Two,
        figures: &[(RATE, did(120e3, 228e3, "remote_oneway:64:400000"))],
        peers: &[Peer::Erlang, Peer::ErlangTls, Peer::Ractor],
    },
    Row {
        title: "one way 1 KiB",
        sizes: &["remote_oneway:1024:50000"],
        short: "remote_oneway:1024:200",
        place: Place::Two,
        figures: &[(RATE, Unknown)],
        peers: &[Peer::Erlang, Peer::ErlangTls, Peer::Ractor],
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
        peers: BOTH_ERLANGS,
    },
    Row {
        title: "remote spawn, one after the other",
        sizes: &["remote_spawn_seq:5000"],
        short: "remote_spawn_seq:20",
        place: Place::Two,
        figures: &[(RATE, did(2.6e3, 9.3e3, "remote_spawn_seq:5000"))],
        peers: BOTH_ERLANGS,
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
        peers: BOTH_ERLANGS,
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
        peers: BOTH_ERLANGS,
    },
    Row {
        title: "remote link, acknowledged, one after the other",
        sizes: &["remote_link_seq:5000"],
        short: "remote_link_seq:50",
        place: Place::Two,
        figures: &[(RATE, Cannot("has none"))],
        peers: BOTH_ERLANGS,
    },
    Row {
        title: "remote link, acknowledged, 100 under way",
        sizes: &["remote_link:1000:100", "remote_link:10000:100"],
        short: "remote_link:100:10",
        place: Place::Two,
        figures: &[(RATE, Cannot("has none"))],
        peers: BOTH_ERLANGS,
    },
    Row {
        title: "one process there fails, 1000 to 30 000 links here told",
        sizes: &[
            "remote_fanout:1000",
            "remote_fanout:10000",
            "remote_fanout:30000",
        ],
        short: "remote_fanout:50",
        place: Place::Two,
        figures: &[(MS, Cannot("never tells"))],
        peers: BOTH_ERLANGS,
    },
    Row {
        title: "node killed, 1000, 10 000 links told",
        sizes: &["remote_sigkill:1000", "remote_sigkill:10000"],
        short: "remote_sigkill:50",
        place: Place::Two,
        figures: &[
            (millis("first_ms"), Unknown),
            (millis("last_ms"), Cannot("never tells")),
        ],
        peers: ERLANG,
    },
    Row {
        title: "32 callers x 50 remote spawns, all heard",
        sizes: &["remote_concurrent:32:50"],
        short: "remote_concurrent:4:5",
        place: Place::Two,
        figures: &[(RATE, Cannot("deadlocks"))],
        peers: BOTH_ERLANGS,
    },
    Row {
        title: "round trips of 64 B beside a stream of 64 KiB, 1 MiB, 16 MiB",
        sizes: &[
            "remote_beside:65536:2000",
            "remote_beside:1048576:2000",
            "remote_beside:16777216:300",
        ],
        short: "remote_beside:1048576:20",
        place: Place::TwoLarge,
        figures: &[(P50, Unknown), (P99, Unknown), (MIB, Unknown)],
        peers: BOTH_ERLANGS,
    },
    Row {
        title: "node stopped, 10 000 links told",
        sizes: &["remote_sigstop:10000"],
        short: "remote_sigstop:50",
        place: Place::Two,
        figures: &[
            (millis("first_ms"), Unknown),
            (millis("last_ms"), Cannot("never tells")),
        ],
        // Erlang tells after 45 to 75 s, unless it is set otherwise.
        peers: &[],
    },
    Row {
        title: "six kernels that compute",
        sizes: &["compute:3", "compute:10", "compute:30"],
        short: "compute:1",
        place: Place::Compute,
        figures: &[
            (millis("sum_ms"), Unknown),
            (millis("fib_ms"), Unknown),
            (millis("loop_ms"), Unknown),
            (millis("nbody_ms"), Unknown),
            (millis("sieve_ms"), Unknown),
            (millis("sort_ms"), Unknown),
            (millis("matmul_ms"), Unknown),
        ],
        peers: &[Peer::Plain],
    },
    Row {
        title: "tidelock run start.wasm, start to exit, compiled before",
        sizes: &["start:30"],
        short: "start:2",
        place: Place::Start,
        figures: &[(P50, Unscaled(10e3)), (P99, Unknown)],
        peers: &[],
    },
    Row {
        title: "first and second process of 1 MiB of code on the other node",
        sizes: &["remote_first:1"],
        short: "remote_first:1",
        place: Place::TwoBig,
        figures: &[
            (millis("first_ms"), Unscaled(500.0)),
            (millis("second_ms"), Unknown),
        ],
        peers: &[],
    },
];

/// How the cost grows: each row over four orders of size, Tidelock alone.
pub(crate) const GROWTH: &[Row] = &[
    Row {
        title: "idle processes of a Rust guest, 1000 to 400 000: what fits into 24 GiB",
        sizes: &[
            "local_idle:1000",
            "local_idle:10000",
            "local_idle:100000",
            "local_idle:400000",
        ],
        short: "local_idle:300",
        place: Place::OneIdle,
        figures: &[(ALIVE, Unknown), (BYTES, Unknown), (RATE, Unknown)],
        peers: &[],
    },
    Row {
        title: "the smallest idle processes, 1000 to a million: on stacks of their own, and as handlers",
        sizes: &[
            "local_smallest:1000",
            "local_smallest:10000",
            "local_smallest:100000",
            "local_smallest:1000000",
            "local_handlers:1000",
            "local_handlers:10000",
            "local_handlers:100000",
            "local_handlers:1000000",
        ],
        short: "local_handlers:300",
        place: Place::OneSmallest,
        figures: &[(ALIVE, Unknown), (BYTES, Unknown), (RATE, Unknown)],
        peers: &[],
    },
    Row {
        title: "2 to 50 nodes: a process on each, a round trip with all",
        sizes: &["nodes:2", "nodes:5", "nodes:10", "nodes:20", "nodes:50"],
        short: "nodes:3",
        place: Place::Nodes,
        figures: &[(millis("spawn_ms"), Unknown), (millis("round_ms"), Unknown)],
        peers: &[],
    },
    Row {
        title: "messages of 64 B to 60 MiB, two under way",
        sizes: &[
            "remote_bulk:64:20000",
            "remote_bulk:1024:20000",
            "remote_bulk:65536:3000",
            "remote_bulk:1048576:200",
            "remote_bulk:16777216:16",
            "remote_bulk:62914560:5",
        ],
        short: "remote_bulk:1024:20",
        place: Place::TwoLarge,
        figures: &[(MIB, Unknown), (RATE, Unknown)],
        peers: &[],
    },
    Row {
        title: "links between two nodes that stay, 10 000 to a million; bytes of both nodes",
        sizes: &[
            "remote_links:10000",
            "remote_links:100000",
            "remote_links:1000000",
        ],
        short: "remote_links:1000",
        place: Place::Two,
        figures: &[(BYTES, Unknown), (RATE, Unknown)],
        peers: &[],
    },
];
