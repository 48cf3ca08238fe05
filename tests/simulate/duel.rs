//! Two processes that deal with each other only, all at once, and then leave each other alone.
//!
//! What goes wrong when calls cross shows later, when one of the two ends: by then a process that is
//! busy has long called again and covered it up. So a duel is a few calls within a round trip or two, a truce,
//! and an end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidelock::{ExitReason, Pid};

use super::chance::Chance;
use super::script::Player;

/// Where one half of a duel finds out who the other one is. It may guess, before the other is born.
pub(crate) type Rival = Arc<OnceLock<Pid>>;

/// One of two.
pub(crate) struct Duellist {
    player: Player,
    rival: Rival,
    manner: Manner,
}

/// How one of two deals with the other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Calls a few times, and mostly waits for the answers.
    Eager,
    /// Does nothing itself: it hears of the link because it was asked.
    Passive,
    /// Makes a link and takes it back again and again, all of it before the first answer can be back: what
    /// is answered late is about a link that is over.
    Hasty,
    /// Asks for one link, by chance in the middle of the other's haste, and relies on it to its own end, which
    /// nobody but others brings about: only who lives on is judged by what it was never told.
    Once,
}

impl Manner {
    fn of(chance: &mut Chance) -> Self {
        match chance.below(1_000) {
            0..200 => Manner::Passive,
            200..350 => Manner::Hasty,
            350..500 => Manner::Once,
            _ => Manner::Eager,
        }
    }
}

/// How long both wait before they begin, so that both are there.
const READY: Duration = Duration::from_millis(40);
/// The longest that a duellist outlives its duel: by then a cut that began in it has been noticed.
const AFTER: Duration = Duration::from_millis(4_500);

impl Duellist {
    pub(crate) fn new(mut player: Player, rival: Rival) -> Self {
        Duellist {
            manner: Manner::of(&mut player.chance),
            player,
            rival,
        }
    }

    pub(crate) async fn run(mut self) -> ExitReason {
        let jitter = Duration::from_micros(self.player.chance.below(25_000));
        self.player.listen_for(READY + jitter).await;
        if let Some(rival) = self.rival.get().copied() {
            self.duel(rival).await;
        }
        if self.manner == Manner::Once {
            self.player.listen(None).await;
        }
        let truce = Duration::from_millis(200 + self.player.chance.below(500));
        self.player.listen_for(truce).await;
        match self.player.chance.below(4) {
            0 => return ExitReason::Exit(1),
            1 if self.manner != Manner::Passive => return ExitReason::Exit(2),
            2 => self.player.listen_for(Duration::from_secs(1)).await,
            _ => self.player.listen_for(AFTER).await,
        }
        ExitReason::Normal
    }

    async fn duel(&mut self, rival: Pid) {
        match self.manner {
            Manner::Eager => {
                for _ in 0..=self.player.chance.below(5) {
                    self.act(rival).await;
                    let pause = self.pause();
                    self.player.listen_for(pause).await;
                }
            }
            Manner::Passive => {}
            Manner::Hasty => {
                for _ in 0..2 + self.player.chance.below(2) {
                    self.make_and_take_back(rival).await;
                    let pause = self.moment();
                    self.player.listen_for(pause).await;
                }
            }
            Manner::Once => {
                let pause = Duration::from_micros(self.player.chance.below(20_000));
                self.player.listen_for(pause).await;
                let within = self.player.patience();
                self.player.link(rival, within).await;
            }
        }
    }

    async fn make_and_take_back(&mut self, rival: Pid) {
        let within = self.moment();
        match self.player.chance.below(2) {
            0 => self.player.link(rival, within).await,
            _ => self.player.flicker(rival, within).await,
        }
    }

    /// Shorter than one way.
    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.player.chance.below(6_000))
    }

    fn pause(&mut self) -> Duration {
        let chance = &mut self.player.chance;
        Duration::from_micros(match chance.below(10) {
            0..=4 => 0,
            5..=7 => chance.below(12_000),
            _ => chance.below(50_000),
        })
    }

    async fn act(&mut self, rival: Pid) {
        let chance = &mut self.player.chance;
        let within = match chance.below(10) {
            0..=2 => Duration::from_millis(chance.below(15)),
            3 => Duration::from_millis(chance.below(60)),
            _ => self.player.patience(),
        };
        match self.player.chance.below(100) {
            0..=42 => self.player.link(rival, within).await,
            43..=72 => self.player.unlink(rival, within).await,
            73..=80 => self.player.flicker(rival, within).await,
            81..=87 => self.player.send(rival).await,
            88..=93 => self.player.monitor(rival).await,
            94..=97 => self.player.demonitor(),
            _ => self.player.kill(rival).await,
        }
    }
}
