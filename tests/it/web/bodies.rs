//! The size of bodies and responses, their compression and encoding.

use std::collections::BTreeSet;
use std::io::Read as _;

use super::{answered, event, json_of};
use aws_lambda_events::encodings::Body;
use kinto_local::{Options, Stack};
use kinto_serverless::settings::Vars;
use serde_json::{Value, json};
use tests::{Kinto, RECORD, RECORDS};

#[tokio::test]
async fn a_large_response_is_compressed_for_clients_that_accept_it() {
    let kinto = Kinto::with_collection().await;
    let text = "abc \"é\" ".repeat(1000);
    kinto.put(RECORD, json!({"data": {"text": text}})).await;
    let gzip = [("Accept-Encoding".to_owned(), "gzip, deflate, br".to_owned())];
    let path = format!("/v1{RECORD}");

    let compressed = answered(&kinto, event("GET", &path, &gzip, b"")).await;
    assert_eq!(compressed.headers["content-encoding"], "gzip");
    assert_eq!(compressed.headers["vary"], "accept-encoding");
    let Some(Body::Binary(bytes)) = &compressed.body else {
        panic!("{compressed:?}");
    };
    assert!(bytes.len() < 400);
    assert_eq!(json_of(&compressed)["data"]["text"], text);

    let plain = answered(&kinto, event("GET", &path, &[], b"")).await;
    assert_eq!(plain.headers["vary"], "accept-encoding");
    assert_eq!(plain.headers.get("content-encoding"), None);
    assert_eq!(plain.headers["etag"], compressed.headers["etag"]);
    assert_eq!(json_of(&plain), json_of(&compressed));

    let head = answered(&kinto, event("HEAD", &path, &gzip, b"")).await;
    assert_eq!(
        (head.headers.get("content-encoding"), &head.body),
        (None, &None)
    );
    let small = answered(&kinto, event("GET", "/v1/buckets/main", &gzip, b"")).await;
    assert!(matches!(small.body, Some(Body::Text(_))));
    assert_eq!(small.headers.get("vary"), None);
}

#[tokio::test]
async fn a_compressed_response_comes_through_the_local_stack() {
    let stack = Stack::start(&Options::default(), Vars::default())
        .await
        .unwrap();
    let request = reqwest::Client::new()
        .get(format!("{}__api__", stack.url()))
        .header("Accept-Encoding", "gzip");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = answer.bytes().await.unwrap();
    let api: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap();
    assert_eq!(api["swagger"], "2.0");
    stack.stop().await;
}

#[tokio::test]
async fn a_list_that_lambda_could_not_answer_comes_in_pages_whatever_it_holds() {
    let kinto = Kinto::with_collection().await;
    // Text that doubles each time that it is written as JSON, and text that does not.
    const OBJECTS: usize = 16;
    for n in 0..OBJECTS {
        let text = if n % 2 == 0 {
            "\"\\".repeat(90_000)
        } else {
            "x".repeat(360_000)
        };
        let path = format!("{RECORDS}/r{n}");
        let put = kinto.put(&path, json!({"data": {"text": text}})).await;
        assert_eq!(put.status, 201);
    }
    // Fields that are not shown take no room.
    for (query, expected) in [("", 2), ("_sort=id", 2), ("_fields=none", 1)] {
        let (mut seen, mut pages) = (BTreeSet::new(), 0);
        let mut path = format!("/v1{RECORDS}?{query}");
        loop {
            let page = answered(&kinto, event("GET", &path, &[], b"")).await;
            assert_eq!(page.status_code, 200);
            pages += 1;
            for object in json_of(&page)["data"].as_array().unwrap() {
                assert!(seen.insert(object["id"].to_string()), "{object} again");
            }
            let Some(next) = page.headers.get("next-page") else {
                break;
            };
            path = next.to_str().unwrap().replacen("http://kinto.test", "", 1);
        }
        assert_eq!((seen.len(), pages), (OBJECTS, expected), "{query}");
    }
}

#[tokio::test]
async fn no_more_of_a_list_is_read_than_one_page_can_hold() {
    let kinto = Kinto::with_collection().await;
    for n in 0..20 {
        let data = json!({"data": {"text": "x".repeat(380_000)}});
        kinto.put(&format!("{RECORDS}/r{n}"), data).await;
    }
    kinto.aws.requests().take();
    answered(&kinto, event("GET", &format!("/v1{RECORDS}"), &[], b"")).await;
    // The parents and the list's timestamp, then a `Query` for each MB of a page; the whole list would take 9.
    let requests = kinto.aws.requests().total();
    assert!((5..=7).contains(&requests), "{requests}");
}

#[tokio::test]
async fn a_batch_whose_responses_could_not_be_sent_together_is_refused_and_writes_nothing() {
    let kinto = Kinto::with_collection().await;
    let text = "x".repeat(380_000);
    kinto.put(RECORD, json!({"data": {"text": text}})).await;
    let mut requests = vec![json!({"path": RECORD}); 13];
    requests.push(json!({"method": "PUT", "path": format!("{RECORDS}/r2")}));
    let body = json!({"requests": requests}).to_string();
    let refused = answered(&kinto, event("POST", "/v1/batch", &[], body.as_bytes())).await;
    assert_eq!(
        (refused.status_code, &json_of(&refused)["errno"]),
        (413, &json!(113))
    );
    assert_eq!(kinto.get(&format!("{RECORDS}/r2")).await.status, 404);

    requests.truncate(10);
    let body = json!({"requests": requests}).to_string();
    let batch = answered(&kinto, event("POST", "/v1/batch", &[], body.as_bytes())).await;
    assert_eq!(batch.status_code, 200);
    assert_eq!(
        batch.headers["access-control-expose-headers"]
            .to_str()
            .unwrap()
            .split(',')
            .count(),
        5
    );
}

#[tokio::test]
async fn bodies_are_json_in_utf_8_and_not_compressed() {
    let kinto = Kinto::with_collection().await;
    let path = format!("/v1{RECORD}");
    let send = async |content_type: &str, encoding: &str, body: &[u8]| {
        let headers = [
            ("content-type", content_type),
            ("content-encoding", encoding),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = answered(&kinto, event("PUT", &path, &headers, body)).await;
        (answer.status_code, json_of(&answer))
    };
    let utf_8 = "{\"data\": {\"a\": \"é\"}}".as_bytes();
    let (status, body) = send("application/json; charset=utf-8", "", utf_8).await;
    assert_eq!((status, &body["data"]["a"]), (201, &json!("é")));
    assert_eq!(
        send("application/json", "", b"{\"data\": {\"a\": \"\xe9\"}}")
            .await
            .0,
        400
    );
    let mut encoder = flate2::read::GzEncoder::new(utf_8, flate2::Compression::fast());
    let mut gzipped = vec![];
    encoder.read_to_end(&mut gzipped).unwrap();
    assert_eq!(send("application/json", "gzip", &gzipped).await.0, 400);
    assert_eq!(send("application/json, text/plain", "", utf_8).await.0, 415);
}
