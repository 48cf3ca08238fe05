//! When a token is spent, and how many nodes a state directory has.

use tidelock_control::api;

use super::*;

#[test]
fn a_token_is_spent_only_where_it_helps() {
    let helps = |status, code: &str| {
        is_refused(&ClientError::Refused {
            status,
            body: api::ErrorBody {
                code: code.to_owned(),
                message: "no".to_owned(),
                next: Vec::new(),
                newest: None,
            },
        })
    };
    assert!(helps(403, codes::NOT_PERMITTED));
    assert!(helps(400, codes::BAD_SIGNING_REQUEST));
    for (status, code) in [
        (409, codes::TOO_MANY_IDS),
        (409, codes::NO_IDS_LEFT),
        // Another start of this name is there.
        (409, codes::LATER_START),
        (410, codes::NODE_GONE),
        (429, codes::TOO_MANY),
        (500, codes::STORE),
        (503, codes::STORE),
    ] {
        assert!(!helps(status, code), "{status} {code}");
    }
}

#[test]
fn a_state_directory_is_one_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("node");
    let lock = lock_state(&dir).unwrap();
    let error = lock_state(&dir).unwrap_err();
    assert!(matches!(error, StartError::StateInUse { .. }), "{error}");
    drop(lock);
    lock_state(&dir).unwrap();
}
