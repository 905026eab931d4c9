//! Settings of the max-age of responses.

use std::collections::BTreeMap;

use super::{ChangesDialect, SettingError, Vars};
use crate::resource::Kind;

/// Every setting of the form `…cache_expires_seconds`, optionally with `maximum_` or `minimum_` in it.
///
/// They name buckets and collections, so they are stored by the variable, in which `-` and `.` are `_` and all is upper
/// case: ids that differ only in these share their settings, as in Kinto.
#[derive(Clone, Debug, Default)]
pub struct CacheSettings {
    /// Seconds by variable.
    seconds: BTreeMap<String, u64>,
    /// Those that a file names `{bucket}_record_cache_expires_seconds`, with `_` for `.`: they come last, and are not for
    /// changesets.
    legacy: BTreeMap<String, u64>,
    dialect: ChangesDialect,
}

/// One of the times that a collection may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// `record_cache_expires_seconds`.
    Default,
    /// `record_cache_minimum_expires_seconds`, else the default.
    Minimum,
    /// `record_cache_maximum_expires_seconds`, else the default.
    Maximum,
}

impl CacheSettings {
    /// Reads the settings of caching.
    ///
    /// # Errors
    /// An invalid number.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        const ENDS: [&str; 3] = [
            "_CACHE_EXPIRES_SECONDS",
            "_CACHE_MINIMUM_EXPIRES_SECONDS",
            "_CACHE_MAXIMUM_EXPIRES_SECONDS",
        ];
        let (mut seconds, mut legacy) = (BTreeMap::new(), BTreeMap::new());
        for name in vars.0.keys() {
            if name.starts_with("KINTO_") && ENDS.iter().any(|end| name.ends_with(end)) {
                let those = if vars.is_legacy(name) {
                    &mut legacy
                } else {
                    &mut seconds
                };
                those.extend(vars.number(name)?.map(|number| (name.clone(), number)));
            }
        }
        Ok(Self {
            seconds,
            legacy,
            dialect: ChangesDialect::from_vars(vars),
        })
    }

    /// `cache_expires_seconds`, for everything that anonymous users read, unless a narrower setting applies: within
    /// this time a change shows through caches that respect max-age.
    ///
    /// `cache_maximum_expires_seconds`, or else ten times as long, applies to the changesets of a given state, which
    /// clients request once they know that it exists: long enough for those that poll every few minutes.
    pub fn of_all(&self, expiry: Expiry) -> Option<u64> {
        let seconds = self.get(&["cache_expires_seconds"]);
        match expiry {
            Expiry::Default | Expiry::Minimum => seconds,
            Expiry::Maximum => self
                .get(&["cache_maximum_expires_seconds"])
                .or(seconds.map(|seconds| seconds.saturating_mul(10))),
        }
    }

    /// `{kind}_cache_expires_seconds`.
    pub fn of_kind(&self, kind: Kind) -> Option<u64> {
        self.get(&[kind.name(), "cache_expires_seconds"])
    }

    /// `history_cache_expires_seconds`.
    pub fn of_history(&self) -> Option<u64> {
        self.get(&["history", "cache_expires_seconds"])
            .filter(|seconds| *seconds > 0)
    }

    /// The setting for the records of a collection: its own, else that of its bucket, of all records, and what a file of old
    /// names last (Kinto 26.5).
    pub fn of_records(&self, bucket: &str, collection: &str) -> Option<u64> {
        let setting = "record_cache_expires_seconds";
        self.of_collection(bucket, collection, Expiry::Default)
            .or_else(|| self.of_bucket(bucket))
            .or_else(|| find(&self.legacy, &[bucket, collection, setting]))
            .or_else(|| find(&self.legacy, &[bucket, setting]))
    }

    /// `{bucket}.record_cache_expires_seconds`, else `record_cache_expires_seconds`.
    fn of_bucket(&self, bucket: &str) -> Option<u64> {
        self.get(&[bucket, "record_cache_expires_seconds"])
            .or_else(|| self.of_kind(Kind::Record))
    }

    /// `{bucket}.{collection}.record_cache_expires_seconds`, or the setting for the longer or shorter time.
    fn of_collection(&self, bucket: &str, collection: &str, expiry: Expiry) -> Option<u64> {
        let special = match expiry {
            Expiry::Default => None,
            Expiry::Minimum => Some("record_cache_minimum_expires_seconds"),
            Expiry::Maximum => Some("record_cache_maximum_expires_seconds"),
        };
        special
            .and_then(|setting| self.get(&[bucket, collection, setting]))
            .or_else(|| self.get(&[bucket, collection, "record_cache_expires_seconds"]))
    }

    /// The setting for the changesets of a collection, and for the list of monitor/changes: the collection's own
    /// (kinto-changes 4.1), in its successor else that of its bucket or of all records; else [`Self::of_all`].
    pub fn of_changes(&self, bucket: &str, collection: &str, expiry: Expiry) -> Option<u64> {
        let as_records = || {
            let is_kept = self.dialect.keeps_changesets_as_records();
            is_kept.then(|| self.of_bucket(bucket)).flatten()
        };
        self.of_collection(bucket, collection, expiry).or_else(|| {
            let set = as_records().or_else(|| self.of_all(expiry));
            set.filter(|seconds| *seconds > 0)
        })
    }

    fn get(&self, words: &[&str]) -> Option<u64> {
        find(&self.seconds, words)
    }
}

/// Seconds by the words of a name.
fn find(seconds: &BTreeMap<String, u64>, words: &[&str]) -> Option<u64> {
    // Usually there are none; then no name is built.
    if seconds.is_empty() {
        return None;
    }
    let name = format!("KINTO_{}", words.join("_"));
    let variable = name.replace(['-', '.'], "_").to_ascii_uppercase();
    seconds.get(&variable).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_looked_up_from_the_narrowest_setting_on() {
        let vars: Vars = [
            ("KINTO_MAIN_MY_COL_RECORD_CACHE_EXPIRES_SECONDS", "10"),
            (
                "KINTO_MAIN_MY_COL_RECORD_CACHE_MAXIMUM_EXPIRES_SECONDS",
                "100",
            ),
            ("KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS", "20"),
            ("KINTO_RECORD_CACHE_EXPIRES_SECONDS", "0"),
        ]
        .into_iter()
        .collect();
        let settings = CacheSettings::from_vars(&vars).unwrap();
        let of = |expiry| settings.of_collection("main", "my-col", expiry);
        assert_eq!(of(Expiry::Default), Some(10));
        assert_eq!(of(Expiry::Minimum), Some(10));
        assert_eq!(of(Expiry::Maximum), Some(100));
        assert_eq!(settings.of_collection("main", "x", Expiry::Maximum), None);
        assert_eq!(settings.of_bucket("main"), Some(20));
        assert_eq!(settings.of_bucket("other"), Some(0));
        assert_eq!(settings.of_kind(Kind::Bucket), None);
        assert_eq!(settings.of_all(Expiry::Maximum), None);
    }

    #[test]
    fn times_of_a_file_with_an_underscore_for_a_dot_come_last_and_are_not_for_changesets() {
        let of = |more: &str| {
            let ini = format!(
                "[app:main]\nuse = egg:kinto\nblog_c_record_cache_expires_seconds = 9\nblog_record_cache_expires_seconds = 8\n{more}"
            );
            let mut vars = Vars::default();
            vars.add_ini(ini.as_bytes(), "/kinto.ini").unwrap();
            let settings = CacheSettings::from_vars(&vars).unwrap();
            let records = ["c", "d"].map(|id| settings.of_records("blog", id));
            (records, settings.of_changes("blog", "c", Expiry::Default))
        };
        assert_eq!(of(""), ([Some(9), Some(8)], None));
        assert_eq!(of("record_cache_expires_seconds = 1"), ([Some(1); 2], None));
        let own = "blog.d.record_cache_expires_seconds = 2";
        assert_eq!(of(own), ([Some(9), Some(2)], None));
    }

    #[test]
    fn one_setting_is_for_all_and_ten_times_as_long_for_what_names_its_state() {
        let all = ("KINTO_CACHE_EXPIRES_SECONDS", "60");
        let settings = CacheSettings::from_vars(&[all].into_iter().collect()).unwrap();
        assert_eq!(settings.of_all(Expiry::Minimum), Some(60));
        assert_eq!(settings.of_all(Expiry::Maximum), Some(600));
        let maximum = ("KINTO_CACHE_MAXIMUM_EXPIRES_SECONDS", "3600");
        let settings = CacheSettings::from_vars(&[all, maximum].into_iter().collect()).unwrap();
        assert_eq!(settings.of_all(Expiry::Maximum), Some(3600));
        assert_eq!(settings.of_kind(Kind::Bucket), None);
    }

    #[test]
    fn a_buckets_time_reaches_changesets_in_the_successor_alone() {
        let of = |includes| {
            let vars = [
                ("KINTO_INCLUDES", includes),
                ("KINTO_RECORD_CACHE_EXPIRES_SECONDS", "20"),
                ("KINTO_MAIN_C_RECORD_CACHE_EXPIRES_SECONDS", "10"),
            ];
            let settings = CacheSettings::from_vars(&vars.into_iter().collect()).unwrap();
            ["c", "d"].map(|id| settings.of_changes("main", id, Expiry::Default))
        };
        assert_eq!(of("kinto_changes"), [Some(10), None]);
        assert_eq!(of("kinto_remote_settings"), [Some(10), Some(20)]);
    }

    #[test]
    fn a_time_that_is_no_number_stops_the_start() {
        const NAME: &str = "KINTO_A_B_RECORD_CACHE_MINIMUM_EXPIRES_SECONDS";
        let vars: Vars = [(NAME, "-1")].into_iter().collect();
        assert_eq!(CacheSettings::from_vars(&vars).unwrap_err().variable, NAME);
    }
}
