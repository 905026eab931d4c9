//! The costs of reading, counting and deleting a list.

use std::sync::{Arc, Mutex};

use super::private;
use serde_json::{Value, json};
use tests::{BOB, Kinto, NOBODY, RECORDS, ids, statuses};

#[tokio::test]
async fn who_is_denied_a_list_has_none_of_it_read() {
    let kinto = private().await;
    let requests = kinto.aws.requests();
    for (denied, status) in [(kinto.as_user(NOBODY), 401), (kinto.as_user(BOB), 403)] {
        for method in ["GET", "HEAD", "DELETE"] {
            let answer = denied
                .send(method, &format!("{RECORDS}?n=1&_sort=n"), &[], "")
                .await;
            assert_eq!(answer.status, status, "{method}");
        }
        for list in ["/buckets/main/collections", "/buckets/main/groups"] {
            assert_eq!(denied.get(list).await.status, status, "{list}");
        }
        let batch = json!({"defaults": {"path": RECORDS}, "requests": vec![json!({}); 25]});
        let batch = denied.post("/batch", batch).await;
        assert_eq!(statuses(&batch), [u64::from(status); 25]);
    }
    // Each time the user's groups, the parents and the list's own item.
    assert_eq!((requests.of("BatchGetItem"), requests.total()), (12, 12));
}

#[tokio::test]
async fn a_query_of_many_parts_is_refused_before_the_list_is_read() {
    let kinto = private().await;
    let dots = ["a"; 2400].join(".");
    let keys: Vec<_> = (0..2000).map(|n| format!("k{n}")).collect();
    for query in [
        format!("{dots}=1"),
        format!("not_{dots}=1"),
        format!("_sort={dots}"),
        format!("_sort={}", keys[..30].join(",")),
        format!("_fields={}", keys[..1200].join(",")),
        "like_a=*x*&".repeat(100),
        "not_a=1&".repeat(500),
        format!("in_id={}", "x,".repeat(10_000)),
        format!("_sort={}", vec![keys.join(","); 15].join(",")),
        format!("_token={}", "x".repeat(9000)),
    ] {
        let path = format!("{RECORDS}?{query}");
        let refused = kinto.get(&path).await;
        assert_eq!(refused.error(), (400, 107), "{}", &query[..20]);
        assert_eq!(refused.body["details"][0]["location"], "querystring");
        let batch = kinto
            .post("/batch", json!({"requests": [{"path": path}]}))
            .await;
        assert_eq!(statuses(&batch), [400], "{}", &query[..20]);
    }
    assert_eq!(kinto.aws.requests().of("Query"), 0);
}

#[tokio::test]
async fn the_queries_of_clients_are_answered() {
    let kinto = private().await;
    let uuids = vec!["4d2f1a3c-8e5b-4c6a-9f7e-2b1d0c9a8e7f"; 50].join(",");
    for query in [
        format!("exclude_id={uuids}&_since=5&_sort=-last_modified&_limit=100"),
        format!("in_id={uuids}"),
        "_sort=-n,last_modified,id,name&_fields=n,id,last_modified,deep.er.still".to_owned(),
        "_sort=n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n,n".to_owned(),
        format!("_fields={}", ["n"; 1000].join(",")),
        "min_n=1&max_n=9&like_name=*a*&has_deep.er.still=false&not_kind=%22x%22".to_owned(),
    ] {
        assert_eq!(
            kinto.get(&format!("{RECORDS}?{query}")).await.status,
            200,
            "{query}"
        );
    }
}

/// A collection with records of 300 KB each.
async fn with_large_records(count: usize) -> Kinto {
    let kinto = Kinto::with_collection().await;
    let fill = "x".repeat(300_000);
    for n in 0..count {
        let data = json!({"n": n, "even": n % 2 == 0, "fill": fill});
        kinto
            .put(&format!("{RECORDS}/r{n}"), json!({"data": data}))
            .await;
    }
    kinto.aws.requests().take();
    kinto
}

#[tokio::test]
async fn a_list_is_read_no_further_than_to_what_is_asked_for() {
    let kinto = with_large_records(12).await;
    let requests = kinto.aws.requests();
    // Another order reads all of it, page by page.
    let sorted = kinto.get(&format!("{RECORDS}?_sort=n&_limit=2")).await;
    assert_eq!(ids(&sorted), ["r0", "r1"]);
    let all = requests.take()["Query"];
    let first = kinto.get(&format!("{RECORDS}?even=true&_limit=2")).await;
    assert_eq!(ids(&first), ["r10", "r8"]);
    assert!(requests.take()["Query"] < all);
    let path = first
        .header("next-page")
        .replace("http://kinto.test/v1", "");
    assert_eq!(ids(&kinto.get(&path).await), ["r6", "r4"]);
    assert!(requests.take()["Query"] < all);
}

#[tokio::test]
async fn a_count_is_made_by_the_table() {
    let kinto = with_large_records(4).await;
    let queries = Arc::new(Mutex::new(vec![]));
    let seen = Arc::clone(&queries);
    kinto.aws.inject(move |target, body| {
        if target.ends_with("Query") {
            let body: Value = serde_json::from_slice(body).unwrap();
            seen.lock().unwrap().push(body);
        }
        None
    });
    let count = |path: &'static str| {
        let kinto = kinto.clone();
        async move {
            let counted = kinto
                .send("HEAD", &format!("{RECORDS}{path}"), &[], "")
                .await;
            counted.header("total-objects").to_owned()
        }
    };
    assert_eq!(count("").await, "4");
    assert_eq!(count("?_limit=2").await, "4");
    let since = kinto.get(&format!("{RECORDS}/r1")).await.last_modified();
    kinto.delete(&format!("{RECORDS}/r0")).await;
    assert_eq!(count("").await, "3");
    let later = format!("?_since={since}").leak();
    assert_eq!(count(later).await, "2");
    // Apart from the writes of a moment ago, which must be included (decision 17), only the count is read.
    let queries = std::mem::take(&mut *queries.lock().unwrap());
    let (counts, others): (Vec<_>, Vec<_>) = queries
        .into_iter()
        .partition(|query| query["Select"] == "COUNT");
    assert!(counts.len() >= 4, "some are of several pages");
    for query in others {
        let first = &query["ExpressionAttributeValues"][":first"]["N"];
        assert_ne!(first, "0", "{query}");
    }
    assert_eq!(count("?even=true").await, "1");
}

#[tokio::test]
async fn a_long_list_is_deleted_page_by_page() {
    let kinto = Kinto::with_collection().await;
    for n in 0..25 {
        kinto
            .put(&format!("{RECORDS}/r{n}"), json!({"data": {"n": n}}))
            .await;
    }
    let mut path = format!("{RECORDS}?_limit=10&_sort=n");
    let mut deleted = vec![];
    while !path.is_empty() {
        let page = kinto.delete(&path).await;
        deleted.extend(ids(&page).into_iter().map(str::to_owned));
        path = page.header("next-page").replace("http://kinto.test/v1", "");
    }
    let all: Vec<_> = (0..25).map(|n| format!("r{n}")).collect();
    assert_eq!(deleted, all);
    assert_eq!(
        kinto
            .send("HEAD", RECORDS, &[], "")
            .await
            .header("total-objects"),
        "0"
    );
}
