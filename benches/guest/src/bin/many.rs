//! Rows with many processes, and all others.

fn main() {
    bench_guest::run();
}
