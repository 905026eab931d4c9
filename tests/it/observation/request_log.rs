//! A line of the log for each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{ALICE, BOB, COLLECTION, Kinto, NOBODY, RECORD, RECORDS, batch, put};

use super::Log;

const ON: (&str, &str) = ("KINTO_REQUEST_LOG", "true");

/// The log, and a server that writes into it, with a collection.
async fn logging(more: &[(&str, &str)]) -> (Log, Kinto) {
    let settings: Vec<_> = [ON].iter().chain(more).copied().collect();
    let kinto = Kinto::with(&settings);
    kinto.put("/buckets/main", json!({})).await;
    kinto.put(COLLECTION, json!({})).await;
    (Log::start(), kinto)
}

/// The names of the fields of a line, apart from those that say how long it took and what that consumed.
fn names(line: &Value) -> Vec<&str> {
    let names = line.as_object().unwrap().keys().map(String::as_str);
    names
        .filter(|name| !["t", "rcu", "wcu"].contains(name))
        .collect()
}

#[tokio::test]
async fn a_request_is_one_line_that_names_its_endpoint_and_not_its_path() {
    let (log, kinto) = logging(&[]).await;
    kinto
        .put(&format!("{RECORD}?secret=hush"), json!({"data": {"a": 1}}))
        .await;
    let line = log.request();
    assert_eq!(line["method"], "PUT");
    let route = "/buckets/{bucket_id}/collections/{collection_id}/records/{id}";
    assert_eq!(line["route"], route);
    assert_eq!((&line["code"], &line["errno"]), (&json!(201), &json!(0)));
    assert_eq!(line["attempts"], 1);
    assert_eq!(line["authn_type"], "basicauth");
    assert_eq!(line["rid"], "request-1");
    assert!(line["t"].as_u64().unwrap() < 60_000);
    let expected = [
        "message",
        "method",
        "route",
        "code",
        "errno",
        "uid",
        "authn_type",
        "rid",
        "attempts",
    ];
    assert_eq!(names(&line), expected);
}

#[tokio::test]
async fn a_line_tells_what_the_request_consumed_of_the_table() {
    let (log, kinto) = logging(&[]).await;
    kinto.aws.requests().take();
    kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let line = log.request();
    // Two reads of 1 KB at least, and two items in one transaction, each with its index.
    assert!(line["rcu"].as_f64().unwrap() >= 2.0, "{line}");
    assert!(line["wcu"].as_f64().unwrap() >= 4.0, "{line}");
    kinto.get(RECORD).await;
    let line = log.request();
    assert!(line["rcu"].as_f64().unwrap() >= 2.0, "{line}");
    assert_eq!(
        (&line["wcu"], &line["attempts"]),
        (&Value::Null, &Value::Null)
    );
    kinto.get("/__lbheartbeat__").await;
    assert_eq!(log.request()["rcu"], Value::Null);
}

#[tokio::test]
async fn nobody_and_no_secret_is_in_a_line() {
    let (log, kinto) = logging(&[]).await;
    let alice = kinto.user_id().await;
    let record = format!("{RECORDS}/mail-of-carol?who=carol");
    let body = json!({"data": {"title": "confidential"}});
    let headers = [
        ("X-Forwarded-For", "192.0.2.7"),
        ("User-Agent", "carols-phone"),
    ];
    kinto
        .send("PUT", &record, &headers, &body.to_string())
        .await;
    kinto
        .send(
            "GET",
            "/buckets/carol",
            &[("Authorization", "Basic bm86bm8=")],
            "",
        )
        .await;
    kinto.get("/nowhere/carol?carol=1").await;
    batch(&kinto, vec![put("carol")]).await;
    let text = log.text();
    let hidden = ["carol", "confidential", "192.0.2.7", "bm86bm8", "s3cret"];
    for secret in hidden
        .into_iter()
        .chain([ALICE, "alice", &alice["basicauth:".len()..]])
    {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn requests_of_one_user_have_one_uid_which_is_another_with_another_key() {
    let (log, kinto) = logging(&[]).await;
    kinto.get(RECORDS).await;
    let uid = log.request()["uid"].clone();
    assert_eq!(uid.as_str().unwrap().len(), 16);
    kinto.get(COLLECTION).await;
    assert_eq!(log.request()["uid"], uid);
    kinto.as_user(BOB).get(COLLECTION).await;
    assert_ne!(log.request()["uid"], uid);
    kinto.as_user(NOBODY).get(COLLECTION).await;
    let line = log.request();
    assert_eq!((&line["uid"], &line["code"]), (&Value::Null, &json!(401)));
    let other = Kinto::over(&kinto.aws, &[ON, ("KINTO_USERID_HMAC_SECRET", "other")]);
    other.get("/").await;
    assert_ne!(log.request()["uid"], uid);
}

#[tokio::test]
async fn a_changeset_names_its_reader_too() {
    let (log, kinto) = logging(&[]).await;
    kinto
        .get(&format!("{COLLECTION}/changeset?_expected=0"))
        .await;
    let line = log.request();
    assert_eq!(line["code"], 200, "{line}");
    assert!(line["uid"].is_string(), "{line}");
}

#[tokio::test]
async fn a_refusal_has_kintos_number() {
    let (log, kinto) = logging(&[]).await;
    let stale = [("If-Match", "\"1\"")];
    kinto.send("PUT", COLLECTION, &stale, "{}").await;
    let line = log.request();
    assert_eq!((&line["code"], &line["errno"]), (&json!(412), &json!(114)));
    assert_eq!(line["failure"], Value::Null);
    kinto.get(RECORD).await;
    let line = log.request();
    assert_eq!((&line["code"], &line["errno"]), (&json!(404), &json!(110)));
    kinto.send("LONG-WINDED", COLLECTION, &[], "").await;
    let line = log.request();
    assert_eq!(
        (&line["code"], &line["method"]),
        (&json!(405), &json!("OTHER"))
    );
}

#[tokio::test]
async fn paths_that_lead_nowhere_share_a_route() {
    let (log, kinto) = logging(&[]).await;
    kinto.get("/nowhere").await;
    assert_eq!(log.request()["route"], "unknown");
    kinto.send_raw("GET", "/buckets", &[], "").await;
    assert_eq!(log.request()["route"], "unnamed");
    kinto.get("/buckets/").await;
    assert_eq!(log.request()["route"], "unnamed");
}

#[tokio::test]
async fn a_batch_is_one_line_with_the_statuses_in_it_counted() {
    let (log, kinto) = logging(&[]).await;
    let requests = vec![
        put("a"),
        put("b"),
        json!({"method": "GET", "path": format!("{RECORDS}/none")}),
        json!({"method": "PUT", "path": format!("{RECORDS}/c"), "headers": {"If-Match": "\"1\""}}),
        json!({"path": "/nowhere"}),
    ];
    batch(&kinto, requests).await;
    let line = log.request();
    assert_eq!(
        (&line["route"], &line["code"]),
        (&json!("/batch"), &json!(200))
    );
    assert_eq!(line["batch_size"], 5);
    assert_eq!(line["statuses"], "201=2 404=2 412=1");
    assert!(line["uid"].is_string());

    batch(&kinto, vec![json!({"path": "/batch"})]).await;
    let line = log.request();
    assert_eq!(
        (&line["code"], &line["batch_size"]),
        (&json!(400), &Value::Null)
    );
}

#[tokio::test(start_paused = true)]
async fn contention_is_a_warning_and_what_the_storage_does_an_error() {
    let (log, kinto) = logging(&[]).await;
    kinto.aws.inject(|target, _| {
        let conflict = Fault::transaction_canceled(&["None", "TransactionConflict"]);
        target.ends_with("TransactWriteItems").then_some(conflict)
    });
    assert_eq!(kinto.put(RECORD, json!({})).await.status, 503);
    let lines = log.lines();
    let levels = |lines: &[Value]| {
        let levels = lines.iter().map(|line| line["level"].as_str().unwrap());
        let mut levels: Vec<_> = levels.map(str::to_owned).collect();
        levels.dedup();
        levels
    };
    assert_eq!(levels(&lines), ["WARN", "INFO"], "{lines:?}");
    assert_eq!(lines[0]["fields"]["failure"], "contention");
    let line = &lines.last().unwrap()["fields"];
    assert_eq!(line["failure"], "contention");
    assert!(line["attempts"].as_u64().unwrap() > 5, "{line}");

    kinto.aws.inject(|target, _| {
        let fault = Fault::error("InternalServerError");
        target.ends_with("BatchGetItem").then_some(fault)
    });
    assert_eq!(kinto.put(RECORD, json!({})).await.status, 503);
    let lines = log.lines();
    assert_eq!(levels(&lines), ["ERROR", "INFO"], "{lines:?}");
    assert_eq!(lines.last().unwrap()["fields"]["failure"], "storage");
}

#[tokio::test(start_paused = true)]
async fn attempts_and_turns_are_counted() {
    let (log, kinto) = logging(&[]).await;
    let sent = Arc::new(AtomicU32::new(0));
    kinto.aws.inject(move |target, body| {
        let conflict = || {
            // The list's item is held by another transaction.
            let items: Value = serde_json::from_slice(body).unwrap();
            let items = items["TransactItems"].as_array().unwrap();
            let codes = vec!["TransactionConflict"; items.len()];
            Fault::transaction_canceled(&codes)
        };
        let is_commit = target.ends_with("TransactWriteItems");
        let is_first = is_commit && sent.fetch_add(1, Ordering::SeqCst) < 2;
        is_first.then(conflict)
    });
    assert_eq!(kinto.put(RECORD, json!({})).await.status, 201);
    let line = log.request();
    assert_eq!(line["attempts"], 3, "{line}");
    assert!(line["turns"].as_u64().unwrap() >= 1, "{line}");
}

#[tokio::test]
async fn without_the_setting_no_request_is_logged_and_no_capacity_asked_for() {
    let kinto = Kinto::with_collection().await;
    let log = Log::start();
    kinto.aws.inject(|_, body| {
        let body = String::from_utf8_lossy(body);
        assert!(!body.contains("ReturnConsumedCapacity"), "{body}");
        None
    });
    kinto.put(RECORD, json!({})).await;
    kinto.get(RECORD).await;
    assert_eq!(log.text(), "");
}
