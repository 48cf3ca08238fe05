;; As many processes as there can be: `local_smallest:COUNT` and `local_handlers:COUNT`.
;;
;;   tidelock run benches/guest/smallest.wat local_handlers:1000000
;;
;; Each process says that it is there, waits, and answers one message: the first kind inside of `receive`, on a stack
;; of its own; the second as a handler, without any. None of them touches its memory, since texts are passive data,
;; so what one costs is what the host keeps for it. `_start` remembers all of them, and asks each.
;;
;; Memory of `_start`: 0 a process id, 8 an iovec, 24 numbers of WASI, 32 a spawn record, 64 an entry's name,
;; 128 a line, 512 pointers of arguments, 1024 arguments, 64 KiB and more the ids.
(module
  (import "lunatic::process" "process_id" (func $self (result i64)))
  (import "lunatic::process" "sleep_ms" (func $sleep (param i64)))
  (import "lunatic::message" "create_data" (func $create_data (param i64 i64)))
  (import "lunatic::message" "send" (func $send (param i64) (result i32)))
  (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
  (import "tidelock" "spawn"
    (func $spawn (param i64 i64 i64 i64 i32 i32 i32 i32 i64 i32) (result i32)))
  (import "tidelock" "handle" (func $handle (param i32 i32 i32 i64)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 1)
  (data $smallest "smallest")
  (data $handlers "handlers")
  (data $before "{\"phase\":\"before\"}\n")
  (data $alive "{\"phase\":\"alive\"}\n")
  (data $row "{\"row\":\"")
  (data $count "\",\"alive\":")
  (data $rate ",\"per_s\":")
  (data $end "}\n")
  ;; Where the line ends that is being made.
  (global $line (mut i32) (i32.const 128))

  ;; ---- one of many ----

  (func (export "smallest") (param $main i64)
    (call $tell (local.get $main))
    (call $hear)
    (call $tell (local.get $main)))

  (func (export "handlers") (param $main i64)
    (call $tell (local.get $main))
    (call $handle (i32.const 0) (i32.const 0) (i32.const 0) (local.get $main)))

  ;; The handler. It has no name, which is no memory either.
  (func (export "") (param $kind i32) (param $function i32) (param $main i64) (result i32)
    (call $tell (local.get $main))
    (i32.const 1))

  (func $tell (param $to i64)
    (call $create_data (i64.const 0) (i64.const 0))
    (if (call $send (local.get $to)) (then (unreachable))))

  ;; Nobody is linked, so what comes is a message.
  (func $hear
    (if (call $receive (i32.const 0) (i32.const 0) (i64.const -1)) (then (unreachable))))

  ;; ---- the one that makes them ----

  (func (export "_start")
    (local $count i32)
    (local $begun i64)
    (local.set $count (call $read_row))
    (if (i32.eq (i32.const -1)
          (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $count) (i32.const 13)))))
      (then (unreachable)))

    (memory.init $before (i32.const 128) (i32.const 0) (i32.const 19))
    (call $written (i32.const 19))
    (call $write)
    (call $sleep (i64.const 500))

    (local.set $begun (call $now))
    (call $make (local.get $count))
    (local.set $begun (i64.sub (call $now) (local.get $begun)))

    ;; Whoever measures looks now.
    (call $sleep (i64.const 500))
    (memory.init $alive (i32.const 128) (i32.const 0) (i32.const 18))
    (call $written (i32.const 18))
    (call $write)
    (call $sleep (i64.const 500))

    (call $ask (local.get $count))
    (memory.init $row (global.get $line) (i32.const 0) (i32.const 8))
    (call $written (i32.const 8))
    (call $copy_row)
    (memory.init $count (global.get $line) (i32.const 0) (i32.const 10))
    (call $written (i32.const 10))
    (call $digits (i64.extend_i32_u (local.get $count)))
    (memory.init $rate (global.get $line) (i32.const 0) (i32.const 9))
    (call $written (i32.const 9))
    (call $digits (i64.div_u
      (i64.mul (i64.extend_i32_u (local.get $count)) (i64.const 1000000000))
      (local.get $begun)))
    (memory.init $end (global.get $line) (i32.const 0) (i32.const 2))
    (call $written (i32.const 2))
    (call $write))

  ;; Makes them, a thousand at a time: a mailbox has an end.
  (func $make (param $count i32)
    (local $made i32)
    (i64.store (i32.const 33) (call $self))
    (i32.store8 (i32.const 32) (i32.const 0x7e))
    (loop $next
      (if (call $spawn
            (i64.const 0) (i64.const -1) (i64.const -1) (i64.const -1)
            (i32.const 64) (i32.const 8) (i32.const 32) (i32.const 17)
            (i64.const -1) (i32.const 0))
        (then (unreachable)))
      (i64.store (call $place (local.get $made)) (i64.load (i32.const 0)))
      (local.set $made (i32.add (local.get $made) (i32.const 1)))
      (call $hear_some (local.get $made) (local.get $count))
      (br_if $next (i32.lt_u (local.get $made) (local.get $count)))))

  ;; Sends each one a message, and has an answer of each one.
  (func $ask (param $count i32)
    (local $asked i32)
    (loop $next
      (call $tell (i64.load (call $place (local.get $asked))))
      (local.set $asked (i32.add (local.get $asked) (i32.const 1)))
      (call $hear_some (local.get $asked) (local.get $count))
      (br_if $next (i32.lt_u (local.get $asked) (local.get $count)))))

  ;; Hears those of the last thousand, if it is whole, or what the end has left of one.
  (func $hear_some (param $sent i32) (param $of i32)
    (local $left i32)
    (local.set $left (i32.rem_u (local.get $sent) (i32.const 1000)))
    (if (i32.eqz (local.get $left))
      (then (local.set $left (i32.const 1000)))
      (else (if (i32.lt_u (local.get $sent) (local.get $of)) (then (return)))))
    (loop $next
      (call $hear)
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left))))

  (func $place (param $index i32) (result i32)
    (i32.add (i32.const 65536) (i32.shl (local.get $index) (i32.const 3))))

  (func $now (result i64)
    (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 24)))
    (i64.load (i32.const 24)))

  ;; The name and the number of the first argument: which entry is at 64, how many is returned.
  (func $read_row (result i32)
    (local $at i32)
    (local $count i32)
    (drop (call $args_sizes (i32.const 24) (i32.const 28)))
    (if (i32.or
          (i32.ne (i32.load (i32.const 24)) (i32.const 2))
          (i32.gt_u (i32.load (i32.const 28)) (i32.const 1000)))
      (then (unreachable)))
    (drop (call $args (i32.const 512) (i32.const 1024)))
    (local.set $at (i32.load (i32.const 516)))
    ;; The seventh letter says which.
    (if (i32.eq (i32.load8_u (i32.add (local.get $at) (i32.const 6))) (i32.const 0x68))
      (then (memory.init $handlers (i32.const 64) (i32.const 0) (i32.const 8)))
      (else (memory.init $smallest (i32.const 64) (i32.const 0) (i32.const 8))))
    (local.set $at (i32.add (local.get $at) (i32.const 15)))
    (loop $next
      (local.set $count (i32.add
        (i32.mul (local.get $count) (i32.const 10))
        (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.load8_u (local.get $at))))
    (local.get $count))

  ;; ---- lines ----

  (func $written (param $bytes i32)
    (global.set $line (i32.add (global.get $line) (local.get $bytes))))

  (func $digits (param $number i64)
    (if (i64.ge_u (local.get $number) (i64.const 10))
      (then (call $digits (i64.div_u (local.get $number) (i64.const 10)))))
    (i32.store8 (global.get $line)
      (i32.add (i32.const 48)
        (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
    (call $written (i32.const 1)))

  (func $copy_row
    (local $at i32)
    (local.set $at (i32.load (i32.const 516)))
    (loop $next
      (i32.store8 (global.get $line) (i32.load8_u (local.get $at)))
      (call $written (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.load8_u (local.get $at)))))

  (func $write
    (i32.store (i32.const 8) (i32.const 128))
    (i32.store (i32.const 12) (i32.sub (global.get $line) (i32.const 128)))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 24)))
    (global.set $line (i32.const 128))))
