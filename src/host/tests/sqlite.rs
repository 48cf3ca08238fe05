//! `lunatic::sqlite`: values, rows and errors as guests see them, and files out of reach.
//!
//! A guest is a list of calls whose answers it compares; the first wrong one traps.

use std::fs;

use super::*;
use crate::ProcessConfig;

const IMPORTS: &str = r#"
    (import "lunatic::sqlite" "open" (func $open (param i32 i32 i32) (result i64)))
    (import "lunatic::sqlite" "execute" (func $execute (param i64 i32 i32) (result i32)))
    (import "lunatic::sqlite" "query_prepare" (func $prepare (param i64 i32 i32) (result i64)))
    (import "lunatic::sqlite" "bind_value" (func $bind (param i64 i32 i32)))
    (import "lunatic::sqlite" "sqlite3_changes" (func $changes (param i64) (result i32)))
    (import "lunatic::sqlite" "statement_reset" (func $reset (param i64)))
    (import "lunatic::sqlite" "sqlite3_step" (func $step (param i64) (result i32)))
    (import "lunatic::sqlite" "sqlite3_finalize" (func $finalize (param i64)))
    (import "lunatic::sqlite" "column_count" (func $column_count (param i64) (result i32)))
    (import "lunatic::sqlite" "column_name" (func $column_name (param i64 i32 i32) (result i32)))
    (import "lunatic::sqlite" "column_names" (func $column_names (param i64 i32) (result i32)))
    (import "lunatic::sqlite" "read_column" (func $read_column (param i64 i32 i32) (result i32)))
    (import "lunatic::sqlite" "read_row" (func $read_row (param i64 i32) (result i32)))
    (import "lunatic::sqlite" "last_error" (func $last_error (param i64 i32) (result i32)))
    (import "lunatic::error" "string_size" (func $error_size (param i64) (result i32)))
    (import "lunatic::error" "to_string" (func $error_text (param i64 i32)))
    (import "tidelock" "log" (func $log (param i32 i32)))"#;

/// A guest being written.
struct Guest {
    data: String,
    code: String,
    next: usize,
}

impl Guest {
    fn new() -> Self {
        Self {
            data: String::new(),
            code: String::new(),
            next: 64,
        }
    }

    /// Puts bytes into memory; the pointer and the length as arguments.
    fn bytes(&mut self, bytes: &[u8]) -> String {
        let text: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let at = self.next;
        self.data += &format!("(data (i32.const {at}) \"{text}\")\n");
        self.next += bytes.len();
        assert!(self.next < 30_000, "the allocator's memory begins there");
        format!("(i32.const {at}) (i32.const {})", bytes.len())
    }

    fn code(mut self, code: &str) -> Self {
        self.code += code;
        self.code.push('\n');
        self
    }

    /// Opens a database, which is answered with 0; its id goes to address 0.
    fn opens(mut self, path: &str) -> Self {
        let path = self.bytes(path.as_bytes());
        self.code(&format!(
            "(call $check (call $open {path} (i32.const 0)) (i64.const 0))"
        ))
    }

    /// Asks for a database that is refused with these words.
    fn fails_to_open(mut self, path: &str, why: &str) -> Self {
        let path = self.bytes(path.as_bytes());
        self = self.code(&format!(
            "(call $check (call $open {path} (i32.const 0)) (i64.const 1))
             (i32.store (i32.const 8) (call $error_size (i64.load (i32.const 0))))
             (call $error_text (i64.load (i32.const 0)) (i32.const 32768))"
        ));
        let why = self.bytes(why.as_bytes());
        self.code(&format!(
            "(call $contains (i32.const 32768) (i32.load (i32.const 8)) {why})"
        ))
    }

    fn executes(self, sql: &str, code: u32) -> Self {
        self.executes_in(0, sql, code)
    }

    fn executes_in(mut self, database: u64, sql: &str, code: u32) -> Self {
        let sql = self.bytes(sql.as_bytes());
        self.code(&format!(
            "(call $check32 (call $execute (i64.const {database}) {sql}) (i32.const {code}))"
        ))
    }

    fn prepares(mut self, sql: &str, statement: u64) -> Self {
        let sql = self.bytes(sql.as_bytes());
        self.code(&format!(
            "(call $check (call $prepare (i64.const 0) {sql}) (i64.const {statement}))"
        ))
    }

    fn binds(mut self, statement: u64, pairs: &[(Key, Val)]) -> Self {
        let list = self.bytes(&list(pairs));
        self.code(&format!("(call $bind (i64.const {statement}) {list})"))
    }

    fn steps(self, statement: u64, code: u32) -> Self {
        self.code(&format!(
            "(call $check32 (call $step (i64.const {statement})) (i32.const {code}))"
        ))
    }

    /// A call that gives a buffer gives this one.
    fn gives(mut self, call: &str, bytes: &[u8]) -> Self {
        let expected = self.bytes(bytes);
        self.code(&format!(
            "(call $same (call {call} (i32.const 16)) (i32.load (i32.const 16)) {expected})"
        ))
    }

    fn row(self, statement: u64, row: &[Val]) -> Self {
        let mut bytes = (row.len() as u64).to_le_bytes().to_vec();
        for value in row {
            value.column(&mut bytes);
        }
        self.steps(statement, 100)
            .gives(&format!("$read_row (i64.const {statement})"), &bytes)
    }

    async fn compile(&self, env: &Environment) -> Module {
        let body = format!(
            r#"{data}
            (global $free (mut i32) (i32.const 40000))
            (func (export "lunatic_alloc") (param i32) (result i32)
                global.get $free
                (global.set $free (i32.add (global.get $free) (local.get 0))))
            (func $same (param i32 i32 i32 i32)
                (call $check32 (local.get 1) (local.get 3))
                (block $end (loop $next
                    (br_if $end (i32.eqz (local.get 1)))
                    (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
                    (call $check32
                        (i32.load8_u (i32.add (local.get 0) (local.get 1)))
                        (i32.load8_u (i32.add (local.get 2) (local.get 1))))
                    (br $next))))
            (func $matches (param i32 i32 i32) (result i32)
                (block $end (loop $next
                    (br_if $end (i32.eqz (local.get 2)))
                    (local.set 2 (i32.sub (local.get 2) (i32.const 1)))
                    (if (i32.ne
                        (i32.load8_u (i32.add (local.get 0) (local.get 2)))
                        (i32.load8_u (i32.add (local.get 1) (local.get 2))))
                        (then (return (i32.const 0))))
                    (br $next)))
                (i32.const 1))
            (func $contains (param i32 i32 i32 i32)
                (loop $next
                    (if (i32.lt_u (local.get 1) (local.get 3)) (then unreachable))
                    (if (call $matches (local.get 0) (local.get 2) (local.get 3)) (then return))
                    (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                    (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
                    (br $next)))
            (func (export "_start") {code})"#,
            data = self.data,
            code = self.code
        );
        guest(env, IMPORTS, &body).await
    }

    async fn run_in(self, preopens: Vec<String>) -> ExitReason {
        let env = environment();
        let module = self.compile(&env).await;
        let config = ProcessConfig {
            preopens,
            ..ProcessConfig::default()
        };
        let pid = start_as(&env, &module, config);
        end(&env, pid).await
    }

    async fn run(self) -> ExitReason {
        self.run_in(Vec::new()).await
    }
}

enum Key {
    None,
    Number(u64),
    Name(&'static str),
}

enum Val {
    Null,
    Blob(&'static [u8]),
    Text(&'static str),
    Real(f64),
    Int(i32),
    Long(i64),
}

fn long(bytes: &mut Vec<u8>, kind: u32, value: &[u8]) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(value);
}

fn plain(bytes: &mut Vec<u8>, kind: u32, value: &[u8]) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
}

impl Val {
    fn common(&self, bytes: &mut Vec<u8>) {
        match self {
            Val::Null => plain(bytes, 0, &[]),
            Val::Blob(value) => long(bytes, 1, value),
            Val::Text(value) => long(bytes, 2, value.as_bytes()),
            Val::Real(value) => plain(bytes, 3, &value.to_le_bytes()),
            Val::Int(value) => plain(bytes, 4, &value.to_le_bytes()),
            Val::Long(value) => plain(bytes, 5, &value.to_le_bytes()),
        }
    }

    /// As it comes back: all integers have 64 bits.
    fn column(&self, bytes: &mut Vec<u8>) {
        match *self {
            Val::Int(value) => plain(bytes, 4, &i64::from(value).to_le_bytes()),
            Val::Long(value) => plain(bytes, 4, &value.to_le_bytes()),
            _ => self.common(bytes),
        }
    }
}

fn list(pairs: &[(Key, Val)]) -> Vec<u8> {
    let mut bytes = (pairs.len() as u64).to_le_bytes().to_vec();
    for (key, value) in pairs {
        match key {
            Key::None => plain(&mut bytes, 0, &[]),
            Key::Number(number) => plain(&mut bytes, 1, &number.to_le_bytes()),
            Key::Name(name) => long(&mut bytes, 2, name.as_bytes()),
        }
        value.common(&mut bytes);
    }
    bytes
}

#[tokio::test]
async fn every_kind_of_value_goes_in_and_comes_back() {
    let guest = Guest::new()
        .opens("")
        .executes("CREATE TABLE t (a, b, c)", 0)
        .prepares("INSERT INTO t VALUES (?1, :b, ?3)", 0)
        .binds(
            0,
            &[
                (Key::Number(1), Val::Text("Ä1")),
                (Key::Name("b"), Val::Int(-2)),
                (Key::None, Val::Null),
            ],
        )
        .steps(0, 101)
        .code("(call $check32 (call $changes (i64.const 0)) (i32.const 1))")
        .code("(call $reset (i64.const 0))")
        .binds(
            0,
            &[
                (Key::None, Val::Blob(b"\0\xff")),
                (Key::Name(":b"), Val::Real(0.5)),
                (Key::Number(3), Val::Long(1 << 40)),
            ],
        )
        .steps(0, 101)
        .prepares("SELECT a, b, c AS \"see\" FROM t ORDER BY rowid", 1)
        .code("(call $check32 (call $column_count (i64.const 1)) (i32.const 3))")
        .gives("$column_name (i64.const 1) (i32.const 2)", b"see")
        .gives("$column_names (i64.const 1)", &{
            let mut names = 3u64.to_le_bytes().to_vec();
            for name in ["a", "b", "see"] {
                names.extend((name.len() as u64).to_le_bytes());
                names.extend(name.as_bytes());
            }
            names
        })
        .row(1, &[Val::Text("Ä1"), Val::Int(-2), Val::Null])
        .row(
            1,
            &[Val::Blob(b"\0\xff"), Val::Real(0.5), Val::Long(1 << 40)],
        )
        .gives("$read_column (i64.const 1) (i32.const 2)", &{
            let mut value = Vec::new();
            Val::Long(1 << 40).column(&mut value);
            value
        })
        .steps(1, 101)
        // It starts anew, and again in the middle.
        .row(1, &[Val::Text("Ä1"), Val::Int(-2), Val::Null])
        .code("(call $reset (i64.const 1))")
        .row(1, &[Val::Text("Ä1"), Val::Int(-2), Val::Null])
        .code("(call $finalize (i64.const 1)) (call $finalize (i64.const 0))")
        // Two at the same time, each at its own row.
        .prepares("SELECT a FROM t", 2)
        .prepares("SELECT b FROM t", 3)
        .row(2, &[Val::Text("Ä1")])
        .row(3, &[Val::Int(-2)])
        .row(2, &[Val::Blob(b"\0\xff")])
        .row(3, &[Val::Real(0.5)]);
    assert_eq!(guest.run().await, ExitReason::Normal);
}

#[tokio::test]
async fn errors_have_a_code_and_a_text() {
    let guest = Guest::new()
        .opens(":memory:")
        .executes("CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1)", 0)
        .executes("INSERT INTO t VALUES (1)", 19)
        .gives("$last_error (i64.const 0)", &{
            let mut error = vec![1];
            error.extend(19u32.to_le_bytes());
            let text = "UNIQUE constraint failed: t.a";
            error.push(1);
            error.extend((text.len() as u64).to_le_bytes());
            error.extend(text.as_bytes());
            error
        })
        .executes("nonsense", 1)
        .executes("SELECT 1", 0);
    let traps = [
        (
            "(drop (call $last_error (i64.const 0) (i32.const 0)))",
            "last_error: the last call",
        ),
        (
            "(drop (call $step (i64.const 0)))",
            "sqlite3_step: no statement 0",
        ),
        (
            "(drop (call $changes (i64.const 1)))",
            "sqlite3_changes: no connection 1",
        ),
    ];
    for (code, text) in traps {
        let reason = Guest {
            data: guest.data.clone(),
            code: guest.code.clone() + code,
            next: guest.next,
        }
        .run()
        .await;
        assert!(trap(&reason).contains(text), "{reason:?}");
    }
}

/// Locked by somebody else, out of memory, and full: each has SQLite's code, and the database goes on.
#[tokio::test]
async fn what_cannot_be_written_has_a_code_and_is_not_written() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-codes", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let dir = dir.to_str().unwrap().to_owned();
    let file = format!("{dir}/a.db");
    let fill = |megabytes: u32| {
        format!(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT {megabytes})
            INSERT INTO t SELECT zeroblob(1000000) FROM c"
        )
    };
    let mut guest = Guest::new().opens(&file).executes(
        "CREATE TABLE t (a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)",
        0,
    );
    let path = guest.bytes(file.as_bytes());
    let mut guest = guest
        .code(&format!(
            "(call $check (call $open {path} (i32.const 0)) (i64.const 0))"
        ))
        .executes_in(1, "PRAGMA busy_timeout = 20", 0)
        .executes_in(1, "INSERT INTO t VALUES (2)", 5)
        .executes("COMMIT", 0)
        .executes_in(1, "INSERT INTO t VALUES (3)", 0)
        .executes("PRAGMA max_page_count = 100", 0)
        .executes(&fill(2), 13)
        .executes("INSERT INTO t VALUES (4)", 0);
    let memory = guest.bytes(b":memory:");
    let guest = guest
        .code(&format!(
            "(call $check (call $open {memory} (i32.const 0)) (i64.const 0))"
        ))
        .executes_in(2, "CREATE TABLE t (a)", 0)
        .executes_in(2, &fill(400), 7)
        .executes_in(2, &fill(2), 0)
        .prepares("SELECT sum(a) FROM t", 0)
        .row(0, &[Val::Int(8)]);
    assert_eq!(guest.run_in(vec![dir.clone()]).await, ExitReason::Normal);
    fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_wrong_value_traps_and_says_why() {
    let with = |list: &[u8]| {
        let mut guest = Guest::new().opens("").prepares("SELECT :a", 0);
        let list = guest.bytes(list);
        guest.code(&format!("(call $bind (i64.const 0) {list})"))
    };
    let huge = [&u64::MAX.to_le_bytes()[..], &[0; 8]].concat();
    let name: &'static str = "b".repeat(4097).leak();
    let cases = [
        (with(b"x"), "bind_value: ptr: "),
        (with(&huge), "bind_value: ptr: "),
        (with(&list(&[(Key::Number(0), Val::Null)])), "bind_value: "),
        (with(&list(&[(Key::Number(2), Val::Null)])), "bind_value: "),
        (
            with(&list(&[(Key::Name("b"), Val::Null)])),
            "no parameter is called \"b\"",
        ),
        (
            with(&list(&[(Key::Name(name), Val::Null)])),
            "the name of a parameter has at most 4096 bytes",
        ),
        (with(&32_767_u64.to_le_bytes()), "more than 32766 values"),
        (
            Guest::new()
                .opens("")
                .prepares("SELECT 1 UNION SELECT :a", 0)
                .steps(0, 100)
                .binds(0, &[(Key::Number(1), Val::Null)]),
            "under way",
        ),
        (
            Guest::new()
                .opens("")
                .prepares("SELECT 1", 0)
                .code("(drop (call $read_row (i64.const 0) (i32.const 0)))"),
            "at no row",
        ),
        (
            Guest::new().opens("").prepares("SELECT", 0),
            "query_prepare: ",
        ),
    ];
    for (guest, text) in cases {
        let reason = guest.run().await;
        assert!(trap(&reason).contains(text), "{reason:?} lacks {text:?}");
    }
}

#[tokio::test]
async fn a_database_lies_in_a_directory_of_the_process() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-sqlite", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("open/deep")).unwrap();
    fs::create_dir_all(dir.join("secret")).unwrap();
    fs::write(dir.join("secret/s.db"), "").unwrap();
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, dir.join("open").join(name)).unwrap();
    };
    link("../secret", "way");
    link("../secret/s.db", "link.db");
    link("deep", "inside");
    let open = dir.join("open").to_str().unwrap().to_owned();
    let at = |name: &str| format!("{open}/{name}");
    let outside = "in no directory of this process";
    let guest = Guest::new()
        .fails_to_open("a.db", outside)
        .fails_to_open(&at("../secret/s.db"), "\"..\" is not allowed")
        .fails_to_open(&format!("{}/secret/s.db", dir.display()), outside)
        .fails_to_open(&format!("file:{open}/a.db"), outside)
        .fails_to_open(&at("way/s.db"), outside)
        .fails_to_open(&at("link.db"), "unable to open database file")
        .fails_to_open(&at("none/a.db"), "No such file")
        .fails_to_open(&open, outside)
        .fails_to_open(&at("deep"), "unable to open database file")
        .fails_to_open("/", outside)
        // Through a link that stays inside.
        .opens(&at("inside/a.db"))
        .executes("CREATE TABLE t (a); INSERT INTO t VALUES (7)", 0)
        .executes("PRAGMA journal_mode=WAL", 0)
        .executes("INSERT INTO t VALUES (8)", 0)
        .executes("VACUUM", 0)
        // Everything that would reach another file, or the node.
        .executes(&format!("ATTACH '{}/secret/s.db' AS s", dir.display()), 23)
        .executes(&format!("ATTACH 'file:{open}/b.db' AS s"), 23)
        .executes(&format!("ATTACH '{open}' || '/b.db' AS s"), 23)
        .executes(&format!("VACUUM INTO '{open}/b.db'"), 23)
        .executes("SELECT load_extension('x')", 1)
        .executes("PRAGMA hard_heap_limit=1", 23)
        .executes("PRAGMA temp_store_directory='/'", 23)
        .executes("SELECT * FROM pragma_soft_heap_limit(1)", 1)
        .executes("PRAGMA writable_schema=1", 23)
        // Without effect, and no reason to fail.
        .executes("PRAGMA mmap_size=1000000; PRAGMA busy_timeout=1", 0)
        .executes("SELECT zeroblob(99999999)", 18);
    assert_eq!(guest.run_in(vec![open.clone()]).await, ExitReason::Normal);
    // Another process finds what the first one left, by way of the whole path.
    let guest = Guest::new()
        .opens(&at("deep/a.db"))
        .prepares("SELECT sum(a) FROM t", 0)
        .row(0, &[Val::Long(15)]);
    assert_eq!(guest.run_in(vec![open]).await, ExitReason::Normal);
    assert_eq!(fs::read(dir.join("secret/s.db")).unwrap(), b"");
    assert!(!dir.join("open/b.db").exists());
    fs::remove_dir_all(&dir).unwrap();
}

/// As Lunatic has it: what follows the first statement is not looked at, and no statement is one at its end.
#[tokio::test]
async fn the_first_statement_of_a_text_is_prepared() {
    let guest = Guest::new()
        .opens("")
        .prepares("; SELECT 7; nonsense", 0)
        .row(0, &[Val::Int(7)])
        .steps(0, 101)
        .prepares("", 1)
        .prepares(" -- nothing\n;", 2)
        .code("(call $check32 (call $column_count (i64.const 2)) (i32.const 0))")
        .steps(1, 101)
        .steps(2, 101)
        .steps(2, 101)
        .code("(call $reset (i64.const 2))")
        .binds(2, &[])
        .steps(2, 101);
    assert_eq!(guest.run().await, ExitReason::Normal);
}

#[tokio::test]
async fn a_directory_that_was_swapped_for_a_link_has_no_databases() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-swapped", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("open")).unwrap();
    fs::create_dir_all(dir.join("secret")).unwrap();
    let open = dir.join("open").to_str().unwrap().to_owned();
    let file = format!("{open}/a.db");
    let env = environment();
    let run = async |guest: Guest| {
        let module = guest.compile(&env).await;
        let config = ProcessConfig {
            preopens: vec![open.clone()],
            ..ProcessConfig::default()
        };
        let pid = start_as(&env, &module, config);
        end(&env, pid).await
    };
    let guest = Guest::new().opens(&file).executes("CREATE TABLE t (a)", 0);
    assert_eq!(run(guest).await, ExitReason::Normal);
    fs::rename(dir.join("open"), dir.join("gone")).unwrap();
    std::os::unix::fs::symlink("secret", dir.join("open")).unwrap();
    let guest = Guest::new().fails_to_open(&file, "leads elsewhere");
    assert_eq!(run(guest).await, ExitReason::Normal);
    assert_eq!(fs::read_dir(dir.join("secret")).unwrap().count(), 0);
    fs::remove_dir_all(&dir).unwrap();
}

/// On one thread: if the query were computed there, nobody could kill it.
#[tokio::test]
async fn a_query_without_end_ends_with_its_process() {
    let env = environment();
    let mut guest = Guest::new().opens("");
    let word = guest.bytes(b"begins");
    let guest = guest.code(&format!("(call $log {word})")).executes(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
        0,
    );
    let module = guest.compile(&env).await;
    let mut events = env.events();
    let pid = start(&env, &module);
    while !matches!(
        events.recv().await.unwrap().what,
        crate::Happening::Said { .. }
    ) {}
    env.kill(pid, None);
    assert!(matches!(end(&env, pid).await, ExitReason::Killed(_)));
}

#[tokio::test]
async fn databases_and_statements_are_counted() {
    let mut guest = Guest::new();
    for _ in 0..16 {
        guest = guest.opens("");
    }
    let guest = guest.fails_to_open("", "more than 16 databases");
    assert_eq!(guest.run().await, ExitReason::Normal);
    let mut guest = Guest::new().opens("");
    let sql = guest.bytes(b"SELECT 1");
    let guest = guest.code(&format!(
        "(loop (drop (call $prepare (i64.const 0) {sql})) (br 0))"
    ));
    let reason = guest.run().await;
    assert!(
        trap(&reason).contains("query_prepare: more than 1024 statements"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_step_that_fails_traps_and_says_why() {
    let guest = Guest::new()
        .opens("")
        .executes("CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1)", 0)
        .prepares("INSERT INTO t VALUES (1)", 0)
        .code("(drop (call $step (i64.const 0)))");
    let reason = guest.run().await;
    let words = "sqlite3_step: UNIQUE constraint failed";
    assert!(trap(&reason).contains(words), "{reason:?}");
}

/// A guest may write the file itself, and SQLite takes any bytes for a name.
#[tokio::test]
async fn a_file_with_names_that_are_no_text_is_refused_and_the_database_goes_on() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-names", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("a.db");
    let preopens = vec![dir.to_str().unwrap().to_owned()];
    let opened = || Guest::new().opens(file.to_str().unwrap());
    let guest = opened()
        .executes("CREATE TABLE t (abcdef)", 0)
        .executes("CREATE VIEW v AS SELECT 1 AS abcdef", 0);
    assert_eq!(guest.run_in(preopens.clone()).await, ExitReason::Normal);
    let mut bytes = fs::read(&file).unwrap();
    for at in 0..bytes.len() - 6 {
        if &bytes[at..at + 6] == b"abcdef" {
            bytes[at..at + 6].copy_from_slice(b"ab\xff\xfe\xfdf");
        }
    }
    fs::write(&file, bytes).unwrap();
    // 23: not permitted, as anything that cannot be judged.
    let guest = opened()
        .executes("SELECT * FROM t", 23)
        .executes("SELECT * FROM v", 23)
        .executes("SELECT count(*) FROM v; INSERT INTO t VALUES (1)", 0)
        .prepares("SELECT count(*) FROM t", 0)
        .row(0, &[Val::Int(1)]);
    assert_eq!(guest.run_in(preopens).await, ExitReason::Normal);
    fs::remove_dir_all(&dir).unwrap();
}
