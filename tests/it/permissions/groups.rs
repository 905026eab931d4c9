//! Groups, and the permissions of their members.

use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{BOB, Kinto, NOBODY, RECORD};

const GROUP: &str = "/buckets/main/groups/readers";

/// A collection with a record that the group `readers` may read, and the user id of bob, who is in no group yet.
async fn with_a_group() -> (Kinto, Kinto, String) {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = bob.get("/").await.body["user"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let shared = json!({"permissions": {"read": [GROUP]}});
    assert_eq!(kinto.put(RECORD, shared).await.status, 201);
    assert_eq!(kinto.put(GROUP, members(&[])).await.status, 201);
    (kinto, bob, id)
}

fn members(members: &[&str]) -> Value {
    json!({"data": {"members": members}})
}

#[tokio::test]
async fn a_member_has_what_is_granted_to_the_group_from_joining_to_leaving() {
    let (kinto, bob, id) = with_a_group().await;
    assert_eq!(bob.get(RECORD).await.status, 403);
    assert_eq!(kinto.put(GROUP, members(&[&id])).await.status, 200);
    assert_eq!(bob.get(RECORD).await.status, 200);
    let principals = bob.get("/").await.body["user"]["principals"].clone();
    assert_eq!(
        principals,
        json!([id, "system.Everyone", GROUP, "system.Authenticated"])
    );
    assert_eq!(kinto.patch(GROUP, members(&["other"])).await.status, 200);
    assert_eq!(bob.get(RECORD).await.status, 403);
    assert_eq!(
        kinto.patch(GROUP, members(&["other", &id])).await.status,
        200
    );
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(kinto.delete(GROUP).await.status, 200);
    assert_eq!(bob.get(RECORD).await.status, 403);
}

#[tokio::test]
async fn a_group_of_the_authenticated_has_everybody_with_credentials() {
    let (kinto, bob, _) = with_a_group().await;
    kinto.put(GROUP, members(&["system.Authenticated"])).await;
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(kinto.as_user(NOBODY).get(RECORD).await.status, 401);
}

#[tokio::test]
async fn deleting_a_list_of_groups_ends_their_memberships() {
    let (kinto, bob, id) = with_a_group().await;
    kinto.put(GROUP, members(&[&id])).await;
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(kinto.delete("/buckets/main/groups").await.status, 200);
    assert_eq!(bob.get(RECORD).await.status, 403);
}

#[tokio::test]
async fn a_membership_ends_with_the_bucket_of_the_group_and_does_not_come_back() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = bob.get("/").await.body["user"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    // The group is in another bucket than the object that it may read.
    let group = "/buckets/people/groups/readers";
    kinto.put("/buckets/people", json!({})).await;
    kinto.put(group, members(&[&id])).await;
    kinto
        .put(RECORD, json!({"permissions": {"read": [group]}}))
        .await;
    assert_eq!(bob.get(RECORD).await.status, 200);

    kinto.delete("/buckets/people").await;
    assert_eq!(bob.get(RECORD).await.status, 403);
    kinto.put("/buckets/people", json!({})).await;
    assert_eq!(bob.get(RECORD).await.status, 403);
    kinto.put(group, members(&[])).await;
    assert_eq!(bob.get(RECORD).await.status, 403);
    kinto.put(group, members(&[&id])).await;
    assert_eq!(bob.get(RECORD).await.status, 200);
}

#[tokio::test]
async fn members_are_user_ids() {
    let kinto = Kinto::with_collection().await;
    for (bad, name) in [
        (json!("x"), "data.members"),
        (json!(null), "data.members"),
        (json!([1]), "data.members.0"),
        (json!(["a", "system.Everyone"]), "data.members.1"),
        (json!(["/buckets/a/groups/b"]), "data.members.0"),
        (json!(["x".repeat(2000)]), "data.members.0"),
    ] {
        let answer = kinto.put(GROUP, json!({"data": {"members": bad}})).await;
        assert_eq!(answer.error(), (400, 107), "{bad}");
        assert_eq!(answer.body["details"][0]["name"], name, "{bad}");
    }
    let created = kinto.put(GROUP, json!({"data": {"a": 1}})).await;
    assert_eq!(created.body["data"]["members"], json!([]));
    kinto.put(GROUP, members(&["x", "x"])).await;
    let kept = kinto.patch(GROUP, json!({"data": {"a": 2}})).await;
    assert_eq!(kept.body["data"]["members"], json!(["x", "x"]));
    let answer = kinto.patch(GROUP, members(&["system.Everyone"])).await;
    assert_eq!(answer.body["details"][0]["name"], "members.0");
}

#[tokio::test]
async fn who_may_create_groups_may_not_more() {
    let kinto = Kinto::with_collection().await;
    let bob = kinto.as_user(BOB);
    let id = bob.get("/").await.body["user"]["id"].clone();
    kinto
        .patch(
            "/buckets/main",
            json!({"permissions": {"group:create": [id]}}),
        )
        .await;
    assert_eq!(bob.put(GROUP, members(&[])).await.status, 201);
    assert_eq!(bob.put(RECORD, json!({})).await.status, 403);
    assert_eq!(bob.delete("/buckets/main").await.status, 403);
}

#[tokio::test]
async fn a_group_may_have_more_members_than_a_transaction_holds() {
    let (kinto, bob, id) = with_a_group().await;
    let others: Vec<_> = (0..250).map(|n| format!("account:{n}")).collect();
    let mut all: Vec<&str> = others.iter().map(String::as_str).collect();
    all.push(&id);
    assert_eq!(kinto.put(GROUP, members(&all)).await.status, 200);
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(kinto.put(GROUP, members(&["x"])).await.status, 200);
    assert_eq!(bob.get(RECORD).await.status, 403);
}

#[tokio::test]
async fn joining_a_large_group_that_failed_midway_is_completed_by_repeating_it() {
    let (kinto, bob, id) = with_a_group().await;
    let others: Vec<_> = (0..250).map(|n| format!("account:{n}")).collect();
    let mut all: Vec<&str> = others.iter().map(String::as_str).collect();
    all.push(&id);
    // The group is written first, members join after it.
    let (written, transactions) = (kinto.aws.requests(), 3);
    written.take();
    kinto.aws.inject(move |target, _| {
        let late = written.of("TransactWriteItems") >= transactions;
        (late && target.ends_with("TransactWriteItems"))
            .then(|| Fault::error("ResourceNotFoundException"))
    });
    assert_eq!(kinto.put(GROUP, members(&all)).await.status, 503);
    assert_eq!(bob.get(RECORD).await.status, 403);
    kinto.aws.clear_faults();
    assert_eq!(kinto.put(GROUP, members(&all)).await.status, 200);
    assert_eq!(bob.get(RECORD).await.status, 200);
}

#[tokio::test]
async fn groups_cost_no_round_trip_but_of_those_of_other_buckets() {
    let (kinto, bob, id) = with_a_group().await;
    kinto.put(GROUP, members(&[&id])).await;
    let requests = kinto.aws.requests();
    requests.take();
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(requests.total(), 1);
    kinto.put("/buckets/people", json!({})).await;
    let other = "/buckets/people/groups/g";
    kinto.put(other, members(&[&id])).await;
    requests.take();
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(requests.total(), 1);
    // Only groups that have a permission.
    let shared = json!({"permissions": {"read": [GROUP, other]}});
    assert_eq!(kinto.patch(RECORD, shared).await.status, 200);
    requests.take();
    assert_eq!(bob.get(RECORD).await.status, 200);
    assert_eq!(requests.total(), 2);
}
