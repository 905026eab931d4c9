//! Kinto's tutorial "How to run custom code on notifications?": a stack with a custom listener, which sends mails about
//! new buckets.
//!
//! ```sh
//! python3 -m aiosmtpd -n -l localhost:1025 # shows the mails
//! cargo run -p kinto-local --example bucket_mail
//! curl -u user:password -X PUT http://localhost:8888/v1/buckets/blog
//! ```

mod listener;

use std::error::Error;

use kinto_local::{LocalAws, Options, Stack};
use kinto_serverless::settings::Vars;

/// The listener's settings, as in the tutorial; environment variables take precedence.
const SETTINGS: [(&str, &str); 9] = [
    ("KINTO_EVENT_LISTENERS", "send_email"),
    ("KINTO_EVENT_LISTENERS_SEND_EMAIL_USE", "bucket_mail"),
    ("KINTO_EVENT_LISTENERS_SEND_EMAIL_ACTIONS", "create"),
    ("KINTO_EVENT_LISTENERS_SEND_EMAIL_RESOURCES", "bucket"),
    ("KINTO_EVENT_LISTENERS_SEND_EMAIL_SMTP_HOST", "localhost"),
    ("KINTO_EVENT_LISTENERS_SEND_EMAIL_SMTP_PORT", "1025"),
    ("KINTO_EVENT_LISTENERS_SEND_EMAIL_SMTP_TLS", "none"),
    (
        "KINTO_EVENT_LISTENERS_SEND_EMAIL_SENDER",
        "postmaster@localhost",
    ),
    (
        "KINTO_EVENT_LISTENERS_SEND_EMAIL_RECIPIENTS",
        "kinto@yopmail.com",
    ),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut vars = Vars::from_env();
    for (name, value) in SETTINGS {
        vars.set_default(name, value);
    }
    let options = Options {
        port: 8888,
        aws_port: 8889,
        ..Options::default()
    };
    let custom = &[("bucket_mail", listener::build as _)];
    let stack = Stack::over(LocalAws::memory(), &options, vars, custom).await?;
    println!("listening on {}", stack.url());
    tokio::signal::ctrl_c().await?;
    stack.stop().await;
    Ok(())
}
