//! A user of the command line, with folders, and clusters that are this user's alone.

#![allow(dead_code, reason = "each of the tests needs a part of it")]

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// Longer than anything here takes; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A user's folders, all empty.
pub(crate) struct User {
    pub(crate) home: TempDir,
    pub(crate) context: Option<PathBuf>,
}

impl User {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            context: None,
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelock"));
        command
            .args(args)
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("TIDELOCK_") || text.starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path());
        command
            .env_remove("CLICOLOR_FORCE")
            .env_remove("RUST_BACKTRACE");
        if let Some(context) = &self.context {
            command.env("TIDELOCK_CONTEXT", context);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Fails unless the command succeeds; returns its stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{args:?}\n{out}\n{err}");
        out
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, args: &[&str]) -> T {
        let out = self.ok(&[&["-o", "json"], args].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}\n{out}"))
    }

    pub(crate) fn lines<T: DeserializeOwned>(&self, args: &[&str]) -> Vec<T> {
        let out = self.ok(&[&["-o", "ndjson"], args].concat());
        out.lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{args:?}: {e}\n{line}"))
            })
            .collect()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/wat")
        .join(name);
    path.canonicalize().unwrap().display().to_string()
}

/// Fails unless a command ends with this code and says all of this on stderr, which is returned.
pub(crate) fn refused(command: &mut Command, code: i32, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{told}");
    for word in words {
        assert!(told.contains(word), "{command:?}: no {word:?} in:\n{told}");
    }
    told
}

/// A running `tidelock dev`.
pub(crate) struct Dev {
    pub(crate) child: Child,
    pub(crate) talk: BufReader<ChildStderr>,
    /// The directory of the whole cluster.
    pub(crate) dir: PathBuf,
}

impl Dev {
    /// Starts it and waits until it says how to reach it.
    pub(crate) fn start(user: &mut User, args: &[&str]) -> Self {
        let mut child = user
            .command(&[&["dev"], args].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let context = loop {
            let mut line = String::new();
            assert!(
                talk.read_line(&mut line).unwrap() > 0,
                "dev has ended:\n{said}"
            );
            said += &line;
            if let Some((_, rest)) = line.split_once("TIDELOCK_CONTEXT=") {
                break PathBuf::from(rest.trim().split(';').next().unwrap());
            }
        };
        let dir = context.ancestors().nth(2).unwrap().to_owned();
        assert!(dir.starts_with(user.home.path()), "{}", dir.display());
        user.context = Some(context);
        Self { child, talk, dir }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// The process ids of its daemons.
    #[cfg(target_os = "linux")]
    pub(crate) fn daemons(&self) -> Vec<i32> {
        let dir = self.dir.display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if id != self.child.id() as i32 && text(&line).contains(&dir) {
                found.push(id);
            }
        }
        found
    }

    /// Waits for the end; returns the exit code and what was said meanwhile.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.talk.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon that was started by hand.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) ready: serde_json::Value,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .arg("--ready-json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str(&line) else {
            let output = child.wait_with_output().unwrap();
            panic!("{command:?} has ended:\n{}", text(&output.stderr));
        };
        Self { child, ready }
    }

    /// A control plane; the user is its operator from now on.
    pub(crate) fn control(user: &mut User) -> Self {
        let dir = user.home.path().join("control");
        let mut command = user.command(&["control", "--listen", "127.0.0.1:0"]);
        command.args(["--lease-ms", "3000"]).arg("--state-dir");
        command.arg(&dir);
        let control = Self::start(command);
        user.context = Some(dir.join("operator"));
        control
    }

    /// How a node of this control plane is started, with its state in a folder of the user's.
    pub(crate) fn node(&self, user: &User, dir: &str, token: Option<&str>) -> Command {
        let mut command = user.command(&["node", "--state-dir", dir, "--join", self.addr()]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        if let Some(token) = token {
            command.env("TIDELOCK_TOKEN", token);
        }
        command
    }

    /// Starts a node of this control plane, with this name.
    pub(crate) fn join(&self, user: &User, name: &str) -> Self {
        let mut node = self.node(user, name, Some(&token(user)));
        node.args(["--name", name]);
        Self::start(node)
    }

    pub(crate) fn addr(&self) -> &str {
        self.ready["addr"].as_str().unwrap()
    }

    /// Of a node.
    pub(crate) fn id(&self) -> &str {
        self.ready["ready"].as_str().unwrap()
    }

    /// Waits for the end; returns the exit code and what was said before.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut told = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut told).unwrap();
        (self.child.wait().unwrap().code(), told)
    }

    /// As Ctrl-C does it.
    pub(crate) fn stop(self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let (code, told) = self.end();
        assert_eq!(code, Some(0), "{told}");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh token.
pub(crate) fn token(user: &User) -> String {
    user.ok(&["token", "-q"]).trim().to_owned()
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10)); // between two looks
    }
}

/// A guest that writes this to its stdout.
pub(crate) fn says(text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        "(module (import \"wasi_snapshot_preview1\" \"fd_write\"
           (func $write (param i32 i32 i32 i32) (result i32)))
         (memory (export \"memory\") 1)
         (data (i32.const 16) \"{bytes}\")
         (func (export \"_start\")
           (i32.store (i32.const 0) (i32.const 16))
           (i32.store (i32.const 4) (i32.const {}))
           (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))",
        text.len()
    )
}

/// Waits until a program says a line with all of these words on its standard error, which is piped, and kills it.
#[track_caller]
pub(crate) fn ends_with(mut program: Child, words: &[&str]) {
    let said = BufReader::new(program.stderr.take().unwrap());
    let told = said.lines().any(|line| {
        let line = line.unwrap();
        words.iter().all(|word| line.contains(word))
    });
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(told, "it has ended without a word");
}
