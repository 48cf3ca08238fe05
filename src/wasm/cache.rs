//! Compiled modules on disk, so that a node compiles each module once.
//!
//! ```text
//! <dir>/<engine>/<content hash>.cwasm     native code, as wasmtime wrote it
//!                <content hash>.sum       blake3 of that file
//! ```
//!
//! `<engine>` names the wasmtime version, its settings and the processor's features; `<content hash>` is
//! the hash of the Wasm bytes. Only files that this user wrote are loaded, in a directory which nobody
//! else may write to, and only when their sum agrees: a torn or damaged file is removed and compiled anew.
//! Losing the directory costs time only. Native code never comes from another machine.

#![allow(
    unsafe_code,
    reason = "loading precompiled code is unsafe in wasmtime; the only other unsafe code is in slab.rs"
)]

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tidelock_proto::ModuleHash;

/// Files kept per engine; beyond it the one unused for longest goes.
const FILES_MAX: usize = 512;

/// A directory of compiled modules.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// The name of an engine's settings among the cache's directories.
pub(super) fn key(engine: &wasmtime::Engine) -> String {
    struct Blake(blake3::Hasher);
    impl Hasher for Blake {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut hasher = Blake(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().to_hex()[..16].to_owned()
}

impl Cache {
    /// Opens or makes the directory. None, with a warning, when it is not this user's alone.
    pub(super) fn open(dir: PathBuf) -> Option<Self> {
        match private_dir(&dir) {
            Ok(()) => Some(Self { dir }),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "compiled modules are not kept");
                None
            }
        }
    }

    /// The compiled form of a module, if it was kept and is undamaged.
    pub(super) fn load(
        &self,
        engine: &wasmtime::Engine,
        key: &str,
        hash: &ModuleHash,
    ) -> Option<wasmtime::Module> {
        let (code, sum) = self.paths(key, hash);
        let expected = fs::read(&sum).ok()?;
        let actual = hash_file(&code).ok()?;
        if expected != actual.as_bytes() {
            tracing::warn!(file = %code.display(), "damaged compiled module is removed");
            remove(&code, &sum);
            return None;
        }
        // Worth it because: loading takes a fraction of a millisecond where compiling takes half a second.
        // Sound because: only this user can write here, and the sum says that these are the bytes
        // which `store` got from wasmtime; wasmtime itself checks version and settings.
        match unsafe { wasmtime::Module::deserialize_file(engine, &code) } {
            Ok(module) => {
                // The time of last use, for `make_room`.
                let _ = fs::File::open(&sum).and_then(|f| f.set_modified(SystemTime::now()));
                Some(module)
            }
            Err(error) => {
                tracing::warn!(file = %code.display(), %error, "unusable compiled module is removed");
                remove(&code, &sum);
                None
            }
        }
    }

    /// Keeps a compiled module. A full or read-only disk is not an error: the module is compiled again
    /// next time.
    pub(super) fn store(&self, key: &str, hash: &ModuleHash, module: &wasmtime::Module) {
        let kept = module
            .serialize()
            .map_err(io::Error::other)
            .and_then(|bytes| {
                let (code, sum) = self.paths(key, hash);
                let dir = self.dir.join(key);
                private_dir(&dir)?;
                make_room(&dir)?;
                write_whole(&code, &bytes)?;
                write_whole(&sum, blake3::hash(&bytes).as_bytes())
            });
        if let Err(error) = kept {
            tracing::warn!(dir = %self.dir.display(), %error, "a compiled module is not kept");
        }
    }

    fn paths(&self, key: &str, hash: &ModuleHash) -> (PathBuf, PathBuf) {
        let name: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let dir = self.dir.join(key);
        (
            dir.join(format!("{name}.cwasm")),
            dir.join(format!("{name}.sum")),
        )
    }
}

/// Makes the directory with mode 0700, or checks that nobody else may write to it.
fn private_dir(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(dir)?;
    // Worth it because: std has no call for it.
    // Sound because: geteuid only reads and cannot fail.
    let me = unsafe { libc::geteuid() };
    if !meta.is_dir() || meta.uid() != me || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "the directory must belong to this user alone (mode 0700)",
        ));
    }
    Ok(())
}

fn hash_file(path: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize())
}

fn remove(code: &Path, sum: &Path) {
    let _ = fs::remove_file(sum);
    let _ = fs::remove_file(code);
}

/// Writes a file so that its name never shows half of it, not even after a power cut.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let part = path.with_extension(format!("{}-{count}.part", std::process::id()));
    let written = fs::File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&part, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn make_room(dir: &Path) -> io::Result<()> {
    let mut sums = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "sum") {
            let used = fs::metadata(&path).and_then(|m| m.modified());
            sums.push((used.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    if sums.len() >= FILES_MAX {
        sums.sort();
        for (_, sum) in &sums[..=sums.len() - FILES_MAX] {
            remove(&sum.with_extension("cwasm"), sum);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_damaged_file_is_not_loaded() {
        let dir = temp("cache");
        let cache = Cache::open(dir.clone()).unwrap();
        let engine = wasmtime::Engine::default();
        let key = key(&engine);
        let wasm =
            wat::parse_str(r#"(module (func (export "f") (result i32) i32.const 7))"#).unwrap();
        let hash = ModuleHash(*blake3::hash(&wasm).as_bytes());
        let module = wasmtime::Module::from_binary(&engine, &wasm).unwrap();

        assert!(cache.load(&engine, &key, &hash).is_none());
        cache.store(&key, &hash, &module);
        assert!(cache.load(&engine, &key, &hash).is_some());

        let (code, sum) = cache.paths(&key, &hash);
        for cut in [0, 1, 100] {
            cache.store(&key, &hash, &module);
            let bytes = fs::read(&code).unwrap();
            fs::remove_file(&code).unwrap();
            fs::write(&code, &bytes[..bytes.len() * cut / 101]).unwrap();
            assert!(cache.load(&engine, &key, &hash).is_none());
            assert!(
                !code.exists() && !sum.exists(),
                "removed so that it is compiled anew"
            );
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_others_may_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let dir = temp("cache-open");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(dir.clone()).is_none());
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(Cache::open(link).is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
