//! `rebuild-monitor`: rebuilds monitor/changes in the running stack, over its AWS port.

use std::net::{Ipv4Addr, SocketAddr};

use aws_sdk_dynamodb::config::BehaviorVersion;
use kinto_serverless::aggregator::{Aggregator, RebuildError, Rebuilt};
use kinto_serverless::environment::StartError;
use kinto_serverless::queue::BroadcastQueue;
use kinto_serverless::settings::{BroadcastsSettings, ChangesSettings, MegaphoneSettings, Vars};
use kinto_serverless::store::Store;

use crate::sqs;
use crate::stack::{TABLE, set_defaults};
use local_aws::aws::REGION;

/// The reason why the monitor was not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildMonitorError {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] StartError),
    /// The stack does not respond, or fails.
    #[error("the stack on AWS_PORT {port} could not rebuild the monitor; does it run? {source}")]
    Stack {
        /// The port.
        port: u16,
        /// The failure.
        source: RebuildError,
    },
}

/// Rebuilds the monitor of the stack whose DynamoDB and SQS are on `port` of loopback.
///
/// # Errors
/// Nothing responds there, or a setting is invalid.
pub async fn rebuild_monitor(port: u16, mut vars: Vars) -> Result<Rebuilt, RebuildMonitorError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // The Megaphone's address does not matter here: what is due goes to the queue.
    set_defaults(&mut vars, address);
    let endpoint = format!("http://{address}");
    let dynamodb = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(REGION)
        .allow_no_auth()
        .endpoint_url(&endpoint)
        .build();
    let sqs = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(REGION)
        .allow_no_auth()
        .endpoint_url(&endpoint)
        .build();
    let aggregator = Aggregator::new(
        Store::new(aws_sdk_dynamodb::Client::from_conf(dynamodb), TABLE),
        BroadcastQueue::new(
            aws_sdk_sqs::Client::from_conf(sqs),
            sqs::url(sqs::BROADCASTS),
        ),
        ChangesSettings::from_vars(&vars).map_err(StartError::from)?,
        BroadcastsSettings::from_vars(&vars).map_err(StartError::from)?,
        MegaphoneSettings::from_vars(&vars).map_err(StartError::from)?,
    );
    aggregator
        .rebuild_monitor()
        .await
        .map_err(|source| RebuildMonitorError::Stack { port, source })
}
