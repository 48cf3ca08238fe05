//! All rows, in a module of a megabyte: what a program with some libraries has.
//!
//! The build script writes the code, a function for each number; it runs for nobody.

#![allow(
    clippy::all,
    reason = "most of it is written by the build script, for its size alone"
)]

include!(concat!(env!("OUT_DIR"), "/steps.rs"));

fn main() {
    // Always the case, but the compiler cannot know.
    if std::env::args().len() > 0 {
        return bench_guest::run();
    }
    let all: u64 = STEPS.iter().map(|step| step(7)).sum();
    println!("{all}");
}
