//! Large groups, and groups of strangers: their costs, and their consistency (docs/limits.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_dynamodb::types::AttributeValue;
use kinto_local::Fault;
use kinto_serverless::resource::ObjectUri;
use kinto_serverless::store::membership::Member;
use kinto_serverless::store::{Item, Key};
use serde_json::{Value, json};
use tests::{ALICE, BOB, Kinto, RECORD, RECORDS, TABLE, now};

const DAY: u64 = 24 * 60 * 60 * 1000;
const GROUP: &str = "/buckets/main/groups/g";

fn members<S: AsRef<str>>(members: &[S]) -> Value {
    let members: Vec<_> = members.iter().map(AsRef::as_ref).collect();
    json!({"data": {"members": members}})
}

fn many(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("account:{n}")).collect()
}

/// Buckets of bob's, each with a group of all authenticated users.
async fn poison(bob: &Kinto, buckets: usize) {
    for n in 0..buckets {
        let bucket = format!("/buckets/poison{n}");
        let padding = json!({"data": {"x": "x".repeat(10_000)}});
        assert_eq!(bob.put(&bucket, padding).await.status, 201);
        let group = format!("{bucket}/groups/g");
        let all = members(&["system.Authenticated"]);
        assert_eq!(bob.put(&group, all).await.status, 201);
    }
}

#[tokio::test]
async fn groups_of_strangers_cost_nobody_anything() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    kinto.put(RECORD, json!({})).await;
    poison(&bob, 20).await;
    let requests = kinto.aws.requests();
    for (path, round_trips) in [(RECORD, 1), ("/buckets/main", 1), (RECORDS, 2)] {
        requests.take();
        assert_eq!(kinto.get(path).await.status, 200);
        assert_eq!(requests.total(), round_trips, "{path}");
    }
    // The groups are respected where they have permissions.
    let shared = json!({"permissions": {"read": ["/buckets/poison7/groups/g"]}});
    assert_eq!(
        bob.put("/buckets/poison7/collections/c", shared)
            .await
            .status,
        201
    );
    assert_eq!(
        kinto.get("/buckets/poison7/collections/c").await.status,
        200
    );
}

#[tokio::test]
async fn the_root_endpoint_shows_a_bounded_number_of_groups() {
    let kinto = Kinto::new();
    poison(&kinto.as_user(BOB), 30).await;
    let requests = kinto.aws.requests();
    requests.take();
    let hello = kinto.get("/").await;
    let principals = hello.body["user"]["principals"].as_array().unwrap().len();
    assert_eq!(principals, 3 + 25);
    assert!(requests.total() <= 4, "{}", requests.total());
}

#[tokio::test]
async fn a_group_of_another_bucket_that_is_named_takes_one_round_trip() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    poison(&bob, 3).await;
    let group = "/buckets/people/groups/readers";
    kinto.put("/buckets/people", json!({})).await;
    kinto.put(group, members(&[bob.user_id().await])).await;
    let shared = json!({"permissions": {"read": [group]}});
    assert_eq!(kinto.put(RECORD, shared).await.status, 201);
    let requests = kinto.aws.requests();
    requests.take();
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(requests.total(), 2);
    let batch = json!({"requests": [{"path": RECORD}, {"path": RECORD}, {"path": RECORDS}]});
    requests.take();
    let answer = bob.post("/batch", batch).await;
    assert_eq!(answer.body["responses"][2]["body"]["data"][0]["id"], "r1");
    assert_eq!(requests.of("BatchGetItem"), 2);
    let list = bob.get("/buckets/main/collections/one/records").await;
    assert_eq!(list.body["data"][0]["id"], "r1");
}

#[tokio::test]
async fn permissions_name_groups_of_few_other_buckets() {
    let kinto = Kinto::with_collection().await;
    let group = |n: usize| format!("/buckets/b{n}/groups/g");
    let read = |n| json!({"permissions": {"read": (0..n).map(group).collect::<Vec<_>>()}});
    assert_eq!(kinto.put(RECORD, read(5)).await.status, 201);
    let refused = kinto.put(RECORD, read(6)).await;
    assert_eq!(refused.error(), (400, 107));
    assert_eq!(kinto.patch(RECORD, read(6)).await.error(), (400, 107));
    // In a bucket of its own, as many as the user wants.
    let own = (0..50).map(|n| format!("/buckets/main/groups/g{n}"));
    let own = json!({"permissions": {"read": own.collect::<Vec<_>>()}});
    assert_eq!(kinto.put(RECORD, own).await.status, 200);
    let requests = kinto.aws.requests();
    requests.take();
    assert_eq!(kinto.as_user(BOB).get(RECORD).await.status, 403);
    assert_eq!(requests.total(), 1);
}

#[tokio::test]
async fn nobody_can_fill_up_what_is_kept_of_another() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = bob.user_id().await;
    kinto.put("/buckets/evil", json!({})).await;
    let name = |n: usize| format!("/buckets/evil/groups/{}{n:03}", "x".repeat(252));
    let mut written = 0;
    let refused = loop {
        let answer = kinto.put(&name(written), members(&[&id])).await;
        if answer.status != 201 {
            break answer;
        }
        written += 1;
    };
    // The writer of too many gets an error; nothing is written.
    assert_eq!(refused.error(), (400, 107), "{refused:?}");
    assert_eq!(refused.body["details"][0]["name"], "data.members");
    assert_eq!(written, 16 * 1024 / 255);
    assert_eq!(kinto.get(&name(written)).await.status, 404);
    // Bob joins others' groups, and these too again once there is room.
    assert_eq!(kinto.put(GROUP, members(&[&id])).await.status, 201);
    let shared = json!({"permissions": {"read": [GROUP]}});
    kinto.put(RECORD, shared).await;
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(kinto.delete(&name(0)).await.status, 200);
    assert_eq!(kinto.put(&name(written), members(&[&id])).await.status, 201);
    // Nor is it full for the next owner of the bucket's id.
    assert_eq!(kinto.delete("/buckets/evil").await.status, 200);
    assert_eq!(bob.put("/buckets/evil", json!({})).await.status, 201);
    assert_eq!(bob.put(&name(0), members(&[&id])).await.status, 201);
    let grants = json!({"permissions": {"read": [name(0)]}});
    assert_eq!(bob.patch("/buckets/evil", grants).await.status, 200);
    let principals = bob.get("/").await.body["user"]["principals"].clone();
    let of_evil = principals.as_array().unwrap().iter();
    let of_evil = of_evil.filter(|p| p.as_str().unwrap().starts_with("/buckets/evil/"));
    assert_eq!(of_evil.count(), 1);
}

#[tokio::test]
async fn a_group_has_a_thousand_members_at_most() {
    let kinto = Kinto::with_collection().await;
    let refused = kinto.put(GROUP, members(&many(1001))).await;
    assert_eq!(refused.error(), (400, 107));
    assert_eq!(refused.body["details"][0]["name"], "data.members");
    assert_eq!(kinto.put(GROUP, members(&many(1000))).await.status, 201);
    assert_eq!(
        kinto.patch(GROUP, members(&many(1001))).await.error(),
        (400, 107)
    );
}

#[tokio::test]
async fn a_request_changes_five_thousand_members_at_most() {
    let kinto = Kinto::with_collection().await;
    let put = |group: &str, members: Value| json!({"method": "PUT", "path": format!("/buckets/main/groups/{group}"), "body": members});
    let all = many(1000);
    let groups = ["a", "b", "c", "d", "e", "f"];
    let requests = groups.map(|group| put(group, members(&all)));
    let refused = kinto.post("/batch", json!({"requests": requests})).await;
    assert_eq!(refused.error(), (413, 113));
    let none = kinto.get("/buckets/main/groups").await.body;
    assert_eq!(none["data"], json!([]));
}

#[tokio::test]
async fn members_who_stay_are_not_written_again() {
    let kinto = Kinto::with_collection().await;
    let mut all = many(300);
    assert_eq!(kinto.put(GROUP, members(&all)).await.status, 201);
    let requests = kinto.aws.requests();
    all[7] = "account:new".to_owned();
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    kinto.aws.inject(move |target, body| {
        if target.ends_with("TransactWriteItems") {
            let body: Value = serde_json::from_slice(body).unwrap();
            let items = body["TransactItems"].as_array().map_or(0, Vec::len);
            counter.fetch_add(items, Ordering::Relaxed);
        }
        None
    });
    for (body, items) in [
        (members(&all), 4),
        (members(&all), 2),
        (json!({"data": {"members": all, "title": "x"}}), 2),
    ] {
        requests.take();
        written.store(0, Ordering::Relaxed);
        assert_eq!(kinto.put(GROUP, body).await.status, 200);
        assert_eq!(requests.of("TransactWriteItems"), 1);
        // The group, its list, and one item for each member who joins or leaves.
        assert_eq!(written.load(Ordering::Relaxed), items);
    }
}

/// Returns for each principal whether it is in the group, by the items that requests read.
async fn are_in(kinto: &Kinto, principals: &[String]) -> Vec<bool> {
    let mut found = vec![];
    for principal in principals {
        let member = Member {
            principal: principal.clone(),
            bucket: ObjectUri::bucket("main"),
        };
        let key = Key::memberships(&member);
        let read = kinto.aws.dynamodb().get_item().table_name(TABLE);
        let read = read
            .key("pk", AttributeValue::S(key.pk))
            .key("sk", AttributeValue::S(key.sk));
        let item = read.send().await.unwrap().item;
        found.push(item.is_some_and(|item| item.contains_key("/g")));
    }
    found
}

/// The number of members that the group lists; checks that their items agree, and those of members that are not listed.
async fn check_consistent(kinto: &Kinto, known: &[String]) -> usize {
    let group = kinto.get(GROUP).await;
    let listed: Vec<_> = group.body["data"]["members"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let expected: Vec<_> = known
        .iter()
        .map(|principal| listed.contains(&&json!(principal)))
        .collect();
    assert_eq!(are_in(kinto, known).await, expected);
    listed.len()
}

#[tokio::test]
async fn a_large_group_that_fails_midway_lists_those_who_are_in_it_and_repeating_completes_it() {
    let everyone = many(400);
    for (before, after) in [(0..0, 0..300), (0..300, 100..400), (0..300, 0..0)] {
        for transactions in 0..8 {
            let kinto = Kinto::with_collection().await;
            let created = kinto.put(GROUP, members(&everyone[before.clone()])).await;
            assert_eq!(created.status, 201);
            let written = kinto.aws.requests();
            written.take();
            kinto.aws.inject(move |target, _| {
                let late = written.of("TransactWriteItems") > transactions;
                (late && target.ends_with("TransactWriteItems"))
                    .then(|| Fault::error("ResourceNotFoundException"))
            });
            let body = members(&everyone[after.clone()]);
            let status = kinto.put(GROUP, body.clone()).await.status;
            kinto.aws.clear_faults();
            check_consistent(&kinto, &everyone).await;
            if status == 200 {
                break;
            }
            assert_eq!(status, 503);
            assert_eq!(kinto.put(GROUP, body).await.status, 200);
            let listed = check_consistent(&kinto, &everyone).await;
            assert_eq!(listed, after.len());
        }
    }
}

#[tokio::test]
async fn parallel_writers_of_a_large_group_leave_those_in_it_whom_it_lists() {
    let kinto = Kinto::with_collection().await;
    let everyone = many(240);
    assert_eq!(
        kinto.put(GROUP, members(&everyone[..120])).await.status,
        201
    );
    let writes = [0..200, 40..240, 0..1, 100..230].map(|range| {
        let body = members(&everyone[range]);
        let kinto = kinto.clone();
        async move { kinto.put(GROUP, body).await.status }
    });
    for status in futures::future::join_all(writes).await {
        assert!([200, 503].contains(&status), "{status}");
    }
    check_consistent(&kinto, &everyone).await;
    assert!(kinto.delete(GROUP).await.status < 300);
    assert_eq!(are_in(&kinto, &everyone).await, vec![false; everyone.len()]);
}

#[tokio::test]
async fn times_of_a_large_group_go_on_and_are_the_lists() {
    let kinto = Kinto::with_collection().await;
    let soon = now() + DAY / 2;
    for (wanted, after) in [(None, 1), (Some(soon), soon), (Some(7), 1)] {
        let mut body = members(&many(200));
        if let Some(at) = wanted {
            body["data"]["last_modified"] = at.into();
        }
        let created = kinto.put(GROUP, body).await;
        assert_eq!(created.status, 201);
        assert_eq!(kinto.get(GROUP).await.body["data"], created.body["data"]);
        let at = created.last_modified();
        match wanted {
            Some(7) => assert_eq!(at, 7),
            _ => {
                assert!(at >= after);
                let list = kinto.get("/buckets/main/groups").await;
                assert_eq!(list.header("etag"), format!("\"{at}\""));
            }
        }
        assert_eq!(kinto.delete(GROUP).await.status, 200);
    }
}

/// Turns the bucket `main` and its groups' memberships into those of an earlier version.
async fn age(kinto: &Kinto, group: &str, member: &str) {
    let client = kinto.aws.dynamodb();
    let old = "0123456789abcdef";
    let get = async |pk: &str, sk: &str| -> Item {
        let get = client.get_item().table_name(TABLE);
        let get = get
            .key("pk", AttributeValue::S(pk.to_owned()))
            .key("sk", AttributeValue::S(sk.to_owned()));
        get.send().await.unwrap().item.unwrap_or_default()
    };
    let put = async |item: Item| {
        let put = client.put_item().table_name(TABLE).set_item(Some(item));
        put.send().await.unwrap();
    };
    let set = |mut item: Item, attribute: &str| {
        item.insert(attribute.to_owned(), AttributeValue::S(old.to_owned()));
        item
    };
    let bucket = get("#bucket", "main").await;
    put(set(bucket, "generation")).await;
    for kind in ["group", "collection"] {
        let list = get(&format!("/buckets/main#{kind}"), "#timestamp").await;
        put(set(list, "generation")).await;
    }
    for (pk, sk) in [
        ("/buckets/main#group", "g"),
        ("/buckets/main#collection", "one"),
    ] {
        let object = get(pk, sk).await;
        put(set(object, "parent")).await;
    }
    let pk = format!("#principal#{member}");
    let delete = client.delete_item().table_name(TABLE);
    let delete = delete
        .key("pk", AttributeValue::S(pk.clone()))
        .key("sk", AttributeValue::S("/buckets/main".to_owned()));
    delete.send().await.unwrap();
    let item = [("pk", &*pk), ("sk", "#groups"), (group, old)];
    let item = item.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
    put(item.into()).await;
}

#[tokio::test]
async fn memberships_of_an_earlier_version_hold_until_their_members_leave() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = bob.user_id().await;
    kinto.put(GROUP, members(&[&id])).await;
    let shared = json!({"permissions": {"read": [GROUP]}});
    kinto.put(RECORD, shared.clone()).await;
    kinto.put("/buckets/other", shared).await;
    age(&kinto, GROUP, &id).await;
    for path in [RECORD, "/buckets/other"] {
        assert_eq!(bob.get(path).await.status, 200, "{path}");
    }
    let principals = bob.get("/").await.body["user"]["principals"].clone();
    assert!(principals.as_array().unwrap().contains(&json!(GROUP)));
    // Others join in the present way, and bob stays.
    let carol = kinto.as_user("Basic Y2Fyb2w6");
    assert_eq!(carol.get(RECORD).await.status, 403);
    let both = members(&[id, carol.user_id().await]);
    assert_eq!(kinto.put(GROUP, both).await.status, 200);
    for user in [&bob, &carol] {
        assert_eq!(user.get(RECORD).await.status, 200);
    }
    let none: [&str; 0] = [];
    assert_eq!(kinto.put(GROUP, members(&none)).await.status, 200);
    for user in [&bob, &carol] {
        assert_eq!(user.get(RECORD).await.status, 403);
        assert_eq!(user.get("/buckets/other").await.status, 403);
    }
}

#[tokio::test]
async fn what_cannot_be_a_member_stays_refused() {
    let kinto = Kinto::with_collection().await.as_user(ALICE);
    for bad in ["system.Everyone", "/buckets/main/groups/other"] {
        assert_eq!(kinto.put(GROUP, members(&[bad])).await.error(), (400, 107));
    }
}
