//! `tidelock demo`.

use std::fs;

use crate::{
    nothing_is_left,
    user::{User, text},
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
    let line = "{\\22event\\22:\\22result\\22,\\22words\\22:300000,\\22distinct\\22:1,\
                \\22checksum\\22:\\22\\22,\\22chunks\\22:1,\\22resent\\22:0,\\22lost\\22:[],\
                \\22elapsed_ms\\22:1}\\n";
    let length = line.replace("\\22", "\"").replace("\\n", "\n").len();
    let guest = format!(
        "(module (import \"wasi_snapshot_preview1\" \"fd_write\"
           (func $write (param i32 i32 i32 i32) (result i32)))
         (memory (export \"memory\") 1)
         (data (i32.const 16) \"{line}\")
         (func (export \"_start\")
           (i32.store (i32.const 0) (i32.const 16))
           (i32.store (i32.const 4) (i32.const {length}))
           (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"
    );
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
