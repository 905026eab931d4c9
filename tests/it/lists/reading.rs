//! Lists of objects: filters, order, fields, pages, tombstones, and their visibility.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use tests::{BOB, Kinto, NOBODY, RECORDS, ids};
use tokio::time::sleep;

/// A collection with the records r0 to r4; `n` counts up, `even` is set for the even ones.
async fn with_records() -> Kinto {
    let kinto = Kinto::with_collection().await;
    for n in 0..5 {
        let mut data = json!({"n": n, "tags": [n, "all"], "in": {"ner": 10 - n}, "name": format!("Record {n}")});
        if n % 2 == 0 {
            data["even"] = json!(true);
        }
        kinto
            .put(&format!("{RECORDS}/r{n}"), json!({"data": data}))
            .await;
    }
    kinto.aws.requests().take();
    kinto
}

#[tokio::test]
async fn a_list_has_the_latest_first_and_costs_two_requests() {
    let kinto = with_records().await;
    let listed = kinto.get(RECORDS).await;
    assert_eq!(ids(&listed), ["r4", "r3", "r2", "r1", "r0"]);
    let requests = kinto.aws.requests();
    assert_eq!(
        (
            requests.of("BatchGetItem"),
            requests.of("Query"),
            requests.total()
        ),
        (1, 1, 2)
    );
    let latest = listed.body["data"][0]["last_modified"].as_u64().unwrap();
    assert_eq!(listed.header("etag"), format!("\"{latest}\""));
    assert_eq!(listed.header("cache-control"), "no-cache, no-store");
    assert_eq!(listed.header("next-page"), "");

    requests.take();
    let etag = listed.header("etag");
    assert_eq!(
        kinto
            .send("GET", RECORDS, &[("if-none-match", etag)], "")
            .await
            .status,
        304
    );
    assert_eq!(requests.total(), 1);
    assert_eq!(
        kinto
            .send("GET", RECORDS, &[("if-match", "\"1\"")], "")
            .await
            .error(),
        (412, 114)
    );
    assert_eq!(
        kinto
            .send("GET", RECORDS, &[("if-none-match", "*")], "")
            .await
            .error(),
        (412, 114)
    );
}

#[tokio::test]
async fn filters_pick_objects() {
    let kinto = with_records().await;
    for (query, expected) in [
        ("n=3", &["r3"][..]),
        ("n=%223%22", &[]),
        ("min_n=3", &["r4", "r3"]),
        ("gt_n=3", &["r4"]),
        ("max_n=1", &["r1", "r0"]),
        ("lt_n=1", &["r0"]),
        ("not_n=0", &["r4", "r3", "r2", "r1"]),
        ("in_n=1,3", &["r3", "r1"]),
        ("exclude_n=1,3", &["r4", "r2", "r0"]),
        ("has_even=true", &["r4", "r2", "r0"]),
        ("has_even=false", &["r3", "r1"]),
        ("like_name=ORD%202", &["r2"]),
        ("like_name=*%204", &["r4"]),
        ("contains_tags=[%22all%22,2]", &["r2"]),
        ("contains_any_tags=[1,2]", &["r2", "r1"]),
        ("in.ner=8", &["r2"]),
        ("id=r3", &["r3"]),
        ("in_id=r1,r3", &["r3", "r1"]),
        ("even=true&lt_n=3", &["r2", "r0"]),
        ("_unknown=1", &["r4", "r3", "r2", "r1", "r0"]),
        ("nope=1", &[]),
    ] {
        assert_eq!(
            ids(&kinto.get(&format!("{RECORDS}?{query}")).await),
            expected,
            "{query}"
        );
    }
    for wrong in [
        "_since=abc",
        "_since=99999999999999",
        "like_n=3",
        "_limit=x",
        "_token=x",
        "last_modified=x",
        "contains_id=x",
    ] {
        assert_eq!(
            kinto.get(&format!("{RECORDS}?{wrong}")).await.error(),
            (400, 107),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_read_goes_before_preconditions_and_a_wrong_filter_after_them() {
    let kinto = with_records().await;
    let stale = [("if-match", "\"1\"")];
    for (query, expected) in [("like_n=3", 412), ("like_n=3&_limit=x", 400)] {
        let answer = kinto
            .send("GET", &format!("{RECORDS}?{query}"), &stale, "")
            .await;
        assert_eq!(answer.status, expected, "{query}");
    }
}

#[tokio::test]
async fn a_client_that_knows_a_time_gets_what_changed_since_with_tombstones() {
    let kinto = with_records().await;
    let known = kinto
        .get(RECORDS)
        .await
        .header("etag")
        .trim_matches('"')
        .to_owned();
    kinto.delete(&format!("{RECORDS}/r2")).await;
    kinto
        .patch(&format!("{RECORDS}/r0"), json!({"data": {"n": 100}}))
        .await;
    for since in [known.clone(), format!("%22{known}%22")] {
        let changed = kinto.get(&format!("{RECORDS}?_since={since}")).await;
        assert_eq!(ids(&changed), ["r0", "r2"]);
        assert_eq!(changed.body["data"][1]["deleted"], true);
    }
    assert_eq!(ids(&kinto.get(RECORDS).await), ["r0", "r4", "r3", "r1"]);
    assert_eq!(
        ids(&kinto.get(&format!("{RECORDS}?_before={known}")).await),
        ["r3", "r1"]
    );
    assert_eq!(
        ids(&kinto.get(&format!("{RECORDS}?last_modified={known}")).await),
        ["r4"]
    );
}

#[tokio::test]
async fn order_and_fields_are_as_asked_for() {
    let kinto = with_records().await;
    assert_eq!(
        ids(&kinto.get(&format!("{RECORDS}?_sort=n")).await),
        ["r0", "r1", "r2", "r3", "r4"]
    );
    assert_eq!(
        ids(&kinto.get(&format!("{RECORDS}?_sort=even,-n")).await),
        ["r4", "r2", "r0", "r3", "r1"]
    );
    assert_eq!(
        ids(&kinto.get(&format!("{RECORDS}?_sort=in.ner")).await),
        ["r4", "r3", "r2", "r1", "r0"]
    );
    let picked = kinto
        .get(&format!("{RECORDS}?_fields=n,in.ner&id=r1"))
        .await;
    let last_modified = picked.body["data"][0]["last_modified"].clone();
    let expected = json!([{"n": 1, "in": {"ner": 9}, "id": "r1", "last_modified": last_modified}]);
    assert_eq!(picked.body["data"], expected);
}

#[tokio::test]
async fn pages_follow_one_another_until_all_is_shown() {
    let kinto = with_records().await;
    for (query, expected) in [
        ("_limit=2", ["r4", "r3", "r2", "r1", "r0"]),
        ("_limit=2&_sort=n", ["r0", "r1", "r2", "r3", "r4"]),
        ("_limit=1&_sort=even", ["r4", "r2", "r0", "r3", "r1"]),
        ("_limit=2&like_name=rec", ["r4", "r3", "r2", "r1", "r0"]),
        ("_limit=5", ["r4", "r3", "r2", "r1", "r0"]),
    ] {
        let mut url = format!("{RECORDS}?{query}");
        let mut shown = vec![];
        for _ in 0..6 {
            let page = kinto.get(&url).await;
            shown.extend(ids(&page).into_iter().map(ToOwned::to_owned));
            match page
                .header("next-page")
                .strip_prefix("http://kinto.test/v1")
            {
                Some(next) => next.clone_into(&mut url),
                None => break,
            }
        }
        assert_eq!(shown, expected, "{query}");
    }
    let paginated = Kinto::with(&[("KINTO_PAGINATE_BY", "2")]);
    for bucket in ["a", "b", "c"] {
        paginated
            .put(&format!("/buckets/{bucket}"), json!({}))
            .await;
    }
    assert_eq!(ids(&paginated.get("/buckets?_limit=3").await).len(), 2);
}

#[tokio::test]
async fn head_counts_what_is_live() {
    let kinto = with_records().await;
    kinto.delete(&format!("{RECORDS}/r2")).await;
    let counted = kinto
        .send("HEAD", &format!("{RECORDS}?_since=1"), &[], "")
        .await;
    assert_eq!((counted.status, &counted.body), (200, &Value::Null));
    assert_eq!(
        (
            counted.header("total-objects"),
            counted.header("total-records")
        ),
        ("4", "4")
    );
}

#[tokio::test]
async fn others_see_what_is_shared_with_them() {
    let alice = with_records().await;
    let (bob, nobody) = (alice.as_user(BOB), alice.as_user(NOBODY));
    assert_eq!(bob.get(RECORDS).await.error(), (403, 121));
    assert_eq!(nobody.get(RECORDS).await.error(), (401, 104));
    assert_eq!(bob.get("/buckets").await.body["data"], json!([]));

    alice
        .patch(
            &format!("{RECORDS}/r3"),
            json!({"permissions": {"read": ["system.Authenticated"]}}),
        )
        .await;
    assert_eq!(ids(&bob.get(RECORDS).await), ["r3"]);
    assert_eq!(
        bob.send("HEAD", RECORDS, &[], "")
            .await
            .header("total-objects"),
        "1"
    );
    assert_eq!(nobody.get(RECORDS).await.status, 401);

    alice
        .patch(
            "/buckets/main",
            json!({"permissions": {"read": ["system.Everyone"]}}),
        )
        .await;
    assert_eq!(ids(&nobody.get(RECORDS).await).len(), 5);
    assert_eq!(ids(&bob.get("/buckets").await), ["main"]);
    assert_eq!(ids(&bob.get("/buckets/main/collections").await), ["one"]);
}

#[tokio::test]
async fn lists_of_what_does_not_exist_are_refused_as_kinto_does() {
    let kinto = Kinto::with_collection().await;
    assert_eq!(
        kinto
            .get("/buckets/main/collections/nope/records")
            .await
            .error(),
        (404, 111)
    );
    assert_eq!(
        kinto.get("/buckets/nope/collections").await.error(),
        (403, 121)
    );
    assert_eq!(
        kinto
            .get("/buckets/nope/collections/c/records")
            .await
            .error(),
        (403, 121)
    );
}

#[tokio::test]
async fn a_list_made_anew_is_empty_and_its_time_has_gone_on() {
    let kinto = with_records().await;
    let before = kinto.get(RECORDS).await.header("etag").to_owned();
    kinto.delete("/buckets/main/collections/one").await;
    kinto.put("/buckets/main/collections/one", json!({})).await;
    let anew = kinto.get(&format!("{RECORDS}?_since=0")).await;
    assert_eq!(ids(&anew), [""; 0]);
    assert!(anew.header("etag") > before.as_str());
}

#[tokio::test]
async fn whoever_asks_with_the_old_name_of_before_is_warned() {
    let kinto = Kinto::with_collection().await;
    for method in ["GET", "DELETE"] {
        let answer = kinto
            .send(method, &format!("{RECORDS}?_to=1"), &[], "")
            .await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.header("alert").contains("_before"),
            "{method}: {answer:?}"
        );
        let new = kinto
            .send(method, &format!("{RECORDS}?_before=1"), &[], "")
            .await;
        assert!(!new.headers.contains_key("alert"), "{method}");
    }
}

/// The partition of the records.
const PARTITION: &str = "/buckets/main/collections/one#record";

#[tokio::test(start_paused = true)]
async fn a_list_is_read_again_until_what_its_last_transactions_wrote_is_there() {
    let kinto = with_records().await;
    let latest = kinto.get(RECORDS).await.header("etag").to_owned();
    for missing in ["r4", "r3", "r2"] {
        // As if its list had been committed, and the record had not yet.
        let item = kinto.take_item(PARTITION, missing).await;
        let there = kinto.clone();
        let committed = tokio::spawn(async move {
            sleep(Duration::from_millis(400)).await;
            there.put_item(item).await;
        });
        let listed = kinto.get(RECORDS).await;
        assert_eq!(ids(&listed), ["r4", "r3", "r2", "r1", "r0"], "{missing}");
        assert_eq!(listed.header("etag"), latest);
        committed.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_and_a_deletion_are_waited_for_in_whatever_way_the_list_is_read() {
    let kinto = with_records().await;
    for deletes in [false, true] {
        let uri = format!("{RECORDS}/r2");
        let before = kinto.take_item(PARTITION, "r2").await;
        kinto.put_item(before.clone()).await;
        let etag = kinto.get(RECORDS).await.header("etag").replace('"', "");
        match deletes {
            true => assert_eq!(kinto.delete(&uri).await.status, 200),
            false => assert_eq!(kinto.put(&uri, json!({"data": {"n": 9}})).await.status, 200),
        }
        let after = kinto.take_item(PARTITION, "r2").await;
        for query in [
            "",
            "?_limit=2",
            "?n=2",
            "?_sort=n",
            &format!("?_since={etag}"),
        ] {
            kinto.put_item(before.clone()).await;
            let refused = kinto.get(&format!("{RECORDS}{query}")).await;
            assert_eq!(refused.error(), (503, 201), "{query}");
            assert_eq!(refused.header("retry-after"), "3");
            kinto.put_item(after.clone()).await;
            assert_eq!(
                kinto.get(&format!("{RECORDS}{query}")).await.status,
                200,
                "{query}"
            );
        }
        let head = kinto.send("HEAD", RECORDS, &[], "").await;
        kinto.put_item(before.clone()).await;
        assert_eq!(
            (
                head.status,
                kinto.send("HEAD", RECORDS, &[], "").await.status
            ),
            (200, 503)
        );
        kinto.put_item(after).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_what_is_later_waits_for_nothing_earlier() {
    let kinto = with_records().await;
    let etag = kinto.get(RECORDS).await.header("etag").replace('"', "");
    kinto.take_item(PARTITION, "r4").await;
    kinto.aws.requests().take();
    let since = kinto.get(&format!("{RECORDS}?_since={etag}")).await;
    assert_eq!((ids(&since).len(), kinto.aws.requests().total()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_version_of_the_api_writes_is_waited_for_by_nobody() {
    let kinto = with_records().await;
    // That version did not know the names, and left them as they were: r4 is deleted, and r3 missing.
    kinto.take_item(PARTITION, "r4").await;
    let mut list = kinto.take_item(PARTITION, "#timestamp").await;
    let named = ["wrote", "wrote_1", "wrote_2", "before_1", "before_2"];
    assert!(
        named.iter().all(|name| list.contains_key(*name)),
        "{list:?}"
    );
    let later = AttributeValue::N("1899999999999".to_owned());
    list.insert("timestamp".to_owned(), later);
    kinto.put_item(list.clone()).await;
    assert_eq!(ids(&kinto.get(RECORDS).await), ["r3", "r2", "r1", "r0"]);
    // This version writes again, and the earlier names no longer count.
    assert_eq!(
        kinto.put(&format!("{RECORDS}/r5"), json!({})).await.status,
        201
    );
    assert_eq!(
        ids(&kinto.get(RECORDS).await),
        ["r5", "r3", "r2", "r1", "r0"]
    );
    for name in named {
        list.remove(name);
    }
    kinto.put_item(list).await;
    assert_eq!(
        kinto.put(&format!("{RECORDS}/r6"), json!({})).await.status,
        201
    );
    assert_eq!(ids(&kinto.get(RECORDS).await).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_was_in_a_collection_that_is_made_anew() {
    let kinto = with_records().await;
    let collection = "/buckets/main/collections/one";
    assert_eq!(kinto.delete(collection).await.status, 200);
    assert_eq!(kinto.put(collection, json!({})).await.status, 201);
    kinto.aws.requests().take();
    assert!(ids(&kinto.get(RECORDS).await).is_empty());
    assert_eq!(kinto.aws.requests().total(), 2);
    assert_eq!(
        kinto.put(&format!("{RECORDS}/r0"), json!({})).await.status,
        201
    );
    assert_eq!(ids(&kinto.get(RECORDS).await), ["r0"]);
}

#[tokio::test]
async fn a_list_in_a_bucket_of_a_pattern_is_not_found() {
    let kinto = with_records().await;
    for bucket in ["*", "ma*", "*ain"] {
        for list in ["collections", "groups", "collections/one/records"] {
            let path = format!("/buckets/{bucket}/{list}");
            let refused = kinto.get(&path).await;
            assert_eq!(refused.error(), (404, 111), "{path}");
        }
    }
}

#[tokio::test]
async fn the_next_page_is_on_the_host_that_was_asked_without_the_usual_port() {
    let kinto = with_records().await;
    for (host, scheme, origin) in [
        ("kinto.test:80", "http", "http://kinto.test/"),
        ("kinto.test:443", "https", "https://kinto.test/"),
        ("kinto.test:443", "http", "http://kinto.test:443/"),
        ("kinto.test:8888", "http", "http://kinto.test:8888/"),
    ] {
        let headers = [("Host", host), ("X-Forwarded-Proto", scheme)];
        let page = kinto
            .send("GET", &format!("{RECORDS}?_limit=1"), &headers, "")
            .await;
        let next = page.header("next-page");
        assert!(next.starts_with(origin), "{next}");
    }
}
