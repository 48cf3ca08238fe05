//! Compiling in a process of its own, which may take so much time and memory and no more.
//!
//! What a compiler takes for a module cannot be told from the module's size, and a thread cannot be stopped. A process
//! can: it sets its own bounds before it reads the first byte, and the system holds it to them.
//!
//! ```text
//! node ── program, words of the job, stdin: the module ──▶ compile_apart: bounds, compile
//!      ◀── stdout: native code, or why there is none; the exit code says which ──
//! ```
//!
//! The program is the node's own, so both sides are of one version; wasmtime compares that and its settings when it
//! loads the code.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use tidelock_proto::bounded;

use super::{MODULE_BYTES_MAX, ModuleError, rewrite};

/// Native code of one module. It is some times as large as the module; what would be larger is refused.
const NATIVE_BYTES_MAX: usize = 256 << 20;
/// How far compiling steps back behind what runs: a third of the weight.
const NICENESS: i32 = 5;
/// How often a worker looks how much memory it has.
const LOOK: Duration = Duration::from_millis(10);

/// Exit codes of a worker, besides 0.
const CALLED_WRONG: u8 = 2;
const INVALID: u8 = 3;
const TOO_MUCH_MEMORY: u8 = 4;
const FAILED: u8 = 5;

/// A program that compiles modules by [`compile_apart`], and what it may take for one.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program, of the same version as this one.
    pub program: PathBuf,
    /// Its first arguments; those of [`compile_apart`] follow.
    pub args: Vec<String>,
    /// Processor time that one module may take on all cores together, in whole seconds.
    pub processor_time_max: Duration,
    /// Bytes of memory that compiling one module may take.
    pub memory_bytes_max: u64,
}

impl Compiler {
    /// This very program, also after its file was replaced: `args` make it call [`compile_apart`]. A module may take 120 s
    /// of processor time and 2 GiB of memory.
    pub fn this_program(args: &[&str]) -> io::Result<Self> {
        let program = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        Ok(Self {
            program,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            processor_time_max: Duration::from_secs(120),
            memory_bytes_max: 2 << 30,
        })
    }

    /// Native code of a module. Waits for the worker, which ends by its bounds at the latest.
    pub(super) fn compile(&self, how: How, bytes: &[u8]) -> Result<Vec<u8>, ModuleError> {
        let job = Job {
            how,
            seconds_max: self.processor_time_max.as_secs().max(1),
            memory_bytes_max: self.memory_bytes_max,
        };
        let failed = |error: io::Error| ModuleError::NotCompiled(error.to_string());
        let mut worker = Command::new(&self.program)
            .args(&self.args)
            .args(job.words())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (worker.stdin.take(), worker.stdout.take());
        // It reads everything before it writes. One that ends before says why by its end.
        let _ = stdin.expect("piped").write_all(bytes);
        let mut answer = Vec::new();
        let stdout = stdout.expect("piped");
        let read = stdout
            .take(NATIVE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut answer);
        // Whoever has more to say finds nobody to read it, and ends.
        let status = worker.wait().map_err(failed)?;
        read.map_err(failed)?;
        self.judge(status, answer)
    }

    fn judge(&self, status: ExitStatus, answer: Vec<u8>) -> Result<Vec<u8>, ModuleError> {
        const CPU: Option<i32> = Some(Signal::XCPU.as_raw());
        if answer.len() > NATIVE_BYTES_MAX {
            let what = format!("{} MiB of native code", NATIVE_BYTES_MAX >> 20);
            return Err(ModuleError::TooCostly(what));
        }
        let code = status.code().map(u8::try_from);
        let why = |answer: Vec<u8>| bounded(String::from_utf8_lossy(&answer).into_owned());
        match code {
            Some(Ok(0)) => Ok(answer),
            Some(Ok(INVALID)) => Err(ModuleError::Invalid(why(answer))),
            Some(Ok(FAILED)) => Err(ModuleError::NotCompiled(why(answer))),
            Some(Ok(TOO_MUCH_MEMORY)) => Err(ModuleError::TooCostly(format!(
                "{} MiB of memory",
                self.memory_bytes_max >> 20
            ))),
            _ if status.signal() == CPU => Err(ModuleError::TooCostly(format!(
                "{} s of processor time",
                self.processor_time_max.as_secs().max(1)
            ))),
            _ => Err(ModuleError::NotCompiled(format!(
                "the compiler's process ended with {status}"
            ))),
        }
    }
}

/// One of the ways in which a node compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct How {
    /// Nobody asks the guest to give way.
    pub(super) trusted: bool,
    /// Pages that fault stand guard at the end of the memory, instead of a check of each access.
    pub(super) guarded: bool,
    /// Instructions are counted.
    pub(super) fuel: bool,
}

/// What a worker is to do, as it stands on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    how: How,
    seconds_max: u64,
    memory_bytes_max: u64,
}

impl Job {
    fn words(&self) -> Vec<String> {
        let mut words = vec![
            self.seconds_max.to_string(),
            self.memory_bytes_max.to_string(),
        ];
        let How {
            trusted,
            guarded,
            fuel,
        } = self.how;
        let ways = [(trusted, "trusted"), (guarded, "guarded"), (fuel, "fuel")];
        words.extend(ways.iter().filter(|way| way.0).map(|way| way.1.to_owned()));
        words
    }

    fn from_words(words: &[String]) -> Option<Self> {
        let [seconds, bytes, ways @ ..] = words else {
            return None;
        };
        let has = |name| ways.iter().any(|way| way == name);
        let job = Self {
            how: How {
                trusted: has("trusted"),
                guarded: has("guarded"),
                fuel: has("fuel"),
            },
            seconds_max: seconds.parse().ok()?,
            memory_bytes_max: bytes.parse().ok()?,
        };
        (job.words() == words).then_some(job)
    }

    /// Takes on the bounds. They hold for this process, from now on.
    fn take_on(&self) -> io::Result<()> {
        let limit = |current: u64, maximum: u64| Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        };
        // Its soft limit has a signal of its own; the hard one is for whoever would not hear that.
        let time = limit(self.seconds_max, self.seconds_max + 2);
        rustix::process::setrlimit(Resource::Cpu, time)?;
        rustix::process::setrlimit(Resource::Core, limit(0, 0))?;
        // A node that compiles for nobody at a lower priority compiles at its own.
        let _ = rustix::process::nice(NICENESS);
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let memory_bytes_max = self.memory_bytes_max;
        std::thread::Builder::new().spawn(move || {
            while resident_bytes().is_none_or(|bytes| bytes <= memory_bytes_max) {
                std::thread::sleep(LOOK);
            }
            std::process::exit(TOO_MUCH_MEMORY.into());
        })?;
        Ok(())
    }
}

/// Bytes of memory this process has; None where the system does not say.
fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(resident * rustix::param::page_size() as u64)
}

/// What the program of a [`Compiler`] does when it is called with its arguments: takes on the bounds they name,
/// compiles the module on stdin, and writes native code to stdout, or in words why there is none. The
/// result is the program's.
pub fn compile_apart(words: &[String]) -> ExitCode {
    let Some(job) = Job::from_words(words) else {
        return ExitCode::from(CALLED_WRONG);
    };
    let (code, answer) = match compile(&job) {
        Ok(Ok(native)) => (0, native),
        Ok(Err(invalid)) => (INVALID, bounded(format!("{invalid:#}")).into_bytes()),
        Err(failed) => (FAILED, bounded(format!("{failed:#}")).into_bytes()),
    };
    match io::stdout().lock().write_all(&answer) {
        Ok(()) => ExitCode::from(code),
        // Nobody reads it any more.
        Err(_) => ExitCode::from(CALLED_WRONG),
    }
}

/// What wasmtime says of the module on stdin. An error: this process could not ask it, whatever the module is.
fn compile(job: &Job) -> wasmtime::Result<wasmtime::Result<Vec<u8>>> {
    job.take_on()?;
    let mut bytes = Vec::new();
    let mut stdin = io::stdin().lock().take(MODULE_BYTES_MAX as u64);
    stdin.read_to_end(&mut bytes)?;
    let engine = wasmtime::Engine::new(&super::config(job.how))?;
    Ok(rewrite::compiled(&engine, job.how, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_native_code_is_refused() {
        let compiler = Compiler::this_program(&[]).unwrap();
        let judge = |bytes| compiler.judge(ExitStatus::from_raw(0), vec![0; bytes]);
        assert!(judge(NATIVE_BYTES_MAX).is_ok());
        let error = judge(NATIVE_BYTES_MAX + 1).unwrap_err();
        assert_eq!(
            error,
            ModuleError::TooCostly("256 MiB of native code".into())
        );
    }

    #[test]
    fn a_job_is_read_as_it_was_written_and_nothing_else_is() {
        for ways in 0..8 {
            let job = Job {
                how: How {
                    trusted: ways & 1 != 0,
                    guarded: ways & 2 != 0,
                    fuel: ways & 4 != 0,
                },
                seconds_max: 60,
                memory_bytes_max: 2 << 30,
            };
            assert_eq!(Job::from_words(&job.words()), Some(job));
        }
        for words in [
            "",
            "60",
            "60 x",
            "-1 5",
            "60 5 fast",
            "60 5 fuel trusted",
            "60 5 fuel guarded",
            "060 5",
        ] {
            let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
            assert_eq!(Job::from_words(&words), None, "{words:?}");
        }
    }
}
