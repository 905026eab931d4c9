//! Messages of the queue: the requests to Megaphone, and the retries.

use std::time::Duration;

use super::{BROADCASTS, Pipeline, TRIGGER};
use kinto_local::Fault;
use kinto_local::queue::Redrive;
use serde_json::json;
use tests::changed;
use wiremock::matchers::{body_string, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

#[tokio::test]
async fn a_broadcast_that_megaphone_did_not_take_comes_again() {
    let pipeline = Pipeline::new().await;
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    for status in [400, 401, 404, 429, 500, 503] {
        pipeline.megaphone_answers(status).await;
        assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"], "{status}");
    }
    pipeline.megaphone_answers(201).await;
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
    assert_eq!(pipeline.told().await, ["\"10\""]);
}

#[tokio::test]
async fn a_broadcast_that_is_not_answered_comes_again() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pipeline = Pipeline::with(
        MockServer::start().await,
        &format!("http://{}", silent.local_addr().unwrap()),
    );
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    // The clock advances as soon as all tasks wait: the time limit is reached at once.
    tokio::time::pause();
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"]);
    tokio::time::resume();
    drop(silent);
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"]);
}

#[tokio::test]
async fn a_broadcast_whose_record_failed_is_sent_again_and_never_an_older_one() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    pipeline.kinto.aws.inject(|target, body| {
        let settles = String::from_utf8_lossy(body).contains("sent = :sent");
        (target.ends_with("UpdateItem") && settles).then_some(Fault::Unreached)
    });
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, ["0"]);
    pipeline.kinto.aws.clear_faults();
    pipeline.aggregate(&[changed(2, "one", 11)]).await;
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
    assert_eq!(pipeline.told().await, ["\"10\"", "\"11\""]);
}

#[tokio::test]
async fn poison_messages_become_dead_letters_and_hold_up_no_other() {
    let pipeline = Pipeline::new().await;
    pipeline.megaphone_answers(200).await;
    pipeline.aggregate(&[changed(1, "one", 10)]).await;
    let poison = ["not json", r#"{"listener": "gone"}"#, "{}"];
    let messages = [poison[0], poison[1], TRIGGER, poison[2]];
    // If they cannot be moved to the dead-letter queue, they are retried.
    let send = |target: &str, _: &[u8]| {
        target
            .ends_with("SendMessage")
            .then(|| Fault::error("AccessDenied"))
    };
    pipeline.kinto.aws.inject(send);
    assert_eq!(pipeline.broadcast(&messages).await, ["0", "1", "3"]);
    pipeline.kinto.aws.clear_faults();
    assert_eq!(pipeline.broadcast(&messages).await, [""; 0]);
    let dead = pipeline.kinto.aws.queue().dead_letters();
    let dead: Vec<_> = dead.iter().map(|message| message.body.as_str()).collect();
    assert_eq!(dead, poison);
    assert_eq!(pipeline.told().await, ["\"10\""]);
}

#[tokio::test]
async fn what_is_sent_is_what_megaphone_expects() {
    let pipeline = Pipeline::new().await;
    Mock::given(method("PUT"))
        .and(path(BROADCASTS))
        .and(header("authorization", "Bearer hush"))
        .and(body_string("\"1795289972422\""))
        .respond_with(ResponseTemplate::new(201))
        .expect(1)
        .mount(&pipeline.megaphone)
        .await;
    pipeline
        .aggregate(&[changed(1, "one", 1_795_289_972_422)])
        .await;
    assert_eq!(pipeline.broadcast(&[TRIGGER]).await, [""; 0]);
}

#[tokio::test]
async fn a_megaphone_that_is_down_shows_in_the_heartbeat() {
    let pipeline = Pipeline::new().await;
    Mock::given(path("/__heartbeat__"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&pipeline.megaphone)
        .await;
    assert_eq!(
        pipeline.kinto.get("/__heartbeat__").await.body["megaphone"],
        true
    );
    assert!(pipeline.kinto.get("/").await.body["capabilities"]["megaphone"].is_object());
    pipeline.megaphone.reset().await;
    let beat = pipeline.kinto.get("/__heartbeat__").await;
    assert_eq!(
        (beat.status, &beat.body["megaphone"], &beat.body["storage"]),
        (503, &json!(false), &json!(true))
    );
}

#[tokio::test]
async fn a_message_that_keeps_failing_rests_among_the_dead_letters() {
    let redrive = Redrive {
        delay: Duration::from_millis(1),
        max_receive_count: 3,
    };
    let queue = kinto_local::queue::Queue::new(redrive);
    queue.send("mp", "mp-1", TRIGGER);
    let pipeline = Pipeline::new().await;
    let down = |_: &str, _: &[u8]| Some(Fault::error("ValidationException"));
    pipeline.kinto.aws.inject(down);
    let consumed = queue.clone().consume(move |event| {
        let broadcaster = pipeline.broadcaster.clone();
        async move { broadcaster.handle(event).await }
    });
    let dead = async {
        while queue.dead_letters().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = consumed => panic!("the queue ended"),
        () = dead => {}
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("the message is not dead after 10 seconds"),
    }
    assert_eq!(queue.dead_letters()[0].receive_count, 3);
}
