;; Three linked workers, one of which fails, by hand.
;;
;;   tidelock run examples/wat/workers.wat
;;
;; `_start` traps exits, spawns three workers, each linked under its number as the tag, and sends each a
;; number. A worker squares it and answers under the tag it was asked with; asked for the square of 0 it traps.
;; Then `_start` waits for each tag in turn: kind 0 of `receive` is an answer, kind 1 is "link died".
;; At last it makes sure that nothing else has come: each end is told exactly once.
;;
;; Memory: 0 the id of a child, 8 a number, 16 a tag, 32 a spawn record, 64 texts, 128 the line that is written.
(module
  (import "lunatic::process" "process_id" (func $self (result i64)))
  (import "lunatic::process" "die_when_link_dies" (func $die_when_link_dies (param i32)))
  (import "lunatic::message" "create_data" (func $create_data (param i64 i64)))
  (import "lunatic::message" "write_data" (func $write_data (param i32 i32) (result i32)))
  (import "lunatic::message" "read_data" (func $read_data (param i32 i32) (result i32)))
  (import "lunatic::message" "send" (func $send (param i64) (result i32)))
  (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
  (import "lunatic::message" "get_tag" (func $get_tag (result i64)))
  (import "tidelock" "spawn"
    (func $spawn (param i64 i64 i64 i64 i32 i32 i32 i32 i64 i32) (result i32)))
  (import "tidelock" "exit_reason" (func $exit_reason (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  (memory (export "memory") 1)
  (data (i32.const 32) "\7e")        ;; a record of 17 bytes: an i64, and 16 bytes of value
  (data (i32.const 64) "worker")
  (data (i32.const 80) "died: ")
  (data (i32.const 128) "worker ?: ")

  ;; Squares one number for whoever made it. There is no square of 0 here.
  (func (export "worker") (param $parent i64)
    (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1)))
    (drop (call $read_data (i32.const 8) (i32.const 8)))
    (if (i64.eqz (i64.load (i32.const 8))) (then (unreachable)))
    (i64.store (i32.const 8) (i64.mul (i64.load (i32.const 8)) (i64.load (i32.const 8))))
    (call $tell (local.get $parent) (call $get_tag)))

  ;; Sends the number at 8.
  (func $tell (param $to i64) (param $tag i64)
    (call $create_data (local.get $tag) (i64.const 8))
    (drop (call $write_data (i32.const 8) (i32.const 8)))
    (drop (call $send (local.get $to))))

  (func $begin (param $tag i64) (param $number i64)
    (i64.store (i32.const 33) (call $self))
    (if (call $spawn
          (i64.const 0) (local.get $tag) (i64.const -1) (i64.const -1)
          (i32.const 64) (i32.const 6)      ;; "worker"
          (i32.const 32) (i32.const 17)     ;; its parameter
          (i64.const -1) (i32.const 0))
      (then (call $proc_exit (i32.const 1))))
    (i64.store (i32.const 8) (local.get $number))
    (call $tell (i64.load (i32.const 0)) (local.get $tag)))

  ;; Writes "worker TAG: " and what `$hear` put behind it, up to `$end`.
  (func $say (param $tag i64) (param $end i32)
    (i32.store8 (i32.const 135) (i32.add (i32.const 48) (i32.wrap_i64 (local.get $tag))))
    (i32.store8 (local.get $end) (i32.const 10))
    (i32.store (i32.const 20) (i32.const 128))
    (i32.store (i32.const 24) (i32.sub (local.get $end) (i32.const 127)))
    (drop (call $fd_write (i32.const 1) (i32.const 20) (i32.const 1) (i32.const 28))))

  ;; Three digits are enough for the squares in here.
  (func $digits (param $number i64) (result i32)
    (local $at i32)
    (local $power i64)
    (local.set $at (i32.const 138))
    (local.set $power (i64.const 100))
    (loop $next
      (if (i64.ge_u (local.get $number) (local.get $power))
        (then
          (i32.store8 (local.get $at)
            (i32.add (i32.const 48)
              (i32.wrap_i64 (i64.rem_u
                (i64.div_u (local.get $number) (local.get $power)) (i64.const 10)))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))))
      (local.set $power (i64.div_u (local.get $power) (i64.const 10)))
      (br_if $next (i64.ne (local.get $power) (i64.const 0))))
    (local.get $at))

  ;; Waits for what has this tag, and says what it was.
  (func $hear (param $tag i64)
    (local $kind i32)
    (i64.store (i32.const 16) (local.get $tag))
    (local.set $kind (call $receive (i32.const 16) (i32.const 1) (i64.const 5000)))
    (if (i32.eqz (local.get $kind))
      (then
        (drop (call $read_data (i32.const 8) (i32.const 8)))
        (call $say (local.get $tag) (call $digits (i64.load (i32.const 8))))
        (return)))
    (if (i32.ne (local.get $kind) (i32.const 1)) (then (call $proc_exit (i32.const 2))))
    (memory.copy (i32.const 138) (i32.const 80) (i32.const 6))
    (call $say (local.get $tag)
      (i32.add (i32.const 144) (call $exit_reason (i32.const 144) (i32.const 1024)))))

  (func (export "_start")
    (call $die_when_link_dies (i32.const 0))
    (call $begin (i64.const 1) (i64.const 7))
    (call $begin (i64.const 2) (i64.const 11))
    (call $begin (i64.const 3) (i64.const 0))
    (call $hear (i64.const 1))
    (call $hear (i64.const 2))
    (call $hear (i64.const 3))
    (if (i32.ne (call $receive (i32.const 0) (i32.const 0) (i64.const 0)) (i32.const 9027))
      (then (call $proc_exit (i32.const 3))))))
