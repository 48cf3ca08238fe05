//! The user's default cluster: a link in the state directory to the credentials of one `dev`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tidelock_node::config::user_state_dir;

/// Holds the place of the default; given up when dropped.
#[derive(Debug)]
pub(super) struct Current {
    link: PathBuf,
    target: PathBuf,
}

impl Current {
    /// Takes the place, unless another running cluster has it. A link to nowhere is a leftover.
    pub(super) fn take(credentials: &Path) -> Option<Self> {
        Self::take_in(&user_state_dir()?, credentials)
    }

    fn take_in(dir: &Path, credentials: &Path) -> Option<Self> {
        fs::create_dir_all(dir).ok()?;
        let link = dir.join("current");
        if link.exists() {
            return None;
        }
        // Of two that start at once, the second finds the link made and goes without.
        let _ = fs::remove_file(&link);
        symlink(credentials, &link).ok()?;
        Some(Self {
            link,
            target: credentials.to_owned(),
        })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if fs::read_link(&self.link).is_ok_and(|target| target == self.target) {
            let _ = fs::remove_file(&self.link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_keeps_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::create_dir_all(&one).unwrap();
        fs::create_dir_all(&two).unwrap();
        let state = folder.path().join("state");
        let first = Current::take_in(&state, &one).unwrap();
        assert!(Current::take_in(&state, &two).is_none());
        drop(first);
        let second = Current::take_in(&state, &two).unwrap();
        assert_eq!(fs::read_link(state.join("current")).unwrap(), two);
        // A leftover of something that was killed does not hold the place.
        fs::remove_dir(&two).unwrap();
        let third = Current::take_in(&state, &one).unwrap();
        drop(second);
        assert_eq!(fs::read_link(state.join("current")).unwrap(), one);
        drop(third);
        assert!(!state.join("current").exists());
    }
}
