//! Every state of the two spawn machines with every input, as a table.
//!
//! Goal: a change of the protocol shows up as a changed line that somebody has to agree with.
//! Method: the table is made from the machines and compared with `spawn_matrix.txt`. After a
//! deliberate change, `TIDELOCK_BLESS=1` writes the file anew.

use std::fmt::Debug;
use std::path::Path;

use tidelock_proto::spawn::{Answer, Asking, Hosting};

fn line(state: &impl Debug, input: &str, step: Result<impl Debug, &str>) -> String {
    let step = match step {
        Ok(step) => format!("{step:?}"),
        Err(rule) => format!("the session ends: {rule}"),
    };
    format!("{:10} {input:10} {step}\n", format!("{state:?}"))
}

#[test]
fn the_machines_are_as_written_down() {
    let mut table =
        String::from("# asking side: state, what the child's node says, what follows\n");
    for state in [Asking::Asked, Asking::Answered, Asking::Cancelled] {
        for answer in [Answer::Prepared, Answer::Refused, Answer::Cancelled] {
            let step = state.handle(answer);
            table += &line(&state, &format!("{answer:?}"), step);
        }
    }
    table += "# hosting side: state, what the parent's node says, what follows\n";
    for state in [
        Hosting::Preparing,
        Hosting::Parked,
        Hosting::Starting,
        Hosting::Ended,
    ] {
        table += &line(&state, "Start", state.handle_start());
        table += &line(&state, "Cancel", Ok(state.handle_cancel()));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/spawn_matrix.txt");
    if std::env::var_os("TIDELOCK_BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        table,
        "the table changed"
    );
}
