//! How much memory the two guests declare: what a process never uses still costs address space.

fn main() {
    // Thousands of these live at once.
    for flag in ["-zstack-size=32768", "--max-memory=16777216"] {
        println!("cargo::rustc-link-arg-bin=many={flag}");
    }
    // Two of these hold messages of 16 MiB.
    println!("cargo::rustc-link-arg-bin=large=--max-memory=268435456");
    println!("cargo::rerun-if-changed=build.rs");
}
