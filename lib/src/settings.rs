//! Configuration: Kinto's own settings, in Kinto's own convention for environment variables.
//!
//! The setting `changes.resources` is the variable `KINTO_CHANGES_RESOURCES`; `event_listeners.mp.url` is
//! `KINTO_EVENT_LISTENERS_MP_URL`. Each concern has a struct of its own, built from [`Vars`] once at start; an invalid
//! value stops the start with a [`SettingError`] that names the variable.

mod admin;
mod authentication;
mod broadcasts;
mod caching;
mod changes;
mod event_listeners;
mod file;
mod history;
mod includes;
pub mod ini;
mod listeners;
mod megaphone;
mod native;
mod openid;
mod prometheus;
mod signer;
mod signer_keys;
mod web;

pub use self::admin::AdminAssets;
pub use self::authentication::{ACCOUNT_POLICY, Policy};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

pub use self::broadcasts::{BroadcastsSettings, Debounce};
pub use self::caching::{CacheSettings, Expiry};
pub use self::changes::{ChangesDialect, ChangesSettings};
pub use self::history::HistorySettings;
pub use self::includes::{Includes, PluginName};
pub use self::ini::MAX_BYTES as MAX_INI_BYTES;
pub use self::listeners::ListenerSettings;
pub use self::megaphone::MegaphoneSettings;
pub use self::openid::{OpenIdSettings, UrlPattern};
pub use self::prometheus::PrometheusSettings;
pub use self::signer::{Role, SignedResource, SignerSettings};
pub use self::signer_keys::is_signer_secret;
pub use self::web::{EndOfService, EndpointType, Redirects, WebSettings};
use crate::hmac;
use crate::permission::{AUTHENTICATED, EVERYONE};
use crate::resource::{CollectionSet, Kind, ObjectUri};

/// A missing or invalid setting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct SettingError {
    /// The environment variable.
    pub variable: String,
    /// The problem; never includes the value, which may be a secret.
    pub problem: String,
}

impl SettingError {
    /// An error for `variable` because of `problem`.
    pub fn new(variable: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            variable: variable.into(),
            problem: problem.into(),
        }
    }
}

/// A value that neither logs nor error messages may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The value as the key of an HMAC.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Derives another secret for a purpose: HMAC-SHA256 of the purpose's name, in hexadecimal. It never equals a user
    /// id, whose message has a colon.
    pub(crate) fn derive(&self, purpose: &str) -> Self {
        Self(hmac::hex(&hmac::sign(self.as_bytes(), purpose)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The environment variables that settings are read from, and those derived from a `kinto.ini`.
///
/// The text of a setting is first parsed as JSON, as in Kinto: `"x"` is `x`, `["a", "b"]` two words.
///
/// An absent variable means the setting's default. An empty one means an empty value: no words, no text, an empty key;
/// it is an error for a number, a flag or a token, and for a required setting.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Vars(BTreeMap<String, String>, file::FromFile);

impl Vars {
    /// The environment of this process.
    pub fn from_env() -> Self {
        // Variables that are not UTF-8 cannot be our settings; `std::env::vars` would panic on them.
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of `name`, trimmed; `None` if it is not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A text without a default; an empty one counts as not set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// A text that must not be empty; `default` if it is not set.
    fn text_or<'v>(&'v self, name: &str, default: &'v str) -> Result<&'v str, SettingError> {
        match self.get(name) {
            Some("") => Err(SettingError::new(name, "must not be empty")),
            value => Ok(value.unwrap_or(default)),
        }
    }

    /// The value of `name`, or an error that it is required.
    pub fn require(&self, name: &str) -> Result<&str, SettingError> {
        self.text(name)
            .ok_or_else(|| SettingError::new(name, "is required"))
    }

    /// The key of an HMAC. It may be empty, as in Kinto: then everybody knows it, and a warning is logged.
    fn hmac_key(&self, name: &str) -> Option<Secret> {
        match self.get(name)? {
            "" => Some(empty_key(name)),
            key => Some(Secret::new(key)),
        }
    }

    /// Sets `name` unless it is already set.
    pub fn set_default(&mut self, name: &str, value: impl Into<String>) {
        if self.get(name).is_none() {
            self.0.insert(name.to_owned(), value.into());
        }
    }

    /// The name of every variable.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Every variable with its value.
    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Every value, so that references can be replaced by what they refer to.
    pub fn values_mut(&mut self) -> impl Iterator<Item = (&String, &mut String)> {
        self.0.iter_mut()
    }

    fn words(&self, name: &str) -> Option<Vec<String>> {
        self.get(name)
            .map(|value| value.split_whitespace().map(str::to_owned).collect())
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, SettingError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        file::is_flag(value).ok_or_else(|| SettingError::new(name, "must be true or false"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, SettingError> {
        let not_a_number = |_| SettingError::new(name, "must be a whole number, not negative");
        self.get(name)
            .map(|value| value.parse().map_err(not_a_number))
            .transpose()
    }

    /// A time in seconds, of a year at most: a longer one is a mistake, and would overflow the clock.
    pub(crate) fn seconds(&self, name: &str, default: u64) -> Result<Duration, SettingError> {
        let seconds = self.number(name)?.unwrap_or(default);
        if seconds > 365 * 24 * 3600 {
            return Err(SettingError::new(
                name,
                "must be a year at most, in seconds",
            ));
        }
        Ok(Duration::from_secs(seconds))
    }

    /// A number of objects; 0 counts as not set.
    fn size(&self, name: &str) -> Result<Option<usize>, SettingError> {
        let size = self
            .number(name)?
            .and_then(|size| usize::try_from(size).ok());
        Ok(size.filter(|size| *size > 0))
    }

    /// The token of an `Authorization: Bearer` header.
    fn token(&self, name: &str) -> Result<Option<Secret>, SettingError> {
        match self.get(name) {
            Some(value) if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(SettingError::new(
                    name,
                    "must be printable ASCII without spaces, and not empty",
                ))
            }
            value => Ok(value.map(Secret::new)),
        }
    }

    fn collections(&self, name: &str) -> Result<CollectionSet, SettingError> {
        CollectionSet::parse(self.get(name).unwrap_or_default())
            .map_err(|error| SettingError::new(name, error.to_string()))
    }
}

/// Values may be secrets.
impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Vars {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(vars: I) -> Self {
        let vars = vars.into_iter().map(|(name, value)| {
            let (name, value): (String, String) = (name.into(), value.into());
            let is_kintos = name.starts_with("KINTO_") || name.starts_with("MULTIAUTH_");
            let value = if is_kintos {
                native::text_of(&value)
            } else {
                value.trim().to_owned()
            };
            (name, value)
        });
        Self(vars.collect(), file::FromFile::default())
    }
}

/// All settings of a stack.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The HTTP API.
    pub api: ApiSettings,
    /// The monitor/changes endpoint and changesets.
    pub changes: ChangesSettings,
    /// The broadcasts that clients poll.
    pub broadcasts: BroadcastsSettings,
    /// The Megaphones to notify.
    pub megaphones: Vec<MegaphoneSettings>,
    /// The listeners to notify.
    pub listeners: Vec<ListenerSettings>,
}

impl Settings {
    /// Reads every concern's settings.
    ///
    /// # Errors
    /// The first setting that is missing or invalid.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let checked = vars.check_supported();
        let read = checked.and_then(|()| Self::read(vars));
        read.map_err(|error| vars.locate(error))
    }

    fn read(vars: &Vars) -> Result<Self, SettingError> {
        Ok(Self {
            api: ApiSettings::from_vars(vars)?,
            changes: ChangesSettings::from_vars(vars)?,
            broadcasts: BroadcastsSettings::from_vars(vars)?,
            megaphones: MegaphoneSettings::from_vars(vars)?,
            listeners: ListenerSettings::from_vars(vars)?,
        })
    }
}

/// Settings of the HTTP API.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// `includes`: the plugins that are on.
    pub includes: Includes,
    /// `multiauth.policies`: the ways to authenticate, in order of precedence.
    pub policies: Vec<Policy>,
    /// `account_hash_cost`: the cost of new hashes of passwords, as bcrypt has it: one more takes twice as long.
    pub account_hash_cost: u32,
    /// `account_cache_ttl_seconds`: how long the outcome of a password check is cached.
    pub account_cache_ttl: Duration,
    /// `userid_hmac_secret`: the key of the user ids of Basic auth. Another key gives every user another id.
    pub userid_hmac_secret: Secret,
    /// `default_bucket_hmac_secret`: the key of the ids of default buckets. Another key gives users other buckets.
    /// Derived from `userid_hmac_secret` if not set, unless there is a `kinto.ini`: with a key that anybody knows
    /// (Kinto's default is the empty one) anybody can compute the ids of others' buckets, and create these first.
    pub default_bucket_hmac_secret: Secret,
    /// `http_scheme`: the scheme of absolute URLs; the request's if not set.
    pub http_scheme: Option<String>,
    /// `http_host`: the host of absolute URLs; the request's if not set.
    pub http_host: Option<String>,
    /// `origin_secret`: the secret that a CDN in front sends with every request; `None` accepts requests from anywhere.
    pub origin_secret: Option<Secret>,
    /// `readonly`: whether writes are refused (405).
    pub readonly: bool,
    /// `explicit_permissions`: whether users who create or change an object are granted `write` on it.
    pub explicit_permissions: bool,
    /// `experimental_collection_schema_validation`: whether data must match the schemas of their collection and bucket.
    pub schema_validation: bool,
    /// `experimental_permissions_endpoint`: whether `/permissions` is served.
    pub permissions_endpoint: bool,
    /// Whether `/broadcasts` is served: if a reader's token is set.
    pub broadcasts_endpoint: bool,
    /// `permissions_read_principals`: the principals that may read `/permissions`; everyone if not set.
    pub permissions_read_principals: Vec<String>,
    /// `user-data_delete_principals`: the principals that may delete a user with all their data; nobody if not set.
    pub user_data_delete_principals: Vec<String>,
    /// `retry_after_seconds`: the value of `Retry-After` with 503.
    pub retry_after_seconds: u64,
    /// `backoff`: the value of `Backoff` on every response, in seconds.
    pub backoff: Option<u64>,
    /// `paginate_by`: the most objects in a page; only `storage_max_fetch_size` limits it if not set.
    pub paginate_by: Option<usize>,
    /// `storage_max_fetch_size`: the most objects in a page, whatever the client asks for.
    pub storage_max_fetch_size: usize,
    /// `batch_max_requests`: the most requests in a batch.
    pub batch_max_requests: usize,
    /// `project_docs`, shown in the hello view.
    pub project_docs: String,
    /// The max-age of responses.
    pub caching: CacheSettings,
    /// `admin_assets_path`: the build of Kinto Admin to serve; `None` if the plugin is off.
    pub admin: Option<AdminAssets>,
    /// What is reviewed, signed and published; `None` where the plugin is off.
    pub signer: Option<SignerSettings>,
    /// What histories leave out, and how much they keep; `None` where the plugin is off.
    pub history: Option<HistorySettings>,
    /// The API as a web service.
    pub web: WebSettings,
    /// The metrics that are served; `None` where the plugin is off.
    pub prometheus: Option<PrometheusSettings>,
    /// `request_log`: whether each request is a line of the log.
    pub request_log: bool,
    grants: BTreeMap<(Kind, &'static str), Vec<String>>,
    named_groups: BTreeSet<ObjectUri>,
}

impl ApiSettings {
    /// Reads the settings of the HTTP API, with Kinto 26.5's defaults.
    ///
    /// # Errors
    /// An invalid number or flag, an unknown plugin or policy, and a missing `KINTO_USERID_HMAC_SECRET` without a
    /// `kinto.ini`.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let mut grants = BTreeMap::new();
        for kind in Kind::ALL {
            for permission in ["create", "read", "write"] {
                let setting = format!("KINTO_{}_{permission}_PRINCIPALS", kind.name());
                if let Some(principals) = vars.words(&setting.to_ascii_uppercase()) {
                    grants.insert((kind, permission), principals);
                }
            }
        }
        grants
            .entry((Kind::Bucket, "create"))
            .or_insert_with(|| vec![AUTHENTICATED.to_owned()]);
        let permissions_read_principals = vars
            .words("KINTO_PERMISSIONS_READ_PRINCIPALS")
            .unwrap_or_else(|| vec![EVERYONE.to_owned()]);
        let user_data_delete_principals = vars
            .words("KINTO_USER_DATA_DELETE_PRINCIPALS")
            .unwrap_or_default();
        let includes = Includes::from_vars(vars)?;
        let history = match includes.has(PluginName::History) {
            true => Some(HistorySettings::from_vars(vars)?),
            false => None,
        };
        let prometheus = match includes.has(PluginName::Prometheus) {
            true => {
                let project = vars.get("KINTO_PROJECT_NAME").unwrap_or("kinto");
                Some(PrometheusSettings::from_vars(vars, project)?)
            }
            false => None,
        };
        let principals = grants.values().flatten();
        let of_history = history.iter().flat_map(HistorySettings::principals);
        let principals = principals
            .chain(of_history)
            .chain(&permissions_read_principals)
            .chain(&user_data_delete_principals);
        let groups = principals.filter_map(|principal| ObjectUri::parse(principal));
        let named_groups = groups.filter(|uri| uri.kind() == Kind::Group).collect();
        let userid_hmac_secret = match vars.hmac_key("KINTO_USERID_HMAC_SECRET") {
            Some(key) => key,
            // Kinto's default; any other key would give its users other ids.
            None if vars.has_file() => empty_key("KINTO_USERID_HMAC_SECRET"),
            None => return Err(SettingError::new("KINTO_USERID_HMAC_SECRET", "is required")),
        };
        let default_bucket_hmac_secret = match vars.hmac_key("KINTO_DEFAULT_BUCKET_HMAC_SECRET") {
            Some(key) => key,
            // Users of a Kinto that is moved with its file keep their buckets.
            None if vars.has_file() => Secret::new(""),
            None => userid_hmac_secret.derive("default_bucket_hmac_secret"),
        };
        Ok(Self {
            policies: Policy::from_vars(vars, &includes)?,
            account_hash_cost: hash_cost(vars)?,
            account_cache_ttl: vars.seconds("KINTO_ACCOUNT_CACHE_TTL_SECONDS", 30)?,
            userid_hmac_secret,
            default_bucket_hmac_secret,
            http_scheme: vars.text("KINTO_HTTP_SCHEME").map(str::to_owned),
            http_host: vars.text("KINTO_HTTP_HOST").map(str::to_owned),
            origin_secret: vars.text("KINTO_ORIGIN_SECRET").map(Secret::new),
            readonly: vars.flag("KINTO_READONLY", false)?,
            explicit_permissions: vars.flag("KINTO_EXPLICIT_PERMISSIONS", true)?,
            schema_validation: vars
                .flag("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", false)?,
            // Kinto Admin uses it to show users what they may see.
            permissions_endpoint: includes.has(PluginName::Admin)
                || vars.flag("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", false)?,
            admin: match includes.has(PluginName::Admin) {
                true => AdminAssets::from_vars(vars)?,
                false => None,
            },
            broadcasts_endpoint: vars.get("KINTO_BROADCASTS_READER_TOKEN").is_some(),
            permissions_read_principals,
            user_data_delete_principals,
            retry_after_seconds: vars.number("KINTO_RETRY_AFTER_SECONDS")?.unwrap_or(3),
            backoff: vars.number("KINTO_BACKOFF")?,
            paginate_by: vars.size("KINTO_PAGINATE_BY")?,
            storage_max_fetch_size: vars.size("KINTO_STORAGE_MAX_FETCH_SIZE")?.unwrap_or(10_000),
            batch_max_requests: vars.size("KINTO_BATCH_MAX_REQUESTS")?.unwrap_or(25),
            project_docs: vars
                .get("KINTO_PROJECT_DOCS")
                .unwrap_or("https://kinto.readthedocs.io/")
                .to_owned(),
            caching: CacheSettings::from_vars(vars)?,
            signer: SignerSettings::from_vars(vars, &includes)?,
            history,
            prometheus,
            web: WebSettings::from_vars(vars)?,
            request_log: vars.flag("KINTO_REQUEST_LOG", false)?,
            grants,
            named_groups,
            includes,
        })
    }

    /// The groups that the settings grant permissions to.
    pub fn named_groups(&self) -> &BTreeSet<ObjectUri> {
        &self.named_groups
    }

    /// The number of objects in a page for a client that asks for `limit`.
    pub fn page_size(&self, limit: Option<usize>) -> usize {
        let sizes = [limit, self.paginate_by].into_iter().flatten();
        sizes.fold(self.storage_max_fetch_size, usize::min)
    }

    /// The principals to whom the settings grant `permission` (`create`, `read`, `write`) on every object of `kind`:
    /// `KINTO_BUCKET_CREATE_PRINCIPALS` and the like.
    pub fn granted(&self, kind: Kind, permission: &'static str) -> &[String] {
        let principals = self.grants.get(&(kind, permission));
        principals.map_or(&[], Vec::as_slice)
    }

    /// Returns `true` if the settings grant `permission` on every object of `kind` to one of `principals`.
    pub fn grants(&self, kind: Kind, permission: &'static str, principals: &[String]) -> bool {
        let granted = self.granted(kind, permission);
        granted
            .iter()
            .any(|principal| principals.contains(principal))
    }
}

/// The cost of new hashes of passwords. Kinto 26.5 has 12, the default of Python's bcrypt. Hashes of less than 10 are too easy to break
/// (OWASP's Password Storage Cheat Sheet), and one of more than 14 takes a function longer than its client waits.
fn hash_cost(vars: &Vars) -> Result<u32, SettingError> {
    const NAME: &str = "KINTO_ACCOUNT_HASH_COST";
    let cost = vars.number(NAME)?.unwrap_or(12);
    let cost = u32::try_from(cost)
        .ok()
        .filter(|cost| (10..=14).contains(cost));
    cost.ok_or_else(|| SettingError::new(NAME, "must be 10 to 14"))
}

/// An empty HMAC key, with a warning in the log.
fn empty_key(name: &str) -> Secret {
    tracing::warn!("{name} is empty: whatever is made with this key, anybody can compute");
    Secret::new("")
}

/// Returns `true` if `value` is 1 to `max` characters that are valid in Megaphone's ids and in names of variables.
fn is_token(value: &str, max: usize) -> bool {
    (1..=max).contains(&value.len())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hmac_secret_is_required_and_buckets_may_be_created_by_who_is_authenticated() {
        assert_eq!(
            ApiSettings::from_vars(&Vars::default())
                .unwrap_err()
                .variable,
            "KINTO_USERID_HMAC_SECRET"
        );
        let settings =
            ApiSettings::from_vars(&[("KINTO_USERID_HMAC_SECRET", "s")].into_iter().collect())
                .unwrap();
        assert_eq!(settings.granted(Kind::Bucket, "create"), [AUTHENTICATED]);
        assert!(settings.granted(Kind::Record, "read").is_empty());
    }

    fn api(name: &str, value: &str) -> Result<ApiSettings, SettingError> {
        let vars = [("KINTO_USERID_HMAC_SECRET", "s"), (name, value)];
        ApiSettings::from_vars(&vars.into_iter().collect())
    }

    #[test]
    fn an_empty_setting_is_empty_and_not_the_default() {
        let settings = api("KINTO_BUCKET_CREATE_PRINCIPALS", "").unwrap();
        assert!(settings.granted(Kind::Bucket, "create").is_empty());
        let settings = api("KINTO_PERMISSIONS_READ_PRINCIPALS", " ").unwrap();
        assert!(settings.permissions_read_principals.is_empty());
        let settings = api("KINTO_USERID_HMAC_SECRET", "").unwrap();
        assert_eq!(settings.userid_hmac_secret, Secret::new(""));
        let settings = api("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "").unwrap();
        assert_eq!(settings.default_bucket_hmac_secret, Secret::new(""));
        let settings = api("KINTO_CORS_ORIGINS", "").unwrap();
        assert!(settings.web.cors_origins.is_empty());
        assert!(
            api("KINTO_MULTIAUTH_POLICIES", "")
                .unwrap()
                .policies
                .is_empty()
        );
    }

    #[test]
    fn passwords_are_hashed_as_kintos_or_with_another_cost_that_is_neither_weak_nor_too_slow() {
        let cost = |value| api("KINTO_ACCOUNT_HASH_COST", value).map(|api| api.account_hash_cost);
        assert_eq!(cost("10").unwrap(), 10);
        assert_eq!(cost("14").unwrap(), 14);
        for wrong in ["9", "15", "4294967308", "ten"] {
            assert_eq!(cost(wrong).unwrap_err().variable, "KINTO_ACCOUNT_HASH_COST");
        }
        assert_eq!(
            api("KINTO_READONLY", "false").unwrap().account_hash_cost,
            12
        );
    }

    #[test]
    fn an_empty_number_or_flag_is_named() {
        for name in [
            "KINTO_READONLY",
            "KINTO_EXPLICIT_PERMISSIONS",
            "KINTO_BACKOFF",
            "KINTO_PAGINATE_BY",
            "KINTO_BATCH_MAX_REQUESTS",
            "KINTO_ACCOUNT_CACHE_TTL_SECONDS",
            "KINTO_ACCOUNT_HASH_COST",
            "KINTO_CORS_MAX_AGE_SECONDS",
            "KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS",
            "KINTO_OBJECT_BUCKET_PUT_ENABLED",
        ] {
            assert_eq!(api(name, "").unwrap_err().variable, name);
        }
    }

    #[test]
    fn the_key_of_default_buckets_comes_from_that_of_user_ids_and_is_another() {
        let one = api("KINTO_READONLY", "false").unwrap();
        let derived = one.default_bucket_hmac_secret.reveal();
        assert_eq!(derived.len(), 64);
        let other = api("KINTO_USERID_HMAC_SECRET", "other").unwrap();
        assert_ne!(derived, other.default_bucket_hmac_secret.reveal());
    }
}
