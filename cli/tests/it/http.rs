//! Another Kinto, reached by its API, in its bad moments; in its good ones `tests/moving/api.py` reads a real one.

use kinto_cli::http::client::Client;
use kinto_cli::http::mirror::Mirror;
use kinto_cli::http::reading::{self, Options, ReadReport, ReadingError};
use kinto_cli::progress::Progress;
use kinto_serverless::resource::{ListUri, ObjectUri};
use serde_json::{Value, json};
use wiremock::matchers::{method, path, query_param, query_param_is_missing};
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

const HISTORY: &str = "/buckets/b/history";

/// A Kinto with one bucket, and nothing in it but a history.
async fn kinto_with_history() -> MockServer {
    let server = MockServer::start().await;
    let hello = json!({"settings": {}, "capabilities": {"history": {}}});
    let json = |body: Value| ResponseTemplate::new(200).set_body_json(body);
    answer(&server, "GET", "/v1/", json(hello)).await;
    let bucket = json!([{"id": "b", "last_modified": 9}]);
    answer(&server, "GET", "/v1/buckets", list(bucket)).await;
    answer(&server, "HEAD", "/v1/buckets", head(1)).await;
    let permissions = json!({"data": {}, "permissions": {"write": ["alice"]}});
    let batch = json!({"responses": [{"status": 200, "body": permissions}]});
    answer(&server, "POST", "/v1/batch", json(batch)).await;
    for lists in ["/v1/buckets/b/groups", "/v1/buckets/b/collections"] {
        answer(&server, "GET", lists, list(json!([]))).await;
        answer(&server, "HEAD", lists, head(0)).await;
    }
    server
}

/// Answers for the history since a time, on the page of a token, where the last entry is at 30 and nothing is certain after 25.
async fn history(server: &MockServer, since: &str, token: Option<&str>, times: &[u64], next: &str) {
    let entries = times.iter().enumerate().map(|(number, time)| {
        json!({"id": format!("{since}-{}-{number}", token.is_some()), "last_modified": time})
    });
    let answer = list(entries.collect()).append_header("ETag", "\"25\"");
    let answer = match next {
        "" => answer,
        next => answer.append_header("Next-Page", next),
    };
    let mock = Mock::given(method("GET")).and(path(format!("/v1{HISTORY}")));
    let mock = mock.and(query_param("_since", since));
    let mock = match token {
        Some(token) => mock.and(query_param("_token", token)),
        None => mock.and(query_param_is_missing("_token")),
    };
    mock.respond_with(answer).mount(server).await;
}

/// The history begins with an entry of that time.
async fn begins(server: &MockServer, time: u64) {
    let first = Mock::given(method("GET")).and(path(format!("/v1{HISTORY}")));
    let first = first.and(query_param("_limit", "1"));
    let first = first.respond_with(list(json!([{"id": "first", "last_modified": time}])));
    first.mount(server).await;
}

/// Reads into a copy that is there already.
async fn read_on(server: &MockServer, mirror: &mut Mirror) -> ReadReport {
    let client = Client::new(&server.uri(), Some("alice:secret")).unwrap();
    let hello = client.hello().await.unwrap();
    let (options, progress) = (Options::default(), Progress::reading());
    let found = reading::read(&client, &hello, mirror, &options, &progress).await;
    found.unwrap()
}

fn times(mirror: &Mirror) -> Vec<u64> {
    let mut times = vec![];
    let visited: rusqlite::Result<()> = mirror.by_time(&HISTORY, |entry| {
        times.push(entry.last_modified.0);
        Ok(())
    });
    visited.unwrap();
    times
}

#[tokio::test]
async fn a_history_is_read_with_entries_of_one_time_and_again_from_where_it_is_certain() {
    let server = kinto_with_history().await;
    // The server calls itself otherwise than we do.
    let next = "http://inside:8888/v1/buckets/b/history?_since=0&_token=a%2Bb";
    history(&server, "0", None, &[10, 20], next).await;
    history(&server, "0", Some("a+b"), &[20, 30], "").await;
    let (found, mut mirror, _directory) = read(&server).await;
    assert_eq!(found.unwrap().histories, [ObjectUri::bucket("b")]);
    assert_eq!(times(&mirror), [10, 20, 20, 30]);
    assert_eq!(mirror.reached(&HISTORY).unwrap().0, 25);

    history(&server, "25", None, &[28, 30], "").await;
    begins(&server, 10).await;
    read_on(&server, &mut mirror).await;
    assert_eq!(times(&mirror), [10, 20, 20, 28, 30, 30]);
}

#[tokio::test]
async fn a_history_that_begins_otherwise_is_read_anew() {
    let server = kinto_with_history().await;
    history(&server, "0", None, &[10, 20], "").await;
    let (_, mut mirror, _directory) = read(&server).await;
    let server = kinto_with_history().await;
    history(&server, "20", None, &[40], "").await;
    history(&server, "25", None, &[40], "").await;
    history(&server, "0", None, &[35, 40], "").await;
    begins(&server, 35).await;
    read_on(&server, &mut mirror).await;
    assert_eq!(times(&mirror), [35, 40]);
}

#[tokio::test]
async fn live_objects_that_since_does_not_show_as_such_are_read() {
    let server = kinto().await;
    let found = |query: (&'static str, &'static str), objects: Value| {
        let mock = Mock::given(method("GET")).and(path("/v1/buckets"));
        mock.and(query_param(query.0, query.1))
            .respond_with(list(objects))
    };
    // Its only field is `deleted`; the other is as old as Kinto lets its writer say.
    let looks_deleted = json!([{"id": "a", "last_modified": 9, "deleted": true}]);
    let early = json!([{"id": "b", "last_modified": -5, "x": 1}, {"id": "c", "last_modified": 0}]);
    let mocks = [
        found(("_since", "0"), looks_deleted.clone()),
        found(("deleted", "true"), looks_deleted),
        found(("_before", "1"), early),
    ];
    for mock in mocks {
        mock.mount(&server).await;
    }
    answer(&server, "HEAD", "/v1/buckets", head(3)).await;
    let all = Mock::given(method("POST")).and(path("/v1/batch"));
    let shown = |request: &wiremock::Request| {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let asked = asked["requests"].as_array().unwrap().len();
        let body = json!({"status": 404, "body": {}});
        ResponseTemplate::new(200).set_body_json(json!({"responses": vec![body; asked]}))
    };
    all.respond_with(shown).mount(&server).await;
    // What is under them is of no interest here.
    let under = Mock::given(method("HEAD")).and(wiremock::matchers::path_regex("/v1/buckets/.+"));
    under.respond_with(head(0)).mount(&server).await;
    let under = Mock::given(method("GET")).and(wiremock::matchers::path_regex("/v1/buckets/.+"));
    under.respond_with(list(json!([]))).mount(&server).await;
    let (found, mirror, _directory) = read(&server).await;
    found.unwrap();
    let objects = mirror.objects(&ListUri::buckets()).map(Result::unwrap);
    let objects: Vec<_> = objects
        .map(|object| (object.is_before_1970(), object.data))
        .collect();
    let data = |text: &str| Some(text.to_owned());
    assert_eq!(
        objects,
        [
            (false, data("{\"deleted\":true}")),
            (true, data("{\"x\":1}")),
            (false, data("{}"))
        ]
    );
}

#[tokio::test]
async fn an_object_that_is_too_deep_hides_no_other() {
    let server = kinto().await;
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    let page = format!(
        r#"{{"data": [{{"id": "deep", "last_modified": 8, "x": {deep}}}, {{"id": "line\n", "last_modified": 9}}]}}"#
    );
    let page = ResponseTemplate::new(200).set_body_string(page);
    answer(&server, "GET", "/v1/buckets", page).await;
    answer(&server, "HEAD", "/v1/buckets", head(2)).await;
    let body = json!({"responses": [{"status": 404, "body": {}}]});
    let one = ResponseTemplate::new(200).set_body_json(body);
    answer(&server, "POST", "/v1/batch", one).await;
    for under in ["groups", "collections"] {
        let of = format!("/v1/buckets/deep/{under}");
        answer(&server, "GET", &of, list(json!([]))).await;
        answer(&server, "HEAD", &of, head(0)).await;
    }
    let (found, mirror, _directory) = read(&server).await;
    // Nobody asks for what is under an id that no URL can have.
    assert_eq!(found.unwrap().lists.len(), 3);
    let ids: Vec<_> = mirror
        .objects(&ListUri::buckets())
        .map(|object| object.unwrap().id)
        .collect();
    assert_eq!(ids, ["deep", "line\n"]);
}
