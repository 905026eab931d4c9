//! Another Kinto, reached by its API, in its bad moments; in its good ones `tests/moving/api.py` reads a real one.

use kinto_cli::http::client::Client;
use kinto_cli::http::mirror::Mirror;
use kinto_cli::http::reading::{self, Options, ReadReport, ReadingError};
use kinto_cli::progress::Progress;
use kinto_serverless::resource::ListUri;
use serde_json::{Value, json};
use wiremock::matchers::{method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

async fn kinto() -> MockServer {
    let server = MockServer::start().await;
    let hello = json!({"settings": {"batch_max_requests": 25}, "capabilities": {}});
    answer(
        &server,
        "GET",
        "/v1/",
        ResponseTemplate::new(200).set_body_json(hello),
    )
    .await;
    server
}

async fn answer(server: &MockServer, verb: &str, of: &str, response: ResponseTemplate) {
    let mock = Mock::given(method(verb)).and(path(of));
    mock.respond_with(response).mount(server).await;
}

fn list(objects: Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"data": objects}))
}

fn head(count: u64) -> ResponseTemplate {
    let headers = [
        ("Total-Objects", count.to_string()),
        ("ETag", "\"9\"".to_owned()),
    ];
    ResponseTemplate::new(200).append_headers(headers)
}

/// What is read with credentials, and the copy.
async fn read(
    server: &MockServer,
) -> (Result<ReadReport, ReadingError>, Mirror, tempfile::TempDir) {
    let client = Client::new(&server.uri(), Some("alice:secret")).expect("the URL is one");
    let hello = client.hello().await.expect("it answers");
    let directory = tempfile::tempdir().expect("a new copy opens");
    let work = directory.path().join("work");
    let options = Options::default();
    let mut mirror = reading::open(&client, &hello, &options, work).expect("a new copy opens");
    let progress = Progress::reading();
    let found = reading::read(&client, &hello, &mut mirror, &options, &progress).await;
    (found, mirror, directory)
}

#[tokio::test]
async fn an_overloaded_server_is_asked_again() {
    let server = MockServer::start().await;
    let busy = ResponseTemplate::new(503).append_header("Retry-After", "0");
    let once = Mock::given(method("GET")).and(path("/v1/"));
    once.respond_with(busy)
        .up_to_n_times(1)
        .mount(&server)
        .await;
    let hello = ResponseTemplate::new(200).set_body_json(json!({"settings": {}}));
    answer(&server, "GET", "/v1/", hello).await;
    let client = Client::new(&server.uri(), None).unwrap();
    client.hello().await.unwrap();
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_in_parts() {
    let server = kinto().await;
    let large = ResponseTemplate::new(200).set_body_bytes(vec![b' '; 17 * 1024 * 1024]);
    let page = |limit: &str| {
        let page = Mock::given(method("GET")).and(path("/v1/buckets"));
        page.and(query_param("_limit", limit))
    };
    page("1000").respond_with(large).mount(&server).await;
    let tombstone = json!([{"id": "a", "last_modified": 9, "deleted": true}]);
    page("500")
        .respond_with(list(tombstone))
        .mount(&server)
        .await;
    answer(&server, "HEAD", "/v1/buckets", head(0)).await;
    let (found, mirror, _directory) = read(&server).await;
    assert_eq!(found.unwrap().lists, [ListUri::buckets()]);
    assert_eq!(mirror.reached(&ListUri::buckets()).unwrap().0, 9);
}

#[tokio::test]
async fn credentials_that_are_not_valid_are_no_empty_source() {
    for status in [401, 403, 400] {
        let server = kinto().await;
        let refusal = ResponseTemplate::new(status).set_body_json(json!({"message": "no"}));
        answer(&server, "GET", "/v1/buckets", refusal).await;
        let (found, ..) = read(&server).await;
        assert!(matches!(found, Err(ReadingError::Refused(..))), "{status}");
    }
}

#[tokio::test]
async fn a_list_that_never_shows_what_it_counts_is_told_of() {
    let server = kinto().await;
    answer(&server, "GET", "/v1/buckets", list(json!([]))).await;
    answer(&server, "HEAD", "/v1/buckets", head(3)).await;
    let (found, ..) = read(&server).await;
    let error = found.unwrap_err();
    assert!(
        matches!(
            error,
            ReadingError::Count {
                counted: 3,
                read: 0,
                ..
            }
        ),
        "{error}"
    );
}
