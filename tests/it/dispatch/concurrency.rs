//! Guarantees under concurrency and failures: no write is lost, applied twice, or given another's time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use kinto_local::{Fault, LocalAws};
use kinto_serverless::resource::ListUri;
use kinto_serverless::store::broadcast_claim::ClaimOutcome;
use kinto_serverless::store::{Key, Store};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{Answer, COLLECTION, Kinto, RECORD, RECORDS, TABLE};
use tokio::time::Instant;

/// Makes the first `times` requests of `operation` meet `fault`; the rest succeed.
fn fail_first(kinto: &Kinto, times: u32, operation: &'static str, fault: Fault) {
    let met = Arc::new(AtomicU32::new(0));
    kinto.aws.inject(move |target, _| {
        let hit = target.ends_with(operation) && met.fetch_add(1, Ordering::SeqCst) < times;
        hit.then(|| fault.clone())
    });
}

/// The transactions that were sent.
type Sent = Arc<Mutex<Vec<Value>>>;

/// Makes the `n`-th transaction from now on, starting with 1, meet the result of `fault`, which may execute
/// transactions that were sent before.
fn on_transactions(
    kinto: &Kinto,
    fault: impl Fn(usize, &dyn Fn(usize)) -> Option<Fault> + Send + Sync + 'static,
) -> Sent {
    let sent = Sent::default();
    let (noted, aws) = (Arc::clone(&sent), kinto.aws.clone());
    kinto.aws.inject(move |target, body| {
        if !target.ends_with("TransactWriteItems") {
            return None;
        }
        let mut noted = noted.lock().unwrap();
        noted.push(serde_json::from_slice(body).unwrap());
        let execute = |n: usize| execute(&aws, &noted[n - 1]);
        fault(noted.len(), &execute)
    });
    sent
}

fn execute(aws: &LocalAws, transaction: &Value) {
    let body = transaction.to_string();
    let executed = aws
        .database()
        .execute("TransactWriteItems", body.as_bytes());
    executed.unwrap();
}

/// Commits the first transaction by a coordinator that takes over from the original one: the connection breaks, its
/// retries are told that it is in progress, and then that it is committed.
fn stall(kinto: &Kinto) -> Sent {
    on_transactions(kinto, |n, execute| match n {
        1 => Some(Fault::Unreached),
        2..8 => Some(Fault::error("TransactionInProgressException")),
        _ => {
            if n == 8 {
                execute(1);
            }
            None
        }
    })
}

/// Returns `true` if all were sent as the same transaction under the same token.
fn are_one(sent: &Sent) -> bool {
    let sent = sent.lock().unwrap();
    sent[0]["ClientRequestToken"].is_string() && sent.iter().all(|other| *other == sent[0])
}

/// The statement of a 503 about its writes.
fn written(answer: &Answer) -> &str {
    assert_eq!(answer.error(), (503, 201), "{answer:?}");
    assert_eq!(answer.header("retry-after"), "3");
    answer.body["details"]["written"].as_str().unwrap()
}

/// Executes `rival` between the reads of the next request and its commit.
fn before_first_commit(
    kinto: &Kinto,
    rival: impl AsyncFn(Kinto) -> Answer + Copy + Send + Sync + 'static,
) {
    let (kinto, aws) = (kinto.clone(), kinto.aws.clone());
    aws.clone().inject(move |target, _| {
        if target.ends_with("TransactWriteItems") {
            aws.clear_faults();
            let kinto = kinto.clone();
            // In a thread of its own: this one is in the middle of the request that the other write must precede.
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
    kinto.aws.clear_faults();
    let id = created.body["data"]["id"].as_str().unwrap();
    let read = kinto.get(&format!("{COLLECTION}/records/{id}")).await;
    assert_eq!(read.last_modified(), created.last_modified());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_committed_late_is_answered_as_it_ended_and_written_once() {
    let kinto = Kinto::with_collection().await;
    let list = format!("{RECORDS}/list");
    let (none, json) = (("If-None-Match", "*"), ("Content-Type", "application/json"));
    let patch = ("Content-Type", "application/json-patch+json");
    let append = json!([{"op": "add", "path": "/data/l/-", "value": 1}]);
    let new = |id: &str| json!({"method": "PUT", "path": format!("{RECORDS}/{id}"), "headers": {"If-None-Match": "*"}});
    let batch = json!({"requests": [new("b1"), new("b2")]});
    let empty = json!({"data": {}});
    let etag = kinto.put(&list, json!({"data": {"l": []}})).await;
    let etag = ("If-Match", etag.header("etag"));
    for (method, path, header, body, status) in [
        ("PUT", "/n1", none, &empty, 201),
        ("PUT", "/n2", json, &empty, 201),
        ("PUT", "/list", etag, &json!({"data": {"l": [0]}}), 200),
        ("PATCH", "/list", patch, &append, 200),
        ("POST", "", json, &json!({"data": {"v": 1}}), 201),
        ("DELETE", "/n1", json, &json!(""), 200),
    ] {
        let sent = stall(&kinto);
        let path = format!("{RECORDS}{path}");
        let answer = kinto
            .send(method, &path, &[header], &body.to_string())
            .await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(sent.lock().unwrap().len() == 8 && are_one(&sent));
    }
    let sent = stall(&kinto);
    let answer = kinto.post("/batch", batch).await;
    for response in answer.body["responses"].as_array().unwrap() {
        assert_eq!(response["status"], 201);
    }
    assert!(are_one(&sent));
    kinto.aws.clear_faults();
    let listed = kinto.get(RECORDS).await;
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 5);
    assert_eq!(kinto.get(&list).await.body["data"]["l"], json!([0, 1]));
}

#[tokio::test(start_paused = true)]
async fn while_an_attempt_is_not_answered_a_refusal_of_its_repetition_decides_nothing() {
    let refusals = [
        Fault::transaction_canceled(&["TransactionConflict", "None"]),
        Fault::transaction_canceled(&["None", "ThrottlingError"]),
        Fault::error("ProvisionedThroughputExceededException"),
        Fault::error("AccessDeniedException"),
    ];
    for refusal in refusals {
        let kinto = Kinto::with_collection().await;
        let sent = on_transactions(&kinto, move |n, execute| match n {
            1 => Some(Fault::Unreached),
            2..5 => Some(refusal.clone()),
            5 => {
                // The first was in transit all the time.
                execute(1);
                Some(refusal.clone())
            }
            _ => None,
        });
        let answer = kinto
            .send("PUT", RECORD, &[("if-none-match", "*")], "{}")
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(are_one(&sent));
        kinto.aws.clear_faults();
        let read = kinto.get(RECORD).await;
        assert_eq!(read.last_modified(), answer.last_modified());
    }
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_does_not_hold_is_final_though_an_attempt_was_not_answered() {
    let kinto = Kinto::with_collection().await;
    let rival = kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let sent = on_transactions(&kinto, |n, _| match n {
        1 => Some(Fault::Unreached),
        2 => Some(Fault::transaction_canceled(&[
            "ConditionalCheckFailed",
            "TransactionConflict",
        ])),
        _ => None,
    });
    let answer = kinto.patch(RECORD, json!({"data": {"b": 2}})).await;
    assert_eq!(answer.status, 200);
    assert!(answer.last_modified() > rival.last_modified());
    let sent = sent.lock().unwrap();
    let tokens = sent.iter().map(|sent| &sent["ClientRequestToken"]);
    let tokens: Vec<_> = tokens.collect();
    assert!(tokens.len() == 3 && tokens[0] == tokens[1] && tokens[1] != tokens[2]);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_outcome_is_not_known_in_time_is_told_from_one_that_wrote_nothing() {
    let kinto = Kinto::with_collection().await;
    for (fault, is_there) in [
        (Fault::error("InternalServerError"), false),
        (Fault::AnswerLost, true),
    ] {
        fail_first(&kinto, u32::MAX, "TransactWriteItems", fault);
        let begin = Instant::now();
        let answer = kinto.put(RECORD, json!({})).await;
        assert_eq!(written(&answer), "unknown");
        assert!((20..=27).contains(&begin.elapsed().as_secs()));
        kinto.aws.clear_faults();
        assert_eq!(kinto.get(RECORD).await.status == 200, is_there);
    }
    fail_first(
        &kinto,
        u32::MAX,
        "BatchGetItem",
        Fault::error("InternalServerError"),
    );
    assert_eq!(written(&kinto.put(RECORD, json!({})).await), "nothing");
}

#[tokio::test(start_paused = true)]
async fn a_large_write_that_is_committed_in_part_says_so() {
    let kinto = Kinto::with_collection().await;
    let members: Vec<_> = (0..150).map(|n| format!("account:{n}")).collect();
    let sent = on_transactions(&kinto, |n, _| {
        (n > 1).then(|| Fault::transaction_canceled(&["TransactionConflict"]))
    });
    let group = json!({"data": {"members": members}});
    let answer = kinto.put("/buckets/main/groups/large", group.clone()).await;
    assert_eq!(written(&answer), "partly");
    assert!(sent.lock().unwrap().len() > 8);
    kinto.aws.clear_faults();
    let repeated = kinto.put("/buckets/main/groups/large", group).await;
    assert_eq!(repeated.status, 200);
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_tried_again_and_then_answered_with_503() {
    let kinto = Kinto::with_collection().await;
    let conflict = Fault::transaction_canceled(&["None", "TransactionConflict"]);
    fail_first(&kinto, 5, "TransactWriteItems", conflict.clone());
    assert_eq!(
        kinto.put(RECORD, json!({"data": {"a": 1}})).await.status,
        201
    );

    fail_first(&kinto, u32::MAX, "TransactWriteItems", conflict);
    let begin = Instant::now();
    let refused = kinto.put(RECORD, json!({"data": {"a": 2}})).await;
    assert_eq!(written(&refused), "nothing");
    assert!((9..=10).contains(&begin.elapsed().as_secs()));
    kinto.aws.clear_faults();
    assert_eq!(kinto.get(RECORD).await.body["data"]["a"], 1);
    assert_eq!(
        kinto.put(RECORD, json!({"data": {"a": 2}})).await.status,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_meets_others_or_is_throttled_is_tried_again() {
    let kinto = Kinto::with_collection().await;
    for reasons in [
        ["None", "TransactionConflict"],
        ["ThrottlingError", "None"],
        ["ProvisionedThroughputExceeded", "None"],
        ["None", "RequestLimitExceeded"],
        ["ThrottlingError", "TransactionConflict"],
        ["TransactionConflict", "ProvisionedThroughputExceeded"],
        ["RequestLimitExceeded", "ThrottlingError"],
    ] {
        let fault = Fault::transaction_canceled(&reasons);
        fail_first(&kinto, 6, "TransactWriteItems", fault.clone());
        let answer = kinto.put(RECORD, json!({})).await;
        assert!(
            matches!(answer.status, 200 | 201),
            "{reasons:?}: {answer:?}"
        );
        fail_first(&kinto, 6, "TransactGetItems", fault);
        let changeset = kinto
            .get(&format!("{COLLECTION}/changeset?_expected=0"))
            .await;
        assert_eq!(changeset.status, 200, "{reasons:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_condition_counts_for_more_than_throttling_beside_it() {
    let kinto = Kinto::with_collection().await;
    let reasons = ["ThrottlingError", "ConditionalCheckFailed"];
    let fault = Fault::transaction_canceled(&reasons);
    fail_first(&kinto, 1, "TransactWriteItems", fault);
    assert_eq!(kinto.put(RECORD, json!({})).await.status, 201);
    assert_eq!(kinto.aws.requests().of("BatchGetItem"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_request_is_tried_again() {
    let kinto = Kinto::with_collection().await;
    let changeset = format!("{COLLECTION}/changeset?_expected=0");
    let monitor = "/buckets/monitor/collections/changes/records";
    kinto.put(RECORD, json!({})).await;
    for code in [
        "ThrottlingException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
    ] {
        for (operation, method, path) in [
            ("BatchGetItem", "PUT", RECORD),
            ("TransactWriteItems", "PUT", RECORD),
            ("BatchGetItem", "GET", RECORD),
            ("Query", "GET", RECORDS),
            ("TransactGetItems", "GET", &changeset),
            ("Query", "GET", monitor),
            ("GetItem", "GET", "/__broadcasts__"),
        ] {
            let requests_of = async || {
                kinto.aws.requests().take();
                let includes = ("KINTO_INCLUDES", "kinto_remote_settings.changes");
                let fresh = Kinto::over(&kinto.aws, &[includes]);
                let answer = fresh.send(method, path, &[], "").await;
                assert_eq!(answer.status, 200, "{code} {operation}: {answer:?}");
                kinto.aws.requests().of(operation)
            };
            let usual = requests_of().await;
            fail_first(&kinto, 10, operation, Fault::error(code));
            assert_eq!(requests_of().await, usual + 10, "{path}");
        }
    }
}

#[tokio::test]
async fn a_partition_that_is_full_is_no_reason_to_try_again() {
    let kinto = Kinto::with_collection().await;
    for fault in [
        Fault::transaction_canceled(&["ItemCollectionSizeLimitExceeded", "TransactionConflict"]),
        Fault::error("ItemCollectionSizeLimitExceededException"),
    ] {
        fail_first(&kinto, 1, "TransactWriteItems", fault);
        let refused = kinto.put(RECORD, json!({})).await;
        assert_eq!(refused.error(), (507, 999));
        assert_eq!(refused.body["error"], "Insufficient Storage");
        assert_eq!(refused.header("retry-after"), "");
        assert_eq!(kinto.get(RECORD).await.status, 404);
    }
}

#[tokio::test]
async fn a_transaction_that_is_wrong_in_itself_is_our_mistake() {
    let kinto = Kinto::with_collection().await;
    for fault in [
        Fault::transaction_canceled(&["ThrottlingError", "ValidationError"]),
        Fault::error("ValidationException"),
        Fault::error("IdempotentParameterMismatchException"),
    ] {
        fail_first(&kinto, 1, "TransactWriteItems", fault);
        let failed = kinto.put(RECORD, json!({})).await;
        assert_eq!(failed.error(), (500, 999));
        assert!(!failed.body.to_string().contains("injected"));
        assert_eq!(failed.header("retry-after"), "");
    }
}

#[tokio::test(start_paused = true)]
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
    kinto.aws.clear_faults();
    assert_eq!(kinto.get(RECORD).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_single_write_that_meets_a_transaction_or_itself_is_not_taken_for_refused() {
    let kinto = Kinto::new();
    let store = Store::new(kinto.aws.dynamodb(), TABLE);
    let conflict = Fault::error("TransactionConflictException");
    for (failures, fault) in [(6, conflict), (1, Fault::AnswerLost)] {
        fail_first(&kinto, failures, "UpdateItem", fault);
        let (due, now) = (Some(Timestamp(7)), Timestamp(8));
        let claim = store.claim_broadcast("mp", "me", due, now, now.next());
        assert_eq!(claim.await.unwrap(), ClaimOutcome::Granted(Timestamp(7)));
    }
}

#[tokio::test(start_paused = true)]
async fn writers_of_a_list_that_is_contended_take_turns_until_it_is_not() {
    let kinto = Kinto::with_collection().await;
    kinto.put("/buckets/main/collections/two", json!({})).await;
    let conflict = Fault::transaction_canceled(&["None", "TransactionConflict"]);
    fail_first(&kinto, 1, "TransactWriteItems", conflict);
    let requests = async |path: &str| {
        kinto.aws.requests().take();
        let answer = kinto.put(path, json!({})).await;
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        let requests = kinto.aws.requests();
        ["BatchGetItem", "UpdateItem", "TransactWriteItems"].map(|of| requests.of(of))
    };
    // First the condition that somebody waits is tried, then that nobody does.
    assert_eq!(requests(RECORD).await, [2, 2, 2]);
    // The clock of the turns runs on during this test, and may or may not have passed the last one by now.
    let [reads, turns, commits] = requests(RECORD).await;
    assert!((reads, commits) == (1, 1) && (1..=2).contains(&turns));
    let other = "/buckets/main/collections/two/records/r1";
    assert_eq!(requests(other).await, [1, 0, 1]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(requests(RECORD).await, [1, 0, 1]);
}

#[tokio::test]
async fn turns_follow_one_another_and_begin_anew_where_nobody_waits() {
    let kinto = Kinto::new();
    let store = Store::new(kinto.aws.dynamodb(), TABLE);
    let list = Key::list(&ListUri::buckets());
    let mut turns = vec![];
    for (earliest, length) in [
        (100, 10),
        (101, 5),
        (99, 10),
        (200, 10),
        (205, 10),
        (210, 10),
    ] {
        let length = Duration::from_millis(length);
        let turn = store.reserve_turn(&list, Timestamp(earliest), length);
        turns.push(turn.await.unwrap().unwrap().0);
    }
    assert_eq!(turns, [100, 110, 115, 200, 210, 220]);
    let other = Key::list(&ListUri::accounts());
    let turn = store.reserve_turn(&other, Timestamp(100), Duration::from_millis(10));
    assert_eq!(turn.await.unwrap(), Some(Timestamp(100)));
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
