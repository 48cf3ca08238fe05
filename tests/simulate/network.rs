//! The network between simulated nodes: loses, delays, repeats and reorders what it carries.
//!
//! A datagram takes at least [`Weather::shortest`]. So a node may run by itself until that much later than where the node
//! is that is furthest behind: nothing that another one has still to send can reach it before, and it is the same as if
//! all ran at once. (Conservative simulation with lookahead: Chandy and Misra, 1979.)

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Poller, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tidelock_node::transport::Carrier;
use tokio::time::{Instant, Sleep};

use super::chance::Chance;

/// Timers may fire a millisecond late, and clocks go at different speeds: so much less than the shortest way is looked ahead.
const MARGIN: Duration = Duration::from_millis(2);
/// Datagrams that wait at one port; one more is lost, as at a kernel's socket buffer.
const QUEUE_MAX: usize = 4_096;

/// A node's own clock, which may run fast or slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// What it showed at `since`.
    pub(crate) base: Instant,
    /// When the node started, in the cluster's time.
    pub(crate) since: Duration,
    /// Parts per million it is fast.
    pub(crate) fast_ppm: i64,
}

impl Clock {
    /// What it shows at a time of the cluster.
    pub(crate) fn shows(&self, at: Duration) -> Instant {
        let passed = at.saturating_sub(self.since).as_nanos() as i64;
        let passed = passed + passed * self.fast_ppm / 1_000_000;
        self.base + Duration::from_nanos(passed as u64)
    }

    /// The cluster's time when it shows this.
    pub(crate) fn at(&self, shown: Instant) -> Duration {
        let passed = shown.saturating_duration_since(self.base).as_nanos() as i64;
        let passed = passed * 1_000_000 / (1_000_000 + self.fast_ppm);
        self.since + Duration::from_nanos(passed as u64)
    }
}

/// What date a node believes it is: its clock goes on from when the cluster began.
#[derive(Debug)]
struct Calendar {
    clock: Clock,
    began: UnixTime,
}

impl TimeProvider for Calendar {
    fn current_time(&self) -> Option<UnixTime> {
        let passed = Instant::now().saturating_duration_since(self.clock.base);
        let began = Duration::from_secs(self.began.as_secs());
        Some(UnixTime::since_unix_epoch(
            began + self.clock.since + passed,
        ))
    }
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) lost_per_mille: u64,
    pub(crate) twice_per_mille: u64,
    pub(crate) late_per_mille: u64,
    /// No datagram takes less.
    pub(crate) shortest: Duration,
    /// On top of the shortest way, at most.
    pub(crate) jitter: Duration,
}

impl Weather {
    /// How far a node may run ahead of another one.
    pub(crate) fn lookahead(&self) -> Duration {
        self.shortest - MARGIN
    }
}

/// What all ports share.
#[derive(Debug)]
pub(crate) struct Network(Mutex<Wires>);

#[derive(Debug)]
struct Wires {
    chance: Chance,
    weather: Weather,
    ports: BTreeMap<SocketAddr, Arc<Port>>,
    /// From → to: nothing gets through.
    cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    carried: u64,
    digest: u64,
}

impl Network {
    pub(crate) fn new(seed: u64, weather: Weather) -> Arc<Self> {
        Arc::new(Network(Mutex::new(Wires {
            chance: Chance::of(seed, 1),
            weather,
            ports: BTreeMap::new(),
            cuts: BTreeSet::new(),
            carried: 0,
            digest: seed,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Nothing gets through from `from` to `to`, or everything does again.
    pub(crate) fn cut(&self, from: SocketAddr, to: SocketAddr, cut: bool) {
        let mut wires = self.lock();
        if cut {
            wires.cuts.insert((from, to));
        } else {
            wires.cuts.remove(&(from, to));
        }
    }

    pub(crate) fn heal(&self) {
        self.lock().cuts.clear();
    }

    /// How many datagrams were sent, and a number that changes if one of them, or its time, does.
    pub(crate) fn trace(&self) -> (u64, u64) {
        let wires = self.lock();
        (wires.carried, wires.digest)
    }

    /// Plugs a node in; whoever was at this address before is cut off for good.
    /// A port for a node with this clock, in a cluster that began then.
    pub(crate) fn plug(
        self: &Arc<Self>,
        addr: SocketAddr,
        clock: Clock,
        began: UnixTime,
    ) -> Arc<Port> {
        let port = Arc::new(Port {
            addr,
            clock,
            calendar: Arc::new(Calendar { clock, began }),
            network: self.clone(),
            queue: Mutex::default(),
        });
        self.lock().ports.insert(addr, port.clone());
        port
    }

    pub(crate) fn unplug(&self, addr: SocketAddr) {
        self.lock().ports.remove(&addr);
    }
}

impl Wires {
    fn send(&mut self, from: &Port, to: SocketAddr, bytes: &[u8]) {
        let at = from.clock.at(Instant::now());
        let plugged = self
            .ports
            .get(&from.addr)
            .is_some_and(|port| std::ptr::eq(&**port, from));
        if !plugged {
            return;
        }
        self.carried += 1;
        for part in [
            at.as_nanos() as u64,
            u64::from(from.addr.port()),
            u64::from(to.port()),
        ] {
            self.digest = (self.digest.rotate_left(5) ^ part).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        let weather = self.weather;
        // Drawn in any case, so that a cut changes nothing but what it cuts.
        let lost = self.chance.per_mille(weather.lost_per_mille);
        let copies = 1 + usize::from(self.chance.per_mille(weather.twice_per_mille));
        let mut ways = [Duration::ZERO; 2];
        for way in &mut ways {
            let jitter = weather.jitter.as_micros() as u64 + 1;
            *way = weather.shortest + Duration::from_micros(self.chance.below(jitter));
            if self.chance.per_mille(weather.late_per_mille) {
                *way += Duration::from_micros(self.chance.below(50_000));
            }
        }
        if lost || self.cuts.contains(&(from.addr, to)) {
            return;
        }
        let Some(target) = self.ports.get(&to) else {
            return;
        };
        for way in ways.iter().take(copies) {
            target.arrives(at + *way, from.addr, bytes);
        }
    }
}

/// Where one node is plugged in.
pub(crate) struct Port {
    addr: SocketAddr,
    clock: Clock,
    calendar: Arc<Calendar>,
    network: Arc<Network>,
    queue: Mutex<Queue>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({})", self.addr)
    }
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<(Duration, u64), (SocketAddr, Vec<u8>)>,
    number: u64,
    timer: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
}

impl Port {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrives(&self, at: Duration, from: SocketAddr, bytes: &[u8]) {
        let mut queue = self.lock();
        if queue.waiting.len() >= QUEUE_MAX {
            return;
        }
        let number = queue.number;
        queue.number += 1;
        let first = queue.waiting.first_key_value().map(|(key, _)| key.0);
        queue.waiting.insert((at, number), (from, bytes.to_vec()));
        if first.is_none_or(|first| at < first)
            && let Some(reader) = queue.reader.take()
        {
            drop(queue);
            reader.wake();
        }
    }
}

impl Carrier for Port {
    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn calendar(&self) -> Arc<dyn TimeProvider> {
        self.calendar.clone()
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.network.lock().send(self, to, datagram);
    }

    fn poll_receive(
        &self,
        poller: &mut Poller<'_>,
        buffer: &mut [u8],
    ) -> Poll<(usize, SocketAddr)> {
        let mut guard = self.lock();
        let queue = &mut *guard;
        let now = Instant::now();
        while let Some(((at, _), _)) = queue.waiting.first_key_value() {
            let due = self.clock.shows(*at);
            if due <= now {
                let (_, (from, bytes)) = queue.waiting.pop_first().expect("just seen");
                let length = bytes.len().min(buffer.len());
                buffer[..length].copy_from_slice(&bytes[..length]);
                return Poll::Ready((length, from));
            }
            let timer = match &mut queue.timer {
                Some(timer) => {
                    timer.as_mut().reset(due);
                    timer
                }
                none => none.insert(Box::pin(tokio::time::sleep_until(due))),
            };
            if timer.as_mut().poll(poller).is_pending() {
                break;
            }
        }
        queue.reader = Some(poller.waker().clone());
        Poll::Pending
    }
}
