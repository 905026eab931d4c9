//! What of a history is asked for, and who sees it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{BOB, BUCKET, COLLECTION, Kinto, NOBODY, RECORD, execute, now, record};

use super::{HISTORY, entries, kinto, told, with_collection};

/// Makes the entries of all histories older, by so many milliseconds.
pub fn age(kinto: &Kinto, by: u64) {
    let items = execute(&kinto.aws, "Scan", json!({}));
    for mut item in items["Items"].as_array().unwrap().clone() {
        let key = json!({"pk": item["pk"], "sk": item["sk"]});
        if item["pk"]["S"].as_str().unwrap().starts_with("#history#") {
            let sk = item["sk"]["S"].as_str().unwrap().to_owned();
            let (time, id) = sk.split_once('#').unwrap();
            let time: u64 = time.parse().unwrap();
            item["sk"]["S"] = format!("{:020}#{id}", time - by).into();
            execute(&kinto.aws, "DeleteItem", json!({"Key": key}));
            execute(&kinto.aws, "PutItem", json!({"Item": item}));
        }
    }
}

fn etag(answer: &tests::Answer) -> u64 {
    answer.header("etag").trim_matches('"').parse().unwrap()
}

#[tokio::test]
async fn entries_are_filtered_sorted_and_cut_as_objects_are() {
    let kinto = with_collection().await;
    for n in [42, 7] {
        let record = record(&n.to_string());
        kinto.put(&record, json!({"data": {"n": n}})).await;
        kinto.patch(&record, json!({"data": {"n": n + 1}})).await;
    }
    let count = async |query: &str| {
        let history = kinto.get(&format!("{HISTORY}?{query}")).await;
        told(&history).len()
    };
    assert_eq!(count("record_id=42").await, 2);
    assert_eq!(count("in_record_id=42,43").await, 0);
    assert_eq!(count("in_record_id=\"42\",\"43\"").await, 2);
    assert_eq!(count("action=update&resource_name=record").await, 2);
    assert_eq!(count("target.data.n=43").await, 1);
    assert_eq!(count("min_target.data.n=8&resource_name=record").await, 3);
    assert_eq!(count("bucket_id=main").await, 1);
    assert_eq!(count("has_record_id=false").await, 2);
    assert_eq!(count("like_uri=records").await, 4);
    let sorted = kinto
        .get(&format!(
            "{HISTORY}?_sort=uri,-action&_fields=uri,target.data.n"
        ))
        .await;
    let first = &entries(&sorted)[0];
    let mut names: Vec<_> = first.as_object().unwrap().keys().collect();
    names.sort_unstable();
    assert_eq!(names, ["id", "last_modified", "target", "uri"]);
    assert_eq!(first["target"], json!({"data": {}}));
    assert_eq!(told(&sorted)[4], "- B/collections/one/records/7");
    for wrong in ["zz=1", "_sort=zz", "_fields=zz", "zz.id=1", "_since=x"] {
        let refused = kinto.get(&format!("{HISTORY}?{wrong}")).await;
        assert_eq!(refused.error(), (400, 107), "{wrong}");
    }
    let all = kinto.get(HISTORY).await;
    let third = entries(&all)[2]["last_modified"].as_u64().unwrap();
    assert_eq!(count(&format!("_since={third}")).await, 2);
    assert_eq!(count(&format!("_before={third}")).await, 3);
    let head = kinto.send("HEAD", HISTORY, &[], "").await;
    assert_eq!((head.status, head.header("total-objects")), (200, ""));
    assert_eq!(kinto.post(HISTORY, json!({})).await.error(), (405, 115));
    let allow = kinto
        .put(HISTORY, json!({}))
        .await
        .header("allow")
        .to_owned();
    assert_eq!(allow, "GET, HEAD, DELETE, OPTIONS");
    assert_eq!(kinto.get(&format!("{HISTORY}/x")).await.error(), (404, 111));
}

#[tokio::test]
async fn pages_show_each_entry_once_in_any_order() {
    let kinto = with_collection().await;
    for c in 0..6 {
        let collection = format!("{BUCKET}/collections/c{c}");
        kinto.put(&collection, json!({})).await;
        for r in 0..4 {
            kinto
                .put(&format!("{collection}/records/{r}"), json!({}))
                .await;
        }
    }
    for sort in ["", "&_sort=uri", "&_sort=-resource_name", "&_since=5"] {
        let (mut seen, mut pages) = (vec![], 0);
        let mut next = format!("/v1{HISTORY}?_limit=7{sort}");
        while !next.is_empty() {
            let page = kinto.send_raw("GET", &next, &[], "").await;
            assert!(entries(&page).len() <= 7);
            seen.extend(entries(&page).iter().map(|it| it["id"].to_string()));
            let url = page.header("next-page");
            next = url
                .split_once("kinto.test")
                .map_or("", |(_, path)| path)
                .to_owned();
            pages += 1;
        }
        assert_eq!((seen.len(), pages), (32, 5), "{sort}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 32, "{sort}");
    }
    let all = kinto.get(HISTORY).await;
    let times = entries(&all).iter().map(|it| it["last_modified"].as_u64());
    assert!(times.is_sorted_by(|a, b| a >= b));
}

#[tokio::test]
async fn who_reads_the_bucket_sees_all_and_others_what_they_could_read_when_it_was_written() {
    let kinto = with_collection().await;
    let (bob, nobody) = (kinto.as_user(BOB), kinto.as_user(NOBODY));
    let of_bob = bob.user_id().await;
    kinto.put(RECORD, json!({})).await;
    for path in [HISTORY, "/buckets/none/history"] {
        assert_eq!(bob.get(path).await.error(), (403, 121));
        assert_eq!(nobody.get(path).await.error(), (401, 104));
    }
    kinto
        .patch(
            COLLECTION,
            json!({"permissions": {"record:create": [of_bob]}}),
        )
        .await;
    assert_eq!(bob.get(HISTORY).await.status, 403);
    bob.put(&record("bobs"), json!({})).await;
    kinto
        .put(
            &record("public"),
            json!({"permissions": {"read": ["system.Everyone"]}}),
        )
        .await;
    let mine = [
        "create B/collections/one/records/public",
        "create B/collections/one/records/bobs",
    ];
    assert_eq!(told(&bob.get(HISTORY).await), mine);
    assert_eq!(told(&nobody.get(HISTORY).await), mine[..1]);
    assert_eq!(
        told(&bob.get(&format!("{HISTORY}?_limit=1")).await),
        mine[..1]
    );
    // What they lose later they could read when it was written.
    kinto
        .put(&record("public"), json!({"permissions": {"read": []}}))
        .await;
    assert_eq!(told(&nobody.get(HISTORY).await), mine[..1]);
    kinto
        .patch(BUCKET, json!({"permissions": {"read": [of_bob]}}))
        .await;
    assert_eq!(told(&bob.get(HISTORY).await).len(), 8);
    kinto.patch(RECORD, json!({"data": {"n": 1}})).await;
    kinto
        .patch(BUCKET, json!({"permissions": {"read": ["nobody"]}}))
        .await;
    let last = ["update B/collections/one/records/r1", "update B"];
    assert_eq!(told(&bob.get(HISTORY).await), [&last[..], &mine].concat());
    assert_eq!(bob.delete(HISTORY).await.error(), (403, 121));
}

#[tokio::test]
async fn members_of_groups_see_what_their_groups_could_read() {
    let kinto = with_collection().await;
    let bob = kinto.as_user(BOB);
    let members = json!({"data": {"members": [bob.user_id().await]}});
    kinto.put("/buckets/other", json!({})).await;
    let groups = ["/buckets/main/groups/g", "/buckets/other/groups/g"];
    for group in groups {
        assert_eq!(kinto.put(group, members.clone()).await.status, 201);
    }
    for (id, group) in [("a", groups[0]), ("b", groups[1])] {
        kinto
            .put(&record(id), json!({"permissions": {"read": [group]}}))
            .await;
    }
    let seen = [
        "create B/collections/one/records/b",
        "create B/collections/one/records/a",
    ];
    assert_eq!(told(&bob.get(HISTORY).await), seen);
}

#[tokio::test]
async fn who_sees_nothing_has_nothing_read() {
    let kinto = with_collection().await;
    kinto.put(RECORD, json!({})).await;
    kinto.aws.requests().take();
    assert_eq!(kinto.as_user(BOB).get(HISTORY).await.status, 403);
    let read = kinto.aws.requests().take();
    assert_eq!(read.get("Query"), None, "{read:?}");
}

#[tokio::test]
async fn settings_let_others_read_and_delete() {
    let of_bob: &'static str = Kinto::new().as_user(BOB).user_id().await.leak();
    let kinto = kinto(&[("KINTO_HISTORY_READ_PRINCIPALS", of_bob)]);
    kinto.put(BUCKET, json!({})).await;
    assert_eq!(told(&kinto.as_user(BOB).get(HISTORY).await), ["create B"]);
    assert_eq!(kinto.as_user(BOB).delete(HISTORY).await.status, 403);
}

#[tokio::test]
async fn with_permissions_that_are_not_kept_the_bucket_alone_decides() {
    let kinto = kinto(&[
        ("KINTO_EXPLICIT_PERMISSIONS", "false"),
        ("KINTO_BUCKET_WRITE_PRINCIPALS", "system.Authenticated"),
    ]);
    let alice = kinto.user_id().await;
    kinto
        .put(BUCKET, json!({"permissions": {"write": [alice]}}))
        .await;
    kinto.put(COLLECTION, json!({})).await;
    kinto
        .put(
            RECORD,
            json!({"permissions": {"read": ["system.Everyone"]}}),
        )
        .await;
    assert_eq!(told(&kinto.get(HISTORY).await).len(), 3);
    assert_eq!(kinto.as_user(NOBODY).get(HISTORY).await.status, 401);
}

#[tokio::test]
async fn a_client_that_goes_on_from_the_entity_tag_misses_nothing_that_appears_late() {
    let kinto = with_collection().await;
    age(&kinto, 60_000);
    let first = kinto.get(HISTORY).await;
    let latest = entries(&first)[0]["last_modified"].as_u64().unwrap();
    assert_eq!(etag(&first), latest);
    let known = [("If-None-Match", &*format!("\"{latest}\""))];
    assert_eq!(kinto.send("GET", HISTORY, &known, "").await.status, 304);
    // A first write is seen; another with an earlier time is committed after it.
    kinto.put(RECORD, json!({})).await;
    let seen = kinto.send("GET", HISTORY, &known, "").await;
    assert_eq!(entries(&seen).len(), 3);
    assert!(etag(&seen) < now() - 39_000 && etag(&seen) > latest);
    kinto.put(&record("late"), json!({})).await;
    age_one(&kinto, "late", 30_000);
    let next = kinto
        .get(&format!("{HISTORY}?_since={}", etag(&seen)))
        .await;
    let mut records: Vec<_> = entries(&next)
        .iter()
        .map(|it| it["record_id"].clone())
        .collect();
    records.sort_unstable_by_key(Value::to_string);
    assert_eq!(records, ["late", "r1"]);
    // Until all is settled, no answer is that nothing changed.
    let known = [("If-None-Match", &*format!("\"{}\"", etag(&next)))];
    assert_eq!(kinto.send("GET", HISTORY, &known, "").await.status, 200);
}

/// Makes the entry of one record older.
fn age_one(kinto: &Kinto, id: &str, by: u64) {
    let items = execute(&kinto.aws, "Scan", json!({}));
    let latest = items["Items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["pk"]["S"].as_str().unwrap().starts_with("#history#"));
    let latest = latest.max_by_key(|item| item["sk"]["S"].as_str().unwrap().to_owned());
    let mut item = latest.unwrap_or_else(|| panic!("{id}")).clone();
    let key = json!({"pk": item["pk"], "sk": item["sk"]});
    let sk = item["sk"]["S"].as_str().unwrap().to_owned();
    let (time, of) = sk.split_once('#').unwrap();
    item["sk"]["S"] = format!("{:020}#{of}", time.parse::<u64>().unwrap() - by).into();
    execute(&kinto.aws, "DeleteItem", json!({"Key": key}));
    execute(&kinto.aws, "PutItem", json!({"Item": item}));
}
