;; The smallest guest: one line on stdout through WASI, then a normal end.
;;
;;   tidelock run examples/wat/hello.wat      prints "hello from wat", exit code 0
;;
;; A guest is a core module with an export `memory` and an entry `_start` of no
;; parameters and no results. Everything else is imports.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 1)

  ;; 0: one iovec (address, length) · 8: where fd_write puts the count · 16: the text
  (data (i32.const 0) "\10\00\00\00\0f\00\00\00")
  (data (i32.const 16) "hello from wat\n")

  (func (export "_start")
    (drop (call $fd_write
      (i32.const 1)      ;; stdout
      (i32.const 0)      ;; the iovec
      (i32.const 1)      ;; one of them
      (i32.const 8)))))
