//! Users of an OpenID Connect provider, which is a server beside the API.

mod login;
mod tokens;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tests::{Answer, Kinto, NOBODY};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const CALLBACK: &str = "http://localhost:3000/#tokens=";

/// A provider, and the API whose users log in with it.
struct OpenId {
    provider: MockServer,
    key: Key,
    kinto: Kinto,
    /// The settings of `kinto`.
    vars: std::collections::BTreeMap<String, String>,
}

/// A key of the provider.
struct Key {
    id: &'static str,
    private: EncodingKey,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self {
            id,
            private: EncodingKey::from_ec_der(key.as_ref()),
        }
    }

    fn public(&self) -> Value {
        let mut key = Jwk::from_encoding_key(&self.private, Algorithm::ES256).unwrap();
        key.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(key).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }
}

impl OpenId {
    /// With these settings of the policy `idp` added.
    async fn with(settings: &[(&str, &str)]) -> Self {
        let (provider, key) = (MockServer::start().await, Key::new("k1"));
        let issuer = provider.uri();
        let settings: Vec<_> = [
            ("USE", "kinto.plugins.openid.OpenIDConnectPolicy"),
            ("ISSUER", &issuer),
            ("CLIENT_ID", "me"),
            ("CLIENT_SECRET", "hush"),
        ]
        .iter()
        .chain(settings)
        .map(|(name, value)| (format!("MULTIAUTH_POLICY_IDP_{name}"), *value))
        .collect();
        let mut vars = vec![
            ("KINTO_INCLUDES", "kinto.plugins.openid"),
            ("MULTIAUTH_POLICIES", "idp"),
        ];
        vars.extend(settings.iter().map(|(name, value)| (&**name, *value)));
        let kinto = Kinto::with(&vars).as_user(NOBODY);
        let vars = vars.into_iter();
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let openid = Self {
            vars: vars.collect(),
            provider,
            key,
            kinto,
        };
        openid.publish(&[&openid.key]).await;
        openid
    }

    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// Makes the provider publish its configuration, with these keys.
    async fn publish(&self, keys: &[&Key]) {
        let keys = keys.iter().map(|key| key.public());
        self.publish_public(keys.collect()).await;
    }

    /// The same for keys in the provider's format.
    async fn publish_public(&self, mut keys: Vec<Value>) {
        self.provider.reset().await;
        let url = self.provider.uri();
        let metadata = json!({
            "issuer": url,
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/tokens"),
            "userinfo_endpoint": format!("{url}/profile"),
            "jwks_uri": format!("{url}/keys"),
        });
        self.answers("/.well-known/openid-configuration", metadata)
            .await;
        // A key that we cannot use, and that must do no harm.
        keys.push(json!({"kty": "AKP", "kid": "new", "alg": "ML-DSA-44", "pub": "AA"}));
        keys.push(json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}));
        self.answers("/keys", json!({"keys": keys})).await;
    }

    async fn answers(&self, at: &str, body: Value) {
        Mock::given(method("GET"))
            .and(path(at))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .mount(&self.provider)
            .await;
    }

    /// Makes the provider accept the token as this profile's; it refuses all others.
    async fn knows(&self, token: &str, profile: Value) {
        Mock::given(path("/profile"))
            .and(header("authorization", format!("Bearer {token}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(profile))
            .mount(&self.provider)
            .await;
        Mock::given(path("/profile"))
            .respond_with(ResponseTemplate::new(401))
            .with_priority(10)
            .mount(&self.provider)
            .await;
    }

    /// The number of the provider's requests at a path.
    async fn asked(&self, at: &str) -> usize {
        let requests = self.provider.received_requests().await.unwrap();
        let requests = requests.iter();
        requests.filter(|request| request.url.path() == at).count()
    }

    /// The claims of a user who may use this server.
    fn claims(&self) -> Value {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        json!({"iss": self.provider.uri(), "aud": "me", "exp": now + 600, "sub": "jane"})
    }

    async fn get_with(&self, path: &str, authorization: &str) -> Answer {
        let headers = [("authorization", authorization)];
        self.kinto.send("GET", path, &headers, "").await
    }

    /// The user id for the token.
    async fn user_id(&self, token: &str) -> Value {
        let hello = self.get_with("/", &format!("Bearer {token}")).await;
        hello.body["user"]["id"].clone()
    }
}

/// The parameters of a URL.
fn parameters(url: &str) -> Value {
    let url = reqwest::Url::parse(url).unwrap();
    let pairs = url.query_pairs();
    let pairs = pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into()));
    Value::Object(pairs.collect())
}
