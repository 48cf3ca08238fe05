//! What bounds and confines a connection: which files and pragmas it reaches, and how much it may take.
//!
//! A guest reaches its own database and nothing else:
//!
//! * the thread may open files below the process's directories only, where the kernel has Landlock; before
//!   that, the path is resolved and must lie there, and no part of it may be a symbolic link;
//! * `ATTACH`, extensions, and pragmas that are not listed here are refused;
//! * files are locked for this program alone (`unix-excl`): the index of a write-ahead log is then kept in
//!   memory of our own, not in a mapped file, which a guest could cut short under the node's feet;
//! * what does not fit into memory ends the statement, not the node;
//! * what SQLite does by recursion is bounded by its limits and by a watched stack (`stack.rs`);
//! * functions of SQL that would take hours in one call are others here, or refuse that (`functions.rs`);
//! * threads of databases step back behind those that run processes, and compute in turns (`turns.rs`).

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use tidelock_proto::Environ;

use super::super::directories::Directory;
use super::connection::{Answer, Fault};
use super::turns::TURNS;
use super::{functions, stack};
use crate::shares::{Full, Shares};

/// Connections of the default tenant's processes, and of all others together, each of which has a tenth of them at the
/// most. One more is refused.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of one text or blob, and of one stored row.
pub(super) const VALUE_BYTES_MAX: i32 = 16 << 20;
/// Bytes of one row of a result, with the size of a [`Value`](rusqlite::types::Value) for each column.
const ROW_BYTES_MAX: usize = 64 << 20;
/// The same of the rows that all statements of one process are at. More is `SQLITE_NOMEM`.
pub(super) const PROCESS_ROWS_BYTES_MAX: usize = 64 << 20;
/// The same of all processes of this program. More is `SQLITE_NOMEM`.
const ROWS_BYTES_MAX: usize = 512 << 20;
/// Bytes of one text of SQL.
pub(super) const SQL_BYTES_MAX: u32 = 1 << 20;
/// Bytes SQLite may use for all connections of this program. More ends the statement that asks.
const HEAP_BYTES_MAX: usize = 256 << 20;
/// Bytes of a pattern of `LIKE` or `GLOB`: a comparison goes one level deeper at each `%`.
const PATTERN_BYTES_MAX: i32 = 1000;
/// How far the thread of a database steps back behind what runs: a third of the weight.
#[cfg(target_os = "linux")]
pub(super) const NICENESS: i32 = 5;
/// Steps of SQLite's machine between two looks at whether the process has ended.
const STEPS: i32 = 1000;
/// Milliseconds a statement waits for a lock, unless the guest asks for others, and at most.
const BUSY_MS: u32 = 5_000;
const BUSY_MS_MAX: u32 = 60_000;
/// Milliseconds between two looks at a lock.
const BUSY_PAUSE_MS: u32 = 5;

/// Pragmas that read or set what belongs to the guest's own database.
const PRAGMAS: &[&str] = &[
    "analysis_limit",
    "application_id",
    "auto_vacuum",
    "automatic_index",
    "cache_size",
    "case_sensitive_like",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "defer_foreign_keys",
    "encoding",
    "foreign_key_check",
    "foreign_key_list",
    "foreign_keys",
    "freelist_count",
    "function_list",
    "ignore_check_constraints",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "journal_mode",
    "journal_size_limit",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "optimize",
    "page_count",
    "page_size",
    "query_only",
    "quick_check",
    "read_uncommitted",
    "recursive_triggers",
    "reverse_unordered_selects",
    "secure_delete",
    "synchronous",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
    "wal_autocheckpoint",
    "wal_checkpoint",
];

/// Pragmas without effect here: what they would set is the node's business.
const PRAGMAS_IGNORED: &[&str] = &["mmap_size", "temp_store", "threads"];

/// One of the connections that a tenant may have.
#[derive(Debug)]
pub(super) struct Slot(Environ);

static CONNECTIONS: Mutex<Shares> = Mutex::new(Shares::new(CONNECTIONS_MAX));

impl Slot {
    pub(super) fn take(environ: Environ) -> Result<Self, String> {
        let taken = Self::all().take(environ, 1);
        taken.map_err(|full| match full {
            Full::Own(max) => format!("{max} databases are open on this node already"),
            Full::Others(_) => {
                "this node has too many databases of tenants open already".to_owned()
            }
        })?;
        Ok(Self(environ))
    }

    fn all() -> MutexGuard<'static, Shares> {
        CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        Self::all().give_back(self.0, 1);
    }
}

/// Room for a row, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    /// Bytes of all rows of its process.
    rows: Arc<AtomicUsize>,
}

/// Bytes of all rows of this program.
static ROWS: AtomicUsize = AtomicUsize::new(0);

impl Room {
    pub(super) fn new(rows: &Arc<AtomicUsize>) -> Self {
        Self {
            bytes: 0,
            rows: rows.clone(),
        }
    }

    /// Takes so many bytes more, or none and says why.
    pub(super) fn grow(&mut self, bytes: usize) -> Answer<()> {
        let fault = |code: std::ffi::c_int, text| Fault {
            code: code.cast_unsigned(),
            text,
        };
        if self.bytes + bytes > ROW_BYTES_MAX {
            let text = format!("a row of more than {ROW_BYTES_MAX} bytes");
            return Err(fault(rusqlite::ffi::SQLITE_TOOBIG, text));
        }
        let take = |count: &AtomicUsize, max: usize| {
            let more = |taken: usize| (taken + bytes <= max).then_some(taken + bytes);
            count
                .try_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .is_ok()
        };
        let full = |whose: &str, max: usize| {
            let text = format!("the rows that all statements of {whose} are at have {max} bytes");
            Err(fault(rusqlite::ffi::SQLITE_NOMEM, text))
        };
        if !take(&self.rows, PROCESS_ROWS_BYTES_MAX) {
            return full("the process", PROCESS_ROWS_BYTES_MAX);
        }
        if !take(&ROWS, ROWS_BYTES_MAX) {
            self.rows.fetch_sub(bytes, Ordering::Relaxed);
            return full("the node", ROWS_BYTES_MAX);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.rows.fetch_sub(self.bytes, Ordering::Relaxed);
        ROWS.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Lets threads that run processes go first. Where the system has no priorities of threads, this one has that of all.
pub(super) fn step_back() {
    // Where it is not allowed, it computes at the priority it has.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICENESS);
}

/// From here on, this thread opens nothing outside of `dir`. Without Landlock in the kernel the checks of
/// the path are all there is.
#[cfg(target_os = "linux")]
pub(super) fn confine(dir: &Directory) -> Result<(), String> {
    use landlock::{
        ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    };
    let all = AccessFs::from_all(ABI::V3);
    let confined = || -> Result<(), Box<dyn std::error::Error>> {
        Ruleset::default()
            .handle_access(all)?
            .create()?
            .add_rule(PathBeneath::new(dir.file(), all))?
            // For the seed of its random numbers.
            .add_rule(PathBeneath::new(
                PathFd::new("/dev/urandom")?,
                AccessFs::ReadFile,
            ))?
            .restrict_self()?;
        Ok(())
    };
    confined().map_err(|error| format!("the database cannot be confined to its directory: {error}"))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn confine(_dir: &Directory) -> Result<(), String> {
    Ok(())
}

pub(super) fn restrict(
    connection: &mut rusqlite::Connection,
    ended: &Arc<AtomicBool>,
) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA hard_heap_limit={HEAP_BYTES_MAX}; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;"
    ))?;
    // Against files made to mislead: no writing behind SQLite's back, no functions called by a schema.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    for (limit, max) in [
        (Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX.cast_signed()),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
        // VACUUM takes it.
        (Limit::SQLITE_LIMIT_ATTACHED, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, max)?;
    }
    functions::install(connection)?;
    let watched = ended.clone();
    connection.progress_handler(
        STEPS,
        Some(move || {
            TURNS.give_way();
            watched.load(Ordering::Relaxed)
        }),
    )?;
    let patience = Arc::new(AtomicU32::new(BUSY_MS));
    let (watched, waits) = (ended.clone(), patience.clone());
    let mut since = Instant::now();
    connection.busy_handler(Some(move |count: i32| {
        if count == 0 {
            since = Instant::now();
        }
        let patience = Duration::from_millis(u64::from(waits.load(Ordering::Relaxed)));
        if watched.load(Ordering::Relaxed) || since.elapsed() >= patience {
            return false;
        }
        TURNS.aside(|| thread::sleep(Duration::from_millis(u64::from(BUSY_PAUSE_MS))));
        true
    }))?;
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        permit(&context.action, &patience)
    }))
}

fn permit(action: &AuthAction<'_>, patience: &AtomicU32) -> Authorization {
    match action {
        // Whoever is refused at the depth cannot go deeper.
        _ if stack::is_deep() => Authorization::Deny,
        // VACUUM attaches a database without a name, which is in memory.
        AuthAction::Attach { filename: "" } => Authorization::Allow,
        AuthAction::Attach { .. } | AuthAction::Unknown { .. } => Authorization::Deny,
        // The second is how SQLite looks for rows that a new constraint forbids, by a statement of its own, which has its own
        // functions, and not those in their place.
        AuthAction::Function { function_name }
            if ["load_extension", "sqlite_fail"]
                .iter()
                .any(|name| function_name.eq_ignore_ascii_case(name)) =>
        {
            Authorization::Deny
        }
        AuthAction::Pragma {
            pragma_name,
            pragma_value,
        } => {
            let name = pragma_name.to_ascii_lowercase();
            if name == "busy_timeout" {
                if let Some(wanted) = pragma_value.and_then(|value| value.parse::<u32>().ok()) {
                    patience.store(wanted.min(BUSY_MS_MAX), Ordering::Relaxed);
                }
                Authorization::Ignore
            } else if PRAGMAS.contains(&name.as_str()) {
                Authorization::Allow
            } else if PRAGMAS_IGNORED.contains(&name.as_str()) {
                Authorization::Ignore
            } else {
                Authorization::Deny
            }
        }
        _ => Authorization::Allow,
    }
}
