//! A program for Lunatic, unchanged: the `lunatic` crate as published, and nothing of Tidelock.
//!
//!     tidelock run lunatic_smoke.wasm
//!     tidelock dev --nodes 2 --once lunatic_smoke.wasm
//!
//! Prints a line for each part of the crate it has tried and ends with code 0 only if all
//! behave as its documentation says.

use std::time::Duration;

use lunatic::ap::{AbstractProcess, Config, ProcessRef, StartupError};
use lunatic::panic::catch_panic;
use lunatic::protocol::{End, Recv, Send, TaskEnd};
use lunatic::serializer::{Bincode, CanSerialize, Json, MessagePack};
use lunatic::supervisor::{Supervisor, SupervisorConfig, SupervisorStrategy};
use lunatic::{
    abstract_process, host, metrics, process_local, sleep, spawn, spawn_link, Mailbox,
    MessageSignal, Process, ProcessConfig, ProcessDiedSignal, ProcessName, Tag, WasmModule,
};
use serde::{Deserialize, Serialize};

const PATIENCE: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(100);

/// One part of the crate, tried in a process with a mailbox of its own.
type Check = fn(Mailbox<i64>);

fn main() {
    let checks: &[(&str, Check)] = &[
        ("mailbox", mailbox),
        ("tags", tags),
        ("spawn with captures", captures),
        ("1000 processes in a chain", chain),
        ("links: a failing child ends its parent", link_kills),
        ("links: caught", link_caught),
        ("monitor", monitor),
        ("kill, unlink, is_alive", kill),
        ("task", task),
        ("session protocol", protocol),
        ("abstract process", abstract_processes),
        ("start-up errors", startup_errors),
        ("request with timeout", request_timeout),
        ("registry", registry),
        ("supervisor", supervisor),
        ("config: permissions", permissions),
        ("config: memory limit", memory_limit),
        ("config: fuel limit", fuel_limit),
        ("config: environment and arguments", environment),
        ("timers", timers),
        ("catch_panic", panics),
        ("process local", locals),
        ("serializers", serializers),
        ("metrics", metric),
        ("compile a module", modules),
        ("nodes", nodes),
    ];
    let only = std::env::args().nth(1);
    let mut count = 0;
    for (name, check) in checks {
        if only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        let outcome = run(*check);
        if !outcome {
            println!("FAILED {name}");
            std::process::exit(1);
        }
        println!("ok {name}");
        count += 1;
    }
    println!("lunatic smoke: all {count} checks hold");
}

/// Runs a check in a process of its own; `false` if that failed or hangs.
fn run(check: Check) -> bool {
    let runner = Process::spawn_link(check as usize as u64, |check: u64, mailbox| {
        let mailbox: Mailbox<i64> = mailbox;
        mailbox.receive();
        // SAFETY: `check` was a function of this type in this same module.
        let check: Check = unsafe { std::mem::transmute(check as usize) };
        check(mailbox);
    });
    ends_well(runner, 0)
}

/// Lets a linked process go that waits for a first message; whether it ends normally.
fn ends_well<M>(process: Process<M>, go: M) -> bool
where
    Bincode: CanSerialize<M>,
{
    unsafe { host::api::process::die_when_link_dies(0) };
    unsafe { host::api::process::monitor(process.id()) };
    process.send(go);
    // A monitor does not say how the process ended; its link does, and does so first.
    let mut failed = false;
    loop {
        match receive_any() {
            LINK_DIED => failed = true,
            PROCESS_DIED => return !failed,
            _ => return false,
        }
    }
}

const LINK_DIED: u32 = 1;
const PROCESS_DIED: u32 = 2;

/// Receives whatever comes next and says what kind it is.
fn receive_any() -> u32 {
    let tags = std::ptr::null();
    unsafe { host::api::message::receive(tags, 0, PATIENCE.as_millis() as u64) }
}

fn mailbox(mailbox: Mailbox<i64>) {
    let this = mailbox.this();
    let adder = Process::spawn_link(this, |parent, mailbox: Mailbox<i64>| {
        parent.send(mailbox.receive() + mailbox.receive());
    });
    adder.send(40);
    adder.send(2);
    assert_eq!(mailbox.receive(), 42);

    for n in 0..500 {
        this.send(n);
    }
    for n in 0..500 {
        assert_eq!(mailbox.receive(), n);
    }
    assert!(mailbox.receive_timeout(MOMENT).unwrap_err().is_timed_out());
}

fn tags(mailbox: Mailbox<i64>) {
    let this = mailbox.this();
    let (first, second) = (Tag::new(), Tag::special(65).unwrap());
    this.send(0);
    this.tag_send(first, 1);
    this.tag_send(second, 2);
    assert_eq!(mailbox.tag_receive(&[second]), 2);
    assert_eq!(mailbox.receive(), 0);
    assert_eq!(mailbox.tag_receive(&[second, first]), 1);
}

fn captures(mailbox: Mailbox<i64>) {
    let parent = mailbox.this();
    let words = vec!["a".to_owned(), "longer one".to_owned()];
    spawn_link!(|parent, words| parent.send(words.iter().map(|w| w.len() as i64).sum()));
    assert_eq!(mailbox.receive(), 11);
}

fn chain(mailbox: Mailbox<i64>) {
    fn add((parent, n): (Process<i64>, i64), mailbox: Mailbox<i64>) {
        if n > 0 {
            Process::spawn_link((mailbox.this(), n - 1), add);
            parent.send(n + mailbox.receive());
        } else {
            parent.send(0);
        }
    }
    Process::spawn_link((mailbox.this(), 1000), add);
    assert_eq!(mailbox.receive(), 500_500);
}

fn link_kills(_: Mailbox<i64>) {
    let parent = Process::spawn_link((), |_, mailbox: Mailbox<()>| {
        mailbox.receive();
        spawn_link!(|| panic!("on purpose"));
        mailbox.receive();
    });
    assert!(!ends_well(parent, ()));
}

fn link_caught(mailbox: Mailbox<i64>) {
    let mailbox = mailbox.catch_link_failure();
    let tag = Tag::special(70).unwrap();
    Process::spawn_link_tag((), tag, |_, _: Mailbox<()>| panic!("on purpose"));
    match mailbox.receive() {
        MessageSignal::Signal(died) => assert_eq!(died.0, tag),
        MessageSignal::Message(message) => panic!("received {message}"),
    }
    Process::spawn_link((), |_, _: Mailbox<()>| {});
    assert!(mailbox.receive_timeout(MOMENT).unwrap_err().is_timed_out());
}

fn monitor(mailbox: Mailbox<i64>) {
    let mailbox = mailbox.monitorable();
    let child = Process::spawn(mailbox.this(), |parent, go: Mailbox<()>| {
        go.receive();
        parent.send(1);
    });
    mailbox.monitor(child);
    child.send(());
    assert_eq!(mailbox.receive().unwrap_message(), 1);
    let ProcessDiedSignal(id) = mailbox.receive().unwrap_signal();
    assert_eq!(id, child.id());
}

fn kill(_: Mailbox<i64>) {
    let child = Process::spawn((), |_, mailbox: Mailbox<()>| mailbox.receive());
    child.link();
    assert!(child.is_alive());
    child.unlink();
    child.kill();
    while child.is_alive() {
        sleep(Duration::from_millis(1));
    }
    child.unlink();
}

fn task(_: Mailbox<i64>) {
    let (a, b) = (20, 22);
    let task = spawn_link!(@task |a, b| a + b);
    assert_eq!(task.result(), 42);
    let slow = spawn_link!(@task || sleep(Duration::from_secs(3600)));
    assert!(slow.result_timeout(MOMENT).unwrap_err().is_timed_out());
}

fn protocol(_: Mailbox<i64>) {
    type Adder = Recv<i64, Recv<i64, Send<i64, End>>>;
    let child = spawn_link!(|protocol: Protocol<Adder>| {
        let (protocol, a) = protocol.receive();
        let (protocol, b) = protocol.receive();
        let _ = protocol.send(a + b);
    });
    let (_, sum) = child.send(2).send(3).receive();
    assert_eq!(sum, 5);

    let answer = spawn_link!(|protocol: Protocol<Send<String, TaskEnd>>| {
        let _ = protocol.send("done".to_owned());
    });
    assert_eq!(answer.result(), "done");
}

struct Counter {
    total: i64,
    told: u32,
}

#[abstract_process(visibility = pub)]
impl Counter {
    #[init]
    fn init(config: Config<Self>, total: i64) -> Result<Self, String> {
        config.die_if_link_dies(false);
        match total {
            ..=-100 => panic!("far too small"),
            -99..=-1 => Err("too small".to_owned()),
            _ => Ok(Self { total, told: 0 }),
        }
    }

    #[terminate]
    fn terminate(self) {}

    #[handle_link_death]
    fn link_died(&mut self, _: Tag) {
        self.told += 1;
    }

    #[handle_message]
    fn add(&mut self, n: i64) {
        self.total += n;
    }

    #[handle_message]
    fn fail(&mut self) {
        panic!("on purpose");
    }

    #[handle_message]
    fn spawn_failing_child(&mut self) {
        spawn_link!(|| panic!("on purpose"));
    }

    #[handle_request]
    fn total(&self) -> i64 {
        self.total
    }

    #[handle_request]
    fn told(&self) -> u32 {
        self.told
    }

    #[handle_request]
    fn slow(&self, milliseconds: u64) -> bool {
        sleep(Duration::from_millis(milliseconds));
        true
    }
}

fn abstract_processes(_: Mailbox<i64>) {
    let counter = Counter::link().start(2).unwrap();
    counter.add(40);
    assert_eq!(counter.total(), 42);
    counter.spawn_failing_child();
    while counter.told() == 0 {
        sleep(Duration::from_millis(1));
    }
    assert_eq!(counter.told(), 1);
    counter.shutdown();

    let counter = Counter::start(0).unwrap();
    counter.fail();
    while counter.is_alive() {
        sleep(Duration::from_millis(1));
    }
}

fn startup_errors(_: Mailbox<i64>) {
    let refused = Counter::start(-1);
    assert!(matches!(refused, Err(StartupError::Custom(text)) if text == "too small"));
    let panicked = Counter::start(-100);
    assert!(matches!(panicked, Err(StartupError::InitPanicked)));
}

fn request_timeout(_: Mailbox<i64>) {
    let counter = Counter::link().start(0).unwrap();
    assert!(counter.with_timeout(MOMENT).slow(60_000).is_err());
    counter.kill_unlinked();
}

/// Ends a process without ending oneself.
trait KillUnlinked {
    fn kill_unlinked(&self);
}

impl<T: AbstractProcess> KillUnlinked for ProcessRef<T> {
    fn kill_unlinked(&self) {
        self.unlink();
        self.kill();
    }
}

#[derive(ProcessName)]
struct Named;

fn registry(mailbox: Mailbox<i64>) {
    mailbox.this().register(&"main");
    spawn_link!(|| Process::<i64>::lookup(&"main").unwrap().send(7));
    assert_eq!(mailbox.receive(), 7);
    assert!(Process::<i64>::lookup(&"nobody").is_none());

    let counter = Counter::link().start_as(&Named, 5).unwrap();
    let found = ProcessRef::<Counter>::lookup(&Named).unwrap();
    assert_eq!(found.total(), 5);
    let again = Counter::link().start_as(&Named, 6);
    assert!(matches!(again, Err(StartupError::NameAlreadyRegistered(other)) if other == counter));
    counter.shutdown();
}

struct Restarting;

impl Supervisor for Restarting {
    type Arg = ();
    type Children = (Counter,);

    fn init(config: &mut SupervisorConfig<Self>, _: ()) {
        config.set_strategy(SupervisorStrategy::OneForOne);
        config.set_args((9,));
    }
}

fn supervisor(_: Mailbox<i64>) {
    let supervisor = Restarting::link().start(()).unwrap();
    let (child,) = supervisor.children();
    child.add(1);
    assert_eq!(child.total(), 10);
    child.fail();
    while child.is_alive() {
        sleep(Duration::from_millis(1));
    }
    let (restarted,) = supervisor.children();
    assert_ne!(restarted, child);
    assert_eq!(restarted.total(), 9);
    supervisor.shutdown();
}

fn permissions(_: Mailbox<i64>) {
    let mut config = ProcessConfig::new().unwrap();
    assert!(!config.can_spawn_processes());
    assert!(!config.can_create_configs());
    assert!(!config.can_compile_modules());

    let no_configs = spawn_link!(@task &config, || ProcessConfig::new().is_err());
    assert!(no_configs.result());
    let no_children = Process::spawn_link_config(&config, (), |_, go: Mailbox<()>| {
        go.receive();
        spawn!(|| {});
    });
    assert!(!ends_well(no_children, ()));

    config.set_can_spawn_processes(true);
    config.set_can_create_configs(true);
    let both = spawn_link!(@task &config, || {
        let sub_task = spawn_link!(@task || 1);
        sub_task.result() == 1 && ProcessConfig::new().is_ok()
    });
    assert!(both.result());
}

fn memory_limit(_: Mailbox<i64>) {
    let mut config = ProcessConfig::new().unwrap();
    config.set_max_memory(3_000_000);
    assert_eq!(config.get_max_memory(), 3_000_000);
    let greedy = Process::spawn_link_config(&config, (), |_, go: Mailbox<()>| {
        go.receive();
        std::hint::black_box(vec![1_u8; 10_000_000]);
    });
    assert!(!ends_well(greedy, ()));
    let modest = Process::spawn_link_config(&config, (), |_, go: Mailbox<()>| {
        go.receive();
        std::hint::black_box(vec![1_u8; 100_000]);
    });
    assert!(ends_well(modest, ()));
}

fn fuel_limit(_: Mailbox<i64>) {
    let mut config = ProcessConfig::new().unwrap();
    config.set_max_fuel(10);
    assert_eq!(config.get_max_fuel(), 10);
    let endless = Process::spawn_link_config(&config, (), |_, go: Mailbox<()>| {
        go.receive();
        let mut n = 0_u64;
        loop {
            n = std::hint::black_box(n + 1);
        }
    });
    assert!(!ends_well(endless, ()));
}

fn environment(_: Mailbox<i64>) {
    let mut config = ProcessConfig::new().unwrap();
    config.add_environment_variable("SMOKE", "yes");
    config.add_command_line_argument("program");
    config.add_command_line_argument("argument");
    let task = spawn_link!(@task &config, || {
        let arguments: Vec<String> = std::env::args().collect();
        (std::env::var("SMOKE").ok(), arguments)
    });
    let (variable, arguments) = task.result();
    assert_eq!(variable.as_deref(), Some("yes"));
    assert_eq!(arguments, ["program", "argument"]);
    assert!(std::env::var("SMOKE").is_err());
}

fn timers(mailbox: Mailbox<i64>) {
    let this = mailbox.this();
    this.send_after(1, Duration::from_millis(20));
    assert_eq!(mailbox.receive(), 1);
    let never = this.send_after(2, Duration::from_secs(3600));
    assert!(never.cancel());
    assert!(!never.cancel());
    assert!(mailbox.receive_timeout(MOMENT).is_err());
}

fn panics(_: Mailbox<i64>) {
    assert!(catch_panic(|| panic!("on purpose")).is_err());
    assert_eq!(catch_panic(|| 42), Ok(42));
    let hello = "hello".to_owned();
    assert_eq!(catch_panic(move || hello).as_deref(), Ok("hello"));
}

process_local! {
    static LOCAL: std::cell::RefCell<u32> = std::cell::RefCell::new(1);
}

fn locals(_: Mailbox<i64>) {
    LOCAL.with(|local| *local.borrow_mut() = 2);
    let other = spawn_link!(@task || LOCAL.with(|local| *local.borrow()));
    assert_eq!(other.result(), 1);
    LOCAL.with(|local| assert_eq!(*local.borrow(), 2));
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Shape {
    name: String,
    corners: Vec<(f64, f64)>,
}

fn serializers(mailbox: Mailbox<i64>) {
    let shape = Shape {
        name: "line".to_owned(),
        corners: vec![(0.0, 0.5); 1000],
    };
    let parent = mailbox.this();
    let pack = Process::spawn_link(parent, |parent, shapes: Mailbox<Shape, MessagePack>| {
        parent.send(shapes.receive().corners.len() as i64);
    });
    pack.send(shape.clone());
    assert_eq!(mailbox.receive(), 1000);
    let json = Process::spawn_link(parent, |parent, shapes: Mailbox<Shape, Json>| {
        parent.send(shapes.receive().corners.len() as i64);
    });
    json.send(shape);
    assert_eq!(mailbox.receive(), 1000);
}

fn metric(_: Mailbox<i64>) {
    metrics::counter("smoke.counter", 3);
    metrics::increment_counter("smoke.counter");
    metrics::gauge("smoke.gauge", 1.5);
    metrics::increment_gauge("smoke.gauge", 1.0);
    metrics::decrement_gauge("smoke.gauge", 0.5);
    metrics::histogram("smoke.histogram", 2.5);
}

fn modules(_: Mailbox<i64>) {
    // (module (memory (export "memory") 1) (func (export "end")) (func (export "fail") unreachable))
    const BYTES: &[u8] = b"\0asm\x01\0\0\0\
        \x01\x04\x01\x60\0\0\
        \x03\x03\x02\0\0\
        \x05\x03\x01\0\x01\
        \x07\x17\x03\x06memory\x02\0\x03end\0\0\x04fail\0\x01\
        \x0a\x08\x02\x02\0\x0b\x03\0\0\x0b";
    let module = WasmModule::new(BYTES).unwrap();
    unsafe { host::api::process::die_when_link_dies(0) };
    let tag = Tag::special(90).unwrap();
    let end: Process<()> = module.spawn_link("end", &[], tag).unwrap();
    while end.is_alive() {
        sleep(Duration::from_millis(1));
    }
    for function in ["fail", "missing"] {
        module
            .spawn_link::<(), Bincode>(function, &[], tag)
            .unwrap();
        assert_eq!(receive_any(), LINK_DIED);
        assert_eq!(unsafe { host::api::message::get_tag() }, tag.id());
    }
    assert!(WasmModule::new(b"no module").is_err());
}

fn nodes(mailbox: Mailbox<i64>) {
    let here = lunatic::distributed::node_id();
    let nodes = lunatic::distributed::nodes();
    let Some(there) = nodes.into_iter().find(|node| *node != here) else {
        println!("-- no other node");
        return;
    };
    let parent = mailbox.this();
    let child = Process::spawn_node(there, parent, |parent, mailbox: Mailbox<i64>| loop {
        parent.send(mailbox.receive() + 1);
    });
    assert_eq!(child.node_id(), there);
    for n in 0..100 {
        child.send(n);
        assert_eq!(mailbox.receive(), n + 1);
    }
    let counter = Counter::on_node(there).start(1).unwrap();
    counter.add(1);
    assert_eq!(counter.total(), 2);
    counter.shutdown();

    // With ids that are unique in the cluster, links of unchanged programs reach other nodes.
    let mailbox = mailbox.catch_link_failure();
    child.link();
    child.kill();
    match mailbox.receive() {
        MessageSignal::Signal(_) => {}
        MessageSignal::Message(message) => panic!("received {message}"),
    }
}
