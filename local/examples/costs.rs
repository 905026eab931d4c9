//! Measures the costs that docs/limits.md bounds: small requests that would be expensive, each with its time on one
//! processor and its additional memory, over a table in the same process.
//!
//! `cargo run --release -p kinto-local --example costs [RECORDS]`, on Linux; 20,000 records of 300 bytes unless told otherwise.

use std::error::Error;
use std::fs;
use std::time::Instant;

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use kinto_local::LocalAws;
use kinto_serverless::api::Api;
use kinto_serverless::listeners::Listeners;
use kinto_serverless::settings::{Settings, Vars};
use kinto_serverless::store::Store;
use serde_json::{Value, json};

const TABLE: &str = "kinto";
const RECORDS: &str = "/buckets/main/collections/one/records";
const LARGE: &str = "/buckets/main/collections/large/records";
const TREES: &str = "/buckets/main/collections/trees/records";
const ALICE: &str = "Basic YWxpY2U6";
const NOBODY: &str = "";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A request that is measured.
struct Attack {
    name: &'static str,
    authorization: &'static str,
    method: &'static str,
    path: String,
    body: Value,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let records = std::env::args()
        .nth(1)
        .map_or(Ok(20_000), |it| it.parse())?;
    let aws = LocalAws::memory();
    aws.create_table(TABLE)?;
    let vars: Vars = [
        ("KINTO_USERID_HMAC_SECRET", "s3cret"),
        ("KINTO_MULTIAUTH_POLICIES", "basicauth"),
        ("KINTO_BATCH_MAX_REQUESTS", "100"),
        ("KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION", "true"),
        ("KINTO_EXPERIMENTAL_PERMISSIONS_ENDPOINT", "true"),
        ("KINTO_INCLUDES", "kinto.plugins.accounts"),
        ("KINTO_MULTIAUTH_POLICIES", "account basicauth"),
        (
            "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE",
            "kinto.plugins.accounts.AccountsPolicy",
        ),
        ("KINTO_ACCOUNT_CREATE_PRINCIPALS", "system.Everyone"),
    ]
    .into_iter()
    .collect();
    let store = Store::new(aws.dynamodb(), TABLE);
    let settings = Settings::from_vars(&vars)?;
    let api = Api::new(store, settings, vec![], Listeners::default());
    fill(&api, records).await?;
    println!("{:44} {:>6} {:>9} {:>8}", "request", "status", "ms", "MB");
    for attack in attacks() {
        measure(&api, attack).await?;
    }
    Ok(())
}

async fn fill(api: &Api, records: usize) -> Outcome<()> {
    put(api, "/buckets/main", json!({})).await?;
    let account = json!({"data": {"password": "right"}});
    let answer = send(api, NOBODY, "PUT", "/accounts/alice", &account).await?;
    check(&answer, "the account")?;
    for collection in ["one", "large"] {
        let path = format!("/buckets/main/collections/{collection}");
        put(api, &path, json!({})).await?;
    }
    put(
        api,
        "/buckets/main/collections/trees",
        json!({"data": {"schema": tree()}}),
    )
    .await?;
    let numbers: Vec<_> = (0..records).collect();
    for numbers in numbers.chunks(50) {
        let of = |n: &usize| {
            let data = json!({"n": n, "a": {"b": n % 7}, "tags": [n % 5, "all"], "title": "x".repeat(230)});
            json!({"method": "PUT", "path": format!("{RECORDS}/r{n}"), "body": {"data": data}})
        };
        let batch = json!({"requests": numbers.iter().map(of).collect::<Vec<_>>()});
        let answer = send(api, ALICE, "POST", "/batch", &batch).await?;
        check(&answer, "filling")?;
    }
    for n in 0..12 {
        let data = match n % 3 {
            0 => json!({"a": vec![1; 190_000]}),
            1 => json!({"a": vec![json!({"": 1}); 47_000]}),
            _ => json!({"a": "x".repeat(390_000)}),
        };
        put(api, &format!("{LARGE}/r{n}"), json!({"data": data})).await?;
    }
    Ok(())
}

async fn put(api: &Api, path: &str, body: Value) -> Outcome<()> {
    check(&send(api, ALICE, "PUT", path, &body).await?, path)
}

fn check(answer: &ApiGatewayV2httpResponse, what: &str) -> Outcome<()> {
    match answer.status_code {
        200 | 201 => Ok(()),
        status => Err(format!("{what}: {status} {:?}", answer.body).into()),
    }
}

/// A schema with two branches that recurse.
fn tree() -> Value {
    let twice = json!({"$ref": "#/definitions/a"});
    json!({
        "definitions": {"a": {"anyOf": [
            {"properties": {"a": twice}, "required": ["b"]},
            {"properties": {"a": twice}, "required": ["c"]},
        ]}},
        "properties": {"a": twice},
    })
}

fn attacks() -> Vec<Attack> {
    let attack = |name, authorization, method, path: &str, body| Attack {
        name,
        authorization,
        method,
        path: path.to_owned(),
        body,
    };
    let list = |name, query: &str| Attack {
        name,
        authorization: ALICE,
        method: "GET",
        path: format!("{RECORDS}?{query}"),
        body: Value::Null,
    };
    let batch = |name, authorization, requests: Vec<Value>| {
        attack(
            name,
            authorization,
            "POST",
            "/batch",
            json!({"requests": requests}),
        )
    };
    let wrong = |n: usize| {
        let authorization = [
            "Basic YWxpY2U6MA==",
            "Basic YWxpY2U6MQ==",
            "Basic YWxpY2U6Mg==",
        ][n % 3];
        json!({"path": "/", "headers": {"Authorization": authorization}})
    };
    let account = |n| json!({"method": "PUT", "path": format!("/accounts/u{n}"), "body": {"data": {"password": "x"}}});
    let deep = (0..60).fold(json!({}), |inner, _| json!({"a": inner}));
    let patterns: Vec<_> = (0..300)
        .map(|n| json!({"pattern": format!(r"\w{{60}}{n}")}))
        .collect();
    let filters = ["not_a.b=9"; 140].join("&");
    vec![
        attack("denied GET", NOBODY, "GET", RECORDS, Value::Null),
        batch(
            "denied GET x 25",
            NOBODY,
            vec![json!({"path": RECORDS}); 25],
        ),
        attack("GET", ALICE, "GET", RECORDS, Value::Null),
        attack("HEAD", ALICE, "HEAD", RECORDS, Value::Null),
        list(
            "filter of 2,400 dots",
            &format!("{}=1", ["a"; 2400].join(".")),
        ),
        list("140 filters", &filters),
        list("filter that nothing matches", "a.b=x"),
        list("50 like filters", &["like_title=*x*x*x*"; 50].join("&")),
        list(
            "contains of 1,500 values",
            &format!("contains_any_tags=[{}]", ["7"; 1500].join(",")),
        ),
        list(
            "16 sort keys",
            &format!(
                "_sort=a.b,{}",
                (0..15)
                    .map(|n| format!("k{n}"))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        ),
        list("_sort, _limit", "_sort=n&_limit=10"),
        list(
            "900 fields",
            &format!(
                "_fields={}",
                (0..900)
                    .map(|n| format!("k{n}"))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        ),
        batch(
            "filter that nothing matches x 25",
            ALICE,
            vec![json!({"path": format!("{RECORDS}?a.b=x")}); 25],
        ),
        batch(
            "HEAD x 25",
            ALICE,
            vec![json!({"method": "HEAD", "path": RECORDS}); 25],
        ),
        batch(
            "/permissions x 25",
            ALICE,
            vec![json!({"path": "/permissions?_limit=1"}); 25],
        ),
        attack("GET of large objects", ALICE, "GET", LARGE, Value::Null),
        attack(
            "the same sorted by what is large",
            ALICE,
            "GET",
            &format!("{LARGE}?_sort=a"),
            Value::Null,
        ),
        batch(
            "12 large objects in a batch",
            ALICE,
            (0..12)
                .map(|n| json!({"path": format!("{LARGE}/r{n}")}))
                .collect(),
        ),
        attack(
            "PUT of a large object",
            ALICE,
            "PUT",
            &format!("{LARGE}/new"),
            json!({"data": {"a": vec![json!({"": 1}); 47_000]}}),
        ),
        attack(
            "POST of 2,900,000 numbers",
            NOBODY,
            "POST",
            LARGE,
            json!({"data": {"a": vec![1; 2_900_000]}}),
        ),
        attack(
            "a schema without end",
            ALICE,
            "PUT",
            &format!("{TREES}/r"),
            json!({"data": deep}),
        ),
        attack(
            "300 large patterns",
            ALICE,
            "PUT",
            "/buckets/main/collections/patterns",
            json!({"data": {"schema": {"allOf": patterns}}}),
        ),
        batch("25 wrong passwords", NOBODY, (0..25).map(wrong).collect()),
        batch("25 accounts", NOBODY, (0..25).map(account).collect()),
        attack(
            "5,000 moves in a large object",
            ALICE,
            "PATCH",
            &format!("{LARGE}/r0"),
            json!(vec![
                json!({"op": "move", "from": "/data/a", "path": "/data/a"});
                5000
            ]),
        ),
        attack(
            "1,000 inserts into a large list",
            ALICE,
            "PATCH",
            &format!("{LARGE}/r0"),
            json!(vec![
                json!({"op": "add", "path": "/data/a/0", "value": 1});
                1000
            ]),
        ),
        attack(
            "DELETE of a page",
            ALICE,
            "DELETE",
            &format!("{RECORDS}?_sort=n"),
            Value::Null,
        ),
    ]
}

async fn measure(api: &Api, attack: Attack) -> Outcome<()> {
    let event = event(
        attack.authorization,
        attack.method,
        &attack.path,
        &attack.body,
    )?;
    drop(attack.body);
    // Resets the kernel's peak of this process's memory.
    fs::write("/proc/self/clear_refs", "5")?;
    let (before, begin) = (memory("VmRSS:")?, Instant::now());
    let answer = api.handle(event).await;
    let elapsed = begin.elapsed();
    let more = memory("VmHWM:")?.saturating_sub(before);
    let milliseconds = elapsed.as_secs_f64() * 1000.0;
    println!(
        "{:44} {:>6} {:>9.1} {:>8.1}",
        attack.name,
        answer.status_code,
        milliseconds,
        more as f64 / 1024.0
    );
    Ok(())
}

/// A figure of this process's memory, in KB.
fn memory(mark: &str) -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(mark));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or("no such mark")?.parse()?)
}

async fn send(
    api: &Api,
    authorization: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> Outcome<ApiGatewayV2httpResponse> {
    Ok(api.handle(event(authorization, method, path, body)?).await)
}

fn event(
    authorization: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> Outcome<ApiGatewayV2httpRequest> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let content_type = match method {
        "PATCH" => "application/json-patch+json",
        _ => "application/json",
    };
    let mut headers = json!({"host": "localhost", "content-type": content_type});
    if !authorization.is_empty() {
        headers["authorization"] = authorization.into();
    }
    let mut event: ApiGatewayV2httpRequest = serde_json::from_value(json!({
        "version": "2.0",
        "rawPath": format!("/v1{path}"),
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {"http": {"method": method, "path": path}},
        "isBase64Encoded": false,
    }))?;
    if !body.is_null() {
        event.body = Some(body.to_string());
    }
    Ok(event)
}
