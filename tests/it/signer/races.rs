//! Edits that come between a review, its approval and what the preview shows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use super::{DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW, once, prepared};

#[tokio::test]
async fn an_edit_that_comes_between_a_review_and_its_approval_is_not_published() {
    // Before each of the approval's requests to the table.
    for at in 0..12 {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        let count = AtomicU64::new(0);
        let (rival, busy) = (
            signer.restarted(WITH_PREVIEW, "true"),
            AtomicBool::new(false),
        );
        signer.kinto.aws.inject(move |_, _| {
            if !busy.load(Ordering::SeqCst) && count.fetch_add(1, Ordering::SeqCst) == at {
                busy.store(true, Ordering::SeqCst);
                let rival = rival.clone();
                let thread = std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime = { runtime }.enable_all().build().unwrap();
                    let body = json!({"data": {"n": 7}});
                    runtime.block_on(rival.put(&format!("{SOURCE}/records/a"), body))
                });
                thread.join().unwrap().expect(200);
            }
            None
        });
        let answer = signer.set(tests::BOB, "to-sign").await;
        signer.kinto.aws.clear_faults();
        let published = signer.verified(DESTINATION).await;
        assert!(!published.contains(&"a=7".to_owned()), "{published:?}");
        let came = signer.kinto.get(&format!("{SOURCE}/records/a")).await.body["data"]["n"] == 7;
        match answer.status {
            200 => assert_eq!(published, ["a=2", "c=1", "d=2"]),
            400 => assert_eq!(published, ["a=1", "b=1", "c=1"]),
            status => panic!("{status}"),
        }
        // Either way it is new work.
        if came {
            assert_eq!(signer.status().await, "work-in-progress");
        }
    }
}

/// The records of the source as `id=n`, sorted.
async fn source_records(signer: &Signer) -> Vec<String> {
    let listed = signer
        .kinto
        .get(&format!("{SOURCE}/records?_sort=id"))
        .await
        .expect(200);
    let listed = listed["data"].as_array().unwrap().iter();
    let records = listed.map(|it| format!("{}={}", it["id"].as_str().unwrap(), it["n"]));
    records.collect()
}

#[tokio::test]
async fn what_is_under_review_is_what_the_preview_shows_whoever_edits_meanwhile() {
    let edit = json!({"data": {"n": 7}});
    let request = json!({"data": {"status": "to-review"}});
    let mut under_review = 0;
    for at in 0..12 {
        for is_edit_first in [true, false] {
            // Alice edits already: her edits write nothing but the record and its list.
            let signer = prepared().await;
            let rival = signer.restarted(WITH_PREVIEW, "true");
            let (edit, request) = (edit.clone(), request.clone());
            let record = format!("{SOURCE}/records/a");
            if is_edit_first {
                let body = request.clone();
                once(
                    &signer,
                    at,
                    |_| true,
                    async move || {
                        rival.patch(SOURCE, body.clone()).await.expect(200);
                    },
                );
                signer.kinto.put(&record, edit).await.expect(200);
            } else {
                once(
                    &signer,
                    at,
                    |_| true,
                    async move || {
                        rival.put(&record, edit.clone()).await.expect(200);
                    },
                );
                signer.kinto.patch(SOURCE, request).await.expect(200);
            }
            signer.kinto.aws.clear_faults();
            if signer.status().await == "to-review" {
                under_review += 1;
                assert_eq!(
                    signer.verified(PREVIEW).await,
                    source_records(&signer).await
                );
            }
        }
    }
    assert!(under_review > 5);
}
