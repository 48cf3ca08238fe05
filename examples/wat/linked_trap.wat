;; Failure travels along a link: the child traps, the parent hears of it.
;;
;;   tidelock run examples/wat/linked_trap.wat    exit code 0
;;
;; `_start` traps exits (`die_when_link_dies(0)`), spawns a child that traps, and waits
;; for the message that says so. Kind 1 is "link died" and its tag is the one given at
;; spawn. Anything else ends this guest with exit code 1.
(module
  (import "lunatic::process" "die_when_link_dies" (func $die_when_link_dies (param i32)))
  (import "lunatic::process" "spawn"
    (func $spawn (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
  (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
  (import "lunatic::message" "get_tag" (func $get_tag (result i64)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  (memory (export "memory") 1)
  (data (i32.const 16) "child")

  (func (export "child") (unreachable))

  (func (export "_start")
    (call $die_when_link_dies (i32.const 0))
    (drop (call $spawn
      (i64.const 42) (i64.const -1) (i64.const -1)
      (i32.const 16) (i32.const 5)
      (i32.const 0) (i32.const 0)             ;; no parameters
      (i32.const 8)))
    (if (i32.ne (call $receive (i32.const 0) (i32.const 0) (i64.const 5000)) (i32.const 1))
      (then (call $proc_exit (i32.const 1))))
    (if (i64.ne (call $get_tag) (i64.const 42))
      (then (call $proc_exit (i32.const 1))))))
