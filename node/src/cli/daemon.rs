//! What the daemons have in common: readiness, logging, being asked to stop.

use std::io::IsTerminal;

use clap::Args;
use tidelock_node::config::LogTable;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use super::{
    Output,
    cluster::Ready,
    failure::{Failure, Outcome},
    output::json,
};

/// How a daemon is started by a program of ours.
#[derive(Debug, Args)]
pub(crate) struct Service {
    /// Say on stdout when ready, as one line of JSON
    #[arg(long, hide = true)]
    ready_json: bool,
    /// End when standard input ends
    #[arg(long, hide = true)]
    pub(crate) parent_watch: bool,
}

impl Service {
    /// Says that the daemon is ready to whoever waits for it.
    pub(crate) fn ready(&self, out: &Output, ready: &Ready) -> Outcome {
        if self.ready_json {
            out.print(&json(ready, false))
        } else {
            Ok(())
        }
    }
}

/// Sends logs to stderr, as text to a terminal and as JSON lines to anything else.
pub(crate) fn log(table: &LogTable) -> Outcome {
    let filter = EnvFilter::try_new(&table.filter).map_err(|_| {
        Failure::new(
            "E0003",
            format!("log.filter: {} is not a log filter", table.filter),
        )
    })?;
    let as_json = match table.format.as_str() {
        "auto" => !std::io::stderr().is_terminal(),
        "json" => true,
        "text" => false,
        other => {
            let message = format!("log.format: {other} is none of auto, text, json");
            return Err(Failure::new("E0003", message));
        }
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let set = if as_json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry.with(layer.with_target(false)).try_init()
    };
    set.map_err(|error| Failure::new("E0001", error))
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn asked_to_stop() {
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
