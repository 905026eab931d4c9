//! Listeners that are notified before the commit.

use std::sync::atomic::Ordering;

use super::{refused, with_collection};
use kinto_serverless::listeners::NotifyError;
use serde_json::json;
use tests::COLLECTION;
use tokio::time::Instant;

#[tokio::test]
async fn a_listener_that_is_asked_before_can_refuse_and_then_nothing_is_written() {
    let (kinto, recorder) =
        with_collection(&[("KINTO_EVENT_LISTENERS_A_RESOURCES", "record")]).await;
    recorder.answers(refused(), usize::MAX);
    let uri = format!("{COLLECTION}/records/r");
    let answer = kinto.put(&uri, json!({})).await;
    assert_eq!(answer.error(), (403, 121));
    assert_eq!(answer.body["message"], "Not on a Sunday");
    assert_eq!(kinto.get(&uri).await.status, 404);

    // A batch is refused as a whole, including writes that its listener does not object to.
    let requests = json!([
        {"method": "PUT", "path": "/buckets/main/collections/two"},
        {"method": "PUT", "path": uri},
    ]);
    let answer = kinto.post("/batch", json!({"requests": requests})).await;
    assert_eq!(answer.error(), (403, 121));
    assert_eq!(kinto.get("/buckets/main/collections/two").await.status, 404);
    // It is not asked about writes that it does not subscribe to.
    assert_eq!(
        kinto
            .put("/buckets/main/collections/two", json!({}))
            .await
            .status,
        201
    );
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_does_not_answer_in_time_or_fails_has_nothing_written() {
    let (kinto, recorder) =
        with_collection(&[("KINTO_EVENT_LISTENERS_A_TIMEOUT_SECONDS", "3")]).await;
    let uri = format!("{COLLECTION}/records/r");
    recorder.hangs.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    let answer = kinto.put(&uri, json!({})).await;
    assert_eq!(answer.error(), (503, 201));
    assert_eq!(answer.header("retry-after"), "3");
    assert_eq!(begin.elapsed().as_secs(), 3);
    recorder.hangs.store(false, Ordering::SeqCst);
    for error in [
        NotifyError::failed("down"),
        NotifyError::Permanent("wrong".to_owned()),
    ] {
        recorder.answers(error, 1);
        assert_eq!(kinto.put(&uri, json!({})).await.error(), (503, 201));
    }
    assert_eq!(kinto.get(&uri).await.status, 404);
    assert_eq!(kinto.put(&uri, json!({})).await.status, 201);
}
