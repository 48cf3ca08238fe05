//! `lunatic::sqlite`: databases in the process's own directories.
//!
//! Values cross in the encoding that Lunatic's guests use: bincode 1.3, here and nowhere else in this
//! crate. What goes back lies in memory that the guest's `lunatic_alloc` has given, and belongs to the guest.
//!
//! ```text
//! guest ──call──▶ here: ids, paths, values ──▶ connection.rs: a thread with SQLite
//!                 the last row of each statement
//! ```

mod bounds;
mod connection;
mod functions;
mod stack;
mod turns;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bincode::config::{Configuration, Fixint, LittleEndian};
use rusqlite::types::Value;
use serde::{Deserialize, Serialize};
use tidelock_proto::bounded;

use super::directories::{Directories, Directory, Origin};
use super::process::NAME_BYTES_MAX;
use super::state::Table;
use super::{Call, Caller, Linker, Result, sync, waits};
use bounds::SQL_BYTES_MAX;
use connection::{Answer, Connection, Fault, Kept, Place};

/// Databases one process may have open.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of one path.
const PATH_BYTES_MAX: u32 = 4096;
/// Bytes of one list of values to bind, and of what they are decoded to.
const BIND_BYTES_MAX: usize = 64 << 20;
/// Values of one such list: SQLite has no more parameters.
const BIND_VALUES_MAX: u64 = 32_766;
/// What `sqlite3_step` answers.
const ROW: u32 = 100;
const DONE: u32 = 101;

/// The encoding of bincode 1.3.
const ENCODING: Configuration<LittleEndian, Fixint> = bincode::config::legacy();

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    waits! { linker, "lunatic::sqlite";
        "open" => open(path_ptr: u32, path_len: u32, id_ptr: u32);
        "execute" => execute(conn: u64, sql_ptr: u32, sql_len: u32);
        "query_prepare" => query_prepare(conn: u64, sql_ptr: u32, sql_len: u32);
        "bind_value" => bind_value(stmt: u64, ptr: u32, len: u32);
        "sqlite3_changes" => changes(conn: u64);
        "statement_reset" => statement_reset(stmt: u64);
        "sqlite3_step" => step(stmt: u64);
        "sqlite3_finalize" => finalize(stmt: u64);
        "column_name" => column_name(stmt: u64, col: u32, len_ptr: u32);
        "column_names" => column_names(stmt: u64, len_ptr: u32);
        "read_column" => read_column(stmt: u64, col: u32, len_ptr: u32);
        "read_row" => read_row(stmt: u64, len_ptr: u32);
        "last_error" => last_error(conn: u64, len_ptr: u32);
    }
    sync! { linker, "lunatic::sqlite";
        "column_count" => column_count(stmt: u64);
    }
    Ok(())
}

/// The databases of one process. Dropping it ends whatever they are doing.
pub(super) struct Sqlite {
    connections: Vec<Open>,
    statements: Table<Prepared>,
    /// Bytes of the rows of all statements.
    rows: Arc<AtomicUsize>,
}

struct Open {
    connection: Connection,
    last_error: Option<Fault>,
}

struct Prepared {
    connection: usize,
    columns: Vec<String>,
    row: Option<Kept>,
}

impl Sqlite {
    fn new() -> Self {
        Self {
            connections: Vec::new(),
            statements: Table::new(),
            rows: Arc::default(),
        }
    }
}

// ---- as they are encoded -------------------------------------------------------------------------------

#[derive(Deserialize)]
enum BindKey {
    None,
    Numeric(u64),
    String(String),
}

#[derive(Deserialize)]
enum BindValue {
    Null,
    Blob(Vec<u8>),
    Text(String),
    Double(f64),
    Int(i32),
    Int64(i64),
}

#[derive(Serialize)]
enum ColumnValue<'a> {
    Null,
    Blob(&'a [u8]),
    Text(&'a str),
    Double(f64),
    Integer(i64),
}

impl From<BindValue> for Value {
    fn from(value: BindValue) -> Self {
        match value {
            BindValue::Null => Value::Null,
            BindValue::Blob(bytes) => Value::Blob(bytes),
            BindValue::Text(text) => Value::Text(text),
            BindValue::Double(number) => Value::Real(number),
            BindValue::Int(number) => Value::Integer(number.into()),
            BindValue::Int64(number) => Value::Integer(number),
        }
    }
}

impl<'a> From<&'a Value> for ColumnValue<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => ColumnValue::Null,
            Value::Blob(bytes) => ColumnValue::Blob(bytes),
            Value::Text(text) => ColumnValue::Text(text),
            Value::Real(number) => ColumnValue::Double(*number),
            Value::Integer(number) => ColumnValue::Integer(*number),
        }
    }
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, ENCODING).expect("plain values in memory can be encoded")
}

/// What is to be bound, by place. A value without a key goes to the place it has in the list.
fn decoded(bytes: &[u8]) -> std::result::Result<Vec<(Place, Value)>, String> {
    if let Some(count) = bytes.first_chunk::<8>()
        && u64::from_le_bytes(*count) > BIND_VALUES_MAX
    {
        return Err(format!("more than {BIND_VALUES_MAX} values"));
    }
    let limited = ENCODING.with_limit::<BIND_BYTES_MAX>();
    let (pairs, _): (Vec<(BindKey, BindValue)>, usize) =
        bincode::serde::decode_from_slice(bytes, limited).map_err(|error| error.to_string())?;
    let place = |at: usize, key: BindKey| match key {
        BindKey::None => Ok(Place::Number(at + 1)),
        BindKey::Numeric(number) => usize::try_from(number)
            .map(Place::Number)
            .map_err(|_| format!("no parameter has the number {number}")),
        BindKey::String(name) if name.len() > NAME_BYTES_MAX as usize => Err(format!(
            "the name of a parameter has at most {NAME_BYTES_MAX} bytes"
        )),
        BindKey::String(name) => Ok(Place::Name(name)),
    };
    let pairs = pairs.into_iter().enumerate();
    pairs
        .map(|(at, (key, value))| Ok((place(at, key)?, value.into())))
        .collect()
}

// ---- paths ---------------------------------------------------------------------------------------------

/// The file of a path, and the directory of the process that it lies in. Symbolic links below that are
/// followed here, and the result must lie there all the same; what changes afterwards is refused when the
/// file is opened.
fn resolve(
    path: &str,
    preopens: &[String],
    directories: &Directories,
    origin: Origin,
) -> std::result::Result<(PathBuf, Directory), String> {
    let shown = || bounded(format!("{path:?}"));
    let outside = || format!("{} is in no directory of this process", shown());
    let asked = Path::new(path);
    if asked.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{}: \"..\" is not allowed", shown()));
    }
    let holds = |dir: &&String| {
        let plain = Path::new(dir.as_str());
        let here = plain == Path::new(".") && asked.is_relative();
        here || without_dot(asked).starts_with(without_dot(plain))
    };
    // The closest one, as WASI takes it.
    let dir = preopens.iter().filter(holds).max_by_key(|dir| dir.len());
    let dir = dir.ok_or_else(outside)?;
    let name = asked.file_name().ok_or_else(outside)?;
    let parent = match asked.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let failed =
        |path: &Path, error: std::io::Error| format!("{}: {}: {error}", shown(), path.display());
    let opened = directories.open(dir, origin);
    let dir = opened.map_err(|error| failed(Path::new(dir), error))?;
    let opened = Directory::at(parent);
    let parent = opened.map_err(|error| failed(parent, error))?;
    if !parent.real().starts_with(dir.real()) {
        return Err(outside());
    }
    Ok((parent.real().join(name), dir))
}

fn without_dot(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

// ---- calls ---------------------------------------------------------------------------------------------

impl Call<'_> {
    fn sqlite(&mut self) -> &mut Sqlite {
        let sqlite = &mut self.state().sqlite;
        sqlite.get_or_insert_with(|| Box::new(Sqlite::new()))
    }

    fn opened(&mut self, conn: u64) -> Result<&mut Open> {
        let at = usize::try_from(conn).unwrap_or(usize::MAX);
        if self.sqlite().connections.get(at).is_none() {
            return Err(self.trap(format_args!("no connection {conn}")));
        }
        Ok(&mut self.sqlite().connections[at])
    }

    fn prepared(&mut self, stmt: u64) -> Result<&mut Prepared> {
        if self.sqlite().statements.get(stmt).is_none() {
            return Err(self.trap(format_args!("no statement {stmt}")));
        }
        let prepared = self.sqlite().statements.get_mut(stmt);
        Ok(prepared.expect("looked at above"))
    }

    /// The connection of a statement.
    fn of(&mut self, stmt: u64) -> Result<u64> {
        Ok(self.prepared(stmt)?.connection as u64)
    }

    /// Keeps what `last_error` will tell of a call.
    fn note<T>(&mut self, conn: u64, answer: &Answer<T>) -> Result<()> {
        self.opened(conn)?.last_error = answer.as_ref().err().cloned();
        Ok(())
    }

    /// The answer; a fault is kept for `last_error` and ends the process.
    fn checked<T>(&mut self, conn: u64, answer: Answer<T>) -> Result<T> {
        self.note(conn, &answer)?;
        answer.map_err(|fault| self.trap(fault.text))
    }

    fn sql(&mut self, ptr: u32, len: u32) -> Result<String> {
        if len > SQL_BYTES_MAX {
            return Err(self.trap(format_args!("sql_ptr: more than {SQL_BYTES_MAX} bytes")));
        }
        self.text("sql_ptr", ptr, len)
    }
}

/// Asks a connection and waits; meanwhile only this process stands still.
macro_rules! ask {
    ($call:ident, $conn:ident, $method:ident($($arg:expr),*)) => {{
        $call.opened($conn)?.connection.$method($($arg),*).await
    }};
}

async fn open(mut call: Call<'_>, path_ptr: u32, path_len: u32, id_ptr: u32) -> Result<u64> {
    call.room("id_ptr", id_ptr, 8)?;
    if path_len > PATH_BYTES_MAX {
        return Err(call.trap(format_args!("path_ptr: more than {PATH_BYTES_MAX} bytes")));
    }
    let path = call.text("path_ptr", path_ptr, path_len)?;
    match connect(&mut call, path).await {
        Ok(id) => {
            call.put_u64("id_ptr", id_ptr, id)?;
            Ok(0)
        }
        Err(error) => {
            call.put_error("id_ptr", id_ptr, error)?;
            Ok(1)
        }
    }
}

async fn connect(call: &mut Call<'_>, path: String) -> std::result::Result<u64, String> {
    if call.sqlite().connections.len() >= CONNECTIONS_MAX {
        return Err(format!(
            "more than {CONNECTIONS_MAX} databases of one process"
        ));
    }
    let file = if path.is_empty() || path == ":memory:" {
        None
    } else {
        let context = &call.state().context;
        let (config, environment) = (context.config().clone(), context.environment().clone());
        let origin = context.origin();
        let resolved = move || resolve(&path, &config.preopens, environment.directories(), origin);
        let resolved = tokio::task::spawn_blocking(resolved).await;
        Some(resolved.map_err(|error| error.to_string())??)
    };
    let environ = call.state().context.environ();
    let rows = call.sqlite().rows.clone();
    let connection = Connection::open(file, environ, rows).await?;
    let connections = &mut call.sqlite().connections;
    connections.push(Open {
        connection,
        last_error: None,
    });
    Ok(connections.len() as u64 - 1)
}

async fn execute(mut call: Call<'_>, conn: u64, sql_ptr: u32, sql_len: u32) -> Result<u32> {
    call.opened(conn)?;
    let sql = call.sql(sql_ptr, sql_len)?;
    let answer = ask!(call, conn, execute(sql));
    call.note(conn, &answer)?;
    Ok(answer.map_or_else(|fault| fault.code, |()| 0))
}

async fn query_prepare(mut call: Call<'_>, conn: u64, sql_ptr: u32, sql_len: u32) -> Result<u64> {
    call.opened(conn)?;
    let sql = call.sql(sql_ptr, sql_len)?;
    let prepared = Prepared {
        connection: usize::try_from(conn).expect("it is a connection's number"),
        columns: Vec::new(),
        row: None,
    };
    let id = call.sqlite().statements.insert(prepared);
    let id = id.map_err(|full| call.trap(full))?;
    let answer = ask!(call, conn, prepare(id, sql));
    if answer.is_err() {
        call.sqlite().statements.remove(id);
    }
    let columns = call.checked(conn, answer)?;
    call.prepared(id)?.columns = columns;
    Ok(id)
}

async fn bind_value(mut call: Call<'_>, stmt: u64, ptr: u32, len: u32) -> Result<()> {
    let conn = call.of(stmt)?;
    let values = decoded(call.bytes("ptr", ptr, len)?);
    let values = values.map_err(|error| call.trap(format_args!("ptr: {error}")))?;
    let answer = ask!(call, conn, bind(stmt, values));
    call.checked(conn, answer)
}

async fn changes(mut call: Call<'_>, conn: u64) -> Result<u32> {
    let answer = ask!(call, conn, changes());
    let changes = answer.map_err(|fault| call.trap(fault.text))?;
    Ok(u32::try_from(changes).unwrap_or(u32::MAX))
}

async fn statement_reset(mut call: Call<'_>, stmt: u64) -> Result<()> {
    let conn = call.of(stmt)?;
    call.prepared(stmt)?.row = None;
    let answer = ask!(call, conn, reset(stmt));
    answer.map_err(|fault| call.trap(fault.text))
}

async fn step(mut call: Call<'_>, stmt: u64) -> Result<u32> {
    let conn = call.of(stmt)?;
    // Its memory is free before the next row takes some.
    call.prepared(stmt)?.row = None;
    let answer = ask!(call, conn, step(stmt));
    let row = call.checked(conn, answer)?;
    let code = if row.is_some() { ROW } else { DONE };
    call.prepared(stmt)?.row = row;
    Ok(code)
}

async fn finalize(mut call: Call<'_>, stmt: u64) -> Result<()> {
    let conn = call.of(stmt)?;
    call.sqlite().statements.remove(stmt);
    let answer = ask!(call, conn, finalize(stmt));
    answer.map_err(|fault| call.trap(fault.text))
}

/// Columns of the row that the statement is at; before the first one, of the rows to come.
fn column_count(mut call: Call<'_>, stmt: u64) -> Result<u32> {
    let prepared = call.prepared(stmt)?;
    let row = prepared.row.as_ref().map(|row| row.values.len());
    let count = row.unwrap_or(prepared.columns.len());
    Ok(u32::try_from(count).expect("SQLite has a few thousand columns at most"))
}

async fn column_name(mut call: Call<'_>, stmt: u64, col: u32, len_ptr: u32) -> Result<u32> {
    let Some(name) = call.prepared(stmt)?.columns.get(col as usize).cloned() else {
        return Err(call.trap(format_args!("no column {col}")));
    };
    call.give("len_ptr", len_ptr, name.as_bytes()).await
}

async fn column_names(mut call: Call<'_>, stmt: u64, len_ptr: u32) -> Result<u32> {
    let names = encoded(&call.prepared(stmt)?.columns);
    call.give("len_ptr", len_ptr, &names).await
}

async fn read_column(mut call: Call<'_>, stmt: u64, col: u32, len_ptr: u32) -> Result<u32> {
    let row = call.prepared(stmt)?.row.as_ref();
    let value = row.and_then(|row| row.values.get(col as usize));
    let Some(value) = value.map(|value| encoded(&ColumnValue::from(value))) else {
        return Err(call.trap(format_args!("no row, or no column {col}")));
    };
    call.give("len_ptr", len_ptr, &value).await
}

async fn read_row(mut call: Call<'_>, stmt: u64, len_ptr: u32) -> Result<u32> {
    let row = call.prepared(stmt)?.row.as_ref();
    let row = row.map(|row| row.values.iter().map(ColumnValue::from).collect::<Vec<_>>());
    let Some(row) = row.map(|row| encoded(&row)) else {
        return Err(call.trap("the statement is at no row"));
    };
    call.give("len_ptr", len_ptr, &row).await
}

async fn last_error(mut call: Call<'_>, conn: u64, len_ptr: u32) -> Result<u32> {
    let Some(fault) = &call.opened(conn)?.last_error else {
        return Err(call.trap("the last call had no error"));
    };
    let fault = encoded(&(Some(fault.code), Some(&fault.text)));
    call.give("len_ptr", len_ptr, &fault).await
}
