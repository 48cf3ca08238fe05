//! Where the guest of `dev` comes from: a file, or the Rust project of the current folder.
//!
//! A project that cannot be a guest is refused before it is built, which takes minutes. Cargo says what a project is;
//! only what is certain counts, since any program may be a guest.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::{process::Command, time::timeout};

use crate::cli::{
    Output,
    failure::{Failure, Outcome},
};

/// How often files are looked at. Short enough to feel immediate, long enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The target of guests.
const TARGET: &str = "wasm32-wasip1";

/// The crates of the runtime. They are not made for Wasm, and so is nothing that needs them.
const RUNTIME: [&str; 3] = ["tidelock", "tidelock-control", "tidelock-node"];

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

/// How long Cargo may take to say what a folder is.
const ASKING_MAX: Duration = Duration::from_secs(10);

/// What `cargo metadata --no-deps` says.
#[derive(Deserialize)]
struct Workspace {
    workspace_root: PathBuf,
    /// What is built in the folder of the workspace itself, by id.
    #[serde(default)]
    workspace_default_members: Vec<String>,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev` or `build`, if only tests or the build script need it.
    kind: Option<String>,
    optional: bool,
    /// What it is needed on, if not everywhere.
    target: Option<String>,
}

impl Workspace {
    /// The workspace of a folder. None: Cargo does not say, and the build tells why.
    async fn of(folder: &Path) -> Option<Self> {
        let mut command = Command::new(cargo());
        command
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // Longer, and it is fetching a compiler, which the build shows.
        let output = timeout(ASKING_MAX, command.output()).await.ok()?.ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Refuses a folder in which no guest would be built.
    fn check(&self, folder: &Path) -> Outcome {
        let manifest = fs::canonicalize(folder.join("Cargo.toml")).ok();
        let is_here = |file: &Path| manifest.is_some() && fs::canonicalize(file).ok() == manifest;
        let is_root = is_here(&self.workspace_root.join("Cargo.toml"));
        let is_built = |package: &&Package| match is_root {
            true => self.workspace_default_members.contains(&package.id),
            false => is_here(&package.manifest_path),
        };
        let built: Vec<&Package> = self.packages.iter().filter(is_built).collect();
        if built.is_empty() {
            return Ok(());
        }
        let mut programs = built.iter().filter(|package| package.has_program());
        match programs.clone().next() {
            None => Err(no_guest(
                "this project has no program to run as a guest: no src/main.rs, no [[bin]]",
            )),
            Some(_) if programs.all(|package| package.needs_runtime()) => Err(no_guest(
                "this folder is no guest project: its program needs Tidelock's runtime, which is \
                 not made for Wasm",
            )),
            Some(_) => Ok(()),
        }
    }
}

impl Package {
    fn has_program(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "bin")
    }

    /// Whether it cannot be built without the runtime.
    fn needs_runtime(&self) -> bool {
        self.dependencies.iter().any(|one| {
            let is_always = one.kind.is_none() && !one.optional && one.target.is_none();
            is_always && RUNTIME.contains(&one.name.as_str())
        })
    }
}

fn no_guest(message: &str) -> Failure {
    Failure::new("E0030", message)
        .detail("Without a file, `dev` builds the Rust guest of the folder that it is started in.")
        .next(
            "tidelock dev APP.wasm",
            "runs a guest that is built already",
        )
        .next(
            "cd FOLDER; tidelock dev",
            "in the folder of a guest, or in one without Cargo.toml for a cluster alone",
        )
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

impl Source {
    /// The file that was named, or the project here, or nothing.
    pub(super) async fn find(app: &[String]) -> Outcome<Option<Self>> {
        match app.split_first() {
            Some((file, args)) => {
                let file = PathBuf::from(file);
                fs::metadata(&file).map_err(|error| Failure::file(&file, &error))?;
                Ok(Some(Self::new(Kind::File(file), args.to_vec())))
            }
            None if Path::new("Cargo.toml").is_file() => {
                Self::of_project(PathBuf::from(".")).await.map(Some)
            }
            None => Ok(None),
        }
    }

    async fn of_project(folder: PathBuf) -> Outcome<Self> {
        if let Some(workspace) = Workspace::of(&folder).await {
            workspace.check(&folder)?;
        }
        Ok(Self::new(Kind::Project(folder), Vec::new()))
    }

    fn new(kind: Kind, args: Vec<String>) -> Self {
        let mut source = Self {
            kind,
            args,
            seen: Vec::new(),
        };
        source.seen = source.look();
        source
    }

    /// Builds what has to be built; returns the module's file.
    pub(super) async fn build(&mut self, out: &Output) -> Outcome<PathBuf> {
        self.seen = self.look();
        let folder = match &self.kind {
            Kind::File(file) => return Ok(file.clone()),
            Kind::Project(folder) => folder,
        };
        let mut command = Command::new(cargo());
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
            .ok_or_else(|| no_guest("this project has no program to run as a guest"))
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The words with which a folder is refused, if it is.
    fn words<T>(outcome: Outcome<T>) -> Option<String> {
        match outcome {
            Err(Failure::Letter(letter)) => Some(letter.message),
            _ => None,
        }
    }

    fn needs(name: &str) -> Value {
        json!({ "name": name, "kind": null, "optional": false, "target": null })
    }

    #[tokio::test]
    async fn the_runtime_is_no_guest_and_the_examples_are() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let refused = async |folder: &str| words(Source::of_project(top.join(folder)).await);
        for folder in [".", "node"] {
            let words = refused(folder).await.unwrap_or_default();
            assert!(words.contains("no guest project"), "{folder}: {words}");
        }
        for folder in ["certs", "sdk"] {
            let words = refused(folder).await.unwrap_or_default();
            assert!(words.contains("no program"), "{folder}: {words}");
        }
        for folder in ["guests", "notes", "testing", "web", "wordcount"] {
            assert_eq!(refused(&format!("examples/{folder}")).await, None);
        }
    }

    #[tokio::test]
    async fn what_cargo_cannot_read_is_left_to_the_build() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Cargo.toml"), "[packag").unwrap();
        let source = Source::of_project(folder.path().to_owned()).await;
        assert_eq!(words(source), None);
    }

    #[test]
    fn a_program_is_refused_only_if_it_can_be_no_guest() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("Cargo.toml");
        fs::write(&manifest, "").unwrap();
        let refused = |dependencies: &[Value]| {
            let package = |id: &str, dependencies: &[Value]| {
                json!({
                    "id": id,
                    "manifest_path": folder.path().join(id).join("Cargo.toml"),
                    "targets": [{ "kind": ["lib"] }, { "kind": ["bin"] }],
                    "dependencies": dependencies,
                })
            };
            let workspace = json!({
                "workspace_root": folder.path(),
                "workspace_default_members": ["a", "b"],
                "packages": [package("a", &[needs("tidelock")]), package("b", dependencies)],
            });
            let workspace: Workspace = serde_json::from_value(workspace).unwrap();
            words(workspace.check(folder.path())).is_some()
        };
        let but = |key: &str, value: Value| {
            let mut dependency = needs("tidelock");
            dependency[key] = value;
            dependency
        };
        assert!(refused(&[needs("serde"), needs("tidelock-node")]));
        // One of two programs is enough, and it may need nothing at all.
        assert!(!refused(&[]));
        assert!(!refused(&[needs("tidelock-guest"), needs("lunatic")]));
        assert!(!refused(&[but("kind", json!("dev"))]));
        assert!(!refused(&[but("optional", json!(true))]));
        assert!(!refused(&[but(
            "target",
            json!("cfg(not(target_family = \"wasm\"))")
        )]));
    }
}
