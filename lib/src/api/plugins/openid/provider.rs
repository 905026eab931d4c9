//! One provider, and the verification of its tokens.
//!
//! A JSON Web Token is verified with the provider's keys, which are cached for a while, and needs no request of its
//! own. If its claims lack the user id, or the token is no JSON Web Token, the provider's userinfo endpoint is asked,
//! as in Kinto 26.5. With an `audience`, only tokens that are verified to be for it are accepted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::header::AUTHORIZATION;
use reqwest::{RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::hmac;
use crate::http_client;
use crate::settings::{ApiSettings, OpenIdSettings, Policy, Secret};
use crate::store::membership::MAX_PRINCIPAL_LENGTH;
use crate::timestamp::Timestamp;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of a whole request. Three of them, one after the other, must fit into the API's time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The time for which keys and endpoints are cached.
const METADATA_TTL: Duration = Duration::from_secs(3600);
/// The age from which keys are fetched again for an unknown key id: anyone can make one up.
const KEY_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// The most profiles to cache, and the most tokens that the provider refused.
const MAX_PROFILES: usize = 1000;
/// The time for which a token that the provider refused is not sent to it again.
const REFUSAL_TTL: Duration = Duration::from_secs(60);

/// A provider that does not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No answer, or none in time.
    #[error("no answer from the provider")]
    NoAnswer(#[source] reqwest::Error),
    /// A status that is of no use.
    #[error("the provider answered {0}")]
    Status(StatusCode),
    /// A body that is of no use.
    #[error("the provider's answer cannot be read")]
    Malformed(#[source] serde_json::Error),
}

/// A provider and what is cached of it.
#[derive(Debug)]
pub struct Provider {
    settings: OpenIdSettings,
    hmac_secret: Secret,
    client: reqwest::Client,
    endpoints: tokio::sync::Mutex<Option<Cached<Endpoints>>>,
    keys: tokio::sync::Mutex<Option<Cached<Vec<Jwk>>>>,
    profiles: Mutex<HashMap<[u8; 32], Profile>>,
    /// When it last did not name its endpoints to somebody who asked for its description.
    unnamed_at: Mutex<Option<Instant>>,
    /// The time until which each token that it refused is not sent to it again. Apart from the profiles, so that
    /// made-up tokens take no place of true ones.
    refusals: Mutex<HashMap<[u8; 32], Instant>>,
}

/// An answer of the provider, and when it came.
#[derive(Debug)]
struct Cached<T> {
    content: Arc<T>,
    at: Instant,
}

/// The fields of `/.well-known/openid-configuration` that are of use.
#[derive(Debug, Deserialize)]
pub struct Endpoints {
    /// Its identifier, as the issuer of tokens.
    pub issuer: String,
    /// The URL where users log in.
    pub authorization_endpoint: String,
    /// The URL where codes are exchanged for tokens.
    pub token_endpoint: String,
    /// The URL where tokens are exchanged for profiles.
    pub userinfo_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Value>,
}

/// The user of a token, according to the provider.
#[derive(Clone, Debug)]
struct Profile {
    user_id: Option<String>,
    until: Instant,
}

impl Provider {
    /// The providers that the settings name.
    pub fn all(settings: &ApiSettings) -> Vec<Self> {
        let policies = settings.policies.iter();
        let providers = policies.filter_map(|policy| match policy {
            Policy::OpenId(provider) => {
                let hmac_secret = settings.userid_hmac_secret.clone();
                Some(Self::new((**provider).clone(), hmac_secret))
            }
            _ => None,
        });
        providers.collect()
    }

    /// A provider of which nothing is cached.
    ///
    /// # Panics
    /// When the TLS backend cannot be set up.
    fn new(settings: OpenIdSettings, hmac_secret: Secret) -> Self {
        let client = http_client::builder(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .expect("a TLS backend");
        Self {
            settings,
            hmac_secret,
            client,
            endpoints: tokio::sync::Mutex::default(),
            keys: tokio::sync::Mutex::default(),
            profiles: Mutex::default(),
            unnamed_at: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// Its settings.
    pub fn settings(&self) -> &OpenIdSettings {
        &self.settings
    }

    /// The user id that an `Authorization` header proves; `None` when it proves none.
    ///
    /// # Errors
    /// The provider cannot be asked.
    pub async fn user_id(&self, authorization: &str) -> Result<Option<String>, ProviderError> {
        let Some((scheme, token)) = authorization.split_once(' ') else {
            return Ok(None);
        };
        if !scheme.eq_ignore_ascii_case(&self.settings.header_type) {
            return Ok(None);
        }
        let token = token.trim();
        let claims = self.claims(token).await?;
        let claimed = claims.as_ref().and_then(|claims| self.user_in(claims));
        if claimed.is_some() || claims.is_none() && self.settings.audience.is_some() {
            return Ok(claimed);
        }
        self.user_in_profile(token).await
    }

    /// Its endpoints, fetched less than [`METADATA_TTL`] ago. At most one request is in progress.
    ///
    /// # Errors
    /// The provider cannot be asked.
    pub async fn endpoints(&self) -> Result<Arc<Endpoints>, ProviderError> {
        let mut known = self.endpoints.lock().await;
        if let Some(known) = Cached::within(known.as_ref(), METADATA_TTL) {
            return Ok(known);
        }
        let issuer = self.settings.issuer.trim_end_matches('/');
        let url = format!("{issuer}/.well-known/openid-configuration");
        let endpoints = fetch(self.client.get(url)).await?;
        Ok(Cached::keep(&mut known, endpoints))
    }

    /// Exchanges a code for tokens. Returns the provider's answer, whatever it is.
    ///
    /// # Errors
    /// The provider cannot be asked.
    pub async fn exchange_code(
        &self,
        code: &str,
        redirect_uri: &str,
    ) -> Result<Vec<u8>, ProviderError> {
        let endpoints = self.endpoints().await?;
        let form = [
            ("code", code),
            ("client_id", &*self.settings.client_id),
            ("client_secret", self.settings.client_secret.reveal()),
            ("redirect_uri", redirect_uri),
            ("grant_type", "authorization_code"),
        ];
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let request = self.client.post(&endpoints.token_endpoint);
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let answer = request.send().await.map_err(ProviderError::NoAnswer)?;
        if answer.status().is_server_error() {
            return Err(ProviderError::Status(answer.status()));
        }
        let body = answer.bytes().await.map_err(ProviderError::NoAnswer)?;
        Ok(body.into())
    }

    /// Its description in `GET /v1/`, as in Kinto 26.5, which asks the provider when it starts. Here the first to ask for it has
    /// the provider asked, whose answer serves for [`METADATA_TTL`]: a function that starts to write a record need not know.
    ///
    /// A provider that does not answer is shown without what only it knows, and not asked for the sake of a description
    /// for [`REFUSAL_TTL`].
    pub async fn capability(&self) -> Value {
        let OpenIdSettings {
            name,
            issuer,
            client_id,
            audience,
            header_type,
            ..
        } = &self.settings;
        let endpoints = self.endpoints_if_it_answers().await;
        json!({
            "name": name,
            "issuer": endpoints.as_ref().map_or(issuer, |it| &it.issuer),
            "auth_path": format!("/openid/{name}/login"),
            "client_id": client_id,
            "audience": audience.as_deref().unwrap_or_default(),
            "header_type": header_type,
            "userinfo_endpoint": endpoints.as_ref().map(|it| &*it.userinfo_endpoint),
        })
    }

    /// Its endpoints; `None` where it does not name them, or did not a while ago.
    async fn endpoints_if_it_answers(&self) -> Option<Arc<Endpoints>> {
        let unnamed_at = || {
            self.unnamed_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if unnamed_at().is_some_and(|at| at.elapsed() < REFUSAL_TTL) {
            return None;
        }
        let endpoints = self.endpoints().await;
        if let Err(error) = &endpoints {
            let provider = &self.settings.name;
            tracing::warn!(%error, %provider, "a provider cannot be told of in full");
            *unnamed_at() = Some(Instant::now());
        }
        endpoints.ok()
    }

    /// The claims of a JSON Web Token that the provider signed for us and that is valid now; `None` for any other
    /// token.
    async fn claims(&self, token: &str) -> Result<Option<Map<String, Value>>, ProviderError> {
        let Ok(header) = jsonwebtoken::decode_header(token) else {
            return Ok(None);
        };
        let Some(key_id) = &header.kid else {
            return Ok(None);
        };
        let is_named = |key: &&Jwk| key.common.key_id.as_ref() == Some(key_id);
        let mut keys = self.keys_until(METADATA_TTL).await?;
        if !keys.iter().any(|key| is_named(&key)) {
            keys = self.keys_until(KEY_REFRESH_INTERVAL).await?;
        }
        let Some(key) = keys.iter().find(is_named) else {
            return Ok(None);
        };
        let Some(decoding_key) = is_for(key, header.alg)
            .then(|| DecodingKey::from_jwk(key).ok())
            .flatten()
        else {
            return Ok(None);
        };
        let audience = self.settings.audience.as_ref();
        let mut validation = Validation::new(header.alg);
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[audience.unwrap_or(&self.settings.client_id)]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let decoded = jsonwebtoken::decode(token, &decoding_key, &validation);
        if let Err(error) = &decoded {
            tracing::debug!(%error, provider = %self.settings.name, "a token is not valid");
        }
        Ok(decoded.ok().map(|decoded| decoded.claims))
    }

    /// Asks the provider for the user of a token.
    async fn user_in_profile(&self, token: &str) -> Result<Option<String>, ProviderError> {
        let key = hmac::sign(
            self.hmac_secret.as_bytes(),
            &format!("{}:{token}", self.settings.name),
        );
        let now = Instant::now();
        if let Some(known) = self.profiles().get(&key).filter(|known| known.until > now) {
            return Ok(known.user_id.clone());
        }
        if self.refusals().get(&key).is_some_and(|until| *until > now) {
            return Ok(None);
        }
        let endpoints = self.endpoints().await?;
        let request = self.client.get(&endpoints.userinfo_endpoint);
        let profile = fetch(request.header(AUTHORIZATION, format!("Bearer {token}"))).await;
        let profile: Map<String, Value> = match profile {
            Err(ProviderError::Status(status)) if !status.is_server_error() => {
                // Other statuses, such as 429, say nothing about the token.
                if matches!(status.as_u16(), 400 | 401 | 403) {
                    self.remember_refusal(key, now);
                }
                return Ok(None);
            }
            profile => profile?,
        };
        let user_id = self.user_in(&profile);
        let ttl = self.settings.verification_ttl;
        let until = now + remaining_lifetime(token).map_or(ttl, |left| left.min(ttl));
        let mut profiles = self.profiles();
        profiles.retain(|_, known| known.until > now);
        if profiles.len() < MAX_PROFILES {
            let user_id = user_id.clone();
            profiles.insert(key, Profile { user_id, until });
        }
        Ok(user_id)
    }

    fn remember_refusal(&self, key: [u8; 32], now: Instant) {
        let mut refusals = self.refusals();
        refusals.retain(|_, until| *until > now);
        if refusals.len() < MAX_PROFILES {
            refusals.insert(key, now + REFUSAL_TTL);
        }
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profiles(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Profile>> {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user id in claims or a profile.
    fn user_in(&self, fields: &Map<String, Value>) -> Option<String> {
        let user = fields.get(&self.settings.userid_field)?.as_str()?;
        let user_id = format!("{}:{user}", self.settings.name);
        (!user.is_empty() && user_id.len() <= MAX_PRINCIPAL_LENGTH).then_some(user_id)
    }

    /// The keys that it signs with, fetched again if they are older than `age`. At most one request is in progress.
    async fn keys_until(&self, age: Duration) -> Result<Arc<Vec<Jwk>>, ProviderError> {
        let mut known = self.keys.lock().await;
        if let Some(known) = Cached::within(known.as_ref(), age) {
            return Ok(known);
        }
        let endpoints = self.endpoints().await?;
        let Keys { keys } = fetch(self.client.get(&endpoints.jwks_uri)).await?;
        // Keys of unknown kinds cannot verify anything.
        let keys = keys.into_iter();
        let keys = keys.filter_map(|key| serde_json::from_value(key).ok());
        Ok(Cached::keep(&mut known, keys.collect()))
    }
}

impl<T> Cached<T> {
    /// The content, if it was fetched less than `age` ago.
    fn within(known: Option<&Self>, age: Duration) -> Option<Arc<T>> {
        let known = known.filter(|known| known.at.elapsed() < age)?;
        Some(Arc::clone(&known.content))
    }

    /// Stores what was fetched just now.
    fn keep(known: &mut Option<Self>, content: T) -> Arc<T> {
        let content = Arc::new(content);
        let at = Instant::now();
        *known = Some(Self {
            content: Arc::clone(&content),
            at,
        });
        content
    }
}

/// Returns `true` if the key verifies signatures of this algorithm: never signatures that a public key could make, nor
/// with a key that is for something else (RFC 7517, `use` and `key_ops`).
fn is_for(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let of_kind: &[_] = match &key.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => &[ES256],
            EllipticCurve::P384 => &[ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(_) => &[EdDSA],
        _ => &[],
    };
    let named = key.common.key_algorithm;
    let signs = key.common.public_key_use.as_ref();
    let operations = key.common.key_operations.as_ref();
    signs.is_none_or(|of| *of == PublicKeyUse::Signature)
        && operations.is_none_or(|all| all.contains(&KeyOperations::Verify))
        && of_kind.contains(&algorithm)
        && named.is_none_or(|named| named.to_string().parse() == Ok(algorithm))
}

/// The time for which a token says that it is still valid, true or not; `None` when it does not say.
fn remaining_lifetime(token: &str) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    let Expiry { exp } = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    let now = Timestamp::now().0 / 1000;
    Some(Duration::from_secs(exp.saturating_sub(now)))
}

async fn fetch<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ProviderError> {
    let answer = request.send().await.map_err(ProviderError::NoAnswer)?;
    if !answer.status().is_success() {
        return Err(ProviderError::Status(answer.status()));
    }
    let body = answer.bytes().await.map_err(ProviderError::NoAnswer)?;
    serde_json::from_slice(&body).map_err(ProviderError::Malformed)
}
