//! A `kinto.ini` as a source of settings: the variables that its names stand for, and the settings that are refused or
//! ignored.
//!
//! Variables take precedence over the file. A setting that would change what the API does, but is not supported here,
//! stops the start; one that only a server needs (backends, statsd, sentry), or that is unknown, is named in the log.

use std::collections::BTreeMap;

use super::ini::{self, Entry};
use super::{SettingError, Vars, native};

/// The treatment of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Known,
    /// It stops the start, for this reason.
    Refused(&'static str),
    /// It makes no difference, for this reason.
    Ignored(&'static str),
}

/// Settings of Kinto and its plugins that are known by their full name, as Kinto writes it.
const KNOWN: &[&str] = &[
    "admin_assets_path",
    "includes",
    "userid_hmac_secret",
    "user-data_delete_principals",
    "permissions_read_principals",
    "default_bucket_hmac_secret",
    "http_scheme",
    "http_host",
    "readonly",
    "explicit_permissions",
    "experimental_collection_schema_validation",
    "experimental_permissions_endpoint",
    "retry_after_seconds",
    "backoff",
    "backoff_percentage",
    "paginate_by",
    "storage_max_fetch_size",
    "batch_max_requests",
    "project_docs",
    "project_name",
    "project_version",
    "cors_origins",
    "cors_max_age_seconds",
    "eos",
    "eos_message",
    "eos_url",
    "heartbeat_timeout_seconds",
    "root_cache_expires_seconds",
    "version_prefix_redirect_enabled",
    "version_prefix_redirect_ttl_seconds",
    "trailing_slash_redirect_enabled",
    "trailing_slash_redirect_ttl_seconds",
    "account_cache_ttl_seconds",
    "multiauth.policies",
    "event_listeners",
    "history.exclude_resources",
    "history.exclude_user_ids",
    "history.auto_trim_max_count",
    "history.auto_trim_threshold",
    "history.auto_trim_user_ids",
    "changes.resources",
    "changes.excluded_collections",
    "changes.http_host",
    "changes.since_max_age_days",
    "changes.since_max_age_redirect_ttl_seconds",
    "push_broadcast_min_debounce_interval_seconds",
    "push_broadcast_max_debounce_interval_seconds",
    "metrics_matchdict_fields",
    "prometheus_prefix",
    "prometheus_disabled_metrics",
    "prometheus_histogram_buckets",
    "prometheus_created_metrics_enabled",
];

/// Settings of this server alone, with `_` for `.` and `-`: here these are one.
const OWN: &[&str] = &[
    "account_hash_cost",
    "origin_secret",
    "cache_expires_seconds",
    "cache_maximum_expires_seconds",
    "broadcasts_broadcaster_id",
    "broadcasts_reader_token",
    "settings_max_age_seconds",
    "request_log",
    "metrics",
];

/// Prefixes of settings, with their treatment.
const BY_PREFIX: &[(&str, Treatment)] = &[
    ("multiauth_policy_", Treatment::Known),
    ("event_listeners_", Treatment::Known),
    ("signer_", Treatment::Known),
    ("quotas_", Treatment::Refused("there are no quotas here")),
    (
        "attachment_",
        Treatment::Refused("there are no attachments here"),
    ),
    (
        "account_validation",
        Treatment::Refused("accounts are not validated by mail here"),
    ),
    (
        "emailer_",
        Treatment::Refused("there is no kinto-emailer here"),
    ),
    ("fxa_", Treatment::Refused("there is no kinto-fxa here")),
    (
        "fxaoauth_",
        Treatment::Refused("there is no kinto-fxa here"),
    ),
    (
        "portier_",
        Treatment::Refused("there is no kinto-portier here"),
    ),
    ("ldap_", Treatment::Refused("there is no kinto-ldap here")),
    ("storage_", Treatment::Ignored(BACKEND)),
    ("cache_backend", Treatment::Ignored(BACKEND)),
    ("cache_url", Treatment::Ignored(BACKEND)),
    ("cache_hosts", Treatment::Ignored(BACKEND)),
    ("cache_prefix", Treatment::Ignored(BACKEND)),
    ("cache_pool_", Treatment::Ignored(BACKEND)),
    ("cache_max_", Treatment::Ignored(BACKEND)),
    ("permission_backend", Treatment::Ignored(BACKEND)),
    ("permission_url", Treatment::Ignored(BACKEND)),
    ("permission_pool_", Treatment::Ignored(BACKEND)),
    ("permission_max_", Treatment::Ignored(BACKEND)),
    ("statsd_", Treatment::Ignored(OPERATION)),
    ("sentry_", Treatment::Ignored(OPERATION)),
    ("newrelic_", Treatment::Ignored(OPERATION)),
    ("profiler_", Treatment::Ignored(OPERATION)),
    ("metrics_", Treatment::Ignored(OPERATION)),
    ("prometheus_", Treatment::Ignored(OPERATION)),
    ("logging_", Treatment::Ignored(OPERATION)),
];

const BACKEND: &str = "everything is kept in DynamoDB";
const OPERATION: &str = "AWS measures and logs the functions";

/// The endings of settings whose names include buckets, collections and kinds.
const KNOWN_ENDS: [&str; 3] = [
    "_cache_expires_seconds",
    "_cache_minimum_expires_seconds",
    "_cache_maximum_expires_seconds",
];

/// The ending of the one of these that Kinto also knows with `_` between bucket, collection and the rest.
const RECORDS_EXPIRE: &str = "record_cache_expires_seconds";

/// The objects whose permissions settings grant: `{object}_{permission}_principals`.
const GRANTED: [&str; 6] = [
    "bucket",
    "collection",
    "group",
    "record",
    "account",
    "history",
];

/// Settings that may be empty in a file, which is the same as leaving them out.
const MAY_BE_EMPTY: [&str; 4] = [
    "paginate_by",
    "backoff",
    "backoff_percentage",
    "project_version",
];

/// Settings that may be empty in a file, which means there what 0 means.
const EMPTY_IS_ZERO: [&str; 1] = ["cors_max_age_seconds"];

/// Settings that select code, with the only code available here.
const CODE: [(&str, &str); 7] = [
    ("id_generator", "kinto.core.storage.generators.UUID4"),
    ("bucket_id_generator", "kinto.views.NameGenerator"),
    ("collection_id_generator", "kinto.views.NameGenerator"),
    ("group_id_generator", "kinto.views.NameGenerator"),
    ("record_id_generator", "kinto.views.RelaxedUUID"),
    (
        "multiauth.authorization_policy",
        "kinto.authorization.AuthorizationPolicy",
    ),
    (
        "multiauth.groupfinder",
        "kinto.core.authorization.groupfinder",
    ),
];

/// Settings that select more code, with the beginnings of what makes no difference here.
const MORE_CODE: [(&str, &[&str]); 2] = [
    (
        "pyramid_includes",
        &["pyramid_tm", "pyramid_debugtoolbar", "pyramid_exclog"],
    ),
    ("initialization_sequence", &["kinto.core."]),
];

/// The treatment of a setting, by its value and by its name, in lower case and with `_` for `.` and `-`.
fn fate(name: &str, value: &str) -> Treatment {
    if KNOWN.iter().any(|known| is_plain_of(name, known)) || OWN.contains(&name) {
        return Treatment::Known;
    }
    let own_code = Treatment::Refused("code of one's own cannot be used here");
    if let Some((_, only)) = CODE.iter().find(|(code, _)| is_plain_of(name, code)) {
        return if value == *only {
            Treatment::Known
        } else {
            own_code
        };
    }
    if let Some((_, harmless)) = MORE_CODE.iter().find(|(code, _)| *code == name) {
        let is_harmless = |word: &str| harmless.iter().any(|begin| word.starts_with(begin));
        return if value.split_whitespace().all(is_harmless) {
            Treatment::Ignored("all of it is built in, or of no use here")
        } else {
            own_code
        };
    }
    if name == "http_api_version" {
        return match value.split('.').next() {
            Some("1") => Treatment::Ignored("the version is that of what is served"),
            _ => Treatment::Refused("version 1 of the API is the only one"),
        };
    }
    let prefixed = BY_PREFIX
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix));
    if name == "account_validation" && is_flag(value) == Some(false) {
        return Treatment::Known;
    }
    if let Some((_, fate)) = prefixed {
        return *fate;
    }
    let is_switch =
        (name.starts_with("object_") || name.starts_with("plural_")) && name.ends_with("_enabled");
    let is_grant = || {
        let granted = name.strip_suffix("_principals")?.rsplit_once('_')?;
        let (object, permission) = granted;
        Some(GRANTED.contains(&object) && ["create", "read", "write"].contains(&permission))
    };
    if is_switch
        || KNOWN_ENDS.iter().any(|end| name.ends_with(end))
        || is_grant().unwrap_or_default()
    {
        return Treatment::Known;
    }
    Treatment::Ignored("it is not known")
}

/// Returns `true` if `name` is [`plain`] of a known name. A start compares each setting with all known names, so this builds no text.
fn is_plain_of(name: &str, known: &str) -> bool {
    name.chars().eq(known.chars().map(plain_char))
}

/// The name of a setting of Kinto that is known by its full name.
fn as_kinto_writes(name: &str) -> Option<&'static str> {
    let mut code = CODE.iter().map(|(code, _)| code);
    let known = KNOWN.iter().find(|known| is_plain_of(name, known));
    known
        .or_else(|| code.find(|code| is_plain_of(name, code)))
        .copied()
}

/// The boolean that a flag's text stands for; `None` if it is no flag.
pub(super) fn is_flag(value: &str) -> Option<bool> {
    match &*value.to_ascii_lowercase() {
        "true" | "yes" | "on" | "1" | "t" | "y" => Some(true),
        "false" | "no" | "off" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// Returns `true` for the names of settings that are flags.
fn is_named_as_flag(name: &str) -> bool {
    matches!(name, "readonly" | "request_log" | "metrics")
        || name == "explicit_permissions"
        || name.starts_with("experimental_")
        || name.ends_with("_enabled")
        || name.starts_with("event_listeners_") && name.ends_with("_synchronous")
}

/// The name without `kinto.`, as the file writes it.
fn bare(key: &str) -> &str {
    key.strip_prefix("kinto.").unwrap_or(key)
}

/// The name without `kinto.`, in lower case and with `_` in place of `.` and `-`.
fn plain(key: &str) -> String {
    bare(key).chars().map(plain_char).collect()
}

fn plain_char(c: char) -> char {
    match c {
        '.' | '-' => '_',
        c => c.to_ascii_lowercase(),
    }
}

/// Returns `true` if Kinto would recognise the name as it is written, with these dots and capitals; it ignores any other.
fn is_written_as_known(key: &str, name: &str) -> bool {
    let bare = bare(key);
    if let Some(known) = as_kinto_writes(name) {
        return bare == known;
    }
    // Names that contain ids may have capitals.
    if name.starts_with("signer_") {
        return bare.starts_with("signer.");
    }
    for group in ["multiauth.policy.", "event_listeners."] {
        if name.starts_with(&plain(group)) {
            let named = bare.strip_prefix(group).and_then(|it| it.rsplit_once('.'));
            return named.is_some_and(|(_, setting)| !setting.contains('-'));
        }
    }
    if OWN.contains(&name) {
        return !bare.contains(|c: char| c.is_ascii_uppercase());
    }
    if let Some(end) = KNOWN_ENDS.iter().find(|end| name.ends_with(*end)) {
        let is_of_kind = || {
            bare.strip_suffix(end)
                .is_some_and(|kind| GRANTED.contains(&kind))
        };
        let is_of_bucket = || {
            let bucket = bare
                .strip_suffix(end)
                .and_then(|it| it.strip_suffix(".record"));
            bucket.is_some()
        };
        return is_of_kind() || is_of_bucket() || is_legacy(bare);
    }
    bare == name
}

/// Returns `true` for `{bucket}_record_cache_expires_seconds` and `{bucket}_{collection}_record_cache_expires_seconds`. Kinto
/// reads these too, after all others for records.
fn is_legacy(bare: &str) -> bool {
    let ids = bare
        .strip_suffix(RECORDS_EXPIRE)
        .and_then(|it| it.strip_suffix('_'));
    ids.is_some_and(|ids| !ids.is_empty())
}

impl Vars {
    /// Takes over the settings of a `kinto.ini`, the file at `path`, that no variable sets; returns warnings.
    ///
    /// # Errors
    /// Names the line and the key that cannot be read, or the unsupported setting; never shows a value.
    pub fn add_ini(&mut self, bytes: &[u8], path: &str) -> Result<Vec<String>, SettingError> {
        let refuse = |error: ini::IniError| SettingError::new("kinto.ini", error.to_string());
        let entries = ini::parse(bytes, path).map_err(refuse)?;
        let mut warnings = vec![];
        let mut given: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in entries {
            let name = plain(&entry.key);
            let mut value = native::text_of(&entry.value);
            let fate = match fate(&name, &value) {
                Treatment::Known if !is_written_as_known(&entry.key, &name) => {
                    Treatment::Ignored("Kinto does not know it with these dots and letters")
                }
                fate => fate,
            };
            match fate {
                Treatment::Known => {}
                Treatment::Refused(why) => {
                    return Err(refuse(entry.refuse(format!("is not supported: {why}"))));
                }
                Treatment::Ignored(why) => {
                    warnings.push(format!(
                        "kinto.ini, line {}, `{}` makes no difference: {why}",
                        entry.line, entry.key
                    ));
                    continue;
                }
            }
            if let Some(other) = given.get(&name) {
                if other.value != entry.value {
                    let problem = format!("has another value than `{}`", other.key);
                    return Err(refuse(entry.refuse(problem)));
                }
                continue;
            }
            if is_named_as_flag(&name) && is_flag(&value).is_none() {
                warnings.push(format!(
                    "kinto.ini, line {}, `{}` is neither true nor false, and then false as in Kinto",
                    entry.line, entry.key
                ));
                "false".clone_into(&mut value);
            }
            if value.is_empty() && EMPTY_IS_ZERO.contains(&&*name) {
                "0".clone_into(&mut value);
            }
            let upper = name.to_ascii_uppercase();
            let variable = format!("KINTO_{upper}");
            // pyramid_multiauth's settings lack Kinto's prefix.
            let is_set = self.get(&variable).is_some()
                || upper.starts_with("MULTIAUTH_") && self.get(&upper).is_some();
            let is_left_out = value.is_empty() && MAY_BE_EMPTY.contains(&&*name);
            if !is_set && !is_left_out {
                self.0.insert(variable.clone(), value);
                self.1
                    .lines
                    .insert(variable, (entry.line, entry.key.clone()));
            }
            given.insert(name, entry);
        }
        self.1.is_given = true;
        Ok(warnings)
    }

    /// Returns `true` if a `kinto.ini` was taken over.
    pub fn has_file(&self) -> bool {
        self.1.is_given
    }

    /// Returns `true` if the setting comes from the file, where it is written `{bucket}_record_cache_expires_seconds`.
    pub(super) fn is_legacy(&self, variable: &str) -> bool {
        let written = self.1.lines.get(variable);
        written.is_some_and(|(_, key)| is_legacy(bare(key)))
    }

    /// Checks that no variable sets an unsupported setting.
    ///
    /// # Errors
    /// Names the first one.
    pub(super) fn check_supported(&self) -> Result<(), SettingError> {
        for (variable, value) in &self.0 {
            let Some(name) = variable.strip_prefix("KINTO_") else {
                continue;
            };
            if let Treatment::Refused(why) = fate(&name.to_ascii_lowercase(), value) {
                return Err(SettingError::new(
                    variable,
                    format!("is not supported: {why}"),
                ));
            }
        }
        Ok(())
    }

    /// The same error, with the line of the file if the setting comes from there.
    pub(crate) fn locate(&self, error: SettingError) -> SettingError {
        match self.1.lines.get(&error.variable) {
            Some((line, key)) => SettingError::new(
                "kinto.ini",
                format!(
                    "line {line}, `{key}` ({}): {}",
                    error.variable, error.problem
                ),
            ),
            None => error,
        }
    }
}

/// The part of the settings that comes from a file.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct FromFile {
    /// Whether there is a file.
    pub(super) is_given: bool,
    /// The line and the key for each variable set by the file.
    lines: BTreeMap<String, (usize, String)>,
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    const START: &str = "[app:main]\nuse = egg:kinto\nkinto.userid_hmac_secret = \"hush\"\n";

    fn read(text: &str, vars: &[(&str, &str)]) -> Result<(Vars, Vec<String>), SettingError> {
        let mut vars: Vars = vars.iter().copied().collect();
        let warnings = vars.add_ini(format!("{START}{text}").as_bytes(), "/")?;
        Ok((vars, warnings))
    }

    #[test]
    fn variables_win_over_the_file_and_its_values_are_tried_as_json() {
        let text =
            "kinto.paginate_by = 10\nbatch_max_requests = 7\nmultiauth.policies = basicauth\n";
        let vars = [("KINTO_PAGINATE_BY", "3"), ("MULTIAUTH_POLICIES", "")];
        let (vars, warnings) = read(text, &vars).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let settings = Settings::from_vars(&vars).unwrap().api;
        assert_eq!(settings.userid_hmac_secret.reveal(), "hush");
        assert_eq!(
            (settings.paginate_by, settings.batch_max_requests),
            (Some(3), 7)
        );
        assert!(settings.policies.is_empty());
    }

    #[test]
    fn what_does_not_matter_here_is_named_without_its_value() {
        let text = "kinto.storage_url = postgres://u:secret@h/d\nkinto.statsd_url = udp://secret\nKinto.readonly = secret\nkinto.nothing = secret\n";
        let (_, warnings) = read(text, &[]).unwrap();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        let misspelt = "kinto.ini, line 6, `Kinto.readonly`";
        assert!(warnings.iter().any(|it| it.starts_with(misspelt)));
        assert!(warnings.iter().all(|warning| !warning.contains("secret")));
    }

    #[test]
    fn what_would_change_the_api_is_refused_by_name() {
        for setting in [
            "quotas.bucket_max_bytes = 1",
            "kinto.attachment.base_path = /tmp",
            "kinto.record_id_generator = mine.Generator",
            "kinto.account_validation = true",
            "kinto.bucket_create_principals = a\nbucket_create_principals = b",
        ] {
            let error = read(setting, &[]).err().unwrap();
            assert_eq!(error.variable, "kinto.ini", "{setting}");
            assert!(error.problem.starts_with("line "), "{error}");
        }
        read(
            "kinto.record_id_generator = kinto.views.RelaxedUUID\nkinto.account_validation = false",
            &[],
        )
        .unwrap();
    }

    #[test]
    fn names_are_known_with_kintos_dots_and_letters_alone() {
        for (key, is_known) in [
            ("kinto.changes.resources", true),
            ("changes_resources", false),
            ("kinto.paginate-by", false),
            ("user-data_delete_principals", true),
            ("user_data_delete_principals", false),
            ("multiauth.policy.My-Google.client_id", true),
            ("multiauth.policy.google.client-id", false),
            ("multiauth_policy_google_client_id", false),
            ("event_listeners.mp.use", true),
            ("event_listeners.mp_use", false),
            ("kinto.signer.main.A-b.to_review_enabled", true),
            ("kinto.A-b.c.record_cache_maximum_expires_seconds", true),
            ("kinto.a_c_record_cache_expires_seconds", true),
            ("kinto.a_c_record_cache_maximum_expires_seconds", false),
            ("kinto.record_cache_expires_seconds", true),
            ("kinto.record.cache.expires.seconds", false),
            ("kinto.object_record_delete_enabled", true),
            ("kinto.object.record.delete_enabled", false),
            ("kinto.history_read_principals", true),
            ("kinto.blog_record_read_principals", false),
            ("kinto.request.log", true),
        ] {
            let text = format!("{key} = 1\n");
            let (_, warnings) = read(&text, &[]).unwrap();
            assert_eq!(
                warnings.iter().all(|it| !it.contains(key)),
                is_known,
                "{key} {warnings:?}"
            );
        }
    }

    #[test]
    fn code_of_ones_own_is_refused_and_kintos_makes_no_difference() {
        for setting in [
            "kinto.http_api_version = 2.0",
            "kinto.initialization_sequence = kinto.core.initialization.setup_storage mine.setup",
            "pyramid.includes = pyramid_tm mine",
            "multiauth.groupfinder = mine.groups",
        ] {
            assert!(read(setting, &[]).is_err(), "{setting}");
        }
        let kintos = "kinto.http_api_version = 1.23\npyramid.includes = pyramid_tm\nmultiauth.groupfinder = kinto.core.authorization.groupfinder\n";
        assert_eq!(read(kintos, &[]).unwrap().1.len(), 2);
    }

    #[test]
    fn variables_are_refused_for_the_same() {
        for variable in ["KINTO_SIGNER_RESOURCES", "KINTO_QUOTAS_X"] {
            let vars = [("KINTO_USERID_HMAC_SECRET", "s"), (variable, "x")];
            let error = Settings::from_vars(&vars.into_iter().collect()).unwrap_err();
            assert_eq!(error.variable, variable);
        }
    }

    #[test]
    fn a_value_that_cannot_be_used_is_found_in_the_file() {
        let (vars, _) = read("kinto.paginate_by = hush", &[]).unwrap();
        let error = Settings::from_vars(&vars).unwrap_err().to_string();
        assert!(
            error.starts_with("kinto.ini: line 4, `kinto.paginate_by`"),
            "{error}"
        );
        assert!(!error.contains("hush"));
    }

    #[test]
    fn a_flag_with_a_remark_is_false_as_in_kinto_and_what_is_empty_is_left_out() {
        let text = "kinto.readonly = true ; remark\nkinto.paginate_by =\nkinto.backoff = \nkinto.cors_origins =\nkinto.cors_max_age_seconds =\n";
        let (vars, warnings) = read(text, &[]).unwrap();
        assert_eq!(warnings.len(), 1);
        let settings = Settings::from_vars(&vars).unwrap().api;
        assert!(!settings.readonly && settings.paginate_by.is_none() && settings.backoff.is_none());
        assert!(settings.web.cors_origins.is_empty());
        assert_eq!(settings.web.cors_max_age_seconds, None);
    }
}
