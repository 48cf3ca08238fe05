//! Whoever is measured beside Tidelock: how each is built, and how one row is run in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::program::{self, Figures};
use crate::rows::{Peer, Place};
use crate::{output, root};

/// All peers that this machine can run, and why it cannot run the others.
pub(crate) struct Peers {
    erlang: Result<Erlang, String>,
    /// The folder of the drivers in Rust.
    rust: Result<PathBuf, String>,
}

impl Peers {
    /// Builds whom the flags do not leave out.
    pub(crate) fn build(no_erlang: bool, no_rust: bool) -> Self {
        let left_out = || "left out".to_owned();
        let said = |error: anyhow::Error| format!("{error:#}");
        Peers {
            erlang: match no_erlang {
                true => Err(left_out()),
                false => Erlang::build().map_err(said),
            },
            rust: match no_rust {
                true => Err(left_out()),
                false => build_rust().map_err(said),
            },
        }
    }

    /// Runs one row. `guests` is the folder with the guest that plain wasmtime runs.
    ///
    /// # Errors
    ///
    /// The peer is not there, or its work was not complete.
    pub(crate) fn run(
        &self,
        peer: Peer,
        row: &str,
        place: Place,
        guests: &Path,
    ) -> Result<Figures> {
        let erlang = || self.erlang.as_ref().map_err(|why| anyhow::anyhow!("{why}"));
        let rust = |name: &str| match &self.rust {
            Ok(folder) => Ok(Command::new(folder.join(name))),
            Err(why) => bail!("{why}"),
        };
        match peer {
            Peer::Erlang => erlang()?.run(row, place, false),
            Peer::ErlangTls => erlang()?.run(row, place, true),
            Peer::Ractor | Peer::Kameo => {
                let mut command = rust(peer.name())?;
                command.arg(row);
                program::run(command)
            }
            Peer::Plain => {
                let mut command = rust(peer.name())?;
                command.arg(guests.join("kernels.wasm")).arg(row);
                program::run(command)
            }
        }
    }
}

/// A workspace of its own, so that nobody else has to compile what they depend on.
fn build_rust() -> Result<PathBuf> {
    let target = root().join("target/peers");
    let mut build = Command::new("cargo");
    build
        .args(["build", "--release", "--locked"])
        .current_dir(root().join("benches/peers"))
        .env("CARGO_TARGET_DIR", &target);
    output(&mut build)?;
    Ok(target.join("release"))
}

/// Erlang's driver, compiled, with a name server of its own.
struct Erlang {
    code: PathBuf,
    names: Child,
    port: String,
    /// The file that says how its nodes speak TLS.
    tls: Result<PathBuf, String>,
}

impl Erlang {
    fn build() -> Result<Self> {
        let code = root().join("target/bench-erlang");
        std::fs::create_dir_all(&code)?;
        output(
            Command::new("erlc")
                .arg("-o")
                .arg(&code)
                .arg(root().join("benches/erlang/bench.erl")),
        )?;
        let tls = certificates(&code.join("tls")).map_err(|error| format!("{error:#}"));
        let port = (24_000 + std::process::id() % 4_000).to_string();
        let names = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &port])
            .stdin(Stdio::null())
            .spawn()
            .context("starting epmd")?;
        Ok(Self {
            code,
            names,
            port,
            tls,
        })
    }

    fn run(&self, row: &str, place: Place, tls: bool) -> Result<Figures> {
        let mut command = Command::new("erl");
        command
            .args(["-noshell", "+P", "2000000", "-start_epmd", "false"])
            .arg("-pa")
            .arg(&self.code)
            .env("ERL_EPMD_PORT", &self.port)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        if matches!(place, Place::Two | Place::TwoLarge) {
            let name = format!("bench{}@127.0.0.1", std::process::id());
            command
                .args(["-name", &name, "-kernel", "logger_level", "critical"])
                .args(["-setcookie", &format!("bench{}", std::process::id())]);
        }
        if tls {
            let options = self.tls.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
            // The second node is started by the first, with the same flags.
            let flags = format!(
                "-proto_dist inet_tls -ssl_dist_optfile {}",
                options.display()
            );
            command.args(flags.split(' ')).env("BENCH_FLAGS", &flags);
        }
        command.args(["-run", "bench", "main", row]);
        program::run(command)
    }
}

impl Drop for Erlang {
    fn drop(&mut self) {
        // It serves this run only.
        let _ = self.names.kill();
        let _ = self.names.wait();
    }
}

/// An authority and one certificate for both nodes, for this run; both sides ask for the other's.
fn certificates(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let steps = [
        format!("req -x509 {curve} -days 2 -subj /CN=bench-authority -keyout ca.key -out ca.pem"),
        format!("req {curve} -subj /CN=bench-node -keyout node.key -out node.csr"),
        "x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out node.pem"
            .into(),
    ];
    // OTP compares the name of the node's host with these.
    std::fs::write(
        folder.join("names"),
        "subjectAltName=IP:127.0.0.1,DNS:127.0.0.1\n",
    )?;
    for step in &steps {
        output(
            Command::new("openssl")
                .args(step.split(' '))
                .current_dir(folder),
        )?;
    }
    let file = |name: &str| folder.join(name).display().to_string();
    let common = format!(
        "{{certfile, \"{}\"}}, {{keyfile, \"{}\"}}, {{cacertfile, \"{}\"}}, {{verify, verify_peer}}, {{versions, ['tlsv1.3']}}",
        file("node.pem"),
        file("node.key"),
        file("ca.pem")
    );
    let options = folder.join("options");
    let text = format!(
        "[{{server, [{common}, {{fail_if_no_peer_cert, true}}]}},\n {{client, [{common}, {{server_name_indication, disable}}]}}].\n"
    );
    std::fs::write(&options, text)?;
    Ok(options)
}

/// What each peer that a row names has done, or why it has not.
pub(crate) type Done = BTreeMap<Peer, Vec<Result<Figures>>>;
