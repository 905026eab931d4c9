//! The events that listeners get of reviews and publications.

use aws_sdk_dynamodb::types::AttributeValue;
use kinto_serverless::event::{Action, EventName, ResourceChanged};
use kinto_serverless::store::outbox;
use serde_json::json;
use tests::{ALICE, BOB, TABLE, batch};

use super::{DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW, WITHOUT_PREVIEW};

const LISTENER: [(&str, &str); 5] = [
    ("KINTO_EVENT_LISTENERS", "a"),
    ("KINTO_EVENT_LISTENERS_A_USE", "webhook"),
    ("KINTO_EVENT_LISTENERS_A_URL", "https://hook.test"),
    (
        "KINTO_EVENT_LISTENERS_A_SECRET",
        "at-least-24-bytes-of-secret",
    ),
    (
        "KINTO_EVENT_LISTENERS_A_EVENTS",
        "ResourceChanged ReviewRequested ReviewRejected ReviewApproved ReviewCanceled",
    ),
];

/// The events put into the outbox since the last call, by the parent.
async fn told(signer: &Signer) -> Vec<(String, Vec<ResourceChanged>)> {
    let aws = signer.kinto.aws.dynamodb();
    let scan = aws.scan().table_name(TABLE).send().await.unwrap();
    let mut told = vec![];
    for item in scan.items() {
        let text = |name: &str| item[name].as_s().unwrap().clone();
        if let Some(parent) = text("pk").strip_prefix("#outbox##") {
            let events = item["events"].as_b().unwrap().as_ref();
            told.push((parent.to_owned(), outbox::decompress(events).unwrap()));
            let key = ["pk", "sk"].map(|name| (name.to_owned(), AttributeValue::S(text(name))));
            let delete = aws.delete_item().table_name(TABLE);
            delete.set_key(Some(key.into())).send().await.unwrap();
        }
    }
    told
}

/// The last event of the source's bucket, and how many of its kind there are.
async fn review(signer: &Signer) -> (ResourceChanged, usize) {
    let told = told(signer).await;
    let (_, events) = told
        .into_iter()
        .find(|(of, _)| of == "/buckets/work")
        .unwrap();
    let reviews = events.iter().filter(|event| event.review.is_some()).count();
    (events.last().unwrap().clone(), reviews)
}

#[tokio::test]
async fn each_step_of_a_review_is_told_of_behind_the_writes_of_its_commit() {
    let signer = Signer::with_more(WITH_PREVIEW, "true", &LISTENER).await;
    let (alice, bob) = (
        signer.kinto.user_id().await,
        signer.kinto.as_user(BOB).user_id().await,
    );
    for id in ["a", "b"] {
        signer.write(ALICE, id, 1).await.expect(201);
    }
    told(&signer).await;

    let comment = json!({"data": {"status": "to-review", "last_editor_comment": "please"}});
    signer.kinto.patch(SOURCE, comment).await.expect(200);
    let (event, count) = review(&signer).await;
    assert_eq!((event.name(), count), (EventName::ReviewRequested, 1));
    assert_eq!((event.action, &*event.uri), (Action::Update, SOURCE));
    assert_eq!(event.user_id.as_deref(), Some(&*alice));
    assert_eq!(event.impacted_uris, [SOURCE]);
    assert_eq!(event.impacted_records[0].new["status"], "to-review");
    let old = event.impacted_records[0].old.as_ref().unwrap();
    assert_eq!(old["status"], "work-in-progress");
    let told_of = event.review.unwrap();
    assert_eq!(told_of.comment.as_deref(), Some("please"));
    assert_eq!(told_of.changes_count, Some(2));
    // {"data":[{"id":"a","last_modified":1700000000000,"n":1}, … ],"last_modified":"0"}
    assert_eq!(told_of.changes_size_bytes, Some(31 + 2 * 46 + 1));

    let comment = json!({"data": {"status": "work-in-progress", "last_reviewer_comment": "no"}});
    signer
        .kinto
        .as_user(BOB)
        .patch(SOURCE, comment)
        .await
        .expect(200);
    let (event, count) = review(&signer).await;
    assert_eq!((event.name(), count), (EventName::ReviewRejected, 1));
    assert_eq!(event.user_id.as_deref(), Some(&*bob));
    let told_of = event.review.unwrap();
    assert_eq!(
        (told_of.comment.as_deref(), told_of.changes_count),
        (Some("no"), None)
    );

    signer.set(ALICE, "to-review").await.expect(200);
    let (event, _) = review(&signer).await;
    let told_of = event.review.unwrap();
    assert_eq!(
        (told_of.comment.as_deref(), told_of.changes_count),
        (Some(""), Some(0))
    );
    assert_eq!(told_of.changes_size_bytes, Some(0));

    signer.set(BOB, "to-sign").await.expect(200);
    let (event, count) = review(&signer).await;
    assert_eq!((event.name(), count), (EventName::ReviewApproved, 1));
    let told_of = event.review.unwrap();
    assert_eq!((told_of.comment, told_of.changes_count), (None, Some(2)));

    signer.write(ALICE, "a", 2).await.expect(200);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.write(ALICE, "b", 2).await.expect(200);
    told(&signer).await;
    signer.set(ALICE, "to-rollback").await.expect(200);
    let (event, count) = review(&signer).await;
    assert_eq!((event.name(), count), (EventName::ReviewCanceled, 1));
    // Two of the source, one of the preview.
    assert_eq!(event.review.unwrap().changes_count, Some(3));

    // Nothing is to be taken back; nor is signing again a step of a review.
    signer.write(ALICE, "a", 1).await.expect(200);
    told(&signer).await;
    for command in ["to-resign", "to-rollback"] {
        signer.set(ALICE, command).await.expect(200);
        let (event, count) = review(&signer).await;
        assert_eq!((event.name(), count), (EventName::ResourceChanged, 0));
    }
}

#[tokio::test]
async fn without_a_preview_a_request_counts_no_changes() {
    let signer = Signer::with_more(WITHOUT_PREVIEW, "true", &LISTENER).await;
    signer.write(ALICE, "a", 1).await.expect(201);
    told(&signer).await;
    signer.set(ALICE, "to-review").await.expect(200);
    let (event, _) = review(&signer).await;
    let told_of = event.review.unwrap();
    assert_eq!(
        (told_of.event, told_of.changes_count),
        (EventName::ReviewRequested, None)
    );
    signer.set(ALICE, "to-rollback").await.expect(200);
    let (event, _) = review(&signer).await;
    assert_eq!(event.review.unwrap().changes_count, Some(1));
}

#[tokio::test]
async fn who_does_not_ask_hears_of_no_reviews() {
    let signer = Signer::with_more(WITH_PREVIEW, "true", &LISTENER[..4]).await;
    signer.write(ALICE, "a", 1).await.expect(201);
    told(&signer).await;
    signer.set(ALICE, "to-review").await.expect(200);
    let (event, count) = review(&signer).await;
    assert_eq!((event.name(), count), (EventName::ResourceChanged, 0));
}

#[tokio::test]
async fn what_the_stack_publishes_is_told_of_as_its_own_writes() {
    let signer = Signer::with_more(WITH_PREVIEW, "true", &LISTENER).await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.write(ALICE, "b", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    signer.write(ALICE, "a", 2).await.expect(200);
    signer
        .kinto
        .delete(&format!("{SOURCE}/records/b"))
        .await
        .expect(200);
    signer.write(ALICE, "c", 2).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    told(&signer).await;
    signer.set(BOB, "to-sign").await.expect(200);
    let told = told(&signer).await;
    let of = |parent: &str| {
        told.iter()
            .find(|(of, _)| of == parent)
            .map(|(_, events)| events)
    };
    let events = of(DESTINATION).unwrap();
    let mut actions: Vec<_> = events
        .iter()
        .map(|event| {
            assert_eq!(event.user_id.as_deref(), Some("plugin:remote-settings"));
            assert_eq!(event.uri, SOURCE);
            assert!(!event.truncated);
            let impacted = &event.impacted_records[0];
            (
                event.action,
                &*event.impacted_uris[0],
                impacted.new.get("n"),
            )
        })
        .collect();
    actions.sort_unstable_by_key(|(action, ..)| *action);
    let record = |id: &str| format!("{DESTINATION}/records/{id}");
    let (a, b, c) = (record("a"), record("b"), record("c"));
    let two = json!(2);
    assert_eq!(
        actions,
        [
            (Action::Create, &*c, Some(&two)),
            (Action::Update, &*a, Some(&two)),
            (Action::Delete, &*b, None)
        ]
    );
    // The preview showed it before; both are signed again.
    assert_eq!(of(PREVIEW), None);
    for bucket in ["/buckets/main", "/buckets/preview"] {
        let [event] = &of(bucket).unwrap()[..] else {
            panic!("{told:?}")
        };
        assert_eq!(
            (event.action, &*event.resource_name),
            (Action::Update, "collection")
        );
        assert!(event.impacted_records[0].new.contains_key("signature"));
    }
}

#[tokio::test]
async fn what_a_user_and_the_stack_write_in_one_commit_is_told_and_kept_as_that_of_each() {
    let includes = "kinto.plugins.history kinto_remote_settings";
    let more = [&LISTENER[..], &[("KINTO_INCLUDES", includes)]].concat();
    let signer = Signer::with_more(WITH_PREVIEW, "true", &more).await;
    let (alice, plugin) = (signer.kinto.user_id().await, "plugin:remote-settings");
    told(&signer).await;
    let requests = vec![
        json!({"method": "PATCH", "path": SOURCE, "body": {"data": {"sort": "n"}}}),
        json!({"method": "PUT", "path": format!("{SOURCE}/records/a"), "body": {"data": {"n": 1}}}),
    ];
    let answer = batch(&signer.kinto, requests).await;
    answer.expect(200);
    let told = told(&signer).await;
    let events = told.iter().find(|(of, _)| of == "/buckets/work");
    let writers = events.unwrap().1.iter().map(|event| {
        assert_eq!(event.impacted_uris, [SOURCE]);
        let new = &event.impacted_records[0].new;
        (event.user_id.as_deref(), new["status"].as_str())
    });
    let expected = [
        (Some(&*alice), Some("signed")),
        (Some(plugin), Some("work-in-progress")),
    ];
    assert!(writers.eq(expected), "{told:?}");

    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    let bob = signer.kinto.as_user(BOB).user_id().await;
    let updates = "/buckets/work/history?collection_id=news&resource_name=collection&action=update&_sort=last_modified";
    let history = signer.kinto.get(updates).await.expect(200);
    let entries = history["data"].as_array().unwrap().iter();
    let writers: Vec<_> = entries.map(|entry| entry["user_id"].as_str()).collect();
    let expected = [plugin, &alice, plugin, &alice, plugin, &bob, plugin];
    assert_eq!(writers, expected.map(Some), "{history}");
}
