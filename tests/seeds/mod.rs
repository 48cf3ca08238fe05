//! Seeds of `fuzz/corpus`, and the same random changes of them in every run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// No input of libFuzzer is longer either, unless a seed is.
const INPUT_BYTES_MAX: usize = 4096;

/// Seeds by name.
pub(crate) type Seeds = BTreeMap<String, Vec<u8>>;

/// Fails unless the seeds that are made, and not found, are in the repository. `TIDELOCK_BLESS=1` writes them.
pub(crate) fn are_there(target: &str, seeds: &Seeds) {
    let folder = folder(target);
    if std::env::var_os("TIDELOCK_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in seeds {
        let path = folder.join(name);
        let kept = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(kept, *bytes, "{target}/{name}");
    }
}

fn folder(target: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = package.ancestors().map(|dir| dir.join("fuzz/corpus"));
    let corpus = corpus.into_iter().find(|dir| dir.is_dir());
    corpus.expect("the repository has seeds").join(target)
}

/// Runs each seed, and so many changes of them.
pub(crate) fn replay(target: &str, run: fn(&[u8]), executions: usize) {
    let mut seeds: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 8, "{target} has {} seeds", seeds.len());
    for (_, seed) in &seeds {
        shown(run, seed);
    }
    let mut random = Random(0x7469_6465_6c6f_636b);
    let mut executions = executions;
    if let Ok(more) = std::env::var("TIDELOCK_FUZZ_EXECUTIONS") {
        executions = more.parse().expect("a number");
        random = Random(random.0 ^ more.parse::<u64>().expect("a number"));
    }
    for _ in 0..executions {
        let mut bytes = seeds[random.below(seeds.len())].1.clone();
        for _ in 0..=random.below(4) {
            let other = &seeds[random.below(seeds.len())].1;
            random.change(&mut bytes, other);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        shown(run, &bytes);
    }
    eprintln!(
        "{target}: {} seeds, {executions} changes of them",
        seeds.len()
    );
}

fn shown(run: fn(&[u8]), bytes: &[u8]) {
    struct Shown<'a>(&'a [u8]);
    impl Drop for Shown<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
                eprintln!("the input: {hex}");
            }
        }
    }
    let _shown = Shown(bytes);
    run(bytes);
}

/// The same numbers in every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound.max(1)
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let value = self.next().to_le_bytes();
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, value[0]),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => {
                // A number that is at an edge.
                let edges = [
                    0,
                    1,
                    127,
                    128,
                    255,
                    1 << 20,
                    1 << 31,
                    u64::MAX,
                    u64::MAX >> 1,
                ];
                let edge = edges[self.below(edges.len())].to_le_bytes();
                let wide = [1, 4, 8][self.below(3)];
                for (place, byte) in bytes[at..].iter_mut().zip(&edge[..wide]) {
                    *place = *byte;
                }
            }
            4 => {
                let from = self.below(other.len() + 1);
                bytes.splice(at..at, other[from..].iter().copied());
            }
            5 => {
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 if at < bytes.len() => bytes[at] ^= 1 << (value[0] % 8),
            _ if at < bytes.len() => bytes[at] = value[0],
            _ => bytes.push(value[0]),
        }
    }
}
