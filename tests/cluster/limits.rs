//! What a child on another node may do and use: never more than its parent, whatever its parent asks for.

use crate::bench::Cluster;

/// `_start` on `a` restricts `middle` on `b`, which asks for more than it has for `leaf` on `a`. Each says what
/// it finds that it has: bytes of memory, units of fuel, pages it can grow by, whether it may compile.
///
/// ```text
///    0  names of functions, 40 a parameter: the other node    64  ids    128  a line
/// ```
const CHAIN: &str = r#"(module
    (import "lunatic::process" "create_config" (func $create (result i64)))
    (import "lunatic::process" "config_set_max_memory" (func $set_memory (param i64 i64)))
    (import "lunatic::process" "config_get_max_memory" (func $memory (param i64) (result i64)))
    (import "lunatic::process" "config_set_max_fuel" (func $set_fuel (param i64 i64)))
    (import "lunatic::process" "config_get_max_fuel" (func $fuel (param i64) (result i64)))
    (import "lunatic::process" "config_set_can_spawn_processes" (func $may_spawn (param i64 i32)))
    (import "lunatic::process" "config_set_can_create_configs" (func $may_configure (param i64 i32)))
    (import "lunatic::process" "config_set_can_compile_modules" (func $may_compile (param i64 i32)))
    (import "lunatic::process" "compile_module" (func $compile (param i32 i32 i32) (result i32)))
    (import "lunatic::distributed" "nodes_count" (func $nodes_count (result i32)))
    (import "lunatic::distributed" "get_nodes" (func $nodes (param i32 i32) (result i32)))
    (import "lunatic::distributed" "node_id" (func $here (result i64)))
    (import "tidelock" "spawn" (func $spawn
        (param i64 i64 i64 i64 i32 i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1 200)
    (data (i32.const 0) "middleleaflone")
    (data (i32.const 256) "start middleleaf  lone  ")
    ;; the node that is not this one
    (func $there (result i64)
        (drop (call $nodes (i32.const 64) (i32.const 2)))
        (if (result i64) (i64.eq (i64.load (i32.const 64)) (call $here))
            (then (i64.load (i32.const 72)))
            (else (i64.load (i32.const 64)))))
    (func $child (param $config i64) (param $name i32) (param $len i32)
        (if (call $spawn (call $there) (i64.const -1) (local.get $config) (i64.const -1)
                (local.get $name) (local.get $len) (i32.const 0) (i32.const 0) (i64.const 20000)
                (i32.const 64))
            (then unreachable)))
    ;; seven digits at `at`, a blank before them
    (func $digits (param $at i32) (param $number i64) (local $left i32)
        (i32.store8 (local.get $at) (i32.const 32))
        (local.set $left (i32.const 7))
        (loop $more
            (i32.store8 (i32.add (local.get $at) (local.get $left))
                (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
            (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
            (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))
    (func $pages (result i64) (local $grown i64)
        (loop $more
            (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
                (then
                    (local.set $grown (i64.add (local.get $grown) (i64.const 1)))
                    (br $more))))
        (local.get $grown))
    ;; what this process has, behind the six letters at `who`
    (func $say (param $who i32) (local $mine i64)
        (local.set $mine (call $create))
        (memory.copy (i32.const 128) (local.get $who) (i32.const 6))
        (call $digits (i32.const 134) (call $memory (local.get $mine)))
        (call $digits (i32.const 142) (call $fuel (local.get $mine)))
        (call $digits (i32.const 150) (call $pages))
        ;; a permission is asked for first, and no bytes are no module
        (call $digits (i32.const 158) (i64.extend_i32_u
            (i32.eq (call $compile (i32.const 0) (i32.const 0) (i32.const 64)) (i32.const 1))))
        (i32.store8 (i32.const 166) (i32.const 10))
        (i32.store (i32.const 80) (i32.const 128))
        (i32.store (i32.const 84) (i32.const 39))
        (drop (call $fd_write (i32.const 1) (i32.const 80) (i32.const 1) (i32.const 88))))
    (func $config (param $memory i64) (param $fuel i64) (param $compile i32) (result i64)
        (local $config i64)
        (local.set $config (call $create))
        (call $set_memory (local.get $config) (local.get $memory))
        (call $set_fuel (local.get $config) (local.get $fuel))
        (call $may_spawn (local.get $config) (i32.const 1))
        (call $may_configure (local.get $config) (i32.const 1))
        (call $may_compile (local.get $config) (local.get $compile))
        (local.get $config))
    (func (export "_start")
        (if (i32.ne (call $nodes_count) (i32.const 2)) (then unreachable))
        (call $child (call $config (i64.const 2000000) (i64.const 1000) (i32.const 0))
            (i32.const 0) (i32.const 6))
        (call $child (call $config (i64.const 3000000) (i64.const 2000) (i32.const 1))
            (i32.const 10) (i32.const 4)))
    (func (export "middle")
        (call $child (call $config (i64.const 8000000) (i64.const 5000) (i32.const 1))
            (i32.const 6) (i32.const 4))
        (call $say (i32.const 262)))
    (func (export "leaf") (call $say (i32.const 268)))
    (func (export "lone") (call $say (i32.const 274))))"#;

#[test]
fn a_child_on_another_node_has_the_least_of_what_is_asked_and_allowed() {
    let cluster = Cluster::pair();
    let bytes = wat::parse_str(CHAIN).expect("a module");
    let module = cluster.deploy("chain", bytes);
    let first = cluster.spawn_of("a", &module, "_start", &[]);
    let end = cluster.end_of("a", &first.pid);
    assert_eq!(end.exit_code, 0, "{}", end.reason);
    // As asked for, since its parent has more: 2 000 000 bytes are 30 pages, of which it has one.
    cluster.prints("b", "middle 2000000 0001000 0000029 0000000");
    // As its parent, which asked for more.
    cluster.prints("a", "leaf   2000000 0001000 0000029 0000000");
    // Another child of the first one is not held to that.
    cluster.prints("b", "lone   3000000 0002000 0000044 0000001");
}
