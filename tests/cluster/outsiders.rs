//! Datagrams of people who are no peer, or of a peer that is everywhere: garbage, forged addresses,
//! handshakes that stop, addresses that change.
//!
//! They have the network and nothing else. First packets of real handshakes come from the node's own
//! transport over a carrier that keeps them; they are sent from addresses of the loopback network,
//! of which there are 2²⁴, so that each looks like somebody else.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tidelock_certs::testing::Odd;
use tidelock_node::transport::{Carrier, Transport};
use tidelock_proto::Pid;
use tidelock_proto::wire::Frame;
use tokio::io::ReadBuf;

use crate::chance::Chance;
use crate::faults::{ms, round_trip};
use crate::strangers::{Bystanders, Stranger};

const MIB: u64 = 1 << 20;

/// Long enough for an answer over loopback on a busy machine, where there may be none.
const A_MOMENT: Duration = Duration::from_millis(200);

/// Whether a datagram begins with a Retry of QUIC 1, whose second bit is any.
fn is_retry(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xb0 == 0xb0)
}

/// An address of loopback that only tests of outsiders use.
fn somebody(number: usize) -> Ipv4Addr {
    let [_, a, b, c] = u32::try_from(number).expect("not so many").to_be_bytes();
    Ipv4Addr::new(127, 100 + a, b, c)
}

/// What one address has sent to the node and got back from it.
#[derive(Debug)]
struct Source {
    socket: UdpSocket,
    /// Bytes, and the datagrams they were in.
    sent: usize,
    datagrams: usize,
    back: Vec<Vec<u8>>,
}

impl Source {
    fn new(number: usize, node: SocketAddr) -> Self {
        let socket = UdpSocket::bind((somebody(number), 0)).expect("an address of loopback");
        socket.connect(node).expect("a socket has a peer");
        let source = Source {
            socket,
            sent: 0,
            datagrams: 0,
            back: Vec::new(),
        };
        let timeout = source.socket.set_read_timeout(Some(A_MOMENT));
        timeout.expect("sockets have timeouts");
        source
    }

    fn send(&mut self, datagram: &[u8]) {
        // A full queue loses datagrams, as networks do.
        if let Ok(sent) = self.socket.send(datagram) {
            self.sent += sent;
            self.datagrams += 1;
        }
    }

    /// Takes in one answer; `false` if none comes in a moment.
    fn hear(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        let Ok(length) = self.socket.recv(&mut buffer) else {
            return false;
        };
        buffer.truncate(length);
        self.back.push(buffer);
        true
    }

    /// Takes in what has come already.
    fn hear_rest(&mut self) {
        self.socket.set_nonblocking(true).expect("a socket");
        while self.hear() {}
        self.socket.set_nonblocking(false).expect("a socket");
    }

    fn bytes_back(&self) -> usize {
        self.back.iter().map(Vec::len).sum()
    }
}

/// Keeps what is sent, and brings nothing.
#[derive(Debug, Default)]
struct Tape(Mutex<Vec<Vec<u8>>>);

impl Carrier for Tape {
    fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 1).into()
    }

    fn send(&self, _: SocketAddr, datagram: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(datagram.to_vec());
    }

    fn poll_receive(&self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<(usize, SocketAddr)> {
        Poll::Pending
    }
}

/// The first flights of that many handshakes with node `a`, none of which was begun.
fn first_flights(by: &Bystanders, count: usize) -> Vec<Vec<Vec<u8>>> {
    let identity = by.identity(1100, Odd::OtherAuthority);
    let (addr, lease) = (by.cluster.node("a").addr(), by.cluster.lease());
    let flight = async |tape: Arc<Tape>| {
        let transport = Transport::over(tape.clone(), &identity, lease, [7; 32]);
        let transport = transport.expect("a transport");
        let mut dial = std::pin::pin!(transport.dial(addr));
        loop {
            // It cannot come to anything. What it sends when it is given up is a goodbye, and not taken.
            let limit = Duration::from_millis(2);
            let outcome = tokio::time::timeout(limit, dial.as_mut()).await;
            assert!(outcome.is_err(), "nobody has answered");
            let mut kept = tape.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !kept.is_empty() {
                return std::mem::take(&mut *kept);
            }
        }
    };
    by.cluster.block_on(async {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(flight(Arc::default()).await);
        }
        all
    })
}

/// A peer gets in, and the link of the others is not disturbed.
fn goes_on(by: &Bystanders, newcomer: u64) -> Duration {
    let began = Instant::now();
    let stranger = by.welcome(newcomer);
    let took = began.elapsed();
    round_trip(&by.cluster, "a", "b");
    by.cluster
        .block_on(async { stranger.connection.close("that is all") });
    assert!(took < by.cluster.lease(), "{took:?}");
    took
}

#[test]
fn garbage_over_udp_is_discarded() {
    let by = Bystanders::new();
    let node = by.cluster.node("a");
    let mut chance = Chance::of(0, 0);
    let before = node.memory_bytes();
    let mut sources: Vec<Source> = (0..4).map(|at| Source::new(at, node.addr())).collect();
    // First bytes of: nothing, a short header, QUIC 1's Initial, 0-RTT, Handshake and Retry.
    let firsts = [0x00, 0x40, 0xc0, 0xd0, 0xe0, 0xf0];
    let lengths = [1, 8, 21, 40, 200, 1199, 1200, 1452, 9000, 60_000];
    for round in 0..20_000 {
        let length = lengths[round % lengths.len()];
        let mut datagram: Vec<u8> = (0..length)
            .map(|_| chance.next().to_be_bytes()[0])
            .collect();
        if round % 7 > 0 {
            datagram[0] = firsts[round % firsts.len()] | (datagram[0] & 0x0f);
        }
        // A version that is known, a version of nobody's, or none: negotiation.
        if round % 3 > 0 && length > 8 {
            let version: u32 = [0, 1][round % 2];
            datagram[1..5].copy_from_slice(&version.to_be_bytes());
            datagram[5] = [8, 20, 255][round % 3];
        }
        sources[round % 4].send(&datagram);
    }
    let took = goes_on(&by, 1101);
    eprintln!("a peer got in within {:.0} ms in the meantime", ms(took));
    for source in &mut sources {
        source.hear_rest();
        let (sent, back) = (source.sent, source.bytes_back());
        eprintln!("garbage: {sent} bytes sent, {back} came back");
        assert!(
            sent > 1 << 20 && back <= 3 * sent,
            "{back} bytes for {sent}"
        );
    }
    let cost = node.memory_bytes().saturating_sub(before);
    assert!(cost < 32 * MIB, "{} MiB", cost / MIB);
    by.undisturbed();
}

#[test]
fn forged_first_packets_cost_little_and_keep_nobody_out() {
    let by = Bystanders::new();
    let node = by.cluster.node("a");
    let flights = first_flights(&by, 600);
    let before = node.memory_bytes();
    let began = Instant::now();
    let (mut sources, mut slowest) = (Vec::new(), Duration::ZERO);
    for (number, flight) in flights.iter().enumerate() {
        let mut source = Source::new(number, node.addr());
        for datagram in flight {
            source.send(datagram);
        }
        // Not more than the node's socket can queue.
        if number % 16 == 15 {
            source.hear();
        }
        sources.push(source);
        if number == flights.len() / 2 {
            slowest = goes_on(&by, 1110);
        }
    }
    let flood = began.elapsed();
    slowest = slowest.max(goes_on(&by, 1111));
    // What is sent again to somebody who does not answer counts, too: until the handshakes are over.
    by.cluster.block_on(async {
        tokio::time::sleep(Duration::from_secs(6)).await; // a handshake has five seconds
    });
    let (mut answered, mut retried) = (0, 0);
    for source in &mut sources {
        source.hear_rest();
        let (sent, back) = (source.sent, source.bytes_back());
        let lengths: Vec<usize> = source.back.iter().map(Vec::len).collect();
        let retry = source.back.iter().any(|datagram| is_retry(datagram));
        // Whatever is left of three times as much, QUIC here fills up to a whole datagram.
        assert!(
            back < 3 * sent + 1200,
            "amplified: {lengths:?} for {sent}, asked to prove the address: {retry}"
        );
        if source.back.iter().any(|datagram| is_retry(datagram)) {
            retried += 1;
        } else if back > 0 {
            answered += 1;
        }
    }
    let cost = node.memory_bytes().saturating_sub(before);
    eprintln!(
        "{} forged first flights in {:.0} ms: {answered} handshakes begun, {retried} asked to prove \
         their address, {} MiB; a peer got in within {:.0} ms",
        sources.len(),
        ms(flood),
        cost / MIB,
        ms(slowest)
    );
    // As many as may be under way at once, and those who replaced them if the flood took longer.
    let rounds = 1 + flood.as_secs() / 5;
    assert!(
        answered <= 64 * usize::try_from(rounds).expect("few"),
        "{answered}"
    );
    assert!(
        answered > 32 && retried > sources.len() / 2,
        "{answered}, {retried}"
    );
    assert!(cost < 64 * MIB, "{} MiB", cost / MIB);
    by.undisturbed();
}

/// Somebody with an address of his own, and what the node says to it.
#[derive(Debug)]
struct Knocker {
    socket: tokio::net::UdpSocket,
    node: SocketAddr,
}

impl Knocker {
    async fn new(number: usize, node: SocketAddr) -> Self {
        let socket = tokio::net::UdpSocket::bind((somebody(number), 0)).await;
        let socket = socket.expect("an address of loopback");
        Knocker { socket, node }
    }

    fn addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is bound")
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        // A full queue loses datagrams, as networks do.
        let _ = self.socket.try_send_to(datagram, to);
    }

    /// The length of what the node has sent. What others send is lost: another node may still speak to
    /// whoever had the port before.
    fn poll_receive(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        loop {
            let mut read = ReadBuf::new(buffer);
            match self.socket.poll_recv_from(context, &mut read) {
                Poll::Ready(Ok(from)) if from == self.node => {
                    return Poll::Ready(read.filled().len());
                }
                Poll::Ready(Ok(_)) => {}
                _ => return Poll::Pending,
            }
        }
    }
}

/// Somebody who falls silent once a handshake was begun with him.
#[derive(Debug)]
struct Idler {
    who: Knocker,
    silent: AtomicBool,
    begun: Arc<AtomicUsize>,
}

impl Carrier for Idler {
    fn addr(&self) -> SocketAddr {
        self.who.addr()
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        if !self.silent.load(Ordering::Relaxed) {
            self.who.send(to, datagram);
        }
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(usize, SocketAddr)> {
        let length = std::task::ready!(self.who.poll_receive(context, buffer));
        if !is_retry(&buffer[..length]) && !self.silent.swap(true, Ordering::Relaxed) {
            self.begun.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready((length, self.who.node))
    }
}

#[test]
fn idle_handshakes_of_one_address_keep_nobody_out() {
    let by = Bystanders::new();
    let node = by.cluster.node("a");
    let identity = by.identity(1120, Odd::OtherAuthority);
    let (begun, lease) = (Arc::new(AtomicUsize::new(0)), by.cluster.lease());
    let before = node.memory_bytes();
    let addr = node.addr();
    let idlers = 400;
    // Before the first of them: to make so many takes time, and a handshake's own time goes on meanwhile.
    let began = Instant::now();
    // From here on they knock, and knock again, for ten seconds. Each keeps its port: the node still
    // answers whoever had it before.
    let all: Vec<_> = by.cluster.block_on(async {
        let mut all = Vec::new();
        for _ in 0..idlers {
            let idler = Arc::new(Idler {
                who: Knocker::new(1, addr).await,
                silent: AtomicBool::new(false),
                begun: begun.clone(),
            });
            let transport = Transport::over(idler.clone(), &identity, lease, [9; 32]);
            let transport = transport.expect("a transport");
            let knocks = tokio::spawn(async move {
                let _ = tokio::time::timeout(Duration::from_secs(10), transport.dial(addr)).await;
            });
            all.push((idler, knocks));
        }
        all
    });
    let all_knock = Instant::now();
    let (mut newcomer, mut slowest) = (1121, Duration::ZERO);
    while all_knock.elapsed() < Duration::from_secs(4) {
        slowest = slowest.max(goes_on(&by, newcomer));
        newcomer += 1;
    }
    let (under_way, took) = (begun.load(Ordering::Relaxed), began.elapsed());
    let cost = node.memory_bytes().saturating_sub(before);
    eprintln!(
        "{idlers} handshakes of one address: {under_way} begun in {:.0} ms, {} MiB; a peer got in \
         within {:.0} ms",
        ms(took),
        cost / MIB,
        ms(slowest)
    );
    assert!(under_way > 32, "only {under_way} began");
    // Its share with a proven address, and what all get without.
    let rounds = 1 + usize::try_from(took.as_secs() / 5).expect("few");
    assert!(
        under_way <= 128 * rounds,
        "{under_way} handshakes under way"
    );
    assert!(cost < 128 * MIB, "{} MiB", cost / MIB);
    by.cluster.block_on(async {
        for (_, knocks) in all {
            knocks.await.expect("it does not panic");
        }
    });
    by.undisturbed();
}

/// Somebody who hears nothing but that he must prove his address: none of his handshakes goes on.
#[derive(Debug)]
struct Deaf {
    who: Knocker,
    /// The handshakes that were begun with him, by what the other side calls him in each.
    begun: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl Carrier for Deaf {
    fn addr(&self) -> SocketAddr {
        self.who.addr()
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.who.send(to, datagram);
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(usize, SocketAddr)> {
        loop {
            let length = std::task::ready!(self.who.poll_receive(context, buffer));
            let datagram = &buffer[..length];
            if is_retry(datagram) {
                return Poll::Ready((length, self.who.node));
            }
            // A long header: a first byte, a version, and how long a name is before the name.
            let length = datagram.get(5).copied().map_or(0, usize::from);
            if let Some(name) = datagram.get(6..6 + length) {
                let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
                begun.insert(name.to_vec());
            }
        }
    }
}

#[test]
fn idle_handshakes_of_many_addresses_keep_nobody_out() {
    let by = Bystanders::new();
    let node = by.cluster.node("a");
    let identity = by.identity(1130, Odd::OtherAuthority);
    let (begun, lease) = (
        Arc::<Mutex<HashSet<Vec<u8>>>>::default(),
        by.cluster.lease(),
    );
    let (addr, before) = (node.addr(), node.memory_bytes());
    let addresses = 24;
    // From here on each knocks sixteen times every half second, and is never heard of again.
    let all: Vec<_> = by.cluster.block_on(async {
        let mut all = Vec::new();
        for number in 0..addresses {
            let deaf = Arc::new(Deaf {
                who: Knocker::new(number, addr).await,
                begun: begun.clone(),
            });
            let transport = Transport::over(deaf, &identity, lease, [9; 32]);
            let transport = transport.expect("a transport");
            for _ in 0..16 {
                let transport = transport.clone();
                all.push(tokio::spawn(async move { transport.dial(addr).await }));
            }
        }
        all
    });
    let how_many = || begun.lock().unwrap_or_else(PoisonError::into_inner).len();
    let (began, patience) = (Instant::now(), Duration::from_secs(30));
    while how_many() < 1024 {
        assert!(began.elapsed() < patience, "{} began", how_many());
        round_trip(&by.cluster, "a", "b");
    }
    let (full, mut slowest, newcomers) = (Instant::now(), Duration::ZERO, 1131..1139);
    for newcomer in newcomers.clone() {
        slowest = slowest.max(goes_on(&by, newcomer));
    }
    let cost = node.memory_bytes().saturating_sub(before);
    eprintln!(
        "idle handshakes of {addresses} addresses: 1024 begun in {:.0} ms, {} when {} peers had got in \
         {:.0} ms later, each within {:.0} ms; {} MiB",
        ms(full - began),
        how_many(),
        newcomers.count(),
        ms(full.elapsed()),
        ms(slowest),
        cost / MIB,
    );
    assert!(cost < 256 * MIB, "{} MiB", cost / MIB);
    for knocking in all {
        knocking.abort();
    }
    by.undisturbed();
}

/// A peer that sends from one of its addresses after the other, and hears at some of them.
#[derive(Debug)]
struct Nomad {
    /// Where it lives.
    homes: Vec<tokio::net::UdpSocket>,
    /// Where others live, who never asked for anything: what it sends seems to come from them.
    others: Vec<Mutex<Source>>,
    sent: AtomicUsize,
    moves: AtomicBool,
    lies: AtomicBool,
}

impl Nomad {
    async fn new(homes: usize, others: usize, node: SocketAddr) -> Self {
        let mut sockets = Vec::new();
        for number in 0..homes {
            let socket = tokio::net::UdpSocket::bind((somebody(number), 0)).await;
            sockets.push(socket.expect("an address of loopback"));
        }
        let others = (homes..homes + others).map(|number| Mutex::new(Source::new(number, node)));
        Nomad {
            homes: sockets,
            others: others.collect(),
            sent: AtomicUsize::new(0),
            moves: AtomicBool::new(false),
            lies: AtomicBool::new(false),
        }
    }
}

impl Carrier for Nomad {
    fn addr(&self) -> SocketAddr {
        self.homes[0].local_addr().expect("it is bound")
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let number = match self.moves.load(Ordering::Relaxed) {
            true => self.sent.fetch_add(1, Ordering::Relaxed),
            false => 0,
        };
        if self.lies.load(Ordering::Relaxed) && number % 4 == 3 {
            let other = &self.others[number / 4 % self.others.len()];
            let mut other = other.lock().unwrap_or_else(PoisonError::into_inner);
            return other.send(datagram);
        }
        // A full queue loses datagrams, as networks do.
        let _ = self.homes[number % self.homes.len()].try_send_to(datagram, to);
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(usize, SocketAddr)> {
        for home in &self.homes {
            let mut read = ReadBuf::new(buffer);
            if let Poll::Ready(Ok(from)) = home.poll_recv_from(context, &mut read) {
                return Poll::Ready((read.filled().len(), from));
            }
        }
        Poll::Pending
    }
}

/// Asks one question after the other; `Err` is how the session ended.
async fn ask(stranger: &mut Stranger, questions: Range<u64>, about: Pid) -> Result<(), String> {
    for number in questions {
        let mut bytes = Vec::new();
        Frame::Query(number, about).encode(&mut bytes);
        if stranger.out.write(bytes.into()).await.is_err() {
            return Err(stranger.connection.closed().await);
        }
        while stranger.frame().await? != Frame::Answer(number, false) {}
    }
    Ok(())
}

#[test]
fn a_peer_that_changes_its_address_all_the_time_disturbs_nobody() {
    let by = Bystanders::new();
    let node = by.cluster.node("a");
    let identity = by.identity(1140, Odd::Nothing);
    let (hello, lease) = (by.hello(&identity, 1140), by.cluster.lease());
    let (addr, before) = (node.addr(), node.memory_bytes());
    let (nomad, mut stranger) = by.cluster.block_on(async {
        let nomad = Arc::new(Nomad::new(200, 10, addr).await);
        let transport = Transport::over(nomad.clone(), &identity, lease, [5; 32]);
        let transport = transport.expect("a transport");
        let stranger = Stranger::meet_over(transport, addr, hello).await;
        let stranger = stranger.expect("nothing is wrong with it");
        stranger.answer_pings();
        (nomad, stranger)
    });
    let session = || by.cluster.session_with("a", "n1140");
    let epoch = session().expect("a session").epoch;
    // It moves with each datagram, and is where it says: the session stays with its connection.
    nomad.moves.store(true, Ordering::Relaxed);
    let nobody = Pid::new(by.node("a"), 1 << 30).expect("a pid");
    let (began, questions) = (Instant::now(), 500);
    let asked = ask(&mut stranger, 1..questions, nobody);
    by.cluster.block_on(asked).expect("the session goes on");
    let (took, moves) = (began.elapsed(), nomad.sent.load(Ordering::Relaxed));
    assert_eq!(session().expect("a session").epoch, epoch);
    assert!(moves > 500, "it moved {moves} times");
    eprintln!(
        "{moves} changes of address in {:.0} ms: {questions} questions were answered; a peer got in within \
         {:.0} ms",
        ms(took),
        ms(goes_on(&by, 1141)),
    );
    // One datagram of four seems to come from somebody else. Each is a change of address, which QUIC answers
    // with a question of one datagram; what follows is bounded by what came. Its own session may end of it.
    nomad.lies.store(true, Ordering::Relaxed);
    let patience = Duration::from_secs(5);
    let answered = by.cluster.block_on(async {
        let asked = ask(&mut stranger, questions..2 * questions, nobody);
        matches!(tokio::time::timeout(patience, asked).await, Ok(Ok(())))
    });
    let slowest = goes_on(&by, 1142);
    let (mut lies, mut sent, mut back) = (0, 0, 0);
    for other in &nomad.others {
        let mut other = other.lock().unwrap_or_else(PoisonError::into_inner);
        other.hear_rest();
        let (to, from, changes) = (other.sent, other.bytes_back(), other.datagrams);
        assert!(
            from <= 3 * to + 1200 * changes,
            "{from} bytes for {to} in {changes} datagrams"
        );
        (lies, sent, back) = (lies + changes, sent + to, back + from);
    }
    let cost = node.memory_bytes().saturating_sub(before);
    eprintln!(
        "as {} others: {lies} datagrams of {sent} bytes sent, {back} bytes came to them, all questions \
         answered: {answered}; {} MiB; a peer got in within {:.0} ms",
        nomad.others.len(),
        cost / MIB,
        ms(slowest),
    );
    assert!(lies >= 20, "only {lies} datagrams were sent as others");
    assert!(cost < 64 * MIB, "{} MiB", cost / MIB);
    by.cluster
        .block_on(async { stranger.connection.close("that is all") });
    by.undisturbed();
}
