//! Rules of this repository that no compiler checks.
//!
//! Goal: the walls between the rooms stay where they are. Method: every text file is read,
//! and each rule says where in it something stands that must not. A rule is a reason, the
//! files it is about, and words; `every_rule_can_fail` shows each of them a sin first, so a
//! rule that has gone blind is found.

use std::fs;
use std::path::Path;

/// A text file of the repository.
struct File {
    /// From the top of the repository, with `/` between its parts.
    path: String,
    text: String,
}

/// Something that must not stand in some files.
struct Rule {
    name: &'static str,
    /// Why, for whoever meets it.
    reason: &'static str,
    /// Whether the rule is about this file.
    about: fn(&str) -> bool,
    /// The line numbers, from 1, at which it is broken.
    broken_at: fn(&File) -> Vec<usize>,
    /// A file that breaks it: path and text.
    sin: (&'static str, &'static str),
    /// A file that does not, though it looks like it.
    virtue: (&'static str, &'static str),
}

const RULES: &[Rule] = &[
    Rule {
        name: "the protocol is a function of its inputs",
        reason: "clocks, sockets, executors and random order would make a run impossible to \
                 repeat; they are handed in as values",
        about: |path| path.starts_with("src/proto/") && path.ends_with(".rs"),
        broken_at: |file| {
            words(
                file,
                &[
                    "tokio",
                    "async",
                    "await",
                    "Instant",
                    "SystemTime",
                    "rand",
                    "HashMap",
                    "HashSet",
                    "std::net",
                    "std::fs",
                    "std::env",
                    "std::thread",
                ],
            )
        },
        sin: ("src/proto/session.rs", "use std::collections::HashMap;"),
        virtue: (
            "src/proto/session.rs",
            "// a HashMap has no order\nlet random = operand;",
        ),
    },
    Rule {
        name: "bytes on the wire are made in one file",
        reason: "the wire format is read and reviewed in one place",
        about: |path| is_rust(path) && !["src/proto/wire.rs", "src/host/sqlite.rs"].contains(&path),
        broken_at: |file| words(file, &["bincode"]),
        sin: ("node/src/dist.rs", "bincode::serde::encode_to_vec(frame)"),
        virtue: ("src/proto/wire.rs", "bincode::serde::encode_to_vec(frame)"),
    },
    Rule {
        name: "one room knows QUIC",
        reason: "the transport can be replaced, and sessions can be tested without it",
        about: |path| is_rust(path) && !path.starts_with("node/src/transport"),
        broken_at: |file| words(file, &["quinn", "quinn_proto"]),
        sin: ("node/src/dist.rs", "use quinn::Connection;"),
        virtue: (
            "node/src/dist.rs",
            "/// As quinn does it.\nuse crate::transport::Lane;",
        ),
    },
    Rule {
        name: "two folders know wasmtime",
        reason: "the engine is an implementation detail of running a guest",
        about: |path| {
            is_rust(path)
                && !path.starts_with("src/wasm/")
                && !path.starts_with("src/host/")
                // Runs guests without Tidelock, to be compared with.
                && path != "benches/peers/src/bin/plain.rs"
        },
        broken_at: |file| words(file, &["wasmtime", "wasmtime_wasi"]),
        sin: ("src/environment.rs", "use wasmtime::Engine;"),
        virtue: ("src/wasm/instance.rs", "use wasmtime::Engine;"),
    },
    Rule {
        name: "one crate makes certificates",
        reason: "who may be whom is decided in one place",
        about: |path| is_rust(path) && !path.starts_with("certs/"),
        broken_at: |file| words(file, &["rcgen"]),
        sin: (
            "node/src/lib.rs",
            "rcgen::generate_simple_self_signed(names)",
        ),
        virtue: ("certs/src/authority.rs", "use rcgen::KeyPair;"),
    },
    Rule {
        name: "one file knows the database",
        reason: "control can keep its books elsewhere without the rest noticing",
        about: |path| is_rust(path) && !path.starts_with("control/src/store"),
        broken_at: |file| {
            // The name is a file's ending, too.
            let code: Vec<&str> = file.text.lines().collect();
            let mut lines = words(file, &["redb"]);
            lines.retain(|line| !code[line - 1].contains(".redb"));
            lines
        },
        sin: ("control/src/server.rs", "use redb::Database;"),
        virtue: ("control/src/store.rs", "use redb::Database;"),
    },
    Rule {
        name: "one folder knows SQLite",
        reason: "what a guest's statements may reach is decided in one place",
        about: |path| {
            is_rust(path)
                && ![
                    "src/host/sqlite.rs",
                    "src/host/sqlite/bounds.rs",
                    "src/host/sqlite/bounds/tests.rs",
                    "src/host/sqlite/connection.rs",
                    "src/host/sqlite/connection/tests.rs",
                    "src/host/sqlite/functions.rs",
                    "src/host/sqlite/stack.rs",
                ]
                .contains(&path)
        },
        broken_at: |file| words(file, &["rusqlite", "landlock"]),
        sin: ("src/host/wasi.rs", "use rusqlite::Connection;"),
        virtue: ("src/host/sqlite/connection.rs", "use rusqlite::Connection;"),
    },
    Rule {
        name: "unsafe code is in few files",
        reason: "each of them is short enough to be argued line by line",
        about: |path| {
            is_rust(path)
                && ![
                    "src/wasm/slab/memories.rs",
                    "src/wasm/slab/pages.rs",
                    "src/wasm/slab/stacks.rs",
                    "src/wasm/slab/testing.rs",
                    "src/wasm/slab/tests.rs",
                    "src/wasm/cache.rs",
                    "src/host/sqlite/stack.rs",
                    "sdk/src/sys.rs",
                    // Guests of Lunatic's own crate, whose lowest layer is unsafe to call.
                    "examples/guests/src/bin/lunatic_smoke.rs",
                    "examples/guests/src/bin/lunatic_cluster.rs",
                ]
                .contains(&path)
        },
        broken_at: |file| words(file, &["unsafe"]),
        sin: ("src/process.rs", "unsafe { std::mem::transmute(x) }"),
        virtue: (
            "src/process.rs",
            "#![deny(unsafe_code)]\n// nothing unsafe here",
        ),
    },
    Rule {
        name: "a document has one title",
        reason: "two titles are two documents",
        about: |path| path.ends_with(".md"),
        broken_at: titles,
        sin: ("docs/a.md", "# One\n\n# Two\n"),
        virtue: ("docs/a.md", "# One\n\n```sh\n# a comment\n```\n\n## Two\n"),
    },
    Rule {
        name: "no private key is in the repository",
        reason: "keys are made where they are used, tests included",
        about: |_| true,
        broken_at: |file| parts(file, &[concat!("PRIVATE", " KEY-----")]),
        sin: (
            "certs/tests/key.pem",
            concat!("-----BEGIN EC PRIVATE", " KEY-----"),
        ),
        virtue: ("docs/a.md", "the private key stays on the node"),
    },
    Rule {
        name: "no path of somebody's machine",
        reason: "it means nothing on another one",
        about: |_| true,
        broken_at: |file| {
            let places = [
                concat!("/ro", "ot/"),
                concat!("/ho", "me/"),
                concat!("/Us", "ers/"),
                concat!("/wo", "rk/"),
            ];
            parts(file, &places)
        },
        sin: ("docs/a.md", concat!("see /ho", "me/ada/tidelock")),
        virtue: ("docs/a.md", "see ~/tidelock, at home/"),
    },
    Rule {
        name: "a test that sleeps says why",
        reason: "a sleep is too short on a busy machine and too long on an idle one, so tests \
                 wait for what is meant. Where time itself is meant, or a loop pauses between \
                 two looks, the line ends in a comment",
        about: |path| {
            is_rust(path)
                && (path.starts_with("tests/")
                    || path.contains("/tests/")
                    || path.ends_with("/tests.rs"))
        },
        broken_at: |file| {
            let mut lines = parts(file, &[concat!("sle", "ep(")]);
            let text: Vec<&str> = file.text.lines().collect();
            lines.retain(|line| !text[line - 1].contains("; // "));
            lines
        },
        sin: ("tests/cluster.rs", concat!("thread::sle", "ep(SECOND);")),
        virtue: (
            "tests/cluster.rs",
            concat!("thread::sle", "ep(MOMENT); // between two looks"),
        ),
    },
    Rule {
        name: "lines end where they end",
        reason: "trailing blanks make noise in every later change",
        // Inputs of fuzz/ are bytes, though some could be text.
        about: |path| !path.ends_with(".txt") && !path.starts_with("fuzz/corpus/"),
        broken_at: |file| {
            lines(file, |line| {
                line.ends_with(' ') || line.ends_with('\t') || line.ends_with('\r')
            })
        },
        sin: ("docs/a.md", "text \nmore"),
        virtue: ("docs/a.md", "text\nmore"),
    },
];

#[test]
fn every_rule_holds() {
    let files = files();
    assert!(files.len() > 50, "only {} files found", files.len());
    let mut faults = Vec::new();
    for file in &files {
        for rule in RULES.iter().filter(|rule| (rule.about)(&file.path)) {
            for line in (rule.broken_at)(file) {
                faults.push(format!(
                    "{}:{line}: {}\n    {}",
                    file.path, rule.name, rule.reason
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_rule_can_fail() {
    for rule in RULES {
        let breaks = |(path, text): (&str, &str)| {
            let file = File {
                path: path.to_owned(),
                text: text.to_owned(),
            };
            (rule.about)(path) && !(rule.broken_at)(&file).is_empty()
        };
        assert!(
            breaks(rule.sin),
            "{:?} does not see {:?}",
            rule.name,
            rule.sin
        );
        assert!(
            !breaks(rule.virtue),
            "{:?} is angry about {:?}",
            rule.name,
            rule.virtue
        );
    }
}

/// A promise without its test is not one: whoever renames a test finds it named here.
#[test]
fn every_test_that_the_security_table_names_is_there() {
    let files = files();
    let document = files.iter().find(|file| file.path == "docs/security.md");
    let document = &document.expect("docs/security.md is there").text;
    let tests: String = files
        .iter()
        .filter(|file| is_rust(&file.path))
        .map(|file| file.text.as_str())
        .collect();
    let named: Vec<&str> = tests_named_in(document).collect();
    assert!(named.len() > 50, "only {} tests are named", named.len());
    let missing: Vec<&&str> = named
        .iter()
        .filter(|name| !tests.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

/// The names in the last column of its tables.
/// Its first guest is one that is compiled and run.
#[test]
fn the_readme_shows_a_guest_that_there_is() {
    let files = files();
    let text = |path: &str| {
        let file = files.iter().find(|file| file.path == path);
        &file.expect("it is there").text
    };
    let guest = text("examples/guests/src/bin/first_guest.rs");
    let (_, program) = guest.split_once("\n\n").expect("what it is comes first");
    let readme = text("README.md");
    assert!(readme.contains(&format!("```rust\n{program}```\n")));
}

fn tests_named_in(document: &str) -> impl Iterator<Item = &str> {
    document
        .lines()
        .filter_map(|line| line.strip_suffix('|')?.rsplit_once('|'))
        .flat_map(|(_, last)| last.split('`').skip(1).step_by(2))
        .map(|name| name.rsplit_once("::").map_or(name, |(_, name)| name))
}

fn is_rust(path: &str) -> bool {
    // This file names what it forbids.
    path.ends_with(".rs") && path != "tests/tidy.rs"
}

/// The lines of code, comments left out, in which one of the words stands as a whole word.
fn words(file: &File, words: &[&str]) -> Vec<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    lines(file, |line| {
        let code = line.split("//").next().unwrap_or_default();
        words.iter().any(|word| {
            code.match_indices(word).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                let after = code[at + word.len()..].chars().next();
                !before.is_some_and(is_part) && !after.is_some_and(is_part)
            })
        })
    })
}

/// The lines in which one of the texts stands, be it in a comment.
fn parts(file: &File, texts: &[&str]) -> Vec<usize> {
    lines(file, |line| texts.iter().any(|text| line.contains(text)))
}

fn lines(file: &File, is_broken: impl Fn(&str) -> bool) -> Vec<usize> {
    file.text
        .split('\n')
        .zip(1..)
        .filter(|(line, _)| is_broken(line))
        .map(|(_, number)| number)
        .collect()
}

/// The titles of a document after the first, or its first line if it has none.
fn titles(file: &File) -> Vec<usize> {
    let mut in_code = false;
    let mut titles = Vec::new();
    for (line, number) in file.text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code && line.starts_with("# ") {
            titles.push(number);
        }
    }
    match titles.len() {
        0 => vec![1],
        _ => titles.split_off(1),
    }
}

/// All text files of the repository that git does not ignore.
fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    collect(&root, "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(folder: &Path, inside: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("folders of the repository can be read") {
        let entry = entry.expect("folders of the repository can be read");
        let name = entry.file_name().into_string().expect("names are text");
        let kind = entry.file_type().expect("files have a type");
        // In a second checkout `.git` is a file that says where the first is.
        if ["target", ".git"].contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), &format!("{inside}{name}/"), files);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push(File {
                path: format!("{inside}{name}"),
                text,
            });
        }
    }
}
