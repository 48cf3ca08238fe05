//! Functions of SQL in place of SQLite's own, which take too long.
//!
//! SQLite looks up between the steps of its machine only, and a call of a function is one step. With values of 16 MiB
//! some of its functions take hours in one call, which nobody can end:
//!
//! * `instr`, `replace`, `trim`, `ltrim`, `rtrim` and `unhex` with two arguments compare each place of a text with all
//!   of another. Here they take time in proportion to the lengths of both.
//! * `json_patch` and `jsonb_patch` look for each name of the patch among all of the target; `printf` and `format`
//!   write out digits that they drop again, as many as each number of a format asks for. These stay SQLite's, and refuse
//!   what is too long. So that SQLite's own can be asked, a thread that needs them has a database in memory besides.
//!
//! The answers are SQLite's. For text that is no UTF-8 SQLite promises none; here each byte of it is a character to
//! `trim` and `unhex`. And a blob that is taken for a text is read as UTF-8, in databases of UTF-16 as well.
//!
//! What takes as many times the length of a value as something that has a bound of its own stays as it is: `LIKE` and
//! `GLOB` with their patterns, functions of JSON with a path in every other argument.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_uint;

use memchr::memmem::Finder;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, Result, Statement, ffi};
use self_cell::self_cell;

use super::bounds::VALUE_BYTES_MAX;

/// Bytes of a format of `printf`: with as many numbers of 16 MiB as fit into it, half a minute.
const FORMAT_BYTES_MAX: usize = 16 << 10;
/// Bytes of a patch, times those of it and its target together: what `LIKE` does with the longest pattern and text.
const PATCH_WORK_MAX: usize = 1 << 34;
/// Arguments with which SQLite's own functions are kept prepared.
const KEPT_ARGUMENTS_MAX: usize = 8;
/// What SQLite marks text with that is JSON.
const JSON: c_uint = b'J' as c_uint;

/// Puts these in place of SQLite's own functions.
///
/// # Errors
///
/// What SQLite says. Some of them may be in place.
pub(super) fn install(connection: &Connection) -> Result<()> {
    // As SQLite's own: they may stand in indexes and constraints, and in the schema of any file.
    let plain = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("instr", 2, plain, |context| {
        instr(context.get_raw(0), context.get_raw(1))
    })?;
    connection.create_scalar_function("replace", 3, plain, |context| {
        replace(context.get_raw(0), context.get_raw(1), context.get_raw(2))
    })?;
    for (name, front, back) in [
        ("trim", true, true),
        ("ltrim", true, false),
        ("rtrim", false, true),
    ] {
        connection.create_scalar_function(name, 1, plain, move |context| {
            trim(context.get_raw(0), ValueRef::Text(b" "), front, back)
        })?;
        connection.create_scalar_function(name, 2, plain, move |context| {
            trim(context.get_raw(0), context.get_raw(1), front, back)
        })?;
    }
    connection.create_scalar_function("unhex", 2, plain, |context| {
        unhex(context.get_raw(0), context.get_raw(1))
    })?;
    for name in ["printf", "format"] {
        connection.create_scalar_function(name, -1, plain, |context| printf(context))?;
    }
    let json = plain | FunctionFlags::SQLITE_RESULT_SUBTYPE;
    connection.create_scalar_function("json_patch", 2, json, |context| {
        let patched = patch("json_patch", context.get_raw(0), context.get_raw(1))?;
        let mark = matches!(patched, Answer::Text(_)).then_some(JSON);
        Ok((patched, mark))
    })?;
    connection.create_scalar_function("jsonb_patch", 2, plain, |context| {
        patch("jsonb_patch", context.get_raw(0), context.get_raw(1))
    })
}

/// What a function answers.
enum Answer {
    Null,
    Number(i64),
    /// Of any bytes, as SQLite's.
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl ToSql for Answer {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn refused(text: String) -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), Some(text))
}

/// What SQLite reads where it wants a text; None of NULL.
fn as_text(value: ValueRef<'_>) -> Result<Option<Cow<'_, [u8]>>> {
    Ok(match value {
        ValueRef::Null => None,
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(Cow::Borrowed(text)),
        ValueRef::Integer(number) => Some(Cow::Owned(number.to_string().into_bytes())),
        // It has digits of its own.
        ValueRef::Real(_) => match by_sqlite("concat", &[value])? {
            Answer::Text(text) => Some(Cow::Owned(text)),
            Answer::Null | Answer::Number(_) | Answer::Blob(_) => None,
        },
    })
}

/// Bytes of a text or a blob; what else there is has a few.
fn length(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    }
}

// ---- in time that is linear ----------------------------------------------------------------------------

fn instr(haystack: ValueRef<'_>, needle: ValueRef<'_>) -> Result<Answer> {
    let are_blobs = matches!((haystack, needle), (ValueRef::Blob(_), ValueRef::Blob(_)));
    let (Some(haystack), Some(needle)) = (as_text(haystack)?, as_text(needle)?) else {
        return Ok(Answer::Null);
    };
    // Whether a place is counted: each one of a blob, and where characters begin.
    let is_counted = |byte: u8| are_blobs || byte & 0xc0 != 0x80;
    let found = match needle.first() {
        None => Some(0),
        // What does not begin as a character does can only stand at the front.
        Some(first) if !is_counted(*first) => haystack.starts_with(&needle).then_some(0),
        Some(_) => Finder::new(&*needle).find(&haystack),
    };
    let place = found.map_or(0, |at| {
        let passed = haystack.iter().take(at + 1).skip(1);
        1 + passed.filter(|byte| is_counted(**byte)).count()
    });
    let place = i64::try_from(place).expect("a value has 16 MiB at most");
    Ok(Answer::Number(place))
}

fn replace(
    whole: ValueRef<'_>,
    pattern: ValueRef<'_>,
    replacement: ValueRef<'_>,
) -> Result<Answer> {
    let (Some(whole), Some(pattern)) = (as_text(whole)?, as_text(pattern)?) else {
        return Ok(Answer::Null);
    };
    // To SQLite a pattern that begins with a zero is empty.
    if pattern.first().is_none_or(|first| *first == 0) {
        return Ok(Answer::Text(whole.into_owned()));
    }
    let Some(replacement) = as_text(replacement)? else {
        return Ok(Answer::Null);
    };
    let finder = Finder::new(&*pattern);
    let found = finder.find_iter(&whole).count();
    let bytes = (whole.len() - found * pattern.len())
        .saturating_add(found.saturating_mul(replacement.len()));
    if bytes > VALUE_BYTES_MAX.cast_unsigned() as usize {
        let too_big = ffi::Error::new(ffi::SQLITE_TOOBIG);
        return Err(Error::SqliteFailure(too_big, None));
    }
    let mut replaced = Vec::with_capacity(bytes);
    let mut rest = 0;
    for at in finder.find_iter(&whole) {
        replaced.extend_from_slice(&whole[rest..at]);
        replaced.extend_from_slice(&replacement);
        rest = at + pattern.len();
    }
    replaced.extend_from_slice(&whole[rest..]);
    Ok(Answer::Text(replaced))
}

fn trim(whole: ValueRef<'_>, chars: ValueRef<'_>, front: bool, back: bool) -> Result<Answer> {
    let (Some(whole), Some(chars)) = (as_text(whole)?, as_text(chars)?) else {
        return Ok(Answer::Null);
    };
    let chars = Chars::of(up_to_zero(&chars));
    // Where the first character that stays begins, and the last one ends.
    let (mut first, mut last) = (None, 0);
    let mut at = 0;
    for (char, bytes) in chars_of(&whole) {
        let end = at + bytes;
        if !chars.has(char) {
            first.get_or_insert(at);
            last = end;
            if !back {
                break;
            }
        }
        at = end;
    }
    let start = match first {
        _ if !front => 0,
        Some(first) => first,
        None => whole.len(),
    };
    let end = if back { last } else { whole.len() };
    // Nothing, if no character stays.
    let trimmed = whole.get(start..end).unwrap_or_default();
    Ok(Answer::Text(trimmed.to_vec()))
}

/// `unhex` with characters that may stand between the bytes.
fn unhex(hex: ValueRef<'_>, between: ValueRef<'_>) -> Result<Answer> {
    let (Some(hex), Some(between)) = (as_text(hex)?, as_text(between)?) else {
        return Ok(Answer::Null);
    };
    let between = Chars::of(&between);
    let digit = |char: u32| char::from_u32(char)?.to_digit(16);
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    let mut chars = chars_of(up_to_zero(&hex)).map(|(char, _)| char);
    while let Some(char) = chars.next() {
        if let Some(high) = digit(char) {
            let Some(low) = chars.next().and_then(digit) else {
                return Ok(Answer::Null);
            };
            bytes.push(u8::try_from(16 * high + low).expect("two digits are a byte"));
        } else if !between.has(char) {
            return Ok(Answer::Null);
        }
    }
    Ok(Answer::Blob(bytes))
}

/// As C reads a text.
fn up_to_zero(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The characters of a text, each with its length. A byte that is in none is one by itself, with a number that no
/// character has.
fn chars_of(text: &[u8]) -> impl Iterator<Item = (u32, usize)> {
    const NO_CHAR: u32 = 0xdc00;
    text.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid().chars();
        let invalid = chunk.invalid().iter();
        valid
            .map(|char| (u32::from(char), char.len_utf8()))
            .chain(invalid.map(|byte| (NO_CHAR + u32::from(*byte), 1)))
    })
}

/// A set of characters: a bit for each, up to the last one in it, so 136 KiB for any.
#[derive(Default)]
struct Chars(Vec<u64>);

impl Chars {
    fn of(text: &[u8]) -> Self {
        let mut set = Self::default();
        for (char, _) in chars_of(text) {
            let (word, bit) = Self::place(char);
            if set.0.len() <= word {
                set.0.resize(word + 1, 0);
            }
            set.0[word] |= bit;
        }
        set
    }

    fn has(&self, char: u32) -> bool {
        let (word, bit) = Self::place(char);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn place(char: u32) -> (usize, u64) {
        ((char / 64) as usize, 1 << (char % 64))
    }
}

// ---- SQLite's own --------------------------------------------------------------------------------------

fn printf(context: &Context<'_>) -> Result<Answer> {
    let values: Vec<ValueRef<'_>> = (0..context.len()).map(|at| context.get_raw(at)).collect();
    let format = values.first().copied().map_or(0, length);
    if format > FORMAT_BYTES_MAX {
        let text = format!("a format has at most {FORMAT_BYTES_MAX} bytes");
        return Err(refused(text));
    }
    by_sqlite("printf", &values)
}

fn patch(name: &'static str, target: ValueRef<'_>, patch: ValueRef<'_>) -> Result<Answer> {
    let bytes = length(patch);
    // What it puts into the target it passes from then on.
    let work = bytes.saturating_mul(bytes + length(target));
    if work > PATCH_WORK_MAX {
        return Err(refused(format!("{name}: too large a patch")));
    }
    by_sqlite(name, &[target, patch])
}

/// How SQLite's own functions are asked, each with so many arguments.
type Statements<'conn> = RefCell<HashMap<(&'static str, usize), Statement<'conn>>>;

self_cell!(
    /// A database with SQLite's own functions, and nothing else in it.
    struct Own {
        owner: Connection,
        #[not_covariant]
        dependent: Statements,
    }
);

impl Own {
    fn open() -> Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
        Ok(Self::new(connection, |_| RefCell::default()))
    }

    fn ask(&self, function: &'static str, values: &[ValueRef<'_>]) -> Result<Answer> {
        self.with_dependent(|connection, statements| {
            let places = vec!["?"; values.len()].join(", ");
            let sql = format!("SELECT {function}({places})");
            if values.len() > KEPT_ARGUMENTS_MAX {
                return answer(&mut connection.prepare(&sql)?, values);
            }
            let mut statements = statements.borrow_mut();
            let statement = match statements.entry((function, values.len())) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(connection.prepare(&sql)?),
            };
            let answer = answer(statement, values);
            // It has copies of the values.
            statement.clear_bindings();
            answer
        })
    }
}

thread_local! {
    /// This thread's, once it has asked.
    static OWN: OnceCell<Own> = const { OnceCell::new() };
}

/// What SQLite's own function says.
fn by_sqlite(function: &'static str, values: &[ValueRef<'_>]) -> Result<Answer> {
    let ask = |own: &OnceCell<Own>| -> Result<Answer> {
        let own = match own.get() {
            Some(own) => own,
            None => {
                let opened = Own::open()?;
                own.get_or_init(|| opened)
            }
        };
        own.ask(function, values)
    };
    OWN.with(ask).map_err(|error| match error {
        // With a text of its own it would have the code of any other error.
        Error::SqliteFailure(cause, _) if cause.extended_code != ffi::SQLITE_ERROR => {
            Error::SqliteFailure(cause, None)
        }
        other => other,
    })
}

fn answer(statement: &mut Statement<'_>, values: &[ValueRef<'_>]) -> Result<Answer> {
    for (at, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(at + 1, ToSqlOutput::Borrowed(*value))?;
    }
    let mut rows = statement.raw_query();
    let Some(row) = rows.next()? else {
        return Ok(Answer::Null);
    };
    Ok(match row.get_ref(0)? {
        ValueRef::Text(text) => Answer::Text(text.to_vec()),
        ValueRef::Blob(bytes) => Answer::Blob(bytes.to_vec()),
        ValueRef::Integer(number) => Answer::Number(number),
        // None of those that are asked answers with another number.
        ValueRef::Null | ValueRef::Real(_) => Answer::Null,
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Params;
    use rusqlite::types::{FromSql, Value};

    use super::super::stack;
    use super::*;

    /// As long as a value may be.
    const LONGEST: usize = VALUE_BYTES_MAX as usize;

    fn in_memory() -> Connection {
        // It comes before any connection of the program, whichever test is the first.
        stack::install().unwrap();
        Connection::open_in_memory().unwrap()
    }

    fn with_these() -> Connection {
        let connection = in_memory();
        install(&connection).unwrap();
        connection
    }

    fn told<T: FromSql>(connection: &Connection, sql: &str, values: impl Params) -> Result<T> {
        connection.query_row(&format!("SELECT {sql}"), values, |row| row.get(0))
    }

    #[test]
    fn what_is_answered_is_what_sqlite_answers() {
        let (these, own) = (with_these(), in_memory());
        for (sql, expected) in [
            ("instr('abcabc', 'ca')", "3"),
            ("instr('äbc', 'c')", "3"),
            ("instr('äbc', 'ä')", "1"),
            ("instr('abc', 'abcd')", "0"),
            ("instr('abc', '')", "1"),
            ("instr('', '')", "1"),
            ("instr('', 'a')", "0"),
            ("instr(NULL, 'a')", "NULL"),
            ("instr('a', NULL)", "NULL"),
            // Bytes if both are blobs, else characters.
            ("instr(x'c3a462', x'62')", "3"),
            ("instr(x'c3a462', x'a4')", "2"),
            ("instr(x'c3a462', 'b')", "2"),
            ("instr('äb', x'62')", "2"),
            ("instr('ä', x'a4')", "0"),
            ("instr(CAST(x'a462' AS TEXT), x'a4')", "1"),
            ("instr(x'', x'')", "1"),
            ("instr(12345, 34)", "3"),
            ("instr(-2.5, '.5')", "3"),
            ("instr(1e300, 'e')", "4"),
            ("instr('a' || char(0) || 'b', 'b')", "3"),
            ("instr('a' || char(0) || 'b', char(0) || 'b')", "2"),
            ("replace('aaaaa', 'aa', 'b')", "'bba'"),
            ("replace('abc', 'b', 'xyz')", "'axyzc'"),
            ("replace('ääö', 'ä', '')", "'ö'"),
            ("replace('abc', 'abcd', 'x')", "'abc'"),
            ("replace('abc', '', 'x')", "'abc'"),
            ("replace('abc', '', NULL)", "'abc'"),
            ("replace('abc', 'b', NULL)", "NULL"),
            ("replace('abc', NULL, 'x')", "NULL"),
            ("replace(NULL, 'b', 'x')", "NULL"),
            ("replace(x'616263', 'b', x'78')", "'axc'"),
            ("typeof(replace(x'', 'b', 'x'))", "'text'"),
            ("typeof(replace(123, '', 'x'))", "'text'"),
            ("replace(1.5, '.', 2)", "'125'"),
            (
                "hex(replace('a' || char(0) || 'b', char(0), 'x'))",
                "'610062'",
            ),
            ("hex(replace('a' || char(0) || 'b', 'b', 'c'))", "'610063'"),
            ("hex(replace(x'ff61', 'a', 'b'))", "'FF62'"),
            ("trim('  a b ')", "'a b'"),
            ("ltrim('  a b ')", "'a b '"),
            ("rtrim('  a b ')", "'  a b'"),
            ("trim('   ')", "''"),
            ("ltrim('   ')", "''"),
            ("rtrim('   ')", "''"),
            ("trim('')", "''"),
            ("trim('äaä', 'ä')", "'a'"),
            ("trim('aä日bä', '日aä')", "'b'"),
            ("ltrim('日本日', '日')", "'本日'"),
            ("rtrim('日本日', '日')", "'日本'"),
            ("trim('abc', '')", "'abc'"),
            ("trim('abc', NULL)", "NULL"),
            ("trim(NULL)", "NULL"),
            ("trim(NULL, 'a')", "NULL"),
            ("trim(1.50, '05')", "'1.'"),
            ("typeof(trim(55))", "'text'"),
            ("trim(x'206120')", "'a'"),
            ("trim('xayx', 'x' || char(0) || 'ay')", "'ay'"),
            ("hex(trim(' a' || char(0) || ' '))", "'6100'"),
            ("unhex('41-42 43', '- ')", "X'414243'"),
            ("unhex('ä4aÄ', 'äÄ')", "X'4A'"),
            ("unhex('4-1', '-')", "NULL"),
            ("unhex('41x', '-')", "NULL"),
            ("unhex('414', '')", "NULL"),
            ("unhex('', '-')", "X''"),
            ("unhex(4142, '')", "X'4142'"),
            ("unhex(NULL, '-')", "NULL"),
            ("unhex('41', NULL)", "NULL"),
            ("printf('%05d|%s|%.2f', 42, x'61', 1.5)", "'00042|a|1.50'"),
            (
                "format('%d%d%d%d%d%d%d%d%d', 1, 2, 3, 4, 5, 6, 7, 8, 9)",
                "'123456789'",
            ),
            ("format('%s|%d')", "'|0'"),
            ("printf(NULL, 1)", "NULL"),
            ("printf()", "NULL"),
            (
                r#"json_patch('{"a":1,"b":2}', '{"a":null,"c":3}')"#,
                r#"'{"b":2,"c":3}'"#,
            ),
            (
                r#"json_array(json_patch('{}', '{"a":1}'))"#,
                r#"'[{"a":1}]'"#,
            ),
            (
                r#"json(jsonb_patch(jsonb('{}'), '{"a":1}'))"#,
                r#"'{"a":1}'"#,
            ),
            ("typeof(jsonb_patch('{}', '{}'))", "'blob'"),
            ("json_patch(NULL, '{}')", "NULL"),
            ("json_patch('{}', NULL)", "NULL"),
        ] {
            let sql = format!("quote({sql})");
            assert_eq!(told::<String>(&own, &sql, ()).unwrap(), expected, "{sql}");
            assert_eq!(told::<String>(&these, &sql, ()).unwrap(), expected, "{sql}");
        }
        let malformed = told::<Value>(&these, "json_patch('{', '{}')", ()).unwrap_err();
        assert_eq!(malformed.to_string(), "malformed JSON");
    }

    /// All texts of up to three characters, against each other.
    #[test]
    fn short_texts_have_the_answers_that_sqlite_gives() {
        let (these, own) = (with_these(), in_memory());
        let mut texts = vec![String::new()];
        let mut next = 0;
        while texts[next].chars().count() < 3 {
            for char in ["a", "ä", "\0"] {
                texts.push(texts[next].clone() + char);
            }
            next += 1;
        }
        assert_eq!(texts.len(), 1 + 3 + 9 + 27);
        for sql in [
            "SELECT instr(?1, ?2)",
            "SELECT hex(replace(?1, ?2, 'xyz'))",
            "SELECT hex(replace(?1, ?2, ''))",
            "SELECT hex(trim(?1, ?2))",
            "SELECT hex(ltrim(?1, ?2))",
            "SELECT hex(rtrim(?1, ?2))",
        ] {
            let mut asked = [&these, &own].map(|connection| connection.prepare(sql).unwrap());
            for one in &texts {
                for other in &texts {
                    let [these, own] = asked.each_mut().map(|statement| {
                        let row = |row: &rusqlite::Row<'_>| row.get::<_, Value>(0);
                        statement.query_row((one, other), row).unwrap()
                    });
                    assert_eq!(these, own, "{sql} of {one:?} and {other:?}");
                }
            }
        }
    }

    /// SQLite's own take hours for each of these.
    #[test]
    fn the_longest_values_take_a_moment() {
        let these = with_these();
        let long = "a".repeat(LONGEST);
        let other = "a".repeat(LONGEST / 2) + "b";
        let place: i64 = told(&these, "instr(?1, ?2)", (&long, &other)).unwrap();
        assert_eq!(place, 0);
        let place = "instr(CAST(?1 AS BLOB), CAST(?2 AS BLOB))";
        let place: i64 = told(&these, place, (&long, &other)).unwrap();
        assert_eq!(place, 0);
        let same: bool = told(&these, "replace(?1, ?2, '') = ?1", (&long, &other)).unwrap();
        assert!(same);
        // Each character is looked at by itself, which is slow enough in a debug build.
        let length = LONGEST / 4;
        let (long, many) = ("a".repeat(length), "b".repeat(length) + "a");
        for name in ["trim", "ltrim", "rtrim"] {
            let sql = format!("{name}(?1, ?2)");
            let rest: String = told(&these, &sql, (&long, &many)).unwrap();
            assert_eq!(rest, "");
        }
        let (gaps, many) = ("-".repeat(length) + "41", " ".repeat(length) + "-");
        let bytes: Vec<u8> = told(&these, "unhex(?1, ?2)", (&gaps, &many)).unwrap();
        assert_eq!(bytes, [0x41]);
    }

    #[test]
    fn a_replacement_that_makes_too_long_a_text_is_refused() {
        let these = with_these();
        let long = "a".repeat(LONGEST);
        let fits: String = told(&these, "replace(?1, 'aa', 'bc')", [&long]).unwrap();
        assert_eq!(fits.len(), LONGEST);
        let too_big: Result<String> = told(&these, "replace(?1 || 'b', 'b', 'cc')", [&long]);
        let code = too_big.unwrap_err().sqlite_error().unwrap().extended_code;
        assert_eq!(code, ffi::SQLITE_TOOBIG);
    }

    /// What each of these bounds lets through is SQLite's work.
    #[test]
    fn what_sqlite_takes_long_for_is_refused() {
        let these = with_these();
        let is_refused = |sql: &str, values: &[&str], why: &str| {
            let values = rusqlite::params_from_iter(values);
            let error = told::<Value>(&these, sql, values).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        };
        let digits = "%!.9999999f".repeat(LONGEST / 11);
        is_refused("printf(?1)", &[&digits], "a format has at most 16384 bytes");
        is_refused(
            "format(?1, 1)",
            &[&digits],
            "a format has at most 16384 bytes",
        );
        let longest: String = told(&these, "printf(?1)", [&"a".repeat(FORMAT_BYTES_MAX)]).unwrap();
        assert_eq!(longest.len(), FORMAT_BYTES_MAX);
        let names = |count: usize| {
            let names: Vec<String> = (0..count).map(|name| format!("\"{name}\":1")).collect();
            format!("{{{}}}", names.join(","))
        };
        let (large, small) = (names(100_000), names(10));
        for name in ["json_patch", "jsonb_patch"] {
            let sql = format!("{name}(?1, ?2)");
            is_refused(&sql, &[&large, &large], "too large a patch");
            is_refused(&sql, &[&small, &large], "too large a patch");
        }
        let patched: String = told(&these, "json_patch(?1, ?2)", (&large, &small)).unwrap();
        assert_eq!(patched, large);
    }
}
