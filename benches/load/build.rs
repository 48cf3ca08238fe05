//! How much memory the guest declares.

fn main() {
    // Two of the largest messages, and room to handle them.
    println!("cargo::rustc-link-arg-bins=--max-memory=268435456");
    println!("cargo::rustc-link-arg-bins=-zstack-size=65536");
    println!("cargo::rerun-if-changed=build.rs");
}
