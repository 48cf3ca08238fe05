//! Rows with large messages: the same program with more memory.

fn main() {
    bench_guest::run();
}
