//! Whatever a statement does, it ends with its process, at its bound or where its stack does, and the database goes on.

use std::time::Duration;

use super::super::bounds::{PROCESS_ROWS_BYTES_MAX, SQL_BYTES_MAX};
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
    let schema = format!("CREATE TABLE u (a, g AS (nullif({long}, 1))); INSERT INTO u VALUES (1)");
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
    let known = ["too deep", "too large", "Recursion limit"].map(|text| fault.text.contains(text));
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
    use super::super::bounds::NICENESS;
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
