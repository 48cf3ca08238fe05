//! What the system never refuses in practice, refused: the name of a socket, and its peer's.
//!
//! A filter in the kernel (seccomp) answers with *Input/output error* for one thread. It stays until that thread
//! ends, so each test has one of its own, with the guest's runtime on it.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::tls::{localhost, texts};
use super::*;

/// Runs `_start` made of `code` where these calls fail.
fn holds_without(refused: &[i64], more: String, code: &'static str) {
    let rules: BTreeMap<_, _> = refused.iter().map(|call| (*call, Vec::new())).collect();
    let thread = std::thread::spawn(move || {
        let fails = SeccompAction::Errno(libc::EIO.cast_unsigned());
        let arch = std::env::consts::ARCH.try_into().expect("a known one");
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, fails, arch).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        apply_filter(&program).expect("the kernel takes filters");
        runtime.block_on(holds(&more, code));
    });
    thread.join().unwrap();
}

#[test]
fn a_socket_whose_own_address_is_not_told_is_an_error() {
    let keys = localhost();
    // "Inpu": input/output error
    holds_without(
        &[libc::SYS_getsockname],
        texts(&keys, &keys.authority),
        r#"
        (call $error (call $tls_local_addr (call $tls_listen) (i32.const 100)) (i32.const 0x75706e49))
        (call $error (call $tcp_local_addr (call $listen) (i32.const 100)) (i32.const 0x75706e49))
        (call $ok (call $udp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)))
        (call $error (call $udp_local_addr (call $id) (i32.const 100)) (i32.const 0x75706e49))"#,
    );
}

#[test]
fn a_peer_that_is_not_told_is_no_missing_peer() {
    // 2, not 1: it may be connected.
    holds_without(
        &[libc::SYS_getpeername],
        String::new(),
        r#"
        (call $ok (call $udp_bind (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 100)))
        (call $check32 (i32.const 2) (call $udp_peer_addr (call $id) (i32.const 100)))
        (call $error (i32.const 1) (i32.const 0x75706e49))"#,
    );
}
