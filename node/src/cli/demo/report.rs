//! What the demonstration found out, as data, and what it makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::cli::{
    cluster::LocalCluster,
    output::{grouped, size},
};

/// Where in the text the kill has to fall, in percent.
const MIDDLE: std::ops::RangeInclusive<f64> = 25.0..=75.0;

/// Everything. The JSON of the demonstration.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether every check passed.
    pub(super) ok: bool,
    pub(super) text: TextPart,
    pub(super) alone: Alone,
    pub(super) cluster: ClusterPart,
    pub(super) guest: GuestPart,
    pub(super) workers: Vec<Worker>,
    pub(super) killed: Option<Killed>,
    /// Each notice that the coordinator received.
    pub(super) notices: Vec<Notice>,
    /// How often the first node recorded the loss of the killed one.
    pub(super) events_of_loss: u64,
    pub(super) result: Option<Counted>,
    pub(super) checks: Vec<Check>,
    pub(super) seconds: f64,
    #[serde(skip)]
    pub(super) done_bytes: u64,
    #[serde(skip)]
    pub(super) total_bytes: u64,
}

/// What was counted.
#[derive(Debug, Default, Serialize)]
pub(super) struct TextPart {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// The count made by this process, without a cluster.
#[derive(Debug, Default, Serialize)]
pub(super) struct Alone {
    pub(super) words: u64,
    pub(super) distinct: u64,
    pub(super) checksum: String,
    pub(super) seconds: f64,
}

/// Who takes part.
#[derive(Debug, Default, Serialize)]
pub(super) struct ClusterPart {
    pub(super) nodes: Vec<NodePart>,
    /// From the first daemon's start until all nodes were connected with each other.
    pub(super) ready_ms: f64,
}

/// One node.
#[derive(Debug, Serialize)]
pub(super) struct NodePart {
    pub(super) node: String,
    pub(super) process_id: Option<u32>,
}

/// The coordinator.
#[derive(Debug, Default, Serialize)]
pub(super) struct GuestPart {
    pub(super) pid: String,
    pub(super) module: String,
    pub(super) bytes: u64,
}

/// One worker.
#[derive(Debug, Serialize)]
pub(super) struct Worker {
    pub(super) pid: String,
    pub(super) node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instead_of: Option<String>,
}

/// The fault.
#[derive(Debug, Serialize)]
pub(super) struct Killed {
    pub(super) node: String,
    pub(super) process_id: Option<u32>,
    /// The signal that the operating system says ended it.
    pub(super) signal: Option<i32>,
    /// How much of the text was counted.
    pub(super) percent: f64,
    /// Who lived there, by the node's own list a moment before.
    pub(super) workers: Vec<String>,
}

/// The coordinator was told of a worker's end.
#[derive(Debug, Serialize)]
pub(super) struct Notice {
    pub(super) pid: String,
    pub(super) node: String,
    pub(super) reason: String,
    /// Milliseconds since the kill; none if nothing had been killed.
    pub(super) after_ms: Option<f64>,
}

/// The guest's result.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) words: u64,
    pub(super) distinct: u64,
    pub(super) checksum: String,
    pub(super) chunks: u64,
    /// Chunks that were counted again because a worker was lost with them.
    pub(super) resent: u64,
    pub(super) lost: Vec<Lost>,
    pub(super) elapsed_ms: u64,
}

/// A worker that the guest says was lost.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lost {
    pub(super) pid: String,
    pub(super) reason: String,
    pub(super) notices: u64,
}

/// One thing that was promised.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) detail: String,
}

impl Report {
    pub(super) fn new(text: TextPart, alone: Alone) -> Self {
        Self {
            text,
            alone,
            ..Self::default()
        }
    }

    /// How much of the text is counted.
    pub(super) fn percent(&self) -> f64 {
        if self.total_bytes == 0 {
            return 0.0;
        }
        (self.done_bytes as f64 * 1000.0 / self.total_bytes as f64).round() / 10.0
    }

    /// Holds what happened against what was promised. All checks must pass.
    pub(super) fn judge(&mut self) {
        let mut checks = Vec::new();
        match &self.killed {
            Some(killed) => self.judge_loss(killed, &mut checks),
            None => checks.push(Check {
                name: "fault",
                ok: false,
                detail: "no node was killed".to_owned(),
            }),
        }
        checks.push(self.judge_counts());
        self.ok = checks.iter().all(|check| check.ok);
        self.checks = checks;
    }

    fn judge_loss(&self, killed: &Killed, checks: &mut Vec<Check>) {
        let mut check = |name, ok, detail| checks.push(Check { name, ok, detail });
        check(
            "fault",
            killed.signal == Some(9),
            match killed.signal {
                Some(signal) => format!("{} was ended by signal {signal}", killed.node),
                None => format!("{} was not ended by a signal", killed.node),
            },
        );
        check(
            "moment",
            MIDDLE.contains(&killed.percent),
            format!("{:.1} % of the text was counted", killed.percent),
        );

        let expected: BTreeSet<&str> = killed.workers.iter().map(String::as_str).collect();
        let claimed: BTreeSet<&str> = self
            .workers
            .iter()
            .filter(|worker| worker.node == killed.node)
            .map(|worker| worker.pid.as_str())
            .collect();
        let mut told = BTreeMap::<&str, u64>::new();
        for notice in &self.notices {
            *told.entry(&notice.pid).or_default() += 1;
        }
        let all = told.keys().copied().collect::<BTreeSet<_>>();
        let guest_agrees = self.result.as_ref().is_some_and(|result| {
            result.lost.len() == told.len()
                && result
                    .lost
                    .iter()
                    .all(|lost| told.get(lost.pid.as_str()) == Some(&lost.notices))
        });
        let once = !expected.is_empty()
            && all == expected
            && claimed == expected
            && told.values().all(|times| *times == 1)
            && guest_agrees;
        let detail = if once {
            format!(
                "of each of the {} lost workers, exactly once",
                expected.len()
            )
        } else {
            format!(
                "{} workers were lost, {} notices came for {} of them",
                expected.len(),
                self.notices.len(),
                all.intersection(&expected).count()
            )
        };
        check("told", once, detail);
        check(
            "node",
            self.events_of_loss == 1,
            format!(
                "the first node recorded the loss of {} {}",
                killed.node,
                times(self.events_of_loss)
            ),
        );
        let replaced: BTreeSet<&str> = self
            .workers
            .iter()
            .filter(|worker| worker.node != killed.node)
            .filter_map(|worker| worker.instead_of.as_deref())
            .collect();
        check(
            "again",
            replaced == expected,
            format!(
                "{} of {} were started again on other nodes",
                replaced.len(),
                expected.len()
            ),
        );
    }

    fn judge_counts(&self) -> Check {
        let (ok, detail) = match &self.result {
            None => (false, "there is no result".to_owned()),
            Some(result) => {
                let same = result.words == self.alone.words
                    && result.distinct == self.alone.distinct
                    && result.checksum == self.alone.checksum;
                let counted = |words, distinct, checksum: &str| {
                    format!(
                        "{} words, {} different, checksum {checksum}",
                        grouped(words),
                        grouped(distinct)
                    )
                };
                let here = counted(result.words, result.distinct, &result.checksum);
                let alone = &self.alone;
                let detail = if same {
                    format!("{here}: the same as alone")
                } else {
                    let alone = counted(alone.words, alone.distinct, &alone.checksum);
                    format!("{here}; but alone: {alone}")
                };
                (same, detail)
            }
        };
        Check {
            name: "count",
            ok,
            detail,
        }
    }

    pub(super) fn line_cluster(&self) -> String {
        let nodes: Vec<String> = self
            .cluster
            .nodes
            .iter()
            .map(|node| match node.process_id {
                Some(id) => format!("{} (process {id})", node.node),
                None => node.node.clone(),
            })
            .collect();
        format!(
            "  cluster   {}; own authority, mutual TLS; connected after {:.0} ms",
            nodes.join(", "),
            self.cluster.ready_ms
        )
    }

    pub(super) fn line_guest(&self) -> String {
        format!(
            "  guest     wordcount {}, {}; coordinator is {}",
            self.guest.module.get(..11).unwrap_or(&self.guest.module),
            size(self.guest.bytes),
            self.guest.pid
        )
    }

    pub(super) fn line_workers(&self) -> String {
        let pids: Vec<&str> = self
            .workers
            .iter()
            .map(|worker| worker.pid.as_str())
            .collect();
        format!(
            "  workers   {}; each linked to the coordinator",
            pids.join(" ")
        )
    }
}

impl ClusterPart {
    pub(super) fn of(cluster: &LocalCluster, took: Duration) -> Self {
        let nodes = cluster.nodes.iter().map(|node| NodePart {
            node: node.ready.ready.clone(),
            process_id: node.process_id(),
        });
        Self {
            nodes: nodes.collect(),
            ready_ms: (took.as_secs_f64() * 10_000.0).round() / 10.0,
        }
    }
}

impl Killed {
    pub(super) fn line(&self) -> String {
        let process = self
            .process_id
            .map(|id| format!(" (process {id})"))
            .unwrap_or_default();
        format!(
            "  kill      {}{process} with SIGKILL, at {:.1} % of the text; {} lived there",
            self.node,
            self.percent,
            self.workers.join(" and ")
        )
    }
}

impl Notice {
    pub(super) fn line(&self) -> String {
        match self.after_ms {
            Some(ms) => format!(
                "  told      {} is lost, {:.2} s after the kill: {}",
                self.pid,
                ms / 1000.0,
                self.reason
            ),
            None => format!("  told      {} ended: {}", self.pid, self.reason),
        }
    }
}

fn times(count: u64) -> String {
    match count {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        _ => format!("{count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let worker = |pid: &str, node: &str, instead_of: Option<&str>| Worker {
            pid: pid.to_owned(),
            node: node.to_owned(),
            instead_of: instead_of.map(str::to_owned),
        };
        Report {
            alone: Alone {
                words: 9,
                distinct: 3,
                checksum: "ab".to_owned(),
                seconds: 0.1,
            },
            workers: vec![
                worker("n2.1", "n2", None),
                worker("n3.1", "n3", None),
                worker("n2.2", "n2", Some("n3.1")),
            ],
            killed: Some(Killed {
                node: "n3".to_owned(),
                process_id: Some(7),
                signal: Some(9),
                percent: 50.0,
                workers: vec!["n3.1".to_owned()],
            }),
            notices: vec![Notice {
                pid: "n3.1".to_owned(),
                node: "n3".to_owned(),
                reason: "node down".to_owned(),
                after_ms: Some(3000.0),
            }],
            events_of_loss: 1,
            result: Some(Counted {
                words: 9,
                distinct: 3,
                checksum: "ab".to_owned(),
                chunks: 4,
                resent: 1,
                lost: vec![Lost {
                    pid: "n3.1".to_owned(),
                    reason: "node down".to_owned(),
                    notices: 1,
                }],
                elapsed_ms: 5,
            }),
            ..Report::default()
        }
    }

    /// The names of the checks that fail after `spoil`.
    fn failing(spoil: impl FnOnce(&mut Report)) -> Vec<&'static str> {
        let mut report = good();
        spoil(&mut report);
        report.judge();
        assert_eq!(report.ok, report.checks.iter().all(|check| check.ok));
        report
            .checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| check.name)
            .collect()
    }

    #[test]
    fn a_good_run_passes() {
        assert!(failing(|_| ()).is_empty());
    }

    #[test]
    fn each_broken_promise_is_found() {
        assert_eq!(failing(|r| r.killed = None), ["fault"]);
        assert_eq!(
            failing(|r| r.killed.as_mut().unwrap().signal = None),
            ["fault"]
        );
        assert_eq!(
            failing(|r| r.killed.as_mut().unwrap().percent = 24.9),
            ["moment"]
        );
        assert_eq!(
            failing(|r| r.killed.as_mut().unwrap().percent = 75.1),
            ["moment"]
        );
        assert_eq!(failing(|r| r.notices.clear()), ["told"]);
        assert_eq!(
            failing(|r| {
                let again = Notice {
                    reason: String::new(),
                    ..clone(&r.notices[0])
                };
                r.notices.push(again);
                r.result.as_mut().unwrap().lost[0].notices = 2;
            }),
            ["told"]
        );
        assert_eq!(
            failing(|r| r.result.as_mut().unwrap().lost[0].notices = 2),
            ["told"]
        );
        assert_eq!(failing(|r| r.events_of_loss = 2), ["node"]);
        assert_eq!(failing(|r| r.workers[2].instead_of = None), ["again"]);
        assert_eq!(failing(|r| r.result.as_mut().unwrap().words = 8), ["count"]);
        assert_eq!(
            failing(|r| r.result.as_mut().unwrap().checksum = String::new()),
            ["count"]
        );
    }

    fn clone(notice: &Notice) -> Notice {
        Notice {
            pid: notice.pid.clone(),
            node: notice.node.clone(),
            reason: notice.reason.clone(),
            after_ms: notice.after_ms,
        }
    }
}
