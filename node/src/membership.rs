//! What keeps a node a member: it follows who else is one, and renews its lease at control and its certificate.
//!
//! Each is a task that runs until the node leaves; one more writes down whose sessions begin and end. Control that
//! cannot be reached is asked again, and no link is touched.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use tidelock_certs::{Identity, UnixTime};
use tidelock_control::api::{self, EventKind, NodeInfo, NodeState, WatchEvent};
use tidelock_control::client::ClientError;
use tidelock_proto::session;

use crate::dist::{Member, PeerEvent};
use crate::joining::save;
use crate::{Inner, Node, lock};

impl Inner {
    /// Whom to deny comes first: nobody is dialled who is not to be spoken to.
    pub(crate) fn take_members(&self, members: &api::Members) {
        self.dist
            .deny(members.removed.iter().filter_map(|text| key(text)));
        self.set_members(members.nodes.iter().filter_map(member));
    }

    fn set_members(&self, members: impl IntoIterator<Item = Member>) {
        self.dist.set_members(members);
        self.peers_changed.send_modify(|count| *count += 1);
    }
}

fn member(info: &NodeInfo) -> Option<Member> {
    Some(Member {
        id: info.id.parse().ok()?,
        name: info.name.clone(),
        addr: info.addr,
        alive: matches!(info.state, NodeState::Alive | NodeState::Draining),
        tags: info.tags.clone(),
    })
}

/// A key that an operator removed, as control writes it.
fn key(text: &str) -> Option<[u8; 32]> {
    let key = tidelock_certs::from_hex(text).and_then(|bytes| bytes.try_into().ok());
    if key.is_none() {
        tracing::error!(
            text,
            "control has removed a key that is none; it is newer than this node"
        );
    }
    key
}

pub(crate) async fn record_peers(
    inner: Arc<Inner>,
    mut events: tokio::sync::broadcast::Receiver<PeerEvent>,
) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(PeerEvent::Up { node, .. }) => {
                inner
                    .journal
                    .record(EventKind::NodeUp, Some(node.to_string()), None);
            }
            Ok(PeerEvent::Down { node, why, .. }) => {
                let left = [
                    session::SessionError::Left,
                    session::SessionError::LeftUndelivered,
                ];
                let kind = if left.iter().any(|left| why == left.to_string()) {
                    EventKind::NodeLeft
                } else {
                    EventKind::NodeLost
                };
                inner
                    .journal
                    .record(kind, Some(node.to_string()), Some(why));
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "session events were missed by the journal");
            }
            Err(RecvError::Closed) => return,
        }
        inner.peers_changed.send_modify(|count| *count += 1);
    }
}

/// Follows the membership for as long as the node is there: removals are learnt in no other way.
pub(crate) async fn follow_members(inner: Arc<Inner>) {
    // After what waiting may not mend: whoever answers as control is not trusted, or does not trust us,
    // which may be the fault of a clock.
    const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
    let mut wait = WAIT.0;
    loop {
        let mut watch = inner.client.watch();
        while let Some(event) = watch.next().await {
            match event {
                Ok(WatchEvent::Snapshot(members)) => {
                    wait = WAIT.0;
                    inner.take_members(&members);
                }
                Ok(WatchEvent::Change { node, removed, .. }) => {
                    inner.dist.deny(removed.as_deref().and_then(key));
                    inner.set_members(member(&node));
                }
                Ok(WatchEvent::Heartbeat { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "control cannot be watched; links are not touched");
                }
            }
        }
        tracing::error!(
            "control refuses to be watched: removals are not learnt; again in {wait:?}"
        );
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT.1);
    }
}

pub(crate) async fn keep_lease(inner: Arc<Inner>, lease: Duration) {
    /// Less is not enough for a handshake on a busy machine.
    const CALL_MIN: Duration = Duration::from_secs(1);
    let part = (lease / 3).max(Duration::from_millis(100));
    let mut every = tokio::time::interval(part);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let call = inner.client.lease(inner.id, inner.dist.is_draining());
        // One that is stuck leaves time for others before the lease runs out.
        let answer = tokio::time::timeout(part.max(CALL_MIN), call).await;
        let Ok(answer) = answer else {
            tracing::warn!("control does not answer; links are not touched");
            continue;
        };
        match answer {
            Ok(_) => {}
            Err(error) if error.is_node_gone() => {
                tracing::error!(%error, "control has given this node up; it leaves");
                let why = match error {
                    ClientError::Refused { body, .. } => body.message,
                    error => error.to_string(),
                };
                // Nobody else sets it.
                let _: Result<(), String> = inner.given_up.set(why);
                let node = Node(inner);
                tokio::spawn(async move { node.leave().await });
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "control cannot be reached; links are not touched");
            }
        }
    }
}

/// Gets a new certificate before the old one runs out.
pub(crate) async fn renew(inner: Arc<Inner>) {
    /// A clock may be put right at any time.
    const LOOK_S: u64 = 3_600;
    const PATIENCE_S: (u64, u64) = (60, 3_600);
    let (mut patience_s, mut kept) = (PATIENCE_S.0, true);
    loop {
        if !kept {
            // Used all the same: a full disk does not end a node, only a restart would miss it.
            kept = note(inner.keep_identity().await);
        }
        let identity = inner.identity();
        let due_s = if identity.is_due(UnixTime::now()) {
            0
        } else {
            identity.renew_at().as_secs().saturating_sub(now_s())
        };
        let wait_s = due_s.min(if kept { LOOK_S } else { PATIENCE_S.0 });
        tokio::time::sleep(Duration::from_secs(wait_s)).await;
        if due_s > wait_s {
            continue;
        }
        let renewed = match inner.client.renew(&identity).await {
            Ok(renewed) => inner.take_identity(renewed),
            Err(error) => Err(format!("the certificate could not be renewed yet: {error}")),
        };
        let is_renewed = note(renewed);
        kept &= !is_renewed;
        let identity = inner.identity();
        if is_renewed && !identity.is_due(UnixTime::now()) {
            patience_s = PATIENCE_S.0;
        } else {
            // Sessions end with the certificate: while it lasts, there is time for some more tries. A new
            // one that is due at once is of a clock that is ahead still.
            let wait_s = match identity.not_after().as_secs().saturating_sub(now_s()) {
                0 => patience_s,
                left_s => patience_s.min((left_s / 4).max(1)),
            };
            tokio::time::sleep(Duration::from_secs(wait_s)).await;
            patience_s = (patience_s * 2).min(PATIENCE_S.1);
        }
    }
}

fn now_s() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

fn note(done: Result<(), String>) -> bool {
    if let Err(error) = &done {
        tracing::warn!(error);
    }
    done.is_ok()
}

impl Inner {
    pub(crate) fn identity(&self) -> Identity {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Uses a new certificate from now on.
    fn take_identity(&self, renewed: Identity) -> Result<(), String> {
        let unusable = |error: &dyn std::fmt::Display| {
            format!("the renewed certificate cannot be used: {error}")
        };
        self.dist
            .set_identity(&renewed)
            .map_err(|error| unusable(&error))?;
        let observer = lock(&self.observer);
        if let Some(observer) = observer.as_ref() {
            observer.renew(&renewed).map_err(|error| unusable(&error))?;
        }
        drop(observer);
        *self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// Apart from the thread of sessions, which would wait for a disk.
    async fn keep_identity(self: &Arc<Self>) -> Result<(), String> {
        let inner = self.clone();
        let saving = move || {
            // Held meanwhile: nobody else has the directory.
            let held = lock(&inner.state_lock);
            match &inner.state_dir {
                Some(dir) if held.is_some() => {
                    save(dir, &inner.identity()).map_err(|error| error.to_string())
                }
                _ => Ok(()),
            }
        };
        let why = match tokio::task::spawn_blocking(saving).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(error) => error.to_string(),
        };
        Err(format!(
            "the renewed certificate is used, but not kept: {why}"
        ))
    }
}
