;; A guest with an exit code.
;;
;;   tidelock run examples/wat/exit.wat       exit code 3
;;
;; `proc_exit(0)` is a normal end, the same as returning from `_start`. Any other
;; code is a failure, and processes linked to this one are ended with it.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  (memory (export "memory") 1)

  (func (export "_start")
    (call $proc_exit (i32.const 3))
    (unreachable)))
