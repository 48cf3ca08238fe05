//! What the control plane must not forget, in one redb file.
//!
//! # Guarantees
//!
//! * Each function is one transaction: its effect is on disk when it returns `Ok`, and absent
//!   when it refuses. After a fault of the disk it is there completely or not at all, and which of the
//!   two is open until the store is read again ([`Store::faults`]).
//! * A node id is on disk as used before it is handed out, and none is handed out twice.
//! * A use of a token is taken in the same transaction that adds the node.
//! * One process at a time: the file is locked while it is open.
//! * A disk that fails (full, unplugged) fails the call. Once it works again, so does the store.
//! * A file that is missing, empty or damaged is never replaced by an empty one, unless there was
//!   none before.
//!
//! # What this module does not do
//!
//! It reads no clock and makes no decisions about names and leases: that is `members.rs`.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::{fs, io};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidelock_proto::{ModuleHash, NodeId};

use crate::api::{ModuleInfo, NodeInfo};

const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const TEXTS: TableDefinition<&str, &str> = TableDefinition::new("texts");
const NODES: TableDefinition<u64, &[u8]> = TableDefinition::new("nodes");
/// By the first eight bytes of the secret's hash; the entry holds all of it.
const TOKENS: TableDefinition<u64, &[u8]> = TableDefinition::new("tokens");
const REMOVED_KEYS: TableDefinition<&[u8], u64> = TableDefinition::new("removed keys");
/// By module id, which is what guests know a module as: two modules may not share one.
const MODULES: TableDefinition<u64, &[u8]> = TableDefinition::new("modules");
const MODULE_NAMES: TableDefinition<&str, &[u8]> = TableDefinition::new("module names");
/// How often each name was made to stand for a module. It only grows; stores of earlier versions have none.
const MODULE_DEPLOYS: TableDefinition<&str, u64> = TableDefinition::new("module deploys");

const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
const CLUSTER: &str = "cluster";
const LAST_NODE: &str = "last node id";
/// Ids above the one and up to the other were handed out by books that are lost.
const LOST_ABOVE: &str = "lost above";
const LOST_UP_TO: &str = "lost up to";
const REVISION: &str = "revision";

/// No more tokens are kept than this; the limit is far above any honest use.
pub(crate) const TOKENS_MAX: u64 = 10_000;

/// The store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "another control plane is using {0}; end that one first, or give this one its own \
             state directory"
    )]
    InUse(String),
    /// It belongs to another cluster.
    #[error("{path} belongs to cluster {theirs:?}, not to {ours:?}")]
    OtherCluster {
        /// The file.
        path: String,
        /// Whose it is.
        theirs: String,
        /// Who we are.
        ours: String,
    },
    /// A newer version of this software wrote it.
    #[error("{path} has format {theirs}, this version reads {FORMAT_VERSION}")]
    OtherFormat {
        /// The file.
        path: String,
        /// Its format.
        theirs: u64,
    },
    /// It is gone, or empty, and others rely on what was in it.
    #[error(
        "{0} is missing or empty, and the cluster's authority is there: put a backup of the whole state \
         directory back, or start a new cluster in an empty one"
    )]
    Missing(String),
    /// The file or its disk is at fault. A change that was under way is there completely or not at all.
    #[error("the store cannot be used: {0}")]
    Database(String),
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// A node as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// What everybody may see.
    pub(crate) info: NodeInfo,
    /// The fingerprint of its key.
    pub(crate) key: [u8; 32],
    /// What its request to rejoin called this start: a repeated one is known by it, also after a restart of
    /// control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<[u8; 16]>,
}

#[derive(Serialize, Deserialize)]
struct TokenRecord {
    hash: [u8; 32],
    expires_s: i64,
    uses: u32,
}

/// Why nobody was admitted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No such token, or not any more.
    Token,
    /// All 2^23 ids have been handed out.
    Exhausted,
}

/// Who is let in, and on the strength of what.
pub(crate) struct Admission<'a> {
    /// Hash of the token's secret; `None` if a certificate did.
    pub(crate) token: Option<blake3::Hash>,
    /// The wall clock, for the token.
    pub(crate) now_s: i64,
    /// Earlier starts of the same name, as they are from now on.
    pub(crate) replaced: &'a [NodeRecord],
    /// The new start; its id is filled in here.
    pub(crate) node: NodeRecord,
}

/// A module as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PutModule {
    /// It is there now.
    Stored(ModuleInfo),
    /// It is there now, but this name was deployed under since, and stands for what it did.
    Late(String),
    /// Another module has the same id.
    Clash(String),
}

type Opener = dyn Fn() -> Result<Database, DatabaseError> + Send + Sync;

/// The open file.
pub(crate) struct Store {
    open: Box<Opener>,
    /// `None` after a fault of the disk: the next use opens the file again, which repairs it.
    database: RwLock<Option<Database>>,
    /// Grows with each such fault; see [`Store::faults`].
    faults: AtomicU64,
}

impl Store {
    /// Opens the store of `cluster`. One is made only if there is none and `may_make`: ids would be
    /// handed out twice, and removed keys be forgotten.
    pub(crate) fn open(path: &Path, cluster: &str, may_make: bool) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let path = path.to_owned();
        let is_kept = match fs::metadata(&path) {
            Ok(file) => file.len() > 0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(StoreError::Database(format!("{shown}: {error}"))),
        };
        if !is_kept && !may_make {
            return Err(StoreError::Missing(shown));
        }
        // What was changed behind its back is an error then, and not a panic later.
        let builder = || {
            let mut builder = Database::builder();
            builder.set_check_integrity_on_open(true);
            builder
        };
        let first = if is_kept {
            builder().open(&path)
        } else {
            builder().create(&path)
        };
        let open = move || builder().open(&path);
        Self::open_with(first, Box::new(open), shown, cluster, may_make)
    }

    fn open_with(
        first: Result<Database, DatabaseError>,
        open: Box<Opener>,
        shown: String,
        cluster: &str,
        may_make: bool,
    ) -> Result<Self, StoreError> {
        let database = first.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(shown.clone()),
            error => StoreError::Database(format!("{shown}: {error}")),
        })?;
        let database = RwLock::new(Some(database));
        let store = Self {
            open,
            database,
            faults: AtomicU64::new(0),
        };
        store.write(|transaction| {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let mut texts = transaction.open_table(TEXTS)?;
            let format = numbers.get(FORMAT)?.map(|value| value.value());
            let theirs = texts.get(CLUSTER)?.map(|value| value.value().to_owned());
            match (format, theirs) {
                (None, None) if !may_make => Ok(Err(StoreError::Missing(shown))),
                (None, None) => {
                    numbers.insert(FORMAT, FORMAT_VERSION)?;
                    texts.insert(CLUSTER, cluster)?;
                    transaction.open_table(NODES)?;
                    transaction.open_table(TOKENS)?;
                    transaction.open_table(REMOVED_KEYS)?;
                    transaction.open_table(MODULES)?;
                    transaction.open_table(MODULE_NAMES)?;
                    transaction.open_table(MODULE_DEPLOYS)?;
                    Ok(Ok(()))
                }
                (Some(FORMAT_VERSION), Some(theirs)) if theirs == cluster => {
                    // An earlier version did not make it.
                    transaction.open_table(MODULE_DEPLOYS)?;
                    Ok(Ok(()))
                }
                (Some(FORMAT_VERSION), theirs) => Ok(Err(StoreError::OtherCluster {
                    path: shown,
                    theirs: theirs.unwrap_or_default(),
                    ours: cluster.to_owned(),
                })),
                (theirs, _) => Ok(Err(StoreError::OtherFormat {
                    path: shown,
                    theirs: theirs.unwrap_or_default(),
                })),
            }
        })??;
        Ok(store)
    }

    /// All nodes, and the revision they are of.
    pub(crate) fn nodes(&self) -> Result<(u64, Vec<NodeRecord>), StoreError> {
        self.read(|transaction| {
            let revision = transaction.open_table(NUMBERS)?.get(REVISION)?;
            let revision = revision.map_or(0, |value| value.value());
            let nodes = transaction.open_table(NODES)?;
            let nodes = nodes
                .iter()?
                .map(|entry| decode(entry?.1.value()))
                .collect::<Result<Vec<NodeRecord>, redb::Error>>()?;
            Ok((revision, nodes))
        })
    }

    /// Keeps a token's hash, and forgets expired ones. False if there are too many.
    pub(crate) fn add_token(
        &self,
        hash: blake3::Hash,
        uses: u32,
        expires_s: i64,
        now_s: i64,
    ) -> Result<bool, StoreError> {
        let added = self.write(|transaction| {
            let mut tokens = transaction.open_table(TOKENS)?;
            tokens.retain(|_, bytes| {
                decode::<TokenRecord>(bytes).is_ok_and(|token| token.expires_s > now_s)
            })?;
            if redb::ReadableTableMetadata::len(&tokens)? >= TOKENS_MAX {
                return Ok(Err(()));
            }
            let record = TokenRecord {
                hash: *hash.as_bytes(),
                expires_s,
                uses,
            };
            tokens.insert(token_key(&hash), encode(&record).as_slice())?;
            Ok(Ok(()))
        })?;
        Ok(added.is_ok())
    }

    /// Whether the token would let somebody in. Takes no use.
    pub(crate) fn is_token_good(&self, hash: blake3::Hash, now_s: i64) -> Result<bool, StoreError> {
        self.read(|transaction| {
            let tokens = transaction.open_table(TOKENS)?;
            let token = tokens.get(token_key(&hash))?;
            let token: Option<TokenRecord> =
                token.map(|bytes| decode(bytes.value())).transpose()?;
            Ok(token.is_some_and(|token| matches_token(&token, &hash, now_s)))
        })
    }

    /// Takes a use of the token, gives out the next node id, and keeps the node: all or nothing.
    ///
    /// Returns the node and the revision it made; the replaced ones made those just before it.
    pub(crate) fn admit(
        &self,
        mut admission: Admission<'_>,
    ) -> Result<Result<(NodeRecord, u64), Refused>, StoreError> {
        self.write(|transaction| {
            if let Some(hash) = admission.token
                && !take_token_use(transaction, hash, admission.now_s)?
            {
                return Ok(Err(Refused::Token));
            }
            let mut numbers = transaction.open_table(NUMBERS)?;
            let last = numbers.get(LAST_NODE)?.map_or(0, |value| value.value());
            let id = NodeId(last + 1);
            if id > NodeId::MAX {
                return Ok(Err(Refused::Exhausted));
            }
            numbers.insert(LAST_NODE, id.0)?;
            let before = numbers.get(REVISION)?.map_or(0, |value| value.value());
            let revision = before + admission.replaced.len() as u64 + 1;
            numbers.insert(REVISION, revision)?;

            let mut nodes = transaction.open_table(NODES)?;
            for record in admission.replaced {
                nodes.insert(number(record), encode(record).as_slice())?;
            }
            admission.node.info.id = id.to_string();
            nodes.insert(id.0, encode(&admission.node).as_slice())?;
            Ok(Ok((admission.node.clone(), revision)))
        })
    }

    /// Whether `id`, which is not in these books and which the authority has handed out, is of books
    /// that are lost: these are a backup older than the node. From then on no id up to it is handed out.
    pub(crate) fn is_of_lost_books(&self, id: NodeId) -> Result<bool, StoreError> {
        let (last, above, up_to) = self.read(|transaction| {
            let numbers = transaction.open_table(NUMBERS)?;
            let last = numbers.get(LAST_NODE)?.map_or(0, |value| value.value());
            let above = numbers.get(LOST_ABOVE)?.map(|value| value.value());
            let up_to = numbers.get(LOST_UP_TO)?.map_or(0, |value| value.value());
            Ok((last, above, up_to))
        })?;
        if id.0 <= last {
            return Ok(above.is_some_and(|above| id.0 > above) && id.0 <= up_to);
        }
        let done = self.write(|transaction| {
            let mut numbers = transaction.open_table(NUMBERS)?;
            numbers.insert(LAST_NODE, id.0)?;
            numbers.insert(LOST_ABOVE, above.unwrap_or(last).min(last))?;
            numbers.insert(LOST_UP_TO, id.0)?;
            Ok(Ok::<_, std::convert::Infallible>(()))
        })?;
        done.unwrap_or_else(|never| match never {});
        Ok(true)
    }

    /// Keeps changed nodes; each makes one revision. Returns the last of them.
    pub(crate) fn update(&self, records: &[NodeRecord]) -> Result<u64, StoreError> {
        let revision = self.write(|transaction| {
            Ok(Ok::<_, std::convert::Infallible>(put_nodes(
                transaction,
                records,
            )?))
        })?;
        Ok(revision.unwrap_or_else(|never| match never {}))
    }

    /// Forgets nodes that are long gone. Their ids stay used.
    pub(crate) fn forget(&self, ids: &[NodeId]) -> Result<(), StoreError> {
        let done = self.write(|transaction| {
            let mut nodes = transaction.open_table(NODES)?;
            for id in ids {
                nodes.remove(id.0)?;
            }
            Ok(Ok::<_, std::convert::Infallible>(()))
        })?;
        done.unwrap_or_else(|never| match never {});
        Ok(())
    }

    /// Keeps changed nodes, as [`Store::update`], and the verdict that their key is never to be let in
    /// again: all of it, or nothing.
    pub(crate) fn remove_key(
        &self,
        key: &[u8; 32],
        records: &[NodeRecord],
        now_s: i64,
    ) -> Result<u64, StoreError> {
        let revision = self.write(|transaction| {
            let since = now_s.max(0).unsigned_abs();
            transaction
                .open_table(REMOVED_KEYS)?
                .insert(key.as_slice(), since)?;
            Ok(Ok::<_, std::convert::Infallible>(put_nodes(
                transaction,
                records,
            )?))
        })?;
        Ok(revision.unwrap_or_else(|never| match never {}))
    }

    /// The keys that operators have removed.
    pub(crate) fn removed_keys(&self) -> Result<BTreeSet<[u8; 32]>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(REMOVED_KEYS)?;
            let mut keys = BTreeSet::new();
            for entry in table.iter()? {
                let (key, _) = entry?;
                let key = key.value().try_into();
                let short = |_| redb::Error::Corrupted("a key of another length".to_owned());
                keys.insert(key.map_err(short)?);
            }
            Ok(keys)
        })
    }

    /// Keeps what is known of a module whose bytes are on disk already. The names that come with it stand for it
    /// from now on, and for no other; all that do come back.
    ///
    /// With `after` a name is left alone that was not deployed under so often, unless it stands for this module
    /// anyway: what asks was held up on its way, or is sent again.
    pub(crate) fn put_module(
        &self,
        hash: ModuleHash,
        mut info: ModuleInfo,
        after: Option<u64>,
    ) -> Result<PutModule, StoreError> {
        let put = self.write(|transaction| {
            let mut modules = transaction.open_table(MODULES)?;
            let known = modules.get(hash.module_id())?;
            let known: Option<ModuleInfo> = known.map(|bytes| decode(bytes.value())).transpose()?;
            let mut deployed_before = None;
            if let Some(known) = known {
                if known.hash != info.hash {
                    return Ok(Err(known.hash));
                }
                info.added_at = known.added_at;
                info.deployed_at = info.deployed_at.or(known.deployed_at);
                deployed_before = known.deployed_at;
            }
            let mut names = transaction.open_table(MODULE_NAMES)?;
            let mut deploys = transaction.open_table(MODULE_DEPLOYS)?;
            let mut late = None;
            for name in std::mem::take(&mut info.names) {
                let count = deploys.get(name.as_str())?;
                let count = count.map_or(0, |count| count.value());
                if after.is_none_or(|after| after == count) {
                    names.insert(name.as_str(), hash.0.as_slice())?;
                    deploys.insert(name.as_str(), count + 1)?;
                    continue;
                }
                let stands_for = names.get(name.as_str())?;
                if stands_for.is_none_or(|other| other.value() != hash.0.as_slice()) {
                    info.deployed_at = deployed_before;
                    late = Some(name);
                }
            }
            // Without them: what a name stands for is in one place.
            modules.insert(hash.module_id(), encode(&info).as_slice())?;
            info.names = names_by_hash(&names)?
                .remove(&info.hash)
                .unwrap_or_default();
            Ok(Ok(match late {
                Some(name) => PutModule::Late(name),
                None => PutModule::Stored(info),
            }))
        })?;
        Ok(put.unwrap_or_else(PutModule::Clash))
    }

    /// How often `name` was made to stand for a module, since that is counted.
    pub(crate) fn deploys(&self, name: &str) -> Result<u64, StoreError> {
        self.read(|transaction| {
            let deploys = transaction.open_table(MODULE_DEPLOYS)?;
            Ok(deploys.get(name)?.map_or(0, |count| count.value()))
        })
    }

    /// What is known of the module with this hash, but for its names.
    pub(crate) fn module(&self, hash: ModuleHash) -> Result<Option<ModuleInfo>, StoreError> {
        self.read(|transaction| {
            let modules = transaction.open_table(MODULES)?;
            let info = modules.get(hash.module_id())?;
            let info: Option<ModuleInfo> = info.map(|bytes| decode(bytes.value())).transpose()?;
            Ok(info.filter(|info| info.hash == hash.to_string()))
        })
    }

    /// The hash of the module last deployed under `name`.
    pub(crate) fn module_named(&self, name: &str) -> Result<Option<ModuleHash>, StoreError> {
        self.read(|transaction| {
            let names = transaction.open_table(MODULE_NAMES)?;
            let hash = names.get(name)?;
            Ok(hash
                .and_then(|bytes| bytes.value().try_into().ok())
                .map(ModuleHash))
        })
    }

    /// All modules.
    pub(crate) fn modules(&self) -> Result<Vec<ModuleInfo>, StoreError> {
        self.read(|transaction| {
            let mut names = names_by_hash(&transaction.open_table(MODULE_NAMES)?)?;
            let modules = transaction.open_table(MODULES)?;
            let mut all = Vec::new();
            for entry in modules.iter()? {
                let mut info: ModuleInfo = decode(entry?.1.value())?;
                info.names = names.remove(&info.hash).unwrap_or_default();
                all.push(info);
            }
            Ok(all)
        })
    }

    /// How often the disk failed. After a failure it is open whether the last transaction is there
    /// after all, so whoever holds a copy in memory must read it again.
    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Acquire)
    }

    fn read<T>(
        &self,
        f: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.with(|database| f(&database.begin_read()?))
    }

    /// Runs one transaction: committed if `f` gives `Ok(Ok(…))`, undone otherwise.
    fn write<T, E>(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<Result<T, E>, redb::Error>,
    ) -> Result<Result<T, E>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let result = f(&transaction)?;
            if result.is_ok() {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok(result)
        })
    }

    fn with<T>(
        &self,
        f: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let result = {
            let mut guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if guard.is_none() {
                drop(guard);
                self.reopen()?;
                guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
            }
            let database = guard.as_ref();
            let database = database.ok_or(StoreError::Database("its disk failed".to_owned()))?;
            f(database)
        };
        if let Err(redb::Error::Io(_) | redb::Error::PreviousIo) = &result {
            // The count first: whoever finds the file closed must find the count changed.
            self.faults.fetch_add(1, Ordering::AcqRel);
            *self
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(result?)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut guard = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            let opened = (self.open)();
            *guard = Some(opened.map_err(|error| StoreError::Database(error.to_string()))?);
            tracing::warn!("the store was opened again after its disk had failed");
        }
        Ok(())
    }
}

/// Writes changed nodes; each makes one revision. Returns the last of them.
fn put_nodes(transaction: &WriteTransaction, records: &[NodeRecord]) -> Result<u64, redb::Error> {
    let mut numbers = transaction.open_table(NUMBERS)?;
    let before = numbers.get(REVISION)?.map_or(0, |value| value.value());
    let revision = before + records.len() as u64;
    numbers.insert(REVISION, revision)?;
    let mut nodes = transaction.open_table(NODES)?;
    for record in records {
        nodes.insert(number(record), encode(record).as_slice())?;
    }
    Ok(revision)
}

/// Which names stand for the module with a hash, in order.
fn names_by_hash(
    names: &impl redb::ReadableTable<&'static str, &'static [u8]>,
) -> Result<BTreeMap<String, Vec<String>>, redb::Error> {
    let mut by_hash = BTreeMap::<_, Vec<String>>::new();
    for entry in names.iter()? {
        let (name, hash) = entry?;
        if let Ok(hash) = <[u8; 32]>::try_from(hash.value()) {
            let named = by_hash.entry(ModuleHash(hash).to_string()).or_default();
            named.push(name.value().to_owned());
        }
    }
    Ok(by_hash)
}

fn take_token_use(
    transaction: &WriteTransaction,
    hash: blake3::Hash,
    now_s: i64,
) -> Result<bool, redb::Error> {
    let mut tokens = transaction.open_table(TOKENS)?;
    let token = tokens.get(token_key(&hash))?;
    let token: Option<TokenRecord> = token.map(|bytes| decode(bytes.value())).transpose()?;
    let Some(mut token) = token.filter(|token| matches_token(token, &hash, now_s)) else {
        return Ok(false);
    };
    token.uses -= 1;
    if token.uses == 0 {
        tokens.remove(token_key(&hash))?;
    } else {
        tokens.insert(token_key(&hash), encode(&token).as_slice())?;
    }
    Ok(true)
}

/// Found by eight bytes of the hash, which tell nothing about the secret; believed only if all bytes
/// agree, compared in constant time (`blake3::Hash` does).
fn matches_token(token: &TokenRecord, hash: &blake3::Hash, now_s: i64) -> bool {
    let same = blake3::Hash::from_bytes(token.hash) == *hash;
    same & (token.expires_s > now_s) & (token.uses > 0)
}

fn token_key(hash: &blake3::Hash) -> u64 {
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

fn number(record: &NodeRecord) -> u64 {
    record.info.id.parse::<NodeId>().expect("ids are ours").0
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types are plain data")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}
