//! The AWS resources of Kinto's functions: its table and its queues, over `local_aws`.

use std::ops::Deref;

use aws_config::{BehaviorVersion, SdkConfig};
use kinto_serverless::listeners::Aws;
use kinto_serverless::store::BY_LAST_MODIFIED;
use local_aws::aws::REGION;
use local_aws::dynamodb::{DynamoDb, DynamoDbError, TableDefinition};
use local_aws::queue::{Queue, Redrive};

use crate::sqs::{self, BROADCASTS, EVENTS, NOTIFICATIONS};

/// The table of template.yaml, under this name.
pub fn table(name: impl Into<String>) -> TableDefinition {
    TableDefinition {
        name: name.into(),
        partition_key: "pk",
        sort_key: "sk",
        index: BY_LAST_MODIFIED,
        index_key: "last_modified",
        expiry: "expires",
    }
}

/// DynamoDB and SQS in this process, with Kinto's queues; clones share them.
#[derive(Clone, Debug)]
pub struct LocalAws {
    aws: local_aws::LocalAws,
    queues: Queues,
}

/// The queues of the stack; clones share them.
#[derive(Clone, Debug)]
pub struct Queues {
    /// [`BROADCASTS`]
    pub broadcasts: Queue,
    /// [`NOTIFICATIONS`]
    pub notifications: Queue,
    /// [`EVENTS`]
    pub events: Queue,
}

impl LocalAws {
    /// Everything in memory, with the part of DynamoDB that the functions use.
    pub fn memory() -> Self {
        Self::over(DynamoDb::memory(), Redrive::default())
    }

    /// Everything in memory, with all of DynamoDB.
    pub fn sqlite() -> Result<Self, DynamoDbError> {
        Ok(Self::over(DynamoDb::sqlite()?, Redrive::default()))
    }

    /// The table in a file, the queues in memory.
    pub fn open(path: &str) -> Result<Self, DynamoDbError> {
        Ok(Self::over(DynamoDb::open(path)?, Redrive::default()))
    }

    /// As [`Self::open`], for a program that fills the file: see [`DynamoDb::open_for_import`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_import(path: &str) -> Result<Self, DynamoDbError> {
        let dynamodb = DynamoDb::open_for_import(path)?;
        Ok(Self::over(dynamodb, Redrive::default()))
    }

    /// Over the given database, with queues of the given redrive policy.
    pub fn over(dynamodb: DynamoDb, redrive: Redrive) -> Self {
        let names = [BROADCASTS, NOTIFICATIONS, EVENTS];
        let [broadcasts, notifications, events] = names.map(|_| Queue::new(redrive));
        let queues = Queues {
            broadcasts: broadcasts.clone(),
            notifications: notifications.clone(),
            events: events.clone(),
        };
        let named = names.into_iter().zip([broadcasts, notifications, events]);
        Self {
            aws: local_aws::LocalAws::over(dynamodb, named.collect()),
            queues,
        }
    }

    /// Creates the table of template.yaml under `name`, unless it exists.
    pub fn create_table(&self, name: &str) -> Result<(), DynamoDbError> {
        self.aws.create_table(&table(name))
    }

    /// The URL of the queue of broadcast requests.
    pub fn queue_url(&self) -> String {
        sqs::url(BROADCASTS)
    }

    /// The URL of its dead-letter queue.
    pub fn dead_letter_url(&self) -> String {
        sqs::dead_letter_url(BROADCASTS)
    }

    /// The queue of broadcast requests itself.
    pub fn queue(&self) -> &Queue {
        &self.queues.broadcasts
    }

    /// All the queues.
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// The AWS clients of listeners: the queues here, and otherwise the AWS of the environment.
    pub fn of_listeners(&self, environment: &SdkConfig) -> Aws {
        Aws {
            sqs: self.sqs(),
            ..Aws::new(environment)
        }
    }
}

/// The AWS of the environment, for what is not here.
pub async fn of_environment() -> SdkConfig {
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12());
    let config = match std::env::var_os("AWS_REGION") {
        Some(_) => config,
        None => config.region(REGION),
    };
    config.load().await
}

impl Deref for LocalAws {
    type Target = local_aws::LocalAws;

    fn deref(&self) -> &Self::Target {
        &self.aws
    }
}
