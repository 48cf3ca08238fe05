//! `tidelock demo`: count the words of real text on several nodes, lose one in the middle, and be exact.
//!
//! Nothing here is staged: nodes are processes of the operating system that talk QUIC with mutual TLS,
//! the fault is SIGKILL, and the result is compared with a count made by this process alone. What did
//! not happen as promised fails the demonstration; see [`report::Report::judge`].

mod report;
mod text;

#[path = "../../../../examples/wordcount/src/count.rs"]
#[allow(dead_code, reason = "shared with the guest, which needs more of it")]
mod count;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tidelock_control::api::{Ended, Event, EventKind, ProcessInfo, SpawnProcess, Spawned};
use tokio::{
    io::{AsyncBufReadExt, Lines},
    time::{sleep_until, timeout},
};

use super::{
    Output,
    cluster::{LocalCluster, Shape},
    connect::Line as Sent,
    failure::{Exit, Failure, Outcome},
    output::{Tone, grouped, size},
    run::read_module,
};
use report::{Alone, ClusterPart, Counted, GuestPart, Killed, Notice, Report, TextPart, Worker};

/// The guest of the demonstration.
const GUEST: &[u8] = include_bytes!("../../../../examples/wordcount/wordcount.wasm");

/// Where in the text the node is killed, in percent.
const KILL_AT: u32 = 50;

/// How long the last lines of a guest may be on their way after it has ended.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Lose a machine in the middle of real work, and get the exact result
///
/// Starts a control plane and nodes as processes of this machine, counts the words of text on them,
/// kills one node in the middle, and compares the result with a count made by this process alone. Ends
/// with exit code 0 only if everything came out as promised. Leaves nothing behind.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Files and folders with text to count; without any, text that this machine has is gathered
    files: Vec<PathBuf>,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    nodes: u32,
    /// Another word counting guest than the built-in one
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Give up after this time
    #[arg(long, default_value = "5min", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// What the guest says, one JSON document per line.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Started {},
    Spawned {
        pid: String,
        node: String,
    },
    Progress {
        done_bytes: u64,
        total_bytes: u64,
    },
    Holding {
        done_bytes: u64,
        total_bytes: u64,
    },
    Lost {
        pid: String,
        node: String,
        reason: String,
    },
    Respawned {
        pid: String,
        node: String,
        instead_of: String,
    },
    Result(Counted),
    Error {
        message: String,
    },
    #[serde(other)]
    Other,
}

impl Demo {
    pub(crate) async fn run(self, out: &Output) -> Outcome<u8> {
        let limit = self.timeout;
        tokio::select! {
            outcome = timeout(limit, self.whole(out)) => outcome.unwrap_or_else(|_| {
                let waited = humantime::format_duration(limit);
                Err(Failure::new("E0040", format!("the demonstration is not over after {waited}")))
            }),
            _ = tokio::signal::ctrl_c() => Err(Failure::Code(Exit::Interrupted as u8)),
        }
    }

    async fn whole(self, out: &Output) -> Outcome<u8> {
        let began = Instant::now();
        out.tell(out.tone(
            Tone::Strong,
            &format!(
                "Counting words on {} nodes, one of which will be lost.",
                self.nodes
            ),
        ))?;
        let dir = LocalCluster::new_dir()?;
        let folder = dir.path().join("text");
        std::fs::create_dir(&folder)?;
        let (text, alone) = self.prepare(&folder, out).await?;
        let mut report = Report::new(text, alone);

        let asked = Instant::now();
        let shape = Shape {
            nodes: self.nodes,
            lease: None,
            guest_output: true,
            pass_stderr: false,
        };
        let mut cluster = LocalCluster::start_in(dir, &shape, out).await?;
        report.cluster = ClusterPart::of(&cluster, asked.elapsed());
        out.tell(report.line_cluster())?;

        let bytes = match &self.guest {
            Some(file) => read_module(file)?,
            None => GUEST.to_vec(),
        };
        let first = cluster.nodes[0].ready.admin_addr;
        let module = cluster.wire.put_module("wordcount", bytes).await?;
        let request = SpawnProcess {
            module: module.hash.clone(),
            program: Some("wordcount".to_owned()),
            args: vec![
                "--hold-at".to_owned(),
                KILL_AT.to_string(),
                folder.join("text.txt").display().to_string(),
            ],
            preopens: vec![folder.display().to_string()],
            ..SpawnProcess::default()
        };
        let spawned: Spawned = cluster.wire.post(first, "/v1/processes", &request).await?;
        report.guest = GuestPart {
            pid: spawned.pid.clone(),
            module: module.hash,
            bytes: module.size_bytes,
        };
        out.tell(report.line_guest())?;

        Story {
            report: &mut report,
            cluster: &mut cluster,
            out,
            bar: bar(out),
            killed: None,
        }
        .follow(&spawned.pid)
        .await?;
        report.events_of_loss = losses_seen(&cluster, &report).await?;
        cluster.kill().await;
        report.seconds = began.elapsed().as_secs_f64();
        conclude(report, out)
    }

    /// Gathers the text and counts it here, in one go.
    async fn prepare(&self, dir: &std::path::Path, out: &Output) -> Outcome<(TextPart, Alone)> {
        let (files, dir) = (self.files.clone(), dir.to_owned());
        let work = move || {
            let text = text::collect(&files, &dir)?;
            let bytes = std::fs::read(&text.path).map_err(|e| Failure::file(&text.path, &e))?;
            let began = Instant::now();
            let mut counts = count::Counts::new();
            count::add(&mut counts, &bytes);
            let alone = Alone {
                words: count::words(&counts),
                distinct: counts.len() as u64,
                checksum: format!("{:016x}", count::checksum(&counts)),
                seconds: began.elapsed().as_secs_f64(),
            };
            Ok::<_, Failure>((
                TextPart {
                    files: text.files,
                    bytes: text.bytes,
                },
                alone,
            ))
        };
        let (text, alone) = tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Failure::new("E0001", "counting the text failed"))??;
        out.tell(format_args!(
            "  text      {}, {}: {} words, counted by this process alone in {:.1} s",
            text::counted(text.files, "file"),
            size(text.bytes),
            grouped(alone.words),
            alone.seconds
        ))?;
        Ok((text, alone))
    }
}

/// Follows the guest from its first line to its end, and kills a node on the way.
struct Story<'a> {
    report: &'a mut Report,
    cluster: &'a mut LocalCluster,
    out: &'a Output,
    bar: ProgressBar,
    killed: Option<Instant>,
}

impl Story<'_> {
    async fn follow(mut self, pid: &str) -> Outcome {
        let first = &mut self.cluster.nodes[0];
        let stdout = first.stdout.take().expect("nobody has taken it before");
        let mut lines = stdout.lines();
        let wire = self.cluster.wire.clone();
        let path = format!("/v1/processes/{pid}/wait");
        let ended = wire.wait_for::<Ended>(self.cluster.nodes[0].ready.admin_addr, &path);
        tokio::pin!(ended);
        let mut over: Option<(Ended, tokio::time::Instant)> = None;
        loop {
            let late = over
                .as_ref()
                .map_or_else(tokio::time::Instant::now, |(_, late)| *late);
            tokio::select! {
                biased;
                line = next(&mut lines) => match line? {
                    Some(line) => {
                        if self.said(line).await? {
                            break;
                        }
                    }
                    None => return Err(self.cluster.any_end().await.0),
                },
                ended = &mut ended, if over.is_none() => {
                    over = Some((ended?, tokio::time::Instant::now() + LAST_LINES));
                }
                () = sleep_until(late), if over.is_some() => {
                    let reason = over.map_or_else(String::new, |(ended, _)| ended.reason);
                    return Err(Failure::new("E0052", format!("{pid}: the guest ended early"))
                        .detail(reason)
                        .detail(self.cluster.nodes[0].last_words()));
                }
            }
        }
        self.bar.finish_and_clear();
        if over.is_none() {
            ended.await?;
        }
        Ok(())
    }

    /// Takes in one line; true once it is the result.
    async fn said(&mut self, line: Line) -> Outcome<bool> {
        match line {
            Line::Spawned { pid, node } => {
                self.report.workers.push(Worker {
                    pid,
                    node,
                    instead_of: None,
                });
            }
            Line::Progress {
                done_bytes,
                total_bytes,
            } => self.progress(done_bytes, total_bytes),
            Line::Holding {
                done_bytes,
                total_bytes,
            } => {
                self.progress(done_bytes, total_bytes);
                self.kill().await?;
            }
            Line::Lost { pid, node, reason } => {
                let after_ms = self.killed.map(|at| at.elapsed().as_secs_f64() * 1000.0);
                let notice = Notice {
                    pid,
                    node,
                    reason,
                    after_ms,
                };
                self.tell(&notice.line())?;
                self.report.notices.push(notice);
            }
            Line::Respawned {
                pid,
                node,
                instead_of,
            } => {
                self.tell(&format!(
                    "  again     {pid} does the work of {instead_of}, on {node}"
                ))?;
                self.report.workers.push(Worker {
                    pid,
                    node,
                    instead_of: Some(instead_of),
                });
            }
            Line::Result(result) => {
                self.report.result = Some(result);
                return Ok(true);
            }
            Line::Error { message } => {
                return Err(Failure::new(
                    "E0052",
                    format!("the guest gave up: {message}"),
                ));
            }
            Line::Started {} | Line::Other => {}
        }
        Ok(false)
    }

    fn progress(&mut self, done: u64, total: u64) {
        self.report.done_bytes = done;
        self.report.total_bytes = total;
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// The fault: SIGKILL to the last node that has workers, noting first who lives there.
    async fn kill(&mut self) -> Outcome {
        let line = self.report.line_workers();
        self.tell(&line)?;
        let guest = self.report.guest.pid.clone();
        let has_work = |name: &str| self.report.workers.iter().any(|worker| worker.node == name);
        let victim = self
            .cluster
            .nodes
            .iter()
            .rposition(|node| has_work(&node.ready.ready));
        let Some(victim) = victim.filter(|at| *at > 0) else {
            return Err(Failure::new(
                "E0051",
                "no other node has a worker, so none can be lost",
            ));
        };
        let admin = self.cluster.nodes[victim].ready.admin_addr;
        let living: Vec<ProcessInfo> = self.cluster.wire.get(admin, "/v1/processes").await?;
        let mut lost: Vec<String> = living.into_iter().map(|process| process.pid).collect();
        lost.retain(|pid| *pid != guest);

        let node = &mut self.cluster.nodes[victim];
        let process_id = node.process_id();
        let at = Instant::now();
        let status = node.kill().await?;
        self.killed = Some(at);
        use std::os::unix::process::ExitStatusExt as _;
        let killed = Killed {
            node: node.ready.ready.clone(),
            process_id,
            signal: status.signal(),
            percent: self.report.percent(),
            workers: lost,
        };
        let line = killed.line();
        self.tell(&self.out.tone(Tone::Bad, &line))?;
        self.report.killed = Some(killed);
        Ok(())
    }

    /// A line of the story, above the bar.
    fn tell(&self, line: &str) -> Outcome {
        self.bar.suspend(|| self.out.tell(line))
    }
}

/// The next line that is the guest's; `None` at the end of the node's output.
async fn next<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> Outcome<Option<Line>> {
    let Some(line) = lines.next_line().await? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_str(&line).unwrap_or(Line::Other)))
}

/// How often the first node has recorded the loss of the killed one.
async fn losses_seen(cluster: &LocalCluster, report: &Report) -> Outcome<u64> {
    let Some(killed) = &report.killed else {
        return Ok(0);
    };
    let first = &cluster.nodes[0].ready;
    let lines = cluster
        .wire
        .lines::<Event>(&first.ready, first.admin_addr, "/v1/events")
        .await?;
    let mut losses = 0;
    for line in lines {
        let event = match line {
            Sent::Item(event) => event,
            Sent::Missed(missed) => return Err(Failure::new("E0051", missed)),
        };
        let of_it = event.peer.as_ref() == Some(&killed.node);
        losses += u64::from(event.kind == EventKind::NodeLost && of_it);
    }
    Ok(losses)
}

/// Judges, prints, and fails if a check failed.
fn conclude(mut report: Report, out: &Output) -> Outcome<u8> {
    report.judge();
    let mut failed = Vec::new();
    for check in &report.checks {
        let (mark, tone) = if check.ok {
            ("✓", Tone::Good)
        } else {
            ("✕", Tone::Bad)
        };
        out.tell(format_args!(
            "  {} {}: {}",
            out.tone(tone, mark),
            check.name,
            check.detail
        ))?;
        if !check.ok {
            failed.push(format!("{}: {}", check.name, check.detail));
        }
    }
    if out.machine() {
        out.one(&report, "", "")?;
    }
    if failed.is_empty() {
        out.tell(format_args!(
            "Exact, in {:.1} s, with a node lost on the way.",
            report.seconds
        ))?;
        return Ok(0);
    }
    Err(
        Failure::new("E0051", "the demonstration did not come out as promised")
            .detail(failed.join("\n")),
    )
}

fn bar(out: &Output) -> ProgressBar {
    if !out.animated() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("  counting  {bar:40} {percent:>3} %  {bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}
