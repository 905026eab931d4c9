//! Accounts: users with passwords of their own.

use serde_json::{Value, json};
use tests::{BOB, Kinto, NOBODY, ids};

/// The default of Kinto.
const EMPTY_KEY: (&str, &str) = ("KINTO_DEFAULT_BUCKET_HMAC_SECRET", "");

/// Anybody may create an account; `admin` may do everything.
const ACCOUNTS: [(&str, &str); 5] = [
    (
        "KINTO_INCLUDES",
        "kinto.plugins.accounts kinto.plugins.default_bucket kinto.plugins.flush",
    ),
    ("MULTIAUTH_POLICIES", "account basicauth"),
    (
        "MULTIAUTH_POLICY_ACCOUNT_USE",
        "kinto.plugins.accounts.AccountsPolicy",
    ),
    ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
    ("KINTO_ACCOUNT_WRITE_PRINCIPALS", "account:admin"),
];

/// `alice:secret`.
const ALICES: &str = "Basic YWxpY2U6c2VjcmV0";

/// `carol:secret`.
const CAROLS: &str = "Basic Y2Fyb2w6c2VjcmV0";

/// `admin:secret`.
const ADMINS: &str = "Basic YWRtaW46c2VjcmV0";

/// `alice:changed`.
const ALICES_NEXT: &str = "Basic YWxpY2U6Y2hhbmdlZA==";

fn password(password: &str) -> Value {
    json!({"data": {"password": password}})
}

/// With accounts of these ids, each with the password `secret`; called anonymously.
async fn with_accounts(ids: &[&str]) -> Kinto {
    let kinto = Kinto::with(&ACCOUNTS).as_user(NOBODY);
    for id in ids {
        let created = kinto
            .put(&format!("/accounts/{id}"), password("secret"))
            .await;
        assert_eq!(created.status, 201, "{created:?}");
    }
    kinto
}

#[tokio::test]
async fn who_signs_up_is_a_user_from_then_on() {
    let vars: Vec<_> = ACCOUNTS.into_iter().chain([EMPTY_KEY]).collect();
    let kinto = Kinto::with(&vars).as_user(NOBODY);
    let hello = kinto.get("/").await.body;
    assert_eq!(
        hello["capabilities"]["accounts"]["validation_enabled"],
        false
    );
    // Before the account exists, its name and password are those of another user.
    let before = kinto.as_user(ALICES).user_id().await;
    assert!(before.starts_with("basicauth:"));

    let body = json!({"data": {"password": "secret", "a": 1}});
    let created = kinto.put("/accounts/alice", body).await;
    assert_eq!(created.status, 201);
    let data = &created.body["data"];
    assert_eq!((&data["id"], &data["a"]), (&json!("alice"), &json!(1)));
    assert_eq!(data.get("password"), None);
    assert_eq!(
        created.body["permissions"],
        json!({"write": ["account:alice"]})
    );

    let alice = kinto.as_user(ALICES);
    let user = alice.get("/").await.body["user"].clone();
    // As in Kinto 26.5 with the secrets of the tests.
    assert_eq!(
        user,
        json!({
            "id": "account:alice",
            "principals": ["account:alice", "system.Everyone", "system.Authenticated"],
            "bucket": "73141b75-6d02-0c03-6aee-82ad1ea55d41",
        })
    );
    assert_eq!(alice.get("/accounts/alice").await.body, created.body);
    assert_eq!(ids(&alice.get("/accounts").await), ["alice"]);
    let bucket = alice.get("/buckets/default").await;
    assert_eq!(
        bucket.body["permissions"],
        json!({"write": ["account:alice"]})
    );
}

#[tokio::test]
async fn a_wrong_password_leaves_the_user_to_the_next_policy() {
    let kinto = with_accounts(&["alice"]).await.as_user(ALICES_NEXT);
    let id = kinto.user_id().await;
    assert!(id.starts_with("basicauth:"), "{id}");
    assert_eq!(kinto.get("/accounts/alice").await.error(), (403, 121));
    assert_eq!(kinto.get("/accounts").await.body["data"], json!([]));

    let [includes, _, used, create, write] = ACCOUNTS;
    let policies = ("MULTIAUTH_POLICIES", "account");
    let kinto = Kinto::with(&[includes, policies, used, create, write]);
    kinto.put("/accounts/alice", password("secret")).await;
    let hello = kinto.as_user(ALICES_NEXT).get("/").await.body;
    assert_eq!(hello["user"], Value::Null);
    assert_eq!(hello["capabilities"]["basicauth"], Value::Null);
    assert_eq!(kinto.as_user(ALICES).user_id().await, "account:alice");
}

#[tokio::test]
async fn accounts_are_posted_under_the_id_that_they_give() {
    let kinto = with_accounts(&[]).await;
    let post = async |kinto: &Kinto, data: Value| {
        let answer = kinto.post("/accounts", json!({"data": data})).await;
        (answer.status, answer.body)
    };
    let (status, created) = post(&kinto, json!({"id": "me@x.org", "password": "a"})).await;
    assert_eq!((status, &created["data"]["id"]), (201, &json!("me@x.org")));
    let (status, refused) = post(&kinto, json!({"password": "a"})).await;
    assert_eq!((status, &refused["errno"]), (400, &json!(107)));
    assert_eq!(refused["details"][0]["name"], "data.id");

    let carol = json!({"id": "carol", "password": "secret"});
    assert_eq!(post(&kinto, carol.clone()).await.0, 201);
    assert_eq!(post(&kinto, carol.clone()).await.0, 401);
    assert_eq!(post(&kinto.as_user(CAROLS), carol).await.0, 200);
    let other = json!({"id": "dave", "password": "a"});
    assert_eq!(post(&kinto.as_user(CAROLS), other).await.0, 400);
}

#[tokio::test]
async fn what_is_wrong_with_an_account_is_said() {
    let kinto = with_accounts(&[]).await;
    let long = "é".repeat(37);
    for (path, body, name) in [
        ("/accounts/alice", json!({}), "data"),
        ("/accounts/alice", json!({"permissions": {}}), "data"),
        (
            "/accounts/alice",
            json!({"data": {"a": 1}}),
            "data.password",
        ),
        ("/accounts/alice", password(""), "data.password"),
        ("/accounts/alice", password(&long), "data.password"),
        (
            "/accounts/alice",
            json!({"data": {"password": 3}}),
            "data.password",
        ),
    ] {
        let answer = kinto.put(path, body.clone()).await;
        assert_eq!(answer.error(), (400, 107), "{body}");
        assert_eq!(answer.body["details"][0]["name"], name, "{body}");
    }
    for id in ["a,b", "@a", "a b"] {
        let answer = kinto.put(&format!("/accounts/{id}"), password("a")).await;
        assert_eq!(answer.error(), (400, 107), "{id}");
        assert_eq!(answer.body["message"], "path: Invalid object id");
    }
    // Ordinary ids for accounts.
    for id in ["monitor", "default"] {
        let answer = kinto.put(&format!("/accounts/{id}"), password("a")).await;
        assert_eq!(answer.status, 201, "{id}");
    }
    let patch = kinto.as_user(ALICES);
    kinto.put("/accounts/alice", password("secret")).await;
    for wrong in [json!(""), json!(null), json!(long)] {
        let body = json!({"data": {"password": wrong}});
        let answer = patch.patch("/accounts/alice", body).await;
        assert_eq!(answer.error(), (400, 107), "{wrong}");
    }
}

#[tokio::test]
async fn nobody_sees_or_takes_over_an_account() {
    let kinto = with_accounts(&["alice"]).await;
    for (method, path) in [
        ("GET", "/accounts"),
        ("DELETE", "/accounts"),
        ("GET", "/accounts/alice"),
        ("GET", "/accounts/zed"),
        ("PUT", "/accounts/alice"),
        ("PATCH", "/accounts/alice"),
        ("DELETE", "/accounts/alice"),
    ] {
        let body = password("changed").to_string();
        let answer = kinto.send(method, path, &[], &body).await;
        assert_eq!(answer.error(), (401, 104), "{method} {path}");
    }
    assert_eq!(kinto.as_user(ALICES).user_id().await, "account:alice");
}

#[tokio::test]
async fn a_user_has_their_own_account_alone() {
    let kinto = with_accounts(&["alice", "carol"]).await;
    let alice = kinto.as_user(ALICES);
    for (method, path, status) in [
        ("GET", "/accounts/carol", 403),
        ("GET", "/accounts/zed", 403),
        ("PUT", "/accounts/carol", 400),
        ("PATCH", "/accounts/carol", 403),
        ("DELETE", "/accounts/carol", 403),
        ("PUT", "/accounts/bob", 400),
    ] {
        let body = password("x").to_string();
        let answer = alice.send(method, path, &[], &body).await;
        assert_eq!(answer.status, status, "{method} {path}");
    }
    // Not even one that is shared with them, as in Kinto.
    let shared = json!({"permissions": {"write": ["account:alice"]}});
    let answer = kinto.as_user(CAROLS).patch("/accounts/carol", shared).await;
    assert_eq!(answer.status, 200);
    assert_eq!(alice.get("/accounts/carol").await.error(), (404, 110));
    assert_eq!(
        alice.put("/accounts/carol", password("x")).await.error(),
        (400, 107)
    );
    assert_eq!(alice.delete("/accounts/carol").await.error(), (404, 110));
    assert_eq!(ids(&alice.get("/accounts").await), ["alice"]);

    // Another user with the same name, whom the next policy accepts.
    let basic = kinto.put("/accounts/bob", password("x")).await;
    assert_eq!(basic.status, 201);
    let bob = kinto.as_user(BOB);
    assert_eq!(bob.get("/accounts/bob").await.status, 403);
    assert_eq!(bob.put("/accounts/eve", password("x")).await.status, 400);

    assert_eq!(ids(&alice.delete("/accounts").await), ["alice"]);
    assert_eq!(kinto.as_user(CAROLS).user_id().await, "account:carol");
}

#[tokio::test]
async fn a_password_that_is_changed_holds_at_once_and_no_other_change_touches_it() {
    let kinto = with_accounts(&["alice"]).await;
    let (alice, next) = (kinto.as_user(ALICES), kinto.as_user(ALICES_NEXT));
    let more = json!({"data": {"a": 1}});
    let patched = alice.patch("/accounts/alice", more).await;
    assert_eq!(patched.status, 200);
    assert_eq!(alice.user_id().await, "account:alice");

    let patched = alice.patch("/accounts/alice", password("changed")).await;
    assert_eq!(patched.status, 200);
    assert_eq!(alice.get("/accounts/alice").await.status, 403);
    assert_eq!(next.get("/accounts/alice").await.status, 200);

    let operations = r#"[{"op": "replace", "path": "/data/password", "value": "secret"}]"#;
    let json_patch = [("content-type", "application/json-patch+json")];
    let path = "/accounts/alice";
    let patched = next.send("PATCH", path, &json_patch, operations).await;
    assert_eq!(patched.status, 200);
    assert_eq!(next.get(path).await.status, 403);
    assert_eq!(alice.get(path).await.status, 200);

    assert_eq!(alice.delete(path).await.status, 200);
    assert_ne!(alice.user_id().await, "account:alice");
}

#[tokio::test]
async fn administrators_have_all_accounts() {
    let kinto = with_accounts(&["admin", "alice"]).await;
    let admin = kinto.as_user(ADMINS);
    let created = admin.put("/accounts/carol", password("secret")).await;
    assert_eq!(created.status, 201);
    assert_eq!(
        created.body["permissions"],
        json!({"write": ["account:carol"]})
    );
    let posted = json!({"data": {"id": "dave", "password": "x"}});
    assert_eq!(admin.post("/accounts", posted).await.status, 201);
    // Permission to write all does not include listing all (Kinto 26.5): account_read_principals would.
    let listed = admin.get("/accounts?_sort=id").await;
    assert_eq!(ids(&listed), ["admin"]);
    let changed = admin.put("/accounts/alice", password("changed")).await;
    assert_eq!(changed.status, 200);
    assert_eq!(kinto.as_user(ALICES_NEXT).user_id().await, "account:alice");
    assert_eq!(admin.get("/accounts/zed").await.error(), (404, 110));
    assert_eq!(admin.delete("/accounts/carol").await.status, 200);
    assert_eq!(ids(&admin.delete("/accounts").await).len(), 3);
    assert_ne!(admin.user_id().await, "account:admin");
}

#[tokio::test]
async fn who_may_read_all_accounts_lists_them() {
    let read = ("KINTO_ACCOUNT_READ_PRINCIPALS", "account:admin");
    let settings: Vec<_> = ACCOUNTS.into_iter().chain([read]).collect();
    let kinto = Kinto::with(&settings);
    let nobody = kinto.as_user(NOBODY);
    for id in ["admin", "alice"] {
        nobody
            .put(&format!("/accounts/{id}"), password("secret"))
            .await;
    }
    let all = kinto.as_user(ADMINS).get("/accounts?_sort=id").await;
    assert_eq!(ids(&all), ["admin", "alice"]);
}

#[tokio::test]
async fn accounts_are_made_by_those_alone_whom_the_settings_allow_it() {
    let [includes, policies, used, _, write] = ACCOUNTS;
    let kinto = Kinto::with(&[includes, policies, used, write]);
    let nobody = kinto.as_user(NOBODY);
    let answer = nobody.put("/accounts/alice", password("a")).await;
    assert_eq!(answer.error(), (401, 104));
    let answer = kinto.put("/accounts/alice", password("a")).await;
    assert_eq!(answer.error(), (403, 121));
}

#[tokio::test]
async fn a_group_has_accounts_as_members() {
    let kinto = with_accounts(&["alice", "carol"]).await;
    let (alice, carol) = (kinto.as_user(ALICES), kinto.as_user(CAROLS));
    assert_eq!(alice.put("/buckets/a", json!({})).await.status, 201);
    let members = json!({"data": {"members": ["account:carol"]}});
    alice.put("/buckets/a/groups/g", members).await;
    let shared = json!({"permissions": {"read": ["/buckets/a/groups/g"]}});
    alice.patch("/buckets/a", shared).await;
    assert_eq!(carol.get("/buckets/a").await.status, 200);
    assert_eq!(kinto.as_user(BOB).get("/buckets/a").await.status, 403);
}

#[tokio::test]
async fn an_account_costs_no_round_trip_of_its_own() {
    let alice = with_accounts(&["alice"]).await.as_user(ALICES);
    let requests = alice.aws.requests();
    for (path, writes) in [("/buckets/a", 1), ("/buckets/a", 1), ("/accounts/alice", 1)] {
        requests.take();
        assert!(alice.put(path, password("secret")).await.status < 300);
        assert_eq!(requests.of("BatchGetItem"), 1, "{path}");
        assert_eq!(requests.of("TransactWriteItems"), writes, "{path}");
        assert_eq!(requests.total(), 1 + writes, "{path}");
    }
}

#[tokio::test]
async fn an_account_made_in_a_batch_can_be_used_in_it() {
    let kinto = with_accounts(&[]).await;
    let batch = json!({"requests": [
        {"method": "PUT", "path": "/accounts/alice", "body": password("secret")},
        {"method": "PUT", "path": "/buckets/a", "headers": {"Authorization": ALICES}},
        {"path": "/accounts/alice", "headers": {"Authorization": ALICES}},
    ]});
    let answer = kinto.post("/batch", batch).await;
    let responses = answer.body["responses"].as_array().unwrap();
    let statuses: Vec<_> = responses
        .iter()
        .map(|response| &response["status"])
        .collect();
    assert_eq!(statuses, [201, 201, 200]);
    assert_eq!(
        responses[1]["body"]["permissions"],
        json!({"write": ["account:alice"]})
    );
}

#[tokio::test]
async fn a_flush_removes_the_accounts() {
    let kinto = with_accounts(&["alice"]).await;
    assert_eq!(kinto.as_user(ALICES).user_id().await, "account:alice");
    assert_eq!(kinto.post("/__flush__", json!({})).await.status, 202);
    assert_ne!(kinto.as_user(ALICES).user_id().await, "account:alice");
    let again = kinto.put("/accounts/alice", password("changed")).await;
    assert_eq!(again.status, 201);
    assert_ne!(kinto.as_user(ALICES).user_id().await, "account:alice");
}

#[tokio::test]
async fn the_permissions_endpoint_lists_ones_own_account_and_that_one_may_create_accounts() {
    let mut vars = ACCOUNTS.to_vec();
    vars.push(("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true"));
    vars.push(("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"));
    let nobody = Kinto::with(&vars).as_user(NOBODY);
    for id in ["alice", "bob"] {
        let body = json!({"data": {"password": "secret"}});
        assert_eq!(
            nobody.put(&format!("/accounts/{id}"), body).await.status,
            201
        );
    }
    let listed = nobody
        .as_user("Basic YWxpY2U6c2VjcmV0")
        .get("/permissions")
        .await;
    assert_eq!(
        listed.body["data"],
        json!([
            {
                "uri": "/accounts/alice", "resource_name": "account", "id": "alice", "account_id": "alice",
                "permissions": ["read", "write"],
            },
            {"uri": "/", "resource_name": "root", "permissions": ["bucket:create", "account:create"]},
        ])
    );
}
