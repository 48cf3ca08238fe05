//! `tidelock demo`.

use std::fs;

use crate::{
    nothing_is_left,
    user::{User, says, text},
};

#[test]
fn the_demonstration_is_exact_and_leaves_nothing() {
    let user = User::new();
    let words: String = (0..300_000_u64)
        .map(|n| format!("w{} ", n * n % 10_007))
        .collect();
    let folder = user.home.path().join("texts/of/words");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("words.txt"), words).unwrap();
    let report: serde_json::Value = user.json(&["demo", "texts"]);
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["result"]["words"], 300_000, "{report}");
    assert_eq!(report["killed"]["signal"], 9, "{report}");
    let percent = report["killed"]["percent"].as_f64().unwrap();
    assert!((25.0..=75.0).contains(&percent), "{report}");
    assert_eq!(report["notices"].as_array().unwrap().len(), 2, "{report}");
    nothing_is_left(&user);
}

#[test]
fn a_demonstration_without_a_loss_fails() {
    let user = User::new();
    fs::write(user.home.path().join("words.txt"), "word ".repeat(300_000)).unwrap();
    // Claims the right numbers at once, so that there is no moment at which a node could be killed.
    let line = r#"{"event":"result","words":300000,"distinct":1,"checksum":"","chunks":1,"resent":0,"lost":[],"elapsed_ms":1}"#;
    let guest = says(&format!("{line}\n"));
    fs::write(user.home.path().join("liar.wat"), guest).unwrap();
    let output = user.run(&["demo", "-o", "json", "--guest", "liar.wat", "words.txt"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false, "{report}");
    let check = |name: &str| {
        report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["name"] == name)
            .cloned()
    };
    assert_eq!(check("fault").unwrap()["ok"], false, "{report}");
    assert_eq!(
        check("count").unwrap()["ok"],
        false,
        "a wrong checksum is seen: {report}"
    );
    assert!(text(&output.stderr).contains("E0051"));
}
