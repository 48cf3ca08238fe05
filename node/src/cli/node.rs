//! `tidelock node`: the daemon that runs guests.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tidelock::Stdio;
use tidelock_certs::{Identity, JoinToken, check_name};
use tidelock_control::{api::codes, client::ClientError};
use tidelock_node::{NodeConfig, StartError, config::Settings};

use super::{
    Output, cluster,
    cluster::Ready,
    config,
    connect::no_control,
    control::state_dir,
    daemon::{self, Service},
    failure::{Exit, Failure, Outcome, plain},
    names, open_files,
    run::{CompiledFor, engine},
};

/// Run guests as part of a cluster
///
/// The first start needs a token, made with `tidelock token`, in TIDELOCK_TOKEN or --token; later ones
/// use the identity saved in the state directory. Ctrl-C leaves the cluster in good order, twice ends
/// at once. A node that control has given up, or an operator has removed, ends with exit code 5.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Host and port of the control plane
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// A token that lets it join; better given in the environment, where `ps` does not show it
    #[arg(long, env = "TIDELOCK_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The stable name; that of the saved identity, or one made of the machine's host name, if left out
    #[arg(long)]
    name: Option<String>,
    /// UDP address for other nodes
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// TCP address for operators
    #[arg(long = "admin", value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// The address that others reach it by, if that is not where it listens
    #[arg(long, value_name = "IP")]
    advertise: Option<IpAddr>,
    /// What guests find it by, such as `region=eu&gpu=yes`
    #[arg(long, value_name = "TAGS")]
    tags: Option<String>,
    /// Where key, certificate and modules are kept
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How long a peer may be silent, in milliseconds
    #[arg(long, value_name = "MS")]
    lease_ms: Option<u64>,
    /// The most nodes of a cluster in which each opens a session with each at once
    #[arg(long, value_name = "NODES")]
    mesh_max: Option<u64>,
    /// What modules are compiled for
    #[arg(long, value_name = "PROFILE", value_enum)]
    profile: Option<CompiledFor>,
    /// Whether guests write to the daemon's own stdout and stderr
    #[arg(long, hide = true)]
    guest_output: bool,
    #[command(flatten)]
    service: Service,
}

impl Node {
    pub(crate) async fn run(self, out: &Output) -> Outcome<u8> {
        if self.service.parent_watch {
            cluster::end_with_parent(None);
        }
        let settings = config::load(&self.flags())?.settings;
        let voice = daemon::log(&settings.log)?;
        open_files::warn_if_few();
        let config = self.node_config(&settings)?;
        warn_if_out_of_reach(&config);
        let (name, control) = (config.name.clone(), config.control.clone());
        let started = tokio::select! {
            started = tidelock_node::Node::start(config) => started,
            () = daemon::asked_to_stop() => return Ok(Exit::Interrupted as u8),
        };
        let node = started.map_err(|error| cannot_start(&name, &control, &error))?;
        let ready = Ready {
            ready: node.id().to_string(),
            addr: node.addr(),
            admin_addr: node.admin_addr(),
            operator: None,
        };
        self.service.ready(out, &ready)?;
        voice.say(
            out,
            format_args!(
                "{} ({}) joined by way of {control}; nodes at {}, operators at {}",
                ready.ready,
                node.name(),
                ready.addr,
                ready.admin_addr
            ),
        );
        tokio::select! {
            () = daemon::asked_to_stop() => {}
            () = node.stopped() => {
                return match node.given_up() {
                    Some(why) => Err(given_up(&ready.ready, node.name(), why)),
                    // Drained by an operator.
                    None => Ok(0),
                };
            }
        }
        voice.say(out, "leaving; once more ends at once");
        tokio::select! {
            () = node.leave() => Ok(0),
            () = daemon::asked_again() => Ok(Exit::Interrupted as u8),
        }
    }

    fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut flags = Vec::new();
        let mut flag = |key, value: Option<String>| {
            flags.extend(value.map(|value| ("node", key, value)));
        };
        flag("control", self.join.clone());
        flag("name", self.name.clone());
        flag("listen", self.listen.map(|addr| addr.to_string()));
        flag(
            "admin_listen",
            self.admin_listen.map(|addr| addr.to_string()),
        );
        flag("tags", self.tags.clone());
        flag("advertise", self.advertise.map(|addr| addr.to_string()));
        flag(
            "state_dir",
            self.state_dir.as_ref().map(|dir| dir.display().to_string()),
        );
        let profile = self.profile.and_then(|profile| profile.to_possible_value());
        flag("profile", profile.map(|value| value.get_name().to_owned()));
        flag("lease_ms", self.lease_ms.map(|ms| ms.to_string()));
        flag("mesh_max", self.mesh_max.map(|nodes| nodes.to_string()));
        flags
    }

    fn node_config(&self, settings: &Settings) -> Outcome<NodeConfig> {
        let table = &settings.node;
        let state_dir = state_dir(&table.state_dir, "node")?;
        let name = match table.name.as_str() {
            "" => match Identity::load(&state_dir.join("identity")) {
                Ok(saved) => saved.name().name.clone(),
                Err(_) => host_name()?,
            },
            name => name.to_owned(),
        };
        let wrong = |key: &str, error: &dyn std::fmt::Display| {
            Failure::new("E0003", format!("node.{key}: {error}"))
        };
        let token = self.token.as_deref().filter(|token| !token.is_empty());
        let token: Option<JoinToken> = token
            .map(str::parse)
            .transpose()
            .map_err(|error| Failure::new("E0002", format!("--token: {error}")))?;
        let advertise = Some(table.advertise.as_str()).filter(|address| !address.is_empty());
        let mut config = NodeConfig::new(name, table.control.clone());
        config.listen = table.listen;
        config.admin_listen = table.admin_listen;
        config.advertise = advertise
            .map(str::parse)
            .transpose()
            .map_err(|error: std::net::AddrParseError| wrong("advertise", &error))?;
        config.tags = table.tags.parse().map_err(|error| wrong("tags", &error))?;
        config.token = token;
        config.state_dir = Some(state_dir);
        config.lease = Duration::from_millis(table.lease_ms);
        let kept = |lines: u64| usize::try_from(lines).unwrap_or(usize::MAX);
        config.mesh_max = kept(table.mesh_max);
        config.kept_max = (
            kept(settings.log.events_max),
            kept(settings.log.output_lines_max),
        );
        let profile = CompiledFor::from_str(&table.profile, false)
            .expect("it was checked when the settings were loaded");
        config.environment.engine = engine(profile)?;
        if self.guest_output {
            config.environment.stdio = Stdio::Inherit;
        }
        let limits = &mut config.environment.limits;
        let set = |limit: &mut usize, value: u64| *limit = kept(value);
        set(&mut limits.processes_max, settings.limits.processes_max);
        set(&mut limits.mailbox_len_max, settings.limits.mailbox_len_max);
        set(
            &mut limits.mailbox_bytes_max,
            settings.limits.mailbox_bytes_max,
        );
        set(
            &mut limits.message_bytes_max,
            settings.limits.message_bytes_max,
        );
        let remote = settings.node.remote_preopens.split(':');
        let remote = remote.filter(|dir| !dir.is_empty()).map(PathBuf::from);
        limits.remote_preopens = remote.collect();
        let after = Duration::from_millis(settings.node.hibernate_after_ms);
        limits.hibernate_after = Some(after).filter(|after| !after.is_zero());
        Ok(config)
    }
}

/// A node's name that is made of the machine's: that has other letters, and may be longer.
fn host_name() -> Outcome<String> {
    let host = nix::unistd::gethostname().unwrap_or_default();
    named_after(&host.to_string_lossy())
}

fn named_after(host: &str) -> Outcome<String> {
    names::proper(host, |name| check_name(name).is_ok()).ok_or_else(|| {
        Failure::new("E0003", "this machine has no usable host name")
            .next("--name NAME", "names it")
    })
}

/// Warns of a node that control on another machine would list with an address of this machine alone.
fn warn_if_out_of_reach(config: &NodeConfig) {
    let listens = [config.listen.ip(), config.admin_listen.ip()];
    let mut reached_by = listens.map(|ip| config.advertise.unwrap_or(ip)).into_iter();
    if let Some(addr) = reached_by.find(IpAddr::is_loopback)
        && !is_loopback(&config.control)
    {
        tracing::warn!(
            %addr,
            "no other machine can reach this node: give --listen and --admin an address that others know, or --advertise"
        );
    }
}

/// Whether `host:port` is on this machine, as far as its text tells.
fn is_loopback(control: &str) -> bool {
    let control = control.strip_prefix("https://").unwrap_or(control);
    let host = control.rsplit_once(':').map_or(control, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn given_up(id: &str, name: &str, why: &str) -> Failure {
    let message = format!("{id} ({name}) is not in the cluster any more");
    Failure::new("E1008", message).detail(why)
}

fn cannot_start(name: &str, control: &str, error: &StartError) -> Failure {
    let with_token = |failure: Failure, why: &str| failure.next("tidelock token", why);
    match error {
        StartError::Join(ClientError::Refused { body, .. }) => {
            let told = Failure::new(&body.code, &body.message);
            match body.code.as_str() {
                codes::TOKEN_REFUSED => with_token(told, "makes a new one, if this one is spent"),
                // It was removed, or its certificate has run out: a token lets it in anew.
                codes::NOT_PERMITTED => with_token(told, "makes one, to join anew with"),
                _ => told,
            }
        }
        StartError::Join(client @ ClientError::Unreachable { .. }) => {
            no_control(control).detail(client)
        }
        StartError::Join(ClientError::Usage(why)) => {
            let told = Failure::new("E0003", format!("node.control: {why}"));
            match control.contains(':') {
                true => told,
                false => told.next(
                    format!("tidelock node --join {control}:7700"),
                    "if control listens at its usual port",
                ),
            }
        }
        StartError::NoAddress { .. } => Failure::new("E0003", error),
        StartError::NoIdentity { .. } => {
            let message = format!("{name} has never joined, and has no token");
            let told = Failure::new("E0014", message).detail(plain(error));
            with_token(told, "makes one, where an operator's credentials are")
        }
        other => Failure::new("E0043", format!("{name} cannot start")).detail(plain(other)),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;
    use tidelock_node::config::{Loaded, PROFILES};

    use super::*;

    #[test]
    fn a_node_without_a_name_gets_a_proper_one_of_its_machines() {
        assert_eq!(named_after("Web 1.Example").unwrap(), "web-1.example");
        check_name(&named_after(&"X-".repeat(40)).unwrap()).unwrap();
        let Err(Failure::Letter(letter)) = named_after("...") else {
            panic!("nothing of it can stand in a name");
        };
        assert_eq!(letter.next[0].command, "--name NAME");
    }

    #[test]
    fn a_setting_from_a_flag_names_the_flag() {
        let command = Node::augment_args(clap::Command::new("node"));
        let args = "node --join a:1 --name a --listen 127.0.0.1:1 --admin 127.0.0.1:2 \
                    --advertise 127.0.0.1 --tags a=b --state-dir a --lease-ms 200 --mesh-max 3 \
                    --profile dense";
        let matches = command
            .clone()
            .try_get_matches_from(args.split_whitespace());
        let node = Node::from_arg_matches(&matches.unwrap()).unwrap();
        let flags = node.flags();
        assert_eq!(flags.len(), 10);
        let loaded = Loaded::load(&[], &|_: &str| None, &flags).unwrap();
        let known: Vec<String> = command
            .get_arguments()
            .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
            .collect();
        for (table, key, value) in &flags {
            let flag = loaded.origin(table, key).to_string();
            assert!(known.contains(&flag), "{table}.{key}: {flag}");
            let given = format!("{flag} {}", value.to_string().trim_matches('"'));
            assert!(args.contains(&given), "{table}.{key}: {given}");
        }
    }

    #[test]
    fn the_settings_know_every_profile() {
        let all = CompiledFor::value_variants().iter();
        let names = all.filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|value| value.get_name().to_owned()).collect();
        assert_eq!(names, PROFILES);
    }

    #[test]
    fn an_address_of_this_machine_alone_is_known() {
        for here in [
            "127.0.0.1:7700",
            "localhost:1",
            "[::1]:7700",
            "https://127.9.9.9:1",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["10.0.0.1:7700", "control.example:7700", "[fd00::1]:7700"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
