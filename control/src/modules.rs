//! Module files: kept by hash, given out only with the right bytes.

/// A module's name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a module name: 1 to 128 of A-Z a-z 0-9 . _ - are allowed, beginning with a letter \
     or digit"
)]
pub struct ModuleNameError(String);

/// Checks that `name` can stand in a path, a URL and a shell command, and is no hash.
///
/// # Errors
///
/// [`ModuleNameError`] with the name, shortened.
pub fn check_module_name(name: &str) -> Result<(), ModuleNameError> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = name.len() <= 128
        && name
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(inner);
    if good {
        Ok(())
    } else {
        Err(ModuleNameError(name.chars().take(80).collect()))
    }
}
