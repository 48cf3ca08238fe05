//! `tidelock control`: the control plane's daemon.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use tidelock_control::ControlConfig;
use tidelock_node::config::user_state_dir;

use super::{
    Output, cluster,
    cluster::Ready,
    config,
    daemon::{self, Service},
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
        daemon::log(&settings.log)?;
        open_files::warn_if_few();

        let table = settings.control;
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
        out.say(format_args!(
            "control plane of {} on https://{}\n  next: export TIDELOCK_CONTEXT={}\n        \
             tidelock token    to let a node join",
            table.cluster,
            control.control(),
            std::path::absolute(control.operator_dir())?.display()
        ));
        tokio::select! {
            () = daemon::asked_to_stop() => out.say("stopping"),
            failed = control.failed() => failed?,
        }
        control.shutdown().await;
        Ok(())
    }
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
