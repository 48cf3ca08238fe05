//! What is on disk, with a disk that fails on command and modules whose ids clash.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use redb::backends::FileBackend;

use super::*;

/// A disk with a switch.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> Result<(), io::Error> {
        if self.full.load(Ordering::Relaxed) {
            let error = io::Error::from(io::ErrorKind::StorageFull);
            return Err(error);
        }
        Ok(())
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.check()?;
        self.file.write(offset, data)
    }
}

/// A store whose disk is full while the switch is on.
pub(crate) fn store_with_switch(path: PathBuf) -> (Store, Arc<AtomicBool>) {
    let full = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&full);
    let open = move || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file: File = options.open(&path).map_err(redb::StorageError::Io)?;
        let disk = Disk {
            file: FileBackend::new(file)?,
            full: Arc::clone(&full),
        };
        Database::builder().create_with_backend(disk)
    };
    let first = open();
    let store = Store::open_with(first, Box::new(open), "test".to_owned(), "sea", true).unwrap();
    (store, switch)
}

/// Puts as many open tokens into the closed store at `path` as it takes.
pub(crate) fn fill_with_tokens(path: &Path, expires_s: i64) {
    let store = Store::open(path, "sea", false).unwrap();
    let filled = store.write(|transaction| {
        let mut tokens = transaction.open_table(TOKENS)?;
        let token = encode(&TokenRecord {
            hash: [0; 32],
            expires_s,
            uses: 1,
        });
        for key in 0..TOKENS_MAX {
            tokens.insert(key, token.as_slice())?;
        }
        Ok(Ok::<_, std::convert::Infallible>(()))
    });
    filled.unwrap().unwrap_or_else(|never| match never {});
}

fn info(hash: ModuleHash, name: Option<&str>) -> ModuleInfo {
    ModuleInfo {
        hash: hash.to_string(),
        names: name.map(str::to_owned).into_iter().collect(),
        size_bytes: 8,
        added_at: jiff::Timestamp::UNIX_EPOCH,
        deployed_at: None,
    }
}

#[test]
fn a_full_disk_fails_the_call_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, full) = store_with_switch(dir.path().join("store"));
    let token = |text: &str| blake3::hash(text.as_bytes());
    assert!(store.add_token(token("one"), 1, 100, 0).unwrap());

    full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let error = store.add_token(token("two"), 1, 100, 0).unwrap_err();
        assert!(matches!(error, StoreError::Database(_)), "{error}");
    }
    assert!(store.faults() >= 1);
    full.store(false, Ordering::Relaxed);

    assert!(store.is_token_good(token("one"), 0).unwrap());
    assert!(store.add_token(token("three"), 1, 100, 0).unwrap());
    assert!(store.is_token_good(token("three"), 0).unwrap());
}

#[test]
fn two_modules_cannot_share_an_id() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
    let first = ModuleHash([7; 32]);
    let mut second = first;
    second.0[31] = 8;
    assert_eq!(first.module_id(), second.module_id());

    let stored = store
        .put_module(first, info(first, Some("a")), None)
        .unwrap();
    assert_eq!(stored, PutModule::Stored(info(first, Some("a"))));
    let clash = store
        .put_module(second, info(second, Some("a")), None)
        .unwrap();
    assert_eq!(clash, PutModule::Clash(first.to_string()));
    assert_eq!(store.module(second).unwrap(), None);
    assert_eq!(store.module_named("a").unwrap(), Some(first));
    // The same one again is no clash, and keeps its name.
    let again = store.put_module(first, info(first, None), None).unwrap();
    assert_eq!(again, PutModule::Stored(info(first, Some("a"))));
}

#[test]
fn a_name_stands_for_one_module() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
    let (old, new) = (ModuleHash([1; 32]), ModuleHash([2; 32]));
    for (hash, name) in [(old, "b"), (old, "a"), (new, "a"), (new, "c")] {
        store
            .put_module(hash, info(hash, Some(name)), None)
            .unwrap();
    }
    // The old one again, without a name: it takes none back.
    let again = store.put_module(old, info(old, None), None).unwrap();
    assert_eq!(again, PutModule::Stored(info(old, Some("b"))));
    let named = |hash: ModuleHash| {
        let mut modules = store.modules().unwrap();
        modules.retain(|module| module.hash == hash.to_string());
        modules.remove(0).names
    };
    assert_eq!(
        (named(old), named(new)),
        (vec!["b".to_owned()], vec!["a".to_owned(), "c".to_owned()])
    );
    assert_eq!(store.module_named("a").unwrap(), Some(new));
}

#[test]
fn a_name_is_left_to_whoever_deployed_under_it_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, "sea", true).unwrap();
    let (old, new) = (ModuleHash([1; 32]), ModuleHash([2; 32]));
    let put = |store: &Store, hash, after| {
        let info = ModuleInfo {
            deployed_at: Some(jiff::Timestamp::UNIX_EPOCH),
            ..info(hash, Some("a"))
        };
        let put = store.put_module(hash, info, after).unwrap();
        (
            put == PutModule::Late("a".into()),
            store.deploys("a").unwrap(),
        )
    };
    assert_eq!(store.deploys("a").unwrap(), 0);
    assert_eq!(put(&store, old, Some(0)), (false, 1));
    // Its answer was lost.
    assert_eq!(put(&store, old, Some(0)), (false, 1));
    assert_eq!(put(&store, new, Some(1)), (false, 2));
    assert_eq!(put(&store, old, Some(0)), (true, 2));
    assert_eq!(store.module_named("a").unwrap(), Some(new));
    // Back to the old one, on purpose: the new one does not come back.
    assert_eq!(put(&store, old, Some(2)), (false, 3));
    assert_eq!(put(&store, new, Some(1)), (true, 3));
    // On purpose once more, though it is there: what began before that comes late, too.
    assert_eq!(put(&store, old, Some(3)), (false, 4));
    assert_eq!(put(&store, new, Some(3)), (true, 4));
    assert_eq!(store.module_named("a").unwrap(), Some(old));
    // Of one that is late the bytes are kept, and nothing was deployed.
    let third = ModuleHash([3; 32]);
    assert_eq!(put(&store, third, Some(3)), (true, 4));
    assert_eq!(store.module(third).unwrap(), Some(info(third, None)));

    // By a client that does not count, and in a store whose version did not.
    assert_eq!(put(&store, new, None), (false, 5));
    let forgotten = store.write(|transaction| {
        transaction.delete_table(MODULE_DEPLOYS)?;
        Ok(Ok::<_, ()>(()))
    });
    forgotten.unwrap().unwrap();
    drop(store);
    let store = Store::open(&path, "sea", false).unwrap();
    assert_eq!(store.deploys("a").unwrap(), 0);
    assert_eq!(put(&store, old, Some(0)), (false, 1));
}

#[test]
fn expired_tokens_are_forgotten_and_used_up_ones_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
    let hash = blake3::hash(b"one");
    store.add_token(hash, 2, 100, 0).unwrap();
    assert!(store.is_token_good(hash, 99).unwrap());
    assert!(!store.is_token_good(hash, 100).unwrap());
    // Found by eight bytes, believed by all of them.
    let mut near = *hash.as_bytes();
    near[31] ^= 1;
    assert!(
        !store
            .is_token_good(blake3::Hash::from_bytes(near), 0)
            .unwrap()
    );

    let take = |now_s| {
        store.write(|transaction| take_token_use(transaction, hash, now_s).map(Ok::<_, ()>))
    };
    assert_eq!(take(100).unwrap(), Ok(false));
    assert_eq!(take(0).unwrap(), Ok(true));
    assert_eq!(take(0).unwrap(), Ok(true));
    assert_eq!(take(0).unwrap(), Ok(false));

    store.add_token(hash, 1, 100, 0).unwrap();
    store.add_token(blake3::hash(b"two"), 1, 300, 200).unwrap();
    // Even if the clock goes back: what was forgotten stays forgotten.
    assert!(!store.is_token_good(hash, 0).unwrap());
}

#[test]
fn a_store_that_is_gone_is_not_made_again_where_it_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let missing = |may_make| {
        let opened = Store::open(&path, "sea", may_make);
        matches!(opened.err(), Some(StoreError::Missing(_)))
    };
    assert!(missing(false));
    assert!(!path.exists(), "it was made");
    fs::write(&path, b"").unwrap();
    assert!(missing(false));
    assert_eq!(fs::read(&path).unwrap(), b"");
    // One that nothing was ever committed to is as empty.
    drop(Database::create(&path).unwrap());
    assert!(missing(false));
    assert!(!missing(true));
    assert!(!missing(false));
}

#[test]
fn after_a_fault_a_store_that_is_gone_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, "sea", true).unwrap();
    // As after a fault of the disk.
    *store.database.write().unwrap() = None;
    fs::remove_file(&path).unwrap();
    assert!(store.nodes().is_err());
    assert!(!path.exists(), "it was made");
}

#[test]
fn ids_of_lost_books_are_known_and_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), "sea", true).unwrap();
    let is_lost = |id| store.is_of_lost_books(NodeId(id)).unwrap();
    let last = || {
        let read = store.read(|transaction| {
            let numbers = transaction.open_table(NUMBERS)?;
            Ok(numbers.get(LAST_NODE)?.map(|value| value.value()))
        });
        read.unwrap()
    };
    store
        .write(|transaction| {
            let mut numbers = transaction.open_table(NUMBERS)?;
            numbers.insert(LAST_NODE, 5_u64)?;
            Ok(Ok::<_, ()>(()))
        })
        .unwrap()
        .unwrap();
    // Those that were handed out by these books and are long forgotten.
    assert!(!is_lost(5));
    assert_eq!(last(), Some(5));
    assert!(is_lost(8));
    assert_eq!(last(), Some(8));
    // In whatever order they come.
    assert!(is_lost(6) && is_lost(8) && is_lost(11) && is_lost(9));
    assert!(!is_lost(5));
    assert_eq!(last(), Some(11));
}
