//! Tokens, and the users that they identify.

use std::time::Duration;

use super::{Key, OpenId};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tests::{Kinto, NOBODY};
use wiremock::matchers::path;
use wiremock::{Mock, ResponseTemplate};

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
    // It was asked about the three valid tokens that name no user.
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
    // Keys are fetched again after an hour in any case.
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
    // Refusals are also cached, for a minute.
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
    // Anonymous requests, and responses that are the same for all, still work.
    let hello = openid.kinto.get("/").await;
    assert_eq!(hello.status, 200);
    let provider = &hello.body["capabilities"]["openid"]["providers"][0];
    assert_eq!(provider["userinfo_endpoint"], Value::Null);
    // The next one does not wait for it.
    let asked = async || openid.provider.received_requests().await.unwrap().len();
    let before = asked().await;
    assert_eq!(openid.kinto.get("/").await.status, 200);
    assert_eq!(asked().await, before);
    let changes = "/buckets/monitor/collections/changes/records";
    assert_eq!(openid.get_with(changes, &bearer).await.status, 200);

    openid.publish(&[&openid.key]).await;
    assert_eq!(openid.user_id(&token).await, "idp:jane");
}

#[tokio::test]
async fn a_bad_token_is_shown_to_the_provider_once() {
    use wiremock::matchers::path;
    use wiremock::{Mock, MockServer, ResponseTemplate};
    let provider = MockServer::start().await;
    let url = provider.uri();
    let metadata = json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/tokens"),
        "userinfo_endpoint": format!("{url}/profile"),
        "jwks_uri": format!("{url}/keys"),
    });
    for (at, answer) in [
        (
            "/.well-known/openid-configuration",
            ResponseTemplate::new(200).set_body_json(metadata),
        ),
        (
            "/keys",
            ResponseTemplate::new(200).set_body_json(json!({"keys": []})),
        ),
        ("/profile", ResponseTemplate::new(401)),
    ] {
        Mock::given(path(at))
            .respond_with(answer)
            .mount(&provider)
            .await;
    }
    let kinto = Kinto::with(&[
        ("KINTO_INCLUDES", "kinto.plugins.openid"),
        ("MULTIAUTH_POLICIES", "idp"),
        (
            "MULTIAUTH_POLICY_IDP_USE",
            "kinto.plugins.openid.OpenIDConnectPolicy",
        ),
        ("MULTIAUTH_POLICY_IDP_ISSUER", &url),
        ("MULTIAUTH_POLICY_IDP_CLIENT_ID", "me"),
    ])
    .as_user(NOBODY);
    let asked = async || {
        let requests = provider.received_requests().await.unwrap();
        requests
            .iter()
            .filter(|r| r.url.path() == "/profile")
            .count()
    };
    for (token, times) in [("a", 1), ("a", 1), ("b", 2), ("a", 2), ("b", 2)] {
        let header = format!("Bearer {token}");
        let hello = kinto
            .send("GET", "/", &[("authorization", &header)], "")
            .await;
        assert_eq!(hello.body["user"], Value::Null);
        assert_eq!(asked().await, times, "{token}");
    }
    // No header determines where a code is sent.
    let login = "/openid/idp/login?callback=http://localhost:3000/&scope=openid";
    let headers = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
    ];
    let sent = kinto.send("GET", login, &headers, "").await;
    assert_eq!(sent.status, 307);
    assert!(
        !sent.header("location").contains("evil.example"),
        "{sent:?}"
    );
    assert!(sent.header("location").contains("kinto.test"), "{sent:?}");
}
