;; A guest that never gives way: an endless loop without a single host call.
;;
;;   tidelock run examples/wat/spin.wat       runs until Ctrl-C or `tidelock kill`
;;
;; It must not slow its neighbours down to a halt and must end at once when killed;
;; the host preempts it. `count` is exported so that a debugger can see it move.
(module
  (memory (export "memory") 1)
  (global $count (export "count") (mut i64) (i64.const 0))

  (func (export "_start")
    (loop $for_ever
      (global.set $count (i64.add (global.get $count) (i64.const 1)))
      (br $for_ever))))
