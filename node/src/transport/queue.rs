//! Congestion control that leaves no standing queue where the round trip is short.
//!
//! Loss is all that CUBIC ([RFC 9438](https://www.rfc-editor.org/rfc/rfc9438)) hears of. Between two machines of one network
//! nothing is lost before the peer's socket buffer is full, so bulk fills it, and whatever else the peer is told waits behind some
//! megabytes. There, a delay says it sooner: a round that takes longer than an empty path does is a queue. As in
//! TCP Vegas (Brakmo and Peterson, 1994), the window follows that, and CUBIC's stays the upper bound.
//!
//! Where the round trip is long, or others fill the queue, giving way to delay means to starve: CUBIC alone decides.
//!
//! A window of fewer packets than an acknowledgement waits for stands still until that is late, which is 25 ms. QUIC begins with ten
//! packets or 14 720 bytes, and never has less than two packets ([RFC 9002](https://www.rfc-editor.org/rfc/rfc9002#section-7.2)).
//! Of the packets that are found to fit later that is two, of which a Ping under way leaves one; and a connection that never
//! has much to say keeps it. So CUBIC begins with [`FIRST`] packets of whatever size where the round trip is short, and two fit
//! beside what is small.
//!
//! A connection that is closed sends one packet more, which says why. quinn would hold that back, too, while the window is full,
//! and a closed connection takes in nothing that makes room: [`let_go`] opens the window.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// Paths whose empty round trip is shorter are of one network.
const SHORT: Duration = Duration::from_millis(2);
/// The queue that is left, as time. On two cores a quarter of a millisecond left no queue that small messages would have noticed
/// to be gone, and a tenth halved their waiting at a fifth of the bulk (docs/performance.md).
const QUEUE: Duration = Duration::from_micros(100);
/// Two batches of ten segments, so that one is under way while the next is made.
const SEGMENTS_MIN: u64 = 20;
/// Packets that may be under way at first: an acknowledgement comes after two. Many peers may begin at once, and all of it has to lie
/// in one socket's buffer.
const FIRST: u64 = 4;
/// Bytes of what is small and under way beside others.
const SMALL: u64 = 1200;
/// No window at all. So wide that nothing is paced either.
const OPEN: u64 = 1 << 40;

/// Makes the congestion control of each connection.
#[derive(Debug, Default)]
pub(super) struct ShortQueue(Arc<CubicConfig>);

impl ControllerFactory for ShortQueue {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Control::new(self.0.clone(), now, mtu))
    }
}

/// Lets the last packet of a connection out, whose control this is a copy of. It has to be closed right after.
pub(super) fn let_go(control: Box<dyn Controller>) {
    if let Ok(control) = control.into_any().downcast::<Control>() {
        control.closing.store(true, Ordering::Relaxed);
    }
}

struct Control {
    cubic: Box<dyn Controller>,
    cap: Cap,
    config: Arc<CubicConfig>,
    /// The round trip of the path without a queue is short.
    is_short: bool,
    /// Congestion was told of there: from now on it is CUBIC that knows.
    is_known: bool,
    round: Round,
    /// What all copies share: whether nothing but the last packet is still to be sent.
    closing: Arc<AtomicBool>,
}

/// The packets that were sent within one round trip.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// Packets sent before belong to an earlier one.
    began: Option<Instant>,
    /// The quickest of its round trips.
    quickest: Option<Duration>,
    /// Whether there was less to send than might have been.
    limited: bool,
}

/// How much may be under way, as the delay says.
#[derive(Debug, Clone, Copy)]
struct Cap {
    bytes: Option<u64>,
    mtu: u16,
}

impl Cap {
    fn new(mtu: u16) -> Self {
        Cap { bytes: None, mtu }
    }

    /// Packets have another size.
    fn grow_to(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.bytes = self
            .bytes
            .map(|bytes| bytes.max(self.packets(SEGMENTS_MIN)));
    }

    /// Bytes of so many packets.
    fn packets(&self, count: u64) -> u64 {
        count * u64::from(self.mtu)
    }

    /// A round is over: `empty` is the round trip of a path without a queue, `quickest` the best of this round, and
    /// `window` what may be under way by other rules.
    fn judge(&mut self, empty: Duration, quickest: Duration, window: u64) {
        if empty >= SHORT {
            self.bytes = None;
            return;
        }
        let now = self.bytes.unwrap_or(window).min(window);
        let allowed = empty + QUEUE;
        let next = if quickest > allowed {
            // At most by half: one round may have been slow for another reason.
            let share = allowed.as_secs_f64() / quickest.as_secs_f64();
            (now as f64 * share.max(0.5)) as u64
        } else {
            now + now / 4 + self.packets(1)
        };
        self.bytes = (next < window).then(|| next.max(self.packets(SEGMENTS_MIN)));
    }

    fn of(&self, window: u64) -> u64 {
        self.bytes.map_or(window, |bytes| bytes.min(window))
    }
}

impl Control {
    fn new(config: Arc<CubicConfig>, now: Instant, mtu: u16) -> Self {
        Control {
            cubic: config.clone().build(now, mtu),
            cap: Cap::new(mtu),
            config,
            is_short: false,
            is_known: false,
            round: Round::default(),
            closing: Arc::default(),
        }
    }

    /// Lets CUBIC begin with more, if nothing speaks against it.
    fn begin(&mut self, now: Instant) {
        let first = self.cap.packets(FIRST);
        if self.is_short && !self.is_known && self.cubic.window() < first {
            let mut config = CubicConfig::clone(&self.config);
            config.initial_window(first);
            self.cubic = Arc::new(config).build(now, self.cap.mtu);
        }
    }

    /// What may be under way by all rules but the delay's.
    fn allowed(&self) -> u64 {
        let least = if self.is_short {
            self.cap.packets(2) + SMALL
        } else {
            0
        };
        self.cubic.window().max(least)
    }
}

impl Controller for Control {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        self.is_short = rtt.min() < SHORT;
        self.begin(now);
        let allowed = self.allowed();
        let round = &mut self.round;
        let took = now.saturating_duration_since(sent);
        round.quickest = Some(round.quickest.map_or(took, |quickest| quickest.min(took)));
        round.limited |= app_limited;
        if round.began.is_some_and(|began| sent < began) {
            return;
        }
        if let Some(quickest) = round.quickest
            && !round.limited
        {
            self.cap.judge(rtt.min(), quickest, allowed);
        }
        self.round = Round {
            began: Some(now),
            ..Round::default()
        };
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        // What is lost before an answer says nothing of the way.
        self.is_known |= self.is_short;
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cap.grow_to(new_mtu);
        self.cubic.on_mtu_update(new_mtu);
        self.begin(Instant::now());
    }

    fn window(&self) -> u64 {
        if self.closing.load(Ordering::Relaxed) {
            return OPEN;
        }
        self.cap.of(self.allowed())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Control {
            cubic: self.cubic.clone_box(),
            cap: self.cap,
            config: self.config.clone(),
            is_short: self.is_short,
            is_known: self.is_known,
            round: self.round,
            closing: self.closing.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 6500;
    const EMPTY: Duration = Duration::from_micros(100);

    #[test]
    fn a_queue_shrinks_the_window_and_its_absence_lets_it_grow() {
        let mut cap = Cap::new(MTU);
        let window = 4 << 20;
        assert_eq!(cap.of(window), window, "no round has been judged");
        cap.judge(EMPTY, 10 * QUEUE, window);
        assert_eq!(cap.of(window), window / 2);
        for _ in 0..20 {
            cap.judge(EMPTY, 10 * QUEUE, window);
        }
        let least = SEGMENTS_MIN * u64::from(MTU);
        assert_eq!(cap.of(window), least, "and no further");
        cap.judge(EMPTY, QUEUE, window);
        assert!(cap.of(window) > least);
        for _ in 0..30 {
            cap.judge(EMPTY, QUEUE, window);
        }
        assert_eq!(cap.of(window), window, "the other rules alone");
    }

    #[test]
    fn where_the_way_is_long_delay_says_nothing() {
        let mut cap = Cap::new(MTU);
        let window = 4 << 20;
        cap.judge(SHORT, 100 * SHORT, window);
        assert_eq!(cap.of(window), window);
    }

    #[test]
    fn a_short_way_begins_with_packets_enough_for_an_answer() {
        let now = Instant::now();
        let mut control = Control::new(Arc::default(), now, 1200);
        // A first packet that nobody was there for.
        control.on_congestion_event(now, now, false, 1);
        control.on_mtu_update(MTU);
        let mtu = u64::from(MTU);
        assert!(
            control.window() < FIRST * mtu,
            "nothing is known of the way"
        );
        control.is_short = true;
        control.begin(now);
        assert_eq!(control.window(), FIRST * mtu);
        assert_eq!(control.clone_box().window(), FIRST * mtu);
        for _ in 0..20 {
            let later = Instant::now();
            control.on_congestion_event(later, later, true, 1);
            control.begin(later);
        }
        // What is lost counts, but two packets fit beside something small.
        assert_eq!(control.window(), 2 * mtu + SMALL);
    }

    #[test]
    fn a_cap_grows_with_the_packets() {
        let mut cap = Cap::new(1200);
        for _ in 0..20 {
            cap.judge(EMPTY, 10 * QUEUE, 4 << 20);
        }
        assert_eq!(cap.of(4 << 20), SEGMENTS_MIN * 1200);
        cap.grow_to(MTU);
        assert_eq!(cap.of(4 << 20), SEGMENTS_MIN * u64::from(MTU));
    }

    #[test]
    fn a_copy_lets_the_last_packet_out() {
        let control = Arc::new(ShortQueue::default()).build(Instant::now(), MTU);
        assert!(control.window() < OPEN);
        let_go(control.clone_box());
        assert_eq!(control.window(), OPEN);
    }

    #[test]
    fn what_other_rules_allow_is_never_exceeded() {
        let mut cap = Cap::new(MTU);
        cap.judge(EMPTY, 10 * QUEUE, 4 << 20);
        assert_eq!(cap.of(20_000), 20_000);
    }
}
