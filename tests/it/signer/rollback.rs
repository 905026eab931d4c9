//! Rollbacks of more than fits into a transaction: shown at once, whatever is killed, and written by whoever comes next.

use std::sync::atomic::{AtomicBool, Ordering};

use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{ALICE, BOB, NOBODY, batch};

use super::{DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW};

const MANY: u64 = 120;

/// A source with many records that were published, and were all written, but for some that are gone, since.
async fn edited() -> Signer {
    let signer = Signer::with(WITH_PREVIEW, "true").await;
    write(&signer, 1).await;
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    write(&signer, 2).await;
    for id in ["r0", "r1"] {
        signer.kinto.delete(&record(id)).await.expect(200);
    }
    signer.write(ALICE, "new", 2).await.expect(201);
    let shared = json!({"permissions": {"read": ["system.Everyone"]}});
    signer.kinto.patch(&record("r2"), shared).await.expect(200);
    signer
}

fn record(id: &str) -> String {
    format!("{SOURCE}/records/{id}")
}

async fn write(signer: &Signer, n: u64) {
    for start in (0..MANY).step_by(20) {
        let put = |id: u64| json!({"method": "PUT", "path": record(&format!("r{id}")), "body": {"data": {"n": n}}});
        let puts = (start..start + 20).map(put).collect();
        batch(&signer.kinto, puts).await.expect(200);
    }
}

/// Panics unless the source shows what was published, however it is read.
async fn is_taken_back(signer: &Signer) {
    let published = signer.verified(DESTINATION).await;
    assert_eq!(published.len(), usize::try_from(MANY).unwrap());
    let other = signer.restarted(WITH_PREVIEW, "true");
    let shown = |body: &Value, list: &str| {
        let records = body[list].as_array().unwrap().iter();
        let mut records: Vec<_> = records
            .map(|it| format!("{}={}", it["id"].as_str().unwrap(), it["n"]))
            .collect();
        records.sort_unstable();
        records
    };
    let listed = other.get(&format!("{SOURCE}/records")).await.expect(200);
    assert_eq!(shown(&listed, "data"), published);
    let path = format!("{SOURCE}/changeset?_expected=0");
    let changeset = other.get(&path).await.expect(200);
    assert_eq!(shown(&changeset, "changes"), published);
    assert_eq!(other.get(&record("r0")).await.expect(200)["data"]["n"], 1);
    other.get(&record("new")).await.expect(404);
    // Who may read a record still may: of its permissions an answer tells its owner alone, which nobody is.
    let nobody = other.as_user(NOBODY);
    assert_eq!(nobody.get(&record("r2")).await.expect(200)["data"]["n"], 1);
    nobody.get(&record("r3")).await.expect(401);
    let filtered = other
        .get(&format!("{SOURCE}/records?n=2"))
        .await
        .expect(200);
    assert_eq!(filtered["data"], json!([]));
    assert_eq!(signer.verified(PREVIEW).await, published);
}

#[tokio::test]
async fn many_records_are_taken_back_at_once() {
    let signer = edited().await;
    let before = signer.kinto.get(&format!("{SOURCE}/records")).await;
    signer.set(BOB, "to-rollback").await.expect(200);
    assert_eq!(signer.status().await, "signed");
    is_taken_back(&signer).await;
    let after = signer.kinto.get(&format!("{SOURCE}/records")).await;
    assert!(after.header("etag") > before.header("etag"));
    // Who polls learns of all.
    let since = before.header("etag").trim_matches('"').to_owned();
    let path = format!("{SOURCE}/records?_since={since}");
    let changes = signer.kinto.get(&path).await.expect(200);
    assert_eq!(changes["data"].as_array().unwrap().len(), 121);
}

#[tokio::test]
async fn wherever_a_large_rollback_is_killed_all_of_it_is_shown_or_nothing() {
    let (mut shown, mut hidden) = (0, 0);
    for life in [0, 2, 5, 8, 11, 12, 13, 14, 15, 16, 17, 20, 40] {
        let signer = edited().await;
        let left = std::sync::atomic::AtomicU64::new(life);
        signer.kinto.aws.inject(move |_, _| {
            let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            spent
                .err()
                .map(|_| Fault::error("ResourceNotFoundException"))
        });
        signer.set(BOB, "to-rollback").await;
        signer.kinto.aws.clear_faults();
        match signer.status().await.as_str() {
            "signed" => {
                is_taken_back(&signer).await;
                shown += 1;
            }
            "work-in-progress" => {
                let answer = signer.kinto.get(&record("r5")).await.expect(200);
                assert_eq!(answer["data"]["n"], 2);
                signer.kinto.get(&record("r0")).await.expect(404);
                hidden += 1;
            }
            status => panic!("{status} after {life} requests"),
        }
        // Who writes next does so on what is shown, and what follows is whole.
        signer.write(ALICE, "r7", 3).await.expect(200);
        signer.set(ALICE, "to-rollback").await.expect(200);
        is_taken_back(&signer).await;
    }
    assert!(shown > 0 && hidden > 3, "{shown} {hidden}");
}

#[tokio::test]
async fn writes_come_after_a_rollback_that_nobody_has_settled() {
    let signer = edited().await;
    let is_committed = AtomicBool::new(false);
    signer.kinto.aws.inject(move |target, _| {
        let is_over = is_committed.load(Ordering::SeqCst);
        is_committed.fetch_or(target.ends_with("TransactWriteItems"), Ordering::SeqCst);
        is_over.then(|| Fault::error("ResourceNotFoundException"))
    });
    signer.set(ALICE, "to-rollback").await.expect(200);
    signer.kinto.aws.clear_faults();
    is_taken_back(&signer).await;
    // What was taken back is the base: a patch of the record as it was published, one of a record that is gone again.
    let patch = json!({"data": {"more": true}});
    let answer = signer
        .kinto
        .patch(&record("r3"), patch.clone())
        .await
        .expect(200);
    assert_eq!(
        (&answer["data"]["n"], &answer["data"]["more"]),
        (&json!(1), &json!(true))
    );
    signer.kinto.patch(&record("new"), patch).await.expect(404);
    assert_eq!(signer.status().await, "work-in-progress");
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    let published = signer.verified(DESTINATION).await;
    assert_eq!(published.len(), usize::try_from(MANY).unwrap());
}

#[tokio::test]
async fn what_follows_a_large_rollback_in_its_batch_is_new_work() {
    let signer = edited().await;
    let set =
        json!({"method": "PATCH", "path": SOURCE, "body": {"data": {"status": "to-rollback"}}});
    let put =
        |id: &str, n: u64| json!({"method": "PUT", "path": record(id), "body": {"data": {"n": n}}});
    let requests = vec![put("r4", 7), set, put("r5", 8)];
    let answers = batch(&signer.kinto, requests).await.expect(200);
    let statuses = answers["responses"].as_array().unwrap().iter();
    let statuses: Vec<_> = statuses.map(|it| it["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 200]);
    assert_eq!(signer.status().await, "work-in-progress");
    for (id, n) in [("r4", 1), ("r5", 8), ("r6", 1)] {
        let answer = signer.kinto.get(&record(id)).await.expect(200);
        assert_eq!(answer["data"]["n"], n, "{id}");
    }
}
