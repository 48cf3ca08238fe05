//! `tidelock deploy FILE`.

use std::path::PathBuf;

use clap::Args;

use super::{
    Output,
    connect::Cluster,
    failure::Outcome,
    output::size,
    run::{module_name, read_module},
};

/// Give the cluster a module; prints its hash
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// A .wasm or .wat file
    file: PathBuf,
    /// The name to deploy it under; the file's if left out
    #[arg(long)]
    name: Option<String>,
}

impl Deploy {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let bytes = read_module(&self.file)?;
        let name = self.name.clone().unwrap_or_else(|| module_name(&self.file));
        let module = cluster.put_module(&name, bytes).await?;
        out.one(&module, &module.hash, &module.hash)?;
        if !out.machine() {
            out.say(format_args!(
                "{name}, {}\n  next: tidelock spawn {name}    start a process of it",
                size(module.size_bytes)
            ));
        }
        Ok(())
    }
}
