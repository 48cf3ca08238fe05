//! The command line as people and scripts meet it.
//!
//! Goal: exit codes, error letters, JSON and help are promises. Method: the binary is run as it is
//! installed; a cluster is one that `tidelock dev` starts, and each test has its own folders, so that
//! nothing of this machine's user is read or changed.

mod bench;
mod demo;
mod dev;
mod errors;
#[cfg(target_os = "linux")]
mod leave;
mod names;
mod nodes;
mod operators;
mod output;
mod settings;
#[path = "../user/mod.rs"]
mod user;

use std::fs;

use user::User;

/// Fails if a folder is left that a cluster was kept in.
#[track_caller]
fn nothing_is_left(user: &User) {
    let left = fs::read_dir(user.home.path()).unwrap().flatten();
    assert_eq!(left.filter(is_ours).count(), 0);
}

/// Whether a folder is one that a cluster was kept in.
fn is_ours(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with("tidelock-")
}
