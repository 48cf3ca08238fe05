//! Disks that are full, descriptors, databases and address space that run out, and modules that take too much to compile.
//!
//! Goal: a shortage ends in an error that says what is short, and when there is room again everything goes
//! on. Method: small file systems in memory, where this test has the rights to mount one, and a daemon
//! with a low limit on open files. Without the rights the former say loudly that they show nothing, and
//! fail if they were meant to: with `CI` or `TIDELOCK_REQUIRE_NETNS` set.

#![allow(clippy::print_stderr, reason = "what was not shown must be said")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock::{
    Compiler, Engine, EngineConfig, Environment, EnvironmentConfig, ExitReason, Happening, Module,
    ModuleError, Pid, ProcessConfig, SpawnOptions,
};
use tidelock_certs::{Identity, Role};
use tidelock_control::api::NodeState;
use tidelock_control::client::Client;
use tidelock_control::{ControlConfig, ControlHandle};
use tidelock_node::{Node, NodeConfig, StartError};

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a guest ends.
async fn end(env: &Environment, pid: Pid) -> ExitReason {
    let end = tokio::time::timeout(PATIENCE, env.wait(pid));
    end.await.expect("the guest ends in time")
}

// ---- disks -----------------------------------------------------------------------------------

/// A file system of 64 KiB; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`: this machine cannot, and nobody insists.
    fn small() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tidelock-test"])
            .arg(dir.path())
            .output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(Disk(dir)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        let insists = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let asked = ["CI", "TIDELOCK_REQUIRE_NETNS"];
        if let Some(name) = asked.into_iter().find(|name| insists(name)) {
            panic!("no file system can be mounted here, and {name} is set: {why}");
        }
        eprintln!("SKIPPED, NOTHING SHOWN: no file system can be mounted here: {why}");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no byte.
    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[tokio::test]
async fn without_room_for_compiled_modules_they_are_compiled_each_time() {
    let Some(disk) = Disk::small() else { return };
    let cache_dir = disk.path().join("cache");
    fs::create_dir(&cache_dir).unwrap();
    disk.fill();
    let bytes = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    let run = async || {
        let engine = EngineConfig {
            cache_dir: Some(cache_dir.clone()),
            ..EngineConfig::default()
        };
        let env = Environment::new(EnvironmentConfig {
            engine,
            ..EnvironmentConfig::default()
        });
        let env = env.unwrap();
        let module = Module::compile(env.engine(), bytes.clone()).await.unwrap();
        let pid = env.spawn_wasm(&module, "_start", vec![], SpawnOptions::default());
        assert_eq!(env.wait(pid.unwrap()).await, ExitReason::Normal);
    };
    run().await;
    run().await;
    assert_eq!(
        files_below(&cache_dir),
        Vec::<PathBuf>::new(),
        "no half of a file stays"
    );
    disk.make_room();
    run().await;
    assert_eq!(files_below(&cache_dir).len(), 2);
}

/// Writes into a file until that fails, and exits with the error's number.
const WRITER: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "file")
    (data (i32.const 8) "\00\20\00\00\00\10\00\00")
    (func (export "_start") (local $error i32)
        ;; The first directory; to be made; with the right to write.
        (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4)
            (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
        (loop $more
            (if (i32.eqz (local.get $error)) (then
                (local.set $error (call $write
                    (i32.load (i32.const 16)) (i32.const 8) (i32.const 1) (i32.const 20)))
                (br $more))))
        (call $exit (local.get $error))))"#;

#[tokio::test]
async fn a_guest_on_a_full_disk_is_told() {
    const NO_SPACE: i32 = 51;
    let Some(disk) = Disk::small() else { return };
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    let bytes = wat::parse_str(WRITER).unwrap();
    let module = Module::compile(env.engine(), bytes).await.unwrap();
    let run = async || {
        let config = ProcessConfig {
            preopens: vec![disk.path().display().to_string()],
            ..ProcessConfig::default()
        };
        let mut options = SpawnOptions::default();
        options.config = Arc::new(config);
        let pid = env.spawn_wasm(&module, "_start", vec![], options).unwrap();
        end(&env, pid).await
    };
    assert_eq!(run().await, ExitReason::Exit(NO_SPACE));
    assert_eq!(run().await, ExitReason::Exit(NO_SPACE));
}

// ---- databases -------------------------------------------------------------------------------

/// `holds` opens as many databases as one process may, says so, and waits; `_start` opens one more, which is
/// to fail with a text that begins with the bound.
const DATABASES: &str = r#"(module
    (import "lunatic::sqlite" "open" (func $open (param i32 i32 i32) (result i64)))
    (import "lunatic::error" "to_string" (func $error_text (param i64 i32)))
    (import "lunatic::message" "receive" (func $receive (param i32 i32 i64) (result i32)))
    (import "tidelock" "log" (func $log (param i32 i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "holds") (local $left i32)
        (local.set $left (i32.const 16))
        (loop $more
            (if (i64.ne (call $open (i32.const 0) (i32.const 0) (i32.const 8)) (i64.const 0))
                (then unreachable))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $more (local.get $left)))
        (call $log (i32.const 0) (i32.const 0))
        (drop (call $receive (i32.const 0) (i32.const 0) (i64.const -1))))
    (func (export "_start")
        (if (i64.eqz (call $open (i32.const 0) (i32.const 0) (i32.const 8))) (then (return)))
        (call $error_text (i64.load (i32.const 8)) (i32.const 16))
        ;; "512 "
        (call $exit (select (i32.const 1) (i32.const 2)
            (i32.eq (i32.load (i32.const 16)) (i32.const 0x20323135))))))"#;

#[tokio::test]
async fn a_node_with_all_its_databases_open_says_so_until_one_is_closed() {
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    let bytes = wat::parse_str(DATABASES).unwrap();
    let module = Module::compile(env.engine(), bytes).await.unwrap();
    let start = |entry| env.spawn_wasm(&module, entry, vec![], SpawnOptions::default());
    let run = async || end(&env, start("_start").unwrap()).await;
    let mut holders = Vec::new();
    let mut events = env.events();
    for _ in 0..512 / 16 {
        holders.push(start("holds").unwrap());
        while !matches!(events.recv().await.unwrap().what, Happening::Said { .. }) {}
    }
    assert_eq!(run().await, ExitReason::Exit(1));
    assert_eq!(run().await, ExitReason::Exit(1));
    env.kill(holders.pop().unwrap(), None);
    // Its databases close behind it, each by the thread that it has.
    let until = Instant::now() + PATIENCE;
    while run().await != ExitReason::Normal {
        assert!(Instant::now() < until, "none was closed");
    }
}

// ---- address space ---------------------------------------------------------------------------

/// A guest that is to compute has 4 GiB of address space, for speed; where that is not to be had it runs without.
#[test]
fn a_guest_computes_in_less_address_space_than_guarded_memory_takes() {
    let dir = tempfile::tempdir().unwrap();
    let guest = dir.path().join("computes.wat");
    let text = r#"(module (memory (export "memory") 1)
        (func (export "_start") (i32.store (i32.const 0) (memory.size))))"#;
    fs::write(&guest, text).unwrap();
    let line = r#"ulimit -v 3000000 && exec "$0" run --profile compute "$1""#;
    let ran = Command::new("/bin/sh")
        .args(["-c", line, env!("CARGO_BIN_EXE_tidelock")])
        .arg(&guest)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{:?} {words}", ran.status);
}

// ---- nodes -----------------------------------------------------------------------------------

/// A control plane in this process, and what an operator needs.
struct Control {
    handle: ControlHandle,
    client: Client,
    _state: tempfile::TempDir,
}

impl Control {
    async fn start(certificate_lifetime: Option<Duration>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = ControlConfig::new("test", state.path().join("control"));
        config.listen.set_port(0);
        if let Some(lifetime) = certificate_lifetime {
            config.certificate_lifetime = lifetime;
        }
        let handle = tidelock_control::serve(config).await.unwrap();
        let operator = Identity::load(handle.operator_dir()).unwrap();
        let client = Client::with_identity(handle.control(), &operator).unwrap();
        Control {
            handle,
            client,
            _state: state,
        }
    }

    /// Asks a node what an operator asks.
    async fn ask(&self, admin: SocketAddr) -> reqwest::Result<String> {
        let operator = Identity::load(self.handle.operator_dir()).unwrap();
        let tls = tidelock_certs::tls::https_client_config(&operator, Role::Node, None).unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(PATIENCE)
            .build()?;
        let answer = http
            .get(format!("https://{admin}/v1/processes"))
            .send()
            .await?;
        answer.error_for_status()?.text().await
    }

    async fn token(&self, uses: u32) -> String {
        let token = self.client.create_token(PATIENCE, uses).await;
        token.unwrap().token
    }
}

#[tokio::test]
async fn a_node_that_cannot_keep_its_identity_spends_no_token() {
    let Some(disk) = Disk::small() else { return };
    let control = Control::start(None).await;
    let token = control.token(1).await;
    let start = async || {
        let mut config = NodeConfig::new("node-1", control.handle.control());
        config.state_dir = Some(disk.path().to_owned());
        config.token = Some(token.parse().unwrap());
        Node::start(config).await
    };
    disk.fill();
    match start().await {
        Err(error @ StartError::State { .. }) => {
            let text = error.to_string();
            assert!(text.contains("No space left"), "{text}");
            assert!(text.contains(&disk.path().display().to_string()), "{text}");
        }
        other => panic!("{other:?}"),
    }
    disk.make_room();
    let node = start().await.expect("the token is as good as it was");
    node.leave().await;
    control.handle.shutdown().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_kept_is_used_all_the_same() {
    let control = Control::start(Some(Duration::from_secs(6))).await;
    let state = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::new("node-1", control.handle.control());
    config.state_dir = Some(state.path().to_owned());
    config.token = Some(control.token(1).await.parse().unwrap());
    let node = Node::start(config).await.unwrap();
    // A file in the directory's place: nothing can be written there, whoever one is.
    let (dir, away) = (state.path().join("identity"), state.path().join("away"));
    fs::rename(&dir, &away).unwrap();
    fs::write(&dir, "").unwrap();
    let first = Identity::load(&away).unwrap();
    let now = || tidelock_certs::UnixTime::now().as_secs();
    while now() <= first.not_after().as_secs() + 1 {
        tokio::time::sleep(Duration::from_millis(50)).await; // until the first one is of no use
    }
    assert!(fs::read(&dir).is_ok(), "nothing was kept meanwhile");
    control
        .ask(node.admin_addr())
        .await
        .expect("the node shows a later certificate");
    let members = control.client.nodes().await.unwrap();
    assert_eq!(members.nodes[0].state, NodeState::Alive);
    // With room again it is kept, at the latest with the next one.
    fs::remove_file(&dir).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while Identity::load(&dir).is_err() {
        assert!(Instant::now() < deadline, "not kept");
        tokio::time::sleep(Duration::from_millis(50)).await; // between two looks
    }
    node.leave().await;
    control.handle.shutdown().await;
}

// ---- descriptors -----------------------------------------------------------------------------

/// With fewer a daemon does not start.
const LEAST: usize = 64;

/// A node's daemon that may open so many files.
struct Daemon {
    child: Child,
    state: tempfile::TempDir,
}

impl Daemon {
    fn start(control: &Control, token: &str, files_max: Option<usize>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let limit = files_max.map_or("true".into(), |max| format!("ulimit -n {max}"));
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{limit} && exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_tidelock"))
            .args(["node", "--ready-json", "--parent-watch", "--name", "node-1"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--join", control.handle.control(), "--lease-ms", "3000"])
            .arg("--state-dir")
            .arg(state.path().join("node"))
            .env("TIDELOCK_TOKEN", token)
            .env("XDG_CACHE_HOME", state.path().join("cache"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        Daemon { child, state }
    }

    /// The address for operators, once it is ready.
    fn admin(&mut self) -> SocketAddr {
        let mut line = String::new();
        let mut stdout = BufReader::new(self.child.stdout.as_mut().unwrap());
        stdout.read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).expect("it is ready");
        ready["admin_addr"].as_str().unwrap().parse().unwrap()
    }

    /// How many files it has open.
    fn files(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.unwrap().count()
    }

    /// Waits for its end by itself; returns its exit code and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it neither runs nor ends");
            std::thread::sleep(Duration::from_millis(5)); // between two looks
        };
        stderr.read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.state.path();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_without_descriptors_goes_on_when_they_are_back() {
    let control = Control::start(None).await;
    let mut daemon = Daemon::start(&control, &control.token(1).await, Some(LEAST));
    let admin = daemon.admin();
    control.ask(admin).await.expect("there are enough so far");
    // Strangers take what is left, and as many more wait at the door.
    let held: Vec<_> = (0..2 * LEAST)
        .map(|_| TcpStream::connect(admin).unwrap())
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while daemon.files() < LEAST {
        assert!(Instant::now() < deadline, "{} are open", daemon.files());
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
    }
    // Its lease goes on by what it has open: three times as long as it would live without.
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        let members = control.client.nodes().await.unwrap();
        let node = members
            .nodes
            .iter()
            .find(|node| node.state == NodeState::Alive);
        assert!(node.is_some(), "{members:?}");
        tokio::time::sleep(Duration::from_millis(250)).await; // time is what is meant
    }
    drop(held);
    control.ask(admin).await.expect("it answers again");
    control.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_starts_with_too_few_descriptors_says_so() {
    let control = Control::start(None).await;
    let token = control.token(1).await;
    for max in [3, 4, 5, 6, 8, 12, 16, 24, 32, 48, LEAST - 1] {
        let (code, said) = Daemon::start(&control, &token, Some(max)).end();
        // With the fewest it is the system that cannot load the program, and says so.
        if max < 8 && said.contains("shared libraries") {
            assert_ne!(code, Some(0), "{max}: {said}");
            continue;
        }
        assert_eq!(code, Some(1), "{max}: {said}");
        let text = format!("{max} open files are allowed here");
        assert!(
            said.contains("E0044") && said.contains(&text),
            "{max}: {said}"
        );
    }
    // With just enough it runs, and its log says that they are few. No token was spent before.
    let mut daemon = Daemon::start(&control, &token, Some(LEAST));
    control.ask(daemon.admin()).await.expect("it runs");
    assert!(daemon.files() < LEAST);
    daemon.child.kill().unwrap();
    let (_, said) = daemon.end();
    assert!(said.contains("few files may be open"), "{said}");
    control.handle.shutdown().await;
}

// ---- compiling -------------------------------------------------------------------------------

/// The compiler of `tidelock`, as its daemons use it.
fn compiler() -> Compiler {
    Compiler {
        program: env!("CARGO_BIN_EXE_tidelock").into(),
        ..Compiler::this_program(&["compile-module"]).unwrap()
    }
}

fn compiling_with(compiler: Compiler) -> Engine {
    Engine::new(EngineConfig {
        compiler: Some(compiler),
        ..EngineConfig::default()
    })
    .unwrap()
}

/// A small module, and much work for its compiler: each loop changes each local.
fn dear(locals: usize, loops: usize) -> Vec<u8> {
    let changes: String = (0..locals)
        .map(|n| format!("(local.set {n} (i64.add (local.get {n}) (i64.const 1)))"))
        .collect();
    let mut body = changes;
    for _ in 0..loops {
        body = format!(
            "(loop {body} (br_if 0 (i64.eqz (local.get 0))) (br_if 0 (i64.eqz (local.get 1))))"
        );
    }
    let locals = "i64 ".repeat(locals);
    let text = format!(r#"(module (func (export "_start") (local {locals}) {body}))"#);
    wat::parse_str(text).unwrap()
}

async fn runs(engine: &Engine) {
    let bytes = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    let env = Environment::with_engine(EnvironmentConfig::default(), engine.clone());
    let module = Module::compile(engine, bytes).await.unwrap();
    let pid = env.spawn_wasm(&module, "_start", vec![], SpawnOptions::default());
    assert_eq!(env.wait(pid.unwrap()).await, ExitReason::Normal);
}

/// Compiles a module that takes more than this compiler allows, and then one that does not.
async fn is_given_up_at(bound: &str, compiler: Compiler) {
    let engine = compiling_with(compiler);
    let error = Module::compile(&engine, dear(2000, 200)).await.unwrap_err();
    assert!(
        matches!(&error, ModuleError::TooCostly(what) if what == bound),
        "{error}"
    );
    runs(&engine).await;
}

#[tokio::test]
async fn a_module_that_compiles_for_too_long_is_given_up() {
    let quick = Compiler {
        processor_time_max: Duration::from_secs(1),
        ..compiler()
    };
    is_given_up_at("1 s of processor time", quick).await;
}

#[tokio::test]
async fn a_module_that_takes_too_much_memory_to_compile_is_given_up() {
    let small = Compiler {
        memory_bytes_max: 64 << 20,
        ..compiler()
    };
    is_given_up_at("64 MiB of memory", small).await;
}

#[tokio::test]
async fn a_compiler_that_cannot_be_started_is_no_fault_of_the_module() {
    let bytes = wat::parse_str("(module)").unwrap();
    for (program, why) in [
        ("/nowhere/tidelock", "No such file"),
        ("/bin/false", "exit status: 1"),
    ] {
        let engine = compiling_with(Compiler {
            program: program.into(),
            ..compiler()
        });
        let error = Module::compile(&engine, bytes.clone()).await.unwrap_err();
        assert!(
            matches!(&error, ModuleError::NotCompiled(how) if how.contains(why)),
            "{program}: {error}"
        );
    }
    // One that cannot read the module says so, and nothing of the module.
    let words = ["-c", r#"exec "$0" compile-module "$@" < /"#];
    let engine = compiling_with(Compiler {
        program: "/bin/sh".into(),
        args: words
            .into_iter()
            .chain([env!("CARGO_BIN_EXE_tidelock")])
            .map(str::to_owned)
            .collect(),
        ..compiler()
    });
    let error = Module::compile(&engine, bytes).await.unwrap_err();
    assert!(
        matches!(&error, ModuleError::NotCompiled(how) if how.contains("Is a directory")),
        "{error}"
    );
    let engine = compiling_with(compiler());
    let error = Module::compile(&engine, &b"\0asm\x01\0\0\0\x01\x01"[..]).await;
    assert!(matches!(error, Err(ModuleError::Invalid(_))), "{error:?}");
}
