//! What the daemons have in common: readiness, logging, being asked to stop.

use std::{fmt::Display, io::IsTerminal, sync::LazyLock};

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

/// How a daemon tells what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// To people, beside its log.
    Plain,
    /// In its log: whoever reads lines of JSON reads nothing else.
    Log,
}

impl Voice {
    pub(crate) fn say(self, out: &Output, text: impl Display) {
        match self {
            Self::Plain => out.say(text),
            Self::Log => tracing::info!("{text}"),
        }
    }
}

/// Sends logs to stderr, as text to a terminal and as JSON lines to anything else.
pub(crate) fn log(table: &LogTable) -> Outcome<Voice> {
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
    set.map_err(|error| Failure::new("E0001", error))?;
    Ok(if as_json { Voice::Log } else { Voice::Plain })
}

/// Waits for Ctrl-C, SIGTERM, or SIGHUP unless whoever started the daemon has that ignored, as `nohup` does.
pub(crate) async fn asked_to_stop() {
    tokio::select! {
        () = asked_again() => {}
        () = comes(SignalKind::hangup()), if !ignores_hangup() => {}
    }
}

/// Waits for Ctrl-C or SIGTERM after [`asked_to_stop`]. A terminal that is closed may send SIGHUP more than once: that
/// asks for one end, and is caught still.
pub(crate) async fn asked_again() {
    tokio::select! {
        () = comes(SignalKind::terminate()) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Waits for a signal; without end if it cannot be waited for.
async fn comes(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Whether SIGHUP was ignored when this program was started; it cannot be told once it was waited for.
fn ignores_hangup() -> bool {
    static IGNORED: LazyLock<bool> = LazyLock::new(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        // The lowest bit is signal 1.
        mask.is_some_and(|mask| mask & 1 == 1)
    });
    *IGNORED
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn a_second_hang_up_ends_nothing_at_once() {
        let mut hung_up = signal(SignalKind::hangup()).unwrap();
        let again = asked_again();
        tokio::pin!(again);
        assert!(futures_util::poll!(&mut again).is_pending());
        raise(Signal::SIGHUP).unwrap();
        hung_up.recv().await.unwrap();
        assert!(futures_util::poll!(&mut again).is_pending());
    }
}
