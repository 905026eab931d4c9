//! Settings of the API as a web service, rather than of its objects.

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use http::Method;

use super::{SettingError, Vars};
use crate::resource::Kind;
use crate::timestamp::Timestamp;

/// Settings of the API as a web service; the defaults are Kinto 26.5's.
#[derive(Clone, Debug)]
pub struct WebSettings {
    /// `project_name`: shown in the hello view and in `__api__`.
    pub project_name: String,
    /// `project_version`: shown in the hello view.
    pub project_version: String,
    /// `cors_origins`: the origins that browsers may send requests from; `*` matches anything, and alone allows all.
    pub cors_origins: Vec<String>,
    /// `cors_max_age_seconds`: the max-age of preflights; 0 sets none.
    pub cors_max_age_seconds: Option<u64>,
    /// `backoff_percentage`: the share of the responses with a `Backoff`; all if not set.
    pub backoff_percentage: Option<u64>,
    /// `eos`, `eos_message`, `eos_url`: the end of the service, if one is planned.
    pub end_of_service: Option<EndOfService>,
    /// `heartbeat_timeout_seconds`: a check that takes longer counts as failed.
    pub heartbeat_timeout_seconds: u64,
    /// `root_cache_expires_seconds`: the max-age of the hello view of a server that is `readonly`.
    pub root_cache_expires_seconds: u64,
    /// Redirects of paths that lack the version.
    pub version_prefix_redirect: Redirects,
    /// Redirects of paths with a trailing slash.
    pub trailing_slash_redirect: Redirects,
    /// `{object,plural}_{kind}_{method}` of each disabled method.
    disabled: Vec<(EndpointType, Kind, Method)>,
}

/// `{…}_redirect_enabled` and `{…}_redirect_ttl_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirects {
    /// Whether to redirect rather than answer 404.
    pub enabled: bool,
    /// The max-age of the redirect, in seconds; `None` sets none.
    pub ttl_seconds: Option<u64>,
}

/// The end of the service, with the message about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndOfService {
    /// `eos` as it was written.
    pub date: String,
    /// The same as a time.
    pub at: Timestamp,
    /// `eos_message`.
    pub message: Option<String>,
    /// `eos_url`; the project's documentation if not set.
    pub url: Option<String>,
}

/// The type of a kind's endpoint that a setting is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointType {
    /// A single object.
    Object,
    /// A list.
    Plural,
}

impl EndpointType {
    const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Plural => "plural",
        }
    }
}

impl WebSettings {
    /// Reads the settings.
    ///
    /// # Errors
    /// An invalid number, flag or date.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let text = |name: &str| vars.get(name).map(str::to_owned);
        Ok(Self {
            project_name: text("KINTO_PROJECT_NAME")
                .unwrap_or_else(|| "kinto-serverless".to_owned()),
            project_version: text("KINTO_PROJECT_VERSION")
                .unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            cors_origins: vars
                .words("KINTO_CORS_ORIGINS")
                .unwrap_or_else(|| vec!["*".to_owned()]),
            cors_max_age_seconds: ttl(vars, "KINTO_CORS_MAX_AGE_SECONDS", Some(3600))?
                .filter(|seconds| *seconds > 0),
            backoff_percentage: vars.number("KINTO_BACKOFF_PERCENTAGE")?,
            end_of_service: EndOfService::from_vars(vars)?,
            heartbeat_timeout_seconds: vars
                .number("KINTO_HEARTBEAT_TIMEOUT_SECONDS")?
                .unwrap_or(10),
            root_cache_expires_seconds: vars
                .number("KINTO_ROOT_CACHE_EXPIRES_SECONDS")?
                .unwrap_or(86_400),
            version_prefix_redirect: Redirects::from_vars(vars, "VERSION_PREFIX", None)?,
            trailing_slash_redirect: Redirects::from_vars(vars, "TRAILING_SLASH", Some(3600))?,
            disabled: disabled(vars)?,
        })
    }

    /// Returns `true` if the settings allow the method on the endpoint.
    ///
    /// `HEAD` needs no setting of its own where `GET` is served (Kinto 26.5: Cornice answers it with `GET`).
    pub fn is_enabled(&self, endpoint: EndpointType, kind: Kind, method: &Method) -> bool {
        let is_on = |method: &Method| {
            let mut disabled = self.disabled.iter();
            disabled.all(|(of, off, other)| (*of, *off, other) != (endpoint, kind, method))
        };
        match (method, endpoint) {
            (&Method::HEAD, EndpointType::Object) => is_on(&Method::GET),
            (&Method::HEAD, EndpointType::Plural) => is_on(&Method::GET) || is_on(&Method::HEAD),
            _ => is_on(method),
        }
    }
}

/// Reads `KINTO_{OBJECT,PLURAL}_{KIND}_{METHOD}_ENABLED`.
fn disabled(vars: &Vars) -> Result<Vec<(EndpointType, Kind, Method)>, SettingError> {
    const METHODS: [Method; 6] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let mut disabled = vec![];
    for kind in Kind::ALL {
        for endpoint in [EndpointType::Object, EndpointType::Plural] {
            for method in METHODS {
                let setting = format!("KINTO_{}_{}_{method}_ENABLED", endpoint.name(), kind.name());
                if !vars.flag(&setting.to_ascii_uppercase(), true)? {
                    disabled.push((endpoint, kind, method));
                }
            }
        }
    }
    Ok(disabled)
}

/// A max-age in seconds; `None` for a negative number.
fn ttl(vars: &Vars, name: &str, default: Option<u64>) -> Result<Option<u64>, SettingError> {
    match vars.get(name) {
        None => Ok(default),
        Some(value) => {
            let seconds: i64 = value
                .parse()
                .map_err(|_| SettingError::new(name, "must be a whole number"))?;
            Ok(u64::try_from(seconds).ok())
        }
    }
}

impl Redirects {
    fn from_vars(
        vars: &Vars,
        prefix: &str,
        default_ttl: Option<u64>,
    ) -> Result<Self, SettingError> {
        Ok(Self {
            enabled: vars.flag(&format!("KINTO_{prefix}_REDIRECT_ENABLED"), true)?,
            ttl_seconds: ttl(
                vars,
                &format!("KINTO_{prefix}_REDIRECT_TTL_SECONDS"),
                default_ttl,
            )?,
        })
    }
}

impl EndOfService {
    fn from_vars(vars: &Vars) -> Result<Option<Self>, SettingError> {
        let Some(date) = vars.text("KINTO_EOS") else {
            return Ok(None);
        };
        let at = parse_date(date).ok_or_else(|| {
            SettingError::new("KINTO_EOS", "must be a date: 2030-12-31[T23:59:59Z]")
        })?;
        Ok(Some(Self {
            date: date.to_owned(),
            at,
            message: vars.text("KINTO_EOS_MESSAGE").map(str::to_owned),
            url: vars.text("KINTO_EOS_URL").map(str::to_owned),
        }))
    }
}

/// Parses an ISO 8601 date, with or without a time, or a date of HTTP. UTC if no offset is given.
fn parse_date(text: &str) -> Option<Timestamp> {
    if let Ok(date) = DateTime::from_str(text, Format::HttpDate) {
        return u64::try_from(date.to_millis().ok()?).ok().map(Timestamp);
    }
    let mut text = match text.len() {
        // 20301231
        8 if text.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..])
        }
        _ => text.replacen(' ', "T", 1).replace('/', "-"),
    };
    match text.split_once('T') {
        None => text.push_str("T00:00:00"),
        // Hours and minutes only: `10:00`.
        Some((_, time)) if time.len() == 5 => text.push_str(":00"),
        Some(_) => {}
    }
    let without_offset = format!("{text}Z");
    let date = DateTime::from_str(&text, Format::DateTimeWithOffset)
        .or_else(|_| DateTime::from_str(&without_offset, Format::DateTimeWithOffset));
    let millis = date.ok()?.to_millis().ok()?;
    u64::try_from(millis).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Result<WebSettings, SettingError> {
        WebSettings::from_vars(&vars.iter().copied().collect())
    }

    #[test]
    fn the_end_of_service_is_a_date_with_or_without_a_time() {
        for (text, at) in [
            ("2030-01-02", 1_893_542_400_000),
            ("2030-01-02T03:04:05", 1_893_553_445_000),
            ("2030-01-02 03:04", 1_893_553_440_000),
            ("2030/01/02", 1_893_542_400_000),
            ("20300102", 1_893_542_400_000),
            ("Wed, 02 Jan 2030 03:04:05 GMT", 1_893_553_445_000),
            ("2030-01-02 03:04:05", 1_893_553_445_000),
            ("2030-01-02T03:04:05Z", 1_893_553_445_000),
            ("2030-01-02T03:04:05+01:00", 1_893_549_845_000),
        ] {
            assert_eq!(parse_date(text), Some(Timestamp(at)), "{text}");
        }
        for text in ["soon", "2030-13-01", "1969-01-01", "2030-01-02T"] {
            let error = settings(&[("KINTO_EOS", text)]).unwrap_err();
            assert_eq!(error.variable, "KINTO_EOS", "{text}");
        }
    }

    #[test]
    fn a_method_is_turned_off_for_one_kind_and_one_type_of_endpoint() {
        let settings = settings(&[
            ("KINTO_OBJECT_BUCKET_PUT_ENABLED", "false"),
            ("KINTO_OBJECT_RECORD_GET_ENABLED", "no"),
            ("KINTO_PLURAL_RECORD_HEAD_ENABLED", "0"),
        ])
        .unwrap();
        let is_enabled = |endpoint, kind, method| settings.is_enabled(endpoint, kind, &method);
        assert!(!is_enabled(EndpointType::Object, Kind::Bucket, Method::PUT));
        assert!(is_enabled(EndpointType::Object, Kind::Group, Method::PUT));
        assert!(is_enabled(EndpointType::Plural, Kind::Bucket, Method::PUT));
        assert!(!is_enabled(
            EndpointType::Object,
            Kind::Record,
            Method::HEAD
        ));
        assert!(is_enabled(EndpointType::Plural, Kind::Record, Method::HEAD));
    }

    #[test]
    fn a_negative_number_of_seconds_says_nothing_of_keeping() {
        let read = settings(&[
            ("KINTO_TRAILING_SLASH_REDIRECT_TTL_SECONDS", "-1"),
            ("KINTO_VERSION_PREFIX_REDIRECT_TTL_SECONDS", "60"),
        ])
        .unwrap();
        assert_eq!(read.trailing_slash_redirect.ttl_seconds, None);
        assert_eq!(read.version_prefix_redirect.ttl_seconds, Some(60));
        let error = settings(&[("KINTO_TRAILING_SLASH_REDIRECT_TTL_SECONDS", "x")]).unwrap_err();
        assert_eq!(error.variable, "KINTO_TRAILING_SLASH_REDIRECT_TTL_SECONDS");
    }
}
