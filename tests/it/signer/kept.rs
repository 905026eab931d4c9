//! What stays as clients know it: tombstones that a record would be, a source that is made again, a user who is deleted.

use serde_json::{Value, json};
use tests::{ALICE, BOB, NOBODY, ids};

use super::{DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW, prepared};

#[tokio::test]
async fn a_record_that_clients_take_for_a_tombstone_is_not_published_and_ends_one_that_was() {
    let signer = Signer::new().await;
    let write = async |id: &str, deleted: Value| {
        let data = json!({"data": {"n": 1, "deleted": deleted}});
        signer
            .kinto
            .put(&format!("{SOURCE}/records/{id}"), data)
            .await
    };
    let values = [
        json!(true),
        json!("no"),
        json!(1),
        json!([]),
        json!(false),
        json!(0),
        json!(null),
    ];
    for (n, deleted) in values.into_iter().enumerate() {
        write(&format!("r{n}"), deleted).await.expect(201);
    }
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    for target in [PREVIEW, DESTINATION] {
        assert_eq!(signer.verified(target).await, ["r4=1", "r5=1", "r6=1"]);
    }
    write("r4", json!(true)).await.expect(200);
    signer.set(ALICE, "to-review").await.expect(200);
    // Who reads the rest has a tombstone of it, and the signature is over what is left.
    let path = format!("{PREVIEW}/changeset?_expected=0");
    let changeset = signer.kinto.get(&path).await.expect(200);
    signer.check(&changeset);
    assert_eq!(signer.verified(PREVIEW).await, ["r5=1", "r6=1"]);
    assert_eq!(signer.verified(DESTINATION).await, ["r4=1", "r5=1", "r6=1"]);
    let approved = signer.kinto.get(DESTINATION).await.expect(200);
    // It is taken back as any edit, and what was never published stays in the source.
    signer.set(ALICE, "to-rollback").await.expect(200);
    assert_eq!(signer.verified(PREVIEW).await, ["r4=1", "r5=1", "r6=1"]);
    let record = signer.kinto.get(&format!("{SOURCE}/records/r4")).await;
    assert_eq!(record.body["data"]["deleted"], false);
    let records = signer.kinto.get(&format!("{SOURCE}/records")).await;
    assert_eq!(ids(&records).len(), 7);
    let after = signer.kinto.get(DESTINATION).await.expect(200);
    assert_eq!(after, approved);
}

#[tokio::test]
async fn a_source_that_is_made_again_publishes_nothing_that_nobody_has_approved() {
    let signer = prepared().await;
    assert_eq!(signer.verified(DESTINATION).await, ["a=1", "b=1", "c=1"]);
    // With its bucket a source leaves what was published.
    signer.kinto.delete("/buckets/work").await.expect(200);
    assert_eq!(signer.verified(DESTINATION).await, ["a=1", "b=1", "c=1"]);
    let alice = signer.kinto.user_id().await;
    let bob = signer.kinto.as_user(BOB).user_id().await;
    let writers = json!({"permissions": {"write": [alice, bob]}});
    signer.kinto.put("/buckets/work", writers).await.expect(201);
    signer.kinto.put(SOURCE, json!({})).await.expect(201);
    for target in [PREVIEW, DESTINATION] {
        assert_eq!(signer.verified(target).await, ["a=1", "b=1", "c=1"]);
    }
    // The first approval makes it what was reviewed.
    let members = json!({"data": {"members": [bob]}});
    let reviewers = "/buckets/work/groups/news-reviewers";
    signer.kinto.patch(reviewers, members).await.expect(200);
    signer.write(ALICE, "z", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    assert_eq!(signer.verified(DESTINATION).await, ["z=1"]);
}

#[tokio::test]
async fn what_is_published_outlives_the_user_who_made_its_source() {
    let signer = Signer::new().await;
    let (bob, alice) = (
        signer.kinto.as_user(BOB).user_id().await,
        signer.kinto.user_id().await,
    );
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    let more = [("KINTO_USER_DATA_DELETE_PRINCIPALS", &*bob)];
    let other = tests::Kinto::over(
        &signer.kinto.aws,
        &[
            &super::settings(&signer.pem, WITH_PREVIEW, "true")[..],
            &more,
        ]
        .concat(),
    );
    let path = format!("/__user_data__/{alice}");
    let deleted = other.as_user(BOB).delete(&path).await;
    deleted.expect(200);
    for target in [PREVIEW, DESTINATION] {
        assert_eq!(signer.verified(target).await, ["a=1"]);
        let (bucket, _) = target.split_once("/collections/").unwrap();
        // Nobody may delete it, nor did anybody come to own it.
        for user in [ALICE, BOB, NOBODY] {
            let status = signer.kinto.as_user(user).delete(bucket).await.status;
            assert!([401, 403].contains(&status), "{bucket}");
        }
    }
    // Its groups are there without her, and the review goes on.
    for group in ["editors", "reviewers"] {
        let path = format!("/buckets/work/groups/news-{group}");
        let group = signer.kinto.as_user(BOB).get(&path).await.expect(200);
        assert_eq!(group["data"]["members"], json!([bob]));
    }
    signer.write(BOB, "b", 1).await.expect(201);
    signer.set(BOB, "to-review").await.expect(200);
    assert_eq!(signer.verified(PREVIEW).await, ["a=1", "b=1"]);
}
