//! Divides what it reads, line by line: `echo 6 3 | cargo run -- --quiet`.
//!
//! Ends with code 3 if a line holds no two numbers.

use std::{env, io, process};

fn main() {
    let quiet = env::args().skip(1).any(|arg| arg == "--quiet");
    let mut answers = 0;
    for line in io::stdin().lines() {
        let line = line.expect("stdin can be read");
        let numbers: Vec<u32> = line.split(' ').flat_map(str::parse).collect();
        let &[a, b] = &numbers[..] else {
            eprintln!("{line:?}: expected two numbers");
            process::exit(3);
        };
        println!("{}", testing::divide(a, b));
        answers += 1;
    }
    if !quiet {
        println!(
            "{answers} answers; arguments {:?}",
            Vec::from_iter(env::args().skip(1))
        );
    }
}
