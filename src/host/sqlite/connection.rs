//! One open database: a thread that owns the connection and its statements.
//!
//! SQLite blocks, so it has a thread of its own; the guest's task waits for its answer and suspends only
//! the guest. A connection lives as long as its [`Connection`]: when the process ends, whatever the
//! database is doing is interrupted, and the thread ends.
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

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Batch, OpenFlags, Row, Rows, Statement};
use self_cell::{MutBorrow, self_cell};
use tidelock_proto::Environ;
use tokio::sync::oneshot;

use super::super::directories::Directory;
use super::functions;
use super::stack::{self, STACK_BYTES};
use super::turns::TURNS;
use crate::shares::{Full, Shares};

/// Connections of the default tenant's processes, and of all others together, each of which has a tenth of them at the
/// most. One more is refused.
const CONNECTIONS_MAX: usize = 512;
/// Prepared statements of one connection.
const STATEMENTS_MAX: usize = 1024;
/// Bytes of one text or blob, and of one stored row.
pub(super) const VALUE_BYTES_MAX: i32 = 16 << 20;
/// Bytes of one row of a result, with the size of a [`Value`] for each column.
const ROW_BYTES_MAX: usize = 64 << 20;
/// The same of the rows that all statements of one process are at. More is `SQLITE_NOMEM`.
const PROCESS_ROWS_BYTES_MAX: usize = 64 << 20;
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
const NICENESS: i32 = 5;
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

/// A statement that does nothing and has no columns, since its pragma is ignored.
const NOTHING: &str = "PRAGMA threads";

/// Pragmas without effect here: what they would set is the node's business.
const PRAGMAS_IGNORED: &[&str] = &["mmap_size", "temp_store", "threads"];

/// What SQLite says of a statement that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// SQLite's result code, without the extension.
    pub(super) code: u32,
    pub(super) text: String,
}

pub(super) type Answer<T> = Result<T, Fault>;

/// Where a value is bound.
#[derive(Debug)]
pub(super) enum Place {
    Number(usize),
    Name(String),
}

/// A handle on a database. Dropping it ends what the database is doing and closes it.
pub(super) struct Connection {
    commands: mpsc::Sender<Command>,
    ended: Arc<AtomicBool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

enum Command {
    Execute(String, oneshot::Sender<Answer<()>>),
    Prepare(u64, String, oneshot::Sender<Answer<Vec<String>>>),
    Bind(u64, Vec<(Place, Value)>, oneshot::Sender<Answer<()>>),
    Step(u64, oneshot::Sender<Answer<Option<Kept>>>),
    Reset(u64, oneshot::Sender<()>),
    Drop(u64, oneshot::Sender<()>),
    Changes(oneshot::Sender<u64>),
}

impl Connection {
    /// Opens the database at a path, below a directory, for a tenant; without a path one in memory. The rows of its statements are
    /// counted in `rows`, with those of the process's other databases.
    ///
    /// # Errors
    ///
    /// A text that says whose move it is. Nothing was opened.
    pub(super) async fn open(
        file: Option<(PathBuf, Directory)>,
        environ: Environ,
        rows: Arc<AtomicUsize>,
    ) -> Result<Self, String> {
        let slot = Slot::take(environ)?;
        let (commands, inbox) = mpsc::channel();
        let (tell, opened) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let watched = ended.clone();
        let started = thread::Builder::new()
            .name("tidelock-sqlite".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _slot = slot;
                stack::watch();
                step_back();
                match open(file, &watched) {
                    Ok(connection) => {
                        // Whoever asked may be gone; then the channel is closed, too.
                        let _: Result<(), _> = tell.send(Ok(()));
                        serve(&connection, &inbox, &rows);
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        started.map_err(|error| format!("no thread for the database: {error}"))?;
        let connection = Self { commands, ended };
        match opened.await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("the database could not be opened".to_owned()),
        }
    }

    /// Runs all statements of `sql`; rows are dropped.
    pub(super) async fn execute(&self, sql: String) -> Answer<()> {
        self.ask(|tell| Command::Execute(sql, tell)).await?
    }

    /// Prepares the first statement of `sql` under an id of the caller's; one that does nothing if there is none.
    /// Returns the names of its columns.
    pub(super) async fn prepare(&self, id: u64, sql: String) -> Answer<Vec<String>> {
        self.ask(|tell| Command::Prepare(id, sql, tell)).await?
    }

    /// Binds values to a statement that is not under way.
    pub(super) async fn bind(&self, id: u64, values: Vec<(Place, Value)>) -> Answer<()> {
        self.ask(|tell| Command::Bind(id, values, tell)).await?
    }

    /// Goes on to the next row; None: there is none, and the statement starts anew with the next step.
    pub(super) async fn step(&self, id: u64) -> Answer<Option<Kept>> {
        self.ask(|tell| Command::Step(id, tell)).await?
    }

    /// Lets a statement start anew. What is bound stays.
    pub(super) async fn reset(&self, id: u64) -> Answer<()> {
        self.ask(|tell| Command::Reset(id, tell)).await
    }

    /// Forgets a statement.
    pub(super) async fn finalize(&self, id: u64) -> Answer<()> {
        self.ask(|tell| Command::Drop(id, tell)).await
    }

    /// Rows changed by the last statement that changed any.
    pub(super) async fn changes(&self) -> Answer<u64> {
        self.ask(Command::Changes).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Answer<T> {
        let (tell, answer) = oneshot::channel();
        let gone = |()| Fault {
            code: rusqlite::ffi::SQLITE_INTERNAL.cast_unsigned(),
            text: "the database's thread has ended".to_owned(),
        };
        self.commands.send(command(tell)).map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))
    }
}

/// One of the connections that a tenant may have.
#[derive(Debug)]
struct Slot(Environ);

static CONNECTIONS: Mutex<Shares> = Mutex::new(Shares::new(CONNECTIONS_MAX));

impl Slot {
    fn take(environ: Environ) -> Result<Self, String> {
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

/// A row that a statement is at.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) values: Vec<Value>,
    _room: Room,
}

/// Room for a row, until it is dropped.
#[derive(Debug)]
struct Room {
    bytes: usize,
    /// Bytes of all rows of its process.
    rows: Arc<AtomicUsize>,
}

/// Bytes of all rows of this program.
static ROWS: AtomicUsize = AtomicUsize::new(0);

impl Room {
    fn new(rows: &Arc<AtomicUsize>) -> Self {
        Self {
            bytes: 0,
            rows: rows.clone(),
        }
    }

    /// Takes so many bytes more, or none and says why.
    fn grow(&mut self, bytes: usize) -> Answer<()> {
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

// ---- on the connection's thread ------------------------------------------------------------------------

/// Lets threads that run processes go first. Where the system has no priorities of threads, this one has that of all.
fn step_back() {
    // Where it is not allowed, it computes at the priority it has.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICENESS);
}

fn open(
    file: Option<(PathBuf, Directory)>,
    ended: &Arc<AtomicBool>,
) -> Result<rusqlite::Connection, String> {
    stack::install()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let opened = match &file {
        None => rusqlite::Connection::open_in_memory_with_flags(flags),
        Some((path, dir)) => {
            confine(dir)?;
            rusqlite::Connection::open_with_flags_and_vfs(path, flags, c"unix-excl")
        }
    };
    let ready = opened.and_then(|mut connection| {
        restrict(&mut connection, ended)?;
        Ok(connection)
    });
    ready.map_err(|error| fault(&error).text)
}

/// From here on, this thread opens nothing outside of `dir`. Without Landlock in the kernel the checks of
/// the path are all there is.
#[cfg(target_os = "linux")]
fn confine(dir: &Directory) -> Result<(), String> {
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
fn confine(_dir: &Directory) -> Result<(), String> {
    Ok(())
}

fn restrict(
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

type RowsOf<'a> = Rows<'a>;

self_cell!(
    /// A statement with the place it has come to.
    struct UnderWay<'conn> {
        owner: MutBorrow<Statement<'conn>>,
        #[covariant]
        dependent: RowsOf,
    }
);

enum Prepared<'conn> {
    Idle(Statement<'conn>),
    UnderWay(UnderWay<'conn>),
}

impl<'conn> Prepared<'conn> {
    fn into_idle(self) -> Statement<'conn> {
        match self {
            Self::Idle(statement) => statement,
            // Dropping the rows resets the statement.
            Self::UnderWay(under_way) => under_way.into_owner().into_inner(),
        }
    }

    fn into_under_way(self) -> UnderWay<'conn> {
        match self {
            Self::Idle(statement) => UnderWay::new(MutBorrow::new(statement), |statement| {
                statement.borrow_mut().raw_query()
            }),
            Self::UnderWay(under_way) => under_way,
        }
    }
}

/// Answers until the handle is dropped. Whoever asked may be gone at any time; then nobody reads the answer.
fn serve(
    connection: &rusqlite::Connection,
    inbox: &mpsc::Receiver<Command>,
    rows: &Arc<AtomicUsize>,
) {
    let mut statements: HashMap<u64, Prepared<'_>> = HashMap::new();
    while let Ok(command) = inbox.recv() {
        match command {
            Command::Execute(sql, tell) => {
                let _turn = TURNS.take();
                drop(tell.send(execute(connection, &sql)));
            }
            Command::Prepare(id, sql, tell) => {
                let _turn = TURNS.take();
                drop(tell.send(prepare(connection, &mut statements, id, &sql)));
            }
            Command::Step(id, tell) => {
                let _turn = TURNS.take();
                drop(tell.send(step(&mut statements, id, rows)));
            }
            // These compute next to nothing.
            Command::Bind(id, values, tell) => drop(tell.send(bind(&mut statements, id, values))),
            Command::Reset(id, tell) => {
                if let Some(statement) = statements.remove(&id) {
                    statements.insert(id, Prepared::Idle(statement.into_idle()));
                }
                let _: Result<(), ()> = tell.send(());
            }
            Command::Drop(id, tell) => {
                statements.remove(&id);
                let _: Result<(), ()> = tell.send(());
            }
            Command::Changes(tell) => drop(tell.send(connection.changes())),
        }
        stack::give_back();
    }
}

fn execute(connection: &rusqlite::Connection, sql: &str) -> Answer<()> {
    let run = || -> rusqlite::Result<()> {
        let mut batch = Batch::new(connection, sql);
        while let Some(mut statement) = batch.next()? {
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
        }
        Ok(())
    };
    run().map_err(|error| fault(&error))
}

fn prepare<'conn>(
    connection: &'conn rusqlite::Connection,
    statements: &mut HashMap<u64, Prepared<'conn>>,
    id: u64,
    sql: &str,
) -> Answer<Vec<String>> {
    if statements.len() >= STATEMENTS_MAX {
        return Err(misuse(format!("more than {STATEMENTS_MAX} statements")));
    }
    // `Connection::prepare` calls itself for each further statement, to see that there is none.
    let first = Batch::new(connection, sql).next();
    let statement = match first.map_err(|error| fault(&error))? {
        Some(statement) => statement,
        None => connection.prepare(NOTHING).map_err(|error| fault(&error))?,
    };
    let names = statement.column_names();
    let names = names.into_iter().map(str::to_owned).collect();
    statements.insert(id, Prepared::Idle(statement));
    Ok(names)
}

fn bind(
    statements: &mut HashMap<u64, Prepared<'_>>,
    id: u64,
    values: Vec<(Place, Value)>,
) -> Answer<()> {
    let Some(Prepared::Idle(statement)) = statements.get_mut(&id) else {
        return Err(misuse(
            "the statement is under way; reset it first".to_owned(),
        ));
    };
    for (place, value) in values {
        let number = match place {
            Place::Number(number) => number,
            Place::Name(name) => number_of(statement, &name)?,
        };
        let bound = statement.raw_bind_parameter(number, value);
        bound.map_err(|error| fault(&error))?;
    }
    Ok(())
}

/// The number of a parameter, whose name may be given without the sign it has in SQL.
fn number_of(statement: &Statement<'_>, name: &str) -> Answer<usize> {
    for sign in ["", ":", "@", "$"] {
        let found = statement.parameter_index(&format!("{sign}{name}"));
        if let Some(number) = found.map_err(|error| fault(&error))? {
            return Ok(number);
        }
    }
    Err(misuse(format!("no parameter is called {name:?}")))
}

fn step(
    statements: &mut HashMap<u64, Prepared<'_>>,
    id: u64,
    kept: &Arc<AtomicUsize>,
) -> Answer<Option<Kept>> {
    let Some(statement) = statements.remove(&id) else {
        return Err(misuse("no such statement".to_owned()));
    };
    let mut under_way = statement.into_under_way();
    let row = under_way.with_dependent_mut(|_, rows| match rows.next() {
        Ok(row) => row.map(|row| keep(row, kept)).transpose(),
        Err(error) => Err(fault(&error)),
    });
    let next = if matches!(row, Ok(Some(_))) {
        Prepared::UnderWay(under_way)
    } else {
        Prepared::Idle(Prepared::UnderWay(under_way).into_idle())
    };
    statements.insert(id, next);
    row
}

/// Copies a row, as far as there is room.
fn keep(row: &Row<'_>, rows: &Arc<AtomicUsize>) -> Answer<Kept> {
    let count = row.as_ref().column_count();
    let mut room = Room::new(rows);
    room.grow(count * size_of::<Value>())?;
    let mut values = Vec::with_capacity(count);
    for column in 0..count {
        let value = row.get_ref(column).map_err(|error| fault(&error))?;
        values.push(match value {
            ValueRef::Text(text) => {
                // SQLite does not promise that its text is UTF-8.
                let text = String::from_utf8_lossy(text);
                room.grow(text.len())?;
                Value::Text(text.into_owned())
            }
            ValueRef::Blob(bytes) => {
                room.grow(bytes.len())?;
                Value::Blob(bytes.to_vec())
            }
            other => other
                .try_into()
                .map_err(|error: rusqlite::types::FromSqlError| misuse(error.to_string()))?,
        });
    }
    Ok(Kept {
        values,
        _room: room,
    })
}

fn fault(error: &rusqlite::Error) -> Fault {
    let code = match error {
        rusqlite::Error::SqliteFailure(cause, _)
        | rusqlite::Error::SqlInputError { error: cause, .. } => cause.extended_code & 0xff,
        _ => rusqlite::ffi::SQLITE_MISUSE,
    };
    let text = match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    };
    Fault {
        code: code.cast_unsigned(),
        text: tidelock_proto::bounded(text),
    }
}

fn misuse(text: String) -> Fault {
    Fault {
        code: rusqlite::ffi::SQLITE_MISUSE.cast_unsigned(),
        text: tidelock_proto::bounded(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: &str =
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";

    async fn in_memory() -> Connection {
        Connection::open(None, Environ::default(), Arc::default())
            .await
            .unwrap()
    }

    /// Waits until a connection's thread, which holds clones of this, has ended.
    async fn thread_ends(ended: Arc<AtomicBool>) {
        while Arc::strong_count(&ended) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await; // between two looks
        }
    }

    #[tokio::test]
    async fn a_dropped_connection_leaves_no_thread_behind_whatever_it_does() {
        // Computing, and asked to compute after it was dropped.
        for wait in [true, false] {
            let connection = in_memory().await;
            let ended = connection.ended.clone();
            if wait {
                let endless = connection.execute(ENDLESS.to_owned());
                let short = Duration::from_millis(50);
                assert!(tokio::time::timeout(short, endless).await.is_err());
            } else {
                let mut endless = Box::pin(connection.execute(ENDLESS.to_owned()));
                assert!(futures_util::poll!(&mut endless).is_pending());
            }
            drop(connection);
            thread_ends(ended).await;
        }
    }

    /// No guest can bring that about; should one of SQLite's own faults, nobody waits for its answer.
    #[tokio::test]
    async fn whoever_asks_a_thread_that_has_ended_is_told() {
        let (commands, inbox) = mpsc::channel();
        let ended = Arc::default();
        let connection = Connection { commands, ended };
        let told = |fault: Fault| {
            assert_eq!(fault.code, rusqlite::ffi::SQLITE_INTERNAL.cast_unsigned());
            assert_eq!(fault.text, "the database's thread has ended");
        };
        // In the middle of a statement, and before the next one.
        let asked = connection.reset(0);
        let falls = async { drop(inbox) };
        let (answer, ()) = futures_util::join!(asked, falls);
        told(answer.unwrap_err());
        told(connection.reset(0).await.unwrap_err());
        told(connection.finalize(0).await.unwrap_err());
        told(connection.changes().await.unwrap_err());
        told(connection.step(0).await.unwrap_err());
        told(connection.bind(0, Vec::new()).await.unwrap_err());
        told(connection.execute(String::new()).await.unwrap_err());
        told(connection.prepare(0, String::new()).await.unwrap_err());
    }

    #[tokio::test]
    async fn what_does_not_fit_into_memory_ends_the_statement() {
        let connection = in_memory().await;
        let fill = "CREATE TABLE t (a); WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1
            FROM n LIMIT 100) INSERT INTO t SELECT zeroblob(10000000) FROM n";
        let fault = connection.execute(fill.to_owned()).await.unwrap_err();
        assert_eq!(fault.code, rusqlite::ffi::SQLITE_NOMEM.cast_unsigned());
        let sql = "SELECT count(*) FROM t".to_owned();
        assert_eq!(connection.prepare(0, sql).await.unwrap(), ["count(*)"]);
        let row = connection.step(0).await.unwrap().unwrap();
        assert_eq!(row.values, [Value::Integer(0)]);
    }

    /// What `functions.rs` shows of them is so in every database; they stand wherever SQLite's own may.
    #[tokio::test]
    async fn no_call_of_a_function_takes_hours() {
        let connection = in_memory().await;
        let schema = "CREATE TABLE t (a CHECK (instr(a, 'b') > 0), b AS (printf('%s', trim(a))));
            CREATE INDEX i ON t (rtrim(a), json_patch(a, '{}'));
            CREATE VIEW v AS SELECT replace(a, 'b', 'c') || b AS c FROM t WHERE ltrim(a) <> '';
            INSERT INTO t VALUES ('\"ab\" ')";
        connection.execute(schema.to_owned()).await.unwrap();
        let ask = async |id: u64, sql: &str| {
            connection.prepare(id, sql.to_owned()).await.unwrap();
            connection.step(id).await.map(|row| row.unwrap().values)
        };
        let view = ask(0, "SELECT c FROM v").await.unwrap();
        assert_eq!(view, [Value::Text("\"ac\" \"ab\"".to_owned())]);
        let long = "instr(hex(zeroblob(8000000)), hex(zeroblob(4000000)) || '1')";
        let place = ask(1, &format!("SELECT {long}")).await.unwrap();
        assert_eq!(place, [Value::Integer(0)]);
        let large = "SELECT replace(hex(zeroblob(8000000)), '00', '000')";
        let fault = ask(2, large).await.unwrap_err();
        assert_eq!(fault.code, rusqlite::ffi::SQLITE_TOOBIG.cast_unsigned());
        let format = "SELECT printf(hex(zeroblob(10000)))";
        let fault = ask(3, format).await.unwrap_err();
        assert_eq!(fault.code, rusqlite::ffi::SQLITE_ERROR.cast_unsigned());
        assert!(fault.text.contains("a format has at most"), "{fault:?}");
        // What is compiled within such a statement has SQLite's own functions.
        let schema =
            format!("CREATE TABLE u (a, g AS (nullif({long}, 1))); INSERT INTO u VALUES (1)");
        connection.execute(schema).await.unwrap();
        for (id, sql) in (4..).zip([
            format!("ALTER TABLE u ADD CHECK ({long} = 0)"),
            format!("ALTER TABLE u ADD CONSTRAINT c CHECK ({long} = 0)"),
            "ALTER TABLE u ALTER g SET NOT NULL".to_owned(),
        ]) {
            let fault = connection.prepare(id, sql).await.unwrap_err();
            assert!(fault.text.contains("sqlite_fail"), "{fault:?}");
        }
    }

    /// What one text can say of each kind of depth. Unions within queries within queries are not among it.
    #[tokio::test]
    async fn no_text_of_sql_goes_too_deep_for_a_stack() {
        let connection = in_memory().await;
        let many = "END;".repeat(SQL_BYTES_MAX as usize / 4);
        assert_eq!(connection.prepare(0, many).await.unwrap(), [""; 0]);
        let repeated = |text| format!("replace(hex(zeroblob(25000)), '00', '{text}')");
        let like = format!("SELECT {} LIKE {}", repeated("a"), repeated("%a"));
        connection.prepare(1, like).await.unwrap();
        let fault = connection.step(1).await.unwrap_err();
        assert!(fault.text.contains("pattern too complex"), "{fault:?}");
        let union = ["SELECT 1"; 501].join(" UNION ");
        let fault = connection.prepare(2, union).await.unwrap_err();
        assert!(fault.text.contains("too many terms"), "{fault:?}");
        let short = "SELECT 'abc' LIKE '%a%c'".to_owned();
        connection.prepare(3, short).await.unwrap();
        let row = connection.step(3).await.unwrap().unwrap();
        assert_eq!(row.values, [Value::Integer(1)]);
    }

    /// Each of `levels` names the one before it, as `text` says; the numbers of both are put in place of `{i}` and `{h}`.
    fn chain(levels: usize, text: &str) -> String {
        (1..levels).fold(String::new(), |all, level| {
            let next = text.replace("{i}", &level.to_string());
            all + &next.replace("{h}", &(level - 1).to_string()) + ";"
        })
    }

    /// Prepares a statement that goes too deep; then the database goes on. Returns what the statement was told.
    async fn goes_too_deep(connection: &Connection, what: &str, sql: &str) -> String {
        let prepared = connection.prepare(7, sql.to_owned()).await;
        let fault = prepared.expect_err(what);
        let deep = [rusqlite::ffi::SQLITE_NOMEM, rusqlite::ffi::SQLITE_AUTH];
        let deep = deep.map(std::ffi::c_int::cast_unsigned);
        let known =
            ["too deep", "too large", "Recursion limit"].map(|text| fault.text.contains(text));
        assert!(
            deep.contains(&fault.code) || known.contains(&true),
            "{what}: {fault:?}"
        );
        let names = connection.prepare(8, "SELECT 1".to_owned()).await.unwrap();
        assert_eq!(names, ["1"], "{what}");
        assert!(connection.step(8).await.unwrap().is_some(), "{what}");
        connection.finalize(8).await.unwrap();
        fault.text
    }

    /// In views, in which each kind of depth is as large as it may be by itself. A stack that ends ends this program.
    #[tokio::test]
    async fn no_views_within_views_go_too_deep_for_a_stack() {
        let terms = |count| {
            let first = "CREATE VIEW v{i} AS SELECT a FROM v{h}";
            first.to_owned() + &" UNION ALL SELECT 0".repeat(count)
        };
        let complement = format!(
            "CREATE VIEW v{{i}} AS SELECT {}a AS a FROM v{{h}}",
            "~".repeat(900)
        );
        for (what, levels, text) in [
            ("many terms on each level", 200, terms(450)),
            ("some terms on many levels", 400, terms(12)),
            ("deep columns on many levels", 80, complement),
        ] {
            let connection = in_memory().await;
            connection
                .execute("CREATE VIEW v0 AS SELECT 1 AS a".to_owned())
                .await
                .unwrap();
            // Names of columns are found level by level, and remembered.
            let all = chain(levels, &text);
            let mut rest = all.as_str();
            while !rest.is_empty() {
                let cut = rest.len().min(500_000);
                let cut = rest[cut..]
                    .find(';')
                    .map_or(rest.len(), |end| cut + end + 1);
                let (sql, tail) = rest.split_at(cut);
                connection.execute(sql.to_owned()).await.unwrap();
                rest = tail;
            }
            for level in (0..levels).step_by(500) {
                let sql = format!("PRAGMA table_info(v{level})");
                connection.execute(sql).await.unwrap();
            }
            let last = format!("SELECT a FROM v{}", levels - 1);
            goes_too_deep(&connection, what, &last).await;
        }
    }

    #[tokio::test]
    async fn no_queries_within_a_text_go_too_deep_for_a_stack() {
        let connection = in_memory().await;
        let common = |levels: usize, query: &str| {
            let named = chain(levels, &format!("q{{i}} (a) AS ({query})")).replace(';', ", ");
            let named = named.trim_end_matches(", ");
            format!(
                "WITH q0 (a) AS (SELECT 1), {named} SELECT a FROM q{}",
                levels - 1
            )
        };
        let terms = "SELECT a FROM q{h}".to_owned() + &" UNION ALL SELECT 0".repeat(100);
        goes_too_deep(&connection, "unions", &common(480, &terms)).await;
        let complement = format!("SELECT {}a FROM q{{h}}", "~".repeat(900));
        let deep = common(900, &complement);
        goes_too_deep(&connection, "columns", &deep).await;
        let within = format!("SELECT * FROM {}", "(SELECT * FROM ".repeat(2000));
        goes_too_deep(&connection, "brackets", &within).await;
    }

    /// Nobody asks any more, and the thread that was asked looks at its own stack.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_went_deep_keeps_little_of_its_stack() {
        let asked = || {
            stack::watch();
            let connection = open(None, &Arc::default()).unwrap();
            let (commands, inbox) = mpsc::channel();
            let (tell, mut answer) = oneshot::channel();
            let terms = "SELECT a FROM q{h}".to_owned() + &" UNION ALL SELECT 0".repeat(100);
            let named = chain(480, &format!("q{{i}} (a) AS ({terms})")).replace(';', ", ");
            let named = named.trim_end_matches(", ");
            let deep = format!("WITH q0 (a) AS (SELECT 1), {named} SELECT a FROM q479");
            commands.send(Command::Prepare(0, deep, tell)).unwrap();
            drop(commands);
            serve(&connection, &inbox, &Arc::default());
            assert!(answer.try_recv().unwrap().is_err(), "it is not deep");
            stack::resident_bytes()
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        let resident = thread.spawn(asked).unwrap().join().unwrap();
        assert!(resident <= 256 << 10, "{resident} bytes");
    }

    /// These SQLite bounds by itself.
    #[tokio::test]
    async fn no_tables_that_change_each_other_go_too_deep_for_a_stack() {
        let connection = in_memory().await;
        let fires = "CREATE TABLE t{i} (a); CREATE TRIGGER f{i} AFTER INSERT ON t{i} \
                     BEGIN INSERT INTO t{h} VALUES (1); END";
        let cascade = "CREATE TABLE c{i} (a PRIMARY KEY REFERENCES c{h} ON DELETE CASCADE)";
        let levels = 1500;
        connection
            .execute("CREATE TABLE t0 (a); CREATE TABLE c0 (a PRIMARY KEY)".to_owned())
            .await
            .unwrap();
        connection
            .execute("PRAGMA foreign_keys = 1; BEGIN".to_owned())
            .await
            .unwrap();
        connection.execute(chain(levels, fires)).await.unwrap();
        connection.execute(chain(levels, cascade)).await.unwrap();
        connection.execute("COMMIT".to_owned()).await.unwrap();
        let insert = format!("INSERT INTO t{} VALUES (1)", levels - 1);
        for (what, sql) in [
            ("triggers", insert.as_str()),
            ("cascades", "DELETE FROM c0"),
        ] {
            let text = goes_too_deep(&connection, what, sql).await;
            assert_eq!(text, "triggers nested too deep", "{what}");
        }
    }

    #[tokio::test]
    async fn a_row_is_counted_while_its_statement_is_at_it() {
        let rows: Arc<AtomicUsize> = Arc::default();
        let counted = || rows.load(Ordering::Relaxed);
        let connection = Connection::open(None, Environ::default(), rows.clone())
            .await
            .unwrap();
        let sql = "SELECT x'0001', 'abc' UNION ALL SELECT 1, 2";
        connection.prepare(0, sql.to_owned()).await.unwrap();
        let first = connection.step(0).await.unwrap().unwrap();
        assert_eq!(counted(), 2 * size_of::<Value>() + 5);
        let second = connection.step(0).await.unwrap();
        drop(first);
        assert_eq!(counted(), 2 * size_of::<Value>());
        drop(second);
        assert_eq!(counted(), 0);
        // What a process has no room for, its statement does not come to.
        rows.store(PROCESS_ROWS_BYTES_MAX, Ordering::Relaxed);
        let end = connection.step(0).await.unwrap();
        assert!(end.is_none(), "at its end a statement needs no room");
        let fault = connection.step(0).await.unwrap_err();
        assert_eq!(fault.code, rusqlite::ffi::SQLITE_NOMEM.cast_unsigned());
        rows.store(0, Ordering::Relaxed);
        assert!(connection.step(0).await.unwrap().is_some());
    }

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

    /// As many queries without end as there are turns, and a statement that comes behind them.
    #[tokio::test]
    async fn queries_without_end_hand_their_turns_on() {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut endless = Vec::new();
        for _ in 0..2 * cores {
            let connection = in_memory().await;
            endless.push(Box::pin(async move {
                connection.execute(ENDLESS.to_owned()).await
            }));
        }
        for query in &mut endless {
            assert!(futures_util::poll!(query).is_pending());
        }
        let connection = in_memory().await;
        connection.execute("SELECT 1".to_owned()).await.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_thread_of_a_database_steps_back() {
        let niceness = |of: &std::path::Path| -> Option<i32> {
            let stat = std::fs::read_to_string(of.join("stat")).ok()?;
            // The name may contain anything; the 19th field is the 17th behind it.
            let (_, fields) = stat.rsplit_once(')')?;
            fields.split_whitespace().nth(16)?.parse().ok()
        };
        let _connection = in_memory().await;
        let mine = niceness("/proc/thread-self".as_ref()).unwrap();
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let steps_back = threads.flatten().any(|thread| {
            let name = std::fs::read_to_string(thread.path().join("comm"));
            name.is_ok_and(|name| name.trim_end() == "tidelock-sqlite")
                && niceness(&thread.path()) == Some((mine + NICENESS).min(19))
        });
        assert!(steps_back);
    }

    #[tokio::test]
    async fn a_row_that_is_too_large_is_refused() {
        let connection = in_memory().await;
        let large = format!("SELECT {}", ["zeroblob(16000000)"; 5].join(", "));
        connection.prepare(7, large).await.unwrap();
        let fault = connection.step(7).await.unwrap_err();
        assert_eq!(fault.code, rusqlite::ffi::SQLITE_TOOBIG.cast_unsigned());
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
}
