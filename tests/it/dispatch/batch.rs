//! Several requests in one. Statuses and error numbers are those of Kinto 26.5.0.

use futures::future::join_all;
use kinto_local::Fault;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{BOB, COLLECTION, Kinto, RECORDS, batch, ids, put, record, sorted_ids, statuses};

#[tokio::test]
async fn requests_are_answered_in_their_order_and_see_what_those_before_them_wrote() {
    let kinto = Kinto::with_collection().await;
    let answer = batch(
        &kinto,
        vec![
            put("a"),
            json!({"path": record("a")}),
            put("a"),
            json!({"method": "PATCH", "path": record("a"), "body": {"data": {"more": 1}}}),
            put("b"),
            json!({"path": RECORDS}),
            json!({"method": "HEAD", "path": RECORDS}),
            json!({"method": "DELETE", "path": record("a")}),
            json!({"path": record("a")}),
            json!({"path": format!("{RECORDS}?_since=0")}),
        ],
    )
    .await;
    assert_eq!(
        statuses(&answer),
        [201, 200, 200, 200, 201, 200, 200, 200, 404, 200]
    );
    let responses = &answer.body["responses"];
    assert_eq!(responses[0]["path"], format!("/v1{}", record("a")));
    assert_eq!(responses[0]["body"]["data"]["n"], "a");
    let modified = responses[0]["body"]["data"]["last_modified"]
        .as_u64()
        .unwrap();
    assert_eq!(responses[0]["headers"]["ETag"], format!("\"{modified}\""));
    assert_eq!(responses[5]["body"]["data"].as_array().unwrap().len(), 2);
    assert_eq!(responses[5]["body"]["data"][0]["id"], "b");
    assert_eq!(responses[6]["headers"]["Total-Objects"], "2");
    assert_eq!(responses[6]["body"], "");
    assert_eq!(responses[9]["body"]["data"][0]["deleted"], true);
    assert_eq!(sorted_ids(&kinto).await, ["b"]);
}

#[tokio::test]
async fn a_bucket_and_all_in_it_can_be_made_at_once() {
    let kinto = Kinto::new();
    let path = |path: &str| json!({"method": "PUT", "path": path});
    let made = batch(
        &kinto,
        vec![
            path("/buckets/new"),
            path("/buckets/new/groups/g"),
            path("/buckets/new/collections/c"),
            path("/buckets/new/collections/c/records/r"),
        ],
    )
    .await;
    assert_eq!(statuses(&made), [201; 4]);
    assert_eq!(
        kinto
            .get("/buckets/new/collections/c/records/r")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn what_is_refused_leaves_the_others_standing() {
    let kinto = Kinto::with_collection().await;
    let refused = json!({"method": "PUT", "path": record("-"), "body": {}});
    let unknown = json!({"path": "/nowhere"});
    let not_modified =
        json!({"method": "PUT", "path": record("a"), "headers": {"If-None-Match": "*"}});
    let answer = batch(
        &kinto,
        vec![put("a"), refused, unknown, not_modified, put("b")],
    )
    .await;
    assert_eq!(statuses(&answer), [201, 400, 404, 412, 201]);
    let existing = &answer.body["responses"][3]["body"]["details"]["existing"];
    assert_eq!(existing["id"], "a");
    assert_eq!(sorted_ids(&kinto).await, ["a", "b"]);
}

#[tokio::test]
async fn a_failure_of_ours_takes_all_of_it_back() {
    let kinto = Kinto::with_collection().await;
    kinto.aws.inject(|target, _| {
        target
            .ends_with("TransactWriteItems")
            .then(|| Fault::error("ResourceNotFoundException"))
    });
    let failed = batch(&kinto, vec![put("a"), put("b")]).await;
    assert_eq!(failed.error(), (503, 201));
    assert_eq!(failed.header("retry-after"), "3");
    kinto.aws.clear_faults();
    assert!(sorted_ids(&kinto).await.is_empty());
}

#[tokio::test]
async fn defaults_are_added_to_each_request() {
    let kinto = Kinto::with_collection().await;
    let answer = kinto
        .post(
            "/batch",
            json!({
                "defaults": {"method": "PUT", "headers": {"Authorization": BOB}, "body": {"data": {"a": 1}}},
                "requests": [
                    {"path": "/buckets/bobs", "body": {"data": {"b": 2}}},
                    {"path": record("x")},
                    {"path": "/", "method": "GET"},
                ],
            }),
        )
        .await;
    assert_eq!(statuses(&answer), [201, 403, 200]);
    let responses = &answer.body["responses"];
    assert_eq!(responses[0]["body"]["data"]["a"], 1);
    assert_eq!(responses[0]["body"]["data"]["b"], 2);
    let bob = kinto.as_user(BOB).get("/").await.body["user"]["id"].clone();
    assert_eq!(responses[2]["body"]["user"]["id"], bob);
}

#[tokio::test]
async fn redirects_are_followed_within() {
    let kinto = Kinto::with_collection().await;
    let slash = json!({"path": format!("{RECORDS}/")});
    let prefixed = json!({"path": format!("/v1{RECORDS}?_limit=1")});
    let answer = batch(&kinto, vec![slash, prefixed]).await;
    assert_eq!(statuses(&answer), [200, 200]);
    assert_eq!(answer.body["responses"][0]["path"], format!("/v1{RECORDS}"));
    assert_eq!(answer.body["responses"][1]["path"], format!("/v1{RECORDS}"));
}

#[tokio::test]
async fn a_malformed_batch_is_refused_whole() {
    let kinto = Kinto::with_collection().await;
    let too_many = vec![json!({"path": "/"}); 26];
    for (body, name) in [
        (json!({}), "requests"),
        (json!([]), ""),
        (json!({"requests": 3}), "requests"),
        (json!({"requests": [3]}), "requests.0"),
        (json!({"requests": [{}]}), "requests.0.path"),
        (
            json!({"requests": [{"path": "buckets"}]}),
            "requests.0.path",
        ),
        (
            json!({"requests": [{"path": "/", "method": "FOO"}]}),
            "requests.0.method",
        ),
        (
            json!({"requests": [{"path": "/", "method": 3}]}),
            "requests.0.method",
        ),
        (json!({"requests": [{"path": "/", "foo": 1}]}), "requests.0"),
        (
            json!({"requests": [{"path": "/", "body": []}]}),
            "requests.0.body",
        ),
        (
            json!({"requests": [{"path": "/", "headers": {"a": 1}}]}),
            "requests.0.headers",
        ),
        (
            json!({"requests": [{"path": "/", "headers": {"a b": "c"}}]}),
            "requests.0.headers",
        ),
        (
            json!({"requests": [put("a"), {"path": "/batch", "method": "POST"}]}),
            "requests",
        ),
        (json!({"requests": [{"path": "/v1/batch/"}]}), "requests"),
        (json!({"requests": too_many}), "requests"),
        (json!({"requests": [], "x": 1}), ""),
        (json!({"requests": [], "defaults": 3}), "defaults"),
        (
            json!({"requests": [], "defaults": {"method": 1}}),
            "defaults.method",
        ),
    ] {
        let answer = kinto.post("/batch", body.clone()).await;
        assert_eq!(answer.error(), (400, 107), "{body}");
        assert_eq!(answer.body["details"][0]["name"], name, "{body}");
    }
    assert_eq!(kinto.get("/batch").await.error(), (405, 115));
    assert!(sorted_ids(&kinto).await.is_empty());
    assert_eq!(statuses(&batch(&kinto, vec![]).await), [0u64; 0]);
}

#[tokio::test]
async fn a_batch_of_25_costs_two_round_trips() {
    let kinto = Kinto::with_collection().await;
    let requests = kinto.aws.requests();
    let puts: Vec<_> = (0..25).map(|n| put(&format!("r{n}"))).collect();
    for expected in [201, 200] {
        requests.take();
        assert_eq!(statuses(&batch(&kinto, puts.clone()).await), [expected; 25]);
        assert_eq!(requests.total(), 2);
    }
}

#[tokio::test]
async fn eight_clients_sending_batches_at_once_lose_nothing() {
    let kinto = Kinto::with_collection().await;
    let client = |client: usize| {
        let kinto = kinto.clone();
        async move {
            for n in 0..4 {
                let puts = (0..25)
                    .map(|i| put(&format!("c{client}-{n}-{i}")))
                    .collect();
                assert_eq!(statuses(&batch(&kinto, puts).await), [201; 25]);
            }
        }
    };
    join_all((0..8).map(client)).await;
    let list = kinto.get(&format!("{RECORDS}?_sort=last_modified")).await;
    let objects = list.body["data"].as_array().unwrap();
    assert_eq!(objects.len(), 8 * 4 * 25);
    let times: Vec<_> = objects
        .iter()
        .map(|o| o["last_modified"].as_u64().unwrap())
        .collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(
        list.header("etag"),
        format!("\"{}\"", times.last().unwrap())
    );
}

/// A request for one of a few objects, so that those of a batch meet.
fn request() -> impl Strategy<Value = Value> {
    let id = prop::sample::select(vec!["a", "b", "c"]);
    let path = prop_oneof![
        12 => id.clone().prop_map(|id| format!("/buckets/main/collections/one/records/{id}")),
        2 => Just("/buckets/main/collections/one/records".to_owned()),
        1 => Just("/buckets/main/collections/one/records?_since=0&_sort=id".to_owned()),
        1 => Just("/buckets/main/collections/one/records?n=1".to_owned()),
        2 => id.prop_map(|id| format!("/buckets/main/groups/{id}")),
        2 => Just("/buckets/main/collections/one".to_owned()),
        1 => Just("/buckets/main".to_owned()),
        1 => Just("/buckets/main/collections".to_owned()),
    ];
    let method = prop::sample::select(vec!["PUT", "PUT", "PUT", "GET", "PATCH", "DELETE", "HEAD"]);
    let headers = prop_oneof![
        4 => Just(json!({})),
        1 => Just(json!({"If-None-Match": "*"})),
        1 => Just(json!({"If-Match": "\"1\""})),
    ];
    (method, path, 0..3, headers).prop_map(|(method, path, n, headers)| {
        let mut request = json!({"method": method, "path": path, "headers": headers});
        if method == "PUT" || method == "PATCH" {
            request["body"] = json!({"data": {"n": n}});
        }
        request
    })
}

/// A response without times, which differ between two servers.
fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.shift_remove("last_modified");
            fields
                .values_mut()
                .for_each(|field| *field = timeless(field.take()));
        }
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| *value = timeless(value.take())),
        _ => {}
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_answers_and_does_the_same_as_its_requests_one_by_one(
        batches in prop::collection::vec(prop::collection::vec(request(), 1..12), 1..4)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (together, apart) = (Kinto::with_collection().await, Kinto::with_collection().await);
            for requests in batches {
                let answer = batch(&together, requests.clone()).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let responses = answer.body["responses"].as_array().unwrap();
                for (request, response) in requests.iter().zip(responses) {
                    let text = |field: &str| request[field].as_str().unwrap();
                    let headers = request["headers"].as_object().unwrap();
                    let headers: Vec<_> =
                        headers.iter().map(|(name, value)| (&**name, value.as_str().unwrap())).collect();
                    let body = request.get("body").map(Value::to_string).unwrap_or_default();
                    let single = apart.send(text("method"), text("path"), &headers, &body).await;
                    prop_assert_eq!(response["status"].as_u64(), Some(single.status.into()), "{}", request);
                    let body = match response["body"].as_str() {
                        Some("") => Value::Null,
                        _ => response["body"].clone(),
                    };
                    prop_assert_eq!(timeless(body), timeless(single.body), "{}", request);
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn what_a_batch_wrote_before_it_made_the_collection_anew_is_not_waited_for() {
    let kinto = Kinto::with_collection().await;
    let (collection, records) = (COLLECTION, RECORDS);
    kinto.put(&format!("{records}/b"), json!({})).await;
    let put = |path: &str| json!({"method": "PUT", "path": path, "body": {}});
    let requests = [
        put(&format!("{records}/a")),
        json!({"method": "DELETE", "path": format!("{records}/b")}),
        json!({"method": "DELETE", "path": collection}),
        put(collection),
        put(&format!("{records}/c")),
    ];
    assert_eq!(batch(&kinto, requests.to_vec()).await.status, 200);
    for query in ["", "?_since=0", "?_limit=1"] {
        let read = kinto.get(&format!("{records}{query}")).await;
        assert_eq!((read.status, ids(&read)), (200, vec!["c"]), "{query}");
    }
    let changeset = kinto
        .get(&format!("{collection}/changeset?_expected=0"))
        .await;
    assert_eq!(changeset.status, 200);
    assert_eq!(changeset.body["changes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_batch_that_is_too_large_for_one_transaction_is_refused_and_writes_nothing() {
    let kinto = Kinto::with_collection().await;
    let text = "x".repeat(390_000);
    let uri = |n: usize| format!("/buckets/main/collections/one/records/r{n}");
    let put = |n: usize| json!({"method": "PUT", "path": uri(n), "body": {"data": {"text": text}}});
    let batch = |count: usize| json!({"requests": (0..count).map(put).collect::<Vec<_>>()});
    assert_eq!(kinto.post("/batch", batch(11)).await.error(), (413, 113));
    assert_eq!(kinto.get(&uri(0)).await.status, 404);
    assert_eq!(kinto.post("/batch", batch(9)).await.status, 200);
    assert_eq!(kinto.get(&uri(8)).await.status, 200);
}
