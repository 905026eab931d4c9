//! SQS, `EventBridge` and Lambda.

use std::time::Duration;

use super::{
    FUNCTION, QUEUE, WEBHOOK_SECRET, answering, assert_tell_of_large, aws_error, event, header,
    is_failed, is_gone, large, listeners, ok, requests, tell,
};
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::NotifyError;
use serde_json::{Value, json};

#[tokio::test]
async fn sqs_gets_the_event_as_a_message() {
    let (server, aws) = answering(ok(json!({"MessageId": "m"}))).await;
    let queue = listeners("sqs", &[("QUEUE_URL", QUEUE)], &aws).unwrap();
    let event = event(&["hello"]);
    tell(&queue, &event).await.unwrap();
    let request = &requests(&server).await[0];
    assert_eq!(header(request, "x-amz-target"), "AmazonSQS.SendMessage");
    let expected = json!({"QueueUrl": QUEUE, "MessageBody": event.to_json()});
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
}

#[tokio::test]
async fn a_fifo_queue_gets_the_events_of_a_list_in_one_group_and_each_once() {
    let (server, aws) = answering(ok(json!({"MessageId": "m"}))).await;
    let url = format!("{QUEUE}.fifo");
    let queue = listeners("sqs", &[("QUEUE_URL", &url)], &aws).unwrap();
    let first = event(&["hello"]);
    let second = ResourceChanged {
        id: "second".to_owned(),
        ..first.clone()
    };
    let other = ResourceChanged {
        impacted_uris: vec!["/buckets/a/collections/c/records/r0".to_owned()],
        ..second.clone()
    };
    for event in [&first, &second, &other] {
        tell(&queue, event).await.unwrap();
    }
    let bodies = requests(&server).await;
    let bodies: Vec<Value> = bodies
        .iter()
        .map(|request| request.body_json().unwrap())
        .collect();
    let [group, same, another] = [0, 1, 2].map(|n| bodies[n]["MessageGroupId"].as_str().unwrap());
    assert!(group == same && group != another, "{group} {another}");
    assert_eq!(bodies[0]["MessageDeduplicationId"], first.id);
    assert_eq!(bodies[1]["MessageDeduplicationId"], "second");
}

#[tokio::test]
async fn what_is_too_large_for_sqs_comes_in_several_messages() {
    let (server, aws) = answering(ok(json!({"MessageId": "m"}))).await;
    let url = format!("{QUEUE}.fifo");
    let queue = listeners("sqs", &[("QUEUE_URL", &url)], &aws).unwrap();
    tell(&queue, &large()).await.unwrap();
    let sent = requests(&server).await;
    let sent: Vec<Value> = sent
        .iter()
        .map(|request| request.body_json().unwrap())
        .collect();
    let bodies: Vec<_> = sent
        .iter()
        .map(|body| body["MessageBody"].as_str().unwrap())
        .collect();
    assert_tell_of_large(&bodies, 1024 * 1024);
    for message in &sent {
        let event: Value = serde_json::from_str(message["MessageBody"].as_str().unwrap()).unwrap();
        assert_eq!(message["MessageDeduplicationId"], event["id"]);
    }
}

#[tokio::test]
async fn eventbridge_gets_the_event_as_the_detail_of_one_that_rules_can_match() {
    let (server, aws) = answering(ok(
        json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}),
    ))
    .await;
    let bus = listeners("eventbridge", &[("BUS", "kinto")], &aws).unwrap();
    let event = event(&["hello"]);
    tell(&bus, &event).await.unwrap();
    let request = &requests(&server).await[0];
    assert_eq!(header(request, "x-amz-target"), "AWSEvents.PutEvents");
    let expected = json!({"Entries": [{
        "EventBusName": "kinto", "Source": "kinto", "DetailType": "ResourceChanged", "Detail": event.to_json(),
        "Resources": [event.uri], "Time": 1_700_000_000,
    }]});
    assert_eq!(request.body_json::<Value>().unwrap(), expected);
}

#[tokio::test]
async fn what_is_too_large_for_eventbridge_comes_in_several_events() {
    let (server, aws) = answering(ok(
        json!({"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]}),
    ))
    .await;
    let bus = listeners("eventbridge", &[("BUS", "kinto")], &aws).unwrap();
    tell(&bus, &large()).await.unwrap();
    let sent = requests(&server).await;
    let sent: Vec<Value> = sent
        .iter()
        .map(|request| request.body_json().unwrap())
        .collect();
    let details: Vec<_> = sent
        .iter()
        .map(|body| body["Entries"][0]["Detail"].as_str().unwrap())
        .collect();
    assert_tell_of_large(&details, 1_000_000);
}

#[tokio::test]
async fn an_entry_that_eventbridge_does_not_take_is_not_told() {
    for (code, gone) in [
        ("ThrottlingException", false),
        ("InternalFailure", false),
        ("InternalException", false),
        ("MalformedDetail", true),
        ("AccessDeniedException", true),
    ] {
        let entry = json!({"ErrorCode": code, "ErrorMessage": "no"});
        let (_server, aws) =
            answering(ok(json!({"FailedEntryCount": 1, "Entries": [entry]}))).await;
        let bus = listeners("eventbridge", &[("BUS", "kinto")], &aws).unwrap();
        let told = tell(&bus, &event(&["hello"])).await;
        assert!(told.as_ref().unwrap_err().to_string().contains(code));
        assert_eq!((is_gone(&told), is_failed(&told)), (gone, !gone), "{code}");
    }
}

#[tokio::test]
async fn a_function_is_called_with_the_event_and_waited_for() {
    let (server, aws) = answering(ok(Value::Null)).await;
    let function = listeners("lambda", &[("FUNCTION", FUNCTION)], &aws).unwrap();
    let event = event(&["hello"]);
    tell(&function, &event).await.unwrap();
    let request = &requests(&server).await[0];
    let name = FUNCTION.replace(':', "%3A");
    assert_eq!(
        request.url.path(),
        format!("/2015-03-31/functions/{name}/invocations")
    );
    assert!(matches!(
        header(request, "x-amz-invocation-type"),
        "" | "RequestResponse"
    ));
    assert_eq!(request.body_json::<ResourceChanged>().unwrap(), event);
}

#[tokio::test]
async fn what_is_too_large_for_a_function_is_named() {
    let (server, aws) = answering(ok(Value::Null)).await;
    let function = listeners("lambda", &[("FUNCTION", FUNCTION)], &aws).unwrap();
    let event = event(&[&"x".repeat(6_000_000)]);
    tell(&function, &event).await.unwrap();
    let told: ResourceChanged = requests(&server).await[0].body_json().unwrap();
    assert_eq!(told, event.truncated());
}

#[tokio::test]
async fn a_function_that_fails_is_not_told_and_one_that_refuses_says_so() {
    let failed =
        ok(json!({"errorMessage": "oops"})).insert_header("x-amz-function-error", "Unhandled");
    let (_server, aws) = answering(failed).await;
    let settings = [("FUNCTION", FUNCTION)];
    let told = tell(
        &listeners("lambda", &settings, &aws).unwrap(),
        &event(&[""]),
    )
    .await;
    assert!(is_failed(&told), "{told:?}");

    let refusal = json!({"refused": {"status": 409, "message": "Not today"}});
    let (_server, aws) = answering(ok(refusal)).await;
    let told = tell(
        &listeners("lambda", &settings, &aws).unwrap(),
        &event(&[""]),
    )
    .await;
    let message = "Not today".to_owned();
    assert_eq!(
        told,
        Err(NotifyError::Refused {
            status: 409,
            message
        })
    );
}

/// The listeners that call AWS, with their required settings.
const OF_AWS: [(&str, (&str, &str)); 3] = [
    ("sqs", ("QUEUE_URL", QUEUE)),
    ("eventbridge", ("BUS", "kinto")),
    ("lambda", ("FUNCTION", FUNCTION)),
];

#[tokio::test]
async fn what_aws_cannot_do_now_is_told_apart_from_what_it_will_never_do() {
    for (code, setting) in OF_AWS {
        for (status, error, gone) in [
            (400, "ThrottlingException", false),
            (400, "RequestThrottled", false),
            (400, "KmsThrottled", false),
            (429, "TooManyRequestsException", false),
            (409, "ResourceConflictException", false),
            (500, "InternalFailure", false),
            (503, "ServiceUnavailable", false),
            (403, "AccessDeniedException", true),
            (404, "ResourceNotFoundException", true),
            (400, "QueueDoesNotExist", true),
            (413, "RequestTooLargeException", true),
        ] {
            let (_server, aws) = answering(aws_error(status, error)).await;
            let told = tell(&listeners(code, &[setting], &aws).unwrap(), &event(&[""])).await;
            assert_eq!(
                (is_gone(&told), is_failed(&told)),
                (gone, !gone),
                "{code} {error}: {told:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_function_with_too_many_calls_is_called_again_and_then_left_alone_as_long_as_it_says() {
    let answer = aws_error(429, "TooManyRequestsException").insert_header("retry-after", "7");
    let (server, aws) = answering(answer).await;
    let told = tell(
        &listeners("lambda", &[("FUNCTION", FUNCTION)], &aws).unwrap(),
        &event(&[""]),
    )
    .await;
    let Err(NotifyError::Failed { retry_after, .. }) = told else {
        panic!("{told:?}");
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
    assert!(requests(&server).await.len() > 1);
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_not_told() {
    let (server, aws) = answering(ok(json!({})).set_delay(Duration::from_secs(30))).await;
    let url = server.uri();
    let webhook = [("URL", &*url), ("SECRET", WEBHOOK_SECRET)];
    let seconds = ("TIMEOUT_SECONDS", "3");
    let mut kinds: Vec<_> = OF_AWS
        .iter()
        .map(|(code, setting)| (*code, vec![*setting, seconds]))
        .collect();
    kinds.push(("webhook", [&webhook[..], &[seconds]].concat()));
    let told = kinds.into_iter().map(async |(code, settings)| {
        let listeners = listeners(code, &settings, &aws).unwrap();
        (code, tell(&listeners, &event(&[""])).await)
    });
    for (code, told) in futures::future::join_all(told).await {
        let Err(NotifyError::Failed { message, .. }) = told else {
            panic!("{code}: {told:?}");
        };
        assert_eq!(message, "no answer within 3s", "{code}");
    }
    // A slow function is called only once.
    let calls = requests(&server).await;
    let calls = calls
        .iter()
        .filter(|request| request.url.path().ends_with("/invocations"));
    assert_eq!(calls.count(), 1);
}
