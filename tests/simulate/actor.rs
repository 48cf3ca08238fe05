//! Processes that do anything with anybody, by chance, until the quiet.

use std::time::Duration;

use tidelock::{ExitReason, Pid};

use super::script::{BEAT, Player};

/// A process that deals with everybody, most of all with its rival and a few friends.
pub(crate) struct Actor {
    player: Player,
    /// Whom it dealt with lately: most calls are about them, so that calls cross.
    friends: Vec<Pid>,
}

impl Actor {
    pub(crate) fn new(player: Player) -> Self {
        Actor {
            player,
            friends: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self) -> ExitReason {
        let pid = self.player.me.pid();
        self.player.world.enters(pid);
        self.player.world.match_up(pid);
        let fragile = self.player.chance.per_mille(120);
        self.player.me.set_die_when_link_dies(fragile);
        while self.player.scribe.now() < self.player.world.quiet_at {
            let pause = self.pause();
            self.player.listen_for(pause).await;
            if let Some(end) = self.act().await {
                return end;
            }
        }
        self.player.listen(None).await;
        ExitReason::Normal
    }

    /// Mostly in bursts, and all at the same beat: what crosses is what can go wrong.
    fn pause(&mut self) -> Duration {
        let now = self.player.scribe.now().as_millis() as u64;
        let beat = BEAT.as_millis() as u64;
        let chance = &mut self.player.chance;
        Duration::from_millis(match chance.below(6) {
            0 => chance.below(4),
            1 => chance.below(40),
            2..=4 => beat - now % beat + chance.below(25),
            _ => chance.below(1_500),
        })
    }

    fn partner(&mut self) -> Option<Pid> {
        let me = self.player.me.pid();
        let (world, chance) = (&self.player.world, &mut self.player.chance);
        if chance.per_mille(20) {
            world.match_up(me);
        }
        if chance.per_mille(600)
            && let Some(rival) = world.rival(me)
        {
            return Some(rival);
        }
        if !self.friends.is_empty() && chance.per_mille(700) {
            return chance.pick(&self.friends).copied();
        }
        let somebody = world.somebody(chance).filter(|pid| *pid != me)?;
        self.befriend(somebody);
        Some(somebody)
    }

    fn befriend(&mut self, pid: Pid) {
        if self.friends.len() >= 3 {
            self.friends.remove(0);
        }
        self.friends.push(pid);
    }

    /// One deed; an answer is the end.
    async fn act(&mut self) -> Option<ExitReason> {
        let to = self.partner()?;
        if self.player.world.has_more_deeds && self.player.chance.per_mille(150) {
            self.do_more(to).await;
            return None;
        }
        let deed = self.player.chance.below(100);
        let within = self.player.patience();
        match deed {
            0..=24 => self.player.send(to).await,
            25..=54 => self.player.link(to, within).await,
            55..=74 => self.player.unlink(to, within).await,
            75..=76 => self.player.flicker(to, within).await,
            77..=82 => self.player.monitor(to).await,
            83..=85 => self.player.demonitor(),
            86..=93 => {
                if let Some(child) = self.player.spawn(within).await {
                    self.player.world.enters(child);
                    self.befriend(child);
                }
            }
            94..=95 => self.player.kill(to).await,
            96 => return Some(ExitReason::Normal),
            97..=98 => return Some(ExitReason::Exit(1)),
            _ => {}
        }
        None
    }

    /// What only some seeds have.
    async fn do_more(&mut self, to: Pid) {
        match self.player.chance.below(10) {
            0..=3 => self.player.monitor_node().await,
            4..=7 => self.player.send_later(to),
            8 => self.player.cancel_timer(),
            _ => self.player.demonitor(),
        }
    }
}
