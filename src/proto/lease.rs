//! When a silent peer is gone.
//!
//! A lease is renewed by *round trips* only: a Pong for a Ping that was sent after the last renewal.
//! Hearing the peer is not enough. In a one-way cut one side still hears, and with an idle timeout T
//! that side would close only after 2 T; with the lease both close after T (P6).
//!
//! Time is an argument, counted from any fixed point. The machine is driven by
//! [`Lease::poll_timeout`] (when to come back) and [`Lease::handle_timeout`] (coming early is
//! harmless).
//!
//! # In company
//!
//! Both sides ask. A Ping that is nearly due goes with the answer to the peer's ([`Lease::handle_heard`]): one packet for both, and one
//! wake-up, which is what a session costs that has nothing to say.
//!
//! # A hint
//!
//! The kernel of a machine whose program died answers that nobody listens any more. That is no verdict:
//! anybody can say so, and a firewall says it of a peer that is well. It makes us ask three times, and wait [`SUSPICION`] for
//! an answer instead of a lease, or three round trips where those are longer ([`Lease::suspect`]). One answer is enough.
//!
//! # A late clock
//!
//! If our own timer ran late, the silence may be ours. More than [`GRACE`] late: one fresh Ping is
//! sent and judged one second later, at most once per lease. Later than a whole lease: the machine
//! was frozen, and every session has ended as seen from the peers.

use std::time::Duration;

/// How often a Ping is sent.
pub const PING_EVERY: Duration = Duration::from_millis(250);

/// How much earlier than that it may go, if the peer's Ping is being answered anyway.
const COMPANY: Duration = Duration::from_millis(125);

/// How much later the next one is due then, so that the peer is the first again.
const PATIENCE: Duration = Duration::from_millis(30);

/// How late our own timer may run before silence is not held against the peer.
pub const GRACE: Duration = Duration::from_millis(250);

/// How long the fresh Pings after a hint have at the least. Well above a round trip of one network and any pause of a busy peer.
pub const SUSPICION: Duration = Duration::from_millis(150);

/// How many of them there are: a network that loses one says nothing of the peer.
const SUSPICION_PINGS: u32 = 3;

/// How long the fresh Ping after a late timer has.
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// What follows from a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send a Ping with this number.
    Ping(u64),
    /// Nothing to do yet.
    Wait,
    /// The peer is gone: no round trip within the lease.
    Expired,
    /// This machine stood still for longer than a lease; all its sessions end.
    Frozen,
}

/// The Pings that a hint led to.
#[derive(Debug, Clone, Copy)]
struct Suspicion {
    /// The first of them. The answer to an earlier one says nothing.
    first: u64,
    /// How long it is from one to the next.
    every: Duration,
    /// When they are judged.
    at: Duration,
}

/// The lease of one session.
#[derive(Debug, Clone)]
pub struct Lease {
    length: Duration,
    renewed_at: Duration,
    /// When the next Ping is due.
    ping_at: Duration,
    next_ping: u64,
    /// Pings sent since the last renewal: number and time, oldest first.
    sent: std::collections::VecDeque<(u64, Duration)>,
    /// While set, the lease is judged at this time and not earlier.
    second_chance: Option<Duration>,
    /// The second chance was used since the last renewal.
    chance_used: bool,
    /// What a hint led to.
    suspicion: Option<Suspicion>,
    /// They were sent once more because our own timer ran late; not a third time.
    asked_again: bool,
    /// The last round trip; `None`: there was none yet.
    rtt: Option<Duration>,
}

impl Lease {
    /// Starts a lease at `now`; the opening handshake was the first round trip.
    pub fn new(length: Duration, now: Duration) -> Self {
        Lease {
            length,
            renewed_at: now,
            ping_at: now,
            next_ping: 1,
            sent: std::collections::VecDeque::new(),
            second_chance: None,
            chance_used: false,
            suspicion: None,
            asked_again: false,
            rtt: None,
        }
    }

    /// When [`Lease::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Duration {
        self.ping_at.min(self.judged_at())
    }

    fn judged_at(&self) -> Duration {
        let lease = self.second_chance.unwrap_or(self.renewed_at + self.length);
        self.suspicion.map_or(lease, |hint| lease.min(hint.at))
    }

    /// Handles a hint that the peer is gone. Returns the Ping that is to be sent now; `None`: a hint is
    /// looked into already.
    pub fn suspect(&mut self, now: Duration) -> Option<u64> {
        if self.suspicion.is_some() {
            return None;
        }
        Some(self.ask_three_times(now))
    }

    /// Sends the first Ping of those that a hint leads to. Before the first round trip nobody knows how long one takes.
    fn ask_three_times(&mut self, now: Duration) -> u64 {
        let length = self
            .rtt
            .map_or(SECOND_CHANCE, |rtt| SUSPICION.max(SUSPICION_PINGS * rtt));
        self.suspicion = Some(Suspicion {
            first: self.next_ping,
            every: length / SUSPICION_PINGS,
            at: now + length,
        });
        self.ping(now)
    }

    /// Whether a hint is being looked into.
    pub fn is_suspected(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Says what is due at `now`.
    pub fn handle_timeout(&mut self, now: Duration) -> Verdict {
        let late = now.saturating_sub(self.poll_timeout());
        if late > self.length {
            return Verdict::Frozen;
        }
        if let Some(Suspicion { at, .. }) = self.suspicion
            && now >= at
        {
            // The answer may lie here unread: the wait is short, and it was we who were late.
            if now - at > SUSPICION / 3 && !self.asked_again {
                self.asked_again = true;
                return Verdict::Ping(self.ask_three_times(now));
            }
            return Verdict::Expired;
        }
        if late > GRACE && !self.chance_used {
            self.chance_used = true;
            self.second_chance = Some((now + SECOND_CHANCE).max(self.renewed_at + self.length));
            return Verdict::Ping(self.ping(now));
        }
        if now >= self.judged_at() {
            return Verdict::Expired;
        }
        if now >= self.ping_at {
            return Verdict::Ping(self.ping(now));
        }
        Verdict::Wait
    }

    /// Notes that a Ping is sent, and says its number.
    fn ping(&mut self, now: Duration) -> u64 {
        let number = self.next_ping;
        self.next_ping += 1;
        let every = self.suspicion.map_or(PING_EVERY, |hint| hint.every);
        self.ping_at = now + every.min(PING_EVERY);
        self.sent.push_back((number, now));
        // Bounded by the length of the lease; a lost Pong must not keep more.
        if self.sent.len() > 256 {
            self.sent.pop_front();
        }
        number
    }

    /// Handles the peer's Ping. That renews nothing: it may not hear us. Returns our own Ping if it may go with the
    /// answer; one that is overdue is left to [`Lease::handle_timeout`], which asks why.
    pub fn handle_heard(&mut self, now: Duration) -> Option<u64> {
        if crate::switch::off("a lease counts round trips") {
            self.renewed_at = now;
        }
        if now >= self.ping_at || now + COMPANY < self.ping_at {
            return None;
        }
        let number = self.ping(now);
        self.ping_at += PATIENCE;
        Some(number)
    }

    /// Handles a Pong. Returns the round trip if it renewed the lease.
    ///
    /// The lease counts from when the Ping left, not from when the Pong came: that is how long ago
    /// the peer is known to have been there.
    pub fn handle_pong(&mut self, number: u64, now: Duration) -> Option<Duration> {
        let at = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, left_at) = self.sent[at];
        self.sent.drain(..=at);
        self.renewed_at = left_at.max(self.renewed_at);
        self.second_chance = None;
        self.chance_used = false;
        // An answer to what was asked before the hint says nothing about it.
        self.suspicion = self.suspicion.filter(|hint| number < hint.first);
        self.asked_again &= self.suspicion.is_some();
        let rtt = now.saturating_sub(left_at);
        self.rtt = Some(rtt);
        Some(rtt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Runs `lease` until a verdict other than Ping or Wait; every Ping is answered while `answers`.
    fn run(lease: &mut Lease, from: Duration, answers: impl Fn(Duration) -> bool) -> Duration {
        let mut now = from;
        loop {
            now = now.max(lease.poll_timeout());
            match lease.handle_timeout(now) {
                Verdict::Ping(number) if answers(now) => {
                    lease.handle_pong(number, now + ms(1));
                }
                Verdict::Ping(_) | Verdict::Wait => {}
                Verdict::Expired => return now,
                Verdict::Frozen => panic!("nobody stood still"),
            }
            assert!(now < ms(100_000), "never judged");
        }
    }

    #[test]
    fn silence_ends_within_a_lease_of_the_last_round_trip() {
        let mut lease = Lease::new(LEASE, ms(0));
        let end = run(&mut lease, ms(0), |now| now < ms(10_000));
        assert!(end >= ms(12_700) && end <= ms(13_000), "{end:?}");
    }

    #[test]
    fn a_pong_that_answers_nothing_renews_nothing() {
        let mut lease = Lease::new(LEASE, ms(0));
        assert_eq!(lease.handle_pong(7, ms(2_900)), None);
        assert_eq!(run(&mut lease, ms(0), |_| false), LEASE);
    }

    #[test]
    fn a_late_timer_gives_one_second_chance() {
        let mut lease = Lease::new(LEASE, ms(0));
        assert!(matches!(lease.handle_timeout(ms(0)), Verdict::Ping(1)));
        let Verdict::Ping(number) = lease.handle_timeout(ms(3_100)) else {
            panic!("no ping")
        };
        assert_eq!(number, 2);
        let mut silent = lease.clone();
        assert_eq!(run(&mut silent, ms(3_100), |_| false), ms(4_100));
        assert!(lease.handle_pong(number, ms(3_200)).is_some());
        assert!(matches!(lease.handle_timeout(ms(3_350)), Verdict::Ping(3)));
    }

    /// One whose first Ping came back after five milliseconds.
    fn answered() -> Lease {
        let mut lease = Lease::new(LEASE, ms(0));
        assert_eq!(lease.handle_timeout(ms(0)), Verdict::Ping(1));
        assert_eq!(lease.handle_pong(1, ms(5)), Some(ms(5)));
        lease
    }

    #[test]
    fn a_hint_shortens_the_wait_and_is_no_verdict() {
        let mut lease = answered();
        assert_eq!(lease.handle_timeout(ms(250)), Verdict::Ping(2));
        assert_eq!(lease.suspect(ms(300)), Some(3));
        assert_eq!(lease.suspect(ms(310)), None);
        // The answer to an earlier Ping was under way when the peer died.
        assert!(lease.handle_pong(2, ms(320)).is_some());
        let mut silent = lease.clone();
        assert_eq!(run(&mut silent, ms(320), |_| false), ms(450));
        // One that was lost says nothing.
        let mut lossy = lease.clone();
        assert_eq!(run(&mut lossy, ms(320), |now| now == ms(350)), ms(3_350));
        let mut lossier = lease.clone();
        assert_eq!(run(&mut lossier, ms(320), |now| now == ms(400)), ms(3_400));
        assert!(lease.handle_pong(3, ms(330)).is_some());
        assert_eq!(run(&mut lease, ms(330), |_| false), ms(3_300));
    }

    #[test]
    fn a_hint_gives_a_peer_that_is_far_away_the_time_it_needs() {
        let mut lease = Lease::new(LEASE, ms(0));
        assert_eq!(lease.handle_timeout(ms(0)), Verdict::Ping(1));
        // Nobody knows yet how far it is.
        let mut unknown = lease.clone();
        assert_eq!(unknown.suspect(ms(10)), Some(2));
        assert_eq!(run(&mut unknown, ms(10), |_| false), ms(1_010));
        assert_eq!(lease.handle_pong(1, ms(200)), Some(ms(200)));
        assert_eq!(lease.suspect(ms(210)), Some(2));
        assert_eq!(lease.poll_timeout(), ms(410));
        assert_eq!(run(&mut lease, ms(210), |_| false), ms(810));
        // As often as ever, however far.
        let mut far = Lease::new(LEASE, ms(0));
        assert_eq!(far.handle_timeout(ms(0)), Verdict::Ping(1));
        assert_eq!(far.handle_pong(1, ms(900)), Some(ms(900)));
        assert_eq!(far.suspect(ms(900)), Some(2));
        assert_eq!(far.poll_timeout(), ms(1_150));
    }

    #[test]
    fn a_hint_is_looked_into_again_if_our_timer_was_late() {
        let mut lease = answered();
        lease.suspect(ms(100)).expect("a hint leads to a ping");
        // Due at 250, looked at 80 ms late.
        let Verdict::Ping(again) = lease.handle_timeout(ms(330)) else {
            panic!("judged at once")
        };
        let mut silent = lease.clone();
        assert_eq!(run(&mut silent, ms(330), |_| false), ms(480));
        assert!(lease.handle_pong(again, ms(331)).is_some());
        assert!(!lease.is_suspected());
        assert_eq!(run(&mut lease, ms(331), |_| false), ms(3_330));
    }

    #[test]
    fn a_frozen_machine_gives_up_its_sessions() {
        let mut lease = Lease::new(LEASE, ms(0));
        assert!(matches!(lease.handle_timeout(ms(0)), Verdict::Ping(1)));
        assert_eq!(lease.handle_timeout(ms(3_300)), Verdict::Frozen);
    }

    #[test]
    fn a_ping_is_due_every_so_often_and_coming_early_is_harmless() {
        let mut lease = Lease::new(LEASE, ms(50));
        assert_eq!(lease.poll_timeout(), ms(50));
        assert_eq!(lease.handle_timeout(ms(49)), Verdict::Wait);
        assert_eq!(lease.handle_timeout(ms(50)), Verdict::Ping(1));
        assert_eq!(lease.poll_timeout(), ms(300));
        assert_eq!(lease.handle_timeout(ms(299)), Verdict::Wait);
        assert_eq!(lease.handle_timeout(ms(300)), Verdict::Ping(2));
        assert_eq!(lease.handle_pong(2, ms(307)), Some(ms(7)));
        // Older answers are of no use any more.
        assert_eq!(lease.handle_pong(1, ms(310)), None);
    }

    #[test]
    fn a_ping_keeps_the_peers_company_if_it_is_nearly_due() {
        let asked = || {
            let mut lease = Lease::new(LEASE, ms(0));
            assert_eq!(lease.handle_timeout(ms(0)), Verdict::Ping(1));
            lease
        };
        assert_eq!(asked().handle_heard(ms(124)), None);
        let mut early = asked();
        assert_eq!(early.handle_heard(ms(125)), Some(2));
        // The peer's next one comes first.
        assert_eq!(early.poll_timeout(), ms(405));
        assert_eq!(early.handle_heard(ms(375)), Some(3));
        assert_eq!(early.handle_pong(3, ms(376)), Some(ms(1)));
        assert_eq!(asked().handle_heard(ms(249)), Some(2));
        // One that is due is the timer's, and being heard renews nothing.
        let mut due = asked();
        assert_eq!(due.handle_heard(ms(250)), None);
        assert_eq!(due.handle_timeout(ms(250)), Verdict::Ping(2));
        let mut heard = asked();
        let end = run(&mut heard.clone(), ms(0), |_| false);
        for at in (130..3_000).step_by(130) {
            let _: Option<u64> = heard.handle_heard(ms(at));
        }
        assert_eq!(run(&mut heard, ms(2_990), |_| false), end);
    }

    #[test]
    fn late_and_too_late_begin_where_they_are_said_to() {
        let asked = || {
            let mut lease = Lease::new(LEASE, ms(0));
            assert_eq!(lease.handle_timeout(ms(0)), Verdict::Ping(1));
            lease
        };
        // Due at 250: exactly a grace late is not late.
        let mut punctual = asked();
        assert_eq!(punctual.handle_timeout(ms(500)), Verdict::Ping(2));
        assert_eq!(punctual.second_chance, None);
        let mut late = asked();
        assert_eq!(late.handle_timeout(ms(501)), Verdict::Ping(2));
        assert_eq!(late.second_chance, Some(LEASE), "never before the lease");
        // Late a second time: one chance per lease.
        assert_eq!(late.handle_timeout(ms(1_500)), Verdict::Ping(3));
        assert_eq!(late.second_chance, Some(LEASE));
        assert_eq!(late.handle_timeout(ms(2_000)), Verdict::Ping(4));
        // An answer gives the next one.
        assert!(late.handle_pong(4, ms(2_001)).is_some());
        assert_eq!(late.second_chance, None);
        assert_eq!(late.handle_timeout(ms(2_900)), Verdict::Ping(5));
        assert_eq!(late.second_chance, Some(ms(5_000)));
        // Due at 250: a whole lease late is late, and more is frozen.
        assert_eq!(asked().handle_timeout(ms(3_250)), Verdict::Ping(2));
        assert_eq!(asked().handle_timeout(ms(3_251)), Verdict::Frozen);
    }

    #[test]
    fn a_hint_is_judged_at_its_time() {
        let hinted = || {
            let mut lease = answered();
            assert!(!lease.is_suspected());
            assert_eq!(lease.suspect(ms(100)), Some(2));
            assert!(lease.is_suspected());
            for (at, number) in [(150, 3), (200, 4)] {
                assert_eq!(lease.poll_timeout(), ms(at));
                assert_eq!(lease.handle_timeout(ms(at)), Verdict::Ping(number));
            }
            assert_eq!(lease.poll_timeout(), ms(250));
            lease
        };
        assert_eq!(hinted().handle_timeout(ms(249)), Verdict::Wait);
        assert_eq!(hinted().handle_timeout(ms(250)), Verdict::Expired);
        assert_eq!(hinted().handle_timeout(ms(300)), Verdict::Expired);
        let mut late = hinted();
        assert_eq!(late.handle_timeout(ms(301)), Verdict::Ping(5));
        // Not a third time, however late.
        assert_eq!(late.clone().handle_timeout(ms(520)), Verdict::Expired);
        // Answers to the first three do not count for the second three.
        assert!(late.handle_pong(4, ms(302)).is_some());
        assert!(late.is_suspected() && late.asked_again);
        assert!(late.handle_pong(5, ms(303)).is_some());
        assert!(!late.is_suspected() && !late.asked_again);
        // And the next Ping is due as ever after the one that is still to come.
        assert_eq!(late.poll_timeout(), ms(351));
        assert_eq!(late.handle_timeout(ms(351)), Verdict::Ping(6));
        assert_eq!(late.poll_timeout(), ms(601));
    }

    #[test]
    fn only_so_many_pings_are_kept() {
        let mut lease = Lease::new(Duration::from_secs(1_000), ms(0));
        for number in 1..=257 {
            let due = lease.poll_timeout();
            assert_eq!(lease.handle_timeout(due), Verdict::Ping(number));
        }
        assert_eq!(lease.sent.len(), 256);
        assert_eq!(lease.handle_pong(1, ms(70_000)), None);
        assert!(lease.handle_pong(2, ms(70_000)).is_some());
        assert_eq!(lease.sent.len(), 255);
    }
}
