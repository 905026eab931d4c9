//! What a bucket's history tells of reviews and publications.

use serde_json::Value;
use tests::{ALICE, BOB};

use super::{DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW};

const HISTORY: (&str, &str) = (
    "KINTO_INCLUDES",
    "kinto.plugins.history kinto_remote_settings",
);
const STACK: &str = "plugin:remote-settings";

/// The entries of a bucket's history that tell of a collection and what is in it, the first first: action, what, by whom, and the status.
async fn entries(signer: &Signer, collection: &str) -> Vec<(String, String, String, Value)> {
    let (bucket, id) = collection.split_once("/collections/").unwrap();
    let path = format!("{bucket}/history?collection_id={id}&_sort=last_modified");
    let listed = signer.kinto.get(&path).await.expect(200);
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let entries = listed["data"].as_array().unwrap().iter().map(|entry| {
        (
            text(entry, "action"),
            text(entry, "resource_name"),
            text(entry, "user_id"),
            entry["target"]["data"]["status"].clone(),
        )
    });
    entries.collect()
}

#[tokio::test]
async fn what_people_command_and_what_the_stack_makes_of_it_are_entries_of_their_own() {
    let signer = Signer::with_more(WITH_PREVIEW, "true", &[HISTORY]).await;
    let alice = signer.kinto.user_id().await;
    let bob = signer.kinto.as_user(BOB).user_id().await;
    let before = entries(&signer, SOURCE).await.len();
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    signer.write(ALICE, "a", 2).await.expect(200);
    signer.set(ALICE, "to-rollback").await.expect(200);
    let told = entries(&signer, SOURCE).await;
    let of_collection: Vec<_> = told[before..]
        .iter()
        .filter(|(_, what, ..)| what == "collection")
        .map(|(action, _, by, status)| (&**action, &**by, status.as_str().unwrap()))
        .collect();
    assert_eq!(
        of_collection,
        [
            ("update", STACK, "work-in-progress"),
            ("update", &*alice, "to-review"),
            ("update", STACK, "to-review"),
            ("update", &*bob, "to-sign"),
            ("update", STACK, "signed"),
            ("update", STACK, "work-in-progress"),
            ("update", &*alice, "to-rollback"),
            ("update", STACK, "signed"),
        ]
    );
    let of_records: Vec<_> = told[before..]
        .iter()
        .filter(|(_, what, ..)| what == "record")
        .map(|(action, _, by, _)| (&**action, &**by))
        .collect();
    // The record that was rolled back is written by the stack.
    assert_eq!(
        of_records,
        [("create", &*alice), ("update", &*alice), ("update", STACK)]
    );
}

#[tokio::test]
async fn what_is_copied_to_preview_and_destination_is_no_entry() {
    let signer = Signer::with_more(WITH_PREVIEW, "true", &[HISTORY]).await;
    let before = [
        entries(&signer, PREVIEW).await,
        entries(&signer, DESTINATION).await,
    ];
    assert!(
        before
            .iter()
            .flatten()
            .all(|(action, _, by, _)| action == "create" && by == STACK)
    );
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    let after = [
        entries(&signer, PREVIEW).await,
        entries(&signer, DESTINATION).await,
    ];
    assert_eq!(before, after);
}
