//! Who asks: what a request says of it (`Authorization`), and what is true of that.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::AUTHORIZATION;
use sha2::Sha256;

use super::accounts;
use super::error::ApiError;
use super::openid::provider::Provider;
use super::passwords::Passwords;
use super::request::Request;
use crate::permission::{AUTHENTICATED, EVERYONE};
use crate::resource::ObjectUri;
use crate::settings::{ApiSettings, Policy, Secret};
use crate::unit_of_work::{Exhausted, Needs, UnitOfWork};

/// What a request says of who sends it: the users that it may be from, the first that it can prove to be.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Vec<Claim>);

/// A user that a request says to be from.
#[derive(Clone, Debug)]
struct Claim {
    user_id: String,
    /// What is left to be checked; nothing when the request has proved it by itself.
    account: Option<AccountClaim>,
}

/// An account and what is to be its password.
#[derive(Clone, Debug)]
struct AccountClaim {
    uri: ObjectUri,
    password: Secret,
}

impl Credentials {
    /// Those of a request. What is missing or cannot be read makes nobody, not an error.
    ///
    /// # Errors
    /// A provider that has to be asked cannot be.
    pub async fn of(
        request: &Request,
        settings: &ApiSettings,
        providers: &[Provider],
    ) -> Result<Self, ApiError> {
        let Some(header) = request.header(AUTHORIZATION) else {
            return Ok(Self::default());
        };
        let basic = BasicCredentials::parse(header);
        let mut providers = providers.iter();
        let mut claims = vec![];
        for policy in &settings.policies {
            claims.extend(match policy {
                Policy::Basic { name } => basic.as_ref().map(|basic| {
                    let credentials = format!("{}:{}", basic.user, basic.password);
                    let digest = hmac(&settings.userid_hmac_secret, &credentials);
                    Claim::proved(format!("{name}:{}", hex(&digest)))
                }),
                Policy::Account => basic.as_ref().and_then(Claim::account),
                // There is a provider for each of these, in the same order.
                Policy::OpenId(_) => match providers.next() {
                    Some(provider) => provider.user_id(header).await?.map(Claim::proved),
                    None => None,
                },
            });
        }
        Ok(Self(claims))
    }

    /// The user ids that they may stand for.
    pub fn user_ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|claim| &*claim.user_id)
    }

    /// What must be known to tell which of them it is, and the groups of that one.
    pub fn needs(&self) -> Needs {
        let accounts = self.0.iter().filter_map(|claim| claim.account.as_ref());
        Needs {
            objects: accounts.map(|account| account.uri.clone()).collect(),
            principals: self.user_ids().flat_map(principals_in_groups).collect(),
            ..Needs::default()
        }
    }

    /// The user that they are proved to be of.
    ///
    /// # Errors
    /// The request may have no other password checked.
    fn user_id(&self, unit: &UnitOfWork, passwords: &Passwords) -> Result<Option<&str>, Exhausted> {
        for claim in &self.0 {
            let is_proved = match &claim.account {
                Some(account) => account.is_proved(unit, passwords)?,
                None => true,
            };
            if is_proved {
                return Ok(Some(&claim.user_id));
            }
        }
        Ok(None)
    }
}

impl Claim {
    fn proved(user_id: String) -> Self {
        Self {
            user_id,
            account: None,
        }
    }

    fn account(basic: &BasicCredentials) -> Option<Self> {
        let uri = ObjectUri::account(&*basic.user);
        uri.is_valid().then(|| Self {
            user_id: accounts::principal(&basic.user),
            account: Some(AccountClaim {
                uri,
                password: Secret::new(&*basic.password),
            }),
        })
    }
}

impl AccountClaim {
    /// Whether there is such an account with that password. This may take a quarter of a second, once in a request.
    ///
    /// # Errors
    /// The request may have no other password checked.
    fn is_proved(&self, unit: &UnitOfWork, passwords: &Passwords) -> Result<bool, Exhausted> {
        let account = unit.get(&self.uri);
        let hash = account.and_then(|account| account.data.get(accounts::PASSWORD)?.as_str());
        let Some(hash) = hash else {
            return Ok(false);
        };
        let password = self.password.reveal();
        match passwords.finding(password, hash) {
            Some(matches) => Ok(matches),
            None => unit
                .allowance
                .check_password(hash, password, || passwords.matches(password, hash)),
        }
    }
}

/// The principals of a user that groups may have as members.
fn principals_in_groups(user_id: &str) -> [String; 2] {
    [user_id.to_owned(), AUTHENTICATED.to_owned()]
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
    ///
    /// # Errors
    /// The request may have no other password checked.
    pub fn of(
        credentials: &Credentials,
        unit: &UnitOfWork,
        passwords: &Passwords,
    ) -> Result<Self, Exhausted> {
        let Some(id) = credentials.user_id(unit, passwords)? else {
            return Ok(Self {
                id: None,
                principals: vec![EVERYONE.to_owned()],
            });
        };
        let mut principals = vec![id.to_owned(), EVERYONE.to_owned()];
        for member in principals_in_groups(id) {
            principals.extend(unit.groups_of(&member));
        }
        principals.push(AUTHENTICATED.to_owned());
        Ok(Self {
            id: Some(id.to_owned()),
            principals,
        })
    }

    /// The principal that owns what this user creates.
    pub fn principal(&self) -> &str {
        self.id.as_deref().unwrap_or(EVERYONE)
    }
}

/// What a `Basic` header holds.
struct BasicCredentials {
    user: String,
    password: String,
}

impl BasicCredentials {
    /// `None` when it is another scheme, malformed, or the user is empty.
    fn parse(header: &str) -> Option<Self> {
        let (scheme, encoded) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
        // As Pyramid: UTF-8, else Latin-1, in which every byte is a character.
        let text = String::from_utf8(decoded)
            .unwrap_or_else(|e| e.into_bytes().into_iter().map(char::from).collect());
        let (user, password) = text.split_once(':')?;
        (!user.is_empty()).then(|| Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
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
        assert_eq!(
            hex(&hmac(&Secret::new("s3cret"), "a:b")),
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
            assert!(BasicCredentials::parse(header).is_none(), "{header}");
        }
        let basic = BasicCredentials::parse("basic YTpiOmM=").unwrap();
        assert_eq!((&*basic.user, &*basic.password), ("a", "b:c"));
        let basic = BasicCredentials::parse("basic YTo=").unwrap();
        assert_eq!((&*basic.user, &*basic.password), ("a", ""));
    }
}
