//! What holds whatever runs at once and whatever fails: no write is lost, done twice, or given another's time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::join_all;
use kinto_local::Fault;
use serde_json::json;
use tests::{Answer, Kinto};

const COLLECTION: &str = "/buckets/main/collections/one";
const RECORD: &str = "/buckets/main/collections/one/records/r1";

/// Has the first `times` requests of `operation` meet `fault`; the rest goes through.
fn fail_first(kinto: &Kinto, times: u32, operation: &'static str, fault: Fault) {
    let met = Arc::new(AtomicU32::new(0));
    kinto.aws.inject(move |target, _| {
        let hit = target.ends_with(operation) && met.fetch_add(1, Ordering::SeqCst) < times;
        hit.then(|| fault.clone())
    });
}

/// Has `rival` come between what the next request reads and what it commits.
fn before_first_commit(
    kinto: &Kinto,
    rival: impl AsyncFn(Kinto) -> Answer + Copy + Send + Sync + 'static,
) {
    let (kinto, aws) = (kinto.clone(), kinto.aws.clone());
    aws.clone().inject(move |target, _| {
        if target.ends_with("TransactWriteItems") {
            aws.heal();
            let kinto = kinto.clone();
            // In a thread of its own: this one is in the middle of the request that the rival is to come before.
            let rival = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(rival(kinto)).status
            });
            assert_eq!(rival.join().unwrap(), 200);
        }
        None
    });
}

#[tokio::test]
async fn parallel_writers_of_one_collection_all_get_a_time_of_their_own() {
    let kinto = Kinto::with_collection().await;
    let writers = (0..32).map(|writer| {
        let kinto = kinto.clone();
        async move {
            let mut times = vec![];
            for n in 0..10 {
                let answer = kinto
                    .put(&format!("{COLLECTION}/records/w{writer}-{n}"), json!({}))
                    .await;
                assert_eq!(answer.status, 201, "{answer:?}");
                times.push(answer.last_modified());
            }
            assert!(times.is_sorted_by(|a, b| a < b));
            times
        }
    });
    let times: Vec<u64> = join_all(writers).await.concat();
    assert_eq!(times.iter().collect::<BTreeSet<_>>().len(), 320);
    let list = kinto
        .send(
            "PUT",
            &format!("{COLLECTION}/records/none"),
            &[("if-match", "*")],
            "{}",
        )
        .await;
    assert_eq!(
        list.header("etag"),
        format!("\"{}\"", times.iter().max().unwrap())
    );
}

#[tokio::test]
async fn a_write_that_another_came_before_is_done_again() {
    let kinto = Kinto::with_collection().await;
    kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    before_first_commit(&kinto, async |rival| {
        rival.patch(RECORD, json!({"data": {"b": 2}})).await
    });
    let answer = kinto.patch(RECORD, json!({"data": {"c": 3}})).await;
    assert_eq!(answer.status, 200);
    let data = &answer.body["data"];
    assert_eq!(
        (&data["a"], &data["b"], &data["c"]),
        (&json!(1), &json!(2), &json!(3))
    );
}

#[tokio::test]
async fn a_lost_answer_does_not_make_it_write_twice() {
    let kinto = Kinto::with_collection().await;
    fail_first(&kinto, 1, "TransactWriteItems", Fault::AnswerLost);
    let created = kinto
        .post(&format!("{COLLECTION}/records"), json!({"data": {"a": 1}}))
        .await;
    assert_eq!(created.status, 201);
    assert_eq!(kinto.aws.requests().of("TransactWriteItems"), 2);
    kinto.aws.heal();
    let id = created.body["data"]["id"].as_str().unwrap();
    let read = kinto.get(&format!("{COLLECTION}/records/{id}")).await;
    assert_eq!(read.last_modified(), created.last_modified());
}

#[tokio::test]
async fn conflicts_are_tried_again_and_then_answered_with_503() {
    let kinto = Kinto::with_collection().await;
    let conflict = Fault::transaction_canceled(&["None", "TransactionConflict"]);
    fail_first(&kinto, 5, "TransactWriteItems", conflict.clone());
    assert_eq!(
        kinto.put(RECORD, json!({"data": {"a": 1}})).await.status,
        201
    );

    fail_first(&kinto, u32::MAX, "TransactWriteItems", conflict);
    let refused = kinto.put(RECORD, json!({"data": {"a": 2}})).await;
    assert_eq!(
        (refused.error(), refused.header("retry-after")),
        ((503, 201), "3")
    );
    kinto.aws.heal();
    assert_eq!(kinto.get(RECORD).await.body["data"]["a"], 1);
    assert_eq!(
        kinto.put(RECORD, json!({"data": {"a": 2}})).await.status,
        200
    );
}

#[tokio::test]
async fn a_storage_that_fails_is_answered_with_503_and_no_detail() {
    let kinto = Kinto::with_collection().await;
    for operation in ["BatchGetItem", "TransactWriteItems"] {
        fail_first(
            &kinto,
            u32::MAX,
            operation,
            Fault::error("InternalServerError"),
        );
        let refused = kinto.put(RECORD, json!({})).await;
        assert_eq!(
            (refused.error(), refused.header("retry-after")),
            ((503, 201), "3")
        );
        assert!(
            !refused.body.to_string().contains("injected"),
            "{}",
            refused.body
        );
    }
    kinto.aws.heal();
    assert_eq!(kinto.get(RECORD).await.status, 404);
}

#[tokio::test]
async fn a_throttled_request_is_tried_again() {
    let kinto = Kinto::with_collection().await;
    fail_first(
        &kinto,
        2,
        "BatchGetItem",
        Fault::error("ProvisionedThroughputExceededException"),
    );
    assert_eq!(kinto.put(RECORD, json!({})).await.status, 201);
}

#[tokio::test]
async fn keys_that_dynamodb_left_unread_are_asked_for_again() {
    let kinto = Kinto::with_collection().await;
    let keys = json!([
        {"pk": {"S": "#bucket"}, "sk": {"S": "main"}},
        {"pk": {"S": "/buckets/main#collection"}, "sk": {"S": "one"}},
        {"pk": {"S": "/buckets/main/collections/one#record"}, "sk": {"S": "r1"}},
    ]);
    kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let unread = json!({"Responses": {}, "UnprocessedKeys": {"kinto": {"Keys": keys, "ConsistentRead": true}}});
    fail_first(
        &kinto,
        1,
        "BatchGetItem",
        Fault::Refused {
            status: 200,
            body: unread.to_string(),
        },
    );
    assert_eq!(kinto.get(RECORD).await.body["data"]["a"], 1);
}

#[tokio::test]
async fn nothing_is_written_under_a_parent_that_goes_meanwhile() {
    let kinto = Kinto::with_collection().await;
    before_first_commit(&kinto, async |rival| rival.delete(COLLECTION).await);
    assert_eq!(kinto.put(RECORD, json!({})).await.error(), (404, 111));
    assert_eq!(kinto.put(COLLECTION, json!({})).await.status, 201);
    assert_eq!(kinto.get(RECORD).await.error(), (404, 110));
}
