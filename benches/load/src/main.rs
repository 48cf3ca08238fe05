//! Operations at a given rate, for `tidelock bench`: each is measured from the moment it was due.
//!
//! One director starts lanes, each a process of its own with a partner on the node that was named, tells
//! them all when to begin, and adds up what they measured. A lane that is behind its rate goes on with what
//! was due first, so an operation that had to wait for an earlier one counts with that waiting. Measuring from
//! the moment of sending would leave it out, which Gil Tene calls coordinated omission.
//!
//! Nothing is measured that was not done: numbers and sizes of messages, their order, the pids of children
//! and the ends of links are checked, and what did not come back is counted as lost.
//!
//! Stdout is one JSON object a line; see [`report`].

mod call;
mod director;
mod link;
mod message;
mod pace;
mod plan;
mod report;
mod spawn;
mod wire;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = plan::parse(&words).and_then(|plan| director::run(&plan));
    if let Err(why) = outcome {
        report::error(&why);
        std::process::exit(1);
    }
}
