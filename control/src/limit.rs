//! How often strangers may try to join.
//!
//! Joining is the only thing that somebody without a certificate may do, so it is bounded twice:
//! attempts of one source, and failures of all sources together. A bucket holds attempts, and fills up
//! again with time; a failed attempt costs as much as five good ones.
//!
//! Whoever holds a good token is not kept out by what strangers do: when the failures of all are used
//! up, it is the next failure that is answered with "too many", and nobody else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Bounds on attempts to join.
#[derive(Debug, Clone, Copy)]
pub struct JoinLimits {
    /// Attempts that one source may make at once. An IPv6 source is a /64 network.
    pub source_attempts_max: u32,
    /// How long it takes until a source gets one attempt back.
    pub source_refill: Duration,
    /// Attempts that fail, of all sources together, that are answered at once; each counts as five.
    pub all_attempts_max: u32,
    /// How long it takes until one of those comes back.
    pub all_refill: Duration,
    /// Node ids that one name may get within an hour. Ids cannot be got back.
    pub ids_per_name_hour_max: usize,
}

impl Default for JoinLimits {
    fn default() -> Self {
        Self {
            source_attempts_max: 100,
            source_refill: Duration::from_millis(500),
            all_attempts_max: 1000,
            all_refill: Duration::from_millis(20),
            ids_per_name_hour_max: 120,
        }
    }
}

const FAILURE_COST: u32 = 5;
/// Sources remembered. At the bound, those that have all their attempts back are forgotten; if there
/// are none, newcomers share one bucket.
const SOURCES_MAX: usize = 4096;

/// Counts attempts.
#[derive(Debug)]
pub(crate) struct JoinGate {
    limits: JoinLimits,
    all: Bucket,
    sources: HashMap<Option<IpAddr>, Bucket>,
}

impl JoinGate {
    pub(crate) fn new(limits: JoinLimits, now: Instant) -> Self {
        let all = Bucket::full(limits.all_attempts_max, now);
        Self {
            limits,
            all,
            sources: HashMap::new(),
        }
    }

    /// Whether `source` may try now; counts the attempt if so.
    pub(crate) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        let limits = self.limits;
        self.source(source, now)
            .take(1, limits.source_attempts_max, limits.source_refill, now)
    }

    /// Counts that the attempt just admitted failed. False if too many of all sources did.
    pub(crate) fn failed(&mut self, source: IpAddr, now: Instant) -> bool {
        let limits = self.limits;
        self.source(source, now).charge(FAILURE_COST - 1);
        self.all.take(
            FAILURE_COST,
            limits.all_attempts_max,
            limits.all_refill,
            now,
        )
    }

    fn source(&mut self, source: IpAddr, now: Instant) -> &mut Bucket {
        let mut key = Some(network(source));
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&key) {
            let limits = self.limits;
            self.sources.retain(|_, bucket| {
                bucket.refill(limits.source_attempts_max, limits.source_refill, now);
                bucket.attempts < limits.source_attempts_max
            });
            if self.sources.len() >= SOURCES_MAX {
                key = None;
            }
        }
        let full = || Bucket::full(self.limits.source_attempts_max, now);
        self.sources.entry(key).or_insert_with(full)
    }
}

/// What counts as one source: an IPv4 address, or what an IPv6 user is usually given.
pub(crate) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        address => address,
    }
}

#[derive(Debug)]
struct Bucket {
    attempts: u32,
    /// When the last attempt was given back.
    filled_at: Instant,
}

impl Bucket {
    fn full(attempts: u32, now: Instant) -> Self {
        Self {
            attempts,
            filled_at: now,
        }
    }

    fn take(&mut self, cost: u32, max: u32, refill: Duration, now: Instant) -> bool {
        self.refill(max, refill, now);
        if self.attempts < cost {
            return false;
        }
        self.attempts -= cost;
        true
    }

    fn charge(&mut self, cost: u32) {
        self.attempts = self.attempts.saturating_sub(cost);
    }

    fn refill(&mut self, max: u32, refill: Duration, now: Instant) {
        let refill = refill.max(Duration::from_nanos(1));
        let back = now.saturating_duration_since(self.filled_at).as_nanos() / refill.as_nanos();
        let missing = max.saturating_sub(self.attempts);
        if back >= u128::from(missing) {
            *self = Self::full(max, now);
        } else {
            let back = u32::try_from(back).expect("smaller than a u32");
            self.attempts += back;
            self.filled_at += refill * back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: JoinLimits = JoinLimits {
        source_attempts_max: 10,
        source_refill: Duration::from_secs(1),
        all_attempts_max: 25,
        all_refill: Duration::from_secs(1),
        ids_per_name_hour_max: 1,
    };

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn tries(gate: &mut JoinGate, source: IpAddr, now: Instant) -> usize {
        (0..100).filter(|_| gate.admit(source, now)).count()
    }

    #[test]
    fn a_source_is_bounded_and_recovers() {
        let start = Instant::now();
        let mut gate = JoinGate::new(LIMITS, start);
        assert_eq!(tries(&mut gate, source(1), start), 10);
        assert_eq!(
            tries(&mut gate, source(2), start),
            10,
            "another source pays for the first"
        );
        assert_eq!(
            tries(&mut gate, source(1), start + Duration::from_millis(3500)),
            3
        );
        assert_eq!(
            tries(&mut gate, source(1), start + Duration::from_millis(4000)),
            1
        );
        assert_eq!(
            tries(&mut gate, source(1), start + Duration::from_secs(1000)),
            10
        );
    }

    #[test]
    fn failures_of_all_together_are_bounded_and_keep_nobody_else_out() {
        let start = Instant::now();
        let mut gate = JoinGate::new(LIMITS, start);
        let failures = |gate: &mut JoinGate, now| {
            let fails =
                |last: &u8| gate.admit(source(*last), now) && gate.failed(source(*last), now);
            (0..100).filter(fails).count()
        };
        assert_eq!(failures(&mut gate, start), 5);
        assert_eq!(tries(&mut gate, source(200), start), 10);
        let later = start + Duration::from_secs(10);
        assert_eq!(failures(&mut gate, later), 2);
    }

    #[test]
    fn failures_cost_more() {
        let start = Instant::now();
        let mut gate = JoinGate::new(LIMITS, start);
        let failed = (0..100)
            .take_while(|_| {
                let admitted = gate.admit(source(1), start);
                gate.failed(source(1), start);
                admitted
            })
            .count();
        assert_eq!(failed, 2);
    }

    #[test]
    fn a_network_is_one_source_and_memory_is_bounded() {
        let start = Instant::now();
        let mut gate = JoinGate::new(LIMITS, start);
        let address =
            |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        let admitted = (0..1000)
            .filter(|host| gate.admit(address(1, *host), start))
            .count();
        assert_eq!(admitted, 10, "hosts of one network count as one");
        for network in 0..10_000 {
            gate.admit(address(network, 1), start);
        }
        assert!(gate.sources.len() <= SOURCES_MAX + 1);
        assert_eq!(
            tries(&mut gate, address(60_000, 1), start),
            0,
            "newcomers share a bucket"
        );
        let later = start + Duration::from_secs(60);
        assert_eq!(tries(&mut gate, address(60_000, 1), later), 10);
    }

    #[test]
    fn a_clock_that_stands_still_gives_nothing_back() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut gate = JoinGate::new(LIMITS, start);
        assert_eq!(tries(&mut gate, source(1), start), 10);
        assert_eq!(
            tries(&mut gate, source(1), start - Duration::from_secs(50)),
            0
        );
    }
}
