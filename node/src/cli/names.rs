//! Names that are made of what has one already: a machine, a file.

use std::path::Path;

use tidelock_control::modules::check_module_name;

/// The name most like `text`, as far as `is_name` takes one: letters become small where they must, all else that
/// cannot stand in a name becomes `-`, and what is too much is cut off. None: nothing is left.
///
/// The system bounds the text: 64 bytes of a machine's name, 255 of a file's.
pub(super) fn proper(text: &str, is_name: impl Fn(&str) -> bool) -> Option<String> {
    // Between two letters: not all of them may begin or end a name.
    let may_stand = |letter: char| is_name(&format!("a{letter}a"));
    let mut name: String = text
        .chars()
        .map(|letter| {
            let either = [letter, letter.to_ascii_lowercase()];
            either
                .into_iter()
                .find(|letter| may_stand(*letter))
                .unwrap_or('-')
        })
        .collect();
    let first = name.find(|letter: char| is_name(&letter.to_string()))?;
    name.drain(..first);
    while !is_name(&name) {
        name.pop()?;
    }
    Some(name)
}

/// What a file is called, without its ending.
pub(super) fn stem(file: &Path) -> String {
    file.file_stem()
        .unwrap_or(file.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// A name for the module of a file.
pub(super) fn of_module(file: &Path) -> String {
    let name = proper(&stem(file), |name| check_module_name(name).is_ok());
    name.unwrap_or_else(|| "guest".to_owned())
}

#[cfg(test)]
mod tests {
    use tidelock_certs::check_name;

    use super::*;

    #[test]
    fn any_text_becomes_a_name_or_nothing() {
        let of_node = |text: &str| proper(text, |name| check_name(name).is_ok());
        for (text, name) in [
            ("web-1.example", Some("web-1.example")),
            ("Ada's MacBook.local", Some("ada-s-macbook.local")),
            ("-_x1_-", Some("x1")),
            ("Zoë", Some("zo")),
            ("äöü", None),
            ("...", None),
            ("", None),
        ] {
            assert_eq!(of_node(text).as_deref(), name, "{text}");
        }
        assert_eq!(of_node(&"X".repeat(64)), Some("x".repeat(63)));
        // What is cut off leaves no end that may not be one.
        let long = format!("{}-b", "a".repeat(62));
        assert_eq!(of_node(&long), Some("a".repeat(62)));
    }

    #[test]
    fn a_module_keeps_what_it_may_of_its_files_name() {
        for (file, name) in [
            ("guests/Word_count.wasm", "Word_count"),
            ("my app (2).wasm", "my-app--2-"),
            (".wasm", "wasm"),
            ("é.wasm", "guest"),
        ] {
            let made = of_module(Path::new(file));
            assert_eq!(made, name, "{file}");
            check_module_name(&made).unwrap();
        }
        assert_eq!(of_module(Path::new(&"a".repeat(200))), "a".repeat(128));
    }
}
