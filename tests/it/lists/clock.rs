//! Nobody moves the clock of a list further ahead than a day (docs/limits.md).

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use tests::{Kinto, RECORD, RECORDS, TABLE, now};

const DAY: u64 = 24 * 60 * 60 * 1000;
const GROUP: &str = "/buckets/main/groups/g";

#[tokio::test]
async fn no_client_moves_a_list_further_ahead_than_a_day() {
    let (kinto, bob) = Kinto::with_creator().await;
    let ahead = now() + DAY + 60_000;
    let data = |at: u64| json!({"data": {"last_modified": at}});
    let text = |at: u64| data(at).to_string();
    let far = 4_102_444_800_000;
    for at in [ahead, far, far + 1, u64::MAX] {
        let new = format!("{RECORDS}/new");
        let json_patch =
            format!(r#"[{{"op": "add", "path": "/data/last_modified", "value": {at}}}]"#);
        for (user, method, path, media_type, body) in [
            (&bob, "PUT", &*new, "", text(at)),
            (&bob, "POST", RECORDS, "", text(at)),
            (&kinto, "PUT", RECORD, "", text(at)),
            (&kinto, "PATCH", RECORD, "", text(at)),
            (
                &kinto,
                "PATCH",
                RECORD,
                "application/merge-patch+json",
                text(at),
            ),
            (
                &kinto,
                "PATCH",
                RECORD,
                "application/json-patch+json",
                json_patch,
            ),
            (
                &kinto,
                "DELETE",
                &*format!("{RECORD}?last_modified={at}"),
                "",
                String::new(),
            ),
            (&kinto, "PUT", "/buckets/other", "", text(at)),
            (&kinto, "PUT", GROUP, "", text(at)),
        ] {
            let media_type = [("content-type", media_type)];
            let headers = &media_type[..usize::from(!media_type[0].1.is_empty())];
            let answer = user.send(method, path, headers, &body).await;
            assert_eq!(answer.error(), (400, 107), "{method} {path} {body}");
            let batched = json!({"method": method, "path": path, "body": data(at)});
            if headers.is_empty() && method != "DELETE" {
                let batch = json!({"requests": [batched]});
                let answer = user.post("/batch", batch).await;
                assert_eq!(
                    answer.body["responses"][0]["status"], 400,
                    "{method} {path}"
                );
            }
        }
    }
    let etag = kinto.get(RECORDS).await.header("etag").to_owned();
    assert!(etag.trim_matches('"').parse::<u64>().unwrap() <= now());
    // Within a day it is kept.
    let soon = now() + DAY - 60_000;
    let created = bob.put(&format!("{RECORDS}/new"), data(soon)).await;
    assert_eq!(created.last_modified(), soon);
}

#[tokio::test]
async fn a_list_that_is_far_ahead_takes_back_what_it_answered() {
    let kinto = Kinto::with_collection().await;
    kinto.put(RECORD, json!({})).await;
    // As an earlier version allowed clients to do.
    let (far, list) = (
        4_102_444_800_000_u64,
        "/buckets/main/collections/one#record",
    );
    let client = kinto.aws.dynamodb();
    client
        .update_item()
        .table_name(TABLE)
        .key("pk", AttributeValue::S(list.to_owned()))
        .key("sk", AttributeValue::S("#timestamp".to_owned()))
        .update_expression("SET #t = :t")
        .expression_attribute_names("#t", "timestamp")
        .expression_attribute_values(":t", AttributeValue::N(far.to_string()))
        .send()
        .await
        .unwrap();
    let written = kinto.put(RECORD, json!({"data": {"a": 1}})).await;
    let last = written.last_modified();
    assert_eq!(last, far + 1);
    for query in [
        "_since",
        "_before",
        "_to",
        "gt_last_modified",
        "last_modified",
    ] {
        for at in [format!("{last}"), format!("%22{last}%22")] {
            let list = kinto.get(&format!("{RECORDS}?{query}={at}")).await;
            assert_eq!(list.status, 200, "{query}={at} {list:?}");
        }
    }
    let beyond = last + 1;
    let refused = kinto.get(&format!("{RECORDS}?_since={beyond}")).await;
    assert_eq!(refused.error(), (400, 107));
    let changeset = "/buckets/main/collections/one/changeset?_expected=1";
    let answer = kinto.get(&format!("{changeset}&_since={last}")).await;
    assert_eq!((answer.status, &answer.body["changes"]), (200, &json!([])));
    let refused = kinto.get(&format!("{changeset}&_since={beyond}")).await;
    assert_eq!(refused.error(), (400, 107));
    // So does the list of all collections' changes.
    let entry = [
        ("pk", AttributeValue::S("#monitor".to_owned())),
        (
            "sk",
            AttributeValue::S("/buckets/main/collections/one".to_owned()),
        ),
        ("bucket", AttributeValue::S("main".to_owned())),
        ("collection", AttributeValue::S("one".to_owned())),
        ("last_modified", AttributeValue::N(last.to_string())),
    ];
    let entry = entry.map(|(name, value)| (name.to_owned(), value));
    let put = client.put_item().table_name(TABLE);
    put.set_item(Some(entry.into())).send().await.unwrap();
    for path in ["records?", "changeset?_expected=1&"] {
        let path = format!("/buckets/monitor/collections/changes/{path}");
        let all = kinto.get(&path).await;
        let etag = all.header("etag").trim_matches('"').to_owned();
        assert_eq!(etag, last.to_string());
        for at in [etag.clone(), format!("%22{etag}%22")] {
            let none = kinto.get(&format!("{path}_since={at}")).await;
            assert_eq!(none.status, 200, "{path}{at}");
        }
        let refused = kinto.get(&format!("{path}_since={beyond}")).await;
        assert_eq!(refused.error(), (400, 107), "{path}");
    }
    // And the object itself, as in the response.
    let back = json!({"data": written.body["data"]});
    assert_eq!(kinto.put(RECORD, back.clone()).await.status, 200);
    assert_eq!(kinto.patch(RECORD, back).await.status, 200);
    let deleted = kinto
        .delete(&format!("{RECORD}?last_modified={last}"))
        .await;
    assert_eq!(deleted.status, 200);
}
