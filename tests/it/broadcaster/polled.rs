//! The endpoint that a client polls for the latest version.

use super::{World, kinto};
use aws_lambda_events::dynamodb::Event;
use kinto_serverless::aggregator::Aggregator;
use kinto_serverless::api::Api;
use kinto_serverless::listeners::Listeners;
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::store::Store;
use serde_json::{Value, json};
use tests::{Kinto, NOBODY, TABLE, changed, settings};

#[tokio::test]
async fn who_asks_gets_the_latest_change_by_one_request_to_the_table() {
    let vars = [
        (
            "KINTO_CHANGES_RESOURCES",
            "/buckets/main /buckets/main-preview",
        ),
        ("KINTO_BROADCASTS_READER_TOKEN", "letmein"),
    ];
    let world = World::new(&[]).await;
    let mut settings = settings(&vars);
    settings.megaphones.clear();
    let store = Store::new(world.aws.dynamodb(), TABLE);
    let queue = BroadcastQueue::new(world.aws.sqs(), world.aws.queue_url());
    let mut kinto = kinto(&world).as_user(NOBODY);
    kinto.api = Api::new(
        store.clone(),
        settings.clone(),
        vec![],
        Listeners::default(),
    );
    let aggregator = Aggregator::new(store, queue, settings.changes, settings.broadcasts, vec![]);
    let aggregate = async |record: Value| {
        let event: Event = serde_json::from_value(json!({"Records": [record]})).unwrap();
        assert!(
            aggregator
                .handle(event)
                .await
                .batch_item_failures
                .is_empty()
        );
    };

    let nothing = kinto.get("/__broadcasts__").await;
    assert_eq!(nothing.status, 200);
    assert_eq!(nothing.body, json!({"code": 200, "broadcasts": {}}));

    aggregate(changed(1, "one", 10)).await;
    let mut preview = changed(2, "one", 20);
    for image in ["Keys", "NewImage"] {
        preview["dynamodb"][image]["pk"]["S"] =
            "/buckets/main-preview/collections/one#record".into();
    }
    aggregate(preview).await;
    // The second change within five minutes is held back.
    aggregate(changed(3, "one", 30)).await;

    let shown = json!({"code": 200, "broadcasts": {"remote-settings/monitor_changes": "\"10\""}});
    world.aws.requests().take();
    let pulled = kinto.get("/__broadcasts__").await;
    assert_eq!((pulled.status, &pulled.body), (200, &shown));
    assert_eq!(pulled.header("cache-control"), "no-cache, no-store");
    let requests = world.aws.requests().take();
    assert_eq!((requests["GetItem"], requests.len()), (1, 1));

    let read = async |authorization: &str| {
        let headers = [("authorization", authorization)];
        kinto.send("GET", "/broadcasts", &headers, "").await
    };
    assert_eq!(read("Bearer letmein").await.body, shown);
    assert_eq!(kinto.get("/broadcasts").await.error(), (401, 120));
    for wrong in [
        "Bearer letmein2",
        "Bearer letmei",
        "Bearer ",
        "Bearer LETMEIN",
    ] {
        assert_eq!(read(wrong).await.error(), (401, 121), "{wrong}");
    }
    assert_eq!(
        world.aws.requests().total(),
        1,
        "a wrong token reads nothing"
    );
    // Without a token in the settings there is no such endpoint.
    assert_eq!(Kinto::new().get("/broadcasts").await.error(), (404, 111));
}
