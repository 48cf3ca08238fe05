//! What an environment keeps to itself: the numbers of pids, and what processes may open, whoever asked for them.
//!
//! What it promises to whoever uses it is in the tests of the whole.

use super::*;

#[tokio::test]
async fn a_spawn_for_which_no_pid_is_left_takes_no_place() {
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    env.0.made.next.store(Pid::LOCAL_MAX, Ordering::Relaxed);
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

#[tokio::test]
async fn of_ends_the_oldest_are_forgotten_first() {
    let limits = Limits {
        ends_max: 3,
        ..Limits::default()
    };
    let env = Environment::new(EnvironmentConfig {
        limits,
        ..EnvironmentConfig::default()
    });
    let env = env.unwrap();
    let mut pids = Vec::new();
    for code in 1..=5 {
        let options = SpawnOptions::default();
        let pid = env.spawn_native(
            "it",
            options,
            move |_| async move { ExitReason::Exit(code) },
        );
        pids.push(pid.unwrap());
        assert_eq!(env.wait(pids[pids.len() - 1]).await, ExitReason::Exit(code));
    }
    let ends: Vec<_> = pids.iter().map(|pid| env.end_of(*pid)).collect();
    let some = |code| Some(ExitReason::Exit(code));
    assert_eq!(ends, [None, None, some(3), some(4), some(5)]);
    assert_eq!(env.wait(pids[0]).await, ExitReason::NoProcess);
    assert_eq!(env.wait(pids[2]).await, ExitReason::Exit(3));
}

#[tokio::test]
async fn a_process_is_said_to_have_begun_when_it_did() {
    let env = Environment::new(EnvironmentConfig::default()).unwrap();
    let mut events = env.events();
    let options = SpawnOptions::default();
    let pid = env.spawn_native("it", options, |_| std::future::pending());
    let begun = env.info(pid.unwrap()).unwrap().started_at;
    assert_eq!(events.recv().await.unwrap().at, begun);
}

#[test]
fn what_each_process_changes_is_on_cache_lines_of_its_own() {
    assert_eq!((align_of::<Made>(), size_of::<Made>()), (128, 128));
    assert_eq!((align_of::<Over>(), size_of::<Over>()), (128, 128));
}
