//! `signer.*`: what is reviewed, signed and published where, and with which key (`kinto_remote_settings`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::signer_keys::{self, KeysOfSources, PREFIX};
use super::{Includes, PluginName, SettingError, Vars, file};
use crate::resource::{Kind, ObjectUri};
use crate::signer::keys::Keys;
use crate::signer::resources::{Resource, Resources};
use crate::timestamp::Timestamp;

/// The resources of a server that names none.
const DEFAULT_RESOURCES: &str = "/buckets/main-workspace -> /buckets/main-preview -> /buckets/main";
/// What the variables end with that turn review on or off for a bucket or a collection.
const TO_REVIEW_ENABLED: &str = "TO_REVIEW_ENABLED";
/// The end of the variable that has preview and destination deleted with their source.
const HARD_DELETE: &str = "HARD_DELETE_DESTINATION_ON_SOURCE_DELETION";
/// Settings that say when a warning about certificates is logged.
const HEARTBEAT: &str = "HEARTBEAT_CERTIFICATE_";
const DAY: u64 = 24 * 3600 * 1000;

/// What is reviewed, signed and published where, and with which key.
#[derive(Clone)]
pub struct SignerSettings {
    /// `signer.resources`: the lines, in their order.
    pub resources: Resources,
    /// `signer.to_review_enabled`: whether what is published is reviewed, where nothing else is said.
    pub to_review_enabled: bool,
    /// `signer.allow_floats`: whether records may have numbers that are no integers.
    pub allow_floats: bool,
    /// `signer.hard_delete_destination_on_source_deletion`: whether what is published goes with its source.
    pub deletes_targets: bool,
    /// When somebody is to be told that a certificate ends.
    pub warning: CertificateWarning,
    /// The keys.
    keys: KeysOfSources,
    /// Whether what is published is reviewed, by what stands between the prefix and the end of a variable.
    reviews: BTreeMap<String, bool>,
}

impl fmt::Debug for SignerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignerSettings")
            .field("resources", &self.resources)
            .field("to_review_enabled", &self.to_review_enabled)
            .field("allow_floats", &self.allow_floats)
            .field("deletes_targets", &self.deletes_targets)
            .field("reviews", &self.reviews)
            .finish_non_exhaustive()
    }
}

/// When somebody is to be told that a certificate ends: at a part of its life, within bounds. What Remote Settings' heartbeat
/// says of the server that signs for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateWarning {
    /// Percent of its life that are left.
    pub percentage: u64,
    /// Days before the end at least.
    pub min_days: u64,
    /// Days before the end at most.
    pub max_days: u64,
}

impl CertificateWarning {
    fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let number = |name: &str, default: u64| {
            let variable = format!("{PREFIX}{HEARTBEAT}{name}");
            match vars.text(&variable).map(str::parse) {
                None => Ok(default),
                Some(Ok(number)) if number <= 36_500 => Ok(number),
                Some(_) => Err(SettingError::new(
                    variable,
                    "must be a number of days, or of percent",
                )),
            }
        };
        Ok(Self {
            percentage: number("PERCENTAGE_REMAINING_VALIDITY", 5)?,
            min_days: number("MIN_REMAINING_DAYS", 10)?,
            max_days: number("MAX_REMAINING_DAYS", 30)?,
        })
    }

    /// Whether it is time to tell of certificates that are valid from `begins` until `ends`.
    pub fn is_due(&self, begins: Timestamp, ends: Timestamp, now: Timestamp) -> bool {
        let days = |from: Timestamp| ends.0.saturating_sub(from.0) / DAY;
        let part = days(begins) * self.percentage / 100;
        days(now) <= part.max(self.min_days).min(self.max_days)
    }
}

/// A source with the collections that it is published to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedResource {
    /// Where people write.
    pub source: ObjectUri,
    /// What reviewers look at.
    pub preview: Option<ObjectUri>,
    /// What clients read.
    pub destination: ObjectUri,
    /// Whether somebody else than who asks for it must approve what is published.
    pub is_reviewed: bool,
}

impl SignedResource {
    /// The collections that the stack alone writes.
    pub fn targets(&self) -> impl Iterator<Item = &ObjectUri> {
        self.preview.iter().chain([&self.destination])
    }
}

/// What a collection is to the signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// People write it, and it is published.
    Source(SignedResource),
    /// The stack writes it. With the collection that it is published from.
    Target(SignedResource),
}

impl SignerSettings {
    /// Reads the settings where the plugin is on; `None` where it is not.
    ///
    /// # Errors
    /// What cannot be used, what is missing, and what this server does not do.
    pub(super) fn from_vars(
        vars: &Vars,
        includes: &Includes,
    ) -> Result<Option<Self>, SettingError> {
        if !includes.has(PluginName::Signer) {
            let mut names = vars.iter().map(|(variable, _)| variable);
            return match names.find(|variable| variable.starts_with(PREFIX)) {
                None => Ok(None),
                Some(variable) => Err(SettingError::new(
                    variable,
                    "is not supported without kinto_remote_settings among KINTO_INCLUDES",
                )),
            };
        }
        let mut reviews = BTreeMap::new();
        for (variable, value) in vars.iter() {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            match name {
                "RESOURCES" | "ALLOW_FLOATS" | TO_REVIEW_ENABLED => {}
                _ if signer_keys::scope(name).is_some() => {}
                // Kinto's principals of what is not created make no difference.
                "AUTO_CREATE_RESOURCES_PRINCIPALS" => {}
                HARD_DELETE => {}
                "AUTO_CREATE_RESOURCES" => {
                    if vars.flag(variable, false)? {
                        return Err(SettingError::new(
                            variable,
                            "must be false: each start of a function would look for them. PUT the buckets once",
                        ));
                    }
                }
                _ if name.starts_with(HEARTBEAT) => {}
                _ => {
                    let of = name.strip_suffix(TO_REVIEW_ENABLED);
                    let of = of.and_then(|of| of.strip_suffix('_'));
                    let Some(of) = of.filter(|of| !of.contains('(')) else {
                        let problem =
                            "is not known here, or is not set for a single bucket or collection";
                        return Err(SettingError::new(variable, problem));
                    };
                    let flag = file::is_flag(value);
                    let flag =
                        flag.ok_or_else(|| SettingError::new(variable, "must be true or false"))?;
                    reviews.insert(of.to_owned(), flag);
                }
            }
        }
        let resources = "KINTO_SIGNER_RESOURCES";
        let lines = vars.get(resources).unwrap_or(DEFAULT_RESOURCES);
        let lines = Resources::parse(lines);
        let lines = lines.map_err(|error| SettingError::new(resources, error.to_string()))?;
        Ok(Some(Self {
            warning: CertificateWarning::from_vars(vars)?,
            keys: KeysOfSources::from_vars(vars, &lines)?,
            resources: lines,
            to_review_enabled: vars.flag("KINTO_SIGNER_TO_REVIEW_ENABLED", false)?,
            allow_floats: vars.flag("KINTO_SIGNER_ALLOW_FLOATS", false)?,
            deletes_targets: vars.flag(&format!("{PREFIX}{HARD_DELETE}"), false)?,
            reviews,
        }))
    }

    /// What a collection is to the signer; `None` of one that it has nothing to do with.
    ///
    /// A line of a single collection wins over one of its bucket.
    pub fn role(&self, collection: &ObjectUri) -> Option<Role> {
        if collection.kind() != Kind::Collection {
            return None;
        }
        let lines = || self.resources.0.iter();
        let is_place = |place: &ObjectUri| place == collection;
        let of_collection = lines().find(|line| line.places().any(is_place));
        let bucket = collection.parent()?;
        let line = of_collection
            .or_else(|| lines().find(|line| line.places().any(|place| place == bucket)))?;
        let place = if of_collection.is_some() {
            collection
        } else {
            bucket
        };
        let is_source = line.source == *place;
        let publishing = self.publishing(line, collection.id());
        Some(match is_source {
            true => Role::Source(publishing),
            false => Role::Target(publishing),
        })
    }

    /// What becomes of a collection with that id in the source of a line.
    fn publishing(&self, line: &Resource, id: &str) -> SignedResource {
        let under = |place: &ObjectUri| match place.kind() {
            Kind::Bucket => place.children(Kind::Collection).object(id),
            _ => place.clone(),
        };
        let source = under(&line.source);
        SignedResource {
            preview: line.preview.as_ref().map(under),
            destination: under(&line.destination),
            is_reviewed: self.is_reviewed(source.bucket_id(), Some(source.id())),
            source,
        }
    }

    /// The keys that sign what is published from a source.
    pub fn keys(&self, source: &ObjectUri) -> Option<&Arc<Keys>> {
        self.keys.of(source)
    }

    /// The keys of all sources.
    pub fn all_keys(&self) -> impl Iterator<Item = &Arc<Keys>> {
        self.keys.all()
    }

    /// Whether what is published from a bucket, or a collection of it, is reviewed.
    ///
    /// In variables `.`, `-` and `_` are the same, and so are capitals and small letters: where ids differ in these alone,
    /// a setting is for all of them.
    pub fn is_reviewed(&self, bucket: &str, collection: Option<&str>) -> bool {
        let name = signer_keys::name;
        let bucket = name(bucket);
        let collection = collection.map(|id| format!("{bucket}_{}", name(id)));
        let mut names = collection.iter().chain([&bucket]);
        let set = names.find_map(|name| self.reviews.get(name));
        *set.unwrap_or(&self.to_review_enabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Option<SignerSettings>, SettingError> {
        let pem = crate::signer::tests::key_pem();
        let key = ("KINTO_SIGNER_ECDSA_PRIVATE_KEY", &*pem);
        let vars: Vars = [key].iter().chain(vars).copied().collect();
        let includes = Includes::of([PluginName::Signer]);
        SignerSettings::from_vars(&vars, &includes)
    }

    fn settings(vars: &[(&str, &str)]) -> SignerSettings {
        read(vars).unwrap().unwrap()
    }

    fn refused(name: &str, value: &str) -> String {
        let error = read(&[(name, value)]).unwrap_err();
        assert_eq!(error.variable, name, "{error}");
        error.problem
    }

    fn collection(bucket: &str, id: &str) -> ObjectUri {
        ObjectUri::collection(bucket, id)
    }

    #[test]
    fn nothing_is_signed_where_the_plugin_is_not_included() {
        let settings = SignerSettings::from_vars(&Vars::default(), &Includes::default());
        assert!(settings.unwrap().is_none());
        let variable = "KINTO_SIGNER_TO_REVIEW_ENABLED";
        let vars = [(variable, "true")].into_iter().collect();
        let error = SignerSettings::from_vars(&vars, &Includes::default()).unwrap_err();
        assert_eq!(error.variable, variable);
    }

    #[test]
    fn the_default_is_a_workspace_with_preview_without_review() {
        let settings = settings(&[]);
        let Some(Role::Source(of)) = settings.role(&collection("main-workspace", "c")) else {
            panic!("no source");
        };
        assert_eq!(of.preview, Some(collection("main-preview", "c")));
        assert_eq!(of.destination, collection("main", "c"));
        assert!(!of.is_reviewed && !settings.allow_floats);
        let roles = ["main", "main-preview"].map(|it| settings.role(&collection(it, "c")));
        assert_eq!(
            roles,
            [const { None }; 2].map(|_: Option<Role>| Some(Role::Target(of.clone())))
        );
        assert_eq!(settings.role(&collection("other", "c")), None);
        assert_eq!(settings.role(&ObjectUri::bucket("main")), None);
    }

    #[test]
    fn the_empty_text_is_nothing_that_is_signed() {
        let settings = settings(&[("KINTO_SIGNER_RESOURCES", "")]);
        assert_eq!(settings.role(&collection("main-workspace", "c")), None);
    }

    #[test]
    fn a_line_of_a_collection_wins_over_one_of_its_bucket() {
        let lines = "/buckets/a -> /buckets/b\na/c -> x/y";
        let settings = settings(&[("KINTO_SIGNER_RESOURCES", lines)]);
        let destination = |id| match settings.role(&collection("a", id)) {
            Some(Role::Source(of)) => of.destination,
            role => panic!("{role:?}"),
        };
        assert_eq!(destination("c"), collection("x", "y"));
        assert_eq!(destination("d"), collection("b", "d"));
    }

    #[test]
    fn review_is_looked_up_for_the_collection_then_the_bucket_then_all() {
        let all = settings(&[
            ("KINTO_SIGNER_TO_REVIEW_ENABLED", "true"),
            ("KINTO_SIGNER_MAIN_WORKSPACE_TO_REVIEW_ENABLED", "false"),
            (
                "KINTO_SIGNER_MAIN_WORKSPACE_ONE_TWO_TO_REVIEW_ENABLED",
                "true",
            ),
        ]);
        assert!(all.is_reviewed("other", Some("c")));
        assert!(!all.is_reviewed("main-workspace", Some("c")));
        assert!(!all.is_reviewed("main-workspace", None));
        assert!(all.is_reviewed("main-workspace", Some("one-two")));
        assert!(all.is_reviewed("main-workspace", Some("One_Two")));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(refused("KINTO_SIGNER_RESOURCES", "/buckets/a").contains("`/buckets/a`"));
        let backend = "kinto_remote_settings.signer.backends.other";
        assert!(refused("KINTO_SIGNER_SIGNER_BACKEND", backend).contains("local_ecdsa"));
        refused("KINTO_SIGNER_OTHER_ECDSA_PRIVATE_KEY", "/key");
        refused("KINTO_SIGNER_AUTO_CREATE_RESOURCES", "true");
        refused(
            "KINTO_SIGNER_HARD_DELETE_DESTINATION_ON_SOURCE_DELETION",
            "perhaps",
        );
        refused("KINTO_SIGNER_MAIN_TO_REVIEW_ENABLED", "perhaps");
        refused("KINTO_SIGNER_MAIN_(.+)_TO_REVIEW_ENABLED", "true");
        refused("KINTO_SIGNER_ECDSA_PRIVATE_KEY", "");
        refused("KINTO_SIGNER_ECDSA_PRIVATE_KEY", "/no/such/file");
        let problem = refused("KINTO_SIGNER_ECDSA_PRIVATE_KEY", "-----BEGIN hush-----");
        assert!(!problem.contains("hush"), "{problem}");
    }

    #[test]
    fn what_changes_nothing_is_taken() {
        settings(&[
            ("KINTO_SIGNER_AUTO_CREATE_RESOURCES", "false"),
            ("KINTO_SIGNER_SIGNER_BACKEND", signer_keys::LOCAL_ECDSA[1]),
            ("KINTO_SIGNER_HEARTBEAT_CERTIFICATE_MIN_REMAINING_DAYS", "3"),
        ]);
    }

    #[test]
    fn a_certificate_ends_soon_when_a_part_of_its_life_is_left_within_bounds() {
        let warning = settings(&[]).warning;
        let is_due = |life: u64, left: u64| {
            let ends = Timestamp(1000 * DAY);
            let begins = Timestamp(ends.0 - life * DAY);
            warning.is_due(begins, ends, Timestamp(ends.0 - left * DAY))
        };
        assert_eq!([11, 10].map(|left| is_due(90, left)), [false, true]);
        assert_eq!([19, 18].map(|left| is_due(365, left)), [false, true]);
        assert_eq!([31, 30].map(|left| is_due(900, left)), [false, true]);
        assert!(warning.is_due(Timestamp(0), Timestamp(DAY), Timestamp(9 * DAY)));
        refused("KINTO_SIGNER_HEARTBEAT_CERTIFICATE_MIN_REMAINING_DAYS", "x");
    }

    #[test]
    fn the_key_is_not_shown() {
        let shown = format!("{:?}", settings(&[]));
        assert!(
            shown.contains("main-workspace") && !shown.contains("key"),
            "{shown}"
        );
    }
}
