//! The tests that a module exports, and which of them are asked for.
//!
//! `#[lunatic::test]` makes each test an export without parameters whose name says what is expected:
//!
//! ```text
//! #lunatic_test_[#ignore_][#panic_TEXT#]PATH        `#` inside of TEXT is written `\#`
//! ```
//!
//! A name that begins so and goes on otherwise is a fault, never a test left out.

use std::collections::BTreeSet;

use super::flags::Flags;

/// How the export of a test begins.
const TEST: &str = "#lunatic_test_";
const IGNORE: &str = "#ignore_";
const PANIC: &str = "#panic_";

/// What libtest reads from the environment; a module has this text only if its `_start` is libtest's.
const LIBTEST: &[u8] = b"RUST_TEST_SHUFFLE_SEED";

/// One test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    /// What people call it: its path inside of its crate.
    pub(super) name: String,
    /// Its path with the name of the crate.
    pub(super) path: String,
    /// Runs only if asked for.
    pub(super) ignored: bool,
    pub(super) code: Code,
}

/// Where a test's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Code {
    /// In an export of this name. With a text, it must fail and have printed the text.
    Export {
        name: String,
        panics: Option<String>,
    },
    /// Behind libtest's `_start`: an ordinary `#[test]`.
    Libtest,
}

/// The tests among the names of exported functions, by name.
///
/// # Errors
///
/// The export whose name cannot be read.
pub(super) fn tests<'a>(exports: impl Iterator<Item = &'a str>) -> Result<Vec<Test>, String> {
    let mut tests = exports
        .filter(|export| export.starts_with(TEST))
        .map(|export| read(export).ok_or_else(|| export.to_owned()))
        .collect::<Result<Vec<Test>, String>>()?;
    // libtest leaves out the crate, so editors do, too. Tests of several crates keep it.
    let crates: BTreeSet<&str> = tests.iter().filter_map(Test::krate).collect();
    if crates.len() == 1 && tests.iter().all(|test| test.krate().is_some()) {
        for test in &mut tests {
            let inside = test.path.split_once("::").map(|(_, inside)| inside);
            test.name = inside.unwrap_or(&test.path).to_owned();
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// Whether `_start` of a module is the main function of libtest.
pub(super) fn has_libtest(module: &[u8]) -> bool {
    module
        .windows(LIBTEST.len())
        .any(|window| window == LIBTEST)
}

/// The ordinary tests in what libtest prints for `--list --format terse`.
pub(super) fn listed(text: &str, ignored: &str) -> Vec<Test> {
    let names = |text: &str| -> BTreeSet<String> {
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        names.map(str::to_owned).collect()
    };
    let ignored = names(ignored);
    let test = |name: String| Test {
        ignored: ignored.contains(&name),
        path: name.clone(),
        name,
        code: Code::Libtest,
    };
    names(text).into_iter().map(test).collect()
}

/// The tests that the flags ask for, in order; how many were left out.
pub(super) fn select(mut tests: Vec<Test>, flags: &Flags) -> (Vec<Test>, usize) {
    let all = tests.len();
    tests.retain(|test| {
        let is = |filter: &String| test.matches(filter, flags.exact);
        (flags.filters.is_empty() || flags.filters.iter().any(is))
            && !flags.skip.iter().any(is)
            && (test.ignored || !flags.ignored || flags.include_ignored)
    });
    for test in &mut tests {
        test.ignored = flags.bench || test.ignored && !flags.ignored && !flags.include_ignored;
    }
    let left_out = all - tests.len();
    (tests, left_out)
}

impl Test {
    /// The name in a line of the report.
    pub(super) fn shown(&self) -> String {
        match &self.code {
            Code::Export {
                panics: Some(_), ..
            } => format!("{} - should panic", self.name),
            _ => self.name.clone(),
        }
    }

    fn krate(&self) -> Option<&str> {
        self.path.split_once("::").map(|(krate, _)| krate)
    }

    /// By name, as libtest does it; a filter that starts at the crate works, too.
    fn matches(&self, filter: &str, exact: bool) -> bool {
        if exact {
            self.name == filter || self.path == filter
        } else {
            self.name.contains(filter) || filter.contains("::") && self.path.starts_with(filter)
        }
    }
}

fn read(export: &str) -> Option<Test> {
    let mut rest = export.strip_prefix(TEST)?;
    let mut ignored = false;
    if let Some(behind) = rest.strip_prefix(IGNORE) {
        (rest, ignored) = (behind, true);
    }
    let mut panics = None;
    if let Some(behind) = rest.strip_prefix(PANIC) {
        let end = end_of_text(behind)?;
        panics = Some(behind[..end].replace("\\#", "#"));
        rest = &behind[end + 1..];
    }
    if rest.is_empty() || rest.starts_with('#') {
        return None;
    }
    Some(Test {
        name: rest.to_owned(),
        path: rest.to_owned(),
        ignored,
        code: Code::Export {
            name: export.to_owned(),
            panics,
        },
    })
}

/// Where the `#` is that ends the text: the first one without a backslash before it. If all have one,
/// the text itself ends in a backslash, and it is the last.
fn end_of_text(text: &str) -> Option<usize> {
    let ends = || text.match_indices('#').map(|(at, _)| at);
    ends()
        .find(|&at| !text[..at].ends_with('\\'))
        .or_else(|| ends().next_back())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn one(export: &str) -> Test {
        tests([export].into_iter()).unwrap().remove(0)
    }

    fn panics(export: &str) -> (String, Option<String>) {
        let test = one(export);
        match test.code {
            Code::Export { panics, .. } => (test.path, panics),
            Code::Libtest => unreachable!("it is an export"),
        }
    }

    #[test]
    fn names_say_what_is_expected() {
        let test = one("#lunatic_test_demo::tests::adds");
        assert_eq!(
            (&*test.name, &*test.path),
            ("tests::adds", "demo::tests::adds")
        );
        assert!(!test.ignored && one("#lunatic_test_#ignore_demo::slow").ignored);
        for (export, text) in [
            ("#lunatic_test_demo::a", None),
            ("#lunatic_test_#panic_#demo::a", Some("")),
            ("#lunatic_test_#panic_no way#demo::a", Some("no way")),
            (
                r"#lunatic_test_#panic_n\# 1, n\# 2#demo::a",
                Some("n# 1, n# 2"),
            ),
            (r"#lunatic_test_#panic_a\\#b#demo::a", Some(r"a\#b")),
            (
                r"#lunatic_test_#panic_ends in \#demo::a",
                Some(r"ends in \"),
            ),
            ("#lunatic_test_#ignore_#panic_x#demo::a", Some("x")),
        ] {
            let expected = ("demo::a".to_owned(), text.map(str::to_owned));
            assert_eq!(panics(export), expected, "{export}");
        }
        assert_eq!(one("#lunatic_test_demo::r#try").name, "r#try");
        assert_eq!(
            one("#lunatic_test_#panic_#demo::a").shown(),
            "a - should panic"
        );
    }

    #[test]
    fn names_that_cannot_be_read_are_no_tests_left_out() {
        for export in [
            "#lunatic_test_",
            "#lunatic_test_#ignore_",
            "#lunatic_test_#panic_text",
            "#lunatic_test_#flaky_demo::a",
            "#lunatic_test_#panic_x##ignore_demo::a",
        ] {
            assert_eq!(tests([export].into_iter()), Err(export.to_owned()));
        }
        assert_eq!(tests(["_start", "memory"].into_iter()), Ok(Vec::new()));
    }

    #[test]
    fn tests_of_several_crates_keep_its_name() {
        let both = tests(["#lunatic_test_b::t", "#lunatic_test_a::t"].into_iter()).unwrap();
        let names: Vec<&str> = both.iter().map(|test| &*test.name).collect();
        assert_eq!(names, ["a::t", "b::t"]);
    }

    fn chosen(flags: &[&str]) -> (Vec<String>, usize) {
        let exports = [
            "#lunatic_test_demo::add",
            "#lunatic_test_demo::add_more",
            "#lunatic_test_#ignore_demo::sub",
        ];
        let flags = Flags::try_parse_from([&["t"], flags].concat()).unwrap();
        let (tests, left_out) = select(tests(exports.into_iter()).unwrap(), &flags);
        let mark = |test: Test| test.name + if test.ignored { " (ignored)" } else { "" };
        (tests.into_iter().map(mark).collect(), left_out)
    }

    #[test]
    fn filters_are_those_of_libtest() {
        let cases: &[(&[&str], &[&str], usize)] = &[
            (&[], &["add", "add_more", "sub (ignored)"], 0),
            (&["add"], &["add", "add_more"], 1),
            (&["add", "--exact"], &["add"], 2),
            (&["demo::add", "--exact"], &["add"], 2),
            (&["demo::a"], &["add", "add_more"], 1),
            (&["demo"], &[], 3),
            (&["more", "sub"], &["add_more", "sub (ignored)"], 1),
            (&["--skip", "more", "--skip=sub"], &["add"], 2),
            (
                &["--skip", "add", "--exact"],
                &["add_more", "sub (ignored)"],
                1,
            ),
            (&["--ignored"], &["sub"], 2),
            (&["--include-ignored", "s"], &["sub"], 2),
            (&["nothing"], &[], 3),
        ];
        for (flags, names, left_out) in cases {
            assert_eq!(
                chosen(flags),
                (names.iter().map(|&n| n.into()).collect(), *left_out),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn ordinary_tests_are_found_in_the_list_of_libtest() {
        let found = listed("a: test\nb::c: test\nbench: benchmark\n\n", "b::c: test\n");
        let found: Vec<(&str, bool)> = found.iter().map(|t| (&*t.name, t.ignored)).collect();
        assert_eq!(found, [("a", false), ("b::c", true)]);
        assert!(has_libtest(b"..RUST_TEST_SHUFFLE_SEED..") && !has_libtest(b"RUST_TEST"));
    }
}
