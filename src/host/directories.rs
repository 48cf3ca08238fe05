//! The directories of processes: where the names in a configuration lead.
//!
//! A directory is granted by its name, and names can be made to lead elsewhere: a guest that may write to the folder a
//! directory lies in can put a link in its place. So the place a name leads to is noted when the name is granted, and a
//! directory is opened for a process only where it is that place still. A process from another node is given what lies below a
//! directory that is open to such processes, by a way without links.

use std::collections::HashMap;
#[cfg(target_os = "linux")]
use std::fs::{File, OpenOptions};
use std::io;
#[cfg(target_os = "linux")]
use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Names granted by one environment. The directory of one more is missing from its processes.
const NAMES_MAX: usize = 4096;

/// Where the names of directories lead, in one environment.
pub(crate) struct Directories {
    granted: Mutex<HashMap<String, PathBuf>>,
    open_to_others: Vec<Root>,
}

/// A directory that processes from other nodes may be given, with all below it.
struct Root {
    name: PathBuf,
    /// Where it leads; not set while there is no such directory.
    real: OnceLock<PathBuf>,
}

impl Root {
    /// Where a name below it leads if there is no link on the way.
    fn leads(&self, name: &Path) -> Option<PathBuf> {
        let rest = name.strip_prefix(&self.name).ok()?;
        if rest.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        Some(self.real()?.join(rest))
    }

    /// Where it leads, since it was first asked and there was one.
    fn real(&self) -> Option<&Path> {
        if self.real.get().is_none() {
            let dir = Directory::at(&self.name).ok()?;
            // Whoever was first is right, too.
            let _: Result<(), _> = self.real.set(dir.real);
        }
        self.real.get().map(PathBuf::as_path)
    }
}

impl Directories {
    pub(crate) fn new(open_to_others: &[PathBuf]) -> Self {
        let root = |name: &PathBuf| {
            let root = Root {
                name: name.clone(),
                real: OnceLock::new(),
            };
            // Before any guest can change where it leads.
            root.real();
            root
        };
        Self {
            granted: Mutex::default(),
            open_to_others: open_to_others.iter().map(root).collect(),
        }
    }

    /// Notes where names lead that are granted on this node. What was noted before stays.
    pub(crate) fn grant(&self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if granted.contains_key(name) || granted.len() >= NAMES_MAX {
                continue;
            }
            // One that is not there is missing from the process.
            if let Ok(dir) = Directory::at(Path::new(name)) {
                granted.insert(name.clone(), dir.real);
            }
        }
    }

    /// Whether a process from another node may be given this directory.
    pub(crate) fn is_open_to_others(&self, name: &str) -> bool {
        let name = Path::new(name);
        let leads = |root: &Root| {
            let place = root.leads(name);
            place.is_some_and(|place| Directory::at(name).is_ok_and(|dir| dir.real == place))
        };
        self.open_to_others.iter().any(leads)
    }

    /// Opens a directory that was granted, or is open to processes from other nodes.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or its name leads elsewhere by now.
    pub(crate) fn open(&self, name: &str) -> io::Result<Directory> {
        let dir = Directory::at(Path::new(name))?;
        let noted = {
            let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
            granted.get(name).map(|real| *real == dir.real)
        };
        let is_there = noted.unwrap_or_else(|| {
            let leads = |root: &Root| root.leads(Path::new(name)).as_deref() == Some(dir.real());
            self.open_to_others.iter().any(leads)
        });
        if is_there {
            return Ok(dir);
        }
        let text = "its name leads elsewhere than when it was granted";
        Err(io::Error::other(text))
    }
}

/// A directory that is open, and where it lay when it was opened.
#[derive(Debug)]
pub(crate) struct Directory {
    #[cfg(target_os = "linux")]
    file: File,
    real: PathBuf,
}

impl Directory {
    /// Opens what a name leads to now. Where it lies is asked of what was opened, so a change of names in between
    /// makes no difference.
    #[cfg(target_os = "linux")]
    pub(crate) fn at(name: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(name)?;
        let real = link_to(&file).read_link()?;
        Ok(Self { file, real })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn at(name: &Path) -> io::Result<Self> {
        let real = name.canonicalize()?;
        Ok(Self { real })
    }

    /// What was opened.
    #[cfg(target_os = "linux")]
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The path without links.
    pub(crate) fn real(&self) -> &Path {
        &self.real
    }

    /// A path that leads to what was opened while this lives, whatever becomes of its names.
    #[cfg(target_os = "linux")]
    pub(crate) fn path(&self) -> PathBuf {
        link_to(&self.file)
    }

    /// A path that leads to it while its names stay.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn path(&self) -> PathBuf {
        self.real.clone()
    }
}

/// What the system keeps for an open file: a link that leads to it, and can be read.
#[cfg(target_os = "linux")]
fn link_to(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_open_to_other_nodes_has_no_links_on_the_way() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-others", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("shared/inside/deep")).unwrap();
        fs::create_dir_all(dir.join("secret")).unwrap();
        symlink("../secret", dir.join("shared/link")).unwrap();
        symlink("inside", dir.join("shared/other")).unwrap();
        let directories = Directories::new(&[dir.join("shared"), dir.join("later")]);
        let name = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let judged = |at: &str| {
            let (listed, opened) = (
                directories.is_open_to_others(&name(at)),
                directories.open(&name(at)).is_ok(),
            );
            assert_eq!(listed, opened, "{at}");
            listed
        };
        assert!(judged("shared") && judged("shared/inside") && judged("shared/inside/deep"));
        for at in [
            "secret",
            "shared/link",
            "shared/other/deep",
            "shared/../secret",
            "later",
        ] {
            assert!(!judged(at), "{at}");
        }
        fs::create_dir(dir.join("later")).unwrap();
        assert!(judged("later"));
        fs::rename(dir.join("shared/inside"), dir.join("shared/gone")).unwrap();
        symlink("../secret", dir.join("shared/inside")).unwrap();
        assert!(!judged("shared/inside") && judged("shared/gone"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_name_that_leads_elsewhere_than_when_it_was_granted_opens_nothing() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-granted", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("given")).unwrap();
        fs::create_dir_all(dir.join("secret")).unwrap();
        let directories = Directories::new(&[]);
        let name = dir.join("given").to_str().unwrap().to_owned();
        assert!(directories.open(&name).is_err(), "nobody granted it");
        directories.grant(std::slice::from_ref(&name));
        let opened = directories.open(&name).unwrap();
        fs::rename(dir.join("given"), dir.join("gone")).unwrap();
        symlink("secret", dir.join("given")).unwrap();
        // Granted once more, it is what it was.
        directories.grant(std::slice::from_ref(&name));
        let error = directories.open(&name).unwrap_err();
        assert!(error.to_string().contains("leads elsewhere"), "{error}");
        if cfg!(target_os = "linux") {
            let gone = dir.join("gone").canonicalize().unwrap();
            assert_eq!(opened.path().canonicalize().unwrap(), gone);
        }
        // An operator who makes it anew has it back.
        fs::remove_file(dir.join("given")).unwrap();
        fs::create_dir(dir.join("given")).unwrap();
        assert!(directories.open(&name).is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }
}
