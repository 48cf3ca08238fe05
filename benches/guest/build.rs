//! How much memory the guests declare: what a process never uses still costs address space. And the code of the
//! one that is large.

use std::fmt::Write as _;
use std::path::PathBuf;

/// So many functions are a megabyte.
const STEPS: u64 = 3000;

fn main() {
    write_steps();
    // Thousands of these live at once.
    for flag in ["-zstack-size=32768", "--max-memory=16777216"] {
        println!("cargo::rustc-link-arg-bin=many={flag}");
    }
    // Hundreds of thousands of these; below 2 MiB, processes share the kernel's tables. The stack ends a little
    // behind the beginning of a page, and the data goes on from there: three pages for both.
    for flag in ["-zstack-size=12544", "--max-memory=1048576"] {
        println!("cargo::rustc-link-arg-bin=idle={flag}");
    }
    // As many.rs, with a megabyte of code.
    println!("cargo::rustc-link-arg-bin=big=--max-memory=16777216");
    // Two of these hold messages of 16 MiB.
    println!("cargo::rustc-link-arg-bin=large=--max-memory=268435456");
    println!("cargo::rerun-if-changed=build.rs");
}

/// Functions that have nothing in common, so that none is left out.
fn write_steps() {
    let mut code = String::new();
    let mut names = String::new();
    for n in 1..=STEPS {
        let (odd, turn, of) = ((n * 2_654_435_761) | 1, n % 61 + 1, n % 5 + 2);
        // Writing to a String cannot fail.
        let _ = writeln!(
            code,
            "fn step{n}(mut x: u64) -> u64 {{
                for round in 0..x % {of} {{
                    x = x.wrapping_mul({odd}).rotate_left({turn}) ^ round;
                    match x % {of} {{
                        0 => x ^= {odd} << 3,
                        1 => x = x.wrapping_add(x / {n}).reverse_bits(),
                        _ => x = x.swap_bytes().wrapping_sub(x % {n}),
                    }}
                }}
                x
            }}"
        );
        let _ = write!(names, "step{n},");
    }
    let _ = writeln!(code, "static STEPS: [fn(u64) -> u64; {STEPS}] = [{names}];");
    let folder = std::env::var_os("OUT_DIR").expect("cargo says where");
    let file = PathBuf::from(folder).join("steps.rs");
    std::fs::write(file, code).expect("the folder can be written");
}
