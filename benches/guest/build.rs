//! How much memory the guests declare: what a process never uses still costs address space.

fn main() {
    // Thousands of these live at once.
    for flag in ["-zstack-size=32768", "--max-memory=16777216"] {
        println!("cargo::rustc-link-arg-bin=many={flag}");
    }
    // Hundreds of thousands of these; below 2 MiB, processes share the kernel's tables.
    for flag in ["-zstack-size=16384", "--max-memory=1048576"] {
        println!("cargo::rustc-link-arg-bin=idle={flag}");
    }
    // Two of these hold messages of 16 MiB.
    println!("cargo::rustc-link-arg-bin=large=--max-memory=268435456");
    println!("cargo::rerun-if-changed=build.rs");
}
