//! A test from outside of the library: a test binary of its own.

#[lunatic::test]
fn divides() {
    assert_eq!(testing::divide(8, 2), 4);
}
