//! Logging in through the provider.

use super::{CALLBACK, OpenId, parameters};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kinto_local::Fault;
use serde_json::{Value, json};
use tests::{Kinto, NOBODY};
use wiremock::matchers::{body_string_contains, method, path};
use wiremock::{Mock, ResponseTemplate};

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

/// Begins a login, and returns the state sent to the provider.
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
