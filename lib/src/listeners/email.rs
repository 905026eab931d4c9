//! `email`: sends a mail for each event.
//!
//! | setting | |
//! | --- | --- |
//! | `…smtp_host` | the server, e.g. `email-smtp.eu-central-1.amazonaws.com` (SES); required |
//! | `…smtp_port` | its port: 587, or 465 when TLS is implicit; Lambda blocks 25 |
//! | `…smtp_tls` | `starttls`; or `implicit`, or `none` |
//! | `…smtp_ca_certificate` | PEM: the authority that signs the server's certificate, instead of the public ones |
//! | `…username`, `…password` | the credentials at the server; both or neither, and not without TLS |
//! | `…sender` | an address, e.g. `Kinto <kinto@example.org>`; required |
//! | `…recipients` | addresses between commas, or between spaces when they have no names; required |
//! | `…subject`, `…body` | templates; [`SUBJECT`] and [`BODY`] |
//!
//! A template is text with fields of the event in braces, e.g. `{action}`: [`FIELDS`], and the ids in the request's
//! path: `{bucket_id}`, `{group_id}`, `{collection_id}`, `{record_id}`, `{account_id}`. A field that the event lacks is
//! empty. `{{` and `}}` stand for braces.
//!
//! One mail goes to all recipients; if the server refuses one of them, it fails for all. A mail that is sent again has
//! the same `Message-ID`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::{SUBMISSION_PORT, SUBMISSIONS_PORT};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use serde_json::Value;

use super::{Listener, ListenerContext, NotifyError};
use crate::event::ResourceChanged;
use crate::resource::Kind;
use crate::settings::SettingError;

/// The default of `…subject`.
pub const SUBJECT: &str = "{resource_name} {action}d: {uri}";
/// The default of `…body`. Readers of a mail are not checked for permission, so it holds no data of objects.
pub const BODY: &str = "User id: {user_id}\nDate: {date}\n\n{impacted_uris}\n";
/// The fields of an event that a template may name. `impacted_uris` is one line for each object, `impacted_records` the
/// objects before and after, as JSON.
pub const FIELDS: [&str; 13] = [
    "id",
    "timestamp",
    "action",
    "uri",
    "user_id",
    "resource_name",
    "date",
    "impacted_records",
    "impacted_uris",
    // Of reviews.
    "event",
    "comment",
    "changes_count",
    "changes_size_bytes",
];

/// The most bytes in a subject; a longer one is truncated. A line of a mail has 998 (RFC 5322).
const MAX_SUBJECT: usize = 250;
/// The most bytes in a body; a longer one is truncated. Servers accept far more, but nobody reads it.
const MAX_BODY: usize = 100 * 1024;

/// A listener that sends mails.
#[derive(Debug)]
struct Email {
    mailer: Mailer,
    subject: Template,
    body: Template,
}

/// Builds the listener.
///
/// # Errors
/// Those of [`Mailer::new`]; a template with an unknown placeholder.
pub fn build(context: ListenerContext<'_>) -> Result<Arc<dyn Listener>, SettingError> {
    let template = |setting, usual| {
        let template = Template::parse(context.get(setting).unwrap_or(usual));
        template.map_err(|problem| context.wrong(setting, problem.to_string()))
    };
    Ok(Arc::new(Email {
        mailer: Mailer::new(context)?,
        subject: template("SUBJECT", SUBJECT)?,
        body: template("BODY", BODY)?,
    }))
}

impl Listener for Email {
    fn notify<'a>(&'a self, event: &'a ResourceChanged) -> BoxFuture<'a, Result<(), NotifyError>> {
        Box::pin(async move {
            let fields = serde_json::to_value(event).map_err(NotifyError::failed)?;
            let (subject, body) = (self.subject.fill(&fields), self.body.fill(&fields));
            self.mailer.send(event, &subject, &body).await
        })
    }
}

/// Sends mails from the sender to the recipients of a listener's settings, each on a new connection: one that was idle
/// while the function slept may be dead.
#[derive(Debug)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    listener: String,
    sender: Mailbox,
    recipients: Vec<Mailbox>,
}

impl Mailer {
    /// A mailer with the settings of the module's table, except the templates. Does not connect yet.
    ///
    /// # Errors
    /// Names the missing or invalid setting.
    pub fn new(context: ListenerContext<'_>) -> Result<Self, SettingError> {
        let host = context.require("SMTP_HOST")?;
        let (tls, usual_port) = match context.get("SMTP_TLS").unwrap_or("starttls") {
            "starttls" => (Tls::Required(tls(context, host)?), SUBMISSION_PORT),
            "implicit" => (Tls::Wrapper(tls(context, host)?), SUBMISSIONS_PORT),
            "none" => (Tls::None, SUBMISSION_PORT),
            _ => return Err(context.wrong("SMTP_TLS", "must be `starttls`, `implicit` or `none`")),
        };
        let has_tls = !matches!(tls, Tls::None);
        let port = context.get("SMTP_PORT").map_or(Ok(usual_port), str::parse);
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(port.map_err(|_| context.wrong("SMTP_PORT", "must be a port"))?)
            .timeout(Some(Duration::from_secs(3)))
            .tls(tls);
        match (context.text("USERNAME"), context.text("PASSWORD")) {
            (None, None) => {}
            (Some(_), Some(_)) if !has_tls => {
                return Err(context.wrong("PASSWORD", "is not sent without TLS"));
            }
            (Some(username), Some(password)) => {
                let credentials = Credentials::new(username.to_owned(), password.to_owned());
                transport = transport.credentials(credentials);
            }
            (Some(_), None) => {
                return Err(context.wrong("PASSWORD", "is required with a user name"));
            }
            (None, Some(_)) => return Err(context.wrong("USERNAME", "is required with a password")),
        }
        let sender = context.require("SENDER")?.parse();
        let recipients = mailboxes(context.require("RECIPIENTS")?);
        Ok(Self {
            transport: transport.build(),
            listener: context.settings.name.clone(),
            sender: sender.map_err(|_| context.wrong("SENDER", "must be an e-mail address"))?,
            recipients: recipients.ok_or_else(|| {
                context.wrong("RECIPIENTS", "must be e-mail addresses between commas")
            })?,
        })
    }

    /// Sends a mail about an event. Truncates what is too long.
    ///
    /// # Errors
    /// [`NotifyError::Unauthorized`] if the server refuses our name and password; [`NotifyError::Permanent`] if it will never
    /// accept the mail (other 5xx); [`NotifyError::Failed`] if it cannot accept it now (4xx), or could not be reached.
    pub async fn send(
        &self,
        event: &ResourceChanged,
        subject: &str,
        body: &str,
    ) -> Result<(), NotifyError> {
        // Text chosen by clients must not begin another header, nor end a line other than as lines of mails end.
        let subject = subject.replace(char::is_control, " ");
        let body = body.replace('\r', "");
        let domain = self.sender.email.domain();
        // Listeners that are notified of the same event send different mails.
        let id = format!("<{}.{}@{domain}>", event.id, self.listener);
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mut message = Message::builder()
            .from(self.sender.clone())
            .subject(cut(&subject, MAX_SUBJECT))
            .message_id(Some(id))
            .header(ContentType::TEXT_PLAIN)
            // Suppresses out-of-office replies (RFC 3834).
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
        for recipient in &self.recipients {
            message = message.to(recipient.clone());
        }
        let message = message.body(cut(&body, MAX_BODY));
        let message = message.map_err(|error| NotifyError::Permanent(error.to_string()))?;
        let sent = self.transport.send(message).await;
        sent.map(drop).map_err(|error| NotifyError::of_smtp(&error))
    }
}

fn tls(context: ListenerContext<'_>, host: &str) -> Result<TlsParameters, SettingError> {
    let tls = TlsParameters::builder(host.to_owned());
    let Some(pem) = context.text("SMTP_CA_CERTIFICATE") else {
        let problem = |error| format!("cannot be set up: {error}");
        let tls = tls.build();
        return tls.map_err(|error| context.wrong("SMTP_TLS", problem(error)));
    };
    let wrong = || context.wrong("SMTP_CA_CERTIFICATE", "must be a certificate, as PEM");
    let certificate = Certificate::from_pem(pem.as_bytes()).ok();
    // PEM without a certificate is parsed as no certificate, without an error.
    let certificate = certificate.filter(|_| pem.contains("-----BEGIN CERTIFICATE-----"));
    tls.certificate_store(CertificateStore::None)
        .add_root_certificate(certificate.ok_or_else(wrong)?)
        .build()
        .map_err(|_| wrong())
}

/// One address or more, between commas; also between spaces, if they have no names.
fn mailboxes(text: &str) -> Option<Vec<Mailbox>> {
    let between_commas = text.split(',').filter(|part| !part.trim().is_empty());
    let addresses = between_commas.flat_map(|part| match part.contains('<') {
        true => vec![part],
        false => part.split_whitespace().collect(),
    });
    let mailboxes: Option<Vec<_>> = addresses.map(|address| address.parse().ok()).collect();
    mailboxes.filter(|all| !all.is_empty())
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!(
        "{}…",
        &text[..text.floor_char_boundary(most - '…'.len_utf8())]
    )
}

/// A template cannot be used.
#[derive(Debug, thiserror::Error)]
enum TemplateError {
    #[error("has a brace alone; `{{{{` and `}}}}` stand for one")]
    LoneBrace,
    #[error("`{{{0}}}` is no placeholder that there is")]
    UnknownField(String),
}

/// Text with placeholders.
#[derive(Debug, PartialEq, Eq)]
struct Template(Vec<TemplatePart>);

#[derive(Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Field(String),
}

impl Template {
    /// Parses a template.
    fn parse(template: &str) -> Result<Self, TemplateError> {
        let mut pieces = vec![];
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (text, from) = rest.split_at(at);
            pieces.push(TemplatePart::Text(text.to_owned()));
            let doubled = ["{{", "}}"].into_iter().find(|two| from.starts_with(two));
            rest = if let Some(two) = doubled {
                pieces.push(TemplatePart::Text(two[1..].to_owned()));
                &from[2..]
            } else {
                let field = from.strip_prefix('{').and_then(|from| from.split_once('}'));
                let (name, rest) = field.ok_or(TemplateError::LoneBrace)?;
                if !is_field(name) {
                    return Err(TemplateError::UnknownField(name.to_owned()));
                }
                pieces.push(TemplatePart::Field(name.to_owned()));
                rest
            };
        }
        pieces.push(TemplatePart::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// The text, with the fields of an event filled in.
    fn fill(&self, event: &Value) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            TemplatePart::Text(text) => text.clone(),
            TemplatePart::Field(name) => text_of(&event[name]),
        });
        pieces.collect()
    }
}

fn is_field(name: &str) -> bool {
    let is_id = |kind: &Kind| name.strip_suffix("_id") == Some(kind.name());
    FIELDS.contains(&name) || Kind::ALL.iter().any(is_id)
}

/// A field as text: a string as it is, several strings on lines of their own, anything else as JSON.
fn text_of(field: &Value) -> String {
    match field {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(several) if several.iter().all(Value::is_string) => {
            let lines: Vec<_> = several.iter().filter_map(Value::as_str).collect();
            lines.join("\n")
        }
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_is_filled_with_the_fields_of_the_event() {
        let event = json!({
            "action": "create", "user_id": null, "timestamp": 9, "bucket_id": "{id}",
            "impacted_uris": ["/buckets/a", "/buckets/b"], "impacted_records": [{"new": {"id": "a"}}],
        });
        let fill = |template| Template::parse(template).unwrap().fill(&event);
        assert_eq!(fill("{action}d {{{timestamp}}}"), "created {9}");
        assert_eq!(fill("{user_id}-{bucket_id}-{record_id}"), "-{id}-");
        assert_eq!(fill("{impacted_uris}"), "/buckets/a\n/buckets/b");
        assert!(fill("{impacted_records}").contains("\"id\": \"a\""));
        for usual in [SUBJECT, BODY] {
            assert!(!fill(usual).contains('{'), "{usual}");
        }
    }

    #[test]
    fn a_placeholder_that_is_none_or_a_brace_alone_is_told() {
        for wrong in [
            "{events}",
            "{",
            "}",
            "{action",
            "action}",
            "{}",
            "{{}",
            "{ action }",
        ] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_between_commas_or_spaces() {
        let read = |text| {
            let names = |all: Vec<Mailbox>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
            mailboxes(text).map(names)
        };
        let text = "Ops Team <ops@example.org>, a@example.org b@example.org,";
        let expected = [
            "Ops Team <ops@example.org>",
            "a@example.org",
            "b@example.org",
        ];
        assert_eq!(read(text).unwrap(), expected);
        for wrong in [
            "",
            ",",
            "ops",
            "Ops <ops@example.org> a@example.org",
            "<a@example.org\r\nBcc: b@example.org>",
        ] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(cut("äöü", 6), "äöü");
        assert_eq!(cut("äöüß", 6), "ä…");
    }
}
