//! Listeners with missing or invalid settings.

use super::{WEBHOOK_SECRET, config, listeners};
use kinto_serverless::listeners::Aws;

#[tokio::test]
async fn a_setting_that_is_missing_or_wrong_is_named() {
    let aws = Aws::new(&config("http://127.0.0.1:1").await);
    let webhook = [("URL", "http://localhost"), ("SECRET", WEBHOOK_SECRET)];
    let email = [
        ("SMTP_HOST", "localhost"),
        ("SENDER", "kinto@example.org"),
        ("RECIPIENTS", "ops@example.org"),
    ];
    for (code, fixed, setting, value) in [
        ("nobody", &[][..], "USE", "nobody"),
        ("sqs", &[], "QUEUE_URL", ""),
        ("eventbridge", &[], "BUS", ""),
        ("lambda", &[], "FUNCTION", ""),
        ("webhook", &webhook, "URL", ""),
        ("webhook", &webhook, "URL", "ftp://localhost"),
        ("webhook", &webhook, "SECRET", ""),
        ("webhook", &webhook, "SECRET", "short"),
        ("webhook", &webhook, "SECRET", "whsec_MfKQ9r8GKYqr"),
        (
            "webhook",
            &webhook,
            "SECRET",
            "whsec_!MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ),
        ("email", &email, "SMTP_HOST", ""),
        ("email", &email, "SMTP_PORT", "66000"),
        ("email", &email, "SMTP_TLS", "maybe"),
        ("email", &email, "SMTP_CA_CERTIFICATE", "none"),
        (
            "email",
            &email,
            "SMTP_CA_CERTIFICATE",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ),
        ("email", &email, "SENDER", ""),
        ("email", &email, "SENDER", "kinto"),
        ("email", &email, "RECIPIENTS", ""),
        ("email", &email, "RECIPIENTS", ","),
        ("email", &email, "RECIPIENTS", "ops@example.org, nobody"),
        ("email", &email, "SUBJECT", "{events}"),
        ("email", &email, "BODY", "{"),
    ] {
        let settings: Vec<_> = [(setting, value)]
            .into_iter()
            .chain(fixed.iter().copied().filter(|(name, _)| *name != setting))
            .collect();
        let error = listeners(code, &settings, &aws).unwrap_err();
        assert_eq!(
            error.variable,
            format!("KINTO_EVENT_LISTENERS_A_{setting}"),
            "{code}: {value}"
        );
    }
    for (given, named) in [
        (&[("USERNAME", "ada")][..], "PASSWORD"),
        (&[("PASSWORD", "hush")], "USERNAME"),
        (
            &[
                ("USERNAME", "ada"),
                ("PASSWORD", "hush"),
                ("SMTP_TLS", "none"),
            ],
            "PASSWORD",
        ),
    ] {
        let error = listeners("email", &[&email, given].concat(), &aws).unwrap_err();
        assert_eq!(error.variable, format!("KINTO_EVENT_LISTENERS_A_{named}"));
        assert!(!error.to_string().contains("hush"));
    }
}
