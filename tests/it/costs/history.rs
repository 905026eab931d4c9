//! What the history of a bucket costs, and that it costs nothing where it is off.

use serde_json::{Value, json};
use tests::{BUCKET, COLLECTION, Kinto, RECORD, RECORDS, execute, record};

const ON: [(&str, &str); 1] = [("KINTO_INCLUDES", "kinto.plugins.history")];

fn items(kinto: &Kinto) -> Vec<Value> {
    let all = execute(&kinto.aws, "Scan", json!({}));
    all["Items"].as_array().unwrap().clone()
}

fn entries(kinto: &Kinto) -> Vec<Value> {
    let of_history = |item: &Value| item["pk"]["S"].as_str().unwrap().starts_with("#history#");
    items(kinto).into_iter().filter(of_history).collect()
}

async fn write_some(kinto: &Kinto) {
    for path in [BUCKET, COLLECTION, RECORD] {
        assert_eq!(kinto.put(path, json!({})).await.status, 201);
    }
    kinto.patch(RECORD, json!({"data": {"n": 1}})).await;
    kinto.delete(RECORDS).await;
}

#[tokio::test]
async fn a_history_that_is_off_is_neither_written_nor_read() {
    let (off, on) = (Kinto::new(), Kinto::with(&ON));
    let mut totals = vec![];
    for kinto in [&off, &on] {
        kinto.aws.requests().take();
        write_some(kinto).await;
        totals.push(kinto.aws.requests().take());
    }
    // Where it is on no request is sent besides: entries go with what they tell of.
    assert_eq!(totals[0], totals[1]);
    assert_eq!(items(&on).len() - items(&off).len(), 5);
    assert_eq!((entries(&off).len(), entries(&on).len()), (0, 5));
    assert_eq!(off.get("/buckets/main/history").await.error(), (404, 111));
    assert!(off.get("/").await.body["capabilities"]["history"].is_null());
}

#[tokio::test]
async fn an_entry_is_one_small_item_that_no_index_takes_in() {
    let kinto = Kinto::with(&ON);
    kinto.put(BUCKET, json!({})).await;
    kinto.put(COLLECTION, json!({})).await;
    let text: String = std::iter::repeat_with(|| fastrand::char('a'..='z'))
        .take(300)
        .collect();
    for id in ["a", "b"] {
        kinto
            .put(&record(id), json!({"data": {"text": text}}))
            .await;
    }
    let entries = entries(&kinto);
    assert_eq!(entries.len(), 4);
    for entry in entries {
        let size: usize = entry
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| {
                let text = value["S"].as_str().map(str::len);
                // As Base64, of which four letters are three bytes.
                let bytes = value["B"].as_str().map(|it| it.len() / 4 * 3);
                name.len() + text.or(bytes).unwrap()
            })
            .sum();
        // 2 WCU in a transaction.
        assert!(size < 1024, "{size}");
        assert!(entry["last_modified"].is_null());
    }
}

#[tokio::test]
async fn who_may_read_an_entry_is_noted_once() {
    let kinto = Kinto::with(&ON);
    kinto.put(BUCKET, json!({})).await;
    kinto
        .put(
            COLLECTION,
            json!({"permissions": {"read": ["system.Everyone"]}}),
        )
        .await;
    let noted = |kinto: &Kinto| {
        let is_note = |item: &&Value| item["sk"]["S"].as_str().unwrap().ends_with("#history");
        items(kinto).iter().filter(is_note).count()
    };
    assert_eq!(noted(&kinto), 1);
    let before = items(&kinto).len();
    kinto.put(RECORD, json!({})).await;
    kinto.put(RECORD, json!({})).await;
    // The record and its two entries: the list's item is there since its collection is.
    assert_eq!((noted(&kinto), items(&kinto).len() - before), (1, 3));
}

#[tokio::test]
async fn a_page_reads_as_much_as_it_shows() {
    let kinto = Kinto::with(&ON);
    kinto.put(BUCKET, json!({})).await;
    kinto.put(COLLECTION, json!({})).await;
    for n in 0..60 {
        kinto
            .put(&record(&n.to_string()), json!({"data": {"n": n}}))
            .await;
    }
    kinto.aws.requests().take();
    let page = kinto.get("/buckets/main/history?_limit=5").await;
    assert_eq!(page.body["data"].as_array().unwrap().len(), 5);
    // One of each shard for the time of the latest entry, and one of each for the entries.
    assert_eq!(kinto.aws.requests().take()["Query"], 16);
}
