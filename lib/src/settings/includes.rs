//! `includes`: the parts of Kinto that are on, by Kinto's names.

use std::collections::BTreeSet;

use super::{SettingError, Vars};

/// A part of Kinto that is off unless it is included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PluginName {
    /// `kinto.plugins.default_bucket`: `/buckets/default` is each user's own bucket.
    DefaultBucket,
    /// `kinto.plugins.flush`: anybody may remove all objects.
    Flush,
    /// `kinto.plugins.accounts`: users have accounts, with passwords.
    Accounts,
    /// `kinto.plugins.openid`: users can log in with OpenID Connect providers.
    OpenId,
    /// `kinto.plugins.admin`: Kinto Admin is served.
    Admin,
    /// `kinto_remote_settings.signer`: what is written is reviewed, signed and published.
    Signer,
    /// `kinto.plugins.history`: each bucket keeps what was written in it.
    History,
    /// `kinto.plugins.prometheus`: a process tells its metrics. Not on Lambda, where there are many.
    Prometheus,
}

impl PluginName {
    const ALL: [Self; 8] = [
        Self::DefaultBucket,
        Self::Flush,
        Self::Accounts,
        Self::OpenId,
        Self::Admin,
        Self::Signer,
        Self::History,
        Self::Prometheus,
    ];

    /// The name in `includes`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DefaultBucket => "kinto.plugins.default_bucket",
            Self::Flush => "kinto.plugins.flush",
            Self::Accounts => "kinto.plugins.accounts",
            Self::OpenId => "kinto.plugins.openid",
            Self::Admin => "kinto.plugins.admin",
            Self::Signer => "kinto_remote_settings.signer",
            Self::History => "kinto.plugins.history",
            Self::Prometheus => "kinto.plugins.prometheus",
        }
    }
}

/// The name of kinto-megaphone. It needs a listener that notifies a Megaphone; the hello view then has its capability.
pub(super) const MEGAPHONE: &str = "kinto_megaphone";
/// What turns monitor/changes and changesets on.
const CHANGES: [&str; 2] = ["kinto_changes", "kinto_remote_settings.changes"];
/// What turns them on, and the signer.
const BOTH: &str = "kinto_remote_settings";

/// The parts that `includes` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Includes {
    plugins: BTreeSet<PluginName>,
    changes: bool,
    megaphone: bool,
}

impl Includes {
    /// Reads `KINTO_INCLUDES`: names separated by white space.
    ///
    /// Without a `kinto.ini` monitor/changes is always on: it is the purpose of this server. A Kinto that is moved with
    /// its file has it if the file includes it.
    ///
    /// # Errors
    /// An unknown name: a configured part must not be silently off.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let variable = "KINTO_INCLUDES";
        let mut includes = Self {
            changes: !vars.has_file(),
            megaphone: !vars.has_file(),
            ..Self::default()
        };
        for name in vars.words(variable).unwrap_or_default() {
            match PluginName::ALL
                .into_iter()
                .find(|plugin| plugin.name() == name)
            {
                None if name == BOTH => {
                    includes.changes = true;
                    includes.plugins.insert(PluginName::Signer);
                }
                Some(plugin) => _ = includes.plugins.insert(plugin),
                None if CHANGES.contains(&&*name) => includes.changes = true,
                None if name == MEGAPHONE => includes.megaphone = true,
                None => {
                    let problem = format!("`{name}` is not known here");
                    return Err(SettingError::new(variable, problem));
                }
            }
        }
        Ok(includes)
    }

    /// These plugins alone.
    #[cfg(test)]
    pub(super) fn of(plugins: impl IntoIterator<Item = PluginName>) -> Self {
        Self {
            plugins: plugins.into_iter().collect(),
            changes: true,
            megaphone: true,
        }
    }

    /// Returns `true` if the plugin is on.
    pub fn has(&self, plugin: PluginName) -> bool {
        self.plugins.contains(&plugin)
    }

    /// Returns `true` if the hello view tells of Megaphone, where a listener notifies one. Without a file it does.
    pub fn megaphone(&self) -> bool {
        self.megaphone
    }

    /// Returns `true` if monitor/changes, changesets and broadcasts are on.
    pub fn changes(&self) -> bool {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn includes(value: &str) -> Result<Includes, SettingError> {
        Includes::from_vars(&Vars::from_iter([("KINTO_INCLUDES", value)]))
    }

    #[test]
    fn plugins_are_on_when_they_are_named() {
        let some = includes("kinto_changes\n kinto.plugins.default_bucket").unwrap();
        assert!(some.has(PluginName::DefaultBucket) && !some.has(PluginName::Flush));
        assert!(!includes("").unwrap().has(PluginName::DefaultBucket));
    }

    #[test]
    fn a_plugin_that_is_not_known_is_named() {
        let error = includes("kinto_changes kinto.plugins.quotas").unwrap_err();
        assert_eq!(error.variable, "KINTO_INCLUDES");
        assert!(error.problem.contains("kinto.plugins.quotas"), "{error}");
    }
}
