//! What `tests/cluster.rs` runs inside a cluster: one scenario per start, named by the first argument.
//!
//!     tidelock spawn scenarios --on n1 -- watch n2 10
//!
//! Goal: show what a guest observes, and judge as little of it as possible. Method: every
//! observation is one line of JSON on stdout; whoever started the guest compares them with what it
//! did to the machines. Nothing here sleeps to let others catch up: it waits for messages and ends.

#[path = "scenarios/load.rs"]
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::time::{Duration, Instant};

use tidelock_guest::{
    demonitor, die_when_link_dies, exists, kill, link, me, monitor, monitor_node, node_id, receive,
    send, unlink, Data, LinkDied, NodeId, Pid, Received, Spawn,
};

/// Long enough for anything here on a busy machine.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));
/// Does not wait: only what is in the mailbox already.
const NO_TIME: Option<Duration> = Some(Duration::ZERO);

/// Tags of messages.
const GO: i64 = 1;
const DONE: i64 = 2;
const RAN: i64 = 3;
const TOLD: i64 = 4;
const FAILED: i64 = 5;

fn main() {
    die_when_link_dies(false);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["hold"] => hold(),
        ["spawn", node] => spawn_there(on(node)),
        ["child", node, how] => child(on(node), how),
        ["orphan", node, how] => orphan(on(node), how),
        ["monitors", node] => monitors(on(node)),
        ["watch", node, count] => watch(on(node), number(count)),
        ["stale", pid] => stale(known(pid)),
        ["pour", pid, bytes] => pour(known(pid), number(bytes)),
        ["bind", pid] => bind(known(pid)),
        ["echo", node, count] => echo_there(on(node), number(count)),
        ["traffic", node, ms, window, bytes] => {
            traffic(on(node), number(ms), number(window), number(bytes));
        }
        ["refused", node] => refused(on(node)),
        ["fill", node, most] => fill(on(node), number(most)),
        ["unreachable", node] => unreachable(on(node)),
        ["endings", node, rounds, seed] => endings(on(node), number(rounds), number(seed)),
        ["crossings", node, rounds, seed] => crossings(on(node), number(rounds), number(seed)),
        ["storm", node, count] => storm(on(node), number(count), true),
        ["orphans", node, count] => storm(on(node), number(count), false),
        ["spawns", node, parents, children] => spawns(on(node), number(parents), number(children)),
        ["bulk", node, ms, window, bytes] => {
            load::bulk(on(node), number(ms), number(window), number(bytes));
        }
        ["sleeper"] => load::sleeper(),
        ["pile", to, count, bytes] => load::pile(known(to), number(count), number(bytes)),
        ["counts"] => load::counts(),
        ["press", to, count, bytes, free] => {
            load::press(known(to), number(count), number(bytes), number(free));
        }
        ["overload", node, ms, window, bytes] => {
            load::overload(on(node), number(ms), number(window), number(bytes));
        }
        ["churn", node, ms, seed] => load::churn(on(node), number(ms), number(seed)),
        _ => panic!("no such scenario: {arguments:?}"),
    }
}

fn on(node: &str) -> NodeId {
    NodeId(node.trim_start_matches('n').parse().expect("a node"))
}

fn known(pid: &str) -> Pid {
    pid.parse().expect("a pid")
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

// ---- observations ------------------------------------------------------------------------------

/// One line of JSON.
struct Line(String);

impl Line {
    fn new(what: &str) -> Self {
        Line(format!("{{\"what\":\"{what}\",\"me\":\"{}\"", me()))
    }

    fn number(mut self, name: &str, value: impl Display) -> Self {
        let _ = write!(self.0, ",\"{name}\":{value}");
        self
    }

    fn text(mut self, name: &str, value: impl Display) -> Self {
        let _ = write!(self.0, ",\"{name}\":\"");
        for character in value.to_string().chars() {
            match character {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                control if control < ' ' => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(control));
                }
                other => self.0.push(other),
            }
        }
        self.0.push('"');
        self
    }

    fn list(mut self, name: &str, values: impl IntoIterator<Item = impl Display>) -> Self {
        let quoted: Vec<String> = values.into_iter().map(|v| format!("\"{v}\"")).collect();
        let _ = write!(self.0, ",\"{name}\":[{}]", quoted.join(","));
        self
    }

    fn say(self) {
        println!("{}}}", self.0);
    }
}

/// Says what was received, whatever it is.
fn report(received: &Received) {
    match received {
        Received::LinkDied(died) => Line::new("link")
            .text("about", died.pid)
            .number("tag", died.tag)
            .number("code", died.reason.code)
            .text("why", &died.reason)
            .say(),
        Received::Down(down) => Line::new("down")
            .text("about", down.pid)
            .number("ref", down.reference)
            .number("code", down.reason.code)
            .text("why", &down.reason)
            .say(),
        Received::NodeDown(down) => Line::new("node")
            .text("about", down.node)
            .number("ref", down.reference)
            .say(),
        Received::Data(data) => Line::new("data").number("tag", data.tag).say(),
        Received::Timeout => Line::new("timeout").say(),
    }
}

/// Reports everything that comes, for ever.
fn report_all() {
    loop {
        report(&receive(&[], None));
    }
}

/// Waits for a message and gives its first number.
fn told(tag: i64) -> u64 {
    match receive(&[tag], PATIENCE) {
        Received::Data(Data { bytes, .. }) => read(&bytes),
        other => panic!("expected a message {tag}, received {other:?}"),
    }
}

fn read(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("a number was sent"))
}

fn tell(pid: Pid, tag: i64, value: u64) {
    send(pid, tag, &value.to_le_bytes());
}

fn pid(raw: u64) -> Pid {
    Pid::from_raw(raw).expect("a pid was passed")
}

// ---- children ----------------------------------------------------------------------------------

/// Lives until it is killed.
fn hold() {
    Line::new("holding").say();
    report_all();
}

/// Says to its parent that it runs, then reports all that comes.
fn witness(parent: u64) {
    die_when_link_dies(false);
    tell(pid(parent), RAN, me().raw());
    report_all();
}

/// As [`witness`], but ends of links.
fn mortal(parent: u64) {
    tell(pid(parent), RAN, me().raw());
    report_all();
}

/// Says that it ran, and ends.
fn runner(parent: u64) {
    tell(pid(parent), RAN, me().raw());
}

/// Fails in its code.
fn fails(_: u64) {
    told(GO);
    panic!("as told");
}

/// Leaves with a code.
fn leaves(_: u64) {
    told(GO);
    std::process::exit(7);
}

/// Ends normally.
fn ends(_: u64) {
    told(GO);
}

/// Calls itself until the stack is full.
fn recurses(_: u64) {
    fn deeper(n: u64) -> u64 {
        if n == u64::MAX {
            return 0;
        }
        std::hint::black_box(deeper(std::hint::black_box(n) + 1)) + 1
    }
    told(GO);
    std::hint::black_box(deeper(0));
}

/// Never gives way.
fn spins(parent: u64) {
    tell(pid(parent), RAN, me().raw());
    let mut n = 0_u64;
    loop {
        n = std::hint::black_box(n + 1);
    }
}

/// Sends back what it gets.
fn echoes(parent: u64) {
    let parent = pid(parent);
    loop {
        if let Received::Data(Data { tag, bytes }) = receive(&[], None) {
            send(parent, tag, &bytes);
        }
    }
}

fn start(node: NodeId, entry: fn(u64)) -> Pid {
    Spawn::new()
        .on(node)
        .start(entry, me().raw())
        .expect("room")
}

fn start_linked(node: NodeId, tag: i64, entry: fn(u64)) -> Pid {
    let spawn = Spawn::new().on(node).linked(tag);
    spawn.start(entry, me().raw()).expect("room")
}

// ---- spawning, linking, watching ---------------------------------------------------------------

fn spawn_there(node: NodeId) {
    let child = start(node, runner);
    let said = pid(told(RAN));
    Line::new("ran")
        .text("child", child)
        .text("said", said)
        .say();
}

/// A linked child there, which ends in one of several ways.
fn child(node: NodeId, how: &str) {
    let entry = match how {
        "fails" => fails,
        "leaves" => leaves,
        "ends" => ends,
        "recurses" => recurses,
        "spins" => spins,
        "killed" => witness,
        _ => panic!("no such end: {how}"),
    };
    let child = start_linked(node, 41, entry);
    let watch = monitor(child);
    Line::new("linked")
        .text("child", child)
        .number("ref", watch.reference())
        .say();
    match how {
        "spins" | "killed" => {
            told(RAN);
            kill(child);
        }
        _ => tell(child, GO, 0),
    }
    report_all();
}

/// A parent here, which ends; its child there does not trap that.
fn orphan(node: NodeId, how: &str) {
    fn parent(main: u64) {
        let node = NodeId(told(GO));
        let child = start_linked(node, 0, mortal);
        tell(pid(main), DONE, child.raw());
        told(RAN);
        told(GO);
        std::process::exit(9);
    }
    let parent = start(node_id(), parent);
    tell(parent, GO, node.0);
    let child = pid(told(DONE));
    let watch = monitor(child);
    Line::new("orphan")
        .text("parent", parent)
        .text("child", child)
        .number("ref", watch.reference())
        .say();
    match how {
        "killed" => kill(parent),
        _ => tell(parent, GO, 0),
    }
    report_all();
}

/// Monitors of one process: three, one of them taken back, and one that comes too late.
fn monitors(node: NodeId) {
    let child = start(node, leaves);
    let (first, second, third) = (monitor(child), monitor(child), monitor(child));
    demonitor(second);
    Line::new("monitoring")
        .text("child", child)
        .number("first", first.reference())
        .number("second", second.reference())
        .number("third", third.reference())
        .say();
    tell(child, GO, 0);
    for _ in 0..2 {
        report(&receive(&[], PATIENCE));
    }
    let late = monitor(child);
    Line::new("late").number("ref", late.reference()).say();
    report_all();
}

/// Links and monitors `count` processes there, each once, the first three times more, and the node
/// twice; then reports all that comes.
fn watch(node: NodeId, count: u64) {
    let mut children = Vec::new();
    let mut references = Vec::new();
    for at in 0..count {
        let child = start_linked(node, 1000 + at as i64, witness);
        told(RAN);
        references.push(monitor(child).reference());
        children.push(child);
    }
    references.extend((0..3).map(|_| monitor(children[0]).reference()));
    let nodes = [monitor_node(node), monitor_node(node)].map(|watch| watch.reference());
    Line::new("watching")
        .list("children", &children)
        .list("refs", references)
        .list("nodes", nodes)
        .say();
    report_all();
}

/// Everything one can do with the pid of a process of long ago.
fn stale(old: Pid) {
    tell(old, GO, 0);
    kill(old);
    Line::new("exists")
        .number("yes", u8::from(exists(old)))
        .say();
    match link(old, 5, PATIENCE) {
        Ok(()) => Line::new("linked").say(),
        Err(error) => Line::new("not linked").text("why", error).say(),
    }
    monitor(old);
    report_all();
}

/// A link and a monitor to a process that is there already; then reports all that comes.
fn bind(other: Pid) {
    link(other, 14, PATIENCE).expect("it lives");
    let reference = monitor(other).reference();
    Line::new("bound").number("ref", reference).say();
    report_all();
}

/// Sends to a process that is there already, as fast as that goes, until the link to it ends.
fn pour(other: Pid, bytes: u64) {
    link(other, 15, PATIENCE).expect("it lives");
    Line::new("pouring").say();
    let payload = vec![0; bytes as usize];
    let mut sent = 0_u64;
    loop {
        send(other, GO, &payload);
        sent += 1;
        let received = receive(&[], NO_TIME);
        if !matches!(received, Received::Timeout) {
            Line::new("poured").number("sent", sent).say();
            report(&received);
            report_all();
        }
    }
}

fn echo_there(node: NodeId, count: u64) {
    let child = start_linked(node, 6, echoes);
    for n in 0..count {
        tell(child, GO, n);
    }
    let mut in_order = 0;
    for n in 0..count {
        in_order += u64::from(told(GO) == n);
    }
    Line::new("echoed")
        .text("child", child)
        .number("in_order", in_order)
        .say();
    report_all();
}

/// Sends numbered messages there and gets them back, for some time, `window` of them under way.
fn traffic(node: NodeId, ms: u64, window: u64, bytes: u64) {
    let child = start_linked(node, 6, echoes);
    let mut payload = vec![0; bytes.max(8) as usize];
    let mut under_way = std::collections::VecDeque::new();
    let (mut sent, mut back, mut wrong) = (0_u64, 0_u64, 0_u64);
    let mut trips = Vec::new();
    let began = Instant::now();
    loop {
        while (under_way.len() as u64) < window && began.elapsed() < Duration::from_millis(ms) {
            payload[..8].copy_from_slice(&sent.to_le_bytes());
            under_way.push_back(Instant::now());
            send(child, GO, &payload);
            sent += 1;
        }
        let Some(left) = under_way.pop_front() else {
            break;
        };
        match receive(&[], PATIENCE) {
            Received::Data(Data { bytes, .. }) => {
                let fits = read(&bytes) == back && bytes.len() == payload.len();
                wrong += u64::from(!fits);
                back += 1;
                trips.push(left.elapsed().as_micros());
            }
            other => {
                report(&other);
                break;
            }
        }
    }
    let took = began.elapsed().as_millis();
    // A message that came twice follows the last one.
    while let Received::Data(_) = receive(&[], Some(Duration::from_millis(300))) {
        wrong += 1;
    }
    trips.sort_unstable();
    let share = |percent: usize| trips.get((trips.len() * percent / 100).min(trips.len() - 1));
    Line::new("traffic")
        .number("sent", sent)
        .number("back", back)
        .number("wrong", wrong)
        .number("ms", took)
        .number("p50_us", share(50).unwrap_or(&0))
        .number("p99_us", share(99).unwrap_or(&0))
        .number("max_us", share(100).unwrap_or(&0))
        .say();
    report_all();
}

fn refused(node: NodeId) {
    let asked = Spawn::new()
        .on(node)
        .linked(8)
        .start_export("no_such_function");
    match asked {
        Ok(child) => Line::new("spawned").text("child", child).say(),
        Err(error) => Line::new("refused").text("why", format!("{error:?}")).say(),
    }
    report_all();
}

/// Spawns there until that is refused.
fn fill(node: NodeId, most: u64) {
    for at in 0..most {
        let spawn = Spawn::new().on(node).linked(9);
        if let Err(error) = spawn.start(witness, me().raw()) {
            let line = Line::new("refused").number("after", at);
            line.text("why", format!("{error:?}")).say();
            report_all();
        }
        told(RAN);
    }
    Line::new("never refused").say();
}

fn unreachable(node: NodeId) {
    let began = Instant::now();
    let spawned = Spawn::new().on(node).linked(10).start(runner, me().raw());
    let line = Line::new("spawned").number("ms", began.elapsed().as_millis());
    line.text("how", format!("{spawned:?}")).say();
    let somebody = pid(node.0 << 40 | 1);
    let began = Instant::now();
    let linked = link(somebody, 11, PATIENCE);
    let line = Line::new("linked").number("ms", began.elapsed().as_millis());
    line.text("how", format!("{linked:?}")).say();
    monitor(somebody);
    monitor_node(node);
    report_all();
}

// ---- races -------------------------------------------------------------------------------------

/// Numbers that look random and can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn spin(turns: u64) {
    for n in 0..turns {
        std::hint::black_box(n);
    }
}

/// What became of the links of one run, by tag.
#[derive(Default)]
struct Account {
    /// Made and never unlinked: each must be told of once.
    owed: BTreeSet<i64>,
    /// Unlinked, or never made: none may be told of any more.
    closed: BTreeSet<i64>,
    told: u64,
    before_unlink: u64,
    after_unlink: u64,
    twice: u64,
    seen: BTreeMap<i64, u64>,
}

impl Account {
    /// Books an end. `open`: the tag whose `unlink` has not returned yet, or is being drained.
    fn book(&mut self, received: &Received, open: Option<i64>) {
        let Received::LinkDied(LinkDied { tag, .. }) = received else {
            panic!("only ends were to come: {received:?}");
        };
        let times = self.seen.entry(*tag).or_default();
        *times += 1;
        self.twice += u64::from(*times > 1);
        if self.owed.remove(tag) {
            self.told += 1;
        } else if open == Some(*tag) {
            self.before_unlink += 1;
        } else {
            self.after_unlink += u64::from(self.closed.contains(tag));
        }
    }

    /// What is in the mailbox when `unlink` returns was there before.
    fn unlinked(&mut self, tag: i64) {
        loop {
            match receive(&[], NO_TIME) {
                Received::Timeout => break,
                received => self.book(&received, Some(tag)),
            }
        }
        self.closed.insert(tag);
    }

    /// Waits for all that is owed, then for what must not come, and says the sums.
    fn settle(mut self, line: Line) {
        while !self.owed.is_empty() {
            match receive(&[], PATIENCE) {
                Received::Timeout => break,
                received => self.book(&received, None),
            }
        }
        // Whatever is still under way is ahead of this answer in the lane.
        loop {
            match receive(&[], Some(Duration::from_millis(300))) {
                Received::Timeout => break,
                received => self.book(&received, None),
            }
        }
        line.number("told", self.told)
            .number("lost", self.owed.len())
            .number("before_unlink", self.before_unlink)
            .number("after_unlink", self.after_unlink)
            .number("twice", self.twice)
            .say();
    }
}

/// Links and unlinks processes there that end at that very moment.
fn endings(node: NodeId, rounds: u64, seed: u64) {
    fn victim(_: u64) {
        let turns = told(GO);
        spin(turns);
        std::process::exit(7);
    }
    let mut dice = Dice(seed);
    let mut account = Account::default();
    let (mut linked, mut ended) = (0, 0);
    for round in 0..rounds {
        let tag = 1 + round as i64;
        let victim = start(node, victim);
        let way = dice.roll(3);
        if way > 0 {
            tell(victim, GO, dice.roll(200_000));
            spin(dice.roll(200_000));
        }
        match link(victim, tag, PATIENCE) {
            Ok(()) => linked += 1,
            Err(_) => {
                ended += 1;
                account.closed.insert(tag);
                continue;
            }
        }
        if way == 1 {
            account.owed.insert(tag);
            continue;
        }
        if way == 0 {
            tell(victim, GO, dice.roll(200_000));
        }
        spin(dice.roll(200_000));
        unlink(victim, PATIENCE).expect("an answer");
        account.unlinked(tag);
    }
    let line = Line::new("endings").number("rounds", rounds);
    account.settle(line.number("linked", linked).number("ended", ended));
}

/// Links and unlinks a process there that does the same with us, then lets it end.
fn crossings(node: NodeId, rounds: u64, seed: u64) {
    fn partner(parent: u64) {
        die_when_link_dies(false);
        let parent = pid(parent);
        let mut dice = Dice(told(GO));
        for _ in 0..dice.roll(6) {
            if dice.roll(2) == 0 {
                link(parent, -7, PATIENCE).expect("the parent lives");
            } else {
                unlink(parent, PATIENCE).expect("an answer");
            }
            spin(dice.roll(50_000));
        }
        tell(parent, DONE, 0);
        told(GO);
        std::process::exit(7);
    }
    let mut dice = Dice(seed);
    let mut account = Account::default();
    let mut kept = 0;
    for round in 0..rounds {
        let tag = 1 + round as i64;
        let partner = start(node, partner);
        tell(partner, GO, dice.roll(u64::MAX - 1) + 1);
        for _ in 0..dice.roll(6) {
            if dice.roll(2) == 0 {
                link(partner, tag, PATIENCE).expect("the partner lives");
            } else {
                unlink(partner, PATIENCE).expect("an answer");
            }
            spin(dice.roll(50_000));
        }
        told(DONE);
        // From here on only we speak: the last word decides.
        if dice.roll(2) == 0 {
            link(partner, tag, PATIENCE).expect("the partner lives");
            account.owed.insert(tag);
            kept += 1;
        } else {
            unlink(partner, PATIENCE).expect("an answer");
            account.closed.insert(tag);
        }
        tell(partner, GO, 0);
    }
    account.settle(
        Line::new("crossings")
            .number("rounds", rounds)
            .number("linked", kept),
    );
}

// ---- many --------------------------------------------------------------------------------------

/// `count` processes here, linked to one there, which is killed, or whose node is by somebody else.
fn storm(node: NodeId, count: u64, kills: bool) {
    const KILLED: u64 = 137;
    const NODE_DOWN: u64 = 255;
    fn one_of_many(main: u64) {
        die_when_link_dies(false);
        let main = pid(main);
        let (hub, code) = (pid(told(GO)), told(GO));
        link(hub, 12, PATIENCE).expect("the hub lives");
        tell(main, DONE, me().raw());
        loop {
            match receive(&[], None) {
                Received::LinkDied(died)
                    if died.pid == hub && u64::from(died.reason.code.unsigned_abs()) == code =>
                {
                    tell(main, TOLD, me().raw());
                }
                _ => tell(main, FAILED, me().raw()),
            }
        }
    }
    let hub = start(node, witness);
    told(RAN);
    let began = Instant::now();
    let many: Vec<Pid> = (0..count).map(|_| start(node_id(), one_of_many)).collect();
    for one in &many {
        tell(*one, GO, hub.raw());
        tell(*one, GO, if kills { KILLED } else { NODE_DOWN });
    }
    for _ in &many {
        told(DONE);
    }
    Line::new("linked")
        .number("ms", began.elapsed().as_millis())
        .say();
    let began = Instant::now();
    if kills {
        kill(hub);
    }
    let mut told_once = BTreeSet::new();
    let mut wrong = 0;
    while told_once.len() < many.len() {
        match receive(&[TOLD, FAILED], PATIENCE) {
            Received::Data(Data { tag: TOLD, bytes }) if told_once.insert(read(&bytes)) => {}
            Received::Timeout => break,
            _ => wrong += 1,
        }
    }
    let ms = began.elapsed().as_micros() as f64 / 1000.0;
    while let Received::Data(_) = receive(&[], Some(Duration::from_millis(300))) {
        wrong += 1;
    }
    Line::new("told")
        .number("count", told_once.len())
        .number("wrong", wrong)
        .number("ms", ms)
        .say();
    for one in many {
        kill(one);
    }
}

/// `parents` processes here, each of which spawns `children` there, all at once.
fn spawns(node: NodeId, parents: u64, children: u64) {
    fn parent(main: u64) {
        let main = pid(main);
        let (node, children) = (NodeId(told(GO)), told(GO));
        let mut failed = 0;
        for _ in 0..children {
            // The child answers to main, and its normal end is no news to us.
            let spawned = Spawn::new().on(node).linked(13).start(runner, main.raw());
            failed += u64::from(spawned.is_err());
        }
        tell(main, DONE, failed);
    }
    let began = Instant::now();
    let all: Vec<Pid> = (0..parents).map(|_| start(node_id(), parent)).collect();
    for one in &all {
        tell(*one, GO, node.0);
        tell(*one, GO, children);
    }
    let mut failed = 0;
    for _ in &all {
        failed += told(DONE);
    }
    let ms = began.elapsed().as_micros() as f64 / 1000.0;
    let wanted = parents * children - failed;
    let ran: BTreeSet<u64> = (0..wanted).map(|_| told(RAN)).collect();
    Line::new("spawns")
        .number("failed", failed)
        .number("ran", ran.len())
        .number("ms", ms)
        .say();
}
