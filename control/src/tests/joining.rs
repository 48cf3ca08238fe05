//! Who is let in, and under which id.

use std::sync::{Arc, Mutex};

use axum::http::StatusCode;

use super::*;
use crate::api::{ErrorBody, JoinResponse, RejoinRequest};
use crate::http::ApiError;

#[tokio::test]
async fn a_node_joins_and_can_prove_who_it_is() {
    let bench = Bench::new().await;
    let joined = bench.join("web-0").await;
    assert_eq!(joined.node, NodeId(1));
    assert_eq!(joined.identity.name().uri(), "tidelock://sea/node/web-0");
    assert_eq!(joined.lease, bench.config.lease);
    assert_eq!(joined.members.nodes.len(), 1);
    assert_eq!(joined.members.nodes[0].state, NodeState::Alive);

    let ticket = Ticket::verify(
        joined.identity.ticket().unwrap(),
        load_operator(bench.control.as_ref().unwrap()).authority(),
        joined.identity.certificate(),
        UnixTime::now(),
    );
    assert_eq!(ticket.unwrap().node, NodeId(1));
    // Its certificate works: it may look, and renew its lease.
    assert_eq!(
        joined.client.nodes().await.unwrap(),
        bench.operator.nodes().await.unwrap()
    );
    joined.client.lease(joined.node, false).await.unwrap();
}

#[tokio::test]
async fn a_token_lets_in_as_many_as_it_says() {
    let bench = Bench::new().await;
    let token = bench.token(3).await;
    // Ten at once, whatever order they come in.
    let address = bench.address();
    let tries = (0..10).map(|number| {
        let (token, address) = (token.clone(), address.clone());
        tokio::spawn(async move {
            let node = described(&format!("node-{number}"));
            Client::join(&address, &token, &node)
                .await
                .map(|joined| joined.node)
        })
    });
    let mut ids = Vec::new();
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(id) => ids.push(id),
            Err(error) => assert_eq!(error.code(), Some(codes::TOKEN_REFUSED)),
        }
    }
    ids.sort();
    assert_eq!(ids, [NodeId(1), NodeId(2), NodeId(3)]);
    assert_eq!(bench.operator.nodes().await.unwrap().nodes.len(), 3);
}

#[tokio::test]
async fn all_tokens_that_do_not_work_get_the_same_answer() {
    let bench = Bench::new().await;
    let good = bench.token(1).await;
    Client::join(&bench.address(), &good, &described("first"))
        .await
        .unwrap();
    let expired = bench
        .operator
        .create_token(Duration::from_secs(1), 1)
        .await
        .unwrap();
    let expired: JoinToken = expired.token.parse().unwrap();
    until(jiff::Timestamp::now().as_second() + 2).await;

    let http = bench.raw(None);
    let mut answers = Vec::new();
    let secrets = [good.secret(), expired.secret(), "0000", "", &"f".repeat(32)];
    for secret in secrets {
        // A bad name and a bad request must not show that a token was looked at.
        for body in [join_body(secret, "second"), join_body(secret, "../")] {
            let answer = http
                .post(bench.url("/v1/join"))
                .json(&body)
                .send()
                .await
                .unwrap();
            answers.push((answer.status(), answer.text().await.unwrap()));
        }
    }
    assert_eq!(answers[0].0, 403);
    assert!(
        answers[0].1.contains(codes::TOKEN_REFUSED),
        "{}",
        answers[0].1
    );
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:#?}"
    );
}

#[tokio::test]
async fn a_bad_request_does_not_use_up_the_token() {
    let bench = Bench::new().await;
    let token = bench.token(1).await;
    let http = bench.raw(None);
    let send = async |body: &serde_json::Value| {
        let answer = http
            .post(bench.url("/v1/join"))
            .json(body)
            .send()
            .await
            .unwrap();
        let body: crate::api::ErrorBody = answer.json().await.unwrap();
        body.code
    };
    let good = join_body(token.secret(), "web-0");
    let with = |key: &str, value: &str| {
        let mut body = good.clone();
        body[key] = value.into();
        body
    };
    assert_eq!(
        send(&with("csr_pem", "nonsense")).await,
        codes::BAD_SIGNING_REQUEST
    );
    assert_eq!(
        send(&with("csr_pem", &"x".repeat(20_000))).await,
        codes::BAD_SIGNING_REQUEST
    );
    for name in ["", "UPPER", "a/b", "..", "a b", "%2e%2e"] {
        assert_eq!(
            send(&with("name", name)).await,
            codes::BAD_REQUEST,
            "{name}"
        );
    }
    for addr in [
        "0.0.0.0:1",
        "127.0.0.1:0",
        "224.0.0.1:5",
        "example.com:80",
        "file:///x",
    ] {
        assert_eq!(
            send(&with("addr", addr)).await,
            codes::BAD_REQUEST,
            "{addr}"
        );
        assert_eq!(
            send(&with("admin_addr", addr)).await,
            codes::BAD_REQUEST,
            "{addr}"
        );
    }
    assert_eq!(
        send(&with("version", &"9".repeat(65))).await,
        codes::BAD_REQUEST
    );
    assert_eq!(send(&with("version", "a\nb")).await, codes::BAD_REQUEST);
    let mut long = good.clone();
    for tag in 0..17 {
        long["tags"][tag.to_string()] = "\"".repeat(256).into();
    }
    assert_eq!(send(&long).await, codes::BAD_REQUEST);
    Client::join(&bench.address(), &token, &described("web-0"))
        .await
        .unwrap();
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let limits = JoinLimits {
        source_attempts_max: 12,
        source_refill: Duration::from_secs(3600),
        ..JoinLimits::default()
    };
    let bench = Bench::with(|config| config.join_limits = limits).await;
    let http = bench.raw(None);
    let guess = "f".repeat(32);
    let mut answers = Vec::new();
    for _ in 0..4 {
        let body = join_body(&guess, "eve");
        let sent = http.post(bench.url("/v1/join")).json(&body).send();
        let body: crate::api::ErrorBody = sent.await.unwrap().json().await.unwrap();
        answers.push(body.code);
    }
    // A failure counts as five attempts: 12 are used up by the third.
    let refused = codes::TOKEN_REFUSED;
    assert_eq!(answers, [refused, refused, refused, codes::TOO_MANY]);
    // Members are not strangers.
    bench.operator.nodes().await.unwrap();
}

#[tokio::test]
async fn guesses_of_others_keep_nobody_out() {
    let limits = JoinLimits {
        all_attempts_max: 4,
        all_refill: Duration::from_secs(3600),
        ..JoinLimits::default()
    };
    let bench = Bench::with(|config| config.join_limits = limits).await;
    let body = join_body(&"f".repeat(32), "eve");
    let sent = bench
        .raw(None)
        .post(bench.url("/v1/join"))
        .json(&body)
        .send();
    assert_eq!(sent.await.unwrap().status(), 429);
    bench.join("web-0").await;
}

#[tokio::test]
async fn a_join_waits_while_there_are_too_many() {
    let limits = JoinLimits {
        source_attempts_max: 1,
        source_refill: Duration::from_millis(300),
        ..JoinLimits::default()
    };
    let bench = Bench::with(|config| config.join_limits = limits).await;
    bench.join("web-0").await;
    bench.join("web-1").await;
}

#[tokio::test]
async fn a_join_trusts_only_the_tokens_authority() {
    let bench = Bench::new().await;
    let other = testing::authority("sea", UnixTime::now());
    let token = JoinToken::generate(other.certificate());
    let error = Client::join(&bench.address(), &token, &described("web-0"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotTrusted { .. }), "{error}");
    assert!(
        error.to_string().contains("the join token names"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 5);
}

#[tokio::test]
async fn a_token_does_not_let_anybody_be_somebody_else() {
    let bench = Bench::new().await;
    let first = bench.join("web-0").await;
    let token = bench.token(1).await;
    let body = join_body(token.secret(), "web-0");
    let send = async || {
        let sent = bench
            .raw(None)
            .post(bench.url("/v1/join"))
            .json(&body)
            .send();
        sent.await.unwrap()
    };
    let answer = send().await;
    assert_eq!(answer.status(), 409);
    assert!(answer.text().await.unwrap().contains("n1 is called"));
    assert_eq!(bench.state(first.node).await, NodeState::Alive);
    // Once the name is free, the same token works.
    first.client.leave(first.node).await.unwrap();
    assert_eq!(send().await.status(), 200);
}

#[tokio::test]
async fn a_restarted_node_is_a_new_node() {
    let bench = Bench::new().await;
    let first = bench.join("web-0").await;
    let mut watch = watching(&bench.operator).await;

    let second = bench.rejoin(&first).await.unwrap();
    assert_eq!(second.node, NodeId(2));
    assert_eq!(second.identity.tls_key(), first.identity.tls_key());
    assert_eq!(changes(&mut watch, 2).await, ["n1 left", "n2 alive"]);
    // The first start cannot come back.
    let error = first.client.lease(first.node, false).await.unwrap_err();
    assert!(error.is_node_gone(), "{error}");
    assert_eq!(bench.state(NodeId(1)).await, NodeState::Left);
}

/// A request of the start that is marked so and knows of `after`, as it travels.
fn rejoin_body(joined: &Joined, mark: &str, after: &str) -> serde_json::Value {
    serde_json::json!({
        "csr_pem": joined.identity.key().signing_request(), "addr": "127.0.0.1:1",
        "admin_addr": "127.0.0.1:2", "version": "1", "start": mark.repeat(16), "after": after,
    })
}

#[tokio::test]
async fn a_rejoin_that_comes_late_does_not_end_the_start_that_came_first() {
    let mut bench = Bench::new().await;
    let first = bench.join("web-0").await;
    let send = async |bench: &Bench, body: &serde_json::Value| {
        let http = bench.raw(Some(&first.identity));
        let sent = http.post(bench.url("/v1/rejoin")).json(body).send();
        sent.await.unwrap()
    };
    let held_up = rejoin_body(&first, "0a", "n1");
    let second = bench.rejoin(&first).await.unwrap();
    assert_eq!(second.node, NodeId(2));
    for _ in 0..2 {
        let answer = send(&bench, &held_up).await;
        assert_eq!(answer.status(), 409);
        let body: ErrorBody = answer.json().await.unwrap();
        let told = (body.code.as_str(), body.newest.as_deref());
        assert_eq!(told, (codes::LATER_START, Some("n2")));
        second.client.lease(second.node, false).await.unwrap();
        bench.restart().await;
    }
    // One whose answer was lost on the way comes again, also after a restart.
    let repeated = rejoin_body(&first, "0b", "n2");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer: JoinResponse = send(&bench, &repeated).await.json().await.unwrap();
        let ticket = Ticket::read_unverified(&from_hex(&answer.ticket).unwrap()).unwrap();
        assert_eq!(ticket.node.to_string(), answer.node_id);
        ids.push(answer.node_id);
        bench.restart().await;
    }
    assert_eq!(ids, ["n3", "n3"]);
    assert_eq!(bench.state(NodeId(3)).await, NodeState::Alive);
    // Whoever knows of the first start only, because of a crash or an old copy, is not kept out.
    assert_eq!(bench.rejoin(&first).await.unwrap().node, NodeId(4));
    // What is no mark and no node is refused before anything is looked at.
    for (mark, after) in [("0", "n4"), ("0A", "n4"), ("0a0a", "n4"), ("0c", "4x")] {
        let answer = send(&bench, &rejoin_body(&first, mark, after)).await;
        assert_eq!(answer.status(), 400, "{mark} {after}");
    }
    assert_eq!(bench.state(NodeId(4)).await, NodeState::Alive);
}

#[tokio::test]
async fn a_node_that_is_told_of_a_later_start_asks_again_with_that() {
    let now = UnixTime::now();
    let authority = testing::authority("sea", now);
    let node = testing::node(&authority, NodeId(1), "web-0", testing::Odd::Nothing, now);
    let asked: Arc<Mutex<Vec<RejoinRequest>>> = Arc::default();
    let asking = Arc::clone(&asked);
    let answer = move |axum::Json(request): axum::Json<RejoinRequest>| {
        let count = {
            let mut asked = asking.lock().unwrap();
            asked.push(request);
            asked.len()
        };
        async move {
            // Of each start twice, as if others came in between; then it would be its turn.
            if count.is_multiple_of(3) {
                ApiError::new(StatusCode::FORBIDDEN, codes::NOT_PERMITTED, "no")
            } else {
                let later = ApiError::new(StatusCode::CONFLICT, codes::LATER_START, "later");
                later.newest(format!("n{}", count + 6))
            }
        }
    };
    let router = axum::Router::new().route("/v1/rejoin", axum::routing::post(answer));
    let (address, serving) = control_of(&authority, router);
    for _ in 0..2 {
        let rejoined = within(Client::rejoin(&address, &node, &described("web-0"))).await;
        assert_eq!(code(rejoined), codes::NOT_PERMITTED);
    }
    serving.abort();
    let asked = asked.lock().unwrap();
    let after: Vec<&str> = asked
        .iter()
        .filter_map(|request| request.after.as_deref())
        .collect();
    assert_eq!(after, ["n1", "n7", "n8", "n1", "n10", "n11"]);
    // One start has one mark, and no other has the same.
    let marks: Vec<&str> = asked
        .iter()
        .filter_map(|request| request.start.as_deref())
        .collect();
    assert_eq!(marks, [[marks[0]; 3], [marks[3]; 3]].concat());
    assert_ne!(marks[0], marks[3]);
}

#[tokio::test]
async fn ids_are_limited_per_name() {
    let limits = JoinLimits {
        ids_per_name_hour_max: 3,
        ..JoinLimits::default()
    };
    let bench = Bench::with(|config| config.join_limits = limits).await;
    let mut joined = bench.join("crasher").await;
    for _ in 0..2 {
        joined = bench.rejoin(&joined).await.unwrap();
    }
    // Not the code of what passes in a moment.
    assert_eq!(code(bench.rejoin(&joined).await), codes::TOO_MANY_IDS);
    // Nothing to wait for, as there is while many others join.
    joined.client.leave(joined.node).await.unwrap();
    let token = bench.token(1).await;
    let began = std::time::Instant::now();
    let error = Client::join(&bench.address(), &token, &described("crasher"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(codes::TOO_MANY_IDS));
    assert!(!error.is_temporary(), "{error}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(bench.join("other").await.node, NodeId(4));
}

#[tokio::test]
async fn open_tokens_are_limited_and_that_does_not_pass_in_a_moment() {
    let mut bench = Bench::new().await;
    bench.restart().await;
    bench.control.take().unwrap().shutdown().await;
    let path = bench.dir.path().join("state/store.redb");
    let in_an_hour_s = jiff::Timestamp::now().as_second() + 3600;
    crate::store::tests::fill_with_tokens(&path, in_an_hour_s);
    bench.control = Some(serve(bench.config.clone()).await.unwrap());
    let error = bench.operator.create_token(LIMIT, 1).await.unwrap_err();
    assert_eq!(error.code(), Some(codes::TOO_MANY_TOKENS));
    assert!(!error.is_temporary() && error.exit_code() == 5, "{error}");
}

#[tokio::test]
async fn a_restarted_control_plane_remembers_everything() {
    let mut bench = Bench::new().await;
    let used = bench.token(1).await;
    Client::join(&bench.address(), &used, &described("one"))
        .await
        .unwrap();
    let two = bench.join("two").await;
    two.client.leave(two.node).await.unwrap();
    let unused = bench.token(1).await;
    let module = bench
        .operator
        .put_module(Some("hello.wasm"), WASM)
        .await
        .unwrap();
    let before = bench.operator.nodes().await.unwrap();

    bench.restart().await;

    assert_eq!(bench.operator.nodes().await.unwrap(), before);
    assert_eq!(bench.operator.modules().await.unwrap(), [module]);
    let again = Client::join(&bench.address(), &used, &described("three")).await;
    assert_eq!(code(again), codes::TOKEN_REFUSED);
    let next = Client::join(&bench.address(), &unused, &described("three"))
        .await
        .unwrap();
    assert_eq!(next.node, NodeId(3));
    assert_eq!(next.members.revision, before.revision + 1);
    // Certificates made before are still good.
    bench.rejoin(&two).await.unwrap();
}

#[tokio::test]
async fn two_control_planes_cannot_share_a_store() {
    let bench = Bench::new().await;
    let config = ControlConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        ..bench.config.clone()
    };
    let error = serve(config.clone()).await.unwrap_err();
    assert!(
        matches!(error, ServeError::Store(StoreError::InUse(_))),
        "{error}"
    );
    assert!(
        error.to_string().contains("another control plane is using"),
        "{error}"
    );

    let mut bench = bench;
    bench.control.take().unwrap().shutdown().await;
    let other = ControlConfig {
        cluster: "lake".to_owned(),
        ..config.clone()
    };
    let error = serve(other).await.unwrap_err().to_string();
    assert!(
        error.contains("belongs to cluster \"sea\", not to \"lake\""),
        "{error}"
    );
    serve(config).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_torn_store_is_refused_and_left_alone() {
    let mut bench = Bench::new().await;
    bench.control.take().unwrap().shutdown().await;
    let path = bench.dir.path().join("state/store.redb");
    std::fs::write(&path, b"torn").unwrap();
    let error = serve(bench.config.clone()).await.unwrap_err();
    assert!(
        matches!(error, ServeError::Store(StoreError::Database(_))),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"torn");
}

#[tokio::test]
async fn books_that_are_gone_are_not_made_again_beside_their_authority() {
    let mut bench = Bench::new().await;
    bench.control.take().unwrap().shutdown().await;
    let path = bench.dir.path().join("state/store.redb");
    let kept = std::fs::read(&path).unwrap();
    let refused = async || {
        let error = serve(bench.config.clone()).await.unwrap_err();
        assert!(
            matches!(error, ServeError::Store(StoreError::Missing(_))),
            "{error}"
        );
        assert!(error.to_string().contains("put a backup"), "{error}");
    };
    std::fs::remove_file(&path).unwrap();
    refused().await;
    assert!(!path.exists());
    std::fs::write(&path, b"").unwrap();
    refused().await;
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    std::fs::write(&path, kept).unwrap();
    serve(bench.config.clone()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_store_that_is_damaged_inside_is_refused() {
    let mut bench = Bench::new().await;
    bench.join("one").await;
    bench.control.take().unwrap().shutdown().await;
    let path = bench.dir.path().join("state/store.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    // Whatever follows the page that says what the file is.
    bytes[4096..].iter_mut().for_each(|byte| *byte ^= 0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = serve(bench.config.clone()).await.unwrap_err();
    assert!(
        matches!(error, ServeError::Store(StoreError::Database(_))),
        "{error}"
    );
}

#[tokio::test]
async fn a_backup_of_the_books_ends_no_node_and_no_id_is_handed_out_twice() {
    let mut bench = Bench::new().await;
    bench.join("one").await;
    bench.restart().await;
    let path = bench.dir.path().join("state/store.redb");
    let stop = async |bench: &mut Bench| bench.control.take().unwrap().shutdown().await;
    stop(&mut bench).await;
    let backup = std::fs::read(&path).unwrap();
    bench.control = Some(serve(bench.config.clone()).await.unwrap());
    let two = bench.join("two").await;
    assert_eq!(two.node, NodeId(2));
    stop(&mut bench).await;
    std::fs::write(&path, backup).unwrap();
    bench.control = Some(serve(bench.config.clone()).await.unwrap());

    let error = two.client.lease(two.node, false).await.unwrap_err();
    assert_eq!(error.code(), Some(codes::STORE));
    assert!(error.is_temporary() && !error.is_node_gone(), "{error}");
    // Its renewal is told the same.
    let error = two.client.renew(&two.identity).await.unwrap_err();
    assert_eq!(error.code(), Some(codes::STORE));
    // Without the ticket it is anybody's word.
    let sent = bench
        .raw(Some(&two.identity))
        .put(bench.url("/v1/nodes/n9/lease"))
        .json(&serde_json::json!({}))
        .send();
    assert_eq!(sent.await.unwrap().status(), 410);
    assert_eq!(bench.join("three").await.node, NodeId(3));
    let again = bench.rejoin(&two).await.unwrap();
    again.client.lease(again.node, false).await.unwrap();
}
