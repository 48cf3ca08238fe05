//! `tidelock config template` and `tidelock config show`.

use clap::Subcommand;
use serde::Serialize;
use tidelock_node::config::{self, Loaded};

use super::{
    Output,
    failure::{Failure, Outcome, plain},
};

/// Show settings and where each came from
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print a complete, commented tidelock.toml with the defaults
    Template,
    /// Print every value with where it came from
    Show,
}

#[derive(Serialize)]
struct Row {
    key: String,
    value: toml::Value,
    origin: String,
}

impl Config {
    pub(crate) fn run(&self, out: &Output) -> Outcome {
        match self {
            Self::Template => out.print(config::template().trim_end()),
            Self::Show => {
                let rows: Vec<Row> = load(&[])?
                    .rows()
                    .into_iter()
                    .map(|(table, key, value, origin)| Row {
                        key: format!("{table}.{key}"),
                        value,
                        origin: origin.to_string(),
                    })
                    .collect();
                out.list(
                    &rows,
                    |row| row.key.clone(),
                    &["KEY", "VALUE", "FROM"],
                    |row| vec![row.key.clone(), row.value.to_string(), row.origin.clone()],
                )
            }
        }
    }
}

/// The settings of this process, flags on top.
pub(crate) fn load(flags: &[(&str, &str, String)]) -> Outcome<Loaded> {
    Loaded::from_process(flags).map_err(|error| {
        Failure::new("E0003", plain(&error))
            .next("tidelock config template", "all names and defaults")
    })
}
