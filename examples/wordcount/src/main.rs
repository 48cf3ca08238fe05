//! Counts the words of files on all nodes of a cluster, and stays exact while nodes die.
//!
//! One coordinator reads the text and deals it out in chunks to linked workers on the other
//! nodes. A worker answers each chunk with its counts. When a worker ends, the coordinator
//! receives one notice, spawns another in its place on a node that is left, and deals the
//! chunks that worker had not answered again. A chunk is counted when its answer arrives,
//! and only while it is outstanding, so each counts once.
//!
//! Stdout is one JSON object a line; see [`report`].

mod arguments;
mod coordinator;
mod count;
mod report;
mod text;
mod wire;
mod worker;

use std::process::exit;

use coordinator::Failure;

fn main() {
    let options = match arguments::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(fault) => {
            report::error(&fault);
            eprintln!("{}", arguments::USAGE);
            exit(2);
        }
    };
    match coordinator::run(&options) {
        Ok(()) => {}
        Err(Failure::NobodyLost) => {
            report::error(&format!(
                "no worker was lost within {} s of holding",
                options.hold_timeout.as_secs()
            ));
            exit(3);
        }
        Err(Failure::Other(fault)) => {
            report::error(&fault);
            exit(1);
        }
    }
}
