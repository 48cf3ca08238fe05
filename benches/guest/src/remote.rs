//! Rows of two nodes.

use std::time::{Duration, Instant};

use tidelock_guest::{Data, NodeId, Pid, Received, Spawn, kill, link, receive, send, sleep};

use super::{
    DONE, END, LOAD, Values, echo, fail, mine, noop, now_ns, other_node, pid, rate, spread, take,
    take_end, tell, told,
};

pub(crate) fn row(name: &str, numbers: &[u64]) -> Option<Values> {
    Some(match (name, numbers) {
        ("remote_ping", &[size, count]) => ping(size, count),
        ("remote_oneway", &[size, count]) => one_way(size, count, u64::MAX),
        ("remote_bulk", &[size, count]) => one_way(size, count, 2),
        ("remote_spawn_seq", &[count]) => {
            let there = other_node();
            let begun = Instant::now();
            for _ in 0..count {
                start(there, noop);
            }
            vec![rate(count, begun)]
        }
        ("remote_spawn", &[count, callers]) => shared_out(count, callers, spawner),
        ("remote_spawn_link", &[count, callers]) => shared_out(count, callers, link_spawner),
        ("remote_link_seq", &[count]) => {
            let all = sleepers(other_node(), count);
            let begun = Instant::now();
            for one in &all {
                link(*one, END, None).expect("it lives");
            }
            let values = vec![rate(count, begun)];
            all.into_iter().for_each(kill);
            for _ in 0..count {
                receive(&[END], None);
            }
            values
        }
        ("remote_link", &[count, callers]) => links(count, callers),
        ("remote_fanout", &[count]) => fan_out(count),
        ("remote_sigkill", &[count]) => node_lost(count, "linked"),
        ("remote_sigstop", &[count]) => node_lost(count, "linked, stop"),
        ("remote_beside", &[size, count]) => beside(size, count),
        ("remote_first", &[_]) => first_spawn(),
        ("remote_links", &[count]) => links_held(count),
        ("nodes", &[count]) => all_nodes(count),
        ("remote_concurrent", &[callers, each]) => concurrent(callers, each),
        _ => return None,
    })
}

fn start(node: NodeId, entry: fn(u64)) -> Pid {
    Spawn::new()
        .on(node)
        .within(None)
        .start(entry, mine())
        .expect("the other node lives and has room")
}

fn ping(size: u64, count: u64) -> Values {
    let other = start(other_node(), echo);
    let once = || {
        let bytes = vec![1; size as usize];
        let begun = Instant::now();
        send(other, LOAD, &bytes);
        assert_eq!(take(LOAD).len(), bytes.len());
        begun.elapsed()
    };
    for _ in 0..count / 10 {
        once();
    }
    let values = spread((0..count).map(|_| once()).collect());
    kill(other);
    values
}

/// Counts messages; says so after each `every`, and at the end.
fn sink(parent: u64) {
    let parent = pid(parent);
    let plan = told(DONE);
    let (size, count, every) = (plan[0], plan[1], plan[2]);
    for number in 1..=count {
        match receive(&[], None) {
            Received::Data(Data { tag: LOAD, bytes }) => assert_eq!(bytes.len() as u64, size),
            other => panic!("{other:?}"),
        }
        if number % every == 0 || number == count {
            tell(parent, DONE, &[number]);
        }
    }
}

/// From the first send until the receiver has them all. Within `window` the sender waits for nobody.
fn one_way(size: u64, count: u64, window: u64) -> Values {
    let other = start(other_node(), sink);
    let every = if window == u64::MAX { count } else { 1 };
    tell(other, DONE, &[size, count, every]);
    let bytes = vec![7; size as usize];
    let begun = Instant::now();
    let mut seen = 0;
    for number in 0..count {
        while number - seen >= window {
            seen = told(DONE)[0];
        }
        send(other, LOAD, &bytes);
    }
    while seen < count {
        seen = told(DONE)[0];
    }
    let (unit, messages) = rate(count, begun);
    vec![
        (unit, messages),
        ("mib_per_s", messages * size as f64 / f64::from(1 << 20)),
    ]
}

/// Keeps two messages under way, until it is told to stop; says how much arrived in what time.
fn streamer(parent: u64) {
    let parent = pid(parent);
    let plan = told(DONE);
    let size = plan[1];
    let other = start(NodeId(plan[0]), sink);
    tell(other, DONE, &[size, u64::MAX, 1]);
    let bytes = vec![7; size as usize];
    let begun = Instant::now();
    let (mut sent, mut seen) = (0, 0);
    loop {
        while sent - seen < 2 {
            send(other, LOAD, &bytes);
            sent += 1;
        }
        match receive(&[DONE, END], None) {
            Received::Data(Data { tag: END, .. }) => break,
            _ => seen += 1,
        }
        if seen == 1 {
            tell(parent, DONE, &[]);
        }
    }
    tell(
        parent,
        DONE,
        &[seen * size, begun.elapsed().as_nanos() as u64],
    );
    kill(other);
}

/// Round trips of 64 B, while another pair sends as much as it can.
fn beside(size: u64, count: u64) -> Values {
    let stream = Spawn::new().start(streamer, mine());
    let stream = stream.expect("there is room");
    tell(stream, DONE, &[other_node().0, size]);
    told(DONE);
    let mut values = ping(64, count);
    tell(stream, END, &[]);
    let done = told(DONE);
    let seconds = done[1] as f64 / 1e9;
    values.push(("mib_per_s", done[0] as f64 / f64::from(1 << 20) / seconds));
    values
}

/// The first process of this module on the other node, which has to get and compile it; then one more.
fn first_spawn() -> Values {
    let there = other_node();
    let once = || {
        let begun = Instant::now();
        start(there, noop);
        begun.elapsed().as_secs_f64() * 1e3
    };
    vec![("first_ms", once()), ("second_ms", once())]
}

/// `callers` processes share `count` of what `entry` does. A guest's calls wait, so this is how a program
/// keeps many under way.
fn shared_out(count: u64, callers: u64, entry: fn(u64)) -> Values {
    let there = other_node();
    let all: Vec<Pid> = (0..callers)
        .map(|_| Spawn::new().start(entry, mine()).expect("there is room"))
        .collect();
    let each = count / callers;
    let begun = Instant::now();
    for one in all {
        tell(one, DONE, &[there.0, each]);
    }
    let done: u64 = (0..callers).map(|_| told(DONE)[0]).sum();
    assert_eq!(done, each * callers);
    vec![rate(done, begun)]
}

fn spawner(parent: u64) {
    let plan = told(DONE);
    for _ in 0..plan[1] {
        start(NodeId(plan[0]), noop);
    }
    tell(pid(parent), DONE, &[plan[1]]);
}

/// Spawns linked, and waits for the end of each.
fn link_spawner(parent: u64) {
    tidelock_guest::die_when_link_dies(false);
    let plan = told(DONE);
    for _ in 0..plan[1] {
        let spawn = Spawn::new().on(NodeId(plan[0])).linked(END).within(None);
        spawn
            .start(fail, 0)
            .expect("the other node lives and has room");
        take_end();
    }
    tell(pid(parent), DONE, &[plan[1]]);
}

/// Waits to be killed.
fn sleeper(_: u64) {
    take(END);
}

/// Spawns as many sleepers as told, here, and sends their pids.
fn nursery(parent: u64) {
    let count = told(DONE)[0];
    let all: Vec<u64> = (0..count)
        .map(|_| Spawn::new().start(sleeper, 0).expect("there is room").raw())
        .collect();
    tell(pid(parent), DONE, &all);
}

fn sleepers(node: NodeId, count: u64) -> Vec<Pid> {
    let nursery = start(node, nursery);
    tell(nursery, DONE, &[count]);
    told(DONE).into_iter().map(pid).collect()
}

/// Links itself to each process it was told, one after the other, says so and stays.
fn linker(parent: u64) {
    tidelock_guest::die_when_link_dies(false);
    let plan = told(DONE);
    for raw in &plan {
        link(pid(*raw), END, None).expect("it lives");
    }
    tell(pid(parent), DONE, &[plan.len() as u64]);
    for _ in &plan {
        receive(&[END], None);
    }
}

fn links(count: u64, callers: u64) -> Values {
    let all = sleepers(other_node(), count);
    let linkers: Vec<Pid> = (0..callers)
        .map(|_| Spawn::new().start(linker, mine()).expect("there is room"))
        .collect();
    let begun = Instant::now();
    let share = all.len().div_ceil(linkers.len());
    for (linker, share) in linkers.iter().zip(all.chunks(share)) {
        let raw: Vec<u64> = share.iter().map(|one| one.raw()).collect();
        tell(*linker, DONE, &raw);
    }
    let done: u64 = (0..callers).map(|_| told(DONE)[0]).sum();
    assert_eq!(done, count);
    let values = vec![rate(count, begun)];
    all.into_iter().for_each(kill);
    values
}

/// Links that stay, a thousand of each linker; the harness reads how much memory both nodes have.
fn links_held(count: u64) -> Values {
    const EACH: u64 = 1000;
    let all = sleepers(other_node(), EACH);
    let raw: Vec<u64> = all.iter().map(|one| one.raw()).collect();
    let linkers: Vec<Pid> = (0..count / EACH)
        .map(|_| Spawn::new().start(linker, mine()).expect("there is room"))
        .collect();
    sleep(Duration::from_millis(500));
    println!("{{\"phase\":\"before\"}}");
    sleep(Duration::from_millis(500));
    let begun = Instant::now();
    for linker in &linkers {
        tell(*linker, DONE, &raw);
    }
    let done: u64 = linkers.iter().map(|_| told(DONE)[0]).sum();
    assert_eq!(done, count);
    let values = vec![rate(count, begun)];
    sleep(Duration::from_millis(500));
    println!("{{\"phase\":\"alive\"}}");
    sleep(Duration::from_millis(500));
    values
}

/// A process on every node, and a round trip with all of them at once.
fn all_nodes(count: u64) -> Values {
    let here = tidelock_guest::node_id();
    let nodes = tidelock_guest::nodes();
    assert_eq!(nodes.len() as u64, count);
    let begun = Instant::now();
    let away = nodes.into_iter().filter(|node| *node != here);
    let all: Vec<Pid> = away.map(|node| start(node, echo)).collect();
    let spawned = begun.elapsed();
    let begun = Instant::now();
    for one in &all {
        send(*one, LOAD, &[1; 64]);
    }
    for _ in &all {
        assert_eq!(take(LOAD).len(), 64);
    }
    let round = begun.elapsed();
    all.into_iter().for_each(kill);
    vec![
        ("spawn_ms", spawned.as_secs_f64() * 1e3),
        ("round_ms", round.as_secs_f64() * 1e3),
    ]
}

/// Links itself to one process, and says when it was told of its end.
fn follower(parent: u64) {
    tidelock_guest::die_when_link_dies(false);
    let parent = pid(parent);
    let leader = pid(told(DONE)[0]);
    link(leader, END, None).expect("it lives");
    tell(parent, DONE, &[]);
    match receive(&[END], None) {
        Received::LinkDied(died) => assert_eq!(died.pid, leader),
        other => panic!("{other:?}"),
    }
    tell(parent, LOAD, &[now_ns() as u64]);
    // What the end of a process costs is another row.
    receive(&[DONE], None);
}

/// Fails when told to.
fn leader(_: u64) {
    take(LOAD);
    std::process::exit(1);
}

/// Starts a follower for each leader; returns once all are linked.
fn follow(leaders: impl Iterator<Item = Pid>) -> u64 {
    let mut count = 0;
    for leader in leaders {
        let one = Spawn::new().start(follower, mine()).expect("there is room");
        tell(one, DONE, &[leader.raw()]);
        count += 1;
    }
    for _ in 0..count {
        take(DONE);
    }
    count
}

/// One process there fails; all here that are linked to it are told.
fn fan_out(count: u64) -> Values {
    let leader = start(other_node(), leader);
    follow((0..count).map(|_| leader));
    sleep(Duration::from_millis(300));
    let begun = Instant::now();
    send(leader, LOAD, &[]);
    for _ in 0..count {
        take(LOAD);
    }
    vec![("ms", begun.elapsed().as_secs_f64() * 1e3)]
}

/// Pairs of linked processes; the harness kills or stops the other node at the line it prints.
fn node_lost(count: u64, phase: &str) -> Values {
    let all = sleepers(other_node(), count);
    follow(all.into_iter());
    sleep(Duration::from_millis(300));
    println!("{{\"phase\":\"{phase}\"}}");
    let mut times: Vec<u64> = (0..count).map(|_| told(LOAD)[0]).collect();
    times.sort_unstable();
    // Divided by the harness, which knows when it killed.
    vec![
        ("first_at_ns", times[0] as f64),
        ("last_at_ns", times[times.len() - 1] as f64),
    ]
}

/// Says "here I am" to whom the first message names.
fn answer(parent: u64) {
    tell(pid(parent), LOAD, &[mine()]);
    take(END);
}

/// Spawns on the other node, hears each child, and counts.
fn crowd(parent: u64) {
    let plan = told(DONE);
    let mut heard = std::collections::HashSet::new();
    for _ in 0..plan[1] {
        start(NodeId(plan[0]), answer);
    }
    for _ in 0..plan[1] {
        heard.insert(told(LOAD)[0]);
    }
    assert_eq!(heard.len() as u64, plan[1]);
    heard.into_iter().map(pid).for_each(kill);
    tell(pid(parent), DONE, &[plan[1]]);
}

fn concurrent(callers: u64, each: u64) -> Values {
    let mut values = shared_out(callers * each, callers, crowd);
    values.push(("spawned", (callers * each) as f64));
    values
}
