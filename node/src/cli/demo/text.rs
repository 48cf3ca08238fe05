//! The text that the demonstration counts: the user's files, or what the machine has lying about.

use std::{
    env,
    fs::{self, File},
    io::{self, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::cli::{
    failure::{Failure, Outcome},
    output::size,
};

/// With less than this, the work would be over before a node could be killed in the middle of it.
pub(super) const LEAST_BYTES: u64 = 1 << 20;

/// How much is gathered if the user names nothing.
const WANTED_BYTES: u64 = 24 << 20;

/// One file does not make up the whole text.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// Folders are searched this deep.
const DEPTH_MAX: usize = 8;

/// All texts, one behind the other.
#[derive(Debug)]
pub(super) struct Text {
    /// Where it stands.
    pub(super) path: PathBuf,
    /// Of how many files.
    pub(super) files: u64,
    /// How long it is.
    pub(super) bytes: u64,
}

/// Writes the user's files into one, or gathers text if there are none.
///
/// A newline between files keeps the last word of one from growing into the next.
///
/// # Errors
///
/// A file that cannot be read, or too little text.
pub(super) fn collect(files: &[PathBuf], into: &Path) -> Outcome<Text> {
    let path = into.join("text.txt");
    let write = |error: io::Error| Failure::file(&path, &error);
    let mut target = BufWriter::new(File::create(&path).map_err(write)?);
    let mut text = Text {
        path: path.clone(),
        files: 0,
        bytes: 0,
    };
    if files.is_empty() {
        gather(&mut text, &mut target).map_err(write)?;
    }
    for file in files {
        if file.is_dir() {
            walk(file, 0, u64::MAX, &mut text, &mut target).map_err(write)?;
            continue;
        }
        let bytes = fs::read(file).map_err(|error| Failure::file(file, &error))?;
        text.append(&mut target, &bytes).map_err(write)?;
    }
    target.flush().map_err(write)?;
    if text.bytes < LEAST_BYTES {
        let found = size(text.bytes);
        let message = if files.is_empty() {
            format!("this machine has only {found} of text where it was looked for")
        } else {
            format!(
                "{found} in {} is too little text",
                counted(files.len() as u64, "file")
            )
        };
        return Err(Failure::new("E0050", message)
            .detail(format_args!("At least {} are needed.", size(LEAST_BYTES)))
            .next("tidelock demo FILES…", "name more or larger files"));
    }
    Ok(text)
}

impl Text {
    fn append(&mut self, target: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
        target.write_all(bytes)?;
        target.write_all(b"\n")?;
        self.files += 1;
        self.bytes += bytes.len() as u64 + 1;
        Ok(())
    }
}

/// Text that machines have: word lists, licences, documentation, sources.
fn gather(text: &mut Text, target: &mut impl io::Write) -> io::Result<()> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    let cargo = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let places = [
        PathBuf::from("/usr/share/dict"),
        PathBuf::from("/usr/share/common-licenses"),
        PathBuf::from("/usr/share/doc"),
        PathBuf::from("/usr/share/perl"),
        PathBuf::from("/usr/lib/python3"),
        PathBuf::from("/usr/include"),
        PathBuf::from("/usr/share/misc"),
        rustup.join("toolchains"),
        cargo.join("registry/src"),
        PathBuf::from("/etc"),
        PathBuf::from("."),
    ];
    for place in places {
        walk(&place, 0, WANTED_BYTES, text, target)?;
        if text.bytes >= WANTED_BYTES {
            break;
        }
    }
    Ok(())
}

/// Adds what is text below `folder`, in the order of names, until it is enough. What cannot be read is passed over.
fn walk(
    folder: &Path,
    depth: usize,
    wanted: u64,
    text: &mut Text,
    target: &mut impl io::Write,
) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if text.bytes >= wanted {
            return Ok(());
        }
        let Ok(about) = fs::symlink_metadata(&path) else {
            continue;
        };
        if about.is_dir() && depth < DEPTH_MAX {
            walk(&path, depth + 1, wanted, text, target)?;
        } else if about.is_file()
            && (1..=FILE_BYTES_MAX).contains(&about.len())
            && let Some(bytes) = read_text(&path)
        {
            text.append(target, &bytes)?;
        }
    }
    Ok(())
}

/// The file, if it looks like text: no zero byte, and valid UTF-8.
fn read_text(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    (&file).take(4096).read_to_end(&mut bytes).ok()?;
    if bytes.contains(&0) {
        return None;
    }
    (&file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    (!bytes.contains(&0) && std::str::from_utf8(&bytes).is_ok()).then_some(bytes)
}

/// "1 file", "2 files".
pub(super) fn counted(number: u64, noun: &str) -> String {
    let grouped = crate::cli::output::grouped(number);
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{grouped} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let small = folder.path().join("small");
        fs::write(&small, "a few words").unwrap();
        let Err(Failure::Letter(letter)) = collect(&[small], folder.path()) else {
            panic!("accepted");
        };
        assert_eq!(letter.code, "E0050");
    }

    #[test]
    fn files_do_not_grow_together() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("long");
        fs::write(&file, "word".repeat(200_000)).unwrap();
        let text = collect(&[file.clone(), file], folder.path()).unwrap();
        let all = fs::read_to_string(&text.path).unwrap();
        assert_eq!(all.split_whitespace().count(), 2);
        assert_eq!((text.files, text.bytes), (2, all.len() as u64));
    }
}
