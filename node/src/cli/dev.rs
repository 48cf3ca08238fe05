//! `tidelock dev`: a whole cluster on this machine, with a guest that is reloaded when it changes.

mod build;
mod current;

use std::{path::Path, time::Duration};

use clap::Args;
use tidelock_control::api::{Ended, LogLine, ModuleInfo, NodeInfo, SpawnProcess, Spawned, Stream};
use tokio::{io::AsyncReadExt, signal::ctrl_c, time::timeout};

use super::{
    Output,
    cluster::{Daemon, LocalCluster, Shape},
    connect::{Cluster, Line},
    failure::{Exit, Failure, Outcome},
    names,
    output::{Tone, printable, size},
    run::{ended_badly, exit_code, no_option, program_name, read_module, variables},
};
use build::Source;

/// How long the daemons' last output may take once they have been killed.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// Keep a whole cluster up on this machine, and reload the guest on save
///
/// Starts a control plane and nodes as processes of this machine, with free ports and certificates made
/// for this run. In the folder of a Rust guest it builds and runs that; otherwise it runs the file
/// that is named, or, where there is no Cargo.toml, nothing. Ctrl-C once drains and ends, twice ends at once.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Run the guest once, pass its output through unchanged, end with its exit code
    #[arg(long, requires = "app")]
    once: bool,
    /// How long a silent node is believed to be alive
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, hide = true)]
    lease: Option<Duration>,
    /// The guest, a .wasm or .wat file, and its arguments
    #[arg(
        value_name = "APP",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    app: Vec<String>,
}

impl Dev {
    pub(crate) async fn run(self, out: &Output) -> Outcome<u8> {
        if self.once {
            tokio::select! {
                outcome = self.once(out) => outcome,
                _ = ctrl_c() => Err(Failure::Code(Exit::Interrupted as u8)),
            }
        } else {
            self.keep(out).await
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            nodes: self.nodes,
            lease: self.lease,
            guest_output: self.once,
            pass_stderr: self.once,
        }
    }

    async fn once(&self, out: &Output) -> Outcome<u8> {
        let (file, args) = self.app.split_first().expect("the parser insists on it");
        let file = Path::new(file);
        no_option("dev", file)?;
        // Before the cluster is started: a typing mistake should not take a second.
        let bytes = read_module(file)?;
        let mut cluster = LocalCluster::start(&self.shape(), out).await?;
        let outputs: Vec<_> = cluster
            .nodes
            .iter_mut()
            .filter_map(|node| node.stdout.take())
            .map(|stdout| tokio::spawn(pass_through(stdout, out.clone())))
            .collect();
        let wire = cluster.wire.clone();
        let admin = cluster.nodes[0].ready.admin_addr;
        let module = wire.put_module(&names::of_module(file), bytes).await?;
        let spawned = start(&wire, &cluster.nodes[0], &module, file, args).await?;
        let path = format!("/v1/processes/{}/wait", spawned.pid);
        let ended: Ended = match wire.wait_for(admin, &path).await {
            Ok(ended) => ended,
            // The first node is gone; its own last words say more than a lost connection.
            Err(failure) => {
                let gone = timeout(LAST_OUTPUT, cluster.nodes[0].ended()).await;
                return Err(gone.unwrap_or(failure));
            }
        };
        cluster.kill().await;
        // The pipes end with the daemons; what guests wrote before is still in them.
        for output in outputs {
            if let Ok(Ok(Err(failure))) = timeout(LAST_OUTPUT, output).await {
                return Err(failure);
            }
        }
        match ended.own {
            true => Ok(exit_code(ended.exit_code)),
            false => Err(ended_badly(file, &ended.reason, ended.exit_code)),
        }
    }

    async fn keep(self, out: &Output) -> Outcome<u8> {
        if let Some(file) = self.app.first() {
            let file = Path::new(file);
            no_option("dev", file)?;
            if file.is_dir() {
                let message = format!("{}: this is a folder, not a module", file.display());
                return Err(Failure::new("E0002", message)
                    .detail("`dev` builds the Rust guest of the folder that it is started in.")
                    .next(
                        format!("cd {}; tidelock dev", file.display()),
                        "starts it there",
                    ));
            }
        }
        let source = Source::find(&self.app).await?;
        let shape = self.shape();
        let mut cluster = tokio::select! {
            cluster = LocalCluster::start(&shape, out) => cluster?,
            _ = ctrl_c() => return Err(Failure::Code(Exit::Interrupted as u8)),
        };
        let _current = self.introduce(&cluster, out);

        let nodes = cluster.wire.nodes().await?;
        let wire = cluster.wire.clone();
        let admin = &cluster.nodes[0];
        let guest = Guest {
            wire: &wire,
            source,
            pid: None,
            out,
        };
        let first = NodeInfo::clone(
            nodes
                .iter()
                .find(|node| node.admin_addr == admin.ready.admin_addr)
                .ok_or_else(|| {
                    Failure::new("E0042", "the first node has left before it was used")
                })?,
        );
        let failure = tokio::select! {
            outcome = print_output(&wire, out) => outcome.err(),
            outcome = guest.run(&first) => outcome.err(),
            failure = watch(&mut cluster, out) => Some(failure),
            _ = ctrl_c() => None,
        };
        if let Some(failure) = failure {
            return Err(failure);
        }
        out.say("\nDraining; Ctrl-C again ends at once.");
        tokio::select! {
            () = cluster.leave() => {}
            _ = ctrl_c() => {}
        }
        Ok(Exit::Interrupted as u8)
    }

    /// Says what there is, and makes the cluster the default if no other dev holds that place.
    fn introduce(&self, cluster: &LocalCluster, out: &Output) -> Option<current::Current> {
        let tick = out.tone_err(Tone::Good, "✓");
        let names: Vec<&str> = cluster
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        out.say(format_args!(
            "  {tick} certificates  authority made for this run"
        ));
        out.say(format_args!(
            "  {tick} control       https://{}",
            cluster.control_addr()
        ));
        out.say(format_args!("  {tick} nodes         {}", names.join(" ")));
        let current = current::Current::take(cluster.context());
        let export = format!("export TIDELOCK_CONTEXT={}", cluster.context().display());
        if current.is_some() {
            out.say("  ▸ in another terminal: tidelock ps");
            out.say(format_args!("    or, to be explicit:  {export}"));
        } else {
            out.say(format_args!(
                "  ▸ in another terminal: {export}; tidelock ps"
            ));
            out.say("    (another dev is the default)");
        }
        out.say("");
        current
    }
}

/// The guest that is kept running.
struct Guest<'a> {
    wire: &'a Cluster,
    source: Option<Source>,
    pid: Option<String>,
    out: &'a Output,
}

impl Guest<'_> {
    /// Runs the guest, and again each time it changes. Without a guest, waits for ever.
    async fn run(mut self, first: &NodeInfo) -> Outcome {
        let Some(mut source) = self.source.take() else {
            return std::future::pending().await;
        };
        loop {
            match source.build(self.out).await {
                Ok(file) => {
                    if let Err(failure) = self.replace(first, &file, &source.args).await {
                        self.complain(failure);
                    }
                }
                Err(failure) => self.complain(failure),
            }
            source.changed().await;
            self.out
                .say(self.out.tone_err(Tone::Dim, "  changed, starting again"));
        }
    }

    async fn replace(&mut self, first: &NodeInfo, file: &Path, args: &[String]) -> Outcome {
        let module = self
            .wire
            .put_module(&names::of_module(file), read_module(file)?)
            .await?;
        if let Some(pid) = self.pid.take() {
            // It may have ended by itself.
            let path = format!("/v1/processes/{pid}");
            let _ = self.wire.delete(first.admin_addr, &path).await;
        }
        let request = request(&module, file, args);
        let spawned: Spawned = self
            .wire
            .post(first.admin_addr, "/v1/processes", &request)
            .await?;
        self.out.say(format_args!(
            "  {} guest         {} {}, {}, runs as {}",
            self.out.tone_err(Tone::Good, "✓"),
            names::of_module(file),
            super::ps::short(&module.hash),
            size(module.size_bytes),
            printable(&spawned.pid)
        ));
        self.pid = Some(spawned.pid);
        Ok(())
    }

    /// A mistake in the guest is no reason to give up the cluster.
    fn complain(&self, failure: Failure) {
        if let Failure::Letter(letter) = failure {
            self.out.letter(&letter);
        }
    }
}

/// Says which daemons end. A lost node is what a cluster is for; returns when none is left.
async fn watch(cluster: &mut LocalCluster, out: &Output) -> Failure {
    loop {
        match cluster.any_end().await {
            (Failure::Letter(letter), true) => {
                out.say(format_args!(
                    "  {} {}",
                    out.tone_err(Tone::Bad, "✕"),
                    letter.message
                ));
            }
            (failure, _) => return failure,
        }
    }
}

/// What guests write, with who wrote it.
async fn print_output(wire: &Cluster, out: &Output) -> Outcome {
    let print = |line: Line<LogLine>| {
        let line = match line {
            Line::Item(line) => line,
            Line::Missed(missed) => return missed.print(out),
        };
        let tone = if line.stream == Stream::Stderr {
            Tone::Warn
        } else {
            Tone::Dim
        };
        let pid = out.tone(tone, &format!("{:<6}", printable(&line.pid)));
        let text = printable(&line.line);
        out.item(&line, &line.pid, &format!("  {pid} {text}"))
    };
    wire.follow(None, "/v1/logs?follow=true", print).await?;
    std::future::pending().await
}

async fn start(
    wire: &Cluster,
    node: &Daemon,
    module: &ModuleInfo,
    file: &Path,
    args: &[String],
) -> Outcome<Spawned> {
    wire.post(
        node.ready.admin_addr,
        "/v1/processes",
        &request(module, file, args),
    )
    .await
}

/// The first process gets what it would get from a shell: arguments, environment, this folder.
fn request(module: &ModuleInfo, file: &Path, args: &[String]) -> SpawnProcess {
    SpawnProcess {
        module: module.hash.clone(),
        program: Some(program_name(file)),
        args: args.to_vec(),
        env: variables().into_iter().collect(),
        // Our daemons were started in this folder.
        preopens: vec![".".to_owned()],
        ..SpawnProcess::default()
    }
}

/// Copies what a daemon writes to our stdout, byte by byte, until it ends.
async fn pass_through(mut from: impl tokio::io::AsyncRead + Unpin, out: Output) -> Outcome {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        out.raw(&buffer[..length])?;
    }
}
