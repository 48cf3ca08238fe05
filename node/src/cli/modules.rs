//! `tidelock modules`.

use clap::Args;

use super::{
    Output,
    connect::Cluster,
    failure::Outcome,
    output::{ago, size},
    ps::short,
};

/// List the modules that the cluster holds
#[derive(Debug, Args)]
pub(crate) struct Modules {}

impl Modules {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let modules = cluster.modules().await?;
        if modules.is_empty() {
            out.nothing("modules");
        }
        out.list(
            &modules,
            |module| module.hash.clone(),
            &["HASH", "NAME", "SIZE", "ADDED"],
            |module| {
                vec![
                    short(&module.hash).to_owned(),
                    module.name.clone().unwrap_or_default(),
                    size(module.size_bytes),
                    ago(module.added_at),
                ]
            },
        )
    }
}
