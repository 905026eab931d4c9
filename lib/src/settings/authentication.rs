//! `multiauth`: the authentication policies, in the order in which they are tried.

use super::{Includes, OpenIdSettings, PluginName, SettingError, Vars, is_token};
use crate::permission::EVERYONE;

/// An authentication policy, an entry of `multiauth.policies`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any user name and password form a user (`kinto.core.authentication.BasicAuthAuthenticationPolicy`).
    Basic {
        /// The prefix of the user ids.
        name: String,
    },
    /// The id and password of an account (`kinto.plugins.accounts.AccountsPolicy`).
    Account,
    /// A token of an OpenID Connect provider (`kinto.plugins.openid.OpenIDConnectPolicy`).
    OpenId(Box<OpenIdSettings>),
}

/// The required name of the accounts policy: the accounts' principals begin with it, whatever the settings say.
pub const ACCOUNT_POLICY: &str = "account";
/// The last word of each `use` for [`Policy::Basic`].
const BASIC_POLICY: &str = "BasicAuthAuthenticationPolicy";
/// The last words of each `use` for [`Policy::Account`].
const ACCOUNT_POLICIES: [&str; 2] = ["AccountsPolicy", "AccountsAuthenticationPolicy"];

/// The last word of each `use` for [`Policy::OpenId`].
const OPENID_POLICY: &str = "OpenIDConnectPolicy";

impl Policy {
    /// Reads `multiauth.policies` and the settings of each policy; none if it is not set, so that no user can
    /// authenticate (Kinto 26.5).
    ///
    /// As in Kinto the variables may begin with `KINTO_MULTIAUTH_` or with `MULTIAUTH_`.
    ///
    /// # Errors
    /// A policy whose `use` is missing or unknown, or whose plugin is not included; accounts that nobody could use, or
    /// that `basicauth`, which accepts any password, would hide (Kinto 26.5, accounts).
    pub fn from_vars(vars: &Vars, includes: &Includes) -> Result<Vec<Self>, SettingError> {
        let names = variable(vars, "POLICIES");
        let listed = vars.words(&names).unwrap_or_default();
        let policies = listed
            .iter()
            .map(|name| Self::named(vars, name, includes))
            .collect::<Result<Vec<_>, _>>()?;
        if includes.has(PluginName::Accounts) {
            let account = policies.iter().position(|policy| *policy == Self::Account);
            let basic = policies
                .iter()
                .position(|policy| matches!(policy, Self::Basic { .. }));
            let problem = match (account, basic) {
                (None, _) => format!("must name `{ACCOUNT_POLICY}`, for kinto.plugins.accounts"),
                (Some(account), Some(basic)) if basic < account => {
                    format!(
                        "must not name `{}` before `{ACCOUNT_POLICY}`",
                        listed[basic]
                    )
                }
                _ => return check_principals(vars).map(|()| policies),
            };
            return Err(SettingError::new(names, problem));
        }
        Ok(policies)
    }

    /// The scheme of `Authorization` that the policy accepts.
    pub fn scheme(&self) -> &str {
        match self {
            Self::Basic { .. } | Self::Account => "Basic",
            Self::OpenId(settings) => &settings.header_type,
        }
    }

    fn named(vars: &Vars, name: &str, includes: &Includes) -> Result<Self, SettingError> {
        if !is_token(name, 64) {
            let problem = format!("`{name}` has other characters than A-Z a-z 0-9 _ -");
            return Err(SettingError::new(variable(vars, "POLICIES"), problem));
        }
        let used = variable(vars, &format!("POLICY_{}_USE", upper(name)));
        let policy = match vars.text(&used) {
            None if name == "basicauth" => BASIC_POLICY,
            None => return Err(SettingError::new(used, "is required")),
            Some(path) => path.rsplit(['.', ':']).next().unwrap_or_default(),
        };
        let included = |plugin: PluginName| {
            let problem = format!("needs {} in KINTO_INCLUDES", plugin.name());
            let included = includes.has(plugin).then_some(());
            included.ok_or_else(|| SettingError::new(&*used, problem))
        };
        let is_account = ACCOUNT_POLICIES.contains(&policy);
        if is_account != (name == ACCOUNT_POLICY) {
            let problem =
                format!("the policy of accounts, and no other, must be called {ACCOUNT_POLICY}");
            return Err(SettingError::new(used, problem));
        }
        if policy == BASIC_POLICY {
            return Ok(Self::Basic {
                name: name.to_owned(),
            });
        }
        if is_account {
            included(PluginName::Accounts)?;
            return Ok(Self::Account);
        }
        if policy == OPENID_POLICY {
            included(PluginName::OpenId)?;
            let variable = |setting: &str| {
                let policy = upper(name);
                variable(vars, &format!("POLICY_{policy}_{setting}"))
            };
            let settings = OpenIdSettings::from_vars(vars, name, variable)?;
            return Ok(Self::OpenId(Box::new(settings)));
        }
        Err(SettingError::new(
            used,
            format!("`{policy}` is not known here"),
        ))
    }
}

/// The name of a policy in variables.
fn upper(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// The variable of the setting `multiauth.…`.
fn variable(vars: &Vars, setting: &str) -> String {
    let plain = format!("MULTIAUTH_{setting}");
    let prefixed = format!("KINTO_{plain}");
    let is_plain = vars.get(&prefixed).is_none() && vars.get(&plain).is_some();
    if is_plain { plain } else { prefixed }
}

/// Checks that all principals that may create accounts may also create them for others, as they expect to.
fn check_principals(vars: &Vars) -> Result<(), SettingError> {
    let creators = "KINTO_ACCOUNT_CREATE_PRINCIPALS";
    let principals = |variable| vars.words(variable).unwrap_or_default();
    let admins = principals("KINTO_ACCOUNT_WRITE_PRINCIPALS");
    let mut powerless = principals(creators)
        .into_iter()
        .filter(|creator| creator != EVERYONE && !admins.contains(creator));
    match powerless.next() {
        None => Ok(()),
        Some(creator) => {
            let problem = format!("`{creator}` must be in KINTO_ACCOUNT_WRITE_PRINCIPALS as well");
            Err(SettingError::new(creators, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: [(&str, &str); 3] = [
        ("KINTO_INCLUDES", "kinto.plugins.accounts"),
        ("MULTIAUTH_POLICIES", "account basicauth"),
        (
            "MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.AccountsPolicy",
        ),
    ];

    fn policies(vars: &[(&str, &str)]) -> Result<Vec<Policy>, SettingError> {
        let vars: Vars = vars.iter().copied().collect();
        Policy::from_vars(&vars, &Includes::from_vars(&vars)?)
    }

    #[test]
    fn policies_are_tried_in_the_order_of_their_names() {
        let basic = |name: &str| Policy::Basic {
            name: name.to_owned(),
        };
        assert_eq!(policies(&[]), Ok(vec![]));
        assert_eq!(
            policies(&ACCOUNTS),
            Ok(vec![Policy::Account, basic("basicauth")])
        );
        let other = [
            ("KINTO_MULTIAUTH_POLICIES", "test"),
            (
                "KINTO_MULTIAUTH_POLICY_TEST_USE",
                "kinto.core.authentication.BasicAuthAuthenticationPolicy",
            ),
        ];
        assert_eq!(policies(&other), Ok(vec![basic("test")]));
    }

    #[test]
    fn a_provider_has_settings_of_its_own() {
        let vars = [
            ("KINTO_INCLUDES", "kinto.plugins.openid"),
            ("MULTIAUTH_POLICIES", "google"),
            (
                "MULTIAUTH_POLICY_GOOGLE_USE",
                "kinto.plugins.openid.OpenIDConnectPolicy",
            ),
            (
                "MULTIAUTH_POLICY_GOOGLE_ISSUER",
                "https://accounts.example/",
            ),
            ("MULTIAUTH_POLICY_GOOGLE_CLIENT_ID", "me"),
        ];
        let Policy::OpenId(google) = &policies(&vars).unwrap()[0] else {
            panic!("no provider");
        };
        assert_eq!((&*google.name, &*google.client_id), ("google", "me"));
        assert_eq!(
            (&*google.header_type, &*google.userid_field),
            ("Bearer", "sub")
        );
        for (name, value) in [
            ("KINTO_INCLUDES", ""),
            ("MULTIAUTH_POLICY_GOOGLE_ISSUER", ""),
            ("MULTIAUTH_POLICY_GOOGLE_ISSUER", "accounts.example"),
            ("MULTIAUTH_POLICY_GOOGLE_CLIENT_ID", ""),
            ("MULTIAUTH_POLICY_GOOGLE_STATE_TTL_SECONDS", "soon"),
            (
                "MULTIAUTH_POLICY_GOOGLE_VERIFICATION_TTL_SECONDS",
                "99999999999999999",
            ),
            (
                "MULTIAUTH_POLICY_GOOGLE_TRUSTED_CALLBACK_URLS",
                "example.org",
            ),
        ] {
            let vars: Vec<_> = vars.into_iter().chain([(name, value)]).collect();
            assert!(policies(&vars).is_err(), "{name} {value}");
        }
    }

    #[test]
    fn what_cannot_work_or_is_not_known_is_named() {
        let with = |more: &[(&str, &str)]| {
            let vars: Vec<_> = ACCOUNTS.into_iter().chain(more.iter().copied()).collect();
            policies(&vars).unwrap_err().variable
        };
        let used = "MULTIAUTH_POLICY_ACCOUNT_USE";
        assert_eq!(with(&[("KINTO_INCLUDES", "")]), used);
        assert_eq!(
            with(&[("MULTIAUTH_POLICIES", "basicauth account")]),
            "MULTIAUTH_POLICIES"
        );
        assert_eq!(
            with(&[("MULTIAUTH_POLICIES", "basicauth")]),
            "MULTIAUTH_POLICIES"
        );
        assert_eq!(
            with(&[("MULTIAUTH_POLICIES", "account x")]),
            "KINTO_MULTIAUTH_POLICY_X_USE"
        );
        assert_eq!(with(&[(used, "")]), used);
        assert_eq!(with(&[(used, "kinto_fxa.FxAOAuth")]), used);
        assert_eq!(
            with(&[("MULTIAUTH_POLICIES", "account a/b")]),
            "MULTIAUTH_POLICIES"
        );
        let basic = "kinto.core.authentication.BasicAuthAuthenticationPolicy";
        assert_eq!(with(&[(used, basic)]), used);
        let creators = "KINTO_ACCOUNT_CREATE_PRINCIPALS";
        assert_eq!(
            with(&[(creators, "system.Everyone account:admin")]),
            creators
        );
    }
}
