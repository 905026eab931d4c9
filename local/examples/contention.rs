//! Measures contention between writers of one collection: as on Lambda each has an API of its own, and DynamoDB is some
//! milliseconds away and refuses a transaction while another one holds an item of it.
//!
//! `cargo run --release -p kinto-local --example contention [WRITERS] [WRITES]`

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::{Response, StatusCode};
use aws_smithy_types::body::SdkBody;
use kinto_local::connector::InProcess;
use kinto_local::{Fault, LocalAws};
use kinto_serverless::api::Api;
use kinto_serverless::listeners::Listeners;
use kinto_serverless::settings::{Settings, Vars};
use kinto_serverless::store::Store;
use tokio::task::JoinSet;

const TABLE: &str = "kinto";
const COLLECTION: &str = "/v1/buckets/main/collections/news";

/// The one-way latency to DynamoDB, in microseconds.
const WAY: std::ops::Range<u64> = 700..2_000;
/// The time for which a transaction holds its items.
const COMMIT: Duration = Duration::from_millis(5);

/// A remote DynamoDB.
#[derive(Clone, Debug)]
struct Remote {
    here: InProcess,
    in_hand: Arc<AtomicUsize>,
    conflicts: Arc<AtomicUsize>,
}

impl HttpClient for Remote {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Remote {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let remote = self.clone();
        HttpConnectorFuture::new(async move {
            let way = || tokio::time::sleep(Duration::from_micros(fastrand::u64(WAY)));
            way().await;
            let target = request.headers().get("x-amz-target").unwrap_or_default();
            let answer = if target.ends_with("TransactWriteItems") {
                // All writers write the same list, so that only one transaction at a time can hold its items.
                let rivals = remote.in_hand.fetch_add(1, Ordering::SeqCst);
                let answer = if rivals == 0 {
                    let answer = remote.here.call(request).await;
                    tokio::time::sleep(COMMIT).await;
                    answer
                } else {
                    remote.conflicts.fetch_add(1, Ordering::SeqCst);
                    conflict()
                };
                remote.in_hand.fetch_sub(1, Ordering::SeqCst);
                answer
            } else {
                remote.here.call(request).await
            };
            way().await;
            answer
        })
    }
}

fn conflict() -> Result<Response<SdkBody>, aws_smithy_runtime_api::client::result::ConnectorError> {
    let Fault::Refused { status, body } =
        Fault::transaction_canceled(&["None", "TransactionConflict"])
    else {
        unreachable!("what a refusal is made of");
    };
    let status = StatusCode::try_from(status).expect("a status");
    Ok(Response::new(status, SdkBody::from(body)))
}

fn api(remote: Remote) -> Result<Api, Box<dyn Error>> {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "contention"))
        .http_client(SharedHttpClient::new(remote))
        .build();
    let mut vars = Vars::default();
    vars.set_default("KINTO_USERID_HMAC_SECRET", "local");
    vars.set_default("KINTO_MULTIAUTH_POLICIES", "basicauth");
    let store = Store::new(aws_sdk_dynamodb::Client::from_conf(config), TABLE);
    Ok(Api::new(
        store,
        Settings::from_vars(&vars)?,
        vec![],
        Listeners::default(),
    ))
}

async fn put(api: &Api, path: String) -> i64 {
    let mut event = ApiGatewayV2httpRequest::default();
    event.raw_path = Some(path);
    event.request_context.http.method = http::Method::PUT;
    let headers = &mut event.headers;
    headers.insert(
        "authorization",
        http::HeaderValue::from_static("Basic dTpw"),
    );
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    event.body = Some(r#"{"data": {}}"#.to_owned());
    api.handle(event).await.status_code
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).map(|n| n.parse::<usize>());
    let writers = args.next().transpose()?.unwrap_or(32);
    let writes = args.next().transpose()?.unwrap_or(2_000);

    let aws = LocalAws::memory();
    aws.create_table(TABLE)?;
    let remote = Remote {
        here: InProcess::new((*aws).clone()),
        in_hand: Arc::default(),
        conflicts: Arc::default(),
    };
    let first = api(remote.clone())?;
    for path in ["/v1/buckets/main", COLLECTION] {
        assert_eq!(put(&first, path.to_owned()).await, 201, "{path}");
    }
    aws.requests().take();

    let (begin, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (api, next) = (api(remote.clone())?, Arc::clone(&next));
        tasks.spawn(async move {
            let mut answers = vec![];
            loop {
                let id = next.fetch_add(1, Ordering::Relaxed);
                if id >= writes {
                    return answers;
                }
                let sent = Instant::now();
                let status = put(&api, format!("{COLLECTION}/records/r{id}")).await;
                answers.push((sent.elapsed(), status));
            }
        });
    }
    let mut answers = tasks.join_all().await.concat();
    let took = begin.elapsed();
    answers.sort_unstable();

    let mut statuses = BTreeMap::<i64, usize>::new();
    for (_, status) in &answers {
        *statuses.entry(*status).or_default() += 1;
    }
    let percentile = |p: usize| answers[(answers.len() - 1) * p / 100].0;
    let requests = aws.requests().take();
    println!("{writers} writers, {writes} writes in {took:?}: {statuses:?}");
    println!(
        "p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
        percentile(50),
        percentile(90),
        percentile(99),
        percentile(100)
    );
    println!(
        "requests {requests:?}, and {} refused as in conflict",
        remote.conflicts.load(Ordering::SeqCst)
    );
    Ok(())
}
