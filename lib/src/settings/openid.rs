//! `kinto.plugins.openid`: the providers that users can log in with.

use std::time::Duration;

use reqwest::Url;

use super::{Secret, SettingError, Vars};
use crate::wildcard;

/// The callbacks that are trusted by default: those of clients on the user's own machine (Kinto 26.5).
const LOCAL_CALLBACKS: [&str; 2] = ["http://localhost:*/*", "http://127.0.0.1:*/*"];

/// The scopes that clients may request by default (Kinto 26.5).
const SCOPES: [&str; 3] = ["openid", "email", "profile"];

/// One provider: a policy whose `use` is `OpenIDConnectPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIdSettings {
    /// The policy's name, the prefix of its user ids.
    pub name: String,
    /// `…issuer`: its URL, as in its tokens.
    pub issuer: String,
    /// `…client_id`: the id of this server at the provider.
    pub client_id: String,
    /// `…client_secret`: the secret with which this server exchanges codes for tokens.
    pub client_secret: Secret,
    /// `…audience`: the required audience of its tokens; the client id if not set.
    pub audience: Option<String>,
    /// `…header_type`: the scheme of `Authorization`.
    pub header_type: String,
    /// `…userid_field`: the claim, or field of the user's profile, that becomes the user id.
    pub userid_field: String,
    /// `…verification_ttl_seconds`: how long a user's profile is cached.
    pub verification_ttl: Duration,
    /// `…state_ttl_seconds`: how long a login may take.
    pub state_ttl: Duration,
    /// `…allowed_scopes`: the scopes that clients may request.
    pub allowed_scopes: Vec<String>,
    /// `…trusted_callback_urls`: the URLs to which tokens may be sent.
    pub trusted_callbacks: Vec<UrlPattern>,
    /// `true` if the settings name no trusted callback. Then the Kinto Admin that is served is trusted too.
    pub trusts_admin: bool,
}

impl OpenIdSettings {
    /// Reads the settings of the policy `name`; `variable` returns the variable of each setting.
    ///
    /// # Errors
    /// A missing required setting, an invalid number or URL.
    pub fn from_vars(
        vars: &Vars,
        name: &str,
        variable: impl Fn(&str) -> String,
    ) -> Result<Self, SettingError> {
        let text = |setting: &str, default: &str| {
            let variable = variable(setting);
            vars.text_or(&variable, default).map(str::to_owned)
        };
        let words = |setting: &str| vars.words(&variable(setting));
        let seconds = |setting: &str, default: u64| vars.seconds(&variable(setting), default);
        let issuer = vars.require(&variable("ISSUER"))?;
        let is_url = Url::parse(issuer).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !is_url {
            let problem = "must be an http or https URL";
            return Err(SettingError::new(variable("ISSUER"), problem));
        }
        let callbacks = variable("TRUSTED_CALLBACK_URLS");
        let trusted = words("TRUSTED_CALLBACK_URLS");
        let trusts_admin = trusted.is_none();
        let trusted = trusted.unwrap_or_else(|| LOCAL_CALLBACKS.map(str::to_owned).into());
        let trusted = trusted.iter().map(|pattern| {
            UrlPattern::parse(pattern)
                .ok_or_else(|| SettingError::new(&*callbacks, format!("`{pattern}` is no URL")))
        });
        Ok(Self {
            name: name.to_owned(),
            issuer: issuer.to_owned(),
            client_id: vars.require(&variable("CLIENT_ID"))?.to_owned(),
            client_secret: Secret::new(vars.get(&variable("CLIENT_SECRET")).unwrap_or_default()),
            audience: vars.text(&variable("AUDIENCE")).map(str::to_owned),
            header_type: text("HEADER_TYPE", "Bearer")?,
            userid_field: text("USERID_FIELD", "sub")?,
            verification_ttl: seconds("VERIFICATION_TTL_SECONDS", 86_400)?,
            state_ttl: seconds("STATE_TTL_SECONDS", 3600)?,
            allowed_scopes: words("ALLOWED_SCOPES")
                .unwrap_or_else(|| SCOPES.map(str::to_owned).into()),
            trusted_callbacks: trusted.collect::<Result<_, _>>()?,
            trusts_admin,
        })
    }

    /// Returns `true` if tokens may be sent to `callback`.
    pub fn trusts(&self, callback: &Url) -> bool {
        let mut trusted = self.trusted_callbacks.iter();
        trusted.any(|pattern| pattern.matches(callback))
    }
}

/// A pattern of URLs: `*` in the host, in the port, or in the rest matches anything there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPattern {
    scheme: String,
    host: String,
    /// The scheme's default if none is given.
    port: String,
    /// Path, query and fragment.
    rest: String,
}

impl UrlPattern {
    /// Parses a pattern; `None` unless it is one of http or https URLs.
    pub fn parse(pattern: &str) -> Option<Self> {
        let (scheme, after) = pattern.split_once("://")?;
        let split = after.find('/').unwrap_or(after.len());
        let (authority, rest) = after.split_at(split);
        // A colon within the brackets of an IPv6 address begins no port.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, default_port(scheme)?),
        };
        let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit() || b == b'*');
        default_port(scheme)?;
        (is_port && !host.is_empty() && !host.contains('@')).then(|| Self {
            scheme: scheme.to_owned(),
            host: host.to_ascii_lowercase(),
            port: port.to_owned(),
            rest: if rest.is_empty() { "/" } else { rest }.to_owned(),
        })
    }

    /// Returns `true` if the URL, parsed as browsers do, matches. A URL with a user in it never does.
    pub fn matches(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return false;
        };
        let rest = [
            ("", Some(url.path())),
            ("?", url.query()),
            ("#", url.fragment()),
        ];
        let rest = rest.map(|(mark, part)| part.map(|part| format!("{mark}{part}")));
        let rest: String = rest.into_iter().flatten().collect();
        url.username().is_empty()
            && url.password().is_none()
            && url.scheme() == self.scheme
            && wildcard::matches(host, &self.host)
            && wildcard::matches(&port.to_string(), &self.port)
            && wildcard::matches(&rest, &self.rest)
    }
}

fn default_port(scheme: &str) -> Option<&'static str> {
    match scheme {
        "http" => Some("80"),
        "https" => Some("443"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, url: &str) -> bool {
        let pattern = UrlPattern::parse(pattern).unwrap();
        Url::parse(url).is_ok_and(|url| pattern.matches(&url))
    }

    #[test]
    fn a_star_stands_for_anything_within_its_part() {
        for (pattern, url) in [
            ("http://localhost:*/*", "http://localhost:3000/a?b#c="),
            ("http://localhost:*/*", "http://LOCALHOST/"),
            (
                "https://*.example.org/app/*",
                "https://a.b.example.org/app/x",
            ),
            ("https://example.org", "https://example.org:443"),
            (
                "https://example.org/*#tokens=",
                "https://example.org/x#tokens=",
            ),
            ("http://[::1]:*/*", "http://[::1]:8000/"),
            ("http://[::1]/*", "http://[::1]/x"),
        ] {
            assert!(matches(pattern, url), "{pattern} {url}");
        }
    }

    #[test]
    fn what_a_browser_takes_elsewhere_does_not_match() {
        let pattern = "https://*.trusted.example/app/*";
        for url in [
            "http://a.trusted.example/app/",
            "https://trusted.example/app/",
            "https://evil.example\\.trusted.example/app/",
            "https://evil.example/.trusted.example/app/",
            "https://evil.example#.trusted.example/app/",
            "https://a.trusted.example@evil.example/app/",
            "https://me@a.trusted.example/app/",
            "https://a.trusted.example:8443/app/",
            "https://a.trusted.example/app/../other/",
            "https://a.trusted.example/app/%2e%2e/other/",
            "https://a.trusted.example/app/..\\other/",
            "javascript:alert(1)",
            "/app/",
        ] {
            assert!(!matches(pattern, url), "{url}");
        }
        assert!(!matches(
            "https://example.org/*",
            "https://example.org.evil.example/"
        ));
    }

    #[test]
    fn what_is_no_pattern_of_urls_is_refused() {
        for pattern in [
            "*",
            "localhost",
            "ftp://a/*",
            "http:///x",
            "http://a:x/",
            "http://a@b/",
        ] {
            assert_eq!(UrlPattern::parse(pattern), None, "{pattern}");
        }
    }
}
