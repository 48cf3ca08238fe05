;; A guest that fails: it divides by zero.
;;
;;   tidelock run examples/wat/trap.wat       exit code 101
;;
;; A trap ends the process that trapped and those linked to it, nothing else. Its
;; reason says what happened: linked processes and `tidelock events` see it.
(module
  (memory (export "memory") 1)

  ;; The divisor is in memory so that no compiler can know it.
  (func (export "_start")
    (drop (i32.div_u (i32.const 1) (i32.load (i32.const 0))))))
