//! The modules of a cluster: files named by the hash of their content.
//!
//! A file's name is made of the hash's digits alone, so no request can name another file. Bytes are
//! hashed when they come in and again when they are read: a damaged disk is noticed, not deployed.
//! Those who read a module at the same time share one copy of it. Those who bring modules at the same time do not
//! exceed together what all of them may take.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{fs, io};

use bytes::Bytes;
use jiff::Timestamp;
use tidelock_certs::files;
use tidelock_proto::ModuleHash;

use crate::api::ModuleInfo;
use crate::store::{PutModule, Store, StoreError};

/// No module is larger.
pub const MODULE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// All modules together are not larger.
pub const MODULES_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

const NAME_BYTES_MAX: usize = 128;
/// What every core module begins with: the magic number and version 1.
const WASM_HEAD: &[u8] = b"\0asm\x01\0\0\0";

/// A module's name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a module name: 1 to 128 of A-Z a-z 0-9 . _ - are allowed, beginning with a letter \
     or digit"
)]
pub struct ModuleNameError(String);

/// Checks that `name` can stand in a path, a URL and a shell command, and is no hash.
///
/// # Errors
///
/// [`ModuleNameError`] with the name, shortened.
pub fn check_module_name(name: &str) -> Result<(), ModuleNameError> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = name.len() <= NAME_BYTES_MAX
        && name
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(inner);
    if good {
        Ok(())
    } else {
        Err(ModuleNameError(name.chars().take(80).collect()))
    }
}

/// The hash a module is known by.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> ModuleHash {
    ModuleHash(*blake3::hash(bytes).as_bytes())
}

/// A module was not stored or not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModuleError {
    #[error(transparent)]
    Name(#[from] ModuleNameError),
    #[error("this is not a WebAssembly core module")]
    NotWasm,
    #[error("the bytes have the hash {actual}, they were announced as {announced}")]
    OtherHash {
        actual: ModuleHash,
        announced: ModuleHash,
    },
    #[error("module {0} has the same id; guests could not tell the two apart")]
    Clash(String),
    #[error(
        "{name} was deployed again after this began, and is left so; these bytes are kept as {hash}"
    )]
    Late { name: String, hash: ModuleHash },
    #[error("the cluster holds {MODULES_BYTES_MAX} bytes of modules already")]
    Full,
    #[error("the file of module {0} is damaged or gone; deploying the module again mends that")]
    Damaged(ModuleHash),
    #[error("the module's file cannot be used: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The directory of modules, and the store's list of them.
pub(crate) struct Shelf {
    dir: PathBuf,
    store: Arc<Store>,
    /// [`MODULES_BYTES_MAX`], unless a test has less.
    bytes_max: u64,
    /// What is being sent. Locked while a file is read: its bytes are there once.
    open: Mutex<BTreeMap<ModuleHash, Weak<Vec<u8>>>>,
    /// What is being stored and may not be listed yet. Locked while all that is held is counted.
    coming: Mutex<BTreeMap<ModuleHash, Coming>>,
}

/// A module that is being stored.
struct Coming {
    bytes: u64,
    /// By so many at once; it takes its room once.
    by: usize,
}

/// The room of a module that is being stored. It is given back when this is dropped: by then the module is listed,
/// or it was not stored.
struct Room<'a> {
    shelf: &'a Shelf,
    hash: ModuleHash,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut coming = self.shelf.coming();
        if let Some(module) = coming.get_mut(&self.hash) {
            module.by -= 1;
            if module.by == 0 {
                coming.remove(&self.hash);
            }
        }
    }
}

/// A module's bytes, shared.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Shelf {
    pub(crate) fn open(dir: &Path, store: Arc<Store>) -> io::Result<Self> {
        files::create_private_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            store,
            bytes_max: MODULES_BYTES_MAX,
            open: Mutex::default(),
            coming: Mutex::default(),
        })
    }

    /// Keeps `bytes`, under `name` if there is one. Again is as good as once, and with `after` nothing is taken from
    /// whoever deployed under the name since: see [`Store::put_module`].
    pub(crate) fn put(
        &self,
        bytes: &[u8],
        announced: Option<ModuleHash>,
        name: Option<String>,
        after: Option<u64>,
        now: Timestamp,
    ) -> Result<ModuleInfo, ModuleError> {
        if let Some(name) = &name {
            check_module_name(name)?;
        }
        if !bytes.starts_with(WASM_HEAD) {
            return Err(ModuleError::NotWasm);
        }
        let hash = hash_of(bytes);
        if let Some(announced) = announced.filter(|announced| *announced != hash) {
            return Err(ModuleError::OtherHash {
                actual: hash,
                announced,
            });
        }
        let _room = self.reserve(hash, bytes.len() as u64)?;
        // The file first: what the list names must be there. A crash in between leaves a file that
        // the next attempt replaces.
        files::replace(&self.path(hash), bytes, files::PUBLIC)?;
        let info = ModuleInfo {
            hash: hash.to_string(),
            deployed_at: name.is_some().then_some(now),
            names: name.into_iter().collect(),
            size_bytes: bytes.len() as u64,
            added_at: now,
        };
        match self.store.put_module(hash, info, after)? {
            PutModule::Stored(info) => Ok(info),
            PutModule::Late(name) => Err(ModuleError::Late { name, hash }),
            PutModule::Clash(other) => {
                // Not listed under this hash, so nobody can be reading it.
                let _ = fs::remove_file(self.path(hash));
                Err(ModuleError::Clash(other))
            }
        }
    }

    /// Takes the room for a module, unless it is listed or being stored already.
    fn reserve(&self, hash: ModuleHash, bytes: u64) -> Result<Room<'_>, ModuleError> {
        let mut coming = self.coming();
        if !coming.contains_key(&hash) && self.store.module(hash)?.is_none() {
            let listed = self.store.modules()?;
            let held: u64 = listed.iter().map(|info| info.size_bytes).sum();
            let listed: BTreeSet<&str> = listed.iter().map(|info| info.hash.as_str()).collect();
            // Whoever has just been listed gives its room back next.
            let unlisted = coming
                .iter()
                .filter(|(hash, _)| !listed.contains(hash.to_string().as_str()));
            let unlisted: u64 = unlisted.map(|(_, module)| module.bytes).sum();
            if held.saturating_add(unlisted).saturating_add(bytes) > self.bytes_max {
                return Err(ModuleError::Full);
            }
        }
        coming.entry(hash).or_insert(Coming { bytes, by: 0 }).by += 1;
        Ok(Room { shelf: self, hash })
    }

    fn coming(&self) -> MutexGuard<'_, BTreeMap<ModuleHash, Coming>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a module was deployed under `name`.
    pub(crate) fn deploys(&self, name: &str) -> Result<u64, ModuleError> {
        check_module_name(name)?;
        Ok(self.store.deploys(name)?)
    }

    /// The module that `which` names, by hash or by name; `None` if there is none.
    pub(crate) fn read(&self, which: &str) -> Result<Option<Bytes>, ModuleError> {
        let hash = match which.parse::<ModuleHash>() {
            Ok(hash) => hash,
            Err(_) => {
                check_module_name(which)?;
                match self.store.module_named(which)? {
                    Some(hash) => hash,
                    None => return Ok(None),
                }
            }
        };
        if self.store.module(hash)?.is_none() {
            return Ok(None);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = if let Some(bytes) = open.get(&hash).and_then(Weak::upgrade) {
            bytes
        } else {
            let bytes = match fs::read(self.path(hash)) {
                Ok(bytes) if hash_of(&bytes) == hash => bytes,
                Ok(_) => return Err(ModuleError::Damaged(hash)),
                // It was there before it was listed. That it is gone does not pass.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(ModuleError::Damaged(hash));
                }
                Err(error) => return Err(error.into()),
            };
            let bytes = Arc::new(bytes);
            open.retain(|_, bytes| bytes.strong_count() > 0);
            open.insert(hash, Arc::downgrade(&bytes));
            bytes
        };
        Ok(Some(Bytes::from_owner(Shared(bytes))))
    }

    /// All of them.
    pub(crate) fn list(&self) -> Result<Vec<ModuleInfo>, ModuleError> {
        Ok(self.store.modules()?)
    }

    fn path(&self, hash: ModuleHash) -> PathBuf {
        self.dir
            .join(format!("{}.wasm", tidelock_certs::to_hex(&hash.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_knows_of_one_name_is_told_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
        let shelf = Shelf::open(&dir.path().join("modules"), Arc::new(store)).unwrap();
        for (name, first) in [(None, None), (Some("b"), Some("b")), (Some("a"), Some("a"))] {
            let name = name.map(str::to_owned);
            let info = shelf.put(WASM_HEAD, None, name, None, Timestamp::UNIX_EPOCH);
            let info = info.unwrap();
            let json = serde_json::to_value(&info).unwrap();
            assert_eq!(json["name"].as_str(), first);
            assert!(json.get("name").is_some());
            assert_eq!(serde_json::from_value::<ModuleInfo>(json).unwrap(), info);
        }
    }

    #[test]
    fn readers_of_a_module_share_one_copy() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
        let shelf = Shelf::open(&dir.path().join("modules"), Arc::new(store)).unwrap();
        let (now, name) = (Timestamp::UNIX_EPOCH, "m".to_owned());
        let info = shelf.put(WASM_HEAD, None, Some(name), None, now).unwrap();
        let read = |which: &str| shelf.read(which).unwrap().unwrap();
        let first = read("m");
        assert_eq!(first.as_ptr(), read(&info.hash).as_ptr());
        assert_eq!(first, WASM_HEAD);
        // With the last of them it goes, and the file is read again.
        drop(first);
        let path = shelf.path(hash_of(WASM_HEAD));
        fs::write(&path, b"damaged").unwrap();
        assert!(matches!(shelf.read("m"), Err(ModuleError::Damaged(_))));
        fs::remove_file(&path).unwrap();
        assert!(matches!(shelf.read("m"), Err(ModuleError::Damaged(_))));
    }

    #[test]
    fn a_full_shelf_is_no_refusal_that_passes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store"), "sea", true).unwrap());
        let shelf = Shelf::open(&dir.path().join("modules"), Arc::clone(&store)).unwrap();
        let put = |bytes: &[u8]| shelf.put(bytes, None, None, None, Timestamp::UNIX_EPOCH);
        let held = put(WASM_HEAD).unwrap();
        // As if one were all that the cluster may hold.
        let large = ModuleInfo {
            size_bytes: MODULES_BYTES_MAX,
            ..held.clone()
        };
        store.put_module(hash_of(WASM_HEAD), large, None).unwrap();
        let full = put(&[WASM_HEAD, &[0, 1, 0]].concat()).unwrap_err();
        assert!(matches!(full, ModuleError::Full), "{full}");
        let refused = crate::http::ApiError::from(full);
        let error = crate::client::ClientError::Refused {
            status: refused.status.as_u16(),
            body: refused.body,
        };
        assert_eq!(error.code(), Some(crate::api::codes::MODULE_REFUSED));
        assert!(!error.is_temporary(), "{error}");
        assert_eq!(error.exit_code(), 5);
        // What it holds can be deployed again.
        assert_eq!(put(WASM_HEAD).unwrap().hash, held.hash);
    }

    #[test]
    fn modules_that_come_at_the_same_time_share_the_room_that_is_left() {
        const EACH: usize = 4;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
        let shelf_dir = dir.path().join("modules");
        let mut shelf = Shelf::open(&shelf_dir, Arc::new(store)).unwrap();
        let modules = [0, 1].map(|last| [WASM_HEAD, &[0, 1, last]].concat());
        shelf.bytes_max = modules[0].len() as u64;
        let put = |bytes: &[u8]| shelf.put(bytes, None, None, None, Timestamp::UNIX_EPOCH);
        let is_full = |bytes: &[u8]| matches!(put(bytes), Err(ModuleError::Full));

        // One that is being stored has its room, and whoever brings the same one shares it.
        let [first, second] = &modules;
        let reserve = || shelf.reserve(hash_of(first), first.len() as u64).unwrap();
        let rooms = [reserve(), reserve()];
        for room in rooms {
            assert!(is_full(second));
            drop(room);
        }
        // One that could not be stored has none any more.
        fs::remove_dir(&shelf_dir).unwrap();
        assert!(matches!(put(first), Err(ModuleError::Io(_))));
        fs::create_dir(&shelf_dir).unwrap();

        // Each of two by several at once.
        let start = std::sync::Barrier::new(modules.len() * EACH);
        let bring = |bytes: &[u8]| {
            start.wait();
            put(bytes)
        };
        let outcomes = std::thread::scope(|scope| {
            let bring = &bring;
            let all = modules.iter().cycle().take(modules.len() * EACH);
            let all: Vec<_> = all.map(|bytes| scope.spawn(move || bring(bytes))).collect();
            let ended = all.into_iter().map(|one| one.join().unwrap());
            ended.collect::<Vec<_>>()
        });
        let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let full = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Err(ModuleError::Full)))
            .count();
        assert_eq!((stored, full), (EACH, EACH));
        assert_eq!(shelf.list().unwrap().len(), 1);
    }
}
