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
use std::os::{
    fd::AsRawFd,
    unix::fs::{MetadataExt, OpenOptionsExt},
};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tidelock_proto::spawn::ProcessConfig;

/// Names granted by one environment. Beyond it those that no process has any more make room; without any, the directory of
/// one more is missing from its processes.
const NAMES_MAX: usize = 4096;
/// Holders of a name that are kept before any are looked through for those that are gone.
const HOLDERS_LOOK: usize = 64;

/// Where a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This node.
    Here,
    /// Another node asked for it, or for one that it descends from.
    Elsewhere,
}

/// Where the names of directories lead, in one environment.
pub(crate) struct Directories {
    granted: Mutex<HashMap<String, Granted>>,
    open_to_others: Vec<Root>,
}

/// A name that was granted.
struct Granted {
    /// Where it led, or why it led nowhere.
    place: Result<PathBuf, String>,
    /// The configurations of the processes that have it, by their addresses, which stay theirs as long as they are here.
    holders: HashMap<usize, Weak<ProcessConfig>>,
    /// At so many holders, those that are gone are dropped.
    look_at: usize,
}

impl Granted {
    fn new(place: Result<PathBuf, String>) -> Self {
        Self {
            place,
            holders: HashMap::new(),
            look_at: HOLDERS_LOOK,
        }
    }

    fn hold(&mut self, config: &Arc<ProcessConfig>) {
        if self.holders.len() >= self.look_at {
            self.holders.retain(|_, holder| holder.strong_count() > 0);
            self.look_at = (2 * self.holders.len()).max(HOLDERS_LOOK);
        }
        let address = Arc::as_ptr(config).addr();
        self.holders.insert(address, Arc::downgrade(config));
    }

    fn is_held(&self) -> bool {
        let mut holders = self.holders.values();
        holders.any(|holder| holder.strong_count() > 0)
    }
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

    /// Notes where the directories lead that a process is granted on this node. What was noted before stays.
    pub(crate) fn grant(&self, config: &Arc<ProcessConfig>) {
        let new = self.hold(config);
        if new.is_empty() {
            return;
        }
        // Opened before the lock: a file system may take its time.
        let place = |name: &str| {
            let dir = Directory::at(Path::new(name));
            dir.map(|dir| dir.real).map_err(|error| error.to_string())
        };
        let places: Vec<_> = new.into_iter().map(|name| (name, place(name))).collect();
        let mut granted = self.granted();
        if granted.len() + places.len() > NAMES_MAX {
            granted.retain(|_, noted| noted.is_held());
        }
        for (name, place) in places {
            if granted.len() >= NAMES_MAX && !granted.contains_key(name) {
                tracing::warn!(dir = %name, "directory is not granted: {}", full());
                continue;
            }
            let noted = granted.entry(name.clone());
            let noted = noted.or_insert_with(|| Granted::new(place.clone()));
            // One that is not there is missing from the process, until it is granted once more.
            if noted.place.is_err() {
                noted.place = place;
            }
            noted.hold(config);
        }
    }

    /// Keeps what is noted of a process's directories while it has this configuration. Returns those of which nothing is, or
    /// that they led nowhere.
    pub(crate) fn hold<'a>(&self, config: &'a Arc<ProcessConfig>) -> Vec<&'a String> {
        if config.preopens.is_empty() {
            return Vec::new();
        }
        let mut granted = self.granted();
        let mut new = Vec::new();
        for name in &config.preopens {
            match granted.get_mut(name) {
                Some(noted) => {
                    noted.hold(config);
                    if noted.place.is_err() {
                        new.push(name);
                    }
                }
                None => new.push(name),
            }
        }
        new
    }

    fn granted(&self) -> MutexGuard<'_, HashMap<String, Granted>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a process from another node may be given this directory.
    pub(crate) fn is_open_to_others(&self, name: &str) -> bool {
        let name = Path::new(name);
        // Most names lie below none of them, and nothing is opened for those.
        self.open_to_others
            .iter()
            .any(|root| root.leads(name).is_some())
            && Directory::at(name).is_ok_and(|dir| self.lies_open_to_others(name, &dir))
    }

    /// Whether the directory that a name led to is one that processes from other nodes may be given by that name.
    fn lies_open_to_others(&self, name: &Path, dir: &Directory) -> bool {
        let leads = |root: &Root| root.leads(name).as_deref() == Some(dir.real());
        self.open_to_others.iter().any(leads)
    }

    /// Opens a directory that was granted, or is open to processes from other nodes. For one of those it is open to them
    /// now: what somebody here was granted by the same name may lead anywhere.
    ///
    /// # Errors
    ///
    /// It cannot be opened, its name leads elsewhere by now, or nothing was granted by that name.
    pub(crate) fn open(&self, name: &str, origin: Origin) -> io::Result<Directory> {
        let dir = Directory::at(Path::new(name))?;
        let is_open_to_others = || self.lies_open_to_others(Path::new(name), &dir);
        if origin == Origin::Elsewhere {
            let why = "it is not open to processes of other nodes (remote_preopens)";
            let is_open = is_open_to_others();
            return is_open.then_some(dir).ok_or_else(|| io::Error::other(why));
        }
        let (noted, is_full) = {
            let granted = self.granted();
            let noted = granted.get(name).map(|noted| noted.place.clone());
            (noted, granted.len() >= NAMES_MAX)
        };
        let why: String = match noted {
            Some(Ok(real)) if real == dir.real => return Ok(dir),
            // Where it led is not for the guest, which may be told this.
            Some(Ok(_)) => {
                "its name leads elsewhere than when it was granted; put back what was there".into()
            }
            None | Some(Err(_)) if is_open_to_others() => return Ok(dir),
            Some(Err(error)) => {
                format!("it could not be opened when it was granted ({error}); start the process anew")
            }
            None if is_full => full(),
            None => "it was not granted on this node, and is not open to processes of others (remote_preopens)".into(),
        };
        Err(io::Error::other(why))
    }
}

/// Why a name is not granted, and what helps.
fn full() -> String {
    format!(
        "processes of this node have {NAMES_MAX} others; end some of them, and start this one anew"
    )
}

/// A directory that is open, and where it lay when it was opened.
#[derive(Debug)]
pub(crate) struct Directory {
    #[cfg(target_os = "linux")]
    file: File,
    /// Whether the system keeps a link to what is open.
    #[cfg(target_os = "linux")]
    is_linked: bool,
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
        match link_to(&file).read_link() {
            Ok(real) => Ok(Self {
                file,
                is_linked: true,
                real,
            }),
            Err(_) => Self::unlinked(file, name),
        }
    }

    /// As [`Directory::at`] where there is no `/proc`: it lies where its name leads, if that is what was opened.
    #[cfg(target_os = "linux")]
    fn unlinked(file: File, name: &Path) -> io::Result<Self> {
        let real = name.canonicalize()?;
        let (opened, found) = (file.metadata()?, real.metadata()?);
        if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
            return Err(io::Error::other("its name was changed while it was opened"));
        }
        Ok(Self {
            file,
            is_linked: false,
            real,
        })
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

    /// A path that leads to what was opened while this lives, whatever becomes of its names; without `/proc`, while its
    /// names stay.
    #[cfg(target_os = "linux")]
    pub(crate) fn path(&self) -> PathBuf {
        match self.is_linked {
            true => link_to(&self.file),
            false => self.real.clone(),
        }
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

    /// The configuration of a process with these directories.
    fn with(names: &[&str]) -> Arc<ProcessConfig> {
        Arc::new(ProcessConfig {
            preopens: names.iter().map(|&name| name.to_owned()).collect(),
            ..ProcessConfig::default()
        })
    }

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
                directories.open(&name(at), Origin::Elsewhere).is_ok(),
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
        let error = directories.open(&name, Origin::Here).unwrap_err();
        assert!(error.to_string().contains("not granted"), "{error}");
        let config = with(&[&name]);
        directories.grant(&config);
        let opened = directories.open(&name, Origin::Here).unwrap();
        fs::rename(dir.join("given"), dir.join("gone")).unwrap();
        symlink("secret", dir.join("given")).unwrap();
        // Granted once more, it is what it was.
        directories.grant(&config);
        let error = directories.open(&name, Origin::Here).unwrap_err();
        assert!(error.to_string().contains("leads elsewhere"), "{error}");
        if cfg!(target_os = "linux") {
            let gone = dir.join("gone").canonicalize().unwrap();
            assert_eq!(opened.path().canonicalize().unwrap(), gone);
        }
        // An operator who makes it anew has it back.
        fs::remove_file(dir.join("given")).unwrap();
        fs::create_dir(dir.join("given")).unwrap();
        assert!(directories.open(&name, Origin::Here).is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_that_no_process_has_make_room() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-room", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("given")).unwrap();
        let name = dir.join("given").to_str().unwrap().to_owned();
        let missing: Vec<_> = (0..NAMES_MAX).map(|n| format!("{name}/{n}")).collect();
        let missing: Vec<_> = missing.iter().map(String::as_str).collect();
        let directories = Directories::new(&[]);
        let (parent, config) = (with(&missing), with(&[&name]));
        directories.grant(&parent);
        directories.grant(&config);
        let error = directories.open(&name, Origin::Here).unwrap_err();
        assert!(error.to_string().contains("have 4096 others"), "{error}");
        // A child has what its parent had.
        let child = with(&missing);
        directories.hold(&child);
        drop(parent);
        directories.grant(&config);
        assert!(directories.open(&name, Origin::Here).is_err());
        drop(child);
        directories.grant(&config);
        assert!(directories.open(&name, Origin::Here).is_ok());
        assert_eq!(directories.granted().len(), 1);
        // Processes that come and go leave nothing behind.
        for _ in 0..4 * HOLDERS_LOOK {
            directories.grant(&with(&[&name]));
        }
        assert!(directories.granted()[&name].holders.len() <= HOLDERS_LOOK);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_was_granted_here_is_not_for_processes_of_other_nodes() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-both", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("shared/inside")).unwrap();
        fs::create_dir_all(dir.join("secret")).unwrap();
        let directories = Directories::new(&[dir.join("shared")]);
        let name = dir.join("shared/inside").to_str().unwrap().to_owned();
        let open = |origin| directories.open(&name, origin).map(|opened| opened.real);
        let real = open(Origin::Elsewhere).unwrap();
        // It is swapped for a link before somebody here is granted it.
        fs::remove_dir(dir.join("shared/inside")).unwrap();
        symlink("../secret", dir.join("shared/inside")).unwrap();
        directories.grant(&with(&[&name]));
        assert_ne!(open(Origin::Here).unwrap(), real);
        let error = open(Origin::Elsewhere).unwrap_err().to_string();
        assert!(
            error.contains("not open to processes of other nodes"),
            "{error}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_that_was_missing_when_it_was_granted_is_called_that() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-late", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let name = dir.to_str().unwrap().to_owned();
        let directories = Directories::new(&[]);
        let config = with(&[&name]);
        directories.grant(&config);
        let error = directories.open(&name, Origin::Here).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::create_dir(&dir).unwrap();
        let error = directories.open(&name, Origin::Here).unwrap_err();
        assert!(
            error.to_string().contains("when it was granted (No such"),
            "{error}"
        );
        directories.grant(&config);
        assert!(directories.open(&name, Origin::Here).is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn without_proc_a_directory_lies_where_its_name_leads() {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-proc", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("given")).unwrap();
        symlink("given", dir.join("link")).unwrap();
        let opened = || File::open(dir.join("link")).unwrap();
        let found = Directory::unlinked(opened(), &dir.join("link")).unwrap();
        let given = dir.join("given").canonicalize().unwrap();
        assert_eq!((found.real(), found.path()), (&*given, given.clone()));
        let error = Directory::unlinked(opened(), &dir).unwrap_err();
        assert!(error.to_string().contains("was changed"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
