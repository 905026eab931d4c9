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

/// Settings that are known by their full name.
const KNOWN: &[&str] = &[
    "admin_assets_path",
    "includes",
    "userid_hmac_secret",
    "user_data_delete_principals",
    "default_bucket_hmac_secret",
    "http_scheme",
    "http_host",
    "origin_secret",
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
    "cache_expires_seconds",
    "cache_maximum_expires_seconds",
    "heartbeat_timeout_seconds",
    "root_cache_expires_seconds",
    "version_prefix_redirect_enabled",
    "version_prefix_redirect_ttl_seconds",
    "trailing_slash_redirect_enabled",
    "trailing_slash_redirect_ttl_seconds",
    "account_cache_ttl_seconds",
    "multiauth_policies",
    "event_listeners",
    "history_exclude_resources",
    "history_exclude_user_ids",
    "history_auto_trim_max_count",
    "history_auto_trim_threshold",
    "history_auto_trim_user_ids",
    "changes_resources",
    "changes_excluded_collections",
    "changes_http_host",
    "changes_since_max_age_days",
    "changes_since_max_age_redirect_ttl_seconds",
    "push_broadcast_min_debounce_interval_seconds",
    "push_broadcast_max_debounce_interval_seconds",
    "broadcasts_broadcaster_id",
    "broadcasts_reader_token",
    "settings_max_age_seconds",
    "request_log",
    "metrics",
    "metrics_matchdict_fields",
    "prometheus_prefix",
    "prometheus_disabled_metrics",
    "prometheus_histogram_buckets",
    "prometheus_created_metrics_enabled",
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

/// The endings of settings whose names include buckets, collections, kinds and methods.
const KNOWN_ENDS: [&str; 6] = [
    "_cache_expires_seconds",
    "_cache_minimum_expires_seconds",
    "_cache_maximum_expires_seconds",
    "_create_principals",
    "_read_principals",
    "_write_principals",
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
const GENERATORS: [(&str, &str); 6] = [
    ("id_generator", "kinto.core.storage.generators.UUID4"),
    ("bucket_id_generator", "kinto.views.NameGenerator"),
    ("collection_id_generator", "kinto.views.NameGenerator"),
    ("group_id_generator", "kinto.views.NameGenerator"),
    ("record_id_generator", "kinto.views.RelaxedUUID"),
    (
        "multiauth_authorization_policy",
        "kinto.authorization.AuthorizationPolicy",
    ),
];

/// The treatment of a setting, by its value and by its name, in lower case and with `_` for `.` and `-`.
fn fate(name: &str, value: &str) -> Treatment {
    if KNOWN.contains(&name) {
        return Treatment::Known;
    }
    if let Some((_, only)) = GENERATORS.iter().find(|(generator, _)| *generator == name) {
        return if value == *only {
            Treatment::Known
        } else {
            Treatment::Refused("code of one's own cannot be used here")
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
    if is_switch || KNOWN_ENDS.iter().any(|end| name.ends_with(end)) {
        return Treatment::Known;
    }
    Treatment::Ignored("it is not known")
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

/// The name without `kinto.`, in lower case and with `_` in place of `.` and `-`.
fn plain(key: &str) -> String {
    let name = key.strip_prefix("kinto.").unwrap_or(key);
    name.replace(['.', '-'], "_").to_ascii_lowercase()
}

/// Returns `true` if Kinto would recognise the name as it is written: names that contain ids may have capitals.
fn is_written_as_known(key: &str, name: &str) -> bool {
    let has_ids = name.starts_with("multiauth_policy_")
        || name.starts_with("event_listeners_")
        || name.ends_with("_expires_seconds")
        || name.starts_with("signer_");
    has_ids || !key.contains(|c: char| c.is_ascii_uppercase())
}

impl Vars {
    /// Takes over the settings of a `kinto.ini` in the directory `here` that no variable sets; returns warnings.
    ///
    /// # Errors
    /// Names the line and the key that cannot be read, or the unsupported setting; never shows a value.
    pub fn add_ini(&mut self, bytes: &[u8], here: &str) -> Result<Vec<String>, SettingError> {
        let refuse = |error: ini::IniError| SettingError::new("kinto.ini", error.to_string());
        let entries = ini::parse(bytes, here).map_err(refuse)?;
        let mut warnings = vec![];
        let mut given: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in entries {
            let name = plain(&entry.key);
            let mut value = native::text_of(&entry.value);
            let fate = match fate(&name, &value) {
                Treatment::Known if !is_written_as_known(&entry.key, &name) => {
                    Treatment::Ignored("names are in lower case")
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
