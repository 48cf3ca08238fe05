//! No byte passes from owner to owner, no slot overlaps another, and pages that nobody needs go back.
//!
//! Where the kernel does not say what was touched, what it would have to say is not tested.

#![allow(unsafe_code, reason = "they touch memories and stacks as guests do")]

use std::cell::Cell;
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::pin::pin;

use wasmtime::{LinearMemory, StackCreator, StackMemory};

use super::memories::{OFFER, SlotMemory};
use super::pages::{DISCARDS_MAX, fill_zero, page_map, scan, wipe};
use super::stacks::{MADE, WARM_STACK_BYTES};
use super::testing::slot_memory as memory;
use super::*;

thread_local! {
    /// How often this thread gave pages back.
    pub(super) static DISCARDS: Cell<usize> = const { Cell::new(0) };
}

#[expect(clippy::mut_from_ref, reason = "each test owns its memories")]
fn bytes(memory: &SlotMemory) -> &mut [u8] {
    unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_capacity()) }
}

#[test]
fn no_byte_passes_from_owner_to_owner() {
    for (round, size) in [64 * KIB, 3 * 64 * KIB, MIB, 9 * MIB]
        .into_iter()
        .enumerate()
    {
        for touch in [1, 7, 40, size / 4096] {
            let memory = memory(size, size);
            let step = (size / touch).max(1);
            for at in (0..size).step_by(step) {
                bytes(&memory)[at] = 0xA5;
            }
            bytes(&memory)[size - 1] = round as u8 + 1;
            let base = memory.slot.free.base;
            drop(memory);
            let next = self::memory(64 * KIB, size);
            assert_eq!(next.slot.free.base, base, "last released, first taken");
            assert!(
                bytes(&next).iter().all(|&b| b == 0),
                "a byte leaked in round {round}"
            );
        }
    }
}

#[test]
fn a_memory_is_made_where_the_last_one_of_its_thread_was() {
    if page_map().is_none() {
        // A free slot has no pages then, and none is better than another.
        return;
    }
    let offered = || {
        let slot = OFFER.take().expect("it was offered");
        SlotMemory { slot, size: MIB }
    };
    // Taken ahead, as for processes that wait for their turn.
    let ahead: Vec<_> = (0..3)
        .map(|_| MemorySlot::take(MIB, MIB).unwrap())
        .collect();
    let first = memory(MIB, MIB);
    let base = first.slot.free.base;
    bytes(&first)[0] = 1;
    drop(first);
    for slot in ahead {
        slot.offer();
        let memory = offered();
        assert_eq!(memory.slot.free.base, base);
        assert_eq!(bytes(&memory)[0], 0);
        bytes(&memory)[0] = 1;
    }
    // Nothing was written: there is nothing to be had from it, and the one that was taken serves.
    let mut untouched = MemorySlot::take(64 * KIB, 64 * KIB).unwrap();
    untouched.0.free.warm = 0;
    let taken = MemorySlot::take(64 * KIB, 64 * KIB).unwrap();
    let base = taken.0.free.base;
    drop(untouched);
    taken.offer();
    assert_eq!(OFFER.take().expect("it was offered").free.base, base);
}

#[test]
fn wiping_needs_no_page_map() {
    let memory = memory(MIB, MIB);
    bytes(&memory)[..MIB].fill(1);
    wipe(memory.slot.free.base, MIB, None);
    assert!(bytes(&memory)[..MIB].iter().all(|&b| b == 0));
    bytes(&memory)[..MIB].fill(1);
    // A descriptor which is no page map: the scan fails and the fall-back does the work.
    wipe(memory.slot.free.base, MIB, Some(-1));
    assert!(bytes(&memory)[..MIB].iter().all(|&b| b == 0));
}

#[test]
fn scattered_pages_beyond_one_scan_are_wiped() {
    let memory = memory(4 * MIB, 4 * MIB);
    // 512 separate stretches: far more than one call reports.
    for at in (0..4 * MIB).step_by(2 * page_bytes()) {
        bytes(&memory)[at] = 1;
    }
    let before = DISCARDS.get();
    wipe(memory.slot.free.base, 4 * MIB, page_map());
    assert!(bytes(&memory).iter().all(|&b| b == 0));
    let discards = DISCARDS.get() - before;
    assert!(discards <= DISCARDS_MAX + 1, "{discards} calls");
}

/// Pages that were touched in a range.
fn pages(fd: RawFd, start: usize, len: usize) -> usize {
    let mut pages = 0;
    assert!(scan(fd, start, len, |region| {
        pages += (region.end - region.start) as usize / page_bytes();
        ControlFlow::Continue(())
    }));
    pages
}

#[test]
fn neighbours_do_not_overlap() {
    let all: Vec<SlotMemory> = (0..200).map(|_| memory(64 * KIB, 64 * KIB)).collect();
    for (i, memory) in all.iter().enumerate() {
        bytes(memory).fill(i as u8 + 1);
    }
    for (i, memory) in all.iter().enumerate() {
        assert!(bytes(memory).iter().all(|&b| b == i as u8 + 1));
    }
}

#[test]
fn classes_follow_the_maximum() {
    assert_eq!(MemorySlot::take(0, 1).unwrap().bytes(), 64 * KIB);
    assert_eq!(
        MemorySlot::take(0, 64 * KIB + 1).unwrap().bytes(),
        256 * KIB
    );
    assert_eq!(MemorySlot::take(5, usize::MAX).unwrap().bytes(), 4 * GIB);
    assert!(MemorySlot::take(5 * GIB, usize::MAX).is_err());
}

#[test]
fn a_stack_that_rests_keeps_no_page_and_is_still_a_stack() {
    let Some(fd) = page_map() else {
        return;
    };
    let calls = async {
        let make = || Stacks.new_stack(MIB, false).unwrap();
        let (first, inside) = (make(), make());
        tokio::task::yield_now().await;
        (first, [inside, make()])
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    let ((first, inside), resting) = runtime.block_on(RestingStack::of(pin!(calls)));
    let touched = |stack: &dyn StackMemory| pages(fd, stack.range().start, stack.range().len());
    let write = |stack: &dyn StackMemory| {
        let last = (stack.top() as usize - 8) as *mut u64;
        unsafe { last.write_volatile(7) };
    };
    write(&*first);
    inside.iter().for_each(|stack| write(&**stack));
    let others = || [touched(&*inside[0]), touched(&*inside[1])];
    let before = others();
    assert!(touched(&*first) >= 1 && before.iter().all(|pages| *pages >= 1));
    resting.expect("one was made").give_pages_back();
    assert_eq!((touched(&*first), others()), (0, before));
    write(&*first);
    assert_eq!(touched(&*first), 1);
}

#[tokio::test]
async fn a_stack_keeps_no_page_below_what_is_in_use() {
    let Some(fd) = page_map() else {
        return;
    };
    let mut config = wasmtime::Config::new();
    config.with_host_stack(std::sync::Arc::new(Stacks));
    config.async_stack_size(STACK_SLOT_BYTES - (16 << 10));
    let engine = wasmtime::Engine::new(&config).unwrap();
    let mut linker = wasmtime::Linker::new(&engine);
    let defined = linker.func_wrap_async("host", "waits", move |_, (gives,): (u32,)| {
        Box::new(async move {
            if gives == 1 {
                give_unused_stack_back();
            }
            tokio::task::yield_now().await;
            let base = MADE.get().expect("it runs on one");
            let len = STACK_SLOT_BYTES - page_bytes();
            u32::try_from(pages(fd, base + page_bytes(), len)).unwrap()
        })
    });
    defined.unwrap();
    let text = r#"(module
            (import "host" "waits" (func $waits (param i32) (result i32)))
            (func $deep (param i32) (result i32)
                (if (result i32) (local.get 0)
                    (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
                    (else (i32.const 0))))
            (func (export "run") (param $gives i32) (result i32)
                (local $sum i32)
                (local.set $sum (call $deep (i32.const 3000)))
                (i32.add (i32.sub (local.get $sum) (i32.const 3000)) (call $waits (local.get $gives)))))"#;
    let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    let mut store = wasmtime::Store::new(&engine, ());
    let instance = linker.instantiate_async(&mut store, &module).await.unwrap();
    let run = instance.get_typed_func::<u32, u32>(&mut store, "run");
    let run = run.unwrap();
    let calls = async {
        let kept = run.call_async(&mut store, 0).await.unwrap();
        (kept, run.call_async(&mut store, 1).await.unwrap())
    };
    let ((kept, given), _) = RestingStack::of(pin!(calls)).await;
    assert!(kept > 10, "{kept}");
    assert!(given < 10, "{given} of {kept}");
    // Not on a stack of a store.
    give_unused_stack_back();
}

#[test]
fn slots_released_by_a_thread_that_ended_are_used_again() {
    let base = std::thread::spawn(|| memory(16 * MIB, 16 * MIB).slot.free.base)
        .join()
        .unwrap();
    let found = (0..100)
        .map(|_| memory(16 * MIB, 16 * MIB))
        .collect::<Vec<_>>();
    assert!(found.iter().any(|memory| memory.slot.free.base == base));
}

#[test]
fn a_stack_for_other_threads_keeps_no_deep_page_and_the_rest_is_counted() {
    let Some(fd) = page_map() else {
        return;
    };
    let slab = Slab {
        shelves: std::array::from_fn(|_| Mutex::default()),
        guards: AtomicUsize::new(0),
        warm: AtomicUsize::new(0),
    };
    let stack = SLAB.take(STACKS).unwrap();
    let (start, len) = (stack.free.base + page_bytes(), MIB - page_bytes());
    fill_zero(start, len);
    let free = Free {
        base: stack.free.base,
        warm: WARM_STACK_BYTES / 4,
    };
    slab.give_back(STACKS, &mut vec![free], 0);
    assert_eq!(pages(fd, start, len) * page_bytes(), WARM_STACK_BYTES);
    assert_eq!(slab.warm.load(Ordering::Relaxed), WARM_STACK_BYTES);
}

#[test]
fn stacks_are_writable_above_their_guard() {
    let stack = Stacks.new_stack(MIB, false).unwrap();
    let range = stack.range();
    assert_eq!(range.end, stack.top() as usize);
    assert_eq!(stack.guard_range().end as usize, range.start);
    fill_zero(range.start, range.len());
    trim_stack(range.start - page_bytes());
    fill_zero(range.end - 64, 64);
}
