//! The end of a service, and asking clients to back off.

use serde_json::{Value, json};
use tests::{Kinto, names};

const ORIGIN: (&str, &str) = ("Origin", "https://app.example");

#[tokio::test]
async fn an_end_of_service_is_announced_on_every_response() {
    let kinto = Kinto::with(&[
        ("KINTO_EOS", "2099-01-01"),
        ("KINTO_EOS_MESSAGE", "Adiós"),
        ("KINTO_BACKOFF", "9"),
    ]);
    for (method, path, status) in [
        ("GET", "/v1/", 200),
        ("PUT", "/v1/buckets/main", 201),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/", 405),
        ("GET", "/buckets", 307),
    ] {
        let answer = kinto.send_raw(method, path, &[], "").await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("backoff"), "9");
        let alert: Value = serde_json::from_str(answer.header("alert")).unwrap();
        assert_eq!(
            alert,
            json!({"code": "soft-eol", "message": "Adiós", "url": "https://kinto.readthedocs.io/"})
        );
    }
    assert_eq!(kinto.get("/").await.body["eos"], "2099-01-01");
}

#[tokio::test]
async fn after_its_end_the_service_answers_410_to_everything() {
    let kinto = Kinto::with(&[
        ("KINTO_EOS", "2020-01-01T00:00:00"),
        ("KINTO_EOS_URL", "https://elsewhere.example/"),
    ]);
    for (method, path) in [
        ("GET", "/v1/"),
        ("PUT", "/v1/buckets/main"),
        ("OPTIONS", "/v1/buckets/main"),
        ("GET", "/v1/__lbheartbeat__"),
        ("GET", "/v1/nothing"),
        ("GET", "/buckets"),
    ] {
        let gone = kinto.send_raw(method, path, &[ORIGIN], "").await;
        assert_eq!(gone.error(), (410, 202), "{method} {path}");
        assert_eq!(gone.header("access-control-allow-origin"), "*");
        assert_eq!(names(&gone, "access-control-expose-headers").len(), 5);
        let alert: Value = serde_json::from_str(gone.header("alert")).unwrap();
        assert_eq!(
            alert,
            json!({"code": "hard-eol", "message": null, "url": "https://elsewhere.example/"})
        );
    }
    assert_eq!(kinto.aws.requests().total(), 0);
}

#[tokio::test]
async fn a_share_of_the_responses_asks_clients_to_back_off() {
    for (share, expected) in [("0", ""), ("100", "5")] {
        let kinto = Kinto::with(&[("KINTO_BACKOFF", "5"), ("KINTO_BACKOFF_PERCENTAGE", share)]);
        for _ in 0..20 {
            assert_eq!(kinto.get("/").await.header("backoff"), expected);
        }
    }
}
