//! The example of a custom listener: a mail about each new bucket.

use std::time::Duration;

use super::smtp::Smtp;
use super::{bucket_mail, config, event, has, mailing, mails, tell, with_custom};
use kinto_local::{LocalAws, Options, Stack};
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Aws, ListenerFactory};
use kinto_serverless::settings::Vars;

#[tokio::test]
async fn the_example_sends_an_email_about_new_buckets() {
    let smtp = Smtp::start(false, &[]).await;
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let port = smtp.port.to_string();
    let mut settings = mailing(&smtp, &port);
    settings.extend([("ACTIONS", "create"), ("RESOURCES", "bucket")]);
    let custom: [(&str, ListenerFactory); 1] = [("bucket_mail", bucket_mail::build)];
    let listeners = with_custom("bucket_mail", &settings, &aws, &custom).unwrap();
    tell(&listeners, &event(&[""])).await.unwrap();
    assert_eq!(smtp.heard(), [""; 0]);
    let bucket = ResourceChanged {
        resource_name: "bucket".to_owned(),
        impacted_uris: vec!["/buckets/r0".to_owned()],
        ..event(&[""])
    };
    tell(&listeners, &bucket).await.unwrap();
    let mail = &mails(&smtp.heard())[0];
    assert!(has(mail, "Subject: New in Kinto: r0"), "{mail:#?}");
    assert!(
        has(mail, "account:ada created") && has(mail, "/buckets/r0"),
        "{mail:#?}"
    );
}

/// A local stack with the example's listener, notified before or after the commit.
async fn stack_with_example(smtp: &Smtp, synchronous: &str) -> Stack {
    let port = smtp.port.to_string();
    let mut settings = mailing(smtp, &port);
    settings.extend([
        ("USE", "bucket_mail"),
        ("ACTIONS", "create"),
        ("RESOURCES", "bucket"),
        ("SYNCHRONOUS", synchronous),
    ]);
    let settings = settings.into_iter();
    let mut vars: Vars = settings
        .map(|(name, value)| (format!("KINTO_EVENT_LISTENERS_A_{name}"), value))
        .collect();
    vars.set_default("KINTO_EVENT_LISTENERS", "a");
    let options = Options::default();
    let aws = LocalAws::sqlite().unwrap();
    let custom = &[("bucket_mail", bucket_mail::build as ListenerFactory)];
    Stack::over(aws, &options, vars, custom).await.unwrap()
}

/// Creates a bucket; returns the status.
async fn create_bucket(stack: &Stack, id: &str) -> u16 {
    let url = format!("{}buckets/{id}", stack.url());
    let request = reqwest::Client::new().put(url).basic_auth("ada", Some(""));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_example_mails_after_the_commit_in_a_stack() {
    let smtp = Smtp::start(false, &[]).await;
    let stack = stack_with_example(&smtp, "false").await;
    assert_eq!(create_bucket(&stack, "blog").await, 201);
    let mut heard = vec![];
    let mailed = async {
        while !heard.contains(&".".to_owned()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            heard.extend(smtp.heard());
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), mailed).await;
    in_time.unwrap();
    assert!(has(&mails(&heard)[0], "Subject: New in Kinto: blog"));
}

#[tokio::test]
async fn the_example_mails_before_the_commit_in_a_stack_and_without_a_mail_there_is_no_bucket() {
    let smtp = Smtp::start(false, &[]).await;
    let stack = stack_with_example(&smtp, "true").await;
    assert_eq!(create_bucket(&stack, "blog").await, 201);
    assert!(has(&mails(&smtp.heard())[0], "Subject: New in Kinto: blog"));

    let broken = Smtp::start(false, &[("MAIL", "451 later")]).await;
    let stack = stack_with_example(&broken, "true").await;
    assert_eq!(create_bucket(&stack, "blog").await, 503);
    let url = format!("{}buckets/blog", stack.url());
    let request = reqwest::Client::new().get(url).basic_auth("ada", Some(""));
    assert_eq!(request.send().await.unwrap().status().as_u16(), 403);
}
