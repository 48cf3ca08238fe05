//! Files that are there completely or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The mode of files that hold a secret.
pub const SECRET: u32 = 0o600;
/// The mode of files that anybody may read.
pub const PUBLIC: u32 = 0o644;

/// Puts `bytes` at `path` in one step: a reader, or a crash, sees the old content or the new.
///
/// The temporary file is created with its final mode, so a secret is at no moment readable by
/// others.
///
/// # Errors
///
/// The file system's. `path` has the old content, or the new one if only the directory could not be
/// written through: then a crash may bring the old one back. The temporary file is gone.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = dir.join(format!(".{name}.{}.{number}", std::process::id()));

    let written = (|| {
        // A leftover of a crashed process with our id would keep its own mode.
        let _ = fs::remove_file(&temporary);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_dir(dir)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates `dir` and its parents; a new `dir` is its owner's alone.
///
/// # Errors
///
/// The file system's. That `dir` exists already is none.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)?.sync_all()
}
