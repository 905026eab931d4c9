//! Signatures by Autograph, Mozilla's signing service, for those who run one.
//!
//! `POST {server}/sign/data` with Hawk; one request for each key. The service adds the prefix of the signed text itself.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, Url};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::signature::Signature;
use crate::hmac;
use crate::http_client;
use crate::settings::Secret;
use crate::timestamp::Timestamp;

/// How long a signature may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const MAX_BYTES: usize = 64 * 1024;
/// The fields of an answer that clients get beside signature and x5u.
const MORE: [&str; 5] = ["mode", "public_key", "type", "signer_id", "ref"];
const JSON: &str = "application/json";

/// Why it did not sign.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or does not answer in time.
    #[error("Autograph does not answer")]
    Request(#[from] reqwest::Error),
    /// It refused.
    #[error("Autograph answers {0}")]
    Refused(reqwest::StatusCode),
    /// It answered with something else than one signature.
    #[error("the answer of Autograph has no signature and x5u")]
    Answer,
}

/// A service with keys.
#[derive(Clone, Debug)]
pub struct Autograph {
    /// Where it is: an origin. A path makes no difference, as in Remote Settings.
    pub server: Url,
    /// The user's id.
    pub hawk_id: String,
    /// The user's key.
    pub hawk_secret: Secret,
    /// The keys to sign with.
    pub key_ids: Vec<String>,
    /// Made by the first signature: a process that publishes nothing needs none.
    client: OnceCell<Client>,
}

impl Autograph {
    /// A service at `server`, an origin, and the keys of it that sign for this user.
    pub fn new(server: Url, hawk_id: String, hawk_secret: Secret, key_ids: Vec<String>) -> Self {
        Self {
            server,
            hawk_id,
            hawk_secret,
            key_ids,
            client: OnceCell::new(),
        }
    }

    /// The client that sends all requests, each over a new connection: one that was idle while the function slept may be dead.
    async fn client(&self) -> Result<&Client, Error> {
        let build = async || {
            let builder = http_client::builder(TIMEOUT).timeout(TIMEOUT);
            builder.pool_max_idle_per_host(0).build()
        };
        Ok(self.client.get_or_try_init(build).await?)
    }

    /// The signature of a collection's text by one of the keys.
    ///
    /// # Errors
    /// It refuses or does not answer.
    pub async fn sign(&self, key_id: &str, text: &str) -> Result<Signature, Error> {
        let mut url = self.server.clone();
        url.set_path("/sign/data");
        url.set_query(None);
        let input = BASE64_STANDARD.encode(text);
        let body = json!([{"input": input, "keyid": key_id}]).to_string();
        let nonce = Uuid::new_v4().simple().to_string();
        let now = Timestamp::now().0 / 1000;
        let authorization = self.authorization(&url, &body, now, &nonce);
        let request = self
            .client()
            .await?
            .post(url)
            .header(CONTENT_TYPE, JSON)
            .body(body);
        let mut answer = request.header(AUTHORIZATION, authorization).send().await?;
        if !answer.status().is_success() {
            return Err(Error::Refused(answer.status()));
        }
        let body = http_client::body_up_to(&mut answer, MAX_BYTES).await?;
        body.and_then(|body| read(&body)).ok_or(Error::Answer)
    }

    /// The `Authorization` of Hawk: an HMAC of the request, its body included.
    ///
    /// <https://github.com/mozilla/hawk/blob/main/API.md>
    fn authorization(&self, url: &Url, body: &str, now: u64, nonce: &str) -> String {
        let payload = format!("hawk.1.payload\n{JSON}\n{body}\n");
        let hash = BASE64_STANDARD.encode(Sha256::digest(payload));
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        let path = url.path();
        let header =
            format!("hawk.1.header\n{now}\n{nonce}\nPOST\n{path}\n{host}\n{port}\n{hash}\n\n");
        let mac = hmac::sign(self.hawk_secret.as_bytes(), &header);
        let mac = BASE64_STANDARD.encode(mac);
        let id = &self.hawk_id;
        format!(r#"Hawk id="{id}", ts="{now}", nonce="{nonce}", hash="{hash}", mac="{mac}""#)
    }
}

/// The first signature of an answer.
fn read(bytes: &[u8]) -> Option<Signature> {
    let mut answer: Value = serde_json::from_slice(bytes).ok()?;
    let fields = answer.get_mut(0)?.as_object_mut()?;
    let text = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
    let (signature, x5u) = (text("signature")?, text("x5u")?);
    let more = MORE.iter().filter_map(|name| {
        let value = fields.get(*name)?;
        Some(((*name).to_owned(), value.clone()))
    });
    Some(Signature {
        signature,
        x5u,
        more: more.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_authorized_as_requests_hawk_does_it() {
        // requests-hawk 1.2.1 with mohawk 1.1.0, over the body that requests 2.34 makes.
        let body = r#"[{"input": "eyJkYXRhIjpbXSwibGFzdF9tb2RpZmllZCI6IjAifQ==", "keyid": "remote-settings"}]"#;
        for (server, mac) in [
            (
                "https://autograph.example.org/sign/data",
                "NXFUH99R3QS//CbDL/ybe6P7rUpXEo6vUAynE1u2MdU=",
            ),
            (
                "http://127.0.0.1:8000/sign/data",
                "KK0tZIo+ZdXl79GA3mfhZAzy2CsZ4X1sYhQzUHNUIVg=",
            ),
        ] {
            let url: Url = server.parse().unwrap();
            let secret = Secret::new("fs5wgcer9qj819kfptdlp8gm227ewxnzvsuj9ztycsx08hfhzu");
            let autograph = Autograph::new(url.clone(), "alice".to_owned(), secret, vec![]);
            let header = autograph.authorization(&url, body, 1_795_289_972, "j4h3g2");
            let hash = "xUGZ/Bz/RjAdRDwpBMaCKJggx1hGdZFraadTEHXMm6s=";
            assert_eq!(
                header,
                format!(
                    r#"Hawk id="alice", ts="1795289972", nonce="j4h3g2", hash="{hash}", mac="{mac}""#
                )
            );
        }
    }

    #[test]
    fn an_answer_has_a_signature_and_x5u_and_may_have_more() {
        let answer = br#"[{"ref": "r", "signature": "s", "x5u": "u", "mode": "m", "x": 1}]"#;
        let answer = read(answer).unwrap();
        assert_eq!((&*answer.signature, &*answer.x5u), ("s", "u"));
        assert_eq!(
            answer.more,
            *json!({"mode": "m", "ref": "r"}).as_object().unwrap()
        );
        for bad in [
            "",
            "[]",
            "{}",
            r#"[{"signature": "s"}]"#,
            r#"[{"x5u": "u"}]"#,
        ] {
            assert_eq!(read(bad.as_bytes()), None, "{bad}");
        }
    }
}
