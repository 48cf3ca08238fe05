;; Two processes and a number that travels: spawn with a link, send, receive.
;;
;;   tidelock run examples/wat/ping_pong.wat  prints "10 round trips", exit code 0
;;
;; `_start` spawns `pong` from its own module, linked, and passes its pid as the one
;; argument. Then it sends the numbers 1 to 10, one at a time, and expects each back
;; plus 100. A zero tells pong to end. A wrong number traps, and so does `_start` if
;; pong fails, since they are linked.
(module
  (import "lunatic::process" "process_id" (func $me (result i64)))
  (import "lunatic::process" "spawn"
    (func $spawn (param i64 i64 i64 i32 i32 i32 i32 i32) (result i32)))
  (import "lunatic::message" "create_data" (func $create (param i64 i64)))
  (import "lunatic::message" "write_data" (func $write (param i32 i32) (result i32)))
  (import "lunatic::message" "read_data" (func $read (param i32 i32) (result i32)))
  (import "lunatic::message" "send" (func $send (param i64) (result i32)))
  (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 1)

  ;; 0: the number that travels · 8: the pid of pong
  ;; 16: one parameter record, 17 bytes: type 0x7e (i64), then 16 bytes of value
  (data (i32.const 16) "\7e")
  (data (i32.const 64) "pong")
  ;; 72: iovec of the text at 96 · 80: count written
  (data (i32.const 72) "\60\00\00\00\0f\00\00\00")
  (data (i32.const 96) "10 round trips\n")

  ;; Sends the number at address 0 to a process.
  (func $send_number (param $to i64)
    (call $create (i64.const 0) (i64.const 8))           ;; tag 0 = no tag
    (drop (call $write (i32.const 0) (i32.const 8)))
    (drop (call $send (local.get $to))))

  ;; Waits for a message and puts its number at address 0.
  (func $receive_number
    ;; no tags = any message; -1 = wait for ever; 0 = a data message came
    (if (call $receive (i32.const 0) (i32.const 0) (i64.const -1))
      (then (unreachable)))
    (drop (call $read (i32.const 0) (i32.const 8))))

  (func (export "pong") (param $parent i64)
    (loop $next
      (call $receive_number)
      (if (i64.eqz (i64.load (i32.const 0))) (then (return)))
      (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.const 100)))
      (call $send_number (local.get $parent))
      (br $next)))

  (func (export "_start")
    (local $pong i64) (local $n i64)
    (i64.store (i32.const 17) (call $me))
    (if (call $spawn
          (i64.const 7)                       ;; linked; a death would carry tag 7
          (i64.const -1) (i64.const -1)       ;; my configuration, my module
          (i32.const 64) (i32.const 4)        ;; "pong"
          (i32.const 16) (i32.const 17)       ;; its one parameter
          (i32.const 8))                      ;; where the pid goes
      (then (unreachable)))
    (local.set $pong (i64.load (i32.const 8)))

    (loop $next
      (local.set $n (i64.add (local.get $n) (i64.const 1)))
      (i64.store (i32.const 0) (local.get $n))
      (call $send_number (local.get $pong))
      (call $receive_number)
      (if (i64.ne (i64.load (i32.const 0)) (i64.add (local.get $n) (i64.const 100)))
        (then (unreachable)))
      (br_if $next (i64.lt_u (local.get $n) (i64.const 10))))

    (i64.store (i32.const 0) (i64.const 0))
    (call $send_number (local.get $pong))
    (drop (call $fd_write (i32.const 1) (i32.const 72) (i32.const 1) (i32.const 80)))))
