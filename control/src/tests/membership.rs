//! Leases, the watch, and who may change what.

use super::*;
use crate::api::RenewResponse;
use crate::members::{Candidate, Moment};
use crate::server::Watcher;
use crate::tags::Tags;

#[tokio::test]
async fn a_silent_node_is_lost_until_it_is_heard_of() {
    let lease = Duration::from_millis(400);
    let bench = Bench::with(|config| config.lease = lease).await;
    let mut watch = watching(&bench.operator).await;
    let silent = bench.join("silent").await;
    assert_eq!(changes(&mut watch, 2).await, ["n1 alive", "n1 lost"]);
    // It was only cut off from control.
    silent.client.lease(silent.node, false).await.unwrap();
    assert_eq!(changes(&mut watch, 2).await, ["n1 alive", "n1 lost"]);
    // But not once there is a later start.
    let later = bench.rejoin(&silent).await.unwrap();
    assert_eq!(later.node, NodeId(2));
    let error = silent.client.lease(silent.node, false).await.unwrap_err();
    assert!(error.is_node_gone() && error.exit_code() == 5, "{error}");
}

#[tokio::test]
async fn a_node_that_is_heard_of_is_not_lost() {
    // Long enough for a busy machine to be late within it.
    let lease = Duration::from_secs(3);
    let bench = Bench::with(|config| config.lease = lease).await;
    let mut watch = watching(&bench.operator).await;
    let chatty = bench.join("chatty").await;
    let silent = bench.join("silent").await;
    let keeping = tokio::spawn(async move {
        loop {
            chatty.client.lease(chatty.node, false).await.unwrap();
            tokio::time::sleep(lease / 30).await; // a lease is about time
        }
    });
    let seen = changes(&mut watch, 3).await;
    assert_eq!(seen, ["n1 alive", "n2 alive", "n2 lost"]);
    // Lost is only what control believes.
    silent.client.renew(&silent.identity).await.unwrap();
    keeping.abort();
}

#[tokio::test]
async fn draining_and_leaving_are_seen() {
    let bench = Bench::new().await;
    let mut watch = watching(&bench.operator).await;
    let joined = bench.join("web-0").await;
    joined.client.lease(joined.node, true).await.unwrap();
    // It cannot be taken back.
    joined.client.lease(joined.node, false).await.unwrap();
    joined.client.leave(joined.node).await.unwrap();
    joined.client.leave(joined.node).await.unwrap();
    let seen = changes(&mut watch, 3).await;
    assert_eq!(seen, ["n1 alive", "n1 draining", "n1 left"]);
    assert_eq!(
        bench.operator.nodes().await.unwrap().revision,
        3,
        "the second goodbye counted"
    );
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_control() {
    let mut bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    let mut watch = watching(&bench.operator).await;

    bench.restart().await;
    joined.client.leave(joined.node).await.unwrap();

    let mut interrupted = false;
    let state = within(async {
        loop {
            match watch.next().await.expect("a watch goes on") {
                Ok(WatchEvent::Snapshot(members)) => match members.nodes[0].state {
                    NodeState::Alive => {}
                    state => break state,
                },
                Ok(WatchEvent::Change { node, .. }) => break node.state,
                Ok(WatchEvent::Heartbeat { .. }) => {}
                Err(error) => {
                    assert!(error.is_temporary(), "{error}");
                    interrupted = true;
                }
            }
        }
    });
    assert_eq!(state.await, NodeState::Left);
    assert!(interrupted, "the watch did not notice the restart");
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order() {
    let bench = Bench::new().await;
    let mut joined = bench.join("web-0").await;
    let mut watch = watching(&bench.operator).await;
    for _ in 0..20 {
        joined = bench.rejoin(&joined).await.unwrap();
    }
    let mut at = 1;
    within(async {
        while at < 41 {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Change { revision, .. } => {
                    assert_eq!(revision, at + 1, "a change was skipped");
                    at = revision;
                }
                WatchEvent::Heartbeat { revision } => assert_eq!(revision, at),
                WatchEvent::Snapshot(_) => panic!("nobody was slow"),
            }
        }
    })
    .await;
}

/// Without a network in between, whose buffers would hide that nobody reads.
#[tokio::test]
async fn a_slow_watcher_gets_a_snapshot_instead_of_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ControlConfig::new("sea", dir.path());
    config.listen = ([127, 0, 0, 1], 0).into();
    let prepared = crate::prepare(&config).unwrap();
    let app = prepared.app;
    let stop = prepared.stop.subscribe();
    let mut watcher = Watcher::open(app.clone(), None, stop).await.unwrap();
    for number in 0..500 {
        let candidate = Candidate {
            name: format!("x{number}"),
            key: [1; 32],
            addr: ([127, 0, 0, 1], 1).into(),
            admin_addr: ([127, 0, 0, 1], 2).into(),
            version: "1".to_owned(),
            tags: Tags::default(),
            token: None,
            start: None,
            after: None,
        };
        app.books.admit(candidate, Moment::now()).unwrap();
    }
    let mut told = Vec::new();
    for _ in 0..2 {
        match within(watcher.next()).await {
            Some(WatchEvent::Snapshot(members)) => {
                told.push((members.revision, members.nodes.len()));
            }
            other => panic!("a gap: {other:?}"),
        }
    }
    assert_eq!(told, [(0, 0), (500, 500)]);
}

#[tokio::test]
async fn a_watch_ends_with_the_certificate_it_was_opened_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ControlConfig::new("sea", dir.path());
    config.listen = ([127, 0, 0, 1], 0).into();
    let prepared = crate::prepare(&config).unwrap();
    let now_s = UnixTime::now().as_secs();
    for (not_after_s, goes_on) in [(now_s + 3600, true), (now_s - 1, false)] {
        let not_after = UnixTime::since_unix_epoch(Duration::from_secs(not_after_s));
        let (app, stop) = (prepared.app.clone(), prepared.stop.subscribe());
        let mut watcher = Watcher::open(app, Some(([1; 32], not_after)), stop)
            .await
            .unwrap();
        assert_eq!(within(watcher.next()).await.is_some(), goes_on);
    }
}

#[tokio::test]
async fn a_watch_that_reads_no_snapshot_waits_longer_each_time() {
    let answer = axum::routing::get(|| async { "no snapshot\n" });
    let (client, serving) = in_place_of_control(axum::Router::new().route("/v1/watch", answer));
    let mut watch = client.watch();
    let began = std::time::Instant::now();
    for _ in 0..5 {
        let error = within(watch.next()).await.unwrap().unwrap_err();
        assert!(matches!(error, ClientError::Answer { .. }), "{error}");
    }
    // 50, 100, 200 and 400 ms.
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(750), "{waited:?}");
    serving.abort();
}

#[tokio::test]
async fn roles_are_kept_apart() {
    let bench = Bench::new().await;
    let one = bench.join("one").await;
    let two = bench.join("two").await;

    // A node is not an operator, and not another node.
    assert_eq!(
        code(one.client.create_token(LIMIT, 1).await),
        codes::NOT_PERMITTED
    );
    assert_eq!(
        code(one.client.put_module(None, WASM).await),
        codes::NOT_PERMITTED
    );
    assert_eq!(
        code(one.client.remove(two.node).await),
        codes::NOT_PERMITTED
    );
    assert_eq!(code(one.client.leave(two.node).await), codes::NOT_PERMITTED);
    assert_eq!(
        code(one.client.lease(two.node, true).await),
        codes::NOT_PERMITTED
    );
    // An operator is not a node.
    assert_eq!(
        code(bench.operator.lease(one.node, false).await),
        codes::NOT_PERMITTED
    );
    let operator = load_operator(bench.control.as_ref().unwrap());
    assert_eq!(
        code(bench.operator.renew(&operator).await),
        codes::NOT_PERMITTED
    );
    let as_operator = Client::rejoin(&bench.address(), &operator, &described("one")).await;
    assert_eq!(code(as_operator), codes::NOT_PERMITTED);
    assert_eq!(bench.state(two.node).await, NodeState::Alive);

    // A stranger may join and nothing else.
    let http = bench.raw(None);
    for (method, path) in [
        ("GET", "/v1/nodes"),
        ("GET", "/v1/watch"),
        ("GET", "/v1/cluster"),
        ("GET", "/v1/modules"),
        ("GET", "/v1/modules/x"),
        ("GET", "/v1/module-names/x"),
        ("PUT", "/v1/modules"),
        ("DELETE", "/v1/nodes/n1"),
        ("DELETE", "/v1/nodes/n1?remove=true"),
    ] {
        let method = method.parse::<reqwest::Method>().unwrap();
        let answer = http
            .request(method.clone(), bench.url(path))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 403, "{method} {path}");
    }
    for path in ["/v1/tokens", "/v1/rejoin", "/v1/renew"] {
        let body = serde_json::json!({
            "ttl_s": 1, "csr_pem": "", "addr": "1.2.3.4:5", "admin_addr": "1.2.3.4:5", "version": "",
        });
        let answer = http.post(bench.url(path)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{path}");
    }

    // Somebody with a certificate of another authority does not even get a connection.
    let other = testing::authority("sea", UnixTime::now());
    let eve = other
        .issue_identity(Role::Operator, "admin", &[], LIMIT, UnixTime::now())
        .map(|eve| testing::trusting(&eve, operator.authority()))
        .unwrap();
    let eve = Client::with_identity(&bench.address(), &eve).unwrap();
    let error = eve.nodes().await.unwrap_err();
    assert!(matches!(error, ClientError::NotTrusted { .. }), "{error}");
}

#[tokio::test]
async fn a_removed_node_cannot_come_back() {
    let bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    let removed = bench.operator.remove(joined.node).await.unwrap();
    assert_eq!(removed.state, NodeState::Left);
    for error in [
        joined.client.lease(joined.node, false).await.unwrap_err(),
        joined.client.renew(&joined.identity).await.unwrap_err(),
    ] {
        assert!(error.is_node_gone(), "{error}");
        let why = "an operator has removed this node";
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(code(bench.rejoin(&joined).await), codes::NOT_PERMITTED);
    // Its name is free for whoever holds a token.
    bench.join("web-0").await;
}

/// The fingerprint of a node's key, as the deny list has it.
fn key_of(joined: &Joined) -> String {
    let key = tidelock_certs::key_fingerprint(joined.identity.certificate()).unwrap();
    tidelock_certs::to_hex(&key)
}

#[tokio::test]
async fn a_removal_is_told_to_everybody_and_kept() {
    let mut bench = Bench::new().await;
    let other = bench.join("web-1").await;
    let first = bench.join("web-0").await;
    let second = bench.rejoin(&first).await.unwrap();
    let mut watch = watching(&other.client).await;

    // By a start that is long gone: the key counts, and so the present start goes with it.
    bench.operator.remove(first.node).await.unwrap();
    let mut told = Vec::new();
    within(async {
        while told.len() < 2 {
            if let WatchEvent::Change { node, removed, .. } = watch.next().await.unwrap().unwrap() {
                told.push((node.id, node.state, removed));
            }
        }
    })
    .await;
    let key = key_of(&first);
    let change = |joined: &Joined| {
        let id = joined.node.to_string();
        (id, NodeState::Left, Some(key.clone()))
    };
    assert_eq!(told, [change(&first), change(&second)]);
    let refused = second.client.lease(second.node, false).await;
    assert!(refused.unwrap_err().is_node_gone());

    // Whoever comes later learns it from the snapshot, also after a restart and when joining.
    assert_eq!(
        bench.operator.nodes().await.unwrap().removed,
        std::slice::from_ref(&key)
    );
    bench.restart().await;
    assert_eq!(
        bench.join("web-2").await.members.removed,
        std::slice::from_ref(&key)
    );
    let opening = within(other.client.watch().next()).await.unwrap().unwrap();
    let WatchEvent::Snapshot(members) = opening else {
        panic!("{opening:?}");
    };
    assert_eq!(members.removed, [key]);
}

#[tokio::test]
async fn a_removed_node_sees_nothing_of_the_cluster() {
    let bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    let http = bench.raw(Some(&joined.identity));
    let mut open = http
        .get(bench.url("/v1/watch"))
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let snapshot = within(open.chunk()).await.unwrap().unwrap();
    assert!(snapshot.starts_with(b"{\"kind\":\"snapshot\""));

    bench.operator.remove(joined.node).await.unwrap();
    // The watch it had ends, and tells nothing of it.
    while let Some(line) = within(open.chunk()).await.unwrap() {
        assert!(line.starts_with(b"{\"kind\":\"heartbeat\""), "{line:?}");
    }
    for path in ["cluster", "nodes", "watch", "modules", "modules/any"] {
        let url = bench.url(&format!("/v1/{path}"));
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{path}");
        let why = answer.text().await.unwrap();
        assert!(
            why.contains("an operator has removed this node"),
            "{path}: {why}"
        );
    }
}

#[tokio::test]
async fn a_renewal_keeps_key_and_id() {
    let bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    let renewed = joined.client.renew(&joined.identity).await.unwrap();
    assert_ne!(renewed.certificate(), joined.identity.certificate());
    assert_eq!(renewed.tls_key(), joined.identity.tls_key());
    let authority = joined.identity.authority();
    let verify = |identity: &Identity| {
        let ticket = identity.ticket().unwrap();
        Ticket::verify(ticket, authority, identity.certificate(), UnixTime::now()).unwrap()
    };
    assert_eq!(verify(&renewed).node, joined.node);
    assert_eq!(verify(&renewed).environments, Environments::Any);
    let client = Client::with_identity(&bench.address(), &renewed).unwrap();
    client.lease(joined.node, false).await.unwrap();

    // Not for another key.
    let body = serde_json::json!({ "csr_pem": Key::generate().signing_request() });
    let http = bench.raw(Some(&joined.identity));
    let answer = http
        .post(bench.url("/v1/renew"))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
    assert!(
        answer
            .text()
            .await
            .unwrap()
            .contains(codes::BAD_SIGNING_REQUEST)
    );
}

/// The start that a ticket names.
fn start_of(ticket: &[u8]) -> NodeId {
    Ticket::read_unverified(ticket).unwrap().node
}

#[tokio::test]
async fn an_earlier_start_gets_no_renewal_and_nothing_of_the_later_one() {
    let bench = Bench::new().await;
    let first = bench.join("web-0").await;
    let second = bench.rejoin(&first).await.unwrap();
    // Its ticket may have run out on the way.
    let folder = bench.dir.path().join("state/authority");
    let authority = Authority::open(&folder, "sea", UnixTime::now()).unwrap();
    let expired = Ticket {
        not_before_s: 0,
        not_after_s: 1,
        ..Ticket::read_unverified(first.identity.ticket().unwrap()).unwrap()
    };
    let expired = testing::sign_ticket(&authority, &expired);
    let late = testing::with_ticket(&first.identity, Some(expired));
    for error in [
        first.client.renew(&first.identity).await.unwrap_err(),
        first.client.renew(&late).await.unwrap_err(),
        first.client.lease(first.node, false).await.unwrap_err(),
    ] {
        assert!(error.is_node_gone() && error.exit_code() == 5, "{error}");
        let move_of_its = "what still runs as n1 has to end";
        assert!(error.to_string().contains(move_of_its), "{error}");
    }
    let renewed = second.client.renew(&second.identity).await.unwrap();
    assert_eq!(start_of(renewed.ticket().unwrap()), second.node);

    // Nodes of earlier versions send no ticket: whoever asks so is taken for the latest start.
    let body = serde_json::json!({ "csr_pem": second.identity.key().signing_request() });
    let http = bench.raw(Some(&second.identity));
    let sent = http.post(bench.url("/v1/renew")).json(&body).send();
    let answer: RenewResponse = sent.await.unwrap().json().await.unwrap();
    assert_eq!(start_of(&from_hex(&answer.ticket).unwrap()), second.node);
}

#[tokio::test]
async fn a_renewal_that_names_another_start_is_not_taken() {
    let now = UnixTime::now();
    let authority = testing::authority("sea", now);
    let node = testing::node(&authority, NodeId(1), "web-0", testing::Odd::Nothing, now);
    let renewed_as = async |id: u64| {
        let request = node.key().signing_request();
        let certificate = authority.issue_node(&request, "web-0", LIMIT, now).unwrap();
        let ticket = authority.issue_ticket(&certificate, NodeId(id), Environments::Any);
        let answer = RenewResponse {
            cert_pem: tidelock_certs::identity::to_pem(&certificate),
            ticket: tidelock_certs::to_hex(&ticket.unwrap()),
        };
        let renew = axum::routing::post(move || {
            let answer = answer.clone();
            async move { axum::Json(answer) }
        });
        let router = axum::Router::new().route("/v1/renew", renew);
        let (address, serving) = control_of(&authority, router);
        let client = Client::with_identity(&address, &node).unwrap();
        let renewed = within(client.renew(&node)).await;
        serving.abort();
        renewed
    };
    let renewed = renewed_as(1).await.unwrap();
    assert_eq!(start_of(renewed.ticket().unwrap()), NodeId(1));
    let error = renewed_as(2).await.unwrap_err();
    assert!(matches!(error, ClientError::Answer { .. }), "{error}");
}

#[tokio::test]
async fn a_client_outlives_the_certificate_it_began_with() {
    let lifetime = Duration::from_secs(6);
    let mut bench = Bench::with(|config| config.certificate_lifetime = lifetime).await;
    let joined = bench.join("web-0").await;
    bench.config.certificate_lifetime = Duration::from_secs(3600);
    bench.restart().await;
    let clone = joined.client.clone();
    joined.client.renew(&joined.identity).await.unwrap();
    let before = Client::with_identity(&bench.address(), &joined.identity).unwrap();
    before.nodes().await.unwrap();

    let expires = i64::try_from(joined.identity.not_after().as_secs()).unwrap();
    // Used again and again, so that its connection stays open beyond that moment.
    while jiff::Timestamp::now().as_second() < expires - 1 {
        before.nodes().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await; // between two uses
    }
    until(expires + 1).await;
    clone.lease(joined.node, false).await.unwrap();
    // Neither the connection that is still open nor a new one.
    assert_eq!(code(before.nodes().await), codes::NOT_PERMITTED);
    let late = Client::with_identity(&bench.address(), &joined.identity).unwrap();
    let error = late.nodes().await.unwrap_err();
    assert!(matches!(error, ClientError::NotTrusted { .. }), "{error}");
}
