//! What each deployed function does once, before its first event.

use crate::aggregator::Aggregator;
use crate::api::Api;
use crate::broadcaster::Broadcaster;
use crate::environment::{Environment, StartError};
use crate::listeners::custom::LISTENERS;
use crate::listeners::{Aws, Listeners};
use crate::megaphone::Megaphone;
use crate::metrics::Metrics;
use crate::notifier::Notifier;
use crate::queue::{BroadcastQueue, NotificationQueue, QueueConsumer};
use crate::settings::{
    BroadcastsSettings, ChangesSettings, Includes, ListenerSettings, MegaphoneSettings, PluginName,
    SettingError, Settings, Vars,
};
use crate::settings_file::KINTO_INI;
use crate::store::Store;
use crate::warm::Warm;

/// The variable that a stack with a notifier has.
const NOTIFICATION_QUEUE_URL: &str = "NOTIFICATION_QUEUE_URL";

impl Environment {
    /// The table, its connection opened: the first request shall not pay for that.
    async fn store(&self) -> Result<Store, StartError> {
        let store = Store::new(
            aws_sdk_dynamodb::Client::new(&self.sdk),
            self.vars.require("TABLE_NAME")?,
        );
        if let Err(error) = store.ping().await {
            // Not fatal: requests fail by themselves while the table does, and go on when it is back.
            tracing::warn!(%error, "the table does not answer yet");
        }
        Ok(store)
    }

    /// The listeners that are told before the commit, or those that are told after it.
    fn listeners(&self, synchronous: bool) -> Result<Listeners, StartError> {
        let mut settings = ListenerSettings::from_vars(&self.vars)?;
        settings.retain(|listener| listener.synchronous == synchronous);
        if settings.is_empty() {
            return Ok(Listeners::default());
        }
        let aws = Aws::new(&self.sdk);
        let listeners = Listeners::new(settings, &self.vars, &aws, LISTENERS)?;
        Ok(listeners.noting(self.refused.clone()))
    }

    fn megaphones(&self) -> Result<Vec<Megaphone>, StartError> {
        let settings = MegaphoneSettings::from_vars(&self.vars)?;
        let megaphones = settings.into_iter().map(|settings| {
            let megaphone = Megaphone::new(settings)?;
            Ok(megaphone.noting(self.refused.clone()))
        });
        megaphones.collect()
    }
}

/// The API function: `TABLE_NAME` and the `KINTO_*` settings.
///
/// # Errors
/// Names the setting that is missing or wrong.
pub async fn api(environment: Environment) -> Result<Warm<Api>, StartError> {
    let secrets = |vars: &Vars| {
        let of_listeners = listener_secrets(vars, true)?;
        let is_secret = |name: &&str| {
            let settings = [
                "KINTO_USERID_HMAC_SECRET",
                "KINTO_DEFAULT_BUCKET_HMAC_SECRET",
                "KINTO_BROADCASTS_READER_TOKEN",
                "KINTO_ORIGIN_SECRET",
                "KINTO_SIGNER_ECDSA_PRIVATE_KEY",
            ];
            settings.contains(name)
                || name.contains("MULTIAUTH_POLICY_") && name.ends_with("_CLIENT_SECRET")
        };
        let of_api = vars.names().filter(is_secret).map(str::to_owned);
        Ok(of_api.chain(of_listeners).collect())
    };
    Warm::start(environment, secrets, |environment| {
        Box::pin(async move {
            check_notifier(&environment.vars)?;
            let settings = Settings::from_vars(&environment.vars)?;
            check_plugins(&settings.api.includes)?;
            Ok(Api::new(
                environment.store().await?,
                settings,
                environment.megaphones()?,
                environment.listeners(true)?,
            )
            .publishing(Metrics::from_vars(&environment.vars)?))
        })
    })
    .await
}

/// The changes-aggregator: `TABLE_NAME`, `BROADCAST_QUEUE_URL` and the settings of monitor/changes and listeners.
///
/// # Errors
/// Names the setting that is missing or wrong.
pub async fn aggregator(environment: Environment) -> Result<Warm<Aggregator>, StartError> {
    Warm::start(
        environment,
        |_| Ok(vec![]),
        |environment| {
            Box::pin(async move {
                let queue_url = environment.vars.require("BROADCAST_QUEUE_URL")?;
                let queue =
                    BroadcastQueue::new(aws_sdk_sqs::Client::new(&environment.sdk), queue_url);
                let changes = ChangesSettings::from_vars(&environment.vars)?;
                let broadcasts = BroadcastsSettings::from_vars(&environment.vars)?;
                let megaphones = MegaphoneSettings::from_vars(&environment.vars)?;
                Ok(Aggregator::new(
                    environment.store().await?,
                    queue,
                    changes,
                    broadcasts,
                    megaphones,
                )
                .publishing(Metrics::from_vars(&environment.vars)?))
            })
        },
    )
    .await
}

/// The broadcaster: `TABLE_NAME`, `BROADCAST_QUEUE_URL`, `BROADCAST_DEAD_LETTER_QUEUE_URL` and the settings of listeners.
///
/// # Errors
/// Names the setting that is missing or wrong.
pub async fn broadcaster(environment: Environment) -> Result<Warm<Broadcaster>, StartError> {
    let secrets = |vars: &Vars| {
        let is_api_key =
            |name: &&str| name.starts_with("KINTO_EVENT_LISTENERS_") && name.ends_with("_API_KEY");
        Ok(vars.names().filter(is_api_key).map(str::to_owned).collect())
    };
    Warm::start(environment, secrets, |environment| {
        Box::pin(async move {
            let vars = &environment.vars;
            let consumer = QueueConsumer::new(
                aws_sdk_sqs::Client::new(&environment.sdk),
                vars.require("BROADCAST_QUEUE_URL")?,
                vars.require("BROADCAST_DEAD_LETTER_QUEUE_URL")?,
            );
            Ok(Broadcaster::new(
                environment.store().await?,
                consumer,
                environment.megaphones()?,
            )
            .publishing(Metrics::from_vars(vars)?))
        })
    })
    .await
}

/// The notifier: `TABLE_NAME`, `NOTIFICATION_QUEUE_URL`, `NOTIFICATION_DEAD_LETTER_QUEUE_URL` and the settings of
/// listeners.
///
/// # Errors
/// Names the setting that is missing or wrong.
pub async fn notifier(environment: Environment) -> Result<Warm<Notifier>, StartError> {
    let secrets = |vars: &Vars| listener_secrets(vars, false);
    Warm::start(environment, secrets, |environment| {
        Box::pin(async move {
            let vars = &environment.vars;
            let client = aws_sdk_sqs::Client::new(&environment.sdk);
            let queue_url = vars.require(NOTIFICATION_QUEUE_URL)?;
            let dead_letter_url = vars.require("NOTIFICATION_DEAD_LETTER_QUEUE_URL")?;
            Ok(Notifier::new(
                environment.store().await?,
                NotificationQueue::new(client.clone(), queue_url),
                QueueConsumer::new(client, queue_url, dead_letter_url),
                environment.listeners(false)?,
            )
            .publishing(Metrics::from_vars(vars)?))
        })
    })
    .await
}

/// Checks that there is a notifier for the listeners of the `kinto.ini` that are told after a write: without one nobody
/// would send the events.
///
/// # Errors
/// Names such a listener.
fn check_notifier(vars: &Vars) -> Result<(), SettingError> {
    if vars.text(NOTIFICATION_QUEUE_URL).is_some() || vars.text(KINTO_INI).is_none() {
        return Ok(());
    }
    let mut listeners = ListenerSettings::from_vars(vars)?.into_iter();
    match listeners.find(|listener| !listener.synchronous) {
        Some(listener) => Err(SettingError::new(
            listener.variable("USE"),
            "the kinto.ini names a listener that is told after a write: deploy the stack with Listeners=true",
        )),
        None => Ok(()),
    }
}

/// Checks that no plugin is on that needs one process for all requests.
///
/// # Errors
/// Names `kinto.plugins.prometheus`: each scrape would reach another process, or a new one.
fn check_plugins(includes: &Includes) -> Result<(), SettingError> {
    match includes.has(PluginName::Prometheus) {
        true => Err(SettingError::new(
            "KINTO_INCLUDES",
            "`kinto.plugins.prometheus` is for one process, and on Lambda there are many: take it out; CloudWatch has the metrics (docs/operations.md)",
        )),
        false => Ok(()),
    }
}

/// The variables that may hold secrets of listeners, of those that are told before the commit or after it: a function
/// may read no others.
fn listener_secrets(vars: &Vars, synchronous: bool) -> Result<Vec<String>, SettingError> {
    let mut listeners = ListenerSettings::from_vars(vars)?;
    listeners.retain(|listener| listener.synchronous == synchronous);
    let variables = listeners
        .iter()
        .flat_map(|listener| ["SECRET", "PASSWORD"].map(|setting| listener.variable(setting)));
    Ok(variables.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(vars: &[(&str, &str)]) -> Result<(), String> {
        let vars = vars.iter().copied().collect();
        check_notifier(&vars).map_err(|error| error.to_string())
    }

    #[test]
    fn metrics_for_prometheus_stop_the_start_by_their_name() {
        let check = |includes| {
            let vars = Vars::from_iter([("KINTO_INCLUDES", includes)]);
            check_plugins(&Includes::from_vars(&vars).unwrap())
        };
        let error = check("kinto.plugins.prometheus").unwrap_err().to_string();
        assert!(error.contains("KINTO_INCLUDES"), "{error}");
        assert!(error.contains("kinto.plugins.prometheus"), "{error}");
        assert_eq!(check("kinto.plugins.history"), Ok(()));
    }

    #[test]
    fn a_listener_of_the_file_that_nobody_would_notify_stops_the_start() {
        let file = ("KINTO_INI", "kinto.ini");
        let queue = [
            ("KINTO_EVENT_LISTENERS", "q"),
            ("KINTO_EVENT_LISTENERS_Q_USE", "sqs"),
        ];
        let error = check(&[file, queue[0], queue[1]]).unwrap_err();
        assert!(error.contains("KINTO_EVENT_LISTENERS_Q_USE"), "{error}");
        let synchronous = ("KINTO_EVENT_LISTENERS_Q_SYNCHRONOUS", "true");
        assert_eq!(check(&[file, queue[0], queue[1], synchronous]), Ok(()));
        assert_eq!(check(&queue), Ok(()));
        let notifier = (
            NOTIFICATION_QUEUE_URL,
            "https://sqs.us-east-1.amazonaws.com/123456789012/n.fifo",
        );
        assert_eq!(check(&[file, queue[0], queue[1], notifier]), Ok(()));
    }
}
