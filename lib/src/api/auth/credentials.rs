//! Who asks: what a request says of it (`Authorization`), and what is true of that.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::AUTHORIZATION;

use crate::api::auth::passwords::{Expected, Passwords};
use crate::api::plugins::accounts;
use crate::api::plugins::openid::provider::Provider;
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::hmac;
use crate::permission::{AUTHENTICATED, EVERYONE};
use crate::resource::{Kind, ObjectUri};
use crate::settings::{ApiSettings, Policy, Secret};
use crate::store::membership::Member;
use crate::store::{Store, StoreError};
use crate::unit_of_work::{Exhausted, Needs, UnitOfWork};

/// Buckets of which the root endpoint shows the groups that a user is in.
const MAX_SHOWN_BUCKETS: usize = 25;

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
                    let digest = hmac::sign(settings.userid_hmac_secret.as_bytes(), &credentials);
                    Claim::proved(format!("{name}:{}", hmac::hex(&digest)))
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

    /// What the request `needs`, with what must be known to tell which of them it is, and the groups of that one: of the
    /// buckets that the request is about, and those that the settings name. Groups of other buckets, which permissions may
    /// name, are read when these are known ([`User::learn_groups`]).
    pub fn add_to(&self, mut needs: Needs, settings: &ApiSettings) -> Needs {
        if self.0.is_empty() {
            return needs;
        }
        let objects = needs.objects.iter();
        let buckets = objects.filter(|uri| uri.kind() == Kind::Bucket).cloned();
        let mut buckets: BTreeSet<_> = buckets.collect();
        for group in settings.named_groups() {
            buckets.insert(group.bucket_uri().clone());
            needs.lists.insert(group.list().clone());
        }
        for principal in self.user_ids().flat_map(principals_in_groups) {
            needs.members.extend(buckets.iter().map(|bucket| Member {
                principal: principal.clone(),
                bucket: bucket.clone(),
            }));
        }
        let accounts = self.0.iter().filter_map(|claim| claim.account.as_ref());
        let accounts = accounts.map(|account| account.uri.clone());
        needs.objects.extend(accounts);
        needs
    }

    /// What must be known besides to tell which of these groups one is in whom they stand for.
    pub fn needs_of_groups(&self, unit: &UnitOfWork, groups: &BTreeSet<ObjectUri>) -> Needs {
        let principals: Vec<_> = self.user_ids().flat_map(principals_in_groups).collect();
        let principals = principals.iter().map(String::as_str);
        unit.needs_of_groups(principals, groups, MAX_OTHER_BUCKETS)
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
    /// Whether there is such an account with that password. This may take a quarter of a second, once in a request,
    /// whether there is such an account or not: the time shall not tell.
    ///
    /// # Errors
    /// The request may have no other password checked.
    fn is_proved(&self, unit: &UnitOfWork, passwords: &Passwords) -> Result<bool, Exhausted> {
        let account = unit.get(&self.uri);
        let hash = account.and_then(|account| account.data.get(accounts::PASSWORD)?.as_str());
        let password = self.password.reveal();
        let expected = hash.map_or(Expected::Nothing(self.uri.id()), Expected::Hash);
        match passwords.finding(password, expected) {
            Some(matches) => Ok(matches),
            None => unit
                .allowance
                .check_password(expected.name(), password, || {
                    passwords.matches(password, expected)
                }),
        }
    }
}

/// Buckets beside those that a request is about whose groups are looked at for it: what an object, its collection and
/// its bucket may name ([`crate::api::objects`]).
pub const MAX_OTHER_BUCKETS: usize = 3 * MAX_NAMED_BUCKETS;
/// Buckets beside its own whose groups the permissions of an object may name.
pub const MAX_NAMED_BUCKETS: usize = 5;

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
        Ok(Self::called(id, unit))
    }

    fn called(id: &str, unit: &UnitOfWork) -> Self {
        let mut principals = vec![id.to_owned(), EVERYONE.to_owned()];
        for member in principals_in_groups(id) {
            principals.extend(unit.groups_of(&member));
        }
        principals.push(AUTHENTICATED.to_owned());
        Self {
            id: Some(id.to_owned()),
            principals,
        }
    }

    /// Reads which of these groups the user is in, of no more than so many `buckets` beside those that the request is
    /// about: no round trip if all is known, one more where a bucket is of an earlier version.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn learn_groups(
        &mut self,
        unit: &mut UnitOfWork,
        store: &Store,
        groups: &BTreeSet<ObjectUri>,
        buckets: usize,
    ) -> Result<(), StoreError> {
        let Some(id) = self.id.clone() else {
            return Ok(());
        };
        let principals = principals_in_groups(&id);
        for _ in 0..2 {
            let is_open = |group: &&ObjectUri| !self.principals.contains(&group.to_string());
            let open = groups.iter().filter(is_open);
            let needs = unit.needs_of_groups(principals.iter().map(String::as_str), open, buckets);
            if needs.is_empty() {
                break;
            }
            unit.read_more(store, needs).await?;
            *self = Self::called(&id, unit);
        }
        Ok(())
    }

    /// Reads the groups that the user is in, of the first buckets by their ids.
    ///
    /// # Errors
    /// Failures of the table.
    pub async fn learn_first_groups(
        &mut self,
        unit: &mut UnitOfWork,
        store: &Store,
    ) -> Result<(), StoreError> {
        if let Some(id) = self.id.clone() {
            let principals = principals_in_groups(&id);
            let principals = principals.each_ref().map(|principal| &**principal);
            unit.read_groups(store, &principals, MAX_SHOWN_BUCKETS)
                .await?;
            *self = Self::called(&id, unit);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

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
