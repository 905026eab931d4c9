//! Known answers: texts, digests and signatures of the real server and signer, and our own signatures.

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use super::local_ecdsa::{Error, LocalEcdsa};
use super::payload;
use crate::hmac::hex;
use crate::timestamp::Timestamp;

/// The public key that the known signatures were made with, `SubjectPublicKeyInfo`.
const PUBLIC_KEY: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAES3szFBvMwCwXgrPO3tafiPWF/K75Ek9G3DSRSmMw666J\
    f8cIbCGWIX+DTepSEk1XPs/JU+lRk8O2DTrpNa7ti7ZZM4gUOZKIEp4EMqpbF5pmqAqYmBKBuRuBGd050/32";

struct Known {
    records: &'static str,
    timestamp: &'static str,
    text: &'static str,
    digest: &'static str,
    signature: &'static str,
}

const KNOWN: [Known; 3] = [
    Known {
        records: r#"[]"#,
        timestamp: "0",
        text: r#"{"data":[],"last_modified":"0"}"#,
        digest: "cabc1628d5057680d9a2a361abd5a3bc6cc89a6cae5942bc6958cb3883604f86417e04100e862b725f8f9366fd6c9e99",
        signature: "fOeXJlzH1JUB6691hWii0b0cCBcJlzcQxi-FT1Q6JXhTCuoglZpoCd_QuvHt-NnavZh-Yz7IpC3BtCphWIBtkBFVtNKgTRaZKE__D2vtkEDhN5VtR8Ss4akW_F7aMyMp",
    },
    Known {
        records: r#"[{"id":"b","last_modified":2,"v":[3,{"z":1,"a":null}]},{"id":"B","last_modified":1,"ok":true,"":0},{"id":"a","deleted":true,"last_modified":3},{"id":"10","last_modified":5,"n":-9223372036854775808},{"id":"9","last_modified":4,"n":18446744073709551615}]"#,
        timestamp: "1700000000000",
        text: r#"{"data":[{"id":"10","last_modified":5,"n":-9223372036854775808},{"id":"9","last_modified":4,"n":18446744073709551615},{"":0,"id":"B","last_modified":1,"ok":true},{"id":"b","last_modified":2,"v":[3,{"a":null,"z":1}]}],"last_modified":"1700000000000"}"#,
        digest: "0f3eeaa8f0267c787216cdcc2284aa1c2424395cbe8bbb8e013d8e651e4f47ddc647cd1b77bc8e9be84f0a949c084c4b",
        signature: "UgsYQ3Kw5c8NSC5R2CJpTJ7dhBRQRjhOXI-vjtA-OdGaVqwFMdaeVuQt7uwOP_xzBSozp83q6jc7g86Fa9f6uhY1Xkx1Iq2ASyA9CyAg8drSY-UFvE2ikEicQo_7aDvS",
    },
    Known {
        records: r#"[{"id":"u","last_modified":1700000000001,"t":"\u00e9\u20ac\ud83d\ude00\u2028/<\"\\\b\t\n\u000b\f\r\u001f\u007f\u0080","\uff6a":1,"\ud83d\ude00":2,"\u00e9":3,"z":4}]"#,
        timestamp: "1700000000001",
        text: r#"{"data":[{"id":"u","last_modified":1700000000001,"t":"\u00e9\u20ac\ud83d\ude00\u2028/<\"\\\b\t\n\u000b\f\r\u001f\u007f\u0080","z":4,"\u00e9":3,"\uff6a":1,"\ud83d\ude00":2}],"last_modified":"1700000000001"}"#,
        digest: "bbd6075d5e84fa4f55816db3cb0863bebdd756bace5d4fd5b0a4eefdbf1a328494e929ebe4bcbcf05fd582a848cacd9a",
        signature: "yOuf2ck9LlzcqJ1nSs-7t-mVf6LiMkxt0hz9QyAbkfhobHGWm63s8NGfgWicsS-IpO2CsgAbvAzOErXXE-mMIJkMnGgj7AvU_gtSWymNolaZfVZ5aBVa1-HDPMqNnK_W",
    },
];

/// Verifies `signature` over `bytes` by the key, as a client does.
fn verifies(public_key: &[u8], bytes: &[u8], signature: &str) -> bool {
    let key = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public_key).unwrap();
    let signature = URL_SAFE.decode(signature).unwrap();
    key.verify_sig(bytes, &signature).is_ok()
}

fn text_of(known: &Known) -> String {
    let records: Vec<Value> = serde_json::from_str(known.records).unwrap();
    let timestamp = Timestamp::from_digits(known.timestamp).unwrap();
    payload::text(&records, timestamp)
}

#[test]
fn text_and_digest_are_those_of_the_real_signer() {
    for known in &KNOWN {
        let text = text_of(known);
        assert_eq!(text, known.text);
        assert_eq!(hex(&payload::digest(&text)), known.digest);
    }
}

#[test]
fn signatures_of_the_real_signer_verify_over_our_text_and_over_nothing_else() {
    let key = STANDARD.decode(PUBLIC_KEY).unwrap();
    for known in &KNOWN {
        let text = text_of(known);
        let bytes = payload::signed_bytes(&text);
        assert!(verifies(&key, &bytes, known.signature));
        assert!(!verifies(&key, text.as_bytes(), known.signature));
        for at in 0..bytes.len() {
            let mut spoiled = bytes.clone();
            spoiled[at] ^= 1;
            assert!(!verifies(&key, &spoiled, known.signature), "byte {at}");
        }
    }
}

fn generate(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(algorithm).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    let lines: Vec<_> = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    let body = lines.join("\n");
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// A new private key as PEM.
pub(crate) fn key_pem() -> String {
    let key = generate(&ECDSA_P384_SHA384_FIXED_SIGNING);
    pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref())
}

#[test]
fn our_signatures_verify_whichever_form_the_key_file_has() {
    let key = generate(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let pkcs8 = pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref());
    let der: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
    let sec1 = pem("EC PRIVATE KEY", der.as_ref());
    // What `openssl ecparam -genkey` writes before the key.
    let with_parameters = pem("EC PARAMETERS", &[6, 5, 43, 129, 4, 0, 34]) + &sec1;
    for pem in [pkcs8, sec1, with_parameters] {
        let signer = LocalEcdsa::all_from_pem(&pem).unwrap().remove(0);
        for known in &KNOWN {
            let signature = signer.sign(known.text).unwrap();
            assert_eq!(signature.len(), 128);
            let bytes = payload::signed_bytes(known.text);
            assert!(verifies(key.public_key().as_ref(), &bytes, &signature));
        }
    }
}

#[test]
fn a_key_that_could_not_sign_is_refused() {
    let other_curve = generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let other_curve = pem("PRIVATE KEY", other_curve.to_pkcs8v1().unwrap().as_ref());
    let refusal = |pem: &str| LocalEcdsa::all_from_pem(pem).err().unwrap();
    assert!(matches!(refusal(&other_curve), Error::Key(_)));
    assert!(matches!(
        refusal(&pem("RSA PRIVATE KEY", b"x")),
        Error::Kind
    ));
    assert!(matches!(refusal(&pem("PUBLIC KEY", b"x")), Error::Pem(_)));
    assert!(matches!(refusal(""), Error::Pem(_)));
}

#[test]
fn whatever_is_true_in_a_language_of_clients_makes_a_tombstone() {
    for deleted in [
        json!(true),
        json!("no"),
        json!(-1),
        json!(0.5),
        json!([]),
        json!({}),
    ] {
        assert!(payload::is_tombstone(&deleted), "{deleted}");
        let records = [json!({"id": "a", "deleted": deleted})];
        let text = payload::text(&records, Timestamp(1));
        assert_eq!(text, r#"{"data":[],"last_modified":"1"}"#);
    }
    for deleted in [json!(null), json!(false), json!(""), json!(0), json!(0.0)] {
        assert!(!payload::is_tombstone(&deleted), "{deleted}");
    }
    let records = [json!({"id": "a", "deleted": false})];
    let text = payload::text(&records, Timestamp(1));
    assert_eq!(
        text,
        r#"{"data":[{"deleted":false,"id":"a"}],"last_modified":"1"}"#
    );
}
