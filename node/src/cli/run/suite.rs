//! The tests of one module: each a process of its own in an environment of its own.
//!
//! * What a test and the processes it spawned print is kept together, apart from that of other tests.
//! * A test is over when its first process ends. What it left running is killed then.
//! * A test that runs too long is killed and has failed; the others are not disturbed.
//! * Every test that was asked for is in the result.

use std::{
    cell::RefCell,
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tidelock::{
    Environment, EnvironmentConfig, ExitReason, Module, OutputLine, ProcessConfig, SpawnOptions,
    Stdio, Stream,
};
use tidelock_node::guest_certificates::ForGuests;

use super::{
    exports::{self, Code, Test},
    flags::Flags,
    report::{self, Done, Report, Verdict},
};
use crate::cli::{
    failure::{Failure, Outcome},
    output::{Format, Output},
};

/// The exit code of a test run in which something failed, as cargo knows it.
const FAILED: u8 = 101;

/// After which a test is said to take long.
const SLOW: Duration = Duration::from_secs(60);

/// Bytes kept of what one test prints: half of them of its beginning, the rest of its end.
const PRINTED_BYTES_MAX: usize = 4 << 20;

/// Runs the tests that `args` ask for. The exit code is 0 if none has failed.
///
/// # Errors
///
/// Wrong arguments, and tests that cannot be listed; none has run then.
pub(super) async fn run(
    file: &Path,
    module: &Module,
    tests: Vec<Test>,
    config: ProcessConfig,
    args: &[String],
) -> Outcome<u8> {
    let flags = Flags::read(args)?;
    let suite = Suite {
        module,
        config,
        certificates: Arc::default(),
        timeout: flags.timeout(),
        shown: flags.shows_at_once(),
        out: Output::new(Format::Text, false, flags.color),
    };
    match suite.run(file, tests, &flags).await {
        // Nobody reads the result, and it is not known to be good.
        Err(Failure::Closed) => Ok(FAILED),
        outcome => outcome,
    }
}

struct Suite<'a> {
    module: &'a Module,
    /// What every test may do and use.
    config: ProcessConfig,
    certificates: Arc<ForGuests>,
    timeout: Option<Duration>,
    /// Output goes through as it comes.
    shown: bool,
    out: Output,
}

impl Suite<'_> {
    async fn run(&self, file: &Path, mut tests: Vec<Test>, flags: &Flags) -> Outcome<u8> {
        let threads = flags.threads()?;
        if exports::has_libtest(self.module.bytes()) {
            tests.extend(self.ordinary(file).await?);
            tests.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let all = tests.len();
        let (tests, left_out) = exports::select(tests, flags);
        if flags.list {
            let list = report::list(&tests, flags.form());
            return self.out.raw(list.as_bytes()).map(|()| 0);
        }
        if tests.is_empty() {
            let file = file.display();
            self.out.say(format_args!(
                "note: none of the {all} tests of {file} is asked for by these arguments"
            ));
        }
        let began = Instant::now();
        let report = Report::new(&self.out, flags.form(), threads == 1, flags.show_output);
        let report = RefCell::new(report);
        report.borrow_mut().begins(tests.len(), left_out)?;
        let mut running = stream::iter(tests)
            .map(|test| self.one(test, &report))
            .buffer_unordered(threads);
        while let Some(done) = running.next().await {
            report.borrow_mut().ends(done?)?;
        }
        let good = report.borrow().finishes(began.elapsed())?;
        Ok(if good { 0 } else { FAILED })
    }

    /// One test from its start to its verdict.
    async fn one(&self, test: Test, report: &RefCell<Report<'_>>) -> Outcome<Done> {
        report.borrow().starts(&test)?;
        let (verdict, printed) = if test.ignored {
            (Verdict::Ignored, Vec::new())
        } else {
            let tell = || report.borrow().is_slow(&test, SLOW);
            told_if_slow(self.attempt(&test), tell).await?
        };
        Ok(Done {
            verdict,
            // It was shown already.
            printed: if self.shown { Vec::new() } else { printed },
            test,
        })
    }

    async fn attempt(&self, test: &Test) -> (Verdict, Vec<u8>) {
        let (entry, args) = match &test.code {
            Code::Export { name, .. } => (name.as_str(), &[][..]),
            Code::Libtest => (
                "_start",
                // It runs no test that is expected to panic, whatever it is asked for.
                &[&test.name, "--exact", "--include-ignored", "--nocapture"][..],
            ),
        };
        let (reason, printed) = self.process(entry, args, self.shown).await;
        let Some(reason) = reason else {
            let limit = self.timeout.unwrap_or_default().as_secs();
            let note = format!("killed after {limit} s (--test-timeout, TIDELOCK_TEST_TIMEOUT)");
            return (Verdict::Failed(Some(note)), printed);
        };
        (judge(&test.code, &reason, &printed), printed)
    }

    /// The ordinary tests beside the exported ones.
    async fn ordinary(&self, file: &Path) -> Outcome<Vec<Test>> {
        let mut lists = Vec::new();
        for more in [&[][..], &["--ignored"]] {
            let args = [&["--list", "--format", "terse"], more].concat();
            let (reason, printed) = self.process("_start", &args, false).await;
            let text = String::from_utf8_lossy(&printed).into_owned();
            if reason != Some(ExitReason::Normal) {
                let file = file.display();
                let why = reason.map_or("no answer in time".to_owned(), |why| why.to_string());
                return Err(Failure::new(
                    "E0035",
                    format!("{file}: its ordinary tests cannot be listed: {why}"),
                )
                .detail(text));
            }
            lists.push(text);
        }
        Ok(exports::listed(&lists[0], &lists[1]))
    }

    /// Runs one function in an environment of its own: how it ended, None if it took too long, and what
    /// was printed there.
    async fn process(
        &self,
        entry: &str,
        args: &[&str],
        shown: bool,
    ) -> (Option<ExitReason>, Vec<u8>) {
        let printed = Arc::new(Mutex::new(Printed::default()));
        let environment = {
            let (printed, out) = (printed.clone(), self.out.clone());
            let config = EnvironmentConfig {
                stdio: Stdio::AllLines,
                certificates: Some(self.certificates.clone()),
                output: Some(Arc::new(move |line: &OutputLine| {
                    let text = whole(line);
                    if shown {
                        show(&out, line.stream, &text);
                    }
                    let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
                    printed.keep(&text);
                })),
                ..EnvironmentConfig::default()
            };
            Environment::with_engine(config, self.module.engine().clone())
        };
        let mut config = self.config.clone();
        config.args.extend(args.iter().map(|&arg| arg.to_owned()));
        let mut options = SpawnOptions::default();
        options.config = config.into();
        let reason = match environment.spawn_wasm(self.module, entry, Vec::new(), options) {
            Ok(pid) => match self.timeout {
                Some(limit) => tokio::time::timeout(limit, environment.wait(pid))
                    .await
                    .ok(),
                None => Some(environment.wait(pid).await),
            },
            Err(error) => Some(ExitReason::NotStarted(error.to_string())),
        };
        environment.shutdown().await;
        let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        (reason, std::mem::take(&mut *printed).into_bytes())
    }
}

/// Does the work to its end, and tells once if it takes longer than [`SLOW`].
///
/// # Errors
///
/// It cannot be told; the work is given up.
async fn told_if_slow<T>(
    work: impl Future<Output = T>,
    tell: impl FnOnce() -> Outcome,
) -> Outcome<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        over = &mut work => Ok(over),
        () = tokio::time::sleep(SLOW) => {
            tell()?;
            Ok(work.await)
        }
    }
}

/// A line as the guest wrote it.
fn whole(line: &OutputLine) -> Vec<u8> {
    let mut text = line.line.to_vec();
    if line.ended {
        text.push(b'\n');
    }
    text
}

fn show(out: &Output, stream: Stream, text: &[u8]) {
    match stream {
        // A reader that has gone is found when the result is printed.
        Stream::Stdout => drop(out.raw(text)),
        Stream::Stderr => out.raw_err(text),
    }
}

/// Whether a test that ended by itself has passed.
fn judge(code: &Code, reason: &ExitReason, printed: &[u8]) -> Verdict {
    let has = |text: &str| contains(printed, text.as_bytes());
    let failed = |note: String| Verdict::Failed(Some(note));
    // The words of a panic tell more than the trap it ends in.
    let told = matches!(reason, ExitReason::Trap(_)) && has("panicked at");
    let why = || Verdict::Failed((!told).then(|| reason.to_string()));
    match code {
        Code::Export { panics: None, .. } if reason.is_normal() => Verdict::Passed,
        Code::Export { panics: None, .. } => why(),
        Code::Export {
            panics: Some(_), ..
        } if reason.is_normal() => failed("test did not panic as expected".to_owned()),
        Code::Export {
            panics: Some(text), ..
        } if has(text) => Verdict::Passed,
        Code::Export {
            panics: Some(text), ..
        } => failed(format!(
            "panic did not contain expected string\n expected substring: {text:?}"
        )),
        Code::Libtest if !reason.is_normal() => why(),
        Code::Libtest if has("test result: ok. 1 passed;") => Verdict::Passed,
        Code::Libtest if has("test result: ok. 0 passed; 0 failed; 1 ignored;") => Verdict::Ignored,
        Code::Libtest => failed("the process ended before the test did".to_owned()),
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

/// What a test has printed, without the middle if that is too much.
#[derive(Default)]
struct Printed {
    beginning: Vec<u8>,
    end: VecDeque<u8>,
    left_out: usize,
}

impl Printed {
    fn keep(&mut self, text: &[u8]) {
        let room = PRINTED_BYTES_MAX / 2 - self.beginning.len();
        let (first, rest) = text.split_at(text.len().min(room));
        self.beginning.extend_from_slice(first);
        self.end.extend(rest);
        let surplus = self.end.len().saturating_sub(PRINTED_BYTES_MAX / 2);
        self.end.drain(..surplus);
        self.left_out += surplus;
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.beginning;
        if self.left_out > 0 {
            bytes.extend(format!("\n[{} bytes left out]\n", self.left_out).bytes());
        }
        bytes.extend(self.end);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_test_is_told_of_once_and_goes_on() {
        for (seconds, times) in [(59, 0), (61, 1), (600, 1)] {
            let (mut begun, mut told) = (0, Vec::new());
            let began = tokio::time::Instant::now();
            let work = async {
                begun += 1;
                tokio::time::sleep(Duration::from_secs(seconds)).await; // the clock is stopped
                "over"
            };
            let tell = || {
                told.push(began.elapsed().as_secs());
                Ok(())
            };
            assert_eq!(told_if_slow(work, tell).await.ok(), Some("over"));
            assert_eq!(told, vec![60; times], "after {seconds} s");
            assert_eq!((begun, began.elapsed().as_secs()), (1, seconds));
        }
    }

    #[test]
    fn of_much_output_both_ends_are_kept() {
        let mut printed = Printed::default();
        printed.keep(b"first\n");
        for _ in 0..3 {
            printed.keep(&vec![b'x'; PRINTED_BYTES_MAX / 2]);
        }
        printed.keep(b"last\n");
        let bytes = printed.into_bytes();
        assert!(bytes.starts_with(b"first\n") && bytes.ends_with(b"xlast\n"));
        assert!(contains(&bytes, b"bytes left out]"));
        assert!(bytes.len() < PRINTED_BYTES_MAX + 100);
    }

    #[test]
    fn a_verdict_needs_more_than_an_end() {
        let export = |panics: Option<&str>| Code::Export {
            name: String::new(),
            panics: panics.map(str::to_owned),
        };
        let trap = ExitReason::Trap("unreachable".into());
        let normal = ExitReason::Normal;
        let passed = |code: &Code, reason: &ExitReason, printed: &str| {
            judge(code, reason, printed.as_bytes()) == Verdict::Passed
        };
        assert!(passed(&export(None), &normal, ""));
        assert!(!passed(&export(None), &trap, ""));
        assert!(passed(&export(Some("")), &trap, ""));
        assert!(passed(&export(Some("no")), &trap, "I say no."));
        assert!(!passed(&export(Some("no")), &trap, "I say yes."));
        assert!(!passed(&export(Some("no")), &normal, "I say no."));
        let passes = "test result: ok. 1 passed; 0 failed;";
        assert!(passed(&Code::Libtest, &normal, passes));
        assert!(!passed(&Code::Libtest, &trap, passes));
        assert!(!passed(&Code::Libtest, &normal, ""), "it left by exit(0)");
        let ignored = "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured";
        assert_eq!(
            judge(&Code::Libtest, &normal, ignored.as_bytes()),
            Verdict::Ignored
        );
    }
}
