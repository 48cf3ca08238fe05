//! Every call that guests have, with pointers, lengths and ids at the edges.
//!
//! The calls are those which an environment says it offers, so none is forgotten. One module imports all of
//! them and exports a function for each, which sets a scene, stores four words that pointers may lead to,
//! and makes the call with whatever arguments it is given.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tidelock::{
    Environ, Environment, ExitReason, Import, Module, Param, Pid, ProcessConfig, SpawnOptions,
};

use super::host::Host;
use super::input::Input;

/// Calls of one input.
const CALLS_MAX: usize = 8;
/// How long a call may wait for what never comes, before its process is killed.
const WAIT: Duration = Duration::from_millis(2);

/// Bytes of the memory when a guest starts.
const MEMORY_BYTES: u32 = 64 << 10;
/// Where a module, a name, two parameters of a process and four words are.
const PLACES: [u32; 4] = [0, 512, 600, 1024];
/// What a guest has done before the call: nothing; written a message; made one of each thing with an id, but
/// for TLS; been told of an end; grown its memory.
const SCENES: u8 = 5;
/// Guests that look whether anybody wrote into their memory.
const WITNESSES: usize = 8;

/// Where everything runs; one for the process.
struct World {
    host: Host,
    module: Module,
    imports: Vec<Import>,
    config: Arc<ProcessConfig>,
    witnesses: Vec<Pid>,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// Makes the calls that `data` says: each ends its process with a reason, or is answered.
pub fn run(data: &[u8]) {
    let world = &*WORLD;
    let mut input = Input(data);
    let mut calls = Vec::new();
    while calls.is_empty() || (!input.is_empty() && calls.len() < CALLS_MAX) {
        calls.push(world.call(&mut input));
    }
    world.host.runtime.block_on(async {
        let ends = calls.iter().map(|(import, pid)| world.end(import, *pid));
        for end in ends {
            end.await;
        }
        world.look();
    });
}

/// Makes every call, in every scene, with each argument at each edge and the others at places where
/// something is. Returns how many imports there are, and how many calls were made.
pub fn sweep() -> (usize, usize) {
    let imports = &WORLD.imports;
    let mut made = 0;
    for (number, import) in imports.iter().enumerate() {
        let number = u8::try_from(number).expect("a byte names each import");
        for scene in 0..SCENES {
            for (at, ty) in import.params.iter().enumerate() {
                let edges = if ty == "i32" {
                    EDGES.len()
                } else {
                    ID_EDGES.len()
                };
                for edge in 0..edges {
                    let mut args: Vec<u8> =
                        import.params.iter().map(|ty| usual(scene, ty)).collect();
                    args[at] = edge as u8;
                    let words = [EDGES.len() as u8; 8];
                    run(&[&[number, scene], &words[..], &args].concat());
                    made += 1;
                }
            }
        }
    }
    (imports.len(), made)
}

/// The byte of an argument that is at no edge: a place, or the first id where each thing was made.
fn usual(scene: u8, ty: &str) -> u8 {
    if scene == 2 && ty != "i32" {
        ID_EDGES.len() as u8
    } else {
        EDGES.len() as u8
    }
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let env = &host.env;
        let imports = env.imports().expect("the empty module compiles");
        let compile = |text: &str| {
            let bytes = wat::parse_str(text).expect("our own module");
            Module::compile_blocking(env.engine(), bytes).expect("our own module")
        };
        let module = compile(&caller(&imports));
        let witnesses = witnesses(env, &compile(WITNESS));
        let config = ProcessConfig {
            memory_bytes_max: 1 << 20,
            args: vec!["program".into(), "argument".into()],
            env: vec![("NAME".into(), "value".into())],
            preopens: vec![folder()],
            ..ProcessConfig::default()
        };
        World {
            module,
            imports,
            config: Arc::new(config),
            witnesses,
            host,
        }
    }

    /// Starts a process that makes one call.
    fn call(&self, input: &mut Input<'_>) -> (&Import, Pid) {
        let number = usize::from(input.byte()) % self.imports.len();
        let import = &self.imports[number];
        let mut params = vec![Param::I32((input.byte() % SCENES).into())];
        params.extend((0..4).map(|_| Param::I64(near(import, word(input)).cast_signed())));
        params.extend(import.params.iter().map(|ty| match ty.as_str() {
            "i32" => Param::I32(pointer(input).cast_signed()),
            _ => Param::I64(id(input).cast_signed()),
        }));
        let mut options = SpawnOptions::default();
        options.config = self.config.clone();
        let entry = format!("call {number}");
        let pid = self
            .host
            .env
            .spawn_wasm(&self.module, &entry, params, options);
        (import, pid.expect("there is room for one more"))
    }

    /// Waits for the end of that process; whoever waits for what never comes is killed.
    async fn end(&self, import: &Import, pid: Pid) {
        let call = format!("{}::{}", import.module, import.name);
        match self.host.end(pid, WAIT, &call).await {
            ExitReason::NotStarted(text) => panic!("{call} was not made: {text}"),
            // What is not of WASI says who traps, and what is wrong.
            ExitReason::Trap(text) if import.module != "wasi_snapshot_preview1" => {
                let said = text.strip_prefix(&format!("{call}: "));
                assert!(said.is_some_and(|text| text.len() > 8), "{call}: {text}");
            }
            _ => {}
        }
    }

    /// Ends whoever the calls left behind, and asks the witnesses.
    fn look(&self) {
        for process in self.host.env.processes() {
            if !self.witnesses.contains(&process.pid) {
                self.host.env.kill(process.pid, None);
            }
        }
        for pid in &self.witnesses {
            assert_eq!(
                self.host.env.end_of(*pid),
                None,
                "somebody wrote into its memory"
            );
        }
    }
}

/// A directory for everybody, empty at the start.
fn folder() -> String {
    let place = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, Into::into);
    // A few at a time, and not one more for each run that there ever was.
    let dir = place.join(format!("pointers-{}", std::process::id() % 8));
    // Of an earlier run, as a rule.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a directory for guests");
    dir.to_str().expect("a name in UTF-8").to_owned()
}

// ---- arguments -------------------------------------------------------------------------------

const EDGES: [u32; 16] = [
    0,
    1,
    2,
    8,
    17,
    34,
    MEMORY_BYTES - 8,
    MEMORY_BYTES - 1,
    MEMORY_BYTES,
    MEMORY_BYTES + 1,
    2 * MEMORY_BYTES - 1,
    2 * MEMORY_BYTES,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX - 7,
    u32::MAX,
];

const ID_EDGES: [u64; 8] = [
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    (1 << 63) - 1,
    1 << 40,
    (1 << 40) - 1,
    1 << 32,
    (1 << 32) - 1,
];

/// A pointer, a length, or another small number: mostly at an edge, or where something is.
fn pointer(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        choice @ 0..=15 => EDGES[usize::from(choice)],
        choice @ 16..=63 => PLACES[usize::from(choice) % PLACES.len()],
        choice @ 64..=191 => u32::from(choice) - 64,
        _ => u32::try_from(input.number() & u64::from(u32::MAX)).expect("32 bits"),
    }
}

/// An id, a time, an offset.
fn id(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        choice @ 0..=7 => ID_EDGES[usize::from(choice)],
        choice @ 8..=191 => u64::from(choice) - 8,
        _ => input.number(),
    }
}

/// What lies where a pointer leads: two halves, as a list of buffers has them.
fn word(input: &mut Input<'_>) -> u64 {
    u64::from(pointer(input)) | u64::from(pointer(input)) << 32
}

/// A word as it is, unless the call may take it for an address: then for one of this machine, since no search
/// is to bother others.
fn near(import: &Import, word: u64) -> u64 {
    let is_address = ["tcp_connect", "udp_connect", "udp_send_to"].contains(&import.name.as_str());
    if is_address { word & !0xff | 127 } else { word }
}

// ---- guests ----------------------------------------------------------------------------------

/// Fills its memory, and at every tick of its own looks whether it is what it wrote. It ends when it is not.
const WITNESS: &str = r#"(module
    (import "lunatic::process" "sleep_ms" (func $sleep (param i64)))
    (memory (export "memory") 1)
    (func (export "_start") (local $at i32)
        (loop $fill
            (i64.store (local.get $at) (i64.const 0x5a5a5a5a5a5a5a5a))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $fill (i32.lt_u (local.get $at) (i32.const 65536))))
        (loop $look
            (call $sleep (i64.const 100))
            (local.set $at (i32.const 0))
            (loop $each
                (if (i64.ne (i64.load (local.get $at)) (i64.const 0x5a5a5a5a5a5a5a5a)) (then return))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $each (i32.lt_u (local.get $at) (i32.const 65536))))
            (br $look))))"#;

/// Starts twice as many as stay: those that end leave slots between the others, for callers.
fn witnesses(env: &Environment, module: &Module) -> Vec<Pid> {
    let mut options = SpawnOptions::default();
    // Out of everybody's reach.
    options.environ = Environ(7);
    let all: Vec<Pid> = (0..2 * WITNESSES)
        .map(|_| {
            let pid = env.spawn_wasm(module, "_start", vec![], options.clone());
            pid.expect("there is room")
        })
        .collect();
    for pid in all.iter().skip(1).step_by(2) {
        env.kill(*pid, None);
    }
    all.into_iter().step_by(2).collect()
}

/// A module with a function for each import.
fn caller(imports: &[Import]) -> String {
    let mut text = String::from("(module\n");
    for (number, import) in imports.iter().enumerate() {
        let Import {
            module,
            name,
            params,
            results,
        } = import;
        let (params, results) = (params.join(" "), results.join(" "));
        let _ = writeln!(
            text,
            r#"(import "{module}" "{name}" (func $f{number} (param {params}) (result {results})))"#
        );
    }
    text += &scenes(imports);
    for (number, import) in imports.iter().enumerate() {
        let _ = write!(
            text,
            r#"(func (export "call {number}") (param $scene i32)
                (param $a i64) (param $b i64) (param $c i64) (param $d i64)"#
        );
        for (at, ty) in import.params.iter().enumerate() {
            // A process takes no numbers with a point.
            let ty = if ty == "i32" { "i32" } else { "i64" };
            let _ = write!(text, " (param $p{at} {ty})");
        }
        text += "(call $set (local.get $scene) (local.get $a) (local.get $b) (local.get $c) (local.get $d))";
        let _ = write!(text, "(call $f{number}");
        for (at, ty) in import.params.iter().enumerate() {
            let _ = match ty.as_str() {
                "f64" => write!(text, " (f64.reinterpret_i64 (local.get $p{at}))"),
                _ => write!(text, " (local.get $p{at})"),
            };
        }
        text += ")";
        text += &" drop".repeat(import.results.len());
        text += ")\n";
    }
    text + ")"
}

/// The memory, and what is done before a call.
fn scenes(imports: &[Import]) -> String {
    let f = |module: &str, name: &str| {
        let found = imports
            .iter()
            .position(|import| import.module == module && import.name == name);
        format!("$f{}", found.unwrap_or_else(|| panic!("{module}::{name}")))
    };
    let (message, process) = ("lunatic::message", "lunatic::process");
    let [write_data, create_data, receive] =
        ["write_data", "create_data", "receive"].map(|name| f(message, name));
    let [compile, config, die, link] = [
        "compile_module",
        "create_config",
        "die_when_link_dies",
        "link",
    ]
    .map(|name| f(process, name));
    let lookup = f("lunatic::distributed", "exec_lookup_nodes");
    let [resolve, bind, connect, udp] = ["resolve", "tcp_bind", "tcp_connect", "udp_bind"]
        .map(|name| f("lunatic::networking", name));
    let [local, next] =
        ["tcp_local_addr", "resolve_next"].map(|name| f("lunatic::networking", name));
    let [_, name, params, words] = PLACES;
    format!(
        r#"(memory (export "memory") 1 16)
        ;; The empty module; the name of a function, which is an address of this machine, too; an i32 and an i64.
        (data (i32.const 0) "\00asm\01\00\00\00")
        (data (i32.const {name}) "\7f\00\00\01")
        (data (i32.const {params}) "\7f\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\7e\ff")
        (data (i32.const 2100) "127.0.0.1:9")
        (func (export "\7f\00\00\01"))
        (func $set (param $scene i32) (param $a i64) (param $b i64) (param $c i64) (param $d i64)
            (i64.store (i32.const {words}) (local.get $a))
            (i64.store offset=8 (i32.const {words}) (local.get $b))
            (i64.store offset=16 (i32.const {words}) (local.get $c))
            (i64.store offset=24 (i32.const {words}) (local.get $d))
            (call {die} (i32.const 0))
            (if (i32.eq (local.get $scene) (i32.const 1)) (then
                (call {create_data} (i64.const 5) (i64.const 0))
                (drop (call {write_data} (i32.const 0) (i32.const 2000)))))
            (if (i32.eq (local.get $scene) (i32.const 2)) (then
                (drop (call {config}))
                (drop (call {compile} (i32.const 0) (i32.const 8) (i32.const 2048)))
                ;; An error: that is no module.
                (drop (call {compile} (i32.const 0) (i32.const 7) (i32.const 2048)))
                (drop (call {lookup} (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 2048) (i32.const 2048)))
                ;; A listener, a stream that leads to it, a socket, and the iterator of the listener's address.
                (drop (call {bind} (i32.const 4) (i32.const {name}) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048)))
                (drop (call {local} (i64.const 0) (i32.const 2048)))
                (drop (call {next} (i64.const 0) (i32.const 2048) (i32.const 2052) (i32.const 2068) (i32.const 2072) (i32.const 2072)))
                (drop (call {connect} (i32.const 4) (i32.const {name}) (i32.load16_u (i32.const 2068)) (i32.const 0)
                    (i32.const 0) (i64.const -1) (i32.const 2048)))
                (drop (call {udp} (i32.const 4) (i32.const {name}) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2048)))
                (drop (call {resolve} (i32.const 2100) (i32.const 11) (i64.const 0) (i32.const 2048)))))
            (if (i32.eq (local.get $scene) (i32.const 3)) (then
                (call {link} (i64.const 9) (i64.const 4096))
                (drop (call {receive} (i32.const 0) (i32.const 0) (i64.const 0)))))
            (if (i32.eq (local.get $scene) (i32.const 4)) (then
                (drop (memory.grow (i32.const 1))))))
        "#
    )
}
