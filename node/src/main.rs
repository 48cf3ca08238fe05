//! The `tidelock` command.

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    take_small_pages();
    cli::main()
}

/// Takes memory from the kernel in small pages.
///
/// The allocator asks for huge ones, and the kernel clears all of such a page when its first byte is touched. Messages come and go
/// in all sizes, so the same memory is cleared again and again; `docs/performance.md` has what that costs.
fn take_small_pages() {
    // A kernel that does not know the call gives what it gives.
    #[cfg(target_os = "linux")]
    let _: Result<(), _> = rustix::thread::disable_transparent_huge_pages(true);
}
