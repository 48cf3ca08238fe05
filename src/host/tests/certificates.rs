//! Certificates for guests: what is asked for, in the encoding that guests read.

use std::sync::Arc;

use super::*;
use crate::{CertificatePair, Certificates};

const IMPORTS: &str = r#"
    (import "lunatic::distributed" "test_root_cert" (func $root (param i32) (result i32)))
    (import "lunatic::distributed" "default_server_certificates"
        (func $server (param i32 i32 i32 i32 i32) (result i32)))
    (import "lunatic::distributed" "sign_node"
        (func $sign (param i32 i32 i32 i32 i32 i32 i32) (result i32)))"#;

/// Says what it was given; of requests it signs `r` and `word`.
pub(super) struct Told;

impl Certificates for Told {
    fn input_bytes_max(&self) -> usize {
        40_000
    }

    fn test_root(&self) -> CertificatePair {
        CertificatePair {
            certificate: "CERT".to_owned(),
            key: "K".to_owned(),
        }
    }

    fn server(&self, root: &CertificatePair) -> Result<CertificatePair, String> {
        Ok(CertificatePair {
            certificate: format!("server of {}", root.certificate),
            key: root.key.clone(),
        })
    }

    fn sign(&self, root: &CertificatePair, request: &str) -> Result<String, String> {
        match request {
            "r" | "word" => Ok(format!("{}{}", root.certificate, root.key)),
            other => Err(format!("the signing request: {other}")),
        }
    }
}

type Maker = Option<Arc<dyn Certificates>>;

async fn ends_with(certificates: Maker, code: &str) -> ExitReason {
    let env = Environment::new(EnvironmentConfig {
        certificates,
        ..EnvironmentConfig::default()
    })
    .unwrap();
    let body = format!(
        r#"(data (i32.const 100) "CKrx")
        (func (export "lunatic_alloc") (param i32) (result i32) i32.const 1000)
        (func (export "_start") {code})"#
    );
    let module = guest(&env, IMPORTS, &body).await;
    let pid = start(&env, &module);
    end(&env, pid).await
}

#[tokio::test]
async fn a_guest_reads_pairs_and_texts() {
    // A text is its length and itself.
    let code = r#"
        (call $check32 (call $root (i32.const 0)) (i32.const 1000))
        (call $check32 (i32.load (i32.const 0)) (i32.const 21))
        (call $check (i64.load (i32.const 1000)) (i64.const 4))
        (call $check32 (i32.load (i32.const 1008)) (i32.const 0x54524543))
        (call $check (i64.load (i32.const 1012)) (i64.const 1))
        (call $check32 (i32.load8_u (i32.const 1020)) (i32.const 75))
        (drop (call $server (i32.const 100) (i32.const 1) (i32.const 101) (i32.const 1) (i32.const 0)))
        (call $check (i64.load (i32.const 1000)) (i64.const 11))
        (call $check32 (i32.load8_u (i32.const 1018)) (i32.const 67))
        (drop (call $sign (i32.const 100) (i32.const 1) (i32.const 101) (i32.const 1)
            (i32.const 102) (i32.const 1) (i32.const 0)))
        (call $check32 (i32.load (i32.const 0)) (i32.const 10))
        (call $check32 (i32.load16_u (i32.const 1008)) (i32.const 0x4b43))"#;
    assert_eq!(
        ends_with(Some(Arc::new(Told)), code).await,
        ExitReason::Normal
    );
}

#[tokio::test]
async fn what_cannot_be_made_traps_and_says_why() {
    let sign = "(drop (call $sign (i32.const 100) (i32.const 1) (i32.const 101) (i32.const 1)
        (i32.const 103) (i32.const 1) (i32.const 0)))";
    let told: Arc<dyn Certificates> = Arc::new(Told);
    let cases: [(Maker, &str, &str); 4] = [
        (
            Some(told.clone()),
            sign,
            "sign_node: the signing request: x",
        ),
        (None, sign, "makes no certificates"),
        (
            Some(told.clone()),
            "(drop (call $root (i32.const -4)))",
            "test_root_cert: len_ptr",
        ),
        (
            Some(told),
            "(drop (call $server (i32.const 0) (i32.const 40001) (i32.const 0) (i32.const 0)
                (i32.const 0)))",
            "cert_ptr: more than 40000 bytes",
        ),
    ];
    for (certificates, code, text) in cases {
        let reason = ends_with(certificates, code).await;
        assert!(trap(&reason).contains(text), "{reason:?} lacks {text:?}");
    }
}
