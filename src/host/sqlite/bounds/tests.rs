//! No tenant and no process takes the part of another, and a thread opens nothing elsewhere.

use super::*;

#[test]
fn no_tenant_takes_the_databases_of_another() {
    let (mine, other) = (Environ(7), Environ(8));
    let mut slots = Vec::new();
    while let Ok(slot) = Slot::take(mine) {
        slots.push(slot);
    }
    assert_eq!(slots.len(), 52);
    let full = Slot::take(mine).unwrap_err();
    assert!(full.starts_with("52 databases"), "{full}");
    let others = (Slot::take(other), Slot::take(Environ::default()));
    assert!(others.0.is_ok() && others.1.is_ok());
    slots.pop();
    assert!(Slot::take(mine).is_ok());
}

#[test]
fn the_rows_of_a_process_and_of_all_have_an_end() {
    let take = |bytes: usize, rows: &Arc<AtomicUsize>| {
        let mut room = Room::new(rows);
        room.grow(bytes).map(|()| room)
    };
    let is = |fault: Fault, code: i32, whose: &str| {
        assert_eq!(fault.code, code.cast_unsigned());
        assert!(fault.text.contains(whose), "{fault:?}");
    };
    let (toobig, nomem) = (rusqlite::ffi::SQLITE_TOOBIG, rusqlite::ffi::SQLITE_NOMEM);
    let mine: Arc<AtomicUsize> = Arc::default();
    is(take(ROW_BYTES_MAX + 1, &mine).unwrap_err(), toobig, "a row");
    let one = take(1, &mine).unwrap();
    is(
        take(PROCESS_ROWS_BYTES_MAX, &mine).unwrap_err(),
        nomem,
        "the process",
    );
    // With that byte there is room for all processes but the last. Tests beside this one have what it leaves.
    let others = ROWS_BYTES_MAX / PROCESS_ROWS_BYTES_MAX;
    let mut taken = Vec::new();
    for _ in 1..others {
        taken.push(take(PROCESS_ROWS_BYTES_MAX, &Arc::default()).unwrap());
    }
    let last: Arc<AtomicUsize> = Arc::default();
    is(
        take(PROCESS_ROWS_BYTES_MAX, &last).unwrap_err(),
        nomem,
        "the node",
    );
    assert_eq!(last.load(Ordering::Relaxed), 0);
    drop((one, taken));
    assert_eq!(mine.load(Ordering::Relaxed), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_confined_thread_opens_nothing_elsewhere() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-confined", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let inside = dir.clone();
    let opened = thread::spawn(move || {
        confine(&Directory::at(&inside).unwrap()).unwrap();
        let inside = std::fs::write(inside.join("a"), "a").is_ok();
        (inside, std::fs::read_dir("/").is_ok())
    });
    let (inside, outside) = opened.join().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(inside && std::fs::read_dir("/").is_ok());
    // Kernels without Landlock cannot refuse it.
    let landlock = std::fs::read_to_string("/sys/kernel/security/lsm");
    if landlock.is_ok_and(|modules| modules.contains("landlock")) {
        assert!(!outside, "the whole disk is open to the thread");
    }
}
