//! `history.*`: what the history of a bucket leaves out, and how much of it is kept (Kinto 26.5).

use std::collections::BTreeSet;

use super::{SettingError, Vars};
use crate::resource::{Kind, ObjectUri};

/// Settings of `kinto.plugins.history`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistorySettings {
    /// `history.exclude_resources`: of these objects, and what is under them, no entries are written.
    pub exclude_resources: Vec<ObjectUri>,
    /// `history.exclude_user_ids`: of what these users write no entries are written.
    pub exclude_user_ids: BTreeSet<String>,
    /// How much is kept; `None` keeps all.
    pub trim: Option<TrimSettings>,
    /// `history.auto_trim_user_ids`: the users of whose entries alone so much is kept, each for themselves; of the entries of
    /// all together when there are none.
    pub trim_user_ids: Vec<String>,
    /// `history_read_principals`: who may read the history of every bucket.
    pub read_principals: Vec<String>,
    /// `history_write_principals`: who may read it, and delete its entries.
    pub write_principals: Vec<String>,
}

/// How much of a history is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimSettings {
    /// `history.auto_trim_max_count`: how many of the latest entries of each kind of object stay.
    pub max_count: usize,
    /// `history.auto_trim_threshold`: how many more there may be before the others go.
    pub threshold: usize,
}

impl HistorySettings {
    /// Reads them; without any, all is kept.
    ///
    /// # Errors
    /// What is no URI of a bucket, group, collection or record, and what is no number.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let variable = "KINTO_HISTORY_EXCLUDE_RESOURCES";
        let words = vars.words(variable).unwrap_or_default();
        let uris = words.into_iter().map(|word| {
            let uri = ObjectUri::parse(&word).filter(|uri| uri.kind() != Kind::Account);
            let problem = format!("`{word}` is no URI of a bucket, group, collection or record");
            uri.ok_or_else(|| SettingError::new(variable, problem))
        });
        let words = |name| vars.words(name).unwrap_or_default();
        Ok(Self {
            exclude_resources: uris.collect::<Result<_, _>>()?,
            exclude_user_ids: words("KINTO_HISTORY_EXCLUDE_USER_IDS")
                .into_iter()
                .collect(),
            trim: TrimSettings::from_vars(vars)?,
            trim_user_ids: words("KINTO_HISTORY_AUTO_TRIM_USER_IDS"),
            read_principals: words("KINTO_HISTORY_READ_PRINCIPALS"),
            write_principals: words("KINTO_HISTORY_WRITE_PRINCIPALS"),
        })
    }

    /// All whom they grant something to.
    pub fn principals(&self) -> impl Iterator<Item = &String> {
        self.read_principals.iter().chain(&self.write_principals)
    }

    /// Whether nothing is written of an object.
    pub fn excludes(&self, uri: &ObjectUri) -> bool {
        let mut lineage = uri.lineage();
        lineage.any(|uri| self.exclude_resources.contains(uri))
    }
}

impl TrimSettings {
    fn from_vars(vars: &Vars) -> Result<Option<Self>, SettingError> {
        let variable = "KINTO_HISTORY_AUTO_TRIM_MAX_COUNT";
        let max_count = match vars.get(variable) {
            None => return Ok(None),
            Some(count) => count.parse::<i64>().map_err(|_| {
                SettingError::new(variable, "must be a whole number; -1 keeps everything")
            })?,
        };
        let threshold = vars.number("KINTO_HISTORY_AUTO_TRIM_THRESHOLD")?;
        let threshold = usize::try_from(threshold.unwrap_or(100)).unwrap_or(usize::MAX);
        // 0 keeps everything as well, as in Kinto.
        let max_count = usize::try_from(max_count).ok().filter(|count| *count > 0);
        Ok(max_count.map(|max_count| Self {
            max_count,
            threshold,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Result<HistorySettings, SettingError> {
        HistorySettings::from_vars(&vars.iter().copied().collect())
    }

    #[test]
    fn without_settings_all_is_kept() {
        assert_eq!(settings(&[]).unwrap(), HistorySettings::default());
        for count in ["-1", "0"] {
            let vars = [("KINTO_HISTORY_AUTO_TRIM_MAX_COUNT", count)];
            assert_eq!(settings(&vars).unwrap().trim, None);
        }
    }

    #[test]
    fn what_is_left_out_is_named_by_uris_and_users() {
        let vars = [
            (
                "KINTO_HISTORY_EXCLUDE_RESOURCES",
                "/buckets/a /buckets/b/groups/c",
            ),
            ("KINTO_HISTORY_EXCLUDE_USER_IDS", "plugin:x account:y"),
            ("KINTO_HISTORY_AUTO_TRIM_MAX_COUNT", "7"),
        ];
        let read = settings(&vars).unwrap();
        let excluded = [ObjectUri::bucket("a"), ObjectUri::group("b", "c")];
        assert_eq!(read.exclude_resources, excluded);
        assert!(read.exclude_user_ids.contains("account:y"));
        let trim = read.trim.unwrap();
        assert_eq!((trim.max_count, trim.threshold), (7, 100));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (variable, value) in [
            ("KINTO_HISTORY_EXCLUDE_RESOURCES", "/buckets/a/collections"),
            ("KINTO_HISTORY_EXCLUDE_RESOURCES", "/accounts/a"),
            ("KINTO_HISTORY_AUTO_TRIM_MAX_COUNT", "many"),
        ] {
            assert_eq!(
                settings(&[(variable, value)]).unwrap_err().variable,
                variable
            );
        }
    }
}
