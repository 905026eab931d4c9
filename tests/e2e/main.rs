//! The whole way of the data through what is really deployed: a release as `release/make` makes it, its zips and its
//! templates, on an emulator of AWS (ministack) with a Megaphone receiver and webhooks on loopback.
//!
//! The emulator enforces the roles' policies, so a permission that a function lacks fails here. It costs 100 ms
//! a request, so this is one walk without details: those are tested on the local stack. `tests/run` installs sam
//! and ministack, makes the release, and runs this.

mod api;
mod emulator;
mod megaphone;
mod webhooks;

use crate::api::Api;
use crate::emulator::Emulator;
use crate::megaphone::Megaphone;
use crate::webhooks::{ASKED, TOLD, Webhooks};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const REGION: &str = "us-east-1";
/// As the release's profiles name it.
const STACK: &str = "kinto-serverless";
const API_KEY: &str = "key-of-the-broadcaster";
const READER_TOKEN: &str = "token-of-a-reader";
const WEBHOOK_SECRET: &str = "what the webhooks' events are signed with";
const USERID_SECRET: &str = "what user ids are made with";
const CHANNEL: &str = "/v1/broadcasts/remote-settings/monitor_changes";

/// Far above what a change takes on the emulator (about a second), for machines that are busy.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
#[ignore = "needs sam and ministack: tests/run"]
async fn the_deployed_stack_announces_writes_whatever_happens_to_megaphone() {
    let megaphone = Megaphone::start().await;
    let webhooks = Webhooks::start().await;
    let emulator = Emulator::start().await;
    let key_arn = emulator.create_secret("megaphone-api-key", API_KEY).await;
    let token_arn = emulator.create_secret("reader-token", READER_TOKEN).await;
    let secret_arn = emulator
        .create_secret("webhook-secret", WEBHOOK_SECRET)
        .await;
    let hmac_arn = emulator.create_secret("userid-hmac", USERID_SECRET).await;

    // From the release's folder to a first broadcast in three commands: deploy, ask for the URL, write.
    emulator.deploy_profile(
        "minimal",
        &[
            ("BucketCreatePrincipals", "system.Authenticated"),
            ("MegaphoneUrl", &megaphone.server.uri()),
            ("MegaphoneApiKeyArn", &key_arn),
        ],
    );
    let api = Api::new(&emulator, &emulator.outputs()["ApiUrl"]);
    let (status, written) = api.call(Method::POST, "/batch", first_write()).await;
    assert_eq!(status, StatusCode::OK, "{written}");
    let zero = written["responses"][2]["body"]["data"]["last_modified"].as_u64();
    assert!(zero.is_some(), "{written}");
    eventually("the first record's timestamp is broadcast", async || {
        megaphone.version() == zero
    })
    .await;

    let (status, gone) = api.call(Method::DELETE, "/buckets/main", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{gone}");
    eventually("monitor/changes is empty again", async || {
        api.monitored().await.is_empty()
    })
    .await;

    // Where nobody listens, nothing is made for it.
    let made = emulator.queues_and_functions().await.join(" ");
    assert!(made.contains("BroadcastQueue") && made.contains("Broadcaster"));
    for part in ["Notif", "Outbox", "ResourceChanged"] {
        assert!(!made.contains(part), "{made}");
    }

    // All of it, over that stack and its table, with a kinto.ini.
    let ini = emulator.put_object(
        "kinto.ini",
        &format!(
            "[app:main]
            use = egg:kinto
            kinto.userid_hmac_secret = {hmac_arn}
            multiauth.policies = basicauth
            kinto.bucket_create_principals = system.Authenticated
            kinto.includes = kinto_changes kinto_megaphone
            kinto.changes.resources = /buckets/main
            kinto.broadcasts.reader_token = {token_arn}
            kinto.push_broadcast_min_debounce_interval_seconds = 0
            kinto.event_listeners = mp queue bus told asked
            kinto.event_listeners.mp.use = kinto_megaphone.listeners
            kinto.event_listeners.mp.url = {megaphone}
            kinto.event_listeners.mp.api_key = {key_arn}
            kinto.event_listeners.mp.broadcaster_id = remote-settings
            kinto.event_listeners.mp.match_kinto_changes = /buckets/main
            kinto.event_listeners.queue.resources = record
            kinto.event_listeners.queue.uris = /buckets/main
            kinto.event_listeners.bus.use = eventbridge
            kinto.event_listeners.bus.bus = default
            kinto.event_listeners.bus.resources = record
            kinto.event_listeners.bus.uris = /buckets/main
            kinto.event_listeners.told.use = webhook
            kinto.event_listeners.told.url = {told}
            kinto.event_listeners.told.secret = {secret_arn}
            kinto.event_listeners.told.resources = record
            kinto.event_listeners.told.uris = /buckets/main
            kinto.event_listeners.asked.use = webhook
            kinto.event_listeners.asked.synchronous = true
            kinto.event_listeners.asked.url = {asked}
            kinto.event_listeners.asked.secret = {secret_arn}
            kinto.event_listeners.asked.resources = record
            ",
            megaphone = megaphone.server.uri(),
            told = webhooks.url(TOLD),
            asked = webhooks.url(ASKED),
        ),
    );
    let secrets = [&hmac_arn, &key_arn, &token_arn, &secret_arn].map(String::as_str);
    let secrets = secrets.join(",");
    let listeners = format!("arn:aws:events:{REGION}:000000000000:event-bus/default");
    let parameters = |ini| {
        [
            ("KintoIni", ini),
            ("IniSecretArns", secrets.as_str()),
            ("Listeners", "true"),
            ("ListenerArns", listeners.as_str()),
            ("EventQueue", "true"),
        ]
    };
    emulator.deploy_full(&parameters(&ini));
    let outputs = emulator.outputs();
    let api = Api::new(&emulator, &outputs["ApiUrl"]);
    let consumer = emulator.consume(&outputs["EventQueueUrl"]);

    let (status, heartbeat) = api.call(Method::GET, "/__heartbeat__", Value::Null).await;
    assert_eq!(
        (status, &heartbeat["megaphone"]),
        (StatusCode::OK, &json!(true)),
        "{heartbeat}"
    );

    // A write is listed with its timestamp, and that is broadcast.
    api.create("/buckets/main", json!({})).await;
    api.create("/buckets/main/collections/one", json!({})).await;
    let first = api
        .create("/buckets/main/collections/one/records/r1", json!({}))
        .await;
    eventually("monitor/changes lists the record's timestamp", async || {
        api.monitored().await == [("one".to_owned(), first)]
    })
    .await;
    eventually("the record's timestamp is broadcast", async || {
        megaphone.version() == Some(first)
    })
    .await;

    // Its changeset announces it; the monitor, computed anew, has nothing to add.
    let (status, changeset) = api
        .call(
            Method::GET,
            "/buckets/main/collections/one/changeset?_expected=0",
            Value::Null,
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{changeset}");
    assert_eq!(changeset["timestamp"], first);
    assert_eq!(changeset["changes"][0]["id"], "r1");
    let event = workspace().join("events/rebuild-monitor.json");
    let rebuilt = emulator.sam(
        &[
            "remote",
            "invoke",
            "ChangesAggregator",
            "--stack-name",
            STACK,
            "--event-file",
            &event.to_string_lossy(),
        ],
        [],
    );
    let rebuilt: Value = serde_json::from_slice(&rebuilt).expect("sam prints what it answers");
    // That of the bucket of before, which was deleted, is known.
    assert_eq!(
        rebuilt,
        json!({"collections": 2, "raised": 0, "removed": 0})
    );

    // A record that brings its own time from the past moves nothing.
    let past = api
        .create(
            "/buckets/main/collections/one/records/old",
            json!({"last_modified": first - 1}),
        )
        .await;
    assert_eq!(past, first - 1);

    // What a listener refuses is not there.
    let refused = "/buckets/main/collections/one/records/refused";
    let body = json!({"data": {"refuse": true}});
    let (status, answer) = api.call(Method::PUT, refused, body).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert_eq!(answer["message"], "Not this one", "{answer}");
    let (status, _) = api.call(Method::GET, refused, Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // A batch with a group, whose members are written besides, and the deletion of a list.
    let put =
        |path: &str, data: Value| json!({"method": "PUT", "path": path, "body": {"data": data}});
    let requests = [
        put("/buckets/other", json!({})),
        put(
            "/buckets/other/groups/g",
            json!({"members": ["account:alice"]}),
        ),
        put("/buckets/other/collections/c", json!({})),
        put("/buckets/other/collections/c/records/r", json!({})),
        json!({"method": "DELETE", "path": "/buckets/other/collections/c/records"}),
    ];
    let (status, batch) = api
        .call(Method::POST, "/batch", json!({"requests": requests}))
        .await;
    let responses = batch["responses"].as_array().map_or(&[][..], Vec::as_slice);
    let statuses: Vec<_> = responses
        .iter()
        .map(|response| &response["status"])
        .collect();
    assert_eq!(
        (status, json!(statuses)),
        (StatusCode::OK, json!([201, 201, 201, 201, 200])),
        "{batch}"
    );

    // Who asks instead of being told gets the same, with a token in Megaphone's place.
    let broadcasts = json!({"remote-settings/monitor_changes": format!("\"{first}\"")});
    eventually("who asks gets the record's timestamp", async || {
        let (_, answer) = api.call(Method::GET, "/__broadcasts__", Value::Null).await;
        answer["broadcasts"] == broadcasts
    })
    .await;
    assert_eq!(
        api.read_broadcasts(READER_TOKEN).await["broadcasts"],
        broadcasts
    );
    assert_eq!(api.read_broadcasts("another").await["errno"], 121);

    // What cannot be understood is put aside.
    emulator
        .send(&outputs["BroadcastQueueUrl"], "not json")
        .await;
    eventually("a message that says nothing is a dead letter", async || {
        emulator
            .count_messages(&outputs["BroadcastDeadLetterQueueUrl"])
            .await
            == 1
    })
    .await;

    // An outage of Megaphone is the queue's concern and not the client's.
    megaphone.fails(true);
    let second = api
        .create("/buckets/main/collections/one/records/r2", json!({}))
        .await;
    eventually("a broadcast fails during the outage", async || {
        megaphone.failures() > 0
    })
    .await;
    assert_eq!(megaphone.version(), Some(first));
    megaphone.fails(false);
    eventually("the broadcast arrives after the outage", async || {
        megaphone.version() == Some(second)
    })
    .await;

    // The queue's consumer and the webhook were told of each record that was written, in this order.
    let told =
        ["r1", "old", "r2"].map(|id| format!("create /buckets/main/collections/one/records/{id}"));
    eventually("the consumer has the events of all records", async || {
        consumer.heard().len() >= told.len()
    })
    .await;
    assert_eq!(consumer.heard(), told);
    eventually("the webhook has the events of all records", async || {
        webhooks.received(TOLD).await.len() >= told.len()
    })
    .await;
    assert_eq!(webhooks.received(TOLD).await, told);
    // So was the bus, which nobody watches: nothing is left to do.
    eventually("all listeners are told", async || {
        emulator
            .count_messages(&outputs["NotificationQueueUrl"])
            .await
            == 0
    })
    .await;
    for queue in [
        "NotificationDeadLetterQueueUrl",
        "OutboxDeadLetterQueueUrl",
        "EventDeadLetterQueueUrl",
    ] {
        assert_eq!(emulator.count_messages(&outputs[queue]).await, 0, "{queue}");
    }

    // Each alarm rings by its metric, and not without cause.
    let alarms = emulator.ring_alarms();
    assert_eq!(alarms["rung"], alarms["there"], "{alarms}");
    assert_eq!(alarms["rung_without_cause"], json!([]), "{alarms}");

    // The schedule sweeps: what the bucket of before held is marked, to expire a day later.
    let swept = ["/buckets/main/collections/news#record", "first"];
    let expires = emulator.sweep(&outputs["TableName"], swept);
    let day = Duration::from_secs(24 * 3600);
    assert!(SystemTime::now() + day / 2 < expires, "{expires:?}");
    let lives = "/buckets/main/collections/one/records/r1";
    let (status, _) = api.call(Method::GET, lives, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "what lives stays");

    // A setting that no function starts with fails the deployment, which names it; what is there goes on.
    let wrong = emulator.put_object(
        "wrong.ini",
        "[app:main]\nuse = egg:kinto\nkinto.eos = tomorrow\n",
    );
    let refusal = emulator.deploy_is_refused(&parameters(&wrong));
    assert!(refusal.to_lowercase().contains("eos"), "{refusal}");
    let (status, heartbeat) = api.call(Method::GET, "/__heartbeat__", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{heartbeat}");

    // A restored table is served in place of the stack's own, with all that was in that.
    let stream = emulator.restore(&outputs["TableName"], "restored");
    let mut parameters = parameters(&ini).to_vec();
    parameters.extend([
        ("TableName", "restored"),
        ("TableStreamArn", stream.as_str()),
    ]);
    emulator.deploy_full(&parameters);
    assert_eq!(emulator.outputs()["TableName"], "restored");
    assert_eq!(api.monitored().await, [("one".to_owned(), second)]);
    let third = api
        .create("/buckets/main/collections/one/records/r3", json!({}))
        .await;
    eventually("what is written to it is broadcast", async || {
        megaphone.version() == Some(third)
    })
    .await;

    // With the bucket its collections leave the monitor, which is the aggregator's doing and not the request's.
    let (status, gone) = api.call(Method::DELETE, "/buckets/main", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{gone}");
    eventually("monitor/changes lists nothing any more", async || {
        api.monitored().await.is_empty()
    })
    .await;
    assert_eq!(megaphone.version(), Some(third));
}

/// Asks four times a second until `condition` holds; a failure names what did not come.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    eprintln!("{what}: {:.1?}", start.elapsed());
}

/// This machine's processor in Lambda's words: the emulator runs the functions as its own processes.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "x86_64"
    }
}

/// The folder of the release that `tests/run` makes.
fn release() -> PathBuf {
    workspace().join("target/release-of-tests")
}

/// What README writes with its third command.
fn first_write() -> Value {
    let readme = std::fs::read_to_string(workspace().join("README.md"));
    let readme = readme.expect("README.md is there");
    let body = readme
        .split_once("${api}batch\" -d '")
        .and_then(|(_, rest)| rest.split_once('\''));
    let (body, _) = body.expect("README writes a batch");
    serde_json::from_str(body).expect("it is JSON")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is above tests/")
}
