//! `tidelock modules`.

use std::cmp::Reverse;

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
        let mut modules = cluster.modules().await?;
        // By name; then what no name stands for any more, the latest first.
        modules.sort_by_key(|module| {
            let name = module.names.first().cloned();
            (name.is_none(), name, Reverse(module.deployed()))
        });
        if modules.is_empty() {
            out.nothing("modules");
        }
        out.list(
            &modules,
            |module| module.hash.clone(),
            &["HASH", "NAME", "SIZE", "DEPLOYED"],
            |module| {
                vec![
                    short(&module.hash).to_owned(),
                    module.names.join(" "),
                    size(module.size_bytes),
                    ago(module.deployed()),
                ]
            },
        )
    }
}
