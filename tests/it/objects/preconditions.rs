//! `If-Match` and `If-None-Match`. Statuses and error numbers are those of Kinto 26.5.0.

use serde_json::json;
use tests::{Kinto, RECORD, RECORDS};

#[tokio::test]
async fn preconditions_guard_writes_and_spare_reads() {
    let kinto = Kinto::with_collection().await;
    let created = kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let etag = created.header("etag").to_owned();

    let unchanged = kinto
        .send("GET", RECORD, &[("if-none-match", &etag)], "")
        .await;
    assert_eq!(
        (unchanged.status, unchanged.header("etag")),
        (304, etag.as_str())
    );
    let above = format!("\"{}\"", created.last_modified() + 1);
    for stale in ["\"12345\"", &above] {
        let refused = kinto
            .send("PUT", RECORD, &[("if-match", stale)], "{}")
            .await;
        assert_eq!(refused.error(), (412, 114), "{stale}");
        assert_eq!(refused.body["details"]["existing"], created.body["data"]);
        assert_eq!(refused.header("etag"), etag);
        assert_eq!(
            kinto
                .send("GET", RECORD, &[("if-match", stale)], "")
                .await
                .error(),
            (412, 114)
        );
        assert_eq!(
            kinto
                .send("PATCH", RECORD, &[("if-match", stale)], r#"{"data": {}}"#)
                .await
                .error(),
            (412, 114)
        );
        assert_eq!(
            kinto
                .send("DELETE", RECORD, &[("if-match", stale)], "")
                .await
                .error(),
            (412, 114)
        );
    }
    assert_eq!(
        kinto
            .send("PUT", RECORD, &[("if-none-match", "*")], "{}")
            .await
            .error(),
        (412, 114)
    );
    let missing = kinto
        .send(
            "PUT",
            &format!("{RECORDS}/r9"),
            &[("if-match", &etag)],
            "{}",
        )
        .await;
    assert_eq!(
        (missing.error(), missing.header("etag")),
        ((412, 114), etag.as_str())
    );
    assert_eq!(kinto.get(RECORD).await.header("etag"), etag);

    assert_eq!(
        kinto
            .send("PUT", RECORD, &[("if-match", &etag)], "{}")
            .await
            .status,
        200
    );
    for malformed in ["abc", "12", "\"1"] {
        assert_eq!(
            kinto
                .send("GET", RECORD, &[("if-match", malformed)], "")
                .await
                .error(),
            (400, 107)
        );
    }
}
