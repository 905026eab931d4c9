//! Who asks: Basic authentication, as Kinto does it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::AUTHORIZATION;
use sha2::Sha256;

use super::request::Request;
use crate::permission::{AUTHENTICATED, EVERYONE};
use crate::settings::{ApiSettings, Secret};
use crate::unit_of_work::UnitOfWork;

/// What a request says of who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user id; `None` of nobody.
    user_id: Option<String>,
}

impl Credentials {
    /// Those of a request. What is missing or cannot be read makes nobody, not an error.
    pub fn of(request: &Request, settings: &ApiSettings) -> Self {
        let basic = request.header(AUTHORIZATION).and_then(basic_credentials);
        let user_id = basic.map(|credentials| {
            let digest = hmac(&settings.userid_hmac_secret, &credentials);
            format!("basicauth:{}", hex(&digest))
        });
        Self { user_id }
    }

    /// The user ids that they may stand for.
    pub fn user_ids(&self) -> impl Iterator<Item = &str> {
        self.user_id.iter().map(String::as_str)
    }

    /// The principals of the user that groups may have as members.
    pub fn principals_in_groups(&self) -> impl Iterator<Item = String> + '_ {
        let user_id = self.user_id.iter();
        user_id.flat_map(|id| [id.clone(), AUTHENTICATED.to_owned()])
    }
}

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id; `None` for who is not authenticated.
    pub id: Option<String>,
    /// Everything that permissions can be granted to and that this user is.
    pub principals: Vec<String>,
}

impl User {
    /// Who has these credentials, in the groups that `unit` has read.
    pub fn of(credentials: &Credentials, unit: &UnitOfWork) -> Self {
        let Some(id) = &credentials.user_id else {
            return Self {
                id: None,
                principals: vec![EVERYONE.to_owned()],
            };
        };
        let mut principals = vec![id.clone(), EVERYONE.to_owned()];
        for member in credentials.principals_in_groups() {
            principals.extend(unit.groups_of(&member));
        }
        principals.push(AUTHENTICATED.to_owned());
        Self {
            id: Some(id.clone()),
            principals,
        }
    }

    /// The principal that owns what this user creates.
    pub fn principal(&self) -> &str {
        self.id.as_deref().unwrap_or(EVERYONE)
    }
}

/// `user:password` of a `Basic` header; `None` when it is another scheme, malformed, or the user is empty.
fn basic_credentials(header: &str) -> Option<String> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    // As Pyramid: UTF-8, else Latin-1, in which every byte is a character.
    let text = String::from_utf8(decoded)
        .unwrap_or_else(|e| e.into_bytes().into_iter().map(char::from).collect());
    let (user, _) = text.split_once(':')?;
    (!user.is_empty()).then_some(text)
}

/// HMAC-SHA256 of `message`.
pub fn hmac(key: &Secret, message: &str) -> [u8; 32] {
    // HMAC takes a key of any length: this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.reveal().as_bytes()) else {
        return [0; 32];
    };
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().into()
}

/// The bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_id_is_the_one_that_kinto_computes() {
        // Answered by Kinto 26.5.0 with `userid_hmac_secret = s3cret` to `curl -u a:b`.
        let credentials = basic_credentials("Basic YTpi").unwrap();
        assert_eq!(
            hex(&hmac(&Secret::new("s3cret"), &credentials)),
            "ea9e08d8cae10602e265b0c84235330f9b0286c69abcf7a1877f2dc939b115f8"
        );
    }

    #[test]
    fn what_is_no_basic_credential_makes_nobody() {
        for header in [
            "",
            "Basic",
            "Basic zzz",
            "Bearer YTpi",
            "Basic OmI=",
            "Basic YQ==",
        ] {
            assert_eq!(basic_credentials(header), None, "{header}");
        }
        assert_eq!(basic_credentials("basic YTo=").as_deref(), Some("a:"));
    }
}
