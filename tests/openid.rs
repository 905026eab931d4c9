//! Users of OpenID Connect providers, who are a server beside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{Answer, Kinto, NOBODY};
use wiremock::matchers::{body_string_contains, header, method, path};
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
    /// With these settings of the policy `idp` besides.
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

    /// Has the provider tell of itself, with these keys.
    async fn publish(&self, keys: &[&Key]) {
        let keys = keys.iter().map(|key| key.public());
        self.publish_public(keys.collect()).await;
    }

    /// The same of keys as the provider writes them.
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
        // Of no use to us, and no hindrance.
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

    /// Has the provider know whose the token is; all others it refuses.
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

    /// How often the provider was asked.
    async fn asked(&self, at: &str) -> usize {
        let requests = self.provider.received_requests().await.unwrap();
        let requests = requests.iter();
        requests.filter(|request| request.url.path() == at).count()
    }

    /// What the provider says of a user who may use this server.
    fn claims(&self) -> Value {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        json!({"iss": self.provider.uri(), "aud": "me", "exp": now + 600, "sub": "jane"})
    }

    async fn get_with(&self, path: &str, authorization: &str) -> Answer {
        let headers = [("authorization", authorization)];
        self.kinto.send("GET", path, &headers, "").await
    }

    /// The id of who has the token.
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

#[tokio::test]
async fn a_token_makes_the_user_whom_it_names() {
    let openid = OpenId::new().await;
    let token = openid.key.sign(&openid.claims());
    assert_eq!(openid.user_id(&token).await, "idp:jane");
    let headers = [("authorization", &*format!("bearer {token}"))];
    let bucket = openid.kinto.send("PUT", "/buckets/a", &headers, "").await;
    assert_eq!(bucket.status, 201);
    assert_eq!(bucket.body["permissions"], json!({"write": ["idp:jane"]}));
    assert_eq!(openid.asked("/keys").await, 1);
    assert_eq!(openid.asked("/profile").await, 0);
}

#[tokio::test]
async fn a_key_that_is_not_for_signatures_verifies_none() {
    for (field, value, holds) in [
        ("use", json!("sig"), true),
        ("use", json!("enc"), false),
        ("key_ops", json!(["verify"]), true),
        ("key_ops", json!(["encrypt", "wrapKey"]), false),
        ("key_ops", json!([]), false),
    ] {
        let openid = OpenId::with(&[("AUDIENCE", "me")]).await;
        let mut key = openid.key.public();
        key[field] = value.clone();
        openid.publish_public(vec![key]).await;
        let token = openid.key.sign(&openid.claims());
        let expected = if holds {
            json!("idp:jane")
        } else {
            Value::Null
        };
        assert_eq!(openid.user_id(&token).await, expected, "{field} {value}");
    }
}

#[tokio::test]
async fn a_token_that_does_not_hold_makes_nobody() {
    let openid = OpenId::with(&[("AUDIENCE", "api")]).await;
    let valid = || {
        let mut claims = openid.claims();
        claims["aud"] = json!(["other", "api"]);
        claims
    };
    let with = |claim: &str, value: Value| {
        let mut claims = valid();
        claims[claim] = value;
        openid.key.sign(&claims)
    };
    assert_eq!(openid.user_id(&openid.key.sign(&valid())).await, "idp:jane");

    let payload = BASE64_URL_SAFE_NO_PAD.encode(valid().to_string());
    let unsigned = |header: Value| {
        let header = BASE64_URL_SAFE_NO_PAD.encode(header.to_string());
        format!("{header}.{payload}.")
    };
    let public = openid.key.public().to_string();
    let hmac = |kid: &str, secret: &[u8]| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, &valid(), &EncodingKey::from_secret(secret)).unwrap()
    };
    let mut nameless = Header::new(Algorithm::ES256);
    nameless.kid = None;
    let signed = openid.key.sign(&valid());
    let past = openid.claims()["exp"].as_u64().unwrap() - 1000;
    for (problem, token) in [
        ("expired", with("exp", past.into())),
        ("never expires", with("exp", Value::Null)),
        ("not valid yet", with("nbf", (past + 2000).into())),
        (
            "of another issuer",
            with("iss", "https://evil.example".into()),
        ),
        ("of no issuer", with("iss", Value::Null)),
        ("for the client", with("aud", "me".into())),
        ("for nobody", with("aud", Value::Null)),
        ("of nobody", with("sub", "".into())),
        ("of a number", with("sub", 7.into())),
        ("of too long a name", with("sub", "x".repeat(2000).into())),
        ("signed by another", Key::new("k1").sign(&valid())),
        ("of another key", Key::new("k2").sign(&valid())),
        (
            "of no key",
            jsonwebtoken::encode(&nameless, &valid(), &openid.key.private).unwrap(),
        ),
        ("of none", unsigned(json!({"alg": "none", "kid": "k1"}))),
        ("unsigned", unsigned(json!({"alg": "ES256", "kid": "k1"}))),
        ("signed with what is public", hmac("k1", public.as_bytes())),
        ("signed with a shared secret", hmac("secret", b"secret")),
        ("changed", signed.replacen('.', ".e30", 1)),
        ("no token", "x".to_owned()),
        ("empty", String::new()),
    ] {
        assert_eq!(openid.user_id(&token).await, Value::Null, "{problem}");
    }
    let refused = openid.get_with("/buckets/a", "Bearer x").await;
    assert_eq!(refused.error(), (401, 104));
    assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"Realm\"");
    for header in [signed.as_str(), &format!("Basic {signed}"), "Bearer", ""] {
        let hello = openid.get_with("/", header).await;
        assert_eq!(hello.body["user"], Value::Null, "{header}");
    }
    // It was asked for the users of the three valid tokens that name none.
    assert_eq!(openid.asked("/profile").await, 3);
}

#[tokio::test]
async fn new_keys_are_found_and_made_up_ones_not_looked_for_all_the_time() {
    let openid = OpenId::new().await;
    let (old, new) = (&openid.key, Key::new("k2"));
    let (by_old, by_new) = (old.sign(&openid.claims()), new.sign(&openid.claims()));
    assert_eq!(openid.user_id(&by_old).await, "idp:jane");
    openid.publish(&[&new]).await;
    for _ in 0..3 {
        assert_eq!(openid.user_id(&by_new).await, Value::Null);
    }
    assert_eq!(openid.asked("/keys").await, 0);

    let later = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    later(61).await;
    assert_eq!(openid.user_id(&by_old).await, "idp:jane");
    assert_eq!(openid.asked("/keys").await, 0);
    assert_eq!(openid.user_id(&by_new).await, "idp:jane");
    assert_eq!(openid.asked("/keys").await, 1);
    assert_eq!(openid.user_id(&by_old).await, Value::Null);
    // Keys are fetched anew after an hour at any rate.
    later(3601).await;
    assert_eq!(openid.user_id(&by_new).await, "idp:jane");
    assert_eq!(openid.asked("/keys").await, 2);
}

#[tokio::test]
async fn whose_an_opaque_token_is_the_provider_tells_once_in_a_while() {
    let openid = OpenId::with(&[("VERIFICATION_TTL_SECONDS", "100")]).await;
    openid.knows("opaque", json!({"sub": "joe"})).await;
    for _ in 0..3 {
        assert_eq!(openid.user_id("opaque").await, "idp:joe");
        assert_eq!(openid.user_id("other").await, Value::Null);
    }
    // So it is with what was refused, for a minute.
    assert_eq!(openid.asked("/profile").await, 1 + 1);
    let later = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    later(61).await;
    assert_eq!(openid.user_id("other").await, Value::Null);
    assert_eq!(openid.user_id("opaque").await, "idp:joe");
    assert_eq!(openid.asked("/profile").await, 1 + 2);
    later(40).await;
    assert_eq!(openid.user_id("opaque").await, "idp:joe");
    assert_eq!(openid.asked("/profile").await, 2 + 2);

    let openid = OpenId::with(&[("AUDIENCE", "api")]).await;
    openid.knows("opaque", json!({"sub": "joe"})).await;
    assert_eq!(openid.user_id("opaque").await, Value::Null);
    assert_eq!(openid.asked("/profile").await, 0);
}

#[tokio::test]
async fn a_field_that_a_token_does_not_tell_is_in_the_profile() {
    let openid = OpenId::with(&[("USERID_FIELD", "email"), ("HEADER_TYPE", "JWT")]).await;
    let mut claims = openid.claims();
    let token = openid.key.sign(&claims);
    openid.knows(&token, json!({"email": "jane@x.org"})).await;
    let id = async |token: &str| {
        let hello = openid.get_with("/", &format!("JWT {token}")).await;
        hello.body["user"]["id"].clone()
    };
    assert_eq!(id(&token).await, "idp:jane@x.org");
    claims["email"] = "joe@x.org".into();
    assert_eq!(id(&openid.key.sign(&claims)).await, "idp:joe@x.org");
    assert_eq!(openid.asked("/profile").await, 1);
    assert_eq!(openid.user_id(&token).await, Value::Null);
}

#[tokio::test]
async fn hello_tells_how_to_log_in() {
    let openid = OpenId::with(&[("AUDIENCE", "api")]).await;
    let url = openid.provider.uri();
    let hello = openid.kinto.get("/").await.body;
    assert_eq!(
        hello["capabilities"]["openid"]["providers"],
        json!([{
            "name": "idp",
            "issuer": url,
            "auth_path": "/openid/idp/login",
            "client_id": "me",
            "audience": "api",
            "header_type": "Bearer",
            "userinfo_endpoint": format!("{url}/profile"),
        }])
    );
    assert_eq!(hello["capabilities"]["basicauth"], Value::Null);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_no_reason_to_take_a_user_for_nobody() {
    let openid = OpenId::new().await;
    let token = openid.key.sign(&openid.claims());
    openid.provider.reset().await;
    Mock::given(path("/.well-known/openid-configuration"))
        .respond_with(ResponseTemplate::new(500))
        .mount(&openid.provider)
        .await;
    let bearer = format!("Bearer {token}");
    let answer = openid.get_with("/buckets", &bearer).await;
    assert_eq!(answer.error(), (503, 201));
    assert_eq!(answer.header("retry-after"), "3");
    let batch = json!({"requests": [
        {"path": "/"}, {"path": "/buckets", "headers": {"Authorization": bearer}},
    ]});
    let batch = openid.kinto.post("/batch", batch).await;
    assert_eq!(batch.error(), (503, 201));
    // Who says nothing of themselves, and what is the same for all, goes on.
    let hello = openid.kinto.get("/").await;
    assert_eq!(hello.status, 200);
    let provider = &hello.body["capabilities"]["openid"]["providers"][0];
    assert_eq!(provider["userinfo_endpoint"], Value::Null);
    let changes = "/buckets/monitor/collections/changes/records";
    assert_eq!(openid.get_with(changes, &bearer).await.status, 200);

    openid.publish(&[&openid.key]).await;
    assert_eq!(openid.user_id(&token).await, "idp:jane");
}

/// Begins a login, and gives the state that the provider is told.
async fn begin(openid: &OpenId) -> String {
    let callback = CALLBACK.replace('#', "%23");
    let login = format!("/openid/idp/login?callback={callback}&scope=openid%20email");
    let answer = openid.kinto.get(&login).await;
    assert_eq!(answer.status, 307, "{answer:?}");
    let url = answer.header("location");
    assert!(url.starts_with(&format!("{}/authorize?", openid.provider.uri())));
    let mut parameters = parameters(url);
    let state = parameters["state"].take();
    assert_eq!(
        parameters,
        json!({
            "client_id": "me",
            "response_type": "code",
            "scope": "openid email",
            "redirect_uri": "http://kinto.test/v1/openid/idp/token",
            "state": null,
        })
    );
    state.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_login_leads_to_the_provider_and_with_its_tokens_back() {
    let openid = OpenId::new().await;
    let tokens = json!({"access_token": "~?>", "token_type": "Bearer"});
    Mock::given(method("POST"))
        .and(path("/tokens"))
        .and(body_string_contains(
            "code=a%2Bb&client_id=me&client_secret=hush&redirect_uri=http%3A%2F%2Fkinto.test%2Fv1%2Fopenid%2Fidp%2Ftoken&grant_type=authorization_code",
        ))
        .respond_with(ResponseTemplate::new(200).set_body_string(tokens.to_string()))
        .expect(1)
        .mount(&openid.provider)
        .await;
    let state = begin(&openid).await;
    let back = format!("/openid/idp/token?code=a%2Bb&state={state}");
    let answer = openid.kinto.get(&back).await;
    assert_eq!(answer.status, 307, "{answer:?}");
    let sent = answer.header("location").strip_prefix(CALLBACK).unwrap();
    let sent = sent.replace("%3D", "=").replace("%2B", "+");
    let sent = BASE64_STANDARD.decode(sent).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), tokens);

    let again = openid.kinto.get(&back).await;
    assert_eq!(again.error(), (400, 107));
    assert_eq!(again.body["details"][0]["name"], "state");
}

#[tokio::test]
async fn a_login_knows_its_own_end_when_the_answer_to_that_was_lost() {
    let openid = OpenId::new().await;
    let state = begin(&openid).await;
    let requests = openid.kinto.aws.requests();
    requests.take();
    openid.kinto.aws.inject(move |target, _| {
        let is_first = target.ends_with("UpdateItem") && requests.of("UpdateItem") == 1;
        is_first.then_some(Fault::AnswerLost)
    });
    let back = format!("/openid/idp/token?error=denied&state={state}");
    assert_eq!(openid.kinto.get(&back).await.status, 307);
    assert_eq!(openid.kinto.get(&back).await.error(), (400, 107));
}

#[tokio::test]
async fn a_login_that_the_provider_refuses_leads_back_all_the_same() {
    let openid = OpenId::new().await;
    let state = begin(&openid).await;
    let error = "error=access_denied&error_description=no%20way";
    let back = format!("/openid/idp/token?{error}&state={state}");
    let answer = openid.kinto.get(&back).await;
    assert_eq!(
        answer.header("location"),
        format!("{CALLBACK}error=access_denied&error_description=no+way")
    );
}

#[tokio::test]
async fn a_login_that_is_not_under_way_leads_nowhere() {
    let openid = OpenId::with(&[("STATE_TTL_SECONDS", "0")]).await;
    let expired = begin(&openid).await;
    for state in [expired, "x".repeat(3000), "a".repeat(64), String::new()] {
        let back = format!("/openid/idp/token?code=c&state={state}");
        let answer = openid.kinto.get(&back).await;
        assert_eq!(answer.error(), (400, 107), "{state}");
        assert_eq!(answer.body["details"][0]["name"], "state");
    }
    assert_eq!(openid.asked("/tokens").await, 0);
}

#[tokio::test]
async fn the_kinto_admin_that_is_served_is_trusted_unless_the_settings_say_where_tokens_go() {
    let build = std::env::temp_dir().join(format!("openid-admin-{}", std::process::id()));
    std::fs::create_dir_all(&build).unwrap();
    for file in ["VERSION", "index.html"] {
        std::fs::write(build.join(file), "1").unwrap();
    }
    let assets = build.to_str().unwrap();
    let both = "kinto.plugins.openid kinto.plugins.admin";
    let login = async |includes, callback: &str, settings: &[(&str, &str)]| {
        let openid = OpenId::with(settings).await;
        let mut vars = openid.vars.clone();
        vars.insert("KINTO_INCLUDES".to_owned(), includes);
        vars.insert("KINTO_ADMIN_ASSETS_PATH".to_owned(), assets.to_owned());
        let vars: Vec<_> = vars
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let kinto = Kinto::with(&vars).as_user(NOBODY);
        let path = format!("/openid/idp/login?scope=openid&callback={callback}");
        kinto.get(&path).await.status
    };
    let here = "http://kinto.test/v1/admin/%23/auth/idp/";
    assert_eq!(login(both.to_owned(), here, &[]).await, 307);
    assert_eq!(
        login("kinto.plugins.openid".to_owned(), here, &[]).await,
        400
    );
    let elsewhere = "http://evil.test/v1/admin/%23/auth/idp/";
    assert_eq!(login(both.to_owned(), elsewhere, &[]).await, 400);
    let beside = "http://kinto.test/v1/buckets/%23/";
    assert_eq!(login(both.to_owned(), beside, &[]).await, 400);
    let named = [("TRUSTED_CALLBACK_URLS", "https://app.example/*")];
    assert_eq!(login(both.to_owned(), here, &named).await, 400);
    std::fs::remove_dir_all(build).unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_login_is_said() {
    let openid = OpenId::with(&[
        ("USERID_FIELD", "email"),
        ("ALLOWED_SCOPES", "openid email"),
        ("TRUSTED_CALLBACK_URLS", "https://app.example/*"),
    ])
    .await;
    let here = "callback=https://app.example/";
    for (path, location, name) in [
        (
            "idp/login?scope=openid".to_owned(),
            "querystring",
            "callback",
        ),
        (format!("idp/login?{here}"), "querystring", "scope"),
        (
            format!("idp/login?{here}&scope=openid"),
            "querystring",
            "scope",
        ),
        (
            format!("idp/login?{here}&scope=email%20offline"),
            "querystring",
            "scope",
        ),
        (
            format!("idp/login?{here}&scope=email&prompt=x"),
            "querystring",
            "prompt",
        ),
        (
            format!("idp/login?callback={CALLBACK}&scope=email"),
            "querystring",
            "callback",
        ),
        (
            "idp/login?callback=x&scope=email".to_owned(),
            "querystring",
            "callback",
        ),
        (
            format!("other/login?{here}&scope=email"),
            "path",
            "provider",
        ),
        ("other/token?state=x&code=c".to_owned(), "path", "provider"),
        ("idp/token?code=c".to_owned(), "querystring", "state"),
        ("idp/token?state=x".to_owned(), "querystring", ""),
        (
            "idp/token?state=x&code=c&error=e".to_owned(),
            "querystring",
            "",
        ),
    ] {
        let answer = openid.kinto.get(&format!("/openid/{path}")).await;
        assert_eq!(answer.error(), (400, 107), "{path}");
        let detail = &answer.body["details"][0];
        assert_eq!(
            (&detail["location"], &detail["name"]),
            (&json!(location), &json!(name)),
            "{path}"
        );
    }
    let silent = format!("/openid/idp/login?{here}&scope=email&prompt=none");
    let answer = openid.kinto.get(&silent).await;
    assert_eq!(parameters(answer.header("location"))["prompt"], "none");
}
