//! What is written behind `cargo test --`: the flags of libtest, and a time limit.

use std::{env, num::NonZeroUsize, time::Duration};

use clap::{Parser, ValueEnum, error::ErrorKind};

use crate::cli::{
    failure::{Exit, Failure, Outcome},
    output::Color,
};

/// Seconds a test may run if nobody says otherwise.
const TIMEOUT_SECONDS: u64 = 300;

/// The flags of a test binary.
#[derive(Debug, Parser)]
#[command(
    name = "tidelock run TESTS.wasm",
    override_usage = "tidelock run TESTS.wasm [OPTIONS] [FILTERS]...\n       cargo test -- [OPTIONS] [FILTERS]...",
    about = "Runs the tests of a test binary, each in a process and an environment of its own",
    disable_version_flag = true,
    max_term_width = 100
)]
pub(super) struct Flags {
    /// Run only tests whose name contains one of these
    pub(super) filters: Vec<String>,
    /// Filters and skips are whole names
    #[arg(long)]
    pub(super) exact: bool,
    /// Leave out tests whose name contains this; may be repeated
    #[arg(long, value_name = "FILTER")]
    pub(super) skip: Vec<String>,
    /// Run only ignored tests
    #[arg(long)]
    pub(super) ignored: bool,
    /// Run ignored tests, too
    #[arg(long, conflicts_with = "ignored")]
    pub(super) include_ignored: bool,
    /// List the tests, run none
    #[arg(long)]
    pub(super) list: bool,
    /// Print what tests print while they run [env: RUST_TEST_NOCAPTURE]
    #[arg(long = "no-capture", visible_alias = "nocapture")]
    no_capture: bool,
    /// Print what passed tests have printed, too
    #[arg(long)]
    pub(super) show_output: bool,
    /// Tests at the same time; the number of cores if left out [env: RUST_TEST_THREADS]
    #[arg(long, value_name = "N")]
    test_threads: Option<NonZeroUsize>,
    /// Seconds after which a test is killed and has failed; 0: never [default: 300]
    #[arg(long, value_name = "SECONDS", env = "TIDELOCK_TEST_TIMEOUT")]
    test_timeout: Option<u64>,
    /// One character per test: the same as --format terse
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
    /// Form of the report
    #[arg(long, value_enum)]
    format: Option<Form>,
    /// When to colour
    #[arg(long, value_enum, default_value = "auto")]
    pub(super) color: Color,
    /// Run tests; they are run without it, too
    #[arg(long, hide = true)]
    test: bool,
    /// What `cargo bench` asks for. There are no benchmarks, and tests are ignored
    #[arg(long, hide = true)]
    pub(super) bench: bool,
}

/// How much is said of each test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// A line per test.
    Pretty,
    /// A character per test.
    Terse,
}

impl Flags {
    /// Reads what stands behind the file.
    ///
    /// # Errors
    ///
    /// Help that was asked for, printed; a flag that is wrong, told.
    pub(super) fn read(args: &[String]) -> Outcome<Self> {
        let words = std::iter::once("tidelock run").chain(args.iter().map(String::as_str));
        Self::try_parse_from(words).map_err(|error| {
            let _ = error.print();
            Failure::Code(match error.kind() {
                ErrorKind::DisplayHelp => 0,
                _ => Exit::Usage as u8,
            })
        })
    }

    /// How much is said of each test.
    pub(super) fn form(&self) -> Form {
        match self.format {
            None if self.quiet => Form::Terse,
            form => form.unwrap_or(Form::Pretty),
        }
    }

    /// Whether output goes through as it comes.
    pub(super) fn shows_at_once(&self) -> bool {
        self.no_capture || env::var_os("RUST_TEST_NOCAPTURE").is_some_and(|value| value != "0")
    }

    /// How many tests run at the same time.
    ///
    /// # Errors
    ///
    /// RUST_TEST_THREADS is no number above 0.
    pub(super) fn threads(&self) -> Outcome<usize> {
        if let Some(threads) = self.test_threads {
            return Ok(threads.get());
        }
        match env::var("RUST_TEST_THREADS") {
            Ok(value) => value
                .parse::<NonZeroUsize>()
                .map(NonZeroUsize::get)
                .map_err(|_| {
                    let text = format!("RUST_TEST_THREADS={value}: expected a number above 0");
                    Failure::new("E0002", text)
                }),
            Err(_) => Ok(std::thread::available_parallelism().map_or(1, NonZeroUsize::get)),
        }
    }

    /// How long a test may run.
    pub(super) fn timeout(&self) -> Option<Duration> {
        match self.test_timeout.unwrap_or(TIMEOUT_SECONDS) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        }
    }
}
