//! What guests may do to their host, on any toolchain.
//!
//! Goal: no call and no module harms anybody but the process that made it. Method: every call that an
//! environment offers is made with every argument at every edge; then, as in `fuzz_seeds.rs`, the functions
//! that `fuzz/` hands to libFuzzer get its seeds and the same random changes of them in every run.
//!
//! ```text
//! TIDELOCK_FUZZ_EXECUTIONS=1000000 cargo test -p tidelock --test fuzz_guests -- --nocapture
//! ```

#![allow(clippy::print_stderr, reason = "the input that failed must be shown")]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a library of another workspace"
)]

#[path = "../fuzz/src/host.rs"]
mod host;
#[path = "../fuzz/src/input.rs"]
#[allow(dead_code, reason = "other targets read text, too")]
mod input;
#[path = "../fuzz/src/module.rs"]
mod module;
#[path = "../fuzz/src/pointers.rs"]
mod pointers;
mod seeds;

use seeds::{Seeds, are_there, replay};

#[test]
fn every_call_with_every_argument_at_every_edge() {
    let (imports, calls) = pointers::sweep();
    eprintln!("{imports} imports, {calls} calls");
    assert!(imports >= 180, "{imports}");
}

#[test]
fn calls() {
    replay("pointers", pointers::run, 10_000);
}

#[test]
fn modules() {
    replay("module", module::run, 3_000);
}

#[test]
fn the_seeds_are_there() {
    are_there("pointers", &call_seeds());
    are_there("module", &module_seeds());
}

/// What the bytes mean stands in `fuzz/src/pointers.rs`: which call, which scene, four words, arguments.
fn call_seeds() -> Seeds {
    let words = [16; 8];
    let call = |number: u8, scene: u8, args: &[u8]| [&[number, scene], &words[..], args].concat();
    [
        ("nothing", call(0, 0, &[64; 6])),
        ("message", call(60, 1, &[64; 6])),
        ("ids", call(90, 2, &[8; 6])),
        ("told", call(160, 3, &[19; 6])),
        ("grown", call(30, 4, &[7; 6])),
        ("edges", call(120, 0, &[15, 14, 13, 12, 11, 10])),
        (
            "buffers",
            [&[200, 0, 8, 1, 7, 0, 15, 15, 0, 14], &[65, 19, 65, 19][..]].concat(),
        ),
        (
            "several",
            [call(10, 1, &[16; 3]), call(70, 2, &[9; 3])].concat(),
        ),
        (
            "numbers",
            call(140, 2, &[255, 1, 2, 3, 4, 5, 6, 7, 8, 255, 8, 7, 6, 5]),
        ),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

/// Modules as they are, and bytes for the generator; the first byte says which.
fn module_seeds() -> Seeds {
    let text = |text: &str| [vec![0], wat::parse_str(text).unwrap()].concat();
    let noise = |kind: &[u8], count: u32| -> Vec<u8> {
        let noise = (1..=count).map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]);
        kind.iter().copied().chain(noise).collect()
    };
    [
        ("empty", text("(module)")),
        ("entry", text(r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#)),
        ("start", text(r#"(module (func $s (loop br 0)) (start $s) (func (export "_start")))"#)),
        ("table", text(
            r#"(module (table 9 funcref) (elem (i32.const 3) $f) (func $f (export "f") (result i32)
                (call_indirect (result i32) (i32.const 3))))"#,
        )),
        ("data", text(r#"(module (memory 1 2) (data (i32.const 65530) "abcdef") (func (export "g")
            (memory.fill (i32.const 0) (i32.const 7) (i32.const 65536)) (drop (memory.grow (i32.const 1)))))"#)),
        ("import", text(
            r#"(module (import "tidelock" "node_of" (func $n (param i64) (result i64)))
                (func (export "f") (drop (call $n (i64.const 7)))))"#,
        )),
        ("simd", text(
            r#"(module (func (export "f") (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
                (v128.const i64x2 1 2) (v128.const i64x2 3 4)))))"#,
        )),
        ("locals", vec![1, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 10, 1, 8, 1, 255, 255, 255, 255, 15, 127, 11]),
        ("claim", vec![1, 1, 255, 255, 255, 255, 15]),
        ("generated", noise(&[2], 600)),
        ("generated.long", noise(&[2], 4000)),
        ("damaged", noise(&[3, 2, 5, 90, 255, 6, 40, 1], 900)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}
