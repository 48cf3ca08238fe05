//! Modules and requests nobody should send, and what the client makes of trouble.

use super::*;

#[tokio::test]
async fn modules_are_known_by_their_content() {
    let bench = Bench::new().await;
    let node = bench.join("web-0").await;
    let bytes = [WASM, &[0, 2, 1, b'x']].concat();
    let info = bench
        .operator
        .put_module(Some("hello.wasm"), bytes.clone())
        .await
        .unwrap();
    let hash = crate::modules::hash_of(&bytes);
    assert_eq!(
        (info.hash.as_str(), info.size_bytes),
        (hash.to_string().as_str(), 12)
    );

    assert_eq!(node.client.module(hash).await.unwrap(), bytes);
    assert_eq!(
        node.client.module_named("hello.wasm").await.unwrap(),
        (hash, bytes.clone().into())
    );
    // Again, without a name: nothing is lost. Another content: the name moves on.
    assert_eq!(
        bench
            .operator
            .put_module(None, bytes.clone())
            .await
            .unwrap(),
        info
    );
    let other = bench
        .operator
        .put_module(Some("hello.wasm"), WASM)
        .await
        .unwrap();
    assert_eq!(
        node.client.module_named("hello.wasm").await.unwrap().1,
        WASM
    );
    assert_eq!(node.client.module(hash).await.unwrap(), bytes);
    assert_eq!(bench.operator.modules().await.unwrap().len(), 2);
    assert_ne!(other.hash, info.hash);

    let unknown = crate::modules::hash_of(b"?");
    assert_eq!(
        node.client.module(unknown).await.unwrap_err().exit_code(),
        4
    );
    assert_eq!(
        code(node.client.module_named("nobody").await),
        codes::NOT_FOUND
    );
}

#[tokio::test]
async fn a_deploy_that_comes_late_takes_no_name_back() {
    let mut bench = Bench::new().await;
    let operator = load_operator(bench.control.as_ref().unwrap());
    let put = async |bench: &Bench, query: &str, bytes: &[u8]| {
        let url = bench.url(&format!("/v1/modules?name=m{query}"));
        let put = bench.raw(Some(&operator)).put(url).body(bytes.to_vec());
        let answer = put.send().await.unwrap();
        let status = answer.status().as_u16();
        let refused = answer.json::<crate::api::ErrorBody>().await;
        (status, refused.ok().map(|body| body.code))
    };
    let (done, late) = ((200, None), (409, Some(codes::LATER_DEPLOY.to_owned())));
    let other = [WASM, &[0, 2, 1, b'x']].concat();
    // Twice, as if the first answer was lost; then a later one.
    assert_eq!(put(&bench, "&after=0", WASM).await, done);
    assert_eq!(put(&bench, "&after=0", WASM).await, done);
    let deploy = bench.operator.put_module(Some("m"), other.clone());
    assert_eq!(deploy.await.unwrap().names, ["m"]);
    for _ in 0..2 {
        assert_eq!(put(&bench, "&after=0", WASM).await, late);
        assert_eq!(bench.operator.module_named("m").await.unwrap().1, other);
        bench.restart().await;
    }
    // Back, on purpose: the one in between does not come again.
    bench.operator.put_module(Some("m"), WASM).await.unwrap();
    assert_eq!(put(&bench, "&after=1", &other).await, late);
    assert_eq!(bench.operator.module_named("m").await.unwrap().1, WASM);
    // Somebody whose version says nothing of what it follows.
    assert_eq!(put(&bench, "", &other).await, done);
    assert_eq!(bench.operator.module_named("m").await.unwrap().1, other);
    assert_eq!(put(&bench, "&after=-1", WASM).await.0, 400);
}

#[tokio::test]
async fn a_client_says_what_its_deploy_follows() {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::RawQuery;
    use axum::http::StatusCode;

    use crate::api::ModuleName;
    use crate::http::ApiError;

    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let modules = || {
        let asked = Arc::clone(&asked);
        axum::routing::put(move |RawQuery(query): RawQuery| {
            asked.lock().unwrap().push(query.unwrap());
            async { ApiError::new(StatusCode::CONFLICT, codes::LATER_DEPLOY, "later") }
        })
    };
    let name = axum::routing::get(|| async { axum::Json(ModuleName { deploys: 7 }) });
    // One of an earlier version does not count.
    let earlier = Router::new().route("/v1/modules", modules());
    let counts = Router::new()
        .route("/v1/modules", modules())
        .route("/v1/module-names/m", name);
    for control in [earlier, counts] {
        let (client, serving) = in_place_of_control(control);
        let put = within(client.put_module(Some("m"), WASM)).await;
        assert_eq!(code(put), codes::LATER_DEPLOY);
        serving.abort();
    }
    let asked = asked.lock().unwrap();
    let after: Vec<_> = asked
        .iter()
        .map(|query| query.split('&').find(|part| part.starts_with("after=")))
        .collect();
    // Each is asked once: somebody has to look whether it is still wanted.
    assert_eq!(after, [None, Some("after=7")]);
}

#[tokio::test]
async fn bad_modules_are_refused() {
    let bench = Bench::new().await;
    let operator = load_operator(bench.control.as_ref().unwrap());
    let http = bench.raw(Some(&operator));
    let put = async |query: &str, bytes: &[u8]| {
        let url = bench.url(&format!("/v1/modules?{query}"));
        http.put(url)
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(put("", b"").await, 422);
    assert_eq!(put("", b"\0asm\x0d\0\x01\0").await, 422, "a component");
    let lie = crate::modules::hash_of(b"something else");
    assert_eq!(put(&format!("hash={lie}"), WASM).await, 422);
    assert_eq!(put("hash=b3:12", WASM).await, 400);
    for name in [
        "..",
        "%2e%2e%2fx",
        "a%00b",
        "%2Fetc%2Fpasswd",
        "a%5cb",
        ".x",
        "",
        "b3%3Aff",
    ] {
        assert_eq!(put(&format!("name={name}"), WASM).await, 400, "{name}");
    }
    assert_eq!(put(&format!("name={}", "x".repeat(129)), WASM).await, 400);
    assert!(bench.operator.modules().await.unwrap().is_empty());

    let get = async |path: &str| {
        http.get(bench.url(&format!("/v1/modules/{path}")))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for path in [
        "%2e%2e",
        "%2e%2e%2fstore.redb",
        "..%2f..%2fauthority%2fauthority.pem",
        "%00",
    ] {
        assert!(matches!(get(path).await, 400 | 404), "{path}");
    }
    assert_eq!(put("name=ok", WASM).await, 200);
}

#[tokio::test]
async fn a_damaged_module_is_not_given_out() {
    let bench = Bench::new().await;
    bench.operator.put_module(Some("m"), WASM).await.unwrap();
    let dir = bench.dir.path().join("state/modules");
    let file = std::fs::read_dir(&dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&file, b"\0asm\x01\0\0\x01").unwrap();
    let hash = crate::modules::hash_of(WASM);
    let is_refused = async || {
        let error = bench.operator.module(hash).await.unwrap_err();
        assert_eq!(error.code(), Some(codes::STORE));
        assert!(!error.is_temporary(), "{error}");
    };
    is_refused().await;
    std::fs::remove_file(&file).unwrap();
    is_refused().await;
    // Deploying it again repairs it.
    bench.operator.put_module(None, WASM).await.unwrap();
    assert_eq!(bench.operator.module(hash).await.unwrap(), WASM);
}

#[tokio::test]
async fn oversized_and_nested_bodies_are_refused() {
    let bench = Bench::new().await;
    let operator = load_operator(bench.control.as_ref().unwrap());
    let http = bench.raw(Some(&operator));
    let post = async |body: String| {
        let answer = http
            .post(bench.url("/v1/tokens"))
            .body(body)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (
            status,
            answer.json::<crate::api::ErrorBody>().await.unwrap().code,
        )
    };
    let too_large = (413, codes::TOO_LARGE.to_owned());
    let bad = (400, codes::BAD_REQUEST.to_owned());
    assert_eq!(
        post(format!("{{\"ttl_s\": {}1}}", " ".repeat(65_536))).await,
        too_large
    );
    assert_eq!(post("[".repeat(60_000)).await, bad);
    assert_eq!(
        post(format!("{{\"x\": {}", "{\"x\":".repeat(10_000))).await,
        bad
    );
    for body in [
        "",
        "null",
        "{",
        "{\"ttl_s\": -1}",
        "{\"ttl_s\": 1e99}",
        "{\"ttl_s\": 0}",
        "\u{0}",
    ] {
        assert_eq!(post(body.to_owned()).await, bad, "{body:?}");
    }
    let module = vec![0; crate::modules::MODULE_BYTES_MAX + 1];
    let answer = http.put(bench.url("/v1/modules")).body(module).send().await;
    // The server may hang up before all of it is sent.
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 413));
    // Nothing of this has done harm.
    bench.operator.nodes().await.unwrap();
}

#[tokio::test]
async fn unknown_paths_and_methods_are_explained() {
    let bench = Bench::new().await;
    let http = bench.raw(None);
    for (method, path, status, code) in [
        ("GET", "/", 404, codes::NOT_FOUND),
        ("GET", "/v1/../v1/nodez", 404, codes::NOT_FOUND),
        ("DELETE", "/v1/join", 405, codes::BAD_REQUEST),
    ] {
        let method = method.parse().unwrap();
        let answer = http.request(method, bench.url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(
            answer.json::<crate::api::ErrorBody>().await.unwrap().code,
            code
        );
    }
    let operator = load_operator(bench.control.as_ref().unwrap());
    let http = bench.raw(Some(&operator));
    for (method, path) in [
        ("GET", "modules/%ff"),
        ("DELETE", "nodes/%ff"),
        ("PUT", "nodes/%ff/lease"),
    ] {
        let method = method.parse().unwrap();
        let url = bench.url(&format!("/v1/{path}"));
        let answer = http.request(method, url).send().await.unwrap();
        let code = answer.json::<crate::api::ErrorBody>().await.unwrap().code;
        // Only a node has a lease.
        let refused = [codes::BAD_REQUEST, codes::NOT_PERMITTED];
        assert!(refused.contains(&code.as_str()), "{path}: {code}");
    }
    for id in ["n0", "n99", "-1", "n8388608", "x", "%2e%2e"] {
        let answer = http
            .delete(bench.url(&format!("/v1/nodes/{id}")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 404, "{id}");
    }
}

#[tokio::test]
async fn a_connection_of_a_stranger_is_closed_after_one_answer() {
    let bench = Bench::new().await;
    let operator = load_operator(bench.control.as_ref().unwrap());
    for (identity, closes) in [(None, true), (Some(&operator), false)] {
        for path in ["/livez", "/nothing"] {
            let http = bench.raw(identity);
            let answer = http.get(bench.url(path)).send().await.unwrap();
            let said = answer.headers().get(reqwest::header::CONNECTION);
            assert_eq!(said.is_some_and(|said| said == "close"), closes, "{path}");
        }
    }
}

#[tokio::test]
async fn modules_on_their_way_out_are_bounded() {
    let bench = Bench::new().await;
    let mut bytes = WASM.to_vec();
    // More than a connection holds of it in buffers.
    bytes.resize(32 << 20, 0);
    let info = bench.operator.put_module(Some("m"), bytes).await.unwrap();
    let url = bench.url(&format!("/v1/modules/{}", info.hash));
    let operator = load_operator(bench.control.as_ref().unwrap());
    let get = || bench.raw(Some(&operator)).get(&url).send();
    // Readers that have the head of their answer and take no more of it.
    let mut open = Vec::new();
    for _ in 0..crate::server::MODULES_OUT_MAX {
        open.push(within(get()).await.unwrap().error_for_status().unwrap());
    }
    let length = open[0].content_length();
    assert_eq!(length, Some(info.size_bytes));
    let mut next = tokio::spawn(get());
    // Others are served in the meantime; it is not.
    bench.operator.nodes().await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(200), &mut next).await;
    assert!(waits.is_err(), "there were places for all");
    open.pop();
    let answer = within(next).await.unwrap().unwrap();
    let whole = within(answer.bytes()).await.unwrap();
    assert_eq!(whole.len(), 32 << 20);
}

#[tokio::test]
async fn a_module_that_cannot_be_had_for_the_moment_is_asked_for_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::StatusCode;

    use crate::http::ApiError;

    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let answer = axum::routing::get(|| async {
        let refused = |status, code: &str| Err(ApiError::new(status, code, "not now"));
        match ASKED.fetch_add(1, Ordering::Relaxed) {
            0 => refused(StatusCode::TOO_MANY_REQUESTS, codes::TOO_MANY),
            1 => refused(StatusCode::SERVICE_UNAVAILABLE, codes::STORE),
            2 => Ok(WASM),
            _ => refused(StatusCode::NOT_FOUND, codes::NOT_FOUND),
        }
    });
    let router = axum::Router::new().route("/v1/modules/{which}", answer);
    let (client, serving) = in_place_of_control(router);
    let hash = crate::modules::hash_of(WASM);
    assert_eq!(within(client.module(hash)).await.unwrap(), WASM);
    // One that is not there is not waited for.
    assert_eq!(code(client.module(hash).await), codes::NOT_FOUND);
    assert_eq!(ASKED.load(Ordering::Relaxed), 4);
    serving.abort();
}

#[tokio::test]
async fn endless_heads_are_cut_off() {
    let bench = Bench::new().await;
    let address: SocketAddr = bench.control.as_ref().unwrap().addr();
    // Plain bytes instead of TLS, and a great many of them.
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = plain.write_all(&[b'a'; 100_000]).await;
    let mut end = Vec::new();
    let _ = within(plain.read_to_end(&mut end)).await;
    // 10 000 headers.
    let operator = load_operator(bench.control.as_ref().unwrap());
    let mut headers = reqwest::header::HeaderMap::new();
    for number in 0..10_000u32 {
        let name = format!("x-{number}")
            .parse::<reqwest::header::HeaderName>()
            .unwrap();
        headers.insert(name, number.into());
    }
    let http = bench.raw(Some(&operator));
    let answer = http
        .get(bench.url("/v1/nodes"))
        .headers(headers)
        .send()
        .await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    bench.operator.nodes().await.unwrap();
}

#[tokio::test]
async fn bodies_that_trickle_are_cut_off() {
    let bench = Bench::new().await;
    let operator = load_operator(bench.control.as_ref().unwrap());
    // A body that never ends, a byte at a time, of somebody whom we know and of a stranger.
    let trickle = async |http: reqwest::Client, path: &str| {
        let bytes = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(100)).await; // how slow it is, is what is shown
            Some((Ok::<_, std::io::Error>(bytes::Bytes::from_static(b" ")), ()))
        });
        let body = reqwest::Body::wrap_stream(bytes);
        let began = std::time::Instant::now();
        let answer = within(http.post(bench.url(path)).body(body).send()).await;
        // It may hang up instead of answering somebody who still speaks.
        let status = answer.ok().map(|answer| answer.status().as_u16());
        (status, began.elapsed())
    };
    let all = [
        trickle(bench.raw(Some(&operator)), "/v1/tokens"),
        trickle(bench.raw(None), "/v1/join"),
    ];
    let served = async {
        // The others are served in the meantime.
        for _ in 0..20 {
            bench.operator.nodes().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await; // between two requests
        }
    };
    let (ends, ()) = tokio::join!(futures_util::future::join_all(all), served);
    for (status, took) in ends {
        assert!(matches!(status, None | Some(408)), "{status:?}");
        // Ten seconds for a body of JSON.
        let took = took.as_secs_f64();
        assert!((9.5..20.0).contains(&took), "{took} s");
    }
}

#[tokio::test]
async fn an_unreachable_control_plane_is_named() {
    // A port that is taken and not listened on: nobody else can answer there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let authority = testing::authority("sea", UnixTime::now());
    let identity = authority
        .issue_identity(Role::Operator, "ann", &[], LIMIT, UnixTime::now())
        .unwrap();
    let client = Client::with_identity(&address, &identity).unwrap();
    let error = client.create_token(LIMIT, 1).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("control unreachable at {address}: ")),
        "{text}"
    );
    assert_eq!(error.exit_code(), 3);

    for bad in [
        "",
        "a b",
        "host",
        "127.0.0.1",
        "[::1]",
        "host:",
        "host:0",
        "host:99999",
        "user@host:1",
        "host:1/path",
    ] {
        let error = Client::with_identity(bad, &identity).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{bad}: {error}");
    }
}

#[tokio::test]
async fn a_call_waits_for_a_control_plane_that_is_restarting() {
    let mut bench = Bench::new().await;
    let control = bench.control.take().unwrap();
    bench.config.listen = control.addr();
    control.shutdown().await;
    let call = tokio::spawn({
        let operator = bench.operator.clone();
        async move { operator.nodes().await }
    });
    let control = serve(bench.config.clone()).await.unwrap();
    within(call).await.unwrap().unwrap();
    control.shutdown().await;
}

#[tokio::test]
async fn shutdown_ends_watches_and_frees_the_directory() {
    let mut bench = Bench::new().await;
    let mut watch = watching(&bench.operator).await;
    within(bench.control.take().unwrap().shutdown()).await;
    assert!(matches!(
        within(watch.next()).await,
        Some(Err(ClientError::Unreachable { .. }))
    ));
    serve(bench.config.clone()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn secrets_are_not_kept_in_the_clear() {
    let bench = Bench::new().await;
    let token = bench.token(1).await;
    let state = bench.dir.path().join("state");
    let needle = token.secret().as_bytes();
    let hex = from_hex(token.secret()).unwrap();
    visit(&state, &mut |path, bytes| {
        let found = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(
            !found(needle) && !found(&hex),
            "{} holds the secret",
            path.display()
        );
    });
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        for secret in ["authority/authority.pem", "operator/key.pem"] {
            let mode = std::fs::metadata(state.join(secret))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        assert_eq!(
            std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
    let operator = load_operator(bench.control.as_ref().unwrap());
    assert_eq!(
        peer_name(operator.certificate()).unwrap().role,
        Role::Operator
    );
}

fn visit(dir: &Path, f: &mut impl FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, f);
        } else {
            f(&path, &std::fs::read(&path).unwrap());
        }
    }
}
