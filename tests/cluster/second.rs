//! The second connection of a session: who may bring it, and what its end is.
//!
//! The stranger is the one of `strangers.rs`: it does everything right but one thing.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tidelock_certs::testing::Odd;
use tidelock_node::transport::{Connection, Opened, Socket, Transport, TransportError};
use tidelock_proto::NodeId;
use tidelock_proto::wire::{self, BulkHead, Frame, Hello};

use crate::bench::Guest;
use crate::faults::ms;
use crate::pressure::{encoded, holder, knock, old, route};
use crate::strangers::{Bystanders, Stranger};

/// A message of 100 000 bytes travels on its own stream.
const BULK_BYTES: u64 = 100_000;

/// Shows this on a second connection, and returns how the connection ended.
async fn shown(second: &Connection, us: NodeId, token: [u8; 32]) -> String {
    // It may be closed before it has taken all of it.
    let _ = second.prove(us, &token).await;
    second.closed().await
}

/// A process of the stranger has a link and a monitor with one of node `a`.
fn bound(by: &Bystanders, stranger: &mut Stranger, id: u64) -> Guest {
    let guest = by.cluster.spawn("a", &["bind", &format!("n{id}.1")]);
    by.cluster.block_on(stranger.let_bind(2));
    guest.one("bound");
    guest
}

/// Fails unless the guest was told once by its link and once by its monitor.
fn told_once(guest: &Guest) -> String {
    let (link, down) = (guest.one("link"), guest.one("down"));
    for seen in [&link, &down] {
        assert_eq!(seen.number("code"), 255, "{}", seen.text);
    }
    assert_eq!((guest.all("link").len(), guest.all("down").len()), (1, 1));
    link.text("why")
}

/// Brings a bulk message to the guest.
async fn deliver(stranger: &mut Stranger, id: u64, to: &Guest, apart: bool) {
    let (stream, bytes) = (1, BULK_BYTES);
    let route = route(&format!("n{id}.1"), &to.pid);
    let head = BulkHead { stream, bytes };
    stranger.say(&Frame::Bulk(route, Some(5), head)).await;
    let lane = if apart {
        stranger.bulk.open_sized_bulk(stream, bytes).await
    } else {
        stranger.bulk.open_bulk(stream).await
    };
    let mut lane = lane.expect("the session is open");
    let data = Bytes::from(vec![7; 100_000]);
    lane.write(data).await.expect("it is taken");
    lane.finish().await.expect("it is read");
}

#[test]
fn a_second_connection_belongs_to_one_session_and_is_taken_once() {
    let by = Bystanders::new();
    let holder = holder(&by);
    let (us, another) = (NodeId(1300), NodeId(1301));
    let identity = by.identity(1300, Odd::Nothing);
    let addr = by.cluster.node("a").addr();
    let hello = by.hello(&identity, 1300);
    let met = by
        .cluster
        .block_on(Stranger::meet_by_half(addr, &identity, hello));
    let mut stranger = met.expect("nothing is wrong with it");
    let other = by.welcome(1301);
    let (token, others) = (stranger.token(), other.token());
    let refused = |what: &str, rule: &str, why: String| {
        assert!(why.contains(rule), "{what}: {why}");
        eprintln!("{what}: {why}");
    };
    let of_another = "the token is of another session";
    by.cluster.block_on(async {
        stranger.answer_pings();
        other.answer_pings();
        let mut near = token;
        near[31] ^= 1;
        for (what, wrong) in [
            ("a guess", [7; 32]),
            ("one bit", near),
            ("another's", others),
        ] {
            let second = stranger.dial_second().await.expect("TLS is complete");
            refused(what, of_another, shown(&second, us, wrong).await);
        }
        // The right token, shown by somebody else: as who it is, and as who it is not.
        let second = other.dial_second().await.expect("TLS is complete");
        let same = "both connections of a session have the same two ends";
        refused(
            "another's certificate",
            same,
            shown(&second, us, token).await,
        );
        let second = other.dial_second().await.expect("TLS is complete");
        let why = shown(&second, another, token).await;
        refused("another's token", of_another, why);
        // No first connection.
        let second = stranger.dial_second().await.expect("TLS is complete");
        let none = "there is no session that it is the second connection of";
        refused(
            "no session",
            none,
            shown(&second, NodeId(1302), token).await,
        );
        // Something else than a proof.
        let second = stranger.dial_second().await.expect("TLS is complete");
        let _lane = second.open_lane().await.expect("a stream");
        let first = "a second connection begins with its proof";
        refused("a lane", first, second.closed().await);
        // None of this has done anything to the session; the right one is taken, and no other after it.
        let right = stranger.dial_second().await.expect("TLS is complete");
        right.prove(us, &token).await.expect("it is open");
        stranger.bulk = right;
        deliver(&mut stranger, 1300, &holder, true).await;
        let again = stranger.dial_second().await.expect("TLS is complete");
        let any_more = "takes no second connection any more";
        refused(
            "the same token again",
            any_more,
            shown(&again, us, token).await,
        );
        // Nothing, which takes longer than a session waits for its second connection beside all that.
        let second = stranger.dial_second().await.expect("TLS is complete");
        refused(
            "nothing",
            "no proof of a session in time",
            second.closed().await,
        );
    });
    assert_eq!(holder.one("data").number("tag"), 5);

    // A proof on a first connection; a second one in the middle of it.
    let why = by.cluster.block_on(async {
        let (connection, _transport) = knock(&by, &identity).await;
        shown(&connection, us, token).await
    });
    refused(
        "a proof on a first connection",
        "the lane is the first stream",
        why,
    );
    let why = by.cluster.block_on(async {
        stranger.bulk.prove(us, &token).await.expect("it is open");
        stranger.frame().await.expect_err("the session ends")
    });
    refused(
        "a proof in the middle",
        "a second connection is proven once",
        why,
    );
    let why = by.cluster.block_on(async {
        let late = stranger.dial_second().await.expect("TLS is complete");
        shown(&late, us, token).await
    });
    refused("after the end", "there is no session", why);
    by.undisturbed();
}

#[test]
fn a_session_whose_second_connection_does_not_come_is_over_and_told_once() {
    let by = Bystanders::new();
    let identity = by.identity(1310, Odd::Nothing);
    let (addr, hello) = (by.cluster.node("a").addr(), by.hello(&identity, 1310));
    let began = Instant::now();
    let met = by
        .cluster
        .block_on(Stranger::meet_by_half(addr, &identity, hello));
    let mut stranger = met.expect("nothing is wrong with it");
    by.cluster.block_on(async { stranger.answer_pings() });
    let guest = bound(&by, &mut stranger, 1310);
    let why = told_once(&guest);
    assert!(
        why.contains("second connection did not come in time"),
        "{why}"
    );
    assert!(began.elapsed() > 2 * by.cluster.lease(), "sooner than said");
    eprintln!("told after {:.0} ms: {why}", ms(began.elapsed()));
    by.undisturbed();
}

#[test]
fn the_loss_of_either_connection_ends_both_and_is_told_once() {
    let by = Bystanders::new();
    for (id, what, closes_first) in [(1320, "the first", true), (1321, "the second", false)] {
        let mut stranger = by.welcome(id);
        by.cluster.block_on(async { stranger.answer_pings() });
        let guest = bound(&by, &mut stranger, id);
        // What has come over the second connection shows that it was taken.
        by.cluster
            .block_on(deliver(&mut stranger, id, &guest, true));
        guest.one("data");
        let began = Instant::now();
        let how = by.cluster.block_on(async {
            let (lost, left) = if closes_first {
                (&stranger.connection, &stranger.bulk)
            } else {
                (&stranger.bulk, &stranger.connection)
            };
            lost.close("cut");
            left.closed().await
        });
        assert!(how.contains("closed by peer: cut"), "{what}: {how}");
        let why = told_once(&guest);
        assert!(why.contains("closed by peer: cut"), "{what}: {why}");
        // It was the close that was told, not the lease.
        assert!(
            began.elapsed() < by.cluster.lease() / 2,
            "{what}: {:?}",
            began.elapsed()
        );
        eprintln!("{what}: {why}");
    }
    by.undisturbed();
}

#[test]
fn a_peer_of_protocol_2_has_one_connection_for_all() {
    let by = Bystanders::new();
    let holder = holder(&by);
    let mut stranger = old(&by, 1330);
    let pile = by.cluster.spawn("a", &["pile", "n1330.1", "1", "100000"]);
    by.cluster.block_on(async {
        stranger.answer_pings();
        stranger.let_bind(2).await;
        let stream = stranger.connection.accept_stream().await.expect("bulk");
        let Ok(Opened::Bulk(_, None, mut reader)) = stream.identify().await else {
            panic!("no bulk stream of protocol 2");
        };
        let mut taken = 0;
        while let Some(bytes) = reader.read(64 << 10).await.expect("the session is open") {
            taken += bytes.len();
        }
        assert_eq!(taken, 100_000);
        deliver(&mut stranger, 1330, &holder, false).await;
    });
    assert_eq!(holder.one("data").number("tag"), 5);
    // And no second one is taken from it.
    let why = by.cluster.block_on(async {
        let second = stranger.dial_second().await.expect("TLS is complete");
        shown(&second, NodeId(1330), stranger.token()).await
    });
    assert!(why.contains("takes no second connection"), "{why}");
    // Longer than a second one would be waited for.
    let waited = Duration::from_secs(11);
    let ended = by.cluster.block_on(async {
        let over = stranger.connection.closed();
        tokio::time::timeout(waited, over).await // that it lasts is what is shown
    });
    assert!(ended.is_err(), "{ended:?}");
    for kind in ["link", "down"] {
        assert!(pile.all(kind).is_empty(), "it was told of an end");
    }
    by.undisturbed();
}

/// The connection of which this node has said Hello; others dial, too, and some more than once.
async fn dialled_by(transport: &Transport, node: NodeId) -> Connection {
    loop {
        let dialled = transport.accept().await.expect("it is dialled");
        let hello = async {
            let first = dialled.complete().await?;
            let Opened::Lane(mut lane) = first.accept_stream().await?.identify().await? else {
                panic!("no lane");
            };
            let mut bytes = BytesMut::new();
            loop {
                if let Some(frame) = wire::decode(&mut bytes).expect("the node sends frames") {
                    return Ok::<_, TransportError>((first, frame));
                }
                bytes.extend_from_slice(&lane.read(4096).await?.unwrap_or_default());
            }
        };
        if let Ok((first, Frame::Hello(hello))) = hello.await
            && hello.from == node
        {
            return first;
        }
    }
}

#[test]
fn whoever_answers_a_second_dial_is_compared_with_the_session() {
    let by = Bystanders::new();
    let socket = Socket::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let id = by.cluster.list("two-faced", socket.local_addr());
    let id: NodeId = id.parse().expect("a node id");
    let (identity, another) = (
        by.identity(id.0, Odd::Nothing),
        by.identity(1341, Odd::Nothing),
    );
    let why = by.cluster.block_on(async {
        let lease = by.cluster.lease();
        let transport = Transport::new(socket, &identity, lease).expect("a transport");
        let first = dialled_by(&transport, by.node("a")).await;
        // From here on somebody else answers there.
        transport.speak_as(&another, lease).expect("an identity");
        let mut out = first.open_lane().await.expect("a lane");
        let hello = Hello {
            from: id,
            ..by.hello(&identity, id.0)
        };
        out.write(encoded(&Frame::Hello(hello)).into())
            .await
            .expect("it is open");
        let second = loop {
            let dialled = transport.accept().await.expect("a dials once more");
            // Others still knock for a session of their own.
            if let Ok(second) = dialled.complete().await
                && second.is_for_bulk()
            {
                break second;
            }
        };
        // No token is shown to whoever answers.
        assert!(second.accept_stream().await.is_err());
        first.closed().await
    });
    let rule = "both connections of a session have the same two ends";
    assert!(why.contains(rule), "{why}");
    by.undisturbed();
}
