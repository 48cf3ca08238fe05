//! Dividing, in this process and in another one: little to test, and a test for every outcome.
//!
//! Some of the tests fail on purpose, to show what that looks like. What each should become stands in
//! its name; `cargo test` of a project of yours would have none of them.

use lunatic::spawn_link;

/// Divides.
///
/// # Panics
///
/// If `b` is 0.
///
/// # Examples
///
/// ```
/// assert_eq!(testing::divide(6, 3), 2);
/// ```
///
/// ```should_panic
/// testing::divide(6, 0);
/// ```
pub fn divide(a: u32, b: u32) -> u32 {
    assert_ne!(b, 0, "division #1 by zero");
    a / b
}

/// Divides in a linked process, which says what it does.
pub fn divide_elsewhere(a: u32, b: u32) -> u32 {
    let numbers = (a, b);
    let task = spawn_link!(@task |numbers| {
        println!("dividing {} by {}", numbers.0, numbers.1);
        divide(numbers.0, numbers.1)
    });
    task.result()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[lunatic::test]
    fn passes() {
        println!("nobody sees this");
        assert_eq!(divide(6, 3), 2);
    }

    #[lunatic::test]
    fn passes_with_another_process() {
        assert_eq!(divide_elsewhere(6, 3), 2);
    }

    #[lunatic::test]
    fn fails() {
        println!("this is seen");
        assert_eq!(divide(6, 3), 3);
    }

    #[lunatic::test]
    fn fails_with_another_process() {
        divide_elsewhere(6, 0);
    }

    #[lunatic::test]
    fn fails_by_its_result() -> Result<(), String> {
        Err("no".to_owned())
    }

    #[lunatic::test]
    #[ignore]
    fn ignored_because_it_never_ends() {
        println!("on and on");
        loop {
            std::hint::spin_loop();
        }
    }

    #[lunatic::test]
    #[should_panic(expected = "division #1 by")]
    fn panics() {
        divide(6, 0);
    }

    #[lunatic::test]
    #[should_panic(expected = "division #2 by")]
    fn panics_otherwise() {
        divide(6, 0);
    }

    #[lunatic::test]
    #[should_panic]
    fn panics_not() {}

    /// One of Rust's own; it is no process, and runs beside the others all the same.
    #[test]
    fn plain() {
        assert_eq!(divide(9, 3), 3);
    }

    #[test]
    fn plain_and_fails() {
        assert_eq!(divide(9, 3), 9);
    }
}
