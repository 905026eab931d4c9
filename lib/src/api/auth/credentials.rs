//! Credentials: the users that a request claims to be from (`Authorization`), and the one that it proves.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::AUTHORIZATION;

use crate::api::auth::account_id;
use crate::api::auth::passwords::{ExpectedHash, Passwords};
use crate::api::auth::principals::{MAX_OTHER_BUCKETS, User, principals_in_groups};
use crate::api::plugins::openid::provider::Provider;
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::hmac;
use crate::resource::{Kind, ObjectUri};
use crate::settings::{ApiSettings, Policy, Secret};
use crate::store::membership::Member;
use crate::unit_of_work::{Exhausted, Needs, UnitOfWork};

/// The users that a request claims to be from; the first claim that proves true counts.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Vec<ClaimedUser>);

/// A user that a request claims to be from.
#[derive(Clone, Debug)]
struct ClaimedUser {
    user_id: String,
    /// The account whose password is still to be checked; `None` when the request alone proves the claim.
    account: Option<AccountClaim>,
}

/// An account and the password given for it.
#[derive(Clone, Debug)]
struct AccountClaim {
    uri: ObjectUri,
    password: Secret,
}

impl Credentials {
    /// Reads the credentials of a request. Missing or unreadable ones mean an anonymous user, not an error.
    ///
    /// # Errors
    /// A provider that has to be asked does not answer.
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
                    ClaimedUser::proved(format!("{name}:{}", hmac::hex(&digest)))
                }),
                Policy::Account => basic.as_ref().and_then(ClaimedUser::account),
                // Each of these policies has a provider, in the same order.
                Policy::OpenId(_) => match providers.next() {
                    Some(provider) => provider.user_id(header).await?.map(ClaimedUser::proved),
                    None => None,
                },
            });
        }
        Ok(Self(claims))
    }

    /// The user ids that the request claims.
    pub fn user_ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|claim| &*claim.user_id)
    }

    /// Adds to `needs` what tells which claim is true, and the groups of that user: those in the buckets that the
    /// request is about, and those that the settings name. Groups of other buckets, which permissions may name, are
    /// read once these permissions are known ([`User::add_groups`]).
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

    /// The reads that are still needed to decide which of `groups` have one of the claimed users as a member.
    pub fn needs_of_groups(&self, unit: &UnitOfWork, groups: &BTreeSet<ObjectUri>) -> Needs {
        let principals: Vec<_> = self.user_ids().flat_map(principals_in_groups).collect();
        let principals = principals.iter().map(String::as_str);
        unit.needs_of_groups(principals, groups, MAX_OTHER_BUCKETS)
    }

    /// The user that the credentials prove, with the groups that `unit` has read.
    ///
    /// # Errors
    /// The request may not check another password.
    pub fn user(&self, unit: &UnitOfWork, passwords: &Passwords) -> Result<User, Exhausted> {
        Ok(match self.user_id(unit, passwords)? {
            Some(id) => User::with_id(id, unit),
            None => User::anonymous(),
        })
    }

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

impl ClaimedUser {
    fn proved(user_id: String) -> Self {
        Self {
            user_id,
            account: None,
        }
    }

    fn account(basic: &BasicCredentials) -> Option<Self> {
        let uri = ObjectUri::account(&*basic.user);
        uri.is_valid().then(|| Self {
            user_id: account_id::principal(&basic.user),
            account: Some(AccountClaim {
                uri,
                password: Secret::new(&*basic.password),
            }),
        })
    }
}

impl AccountClaim {
    /// Returns `true` if the account exists and has this password. This may take a quarter of a second, once in a
    /// request, even when the account does not exist: the duration must not show that.
    ///
    /// # Errors
    /// The request may not check another password.
    fn is_proved(&self, unit: &UnitOfWork, passwords: &Passwords) -> Result<bool, Exhausted> {
        let account = unit.get(&self.uri);
        let hash = account.and_then(|account| account.data.get(account_id::PASSWORD)?.as_str());
        let password = self.password.reveal();
        let expected = hash.map_or(ExpectedHash::Nothing(self.uri.id()), ExpectedHash::Hash);
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

/// The content of a `Basic` header.
struct BasicCredentials {
    user: String,
    password: String,
}

impl BasicCredentials {
    /// Parses the header; `None` for another scheme, a malformed value or an empty user.
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
