//! What Tidelock is to reach, row by row.
//!
//! A figure of another day means little: each bar that was set beside a figure of Erlang moves with what
//! Erlang does in this run, and some are a multiple of somebody who is measured beside it.

use crate::rows::Peer;

/// How a bar is found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Height {
    /// So much, on any machine of this kind.
    Fixed(f64),
    /// So much where Erlang did so much in the named row.
    Beside {
        /// The bar then.
        bar: f64,
        /// Erlang then.
        erlang_then: f64,
        /// The row whose Erlang figure of today is compared with that.
        row: &'static str,
    },
    /// So many times what a peer does in the same row.
    Times(f64, Peer),
    /// So many times what Tidelock does in another row.
    TimesOwn(f64, &'static str),
}

/// The bar of one figure of one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bar {
    pub(crate) size: &'static str,
    pub(crate) key: &'static str,
    pub(crate) height: Height,
}

const fn fixed(size: &'static str, key: &'static str, bar: f64) -> Bar {
    let height = Height::Fixed(bar);
    Bar { size, key, height }
}

const fn beside(size: &'static str, key: &'static str, bar: f64, erlang_then: f64) -> Bar {
    beside_row(size, key, bar, erlang_then, size)
}

const fn beside_row(
    size: &'static str,
    key: &'static str,
    bar: f64,
    erlang_then: f64,
    row: &'static str,
) -> Bar {
    let height = Height::Beside {
        bar,
        erlang_then,
        row,
    };
    Bar { size, key, height }
}

const fn times(size: &'static str, key: &'static str, times: f64, peer: Peer) -> Bar {
    let height = Height::Times(times, peer);
    Bar { size, key, height }
}

/// In the order of the table.
pub(crate) const BARS: &[Bar] = &[
    beside_row(
        "local_spawn:300000",
        "per_s",
        150e3,
        616e3,
        "local_spawn_empty:300000",
    ),
    beside("local_link:100000", "per_s", 100e3, 460e3),
    beside("local_ping:500000", "per_s", 1.2e6, 2.5e6),
    beside("local_fanin:1000:400000", "per_s", 4e6, 4.2e6),
    Bar {
        size: "local_backlog:100000:100",
        key: "p50_us",
        height: Height::TimesOwn(2.0, "local_backlog:0:1000"),
    },
    fixed("local_idle:200000", "bytes_each", 36.0 * 1024.0),
    fixed("local_handlers:200000", "bytes_each", 12.0 * 1024.0),
    fixed("local_handlers:1000000", "alive", 500e3),
    times("remote_ping:64:10000", "p50_us", 1.0, Peer::Erlang),
    times("remote_ping:64:10000", "p99_us", 1.0, Peer::Erlang),
    beside("remote_oneway:64:400000", "per_s", 2e6, 228e3),
    beside("remote_oneway:1024:50000", "per_s", 350e3, 169e3),
    beside("remote_bulk:16777216:16", "mib_per_s", 700.0, 1662.0),
    beside("remote_beside:1048576:2000", "p99_us", 2000.0, 4800.0),
    beside("remote_spawn_seq:5000", "per_s", 8e3, 9.3e3),
    beside("remote_spawn:40000:1000", "per_s", 60e3, 102e3),
    beside("remote_spawn_link:20000:1000", "per_s", 50e3, 65e3),
    beside("remote_link_seq:5000", "per_s", 9e3, 8.1e3),
    beside("remote_link:10000:100", "per_s", 100e3, 70e3),
    beside("remote_fanout:10000", "ms", 30.0, 59.0),
    fixed("remote_sigkill:10000", "last_ms", 300.0),
    fixed("remote_sigstop:10000", "last_ms", 3300.0),
    times("compute:10", "sum_ms", 1.35, Peer::Plain),
    fixed("start:30", "p50_us", 15e3),
    fixed("remote_first:1", "second_ms", 5.0),
];
