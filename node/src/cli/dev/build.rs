//! Where the guest of `dev` comes from: a file, or the Rust project of the current folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::process::Command;

use crate::cli::{
    Output,
    failure::{Failure, Outcome},
};

/// How often files are looked at. Short enough to feel immediate, long enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The target of guests.
const TARGET: &str = "wasm32-wasip1";

/// A guest and the state of the files it is made of.
pub(super) struct Source {
    kind: Kind,
    /// The guest's arguments.
    pub(super) args: Vec<String>,
    seen: Vec<Stamp>,
}

enum Kind {
    File(PathBuf),
    /// The folder of a Cargo project.
    Project(PathBuf),
}

/// What tells one state of a file from another.
type Stamp = (PathBuf, u64, Option<SystemTime>);

/// The lines of `cargo build --message-format=json` that name what was built.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<PathBuf>,
}

impl Source {
    /// The file that was named, or the project here, or nothing.
    pub(super) fn find(app: &[String]) -> Outcome<Option<Self>> {
        let (kind, args) = match app.split_first() {
            Some((file, args)) => {
                let file = PathBuf::from(file);
                fs::metadata(&file).map_err(|error| Failure::file(&file, &error))?;
                (Kind::File(file), args.to_vec())
            }
            None if Path::new("Cargo.toml").is_file() => {
                (Kind::Project(PathBuf::from(".")), Vec::new())
            }
            None => return Ok(None),
        };
        let mut source = Self {
            kind,
            args,
            seen: Vec::new(),
        };
        source.seen = source.look();
        Ok(Some(source))
    }

    /// Builds what has to be built; returns the module's file.
    pub(super) async fn build(&mut self, out: &Output) -> Outcome<PathBuf> {
        self.seen = self.look();
        let folder = match &self.kind {
            Kind::File(file) => return Ok(file.clone()),
            Kind::Project(folder) => folder,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--release", "--target", TARGET])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if out.quiet {
            command.arg("--quiet");
        }
        let built = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new("E0023", "cargo: there is no such program")
                .next(
                    "tidelock dev APP.wasm",
                    "runs a guest that is built already",
                ),
            _ => Failure::from(error),
        })?;
        let built = built.wait_with_output().await?;
        if !built.status.success() {
            return Err(Failure::new("E0030", "the guest cannot be built").next(
                format!("rustup target add {TARGET}"),
                "if the target is missing",
            ));
        }
        built
            .stdout
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
            .filter(|message| message.reason == "compiler-artifact")
            .filter_map(|message| message.executable)
            .rfind(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "wasm")
            })
            .ok_or_else(|| Failure::new("E0030", "this project has no program to run as a guest"))
    }

    /// Waits until the files differ from what was built last.
    pub(super) async fn changed(&self) {
        let mut looking = tokio::time::interval(LOOK_EVERY);
        loop {
            looking.tick().await;
            let now = self.look();
            // A file that is being replaced is not there for a moment.
            if !now.is_empty() && now != self.seen {
                return;
            }
        }
    }

    fn look(&self) -> Vec<Stamp> {
        let mut stamps = Vec::new();
        match &self.kind {
            Kind::File(file) => stamp(file, &mut stamps),
            Kind::Project(folder) => {
                // Not Cargo.lock: building may write it.
                for name in ["Cargo.toml", "build.rs"] {
                    stamp(&folder.join(name), &mut stamps);
                }
                stamp_all(&folder.join("src"), &mut stamps);
            }
        }
        stamps
    }
}

fn stamp(file: &Path, stamps: &mut Vec<Stamp>) {
    if let Ok(about) = fs::metadata(file)
        && about.is_file()
    {
        stamps.push((file.to_owned(), about.len(), about.modified().ok()));
    }
}

fn stamp_all(folder: &Path, stamps: &mut Vec<Stamp>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            stamp_all(&path, stamps);
        } else {
            stamp(&path, stamps);
        }
    }
}
