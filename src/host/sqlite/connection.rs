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
//! * what does not fit into memory ends the statement, not the node.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Batch, OpenFlags, Row, Rows, Statement};
use self_cell::{MutBorrow, self_cell};
use tokio::sync::oneshot;

/// Connections of this program. One more is refused.
const CONNECTIONS_MAX: usize = 512;
/// Prepared statements of one connection.
const STATEMENTS_MAX: usize = 1024;
/// Bytes of one text or blob, and of one stored row.
const VALUE_BYTES_MAX: i32 = 16 << 20;
/// Bytes of one row of a result.
const ROW_BYTES_MAX: usize = 64 << 20;
/// Bytes of one text of SQL.
pub(super) const SQL_BYTES_MAX: u32 = 1 << 20;
/// Bytes SQLite may use for all connections of this program. More ends the statement that asks.
const HEAP_BYTES_MAX: usize = 256 << 20;
/// Bytes of a thread's stack.
const STACK_BYTES: usize = 1 << 20;
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
    Step(u64, oneshot::Sender<Answer<Option<Vec<Value>>>>),
    Reset(u64, oneshot::Sender<()>),
    Drop(u64, oneshot::Sender<()>),
    Changes(oneshot::Sender<u64>),
}

impl Connection {
    /// Opens the database at `path`, below `dir`; without a path one in memory.
    ///
    /// # Errors
    ///
    /// A text that says whose move it is. Nothing was opened.
    pub(super) async fn open(file: Option<(PathBuf, PathBuf)>) -> Result<Self, String> {
        let slot = Slot::take()?;
        let (commands, inbox) = mpsc::channel();
        let (tell, opened) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let watched = ended.clone();
        let started = thread::Builder::new()
            .name("tidelock-sqlite".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _slot = slot;
                match open(file, &watched) {
                    Ok(connection) => {
                        // Whoever asked may be gone; then the channel is closed, too.
                        let _: Result<(), _> = tell.send(Ok(()));
                        serve(&connection, &inbox);
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

    /// Prepares one statement under an id of the caller's. Returns the names of its columns.
    pub(super) async fn prepare(&self, id: u64, sql: String) -> Answer<Vec<String>> {
        self.ask(|tell| Command::Prepare(id, sql, tell)).await?
    }

    /// Binds values to a statement that is not under way.
    pub(super) async fn bind(&self, id: u64, values: Vec<(Place, Value)>) -> Answer<()> {
        self.ask(|tell| Command::Bind(id, values, tell)).await?
    }

    /// Goes on to the next row; None: there is none, and the statement starts anew with the next step.
    pub(super) async fn step(&self, id: u64) -> Answer<Option<Vec<Value>>> {
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

/// One of the connections this program may have.
struct Slot;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

impl Slot {
    fn take() -> Result<Self, String> {
        let one_more = |count| (count < CONNECTIONS_MAX).then_some(count + 1);
        CONNECTIONS
            .try_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map(|_| Self)
            .map_err(|_| format!("{CONNECTIONS_MAX} databases are open on this node already"))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

// ---- on the connection's thread ------------------------------------------------------------------------

fn open(
    file: Option<(PathBuf, PathBuf)>,
    ended: &Arc<AtomicBool>,
) -> Result<rusqlite::Connection, String> {
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
fn confine(dir: &Path) -> Result<(), String> {
    use landlock::{
        ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    };
    let all = AccessFs::from_all(ABI::V3);
    let confined = || -> Result<(), Box<dyn std::error::Error>> {
        Ruleset::default()
            .handle_access(all)?
            .create()?
            .add_rule(PathBeneath::new(PathFd::new(dir)?, all))?
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
fn confine(_dir: &Path) -> Result<(), String> {
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
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
        // VACUUM takes it.
        (Limit::SQLITE_LIMIT_ATTACHED, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, max)?;
    }
    let watched = ended.clone();
    connection.progress_handler(STEPS, Some(move || watched.load(Ordering::Relaxed)))?;
    let patience = Arc::new(AtomicU32::new(BUSY_MS));
    let (watched, waits) = (ended.clone(), patience.clone());
    connection.busy_handler(Some(move |count: i32| {
        let waited = count.cast_unsigned().saturating_mul(BUSY_PAUSE_MS);
        if watched.load(Ordering::Relaxed) || waited >= waits.load(Ordering::Relaxed) {
            return false;
        }
        thread::sleep(Duration::from_millis(u64::from(BUSY_PAUSE_MS)));
        true
    }))?;
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        permit(&context.action, &patience)
    }))
}

fn permit(action: &AuthAction<'_>, patience: &AtomicU32) -> Authorization {
    match action {
        // VACUUM attaches a database without a name, which is in memory.
        AuthAction::Attach { filename: "" } => Authorization::Allow,
        AuthAction::Attach { .. } | AuthAction::Unknown { .. } => Authorization::Deny,
        AuthAction::Function { function_name }
            if function_name.eq_ignore_ascii_case("load_extension") =>
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
fn serve(connection: &rusqlite::Connection, inbox: &mpsc::Receiver<Command>) {
    let mut statements: HashMap<u64, Prepared<'_>> = HashMap::new();
    while let Ok(command) = inbox.recv() {
        match command {
            Command::Execute(sql, tell) => drop(tell.send(execute(connection, &sql))),
            Command::Prepare(id, sql, tell) => {
                drop(tell.send(prepare(connection, &mut statements, id, &sql)));
            }
            Command::Bind(id, values, tell) => drop(tell.send(bind(&mut statements, id, values))),
            Command::Step(id, tell) => drop(tell.send(step(&mut statements, id))),
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
    let statement = connection.prepare(sql).map_err(|error| fault(&error))?;
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

fn step(statements: &mut HashMap<u64, Prepared<'_>>, id: u64) -> Answer<Option<Vec<Value>>> {
    let Some(statement) = statements.remove(&id) else {
        return Err(misuse("no such statement".to_owned()));
    };
    let mut under_way = statement.into_under_way();
    let row = under_way.with_dependent_mut(|_, rows| match rows.next() {
        Ok(row) => row.map(values).transpose(),
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

fn values(row: &Row<'_>) -> Answer<Vec<Value>> {
    let count = row.as_ref().column_count();
    let mut values = Vec::with_capacity(count);
    let mut bytes = 0;
    for column in 0..count {
        let value = row.get_ref(column).map_err(|error| fault(&error))?;
        if let ValueRef::Text(text) | ValueRef::Blob(text) = value {
            bytes += text.len();
        }
        if bytes > ROW_BYTES_MAX {
            let text = format!("a row of more than {ROW_BYTES_MAX} bytes");
            return Err(Fault {
                code: rusqlite::ffi::SQLITE_TOOBIG.cast_unsigned(),
                text,
            });
        }
        values.push(match value {
            // SQLite does not promise that its text is UTF-8.
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            other => other
                .try_into()
                .map_err(|error: rusqlite::types::FromSqlError| misuse(error.to_string()))?,
        });
    }
    Ok(values)
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
            let connection = Connection::open(None).await.unwrap();
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
        let connection = Connection::open(None).await.unwrap();
        let fill = "CREATE TABLE t (a); WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1
            FROM n LIMIT 100) INSERT INTO t SELECT zeroblob(10000000) FROM n";
        let fault = connection.execute(fill.to_owned()).await.unwrap_err();
        assert_eq!(fault.code, rusqlite::ffi::SQLITE_NOMEM.cast_unsigned());
        let sql = "SELECT count(*) FROM t".to_owned();
        assert_eq!(connection.prepare(0, sql).await.unwrap(), ["count(*)"]);
        let row = connection.step(0).await.unwrap();
        assert_eq!(row, Some(vec![Value::Integer(0)]));
    }

    #[tokio::test]
    async fn a_row_that_is_too_large_is_refused() {
        let connection = Connection::open(None).await.unwrap();
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
            confine(&inside).unwrap();
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
