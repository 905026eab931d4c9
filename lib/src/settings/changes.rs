//! Settings of kinto-changes, and of its successor inside Remote Settings.

use super::{SettingError, Vars};
use crate::resource::CollectionSet;

/// The dialects of kinto-changes 4.1 and of its successor. This is the only place that knows how they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangesDialect {
    /// kinto-changes 4.1.
    #[default]
    KintoChanges,
    /// `kinto_remote_settings.changes`, if `includes` names it: made for a CDN in front.
    RemoteSettings,
}

impl ChangesDialect {
    pub(super) fn from_vars(vars: &Vars) -> Self {
        let is_successor = |word: &String| {
            word == "kinto_remote_settings" || word == "kinto_remote_settings.changes"
        };
        let includes = vars.words("KINTO_INCLUDES").unwrap_or_default();
        if includes.iter().any(is_successor) {
            Self::RemoteSettings
        } else {
            Self::KintoChanges
        }
    }

    /// Returns `true` if the metadata of monitor/changes names its bucket, as that of every other changeset does.
    pub fn names_monitors_bucket(self) -> bool {
        self == Self::RemoteSettings
    }

    /// Returns `true` if the max-age of its bucket's lists or of all records applies to a changeset whose collection
    /// has none.
    pub fn keeps_changesets_as_records(self) -> bool {
        self == Self::RemoteSettings
    }

    /// Returns `true` if a client that already has the current list gets 304; else it gets 200 with an empty list,
    /// which CDNs cache.
    pub fn answers_not_modified(self) -> bool {
        self == Self::KintoChanges
    }

    /// Returns `true` if a request that expects less than it has (`0 < _expected < _since`) gets 204.
    pub fn refuses_stale_expected(self) -> bool {
        self == Self::RemoteSettings
    }

    /// Returns `true` if `_expected="1"` is redirected to `_expected=1`, so that a CDN caches one response instead of
    /// two.
    pub fn redirects_quoted_expected(self) -> bool {
        self == Self::RemoteSettings
    }
}

/// Settings of monitor/changes and of changesets.
#[derive(Clone, Debug, Default)]
pub struct ChangesSettings {
    /// `changes.resources`: the collections to show. None if not set, as in kinto-changes.
    pub resources: CollectionSet,
    /// `changes.excluded_collections`: collections to hide although `changes.resources` contains them.
    pub excluded_collections: CollectionSet,
    /// `http_host`, else empty: the `host` of the entries, which is part of their ids.
    pub http_host: String,
    /// `changes.http_host`, else `http_host`, else empty: the host that redirects lead to.
    pub redirect_host: String,
    /// `changes.since_max_age_days`: requests for changes since an older time are redirected to the whole list; `None`
    /// (a negative number) redirects none.
    pub since_max_age_days: Option<u64>,
    /// `changes.since_max_age_redirect_ttl_seconds`: the max-age of that redirect; `None` sets none.
    pub since_max_age_redirect_ttl_seconds: Option<u64>,
    /// The dialect where the two differ.
    pub dialect: ChangesDialect,
}

impl ChangesSettings {
    /// Reads the settings of monitor/changes, with kinto-changes 4.1's defaults.
    ///
    /// # Errors
    /// A word that is no URI of a bucket or collection, and an invalid number.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let http_host = vars.get("KINTO_HTTP_HOST");
        let redirect_host = vars.get("KINTO_CHANGES_HTTP_HOST").or(http_host);
        Ok(Self {
            resources: vars.collections("KINTO_CHANGES_RESOURCES")?,
            excluded_collections: vars.collections("KINTO_CHANGES_EXCLUDED_COLLECTIONS")?,
            http_host: http_host.unwrap_or_default().to_owned(),
            redirect_host: redirect_host.unwrap_or_default().to_owned(),
            since_max_age_days: unless_negative(vars, "KINTO_CHANGES_SINCE_MAX_AGE_DAYS", 21)?,
            since_max_age_redirect_ttl_seconds: unless_negative(
                vars,
                "KINTO_CHANGES_SINCE_MAX_AGE_REDIRECT_TTL_SECONDS",
                24 * 60 * 60,
            )?,
            dialect: ChangesDialect::from_vars(vars),
        })
    }

    /// Returns `true` if monitor/changes shows the collection.
    pub fn shows(&self, bucket: &str, collection: &str) -> bool {
        self.resources.contains(bucket, collection)
            && !self.excluded_collections.contains(bucket, collection)
    }
}

/// A number; `None` if it is negative, which means *never*.
fn unless_negative(vars: &Vars, name: &str, default: u64) -> Result<Option<u64>, SettingError> {
    let Some(value) = vars.get(name) else {
        return Ok(Some(default));
    };
    let number: i64 = value
        .parse()
        .map_err(|_| SettingError::new(name, "must be a whole number; a negative one for never"))?;
    Ok(u64::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Result<ChangesSettings, SettingError> {
        ChangesSettings::from_vars(&vars.iter().copied().collect())
    }

    #[test]
    fn monitor_shows_what_is_listed_and_not_excluded() {
        let changes = settings(&[
            (
                "KINTO_CHANGES_RESOURCES",
                "/buckets/main /buckets/x/collections/y",
            ),
            (
                "KINTO_CHANGES_EXCLUDED_COLLECTIONS",
                "/buckets/main/collections/hidden",
            ),
            ("KINTO_HTTP_HOST", "kinto.example"),
        ])
        .unwrap();
        assert!(changes.shows("main", "a") && changes.shows("x", "y"));
        assert!(!changes.shows("main", "hidden") && !changes.shows("x", "z"));
        assert_eq!(changes.http_host, "kinto.example");
        assert_eq!(changes.redirect_host, "kinto.example");
    }

    #[test]
    fn a_negative_age_or_time_to_live_is_none() {
        const AGE: &str = "KINTO_CHANGES_SINCE_MAX_AGE_DAYS";
        let changes = settings(&[]).unwrap();
        assert_eq!(
            (
                changes.since_max_age_days,
                changes.since_max_age_redirect_ttl_seconds
            ),
            (Some(21), Some(86400))
        );
        assert_eq!(settings(&[(AGE, "0")]).unwrap().since_max_age_days, Some(0));
        assert_eq!(settings(&[(AGE, "-1")]).unwrap().since_max_age_days, None);
        assert_eq!(settings(&[(AGE, "a week")]).unwrap_err().variable, AGE);
    }

    #[test]
    fn the_successor_is_told_by_includes() {
        let dialect = |includes| settings(&[("KINTO_INCLUDES", includes)]).unwrap().dialect;
        assert_eq!(dialect(""), ChangesDialect::KintoChanges);
        assert_eq!(
            dialect("kinto_changes kinto_attachment"),
            ChangesDialect::KintoChanges
        );
        assert_eq!(
            dialect("kinto_remote_settings_x"),
            ChangesDialect::KintoChanges
        );
        assert_eq!(
            dialect("kinto_attachment kinto_remote_settings"),
            ChangesDialect::RemoteSettings
        );
        assert_eq!(
            dialect("kinto_remote_settings.changes"),
            ChangesDialect::RemoteSettings
        );
    }
}
