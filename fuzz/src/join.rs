//! What a stranger sends to be let in: a join token, a name and a signing request.

use std::sync::LazyLock;
use std::time::Duration;

use tidelock_certs::authority::{Authority, REQUEST_BYTES_MAX};
use tidelock_certs::{
    JoinToken, Key, PeerName, Role, UnixTime, check_name, from_hex, key_fingerprint, peer_name,
    testing, to_hex,
};

use super::input::Input;

const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
const LIFETIME: Duration = Duration::from_secs(3600);

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| testing::authority("sea", NOW));
static TOKEN: LazyLock<JoinToken> = LazyLock::new(|| JoinToken::generate(AUTHORITY.certificate()));

/// A request, its bytes, and the fingerprint of its key.
struct Request {
    pem: String,
    der: Vec<u8>,
    key: [u8; 32],
}

static REQUEST: LazyLock<Request> = LazyLock::new(|| {
    let pem = Key::generate().signing_request();
    let certificate = AUTHORITY
        .issue_node(&pem, "web-0", LIFETIME, NOW)
        .expect("our own request");
    Request {
        der: from_pem(&pem),
        key: key_fingerprint(&certificate).expect("our own certificate"),
        pem,
    }
});

/// Takes `data` for a token, a name, a signing request, or a change of a good one.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 6 {
        0 => token(&String::from_utf8_lossy(input.0)),
        1 => {
            let damaged = input.damage(TOKEN.to_string().as_bytes());
            token(&String::from_utf8_lossy(&damaged));
        }
        2 => name(&String::from_utf8_lossy(input.0)),
        3 => {
            let text = String::from_utf8_lossy(input.0);
            assert_eq!(issued_for(&text), None, "nobody has such a key");
        }
        4 => {
            let damaged = input.damage(REQUEST.pem.as_bytes());
            only_the_original(&String::from_utf8_lossy(&damaged));
        }
        _ => {
            let damaged = input.damage(&REQUEST.der);
            only_the_original(&to_pem(&damaged));
        }
    }
}

/// A token means what it says, and hides its secret where it might be logged.
fn token(text: &str) {
    let Ok(token) = text.parse::<JoinToken>() else {
        return;
    };
    assert_eq!(token.to_string(), text.trim());
    assert_eq!(token.secret().len(), 32);
    assert!(!format!("{token:?}").contains(token.secret()));
    let same = token.authority() == TOKEN.authority();
    assert_eq!(token.is_from(AUTHORITY.certificate()), same);
}

/// A name that is accepted is safe wherever names stand.
fn name(text: &str) {
    if check_name(text).is_ok() {
        assert!(!text.is_empty() && text.len() <= 63);
        assert!(!text.contains(['/', '\\', '\0', ' ']) && !text.starts_with('.'));
        let peer = PeerName {
            cluster: text.to_owned(),
            role: Role::Node,
            name: text.to_owned(),
        };
        assert_eq!(PeerName::from_uri(&peer.uri()), Some(peer));
    }
    if let Some(peer) = PeerName::from_uri(text) {
        assert_eq!(peer.uri(), text);
    }
    if let Some(bytes) = from_hex(text) {
        assert_eq!(to_hex(&bytes), text);
    }
}

fn only_the_original(pem: &str) {
    if let Some(key) = issued_for(pem) {
        assert_eq!(key, REQUEST.key, "a certificate for a key nobody has shown");
    }
}

/// The key that gets a certificate, if any does; the certificate says no more than it should.
fn issued_for(pem: &str) -> Option<[u8; 32]> {
    let certificate = AUTHORITY.issue_node(pem, "web-0", LIFETIME, NOW).ok()?;
    assert!(pem.len() <= REQUEST_BYTES_MAX);
    let name = peer_name(&certificate).expect("what is issued can be read");
    assert_eq!(name.uri(), "tidelock://sea/node/web-0");
    Some(key_fingerprint(&certificate).expect("what is issued can be read"))
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_pem(der: &[u8]) -> String {
    let mut base64 = Vec::new();
    for group in der.chunks(3) {
        let bits = group
            .iter()
            .fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            base64.push(if place <= group.len() { digit } else { b'=' });
        }
    }
    let mut pem = "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned();
    for line in base64.chunks(64) {
        pem += std::str::from_utf8(line).expect("ASCII");
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE REQUEST-----\n"
}

fn from_pem(pem: &str) -> Vec<u8> {
    let digits: Vec<u32> = pem
        .lines()
        .filter(|line| !line.starts_with('-'))
        .flat_map(str::bytes)
        .filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte))
        .map(|value| u32::try_from(value).expect("below 64"))
        .collect();
    let mut der = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        let bytes = bits.to_be_bytes();
        der.extend_from_slice(&bytes[1..group.len()]);
    }
    der
}
