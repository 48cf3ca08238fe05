//! What it costs to live beside guests that mean harm: round trips of others, alone and beside them, in turns.
//!
//! No time is judged, only that every message of the neighbours comes back, that the harm was done, and that it
//! can be ended; the figures are printed for whoever reads the log. `TIDELOCK_NEIGHBOUR_ROUNDS=9` is for whoever measures.

use std::time::{Duration, Instant};

use crate::bench::{Cluster, Shape};
use crate::faults::round_trip;
use crate::network::{came_back, traffic};
use crate::settings::setting;

/// Where compiled bombs are kept, apart from what other tests need again.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/neighbours-cache");

/// How long bombs may take to go off.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that does harm without end, and what its processes die of meanwhile.
struct Bomb {
    name: &'static str,
    /// The function `bomb`, and what it needs.
    code: String,
    /// How often one ends at least, while somebody is measured beside it.
    ends: f64,
}

/// A module that takes long to compile, with eight bytes at its end that change nothing but its content.
fn long_to_compile() -> Vec<u8> {
    let step = "(local.set 1 (i64.mul (i64.add (local.get 1) (local.get 0))
        (i64.rotl (local.get 0) (local.get 1))))";
    let function = format!(
        "(func (param i64) (result i64) (local i64) {} (local.get 1))",
        step.repeat(200)
    );
    let text = format!(
        r#"(module (func (export "_start")) {})"#,
        function.repeat(100)
    );
    let mut module = wat::parse_str(text).expect("a module");
    // A custom section of twelve bytes: its name, and the eight.
    module.extend_from_slice(b"\0\x0c\x03any12345678");
    module
}

/// Compiles that module again and again, never twice the same.
fn compiles() -> String {
    let module = long_to_compile();
    let (length, at) = (module.len(), 1_024 + module.len() - 8);
    let bytes: String = module.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        r#"(data (i32.const 1024) "{bytes}")
        (func (export "bomb")
            (drop (call $random (i32.const {at}) (i32.const 8)))
            (loop
                (i64.store (i32.const {at}) (i64.add (i64.load (i32.const {at})) (i64.const 1)))
                (if (call $compile (i32.const 1024) (i32.const {length}) (i32.const 64))
                    (then unreachable))
                (call $forget (i64.load (i32.const 64)))
                (br 0)))"#
    )
}

fn bombs() -> [Bomb; 5] {
    let bomb = |name, code: &str, ends| Bomb {
        name,
        code: code.to_owned(),
        ends,
    };
    [
        bomb(
            "endless loops",
            r#"(func (export "bomb") (loop (br 0)))"#,
            0.0,
        ),
        bomb(
            "stack bombs",
            r#"(func $deep (export "bomb") (call $deep) (call $deep))"#,
            100.0,
        ),
        bomb(
            "memory bombs",
            r#"(func (export "bomb")
                (loop
                    (memory.fill (i32.mul (i32.sub (memory.size) (i32.const 1)) (i32.const 65536))
                        (i32.const 7) (i32.const 65536))
                    (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
                unreachable)"#,
            4.0,
        ),
        bomb(
            "fills of 256 MiB",
            r#"(func (export "bomb")
                (drop (memory.grow (i32.sub (i32.const 4096) (memory.size))))
                (loop
                    (memory.fill (i32.const 0) (i32.const 7) (i32.const 0x10000000))
                    (br 0)))"#,
            0.0,
        ),
        Bomb {
            name: "module bombs",
            code: compiles(),
            ends: 0.0,
        },
    ]
}

/// Keeps four bombs going, each in a process of its own.
fn module(bomb: &Bomb) -> Vec<u8> {
    let one = r#"(drop (call $spawn (i64.const 1) (i64.const -1) (i64.const -1) (i32.const 0)
        (i32.const 4) (i32.const 16) (i32.const 0) (i32.const 24)))"#;
    let text = format!(
        r#"(module
        (import "lunatic::process" "spawn"
            (func $spawn (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
        (import "lunatic::process" "die_when_link_dies" (func $die (param i32)))
        (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
        (import "lunatic::process" "compile_module" (func $compile (param i32 i32 i32) (result i32)))
        (import "lunatic::process" "drop_module" (func $forget (param i64)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 4 4096)
        (data (i32.const 0) "bomb")
        (func (export "_start")
            (call $die (i32.const 0))
            {one} {one} {one} {one}
            (loop (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))) {one} (br 0)))
        {code})"#,
        code = bomb.code,
    );
    wat::parse_str(text).expect("a module")
}

fn median(mut all: Vec<i64>) -> i64 {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Round trips of neighbours for a second, as `p50` and `p99` in microseconds.
fn measured(cluster: &Cluster, what: &str, between: (&str, &str)) -> (i64, i64) {
    let guest = traffic(cluster, between, Duration::from_secs(1), 1, 8);
    let sums = came_back(what, &guest);
    (sums.number("p50_us"), sums.number("p99_us"))
}

#[test]
fn neighbours_of_bombs_are_served() {
    let cluster = Cluster::start(Shape {
        settings: &[("XDG_CACHE_HOME", CACHE)],
        ..Shape::default()
    });
    let rounds = setting("TIDELOCK_NEIGHBOUR_ROUNDS", 1);
    let mut table = String::new();
    for bomb in bombs() {
        let module = cluster.deploy(bomb.name, module(&bomb));
        for between in [("b", "a"), ("a", "a")] {
            let (mut alone, mut beside) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                alone.push(measured(&cluster, "alone", between));
                let (exits, spawns) = ("tidelock_exits_total", "tidelock_spawns_total");
                let before = (cluster.metric("a", exits), cluster.metric("a", spawns));
                let keeper = cluster.spawn_of("a", &module, "_start", &[]);
                let began = Instant::now();
                // Until the harm was done, however slow the machine is.
                loop {
                    beside.push(measured(&cluster, bomb.name, between));
                    let ended = cluster.metric("a", exits) - before.0;
                    let spawned = cluster.metric("a", spawns) - before.1;
                    assert!(cluster.runs("a", &keeper.pid), "{} is over", bomb.name);
                    if ended >= bomb.ends && spawned >= 5.0 {
                        break;
                    }
                    assert!(
                        began.elapsed() < PATIENCE,
                        "{}: {ended} ended, {spawned} spawned",
                        bomb.name
                    );
                }
                cluster.end("a", &keeper.pid);
                cluster.end_of("a", &keeper.pid);
                // They are linked to it, and end whatever they are doing.
                let began = Instant::now();
                while cluster.running("a", "bomb") > 0 {
                    assert!(began.elapsed() < PATIENCE, "{} go on", bomb.name);
                    round_trip(&cluster, "b", "a");
                }
            }
            let of = |all: &[(i64, i64)], at: fn(&(i64, i64)) -> i64| {
                median(all.iter().map(at).collect())
            };
            let (p50, p99) = (of(&alone, |t| t.0), of(&alone, |t| t.1));
            let (p50_beside, p99_beside) = (of(&beside, |t| t.0), of(&beside, |t| t.1));
            table += &format!(
                "| {} | {} → {} | {p50} | {p99} | {p50_beside} | {p99_beside} | {:.1} |\n",
                bomb.name,
                between.0,
                between.1,
                p99_beside as f64 / p99.max(1) as f64
            );
        }
    }
    eprintln!("| beside | | alone p50 µs | p99 | beside p50 | p99 | p99 ratio |\n{table}");
    // What the bombs had compiled is of no use to anybody.
    let _ = std::fs::remove_dir_all(CACHE);
}
