//! What an environment keeps to itself: the numbers of pids, and what processes may open, whoever asked for them.
//!
//! What it promises to whoever uses it is in the tests of the whole.

use super::*;

#[tokio::test]
async fn a_spawn_for_which_no_pid_is_left_takes_no_place() {
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    env.0.next.store(Pid::LOCAL_MAX, Ordering::Relaxed);
    let options = SpawnOptions::default();
    let refused = env.spawn_native("none", options, |_| std::future::pending());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("pids"), "{refused}");
    assert_eq!(env.counters().alive, 0);
}

#[tokio::test]
async fn directories_of_others_are_judged_until_all_of_them_are_open() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-judged", std::process::id()));
    // What an earlier run has left.
    let _: Result<(), _> = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let limits = Limits {
        remote_preopens: vec![dir.clone()],
        ..Limits::default()
    };
    let env = Environment::new(EnvironmentConfig {
        limits,
        ..EnvironmentConfig::default()
    });
    let env = env.unwrap();
    let name = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let asked = Arc::new(ProcessConfig {
        preopens: vec![name("first"), name("later")],
        ..ProcessConfig::default()
    });
    std::fs::create_dir(dir.join("first")).unwrap();
    let some = env.allowed(asked.clone());
    assert_eq!(some.preopens, [name("first")]);
    // Of one configuration, made once.
    assert!(Arc::ptr_eq(&env.allowed(asked.clone()), &some));
    std::fs::create_dir(dir.join("later")).unwrap();
    assert!(Arc::ptr_eq(&env.allowed(asked.clone()), &asked));
    // From here on they are judged when they are opened.
    std::fs::remove_dir(dir.join("later")).unwrap();
    assert!(Arc::ptr_eq(&env.allowed(asked.clone()), &asked));
    let other = Arc::new(ProcessConfig::clone(&asked));
    assert_eq!(env.allowed(other).preopens, [name("first")]);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_child_of_a_native_process_is_granted_what_was_missing() {
    let dir = std::env::temp_dir().join(format!("tidelock-{}-missing", std::process::id()));
    // What an earlier run has left.
    let _: Result<(), _> = std::fs::remove_dir_all(&dir);
    let name = dir.to_str().unwrap().to_owned();
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    let options = SpawnOptions {
        config: Arc::new(ProcessConfig {
            preopens: vec![name.clone()],
            ..ProcessConfig::default()
        }),
        ..SpawnOptions::default()
    };
    let (granted, is_granted) = tokio::sync::oneshot::channel();
    let parent = env.spawn_native("parent", options, |mut me| async move {
        let open = |me: &Context| {
            let directories = me.environment().directories();
            directories.open(&name, Origin::Here).is_ok()
        };
        let before = open(&me);
        std::fs::create_dir(&dir).unwrap();
        let child = me.spawn_native_link("child", None, |_| async { ExitReason::Normal });
        child.unwrap();
        granted.send((before, open(&me))).unwrap();
        std::fs::remove_dir(&dir).unwrap();
        ExitReason::Normal
    });
    parent.unwrap();
    assert_eq!(is_granted.await.unwrap(), (false, true));
}
