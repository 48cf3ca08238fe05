//! `tidelock completions SHELL`.

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Output, failure::Outcome};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, out: &Output) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut for_people(), "tidelock", &mut script);
        out.raw(&script)
    }
}

/// All commands but those that are for the program itself: the scripts of some shells offer hidden ones, too.
fn for_people() -> Command {
    let all = Cli::command();
    let shown = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    Command::new(all.get_name().to_owned())
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments())
        .subcommands(shown)
}
