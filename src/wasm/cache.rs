//! Compiled modules on disk, so that a node compiles each module once.
//!
//! ```text
//! <dir>/<engine>/<content hash>.cwasm     native code, as wasmtime wrote it
//!                <content hash>.sum       blake3 of both: the name, then that file
//! ```
//!
//! `<engine>` names the wasmtime version, its settings and the processor's features; `<content hash>` is
//! the hash of the Wasm bytes. Only files that this user wrote are loaded, in a directory which nobody
//! else may write to, and only when their sum agrees: a torn or damaged file, one that was compiled from
//! another module, and whatever else stands under the name is removed, and the module compiled anew. One that cannot be read
//! just now stays. There are bounds of files and bytes, and what was unused for longest goes first.
//! Losing the directory costs time only. Native code never comes from another machine.

#![allow(
    unsafe_code,
    reason = "loading precompiled code is unsafe in wasmtime; tests/tidy.rs lists all files with unsafe code"
)]

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tidelock_proto::ModuleHash;

/// Files kept per engine; beyond it the one unused for longest goes.
const FILES_MAX: usize = 512;
/// Bytes of native code kept of all engines together; beyond it as above.
const BYTES_MAX: u64 = 4 << 30;
/// The code of an engine that was not used for so long goes: that of another version or processor.
const ENGINE_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// No file takes as long to be written.
const PART_AGE_MAX: Duration = Duration::from_secs(3600);

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
    hasher.write(super::rewrite::VERSION);
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
        match load(engine, hash, &code, &sum) {
            Ok(module) => Some(module),
            // Never kept, or dropped for others.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %code.display(), %error, "a kept module is compiled anew");
                if !is_passing(&error) {
                    remove(&code);
                    remove(&sum);
                }
                None
            }
        }
    }

    /// Keeps the code of a compiled module. A full or read-only disk is not an error: the module is compiled again
    /// next time.
    pub(super) fn store(&self, key: &str, hash: &ModuleHash, native: &[u8]) {
        let keep = || -> io::Result<()> {
            let (code, sum) = self.paths(key, hash);
            let dir = self.dir.join(key);
            private_dir(&dir)?;
            make_room(&self.dir, key, native.len() as u64, &Bounds::default())?;
            write_whole(&code, native)?;
            write_whole(&sum, sum_of(hash, native)?.as_bytes())
        };
        if let Err(error) = keep() {
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
    if !meta.is_dir() || !is_ours(&meta) {
        return Err(io::Error::other(
            "the directory must belong to this user alone (mode 0700)",
        ));
    }
    Ok(())
}

/// Whether this user has it, and nobody else may write to it.
fn is_ours(meta: &fs::Metadata) -> bool {
    // Worth it because: std has no call for it.
    // Sound because: geteuid only reads and cannot fail.
    let me = unsafe { libc::geteuid() };
    meta.uid() == me && meta.mode() & 0o022 == 0
}

fn load(
    engine: &wasmtime::Engine,
    hash: &ModuleHash,
    code: &Path,
    sum: &Path,
) -> io::Result<wasmtime::Module> {
    let mut sum = open(sum)?;
    let mut expected = Vec::new();
    (&mut sum).take(64).read_to_end(&mut expected)?;
    let code = open(code)?;
    if expected != sum_of(hash, &code)?.as_bytes() {
        return Err(io::Error::other("its sum does not agree"));
    }
    // Worth it because: loading takes a fraction of a millisecond where compiling takes half a second.
    // Sound because: only this user can write here, and the sum says that these are the bytes which
    // `store` got from wasmtime for this very module; wasmtime itself checks version and settings.
    let module = unsafe { wasmtime::Module::deserialize_open_file(engine, code) };
    let module = module.map_err(|error| match error.downcast_ref::<rustix::io::Errno>() {
        Some(&errno) => io::Error::from(errno),
        None => io::Error::other(format!("{error:#}")),
    })?;
    // The time of last use, for `make_room`. A directory that became read-only is as good.
    let _ = sum.set_modified(SystemTime::now());
    Ok(module)
}

/// Loads what this process, or another one of this program, has just compiled.
pub(super) fn load_compiled(
    engine: &wasmtime::Engine,
    native: &[u8],
) -> wasmtime::Result<wasmtime::Module> {
    // Worth it because: only another process can be held to bounds of time and memory.
    // Sound because: the bytes are what wasmtime gave, here or in a process that this one has started, of this very
    // program, which wrote them to a pipe; wasmtime itself checks version and settings.
    unsafe { wasmtime::Module::deserialize(engine, native) }
}

/// Opens a file of this user, and nothing else: a link could lead anywhere, and a pipe never ends.
fn open(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || !is_ours(&meta) {
        return Err(io::Error::other("it is no file of this user alone"));
    }
    Ok(file)
}

/// Whether the system could not read a file just now, whatever is in it.
fn is_passing(error: &io::Error) -> bool {
    const PASSING: [i32; 7] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::EIO,
        libc::EAGAIN,
        libc::EINTR,
        libc::ESTALE,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| PASSING.contains(&code))
}

/// What is kept beside native code: it changes with the code, and with the module it was made of.
fn sum_of(hash: &ModuleHash, mut code: impl Read) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&hash.0);
    io::copy(&mut code, &mut hasher)?;
    Ok(hasher.finalize())
}

/// Removes whatever has this name; nobody else may have put anything here.
fn remove(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

/// Writes a file so that its name never shows half of it, not even after a power cut.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let part = path.with_extension(format!("{}-{count}.part", std::process::id()));
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()?;
        if path.is_dir() {
            remove(path);
        }
        fs::rename(&part, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// What a directory of compiled modules may hold.
struct Bounds {
    files: usize,
    bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            files: FILES_MAX,
            bytes: BYTES_MAX,
        }
    }
}

/// One module's code.
struct Kept {
    used: SystemTime,
    bytes: u64,
    sum: PathBuf,
}

impl Kept {
    fn remove(&self) {
        remove(&self.sum);
        remove(&self.sum.with_extension("cwasm"));
    }
}

/// Makes room for the code of one more module of the engine with this key.
fn make_room(dir: &Path, key: &str, bytes: u64, bounds: &Bounds) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.ends_with(key) {
            let mut own = kept(&path)?;
            let over = (own.len() + 1).saturating_sub(bounds.files);
            own.drain(..over).for_each(|oldest| oldest.remove());
            all.append(&mut own);
        } else if is_engines(&path)
            && let Ok(mut others) = kept(&path)
        {
            let is_old = |kept: &Kept| kept.used.elapsed().is_ok_and(|age| age > ENGINE_AGE_MAX);
            let newest_is_old = others.last().is_none_or(is_old);
            if newest_is_old && age(&path) > ENGINE_AGE_MAX {
                remove(&path);
            } else {
                all.append(&mut others);
            }
        }
    }
    all.sort_by_key(|kept| kept.used);
    let mut held: u64 = all.iter().map(|kept| kept.bytes).sum();
    for oldest in all {
        if held.saturating_add(bytes) <= bounds.bytes {
            break;
        }
        held -= oldest.bytes;
        oldest.remove();
    }
    Ok(())
}

/// Whether a directory has the name that `key` gives to one.
fn is_engines(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What is kept of one engine, the one unused for longest first. Removes what whoever wrote it left behind.
fn kept(dir: &Path) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let left_behind = match path.extension().and_then(|e| e.to_str()) {
            Some("sum") => {
                let code = fs::symlink_metadata(path.with_extension("cwasm"));
                all.push(Kept {
                    used: used(&path),
                    bytes: code.map_or(0, |code| code.len()),
                    sum: path,
                });
                continue;
            }
            // Whoever wrote it was killed in the middle, or before the sum.
            Some("part") => true,
            Some("cwasm") => fs::symlink_metadata(path.with_extension("sum")).is_err(),
            _ => false,
        };
        if left_behind && age(&path) > PART_AGE_MAX {
            remove(&path);
        }
    }
    all.sort_by_key(|kept| kept.used);
    Ok(all)
}

/// When a file was written, which a sum is again at each use.
fn used(path: &Path) -> SystemTime {
    let used = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    used.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn age(path: &Path) -> Duration {
    used(path).elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidelock-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn guest(number: u8) -> (Vec<u8>, ModuleHash) {
        let text = format!(r#"(module (func (export "f") (result i32) i32.const {number}))"#);
        let wasm = wat::parse_str(text).unwrap();
        let hash = ModuleHash(*blake3::hash(&wasm).as_bytes());
        (wasm, hash)
    }

    /// Whatever stands under the right name.
    #[test]
    fn what_is_not_the_modules_own_code_is_not_loaded() {
        let dir = temp("cache");
        let cache = Cache::open(dir.clone()).unwrap();
        let engine = wasmtime::Engine::default();
        let key = key(&engine);
        let ((wasm, hash), (foreign, foreign_hash)) = (guest(7), guest(8));
        let module = wasmtime::Module::from_binary(&engine, &wasm).unwrap();
        assert!(cache.load(&engine, &key, &hash).is_none());
        cache.store(&key, &hash, &module.serialize().unwrap());
        assert!(cache.load(&engine, &key, &hash).is_some());

        let (code, sum) = cache.paths(&key, &hash);
        let (foreign_code, foreign_sum) = cache.paths(&key, &foreign_hash);
        let foreign = wasmtime::Module::from_binary(&engine, &foreign).unwrap();
        cache.store(&key, &foreign_hash, &foreign.serialize().unwrap());
        let good = fs::read(&code).unwrap();
        // Gone before anything else is put there: what a guest may still run of it is left alone.
        let put = |path: &Path, bytes: &[u8]| {
            remove(path);
            fs::write(path, bytes).unwrap();
        };
        let half = &good[..good.len() / 2];
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        let pipe = |path: &Path| {
            remove(path);
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        };
        type Fault<'a> = (&'a str, &'a dyn Fn());
        let faults: &[Fault<'_>] = &[
            ("empty", &|| put(&code, b"")),
            ("cut", &|| put(&code, half)),
            ("one bit", &|| put(&code, &flipped)),
            ("longer", &|| put(&code, &[&good[..], b"x"].concat())),
            ("no sum", &|| put(&sum, b"")),
            ("another's code", &|| {
                put(&code, &fs::read(&foreign_code).unwrap());
            }),
            ("another's code and sum", &|| {
                put(&code, &fs::read(&foreign_code).unwrap());
                put(&sum, &fs::read(&foreign_sum).unwrap());
            }),
            ("a directory", &|| {
                remove(&code);
                fs::create_dir_all(code.join("inside")).unwrap();
            }),
            ("a directory instead of the sum", &|| {
                remove(&sum);
                fs::create_dir(&sum).unwrap();
            }),
            ("a link to good code", &|| {
                let moved = code.with_extension("moved");
                fs::rename(&code, &moved).unwrap();
                std::os::unix::fs::symlink(&moved, &code).unwrap();
            }),
            ("a link to itself", &|| {
                remove(&code);
                std::os::unix::fs::symlink(&code, &code).unwrap();
            }),
            ("a pipe that nobody writes to", &|| pipe(&code)),
            ("a pipe instead of the sum", &|| pipe(&sum)),
            ("writable for others", &|| {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&code, fs::Permissions::from_mode(0o666)).unwrap();
            }),
        ];
        for (fault, hurt) in faults {
            hurt();
            assert!(cache.load(&engine, &key, &hash).is_none(), "{fault}");
            cache.store(&key, &hash, &module.serialize().unwrap());
            assert!(cache.load(&engine, &key, &hash).is_some(), "{fault} stays");
        }
        assert!(cache.load(&engine, &key, &foreign_hash).is_some());
        fs::remove_dir_all(&dir).unwrap();
    }

    /// With the right sum, the rest is for wasmtime to refuse.
    #[test]
    fn code_of_another_engine_is_not_loaded() {
        let dir = temp("cache-engine");
        let cache = Cache::open(dir.clone()).unwrap();
        let engine = wasmtime::Engine::default();
        let mut fuelled = wasmtime::Config::new();
        let fuelled = wasmtime::Engine::new(fuelled.consume_fuel(true)).unwrap();
        assert_ne!(key(&engine), key(&fuelled));
        let (wasm, hash) = guest(7);
        let module = wasmtime::Module::from_binary(&fuelled, &wasm).unwrap();
        cache.store(&key(&engine), &hash, &module.serialize().unwrap());
        assert!(cache.load(&engine, &key(&engine), &hash).is_none());
        assert!(!cache.paths(&key(&engine), &hash).0.exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_cannot_be_read_just_now_stays() {
        let os = |code: i32| io::Error::from_raw_os_error(code);
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EIO] {
            assert!(is_passing(&os(code)), "{code}");
        }
        for error in [
            os(libc::ELOOP),
            os(libc::EACCES),
            os(libc::ENXIO),
            io::Error::other("its sum does not agree"),
        ] {
            assert!(!is_passing(&error), "{error}");
        }
    }

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let dir = temp("cache-room");
        let cache = Cache::open(dir.clone()).unwrap();
        let (ours, theirs, old) = ("0123456789abcdef", "123456789abcdef0", "23456789abcdef01");
        let hash = |n: u8| ModuleHash([n; 32]);
        let ago = |path: &Path, age: Duration| {
            let file = File::open(path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let put = |key: &str, n: u8, age: Duration| {
            cache.store(key, &hash(n), &[n; 100]);
            ago(&cache.paths(key, &hash(n)).1, age);
        };
        for (key, n, age) in [(ours, 1, 5), (theirs, 2, 4), (ours, 3, 3), (ours, 4, 2)] {
            put(key, n, hours(age));
        }
        put(old, 5, ENGINE_AGE_MAX + hours(1));
        ago(&dir.join(old), ENGINE_AGE_MAX + hours(1));
        // Code without its sum: one that may be written just now, and one that was left behind.
        for (n, age) in [(6, 0), (7, 2)] {
            let (code, _) = cache.paths(ours, &hash(n));
            fs::write(&code, b"code").unwrap();
            ago(&code, hours(age));
        }
        fs::create_dir(dir.join("of somebody else")).unwrap();
        let room = |bytes, files| make_room(&dir, ours, 100, &Bounds { files, bytes }).unwrap();
        let left = || {
            let all = [
                (ours, 1),
                (theirs, 2),
                (ours, 3),
                (ours, 4),
                (old, 5),
                (ours, 6),
                (ours, 7),
            ];
            let is_left = |(key, n): &(&str, u8)| cache.paths(key, &hash(*n)).0.exists();
            let left = all.into_iter().filter(is_left);
            left.map(|(_, n)| n).collect::<Vec<_>>()
        };
        assert_eq!(left(), [1, 2, 3, 4, 5, 6, 7]);
        room(500, 4);
        assert_eq!(left(), [1, 2, 3, 4, 6]);
        room(500, 3);
        assert_eq!(left(), [2, 3, 4, 6]);
        room(300, 3);
        assert_eq!(left(), [3, 4, 6]);
        assert!(dir.join("of somebody else").exists() && !dir.join(old).exists());
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
