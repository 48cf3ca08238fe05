//! In what order lines are told, and which of them are new.

use super::*;

#[test]
fn what_is_missing_stands_where_it_was() {
    let line = |second: i64| Line::Item(Timestamp::from_second(second).unwrap());
    let missed = |node: &str| Line::parse(node, br#"{"missed":2}"#).unwrap();
    let mut lines = vec![missed("n1"), line(5), line(9), line(1)];
    lines.extend([missed("n2"), line(7)]);
    let shown: Vec<String> = Line::in_order(lines, |time| *time)
        .into_iter()
        .map(|line| match line {
            Line::Item(time) => time.as_second().to_string(),
            Line::Missed(missed) => missed.to_string(),
        })
        .collect();
    let (one, two) = (
        "n1: 2 lines are missing here",
        "n2: 2 lines are missing here",
    );
    assert_eq!(shown, ["1", one, "5", two, "7", "9"]);
    assert!(Line::<Timestamp>::parse("n1", br#"{"later":2}"#).is_none());
}

#[test]
fn what_was_read_before_is_not_read_again() {
    let item = |number: u64| Some(Line::Item(number));
    let gap = |missed| {
        let node = "n1".to_owned();
        Some(Line::Missed(Missed { node, missed }))
    };
    let mut place = Place::default();
    let mut read = |lines: Vec<Option<Line<u64>>>| -> Vec<String> {
        let mut at = 0;
        let news = lines
            .into_iter()
            .filter_map(|line| place.news(&mut at, line));
        news.map(|line| match line {
            Line::Item(number) => number.to_string(),
            Line::Missed(missed) => format!("-{}", missed.missed),
        })
        .collect()
    };
    assert_eq!(read(vec![gap(2), item(2), None, item(4)]), ["-2", "2", "4"]);
    // The same again, and one more; the ring has moved on; it has moved on beyond what was read.
    assert_eq!(read(vec![gap(2), item(2), None, item(4), item(5)]), ["5"]);
    assert_eq!(read(vec![gap(4), item(4), item(5), item(6)]), ["6"]);
    assert_eq!(read(vec![gap(9), item(9)]), ["-2", "9"]);
    assert_eq!(
        read(vec![gap(u64::MAX), item(1)]),
        [format!("-{}", u64::MAX - 10)]
    );
}
