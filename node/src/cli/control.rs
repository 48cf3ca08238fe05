//! `tidelock control`: the control plane's daemon.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use tidelock_control::ControlConfig;
use tidelock_node::config::user_state_dir;

use super::{
    Output, cluster,
    cluster::Ready,
    config,
    daemon::{self, Service, Voice},
    failure::{Failure, Outcome},
    open_files,
};

/// Keep the books of a cluster: who is in it, and its modules
///
/// Makes the cluster's authority at the first start and writes an operator's credentials into the
/// folder `operator` of the state directory. Running processes do not depend on it.
#[derive(Debug, Args)]
pub(crate) struct Control {
    /// TCP address for nodes and operators
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Host and port that others reach it at, if that is not the address above
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where the authority's key and the books are kept
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The cluster's name; fixed when the authority is made
    #[arg(long)]
    cluster: Option<String>,
    /// How long a node may be silent before it is listed as lost, in milliseconds
    #[arg(long, value_name = "MS")]
    lease_ms: Option<u64>,
    #[command(flatten)]
    service: Service,
    /// When the parent is gone, remove this directory
    #[arg(long, hide = true, requires = "parent_watch")]
    remove_on_orphan: Option<PathBuf>,
}

impl Control {
    pub(crate) async fn run(self, out: &Output) -> Outcome {
        if self.service.parent_watch {
            cluster::end_with_parent(self.remove_on_orphan.clone());
        }
        let mut flags = Vec::new();
        let mut flag = |key, value: Option<String>| {
            flags.extend(value.map(|value| ("control", key, value)));
        };
        flag("listen", self.listen.map(|addr| addr.to_string()));
        flag("advertise", self.advertise);
        flag(
            "state_dir",
            self.state_dir.map(|dir| dir.display().to_string()),
        );
        flag("cluster", self.cluster);
        flag("lease_ms", self.lease_ms.map(|ms| ms.to_string()));
        let settings = config::load(&flags)?.settings;
        let voice = daemon::log(&settings.log)?;
        open_files::warn_if_few();

        let table = settings.control;
        if !table.advertise.is_empty() && !is_host_and_port(&table.advertise) {
            let message = format!(
                "control.advertise: {}: host:port is expected",
                table.advertise
            );
            return Err(Failure::new("E0003", message));
        }
        let state_dir = state_dir(&table.state_dir, "control")?;
        let mut control = tidelock_control::serve(ControlConfig {
            listen: table.listen,
            advertise: Some(table.advertise).filter(|address| !address.is_empty()),
            lease: Duration::from_millis(table.lease_ms),
            ..ControlConfig::new(&table.cluster, state_dir)
        })
        .await
        .map_err(|error| Failure::new("E0043", "the control plane cannot start").detail(error))?;
        let ready = Ready {
            ready: "control".to_owned(),
            addr: control.addr(),
            admin_addr: control.addr(),
            operator: Some(control.operator_dir().to_owned()),
        };
        self.service.ready(out, &ready)?;
        let operator = std::path::absolute(control.operator_dir())?;
        let (cluster, address) = (&table.cluster, control.control());
        match voice {
            Voice::Plain => out.say(format_args!(
                "control plane of {cluster} on https://{address}\n  next: export TIDELOCK_CONTEXT={}\n        \
                 tidelock token    to let a node join",
                operator.display()
            )),
            Voice::Log => tracing::info!(
                operator = %operator.display(),
                "control plane of {cluster} on https://{address}"
            ),
        }
        tokio::select! {
            () = daemon::asked_to_stop() => voice.say(out, "stopping"),
            failed = control.failed() => failed?,
        }
        control.shutdown().await;
        Ok(())
    }
}

/// Whether others can be told to connect to it; the colons of an IPv6 address stand in brackets.
fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let port = port.parse::<u16>();
        let is_host = !host.is_empty() && host.contains(':') == host.starts_with('[');
        is_host && port.is_ok_and(|port| port > 0)
    })
}

/// The directory that was set, or a folder of the user's.
pub(super) fn state_dir(set: &str, name: &str) -> Outcome<PathBuf> {
    if !set.is_empty() {
        return Ok(PathBuf::from(set));
    }
    user_state_dir().map(|dir| dir.join(name)).ok_or_else(|| {
        Failure::new(
            "E0003",
            "there is no folder to keep state in, since HOME is not set",
        )
        .next("--state-dir DIR", "names one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_has_a_port() {
        for good in ["control.example:7700", "10.0.0.1:1", "[fd00::1]:7700"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "noport",
            "a:",
            ":1",
            "a:0",
            "a:70000",
            "fd00::1",
            "[fd00::1]",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }
}
