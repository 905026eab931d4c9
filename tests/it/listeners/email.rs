//! Emails.

use super::smtp::Smtp;
use super::{config, event, has, is_failed, is_gone, listeners, mailing, mails, tell};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_serverless::event::ResourceChanged;
use kinto_serverless::listeners::{Aws, NotifyError};

/// The result of notifying a listener `email` with these settings added.
async fn mail(
    smtp: &Smtp,
    more: &[(&str, &str)],
    event: &ResourceChanged,
) -> Result<(), NotifyError> {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let port = smtp.port.to_string();
    let mut settings = mailing(smtp, &port);
    settings.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    settings.extend(more.iter().copied());
    tell(&listeners("email", &settings, &aws).unwrap(), event).await
}

#[tokio::test]
async fn an_email_is_sent_by_starttls_as_the_user_to_all_recipients() {
    let smtp = Smtp::start(false, &[]).await;
    mail(&smtp, &[], &event(&["hello"])).await.unwrap();
    let heard = smtp.heard();
    let commands: Vec<_> = heard
        .iter()
        .take(7)
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        commands,
        ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "RCPT"]
    );
    assert!(has(
        &heard,
        &format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0ada\0hush"))
    ));
    assert!(has(&heard, "MAIL FROM:<kinto@example.org>"));
    assert!(has(&heard, "RCPT TO:<ops@example.org>") && has(&heard, "RCPT TO:<eve@example.org>"));
    let mail = &mails(&heard)[0];
    for line in [
        "From: Kinto <kinto@example.org>",
        "To: Ops <ops@example.org>, eve@example.org",
        "Subject: record created: /buckets/a/collections/b/records",
        "Message-ID: <6e56e6fa-2a70-4a1b-9ea4-7f9cb2d3ba1c.a@example.org>",
        "Auto-Submitted: auto-generated",
        "Content-Type: text/plain; charset=utf-8",
        "User id: account:ada",
        "/buckets/a/collections/b/records/r0",
    ] {
        assert!(has(mail, line), "{line} in {mail:#?}");
    }
}

#[tokio::test]
async fn an_email_is_sent_by_tls_from_the_start_or_without_tls() {
    let smtp = Smtp::start(true, &[]).await;
    mail(&smtp, &[("SMTP_TLS", "implicit")], &event(&[""]))
        .await
        .unwrap();
    assert_eq!(mails(&smtp.heard()).len(), 1);

    let smtp = Smtp::start(false, &[]).await;
    let settings = [("SMTP_TLS", "none"), ("USERNAME", ""), ("PASSWORD", "")];
    mail(&smtp, &settings, &event(&[""])).await.unwrap();
    let heard = smtp.heard();
    assert_eq!(mails(&heard).len(), 1);
    assert!(!has(&heard, "STARTTLS"));
}

#[tokio::test]
async fn a_mail_server_that_cannot_be_trusted_hears_no_password() {
    // Signed by an authority that the system does not trust; and by another than the settings name.
    let smtp = Smtp::start(false, &[]).await;
    let other = Smtp::start(false, &[]).await;
    for certificate in ["", &other.certificate] {
        let told = mail(
            &smtp,
            &[("SMTP_CA_CERTIFICATE", certificate)],
            &event(&[""]),
        )
        .await;
        assert!(is_failed(&told), "{told:?}");
        assert!(smtp.heard().ends_with(&["STARTTLS".to_owned()]));
    }
    // Its certificate is for another name.
    let told = mail(&smtp, &[("SMTP_HOST", "127.0.0.1")], &event(&[""])).await;
    assert!(is_failed(&told), "{told:?}");
    assert!(smtp.heard().ends_with(&["STARTTLS".to_owned()]));
    // STARTTLS was removed in transit.
    let smtp = Smtp::start(false, &[("EHLO", "250-localhost\r\n250 AUTH PLAIN LOGIN")]).await;
    let told = mail(&smtp, &[], &event(&[""])).await;
    assert!(is_failed(&told), "{told:?}");
    assert!(smtp.heard().iter().all(|line| !line.starts_with("AUTH")));
}

#[tokio::test]
async fn what_a_mail_server_answers_says_whether_a_repetition_helps() {
    for answers in [
        &[("AUTH", "535 Who are you?")],
        &[("MAIL", "550 Not from you")],
        &[("RCPT TO:<eve", "550 No such user")],
        &[(".", "554 Spam")],
    ] {
        let smtp = Smtp::start(false, answers).await;
        let told = mail(&smtp, &[], &event(&[""])).await;
        assert!(is_gone(&told), "{answers:?}: {told:?}");
    }
    for answers in [
        &[("EHLO", "421 Closing")],
        &[("STARTTLS", "454 Not now")],
        &[("AUTH", "454 Not now")],
        &[("RCPT", "450 Busy")],
        &[(
            ".",
            "454 Throttling failure: Maximum sending rate exceeded.",
        )],
        &[("DATA", "nonsense")],
    ] {
        let smtp = Smtp::start(false, answers).await;
        let told = mail(&smtp, &[], &event(&[""])).await;
        assert!(is_failed(&told), "{answers:?}: {told:?}");
    }
    let smtp = Smtp::start(false, &[]).await;
    let told = mail(&smtp, &[("SMTP_PORT", "1")], &event(&[""])).await;
    assert!(is_failed(&told), "{told:?}");
}

#[tokio::test]
async fn an_email_is_what_its_templates_make_of_the_event() {
    let smtp = Smtp::start(false, &[]).await;
    let templates = [
        ("SUBJECT", "{action} in {bucket_id} größer{record_id}"),
        ("BODY", "{{{timestamp}}}\n{impacted_records}\n"),
    ];
    mail(&smtp, &templates, &event(&["hello"])).await.unwrap();
    let mail = &mails(&smtp.heard())[0];
    let subject = format!(
        "Subject: create in a =?utf-8?b?{}?=",
        BASE64_STANDARD.encode("größer")
    );
    assert!(has(mail, &subject), "{mail:#?}");
    assert!(
        has(mail, "{9}") && has(mail, "      \"text\": \"hello\""),
        "{mail:#?}"
    );
}

#[tokio::test]
async fn nothing_that_a_client_chose_begins_a_header_or_ends_the_mail() {
    let smtp = Smtp::start(false, &[]).await;
    for end in ["\r\n", "\n", "\r"] {
        let chosen = format!(
            "ada{end}Bcc: mallory@example.org{end}{end}.{end}RCPT TO:<mallory@example.org>{end}"
        );
        let event = ResourceChanged {
            user_id: Some(chosen),
            ..event(&[""])
        };
        mail(
            &smtp,
            &[("SUBJECT", "{user_id}"), ("BODY", "{user_id}")],
            &event,
        )
        .await
        .unwrap();
        let heard = smtp.heard();
        assert!(
            heard
                .iter()
                .all(|line| !line.contains('\r') && !line.contains('\n'))
        );
        let recipients = heard.iter().take_while(|line| *line != "DATA");
        assert_eq!(
            recipients.filter(|line| line.starts_with("RCPT")).count(),
            2
        );
        let mails = mails(&heard);
        assert_eq!(mails.len(), 1);
        let headers: Vec<_> = mails[0]
            .iter()
            .take_while(|line| !line.is_empty())
            .collect();
        assert!(
            headers.iter().all(|line| !line.starts_with("Bcc")),
            "{headers:#?}"
        );
    }
}

#[tokio::test]
async fn an_email_is_no_longer_than_people_and_servers_take() {
    let smtp = Smtp::start(false, &[]).await;
    let event = ResourceChanged {
        uri: "/x".repeat(2000),
        ..event(&[&"x".repeat(1_000_000)])
    };
    let body = ("BODY", "{impacted_records}");
    mail(&smtp, &[("SUBJECT", "{uri}"), body], &event)
        .await
        .unwrap();
    let mail = &mails(&smtp.heard())[0];
    let size: usize = mail.iter().map(|line| line.len() + 2).sum();
    assert!(size < 200_000, "{size}");
    assert!(mail.iter().all(|line| line.len() <= 998));
}
