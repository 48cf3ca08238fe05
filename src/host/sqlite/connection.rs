//! One open database: a thread that owns the connection and its statements.
//!
//! SQLite blocks, so it has a thread of its own; the guest's task waits for its answer and suspends only
//! the guest. A connection lives as long as its [`Connection`]: when the process ends, whatever the
//! database is doing is interrupted, and the thread ends.
//!
//! What a guest may reach by it and how much it may take is said in `bounds.rs`.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Batch, OpenFlags, Row, Rows, Statement};
use self_cell::{MutBorrow, self_cell};
use tidelock_proto::Environ;
use tokio::sync::oneshot;

use super::super::directories::Directory;
use super::bounds::{Room, Slot, confine, restrict, step_back};
use super::stack::{self, STACK_BYTES};
use super::turns::TURNS;

/// Prepared statements of one connection.
const STATEMENTS_MAX: usize = 1024;

/// A statement that does nothing and has no columns, since its pragma is ignored.
const NOTHING: &str = "PRAGMA threads";

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

/// A row that a statement is at.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) values: Vec<Value>,
    _room: Room,
}

// ---- on the connection's thread ------------------------------------------------------------------------

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
