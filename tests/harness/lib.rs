//! The common parts of the tests: the API over an embedded DynamoDB, called through the same events as on Lambda.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use aws_lambda_events::encodings::Body;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use kinto_local::LocalAws;
use kinto_serverless::api::Api;
use kinto_serverless::listeners::Listeners;
use kinto_serverless::megaphone::Megaphone;
use kinto_serverless::settings::{Settings, Vars};
use kinto_serverless::store::{Item, Store};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use sha2::Sha256;

/// The table of every test.
pub const TABLE: &str = "kinto";

/// `Authorization` of a first user, `alice:`.
pub const ALICE: &str = "Basic YWxpY2U6";
/// `Authorization` of a second user, `bob:`.
pub const BOB: &str = "Basic Ym9iOg==";
/// `Authorization` of an anonymous user.
pub const NOBODY: &str = "";

/// The bucket of [`Kinto::with_collection`].
pub const BUCKET: &str = "/buckets/main";
/// The collection of [`Kinto::with_collection`].
pub const COLLECTION: &str = "/buckets/main/collections/one";
/// The list of the records of [`COLLECTION`].
pub const RECORDS: &str = "/buckets/main/collections/one/records";
/// A record of [`COLLECTION`].
pub const RECORD: &str = "/buckets/main/collections/one/records/r1";

/// The API over a table of its own, called as one user.
#[derive(Clone)]
pub struct Kinto {
    /// The embedded AWS, for counting requests and injecting faults.
    pub aws: LocalAws,
    /// The API.
    pub api: Api,
    authorization: &'static str,
}

/// A response of the API.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON body; `null` if there is none.
    pub body: Value,
    /// The headers.
    pub headers: http::HeaderMap,
}

/// Awaits work in a thread of its own, and waits for that: a fault that is being injected is in the middle of a request,
/// and this thread with it.
pub fn in_own_thread<F: Future>(work: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work());
    });
    thread.join().unwrap();
}

/// Returns `true` if a webhook's request is signed with the key according to
/// <https://github.com/standard-webhooks/standard-webhooks>.
pub fn is_signed(request: &wiremock::Request, key: &[u8]) -> bool {
    let header = |name| request.headers.get(name).and_then(|it| it.to_str().ok());
    let (Some(id), Some(seconds), Some(signature)) = (
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    ) else {
        return false;
    };
    let signature = signature.strip_prefix("v1,");
    let signature = signature.and_then(|it| BASE64_STANDARD.decode(it).ok());
    let signed = [format!("{id}.{seconds}.").as_bytes(), &request.body].concat();
    let mac = Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(signed));
    mac.is_ok_and(|mac| signature.is_some_and(|it| mac.verify_slice(&it).is_ok()))
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    Timestamp::now().0
}

/// Waits until the clock is later than `time`, in milliseconds since the epoch: a list's times may be ahead of it.
pub async fn clock_passes(time: u64) {
    while now() <= time {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The ids of a list's objects, in order.
pub fn ids(list: &Answer) -> Vec<&str> {
    assert_eq!(list.status, 200, "{list:?}");
    let objects = list.body["data"].as_array().unwrap().iter();
    objects.map(|it| it["id"].as_str().unwrap()).collect()
}

/// The path of a record of [`RECORDS`].
pub fn record(id: &str) -> String {
    format!("{RECORDS}/{id}")
}

/// A request of a batch that writes that record.
pub fn put(id: &str) -> Value {
    json!({"method": "PUT", "path": record(id), "body": {"data": {"n": id}}})
}

/// Sends these requests as one batch.
pub async fn batch(kinto: &Kinto, requests: Vec<Value>) -> Answer {
    kinto.post("/batch", json!({"requests": requests})).await
}

/// The ids of the records in [`RECORDS`], sorted.
pub async fn sorted_ids(kinto: &Kinto) -> Vec<String> {
    let list = kinto.get(&format!("{RECORDS}?_sort=id")).await;
    ids(&list).into_iter().map(str::to_owned).collect()
}

/// The settings of one Megaphone, `mp`, which is notified of `/buckets/main`.
pub fn megaphone(url: &str) -> [(&'static str, &str); 6] {
    [
        ("KINTO_EVENT_LISTENERS", "mp"),
        ("KINTO_EVENT_LISTENERS_MP_USE", "kinto_megaphone.listeners"),
        ("KINTO_EVENT_LISTENERS_MP_API_KEY", "hush"),
        ("KINTO_EVENT_LISTENERS_MP_URL", url),
        ("KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID", "remote-settings"),
        (
            "KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES",
            "/buckets/main",
        ),
    ]
}

/// The statuses of a batch's responses, in order.
pub fn statuses(batch: &Answer) -> Vec<u64> {
    assert_eq!(batch.status, 200, "{batch:?}");
    let responses = batch.body["responses"].as_array().unwrap().iter();
    responses.map(|it| it["status"].as_u64().unwrap()).collect()
}

/// The names in a header that contains a list of them.
pub fn names(answer: &Answer, header: &str) -> BTreeSet<String> {
    let value = answer.header(header);
    let names = value.split(',').map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Data with that many levels, the outermost included.
pub fn nested(levels: usize) -> Value {
    (1..levels).fold(json!({}), |inner, _| json!({"a": inner}))
}

/// The number of cases of a property test: `KINTO_TEST_CASES`, or else `few`.
pub fn cases(few: u32) -> u32 {
    let asked = std::env::var("KINTO_TEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(few)
}

/// The least cost of passwords' hashes: with the usual one they took a sixth of the tests' time.
pub const CHEAP_HASHES: (&str, &str) = ("KINTO_ACCOUNT_HASH_COST", "10");

/// The settings of the tests, with `more` added.
pub fn settings(more: &[(&str, &str)]) -> Settings {
    let vars: Vars = [
        ("KINTO_USERID_HMAC_SECRET", "s3cret"),
        ("MULTIAUTH_POLICIES", "basicauth"),
        CHEAP_HASHES,
        ("KINTO_CHANGES_RESOURCES", "/buckets/main"),
    ]
    .iter()
    .chain(more)
    .copied()
    .collect();
    Settings::from_vars(&vars).unwrap()
}

/// Sends a request to the table as JSON; it is neither counted nor faulted.
pub fn execute(aws: &LocalAws, operation: &str, mut request: Value) -> Value {
    request["TableName"] = TABLE.into();
    let answer = aws
        .database()
        .execute(operation, request.to_string().as_bytes());
    serde_json::from_str(&answer.unwrap()).unwrap()
}

/// Puts an item of strings, numbers, booleans, lists and maps into the table.
pub fn put_item(aws: &LocalAws, item: &Value) {
    execute(aws, "PutItem", json!({"Item": attributes(item)}));
}

/// The members of an object as DynamoDB attributes.
pub fn attributes(members: &Value) -> Value {
    let members = members.as_object().unwrap().iter();
    let members = members.map(|(name, value)| (name.clone(), attribute(value)));
    Value::Object(members.collect())
}

fn attribute(value: &Value) -> Value {
    match value {
        Value::String(text) => json!({"S": text}),
        Value::Number(number) => json!({"N": number.to_string()}),
        Value::Bool(flag) => json!({"BOOL": flag}),
        Value::Array(values) => json!({"L": values.iter().map(attribute).collect::<Vec<_>>()}),
        Value::Object(_) => json!({"M": attributes(value)}),
        Value::Null => json!({"NULL": true}),
    }
}

/// A record of the stream: the list of records of `collection` in the bucket `main` got `timestamp`.
pub fn changed(sequence_number: u64, collection: &str, timestamp: u64) -> Value {
    json!({
        "eventID": sequence_number.to_string(),
        "eventName": "MODIFY",
        "eventSource": "aws:dynamodb",
        "awsRegion": "eu-central-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1.7,
            "Keys": {"pk": {"S": format!("/buckets/main/collections/{collection}#record")}, "sk": {"S": "#timestamp"}},
            "NewImage": {
                "pk": {"S": format!("/buckets/main/collections/{collection}#record")},
                "sk": {"S": "#timestamp"},
                "timestamp": {"N": timestamp.to_string()},
                "generation": {"S": "8000000000000000"},
                "kind": {"S": "record"},
            },
            "SequenceNumber": sequence_number.to_string(),
            "SizeBytes": 200,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    })
}

impl Kinto {
    /// An empty table, called as alice.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// An empty table, with these settings added, called as alice.
    pub fn with(vars: &[(&str, &str)]) -> Self {
        Self::with_listeners(vars, Listeners::default())
    }

    /// The same with listeners that are notified before the commit; `vars` contains their settings too.
    pub fn with_listeners(vars: &[(&str, &str)], listeners: Listeners) -> Self {
        let aws = LocalAws::sqlite().unwrap();
        aws.create_table(TABLE).unwrap();
        let settings = settings(vars);
        let megaphones = settings
            .megaphones
            .iter()
            .cloned()
            .map(|m| Megaphone::new(m).unwrap())
            .collect();
        let store = Store::new(aws.dynamodb(), TABLE);
        let api = Api::new(store, settings, megaphones, listeners);
        Self {
            aws,
            api,
            authorization: ALICE,
        }
    }

    /// The API with these settings added, over another one's table.
    pub fn over(aws: &LocalAws, vars: &[(&str, &str)]) -> Self {
        let store = Store::new(aws.dynamodb(), TABLE);
        Self {
            aws: aws.clone(),
            api: Api::new(store, settings(vars), vec![], Listeners::default()),
            authorization: ALICE,
        }
    }

    /// A bucket `main` with a collection `one`; the requests for these are not counted.
    pub async fn with_collection() -> Self {
        let kinto = Self::new();
        assert_eq!(kinto.put("/buckets/main", json!({})).await.status, 201);
        assert_eq!(
            kinto
                .put("/buckets/main/collections/one", json!({}))
                .await
                .status,
            201
        );
        kinto.aws.requests().take();
        kinto
    }

    /// The collection of [`Self::with_collection`] with [`RECORD`] in it, called as alice, and as bob, who may create
    /// records in it and nothing else.
    pub async fn with_creator() -> (Self, Self) {
        let kinto = Self::with_collection().await;
        let bob = kinto.as_user(BOB);
        let create = json!({"permissions": {"record:create": [bob.user_id().await]}});
        assert_eq!(kinto.patch(COLLECTION, create).await.status, 200);
        let secret = json!({"data": {"secret": "42"}});
        assert_eq!(kinto.put(RECORD, secret).await.status, 201);
        (kinto, bob)
    }

    /// The user's id, as the root endpoint shows it.
    pub async fn user_id(&self) -> String {
        let hello = self.get("/").await.body;
        hello["user"]["id"].as_str().unwrap().to_owned()
    }

    /// The same, called as another user.
    pub fn as_user(&self, authorization: &'static str) -> Self {
        Self {
            authorization,
            ..self.clone()
        }
    }

    /// Removes the item at a key from the table and returns it.
    pub async fn take_item(&self, pk: &str, sk: &str) -> Item {
        let delete = self.aws.dynamodb().delete_item().table_name(TABLE);
        let key = [("pk", pk), ("sk", sk)];
        let key = key.map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
        let delete = delete.set_key(Some(key.into()));
        let deleted = delete.return_values(ReturnValue::AllOld).send().await;
        deleted.unwrap().attributes.unwrap()
    }

    /// Puts an item into the table.
    pub async fn put_item(&self, item: Item) {
        let put = self.aws.dynamodb().put_item().table_name(TABLE);
        put.set_item(Some(item)).send().await.unwrap();
    }

    /// `GET /v1{path}`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// `PUT /v1{path}` with a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &[], &body.to_string()).await
    }

    /// `POST /v1{path}` with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], &body.to_string()).await
    }

    /// `PATCH /v1{path}` with a JSON body.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, &[], &body.to_string()).await
    }

    /// `DELETE /v1{path}`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "").await
    }

    /// Any request to `/v1{path}`; a header given here replaces the default one.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.send_raw(method, &format!("/v1{path}"), headers, body)
            .await
    }

    /// Any request to any path.
    pub async fn send_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let (raw_path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut all = json!({"host": "kinto.test"});
        if !self.authorization.is_empty() {
            all["authorization"] = self.authorization.into();
        }
        if !body.is_empty() {
            all["content-type"] = "application/json".into();
        }
        for (name, value) in headers {
            all[name.to_ascii_lowercase()] = (*value).into();
        }
        let event: ApiGatewayV2httpRequest = serde_json::from_value(json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": raw_path,
            "rawQueryString": query,
            "headers": all,
            "requestContext": {"requestId": "request-1", "domainName": "kinto.test", "http": {"method": method, "path": raw_path}},
            "body": body,
            "isBase64Encoded": false,
        }))
        .unwrap();
        let answer = self.api.handle(event).await;
        let content_type = answer.headers.get("content-type");
        let is_plain = content_type.is_some_and(|it| it.as_bytes().starts_with(b"text/plain"));
        let body = match answer.body {
            Some(Body::Text(text)) if is_plain => text.into(),
            Some(Body::Text(text)) => serde_json::from_str(&text).unwrap(),
            _ => Value::Null,
        };
        Answer {
            status: answer.status_code as u16,
            body,
            headers: answer.headers,
        }
    }
}

impl Default for Kinto {
    fn default() -> Self {
        Self::new()
    }
}

impl Answer {
    /// `data.last_modified`.
    pub fn last_modified(&self) -> u64 {
        self.body["data"]["last_modified"]
            .as_u64()
            .unwrap_or_else(|| panic!("no last_modified: {self:?}"))
    }

    /// A header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Status and errno.
    pub fn error(&self) -> (u16, u64) {
        (self.status, self.body["errno"].as_u64().unwrap_or_default())
    }
}
