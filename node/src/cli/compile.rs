//! `tidelock compile-module`: what the node starts to compile in a process with bounds. Not for people.

use std::process::ExitCode;

use clap::Args;

/// What the command is called.
pub(super) const NAME: &str = "compile-module";

#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// As the runtime has written them
    words: Vec<String>,
}

impl Compile {
    pub(crate) fn run(self) -> ExitCode {
        tidelock::compile_apart(&self.words)
    }
}
