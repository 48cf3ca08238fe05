//! What is said of tests while they run and at the end, in the words and the form of libtest.
//!
//! Programs read this text, too: editors, and whoever counts failures. So it is kept to the letter.

use std::{fmt::Write as _, time::Duration};

use super::{exports::Test, flags::Form};
use crate::cli::{
    failure::Outcome,
    output::{Output, Tone},
};

/// Characters on one line of the terse form.
const COLUMNS: usize = 88;

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Ignored,
    /// With what its output does not say.
    Failed(Option<String>),
}

/// A test that is over, with what was printed.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) test: Test,
    pub(super) verdict: Verdict,
    pub(super) printed: Vec<u8>,
}

/// Prints what happens and counts it.
pub(super) struct Report<'a> {
    out: &'a Output,
    form: Form,
    /// One test at a time: its name is printed when it starts.
    alone: bool,
    show_passed: bool,
    total: usize,
    left_out: usize,
    told: usize,
    column: usize,
    passed: usize,
    ignored: usize,
    failures: Vec<Done>,
    successes: Vec<Done>,
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a Output, form: Form, alone: bool, show_passed: bool) -> Self {
        Self {
            out,
            form,
            alone,
            show_passed,
            total: 0,
            left_out: 0,
            told: 0,
            column: 0,
            passed: 0,
            ignored: 0,
            failures: Vec::new(),
            successes: Vec::new(),
        }
    }

    /// The first line.
    pub(super) fn begins(&mut self, total: usize, left_out: usize) -> Outcome {
        (self.total, self.left_out) = (total, left_out);
        let noun = if total == 1 { "test" } else { "tests" };
        self.say(&format!("\nrunning {total} {noun}\n"))
    }

    /// A test starts.
    pub(super) fn starts(&self, test: &Test) -> Outcome {
        if self.alone && self.form == Form::Pretty {
            self.say(&format!("test {} ... ", test.shown()))?;
        }
        Ok(())
    }

    /// A test takes long.
    pub(super) fn is_slow(&self, test: &Test, after: Duration) -> Outcome {
        let (name, seconds) = (&test.name, after.as_secs());
        self.say(&format!(
            "test {name} has been running for over {seconds} seconds\n"
        ))
    }

    /// A test is over.
    pub(super) fn ends(&mut self, done: Done) -> Outcome {
        match self.form {
            Form::Pretty => self.line(&done)?,
            Form::Terse => self.character(&done)?,
        }
        match done.verdict {
            Verdict::Passed => {
                self.passed += 1;
                if self.show_passed {
                    self.successes.push(done);
                }
            }
            Verdict::Ignored => self.ignored += 1,
            Verdict::Failed(_) => self.failures.push(done),
        }
        Ok(())
    }

    /// The last lines. Returns whether nothing failed.
    pub(super) fn finishes(&self, took: Duration) -> Outcome<bool> {
        // None is kept if nobody asked for them.
        if self.show_passed {
            self.say(&details("successes", &self.successes))?;
        }
        if !self.failures.is_empty() {
            self.say(&details("failures", &self.failures))?;
        }
        self.say(&self.result(self.failures.len(), took))?;
        Ok(self.failures.is_empty())
    }

    fn result(&self, failed: usize, took: Duration) -> String {
        let word = if failed == 0 {
            self.out.tone(Tone::Good, "ok")
        } else {
            self.out.tone(Tone::Bad, "FAILED")
        };
        let Self {
            passed,
            ignored,
            left_out,
            ..
        } = self;
        format!(
            "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
             {left_out} filtered out; finished in {:.2}s\n\n",
            took.as_secs_f64()
        )
    }

    fn line(&self, done: &Done) -> Outcome {
        let name = done.test.shown();
        let (tone, word) = match done.verdict {
            Verdict::Passed => (Tone::Good, "ok"),
            Verdict::Ignored => (Tone::Warn, "ignored"),
            Verdict::Failed(_) => (Tone::Bad, "FAILED"),
        };
        let word = self.out.tone(tone, word);
        if self.alone {
            // The rest of a line.
            self.say(&format!("{word}\n"))
        } else {
            self.say(&format!("test {name} ... {word}\n"))
        }
    }

    fn character(&mut self, done: &Done) -> Outcome {
        self.told += 1;
        let count = |told: usize, total: usize| format!(" {told}/{total}\n");
        let (tone, sign) = match done.verdict {
            Verdict::Passed => (Tone::Good, "."),
            Verdict::Ignored => (Tone::Warn, "i"),
            Verdict::Failed(_) => {
                let mut text = String::new();
                if self.column > 0 {
                    text += &count(self.told - 1, self.total);
                }
                self.column = 0;
                let word = self.out.tone(Tone::Bad, "FAILED");
                text += &format!("{} --- {word}\n", done.test.shown());
                return self.say(&text);
            }
        };
        let mut text = self.out.tone(tone, sign);
        self.column += 1;
        if self.column == COLUMNS {
            text += &count(self.told, self.total);
            self.column = 0;
        }
        self.say(&text)
    }

    fn say(&self, text: &str) -> Outcome {
        self.out.raw(text.as_bytes())
    }
}

/// What tests have printed, and their names.
fn details(title: &str, list: &[Done]) -> String {
    let mut list: Vec<&Done> = list.iter().collect();
    list.sort_by(|a, b| a.test.name.cmp(&b.test.name));
    let mut text = format!("\n{title}:\n");
    let mut outputs = String::new();
    for done in &list {
        let mut printed = String::from_utf8_lossy(&done.printed).into_owned();
        if let Verdict::Failed(Some(note)) = &done.verdict {
            printed += &format!("note: {note}");
        }
        if !printed.is_empty() {
            let _ = write!(outputs, "---- {} stdout ----\n{printed}\n", done.test.name);
        }
    }
    if !outputs.is_empty() {
        let _ = write!(text, "\n{outputs}");
    }
    let _ = writeln!(text, "\n{title}:");
    for done in &list {
        let _ = writeln!(text, "    {}", done.test.name);
    }
    text
}

/// The answer to `--list`.
pub(super) fn list(tests: &[Test], form: Form) -> String {
    let mut text = String::new();
    for test in tests {
        let _ = writeln!(text, "{}: test", test.name);
    }
    if form == Form::Pretty {
        let (count, noun) = (tests.len(), if tests.len() == 1 { "test" } else { "tests" });
        let gap = if tests.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}{count} {noun}, 0 benchmarks");
    }
    text
}
