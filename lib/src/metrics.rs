//! Our own metrics, as lines of the log in `CloudWatch`'s embedded metric format, which needs no requests
//! ([decision 27](../../docs/decisions/027-logs-and-metrics.md)).
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::settings::{SettingError, Vars};
use crate::timestamp::Timestamp;

/// The namespace of all metrics.
const NAMESPACE: &str = "kinto-serverless";
/// The variable of Lambda's that names the function.
const FUNCTION: &str = "AWS_LAMBDA_FUNCTION_NAME";
/// The most values of one metric in a line (`CloudWatch`).
const MAX_VALUES: usize = 100;

/// The unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

/// The metrics of one function; by default, none.
#[derive(Clone, Default)]
pub struct Metrics(Option<Arc<Publisher>>);

struct Publisher {
    /// The function, the only dimension.
    function: String,
    /// Whether more is published than the alarms need.
    counts: bool,
    write: Box<dyn Fn(&Value) + Send + Sync>,
}

impl Metrics {
    /// Those of the function that this process is, in its log. None where it is no Lambda function: nobody would read them.
    ///
    /// # Errors
    /// `KINTO_METRICS` is no flag.
    pub fn from_vars(vars: &Vars) -> Result<Self, SettingError> {
        let counts = vars.flag("KINTO_METRICS", false);
        let counts = counts.map_err(|error| vars.locate(error))?;
        let function = vars.text(FUNCTION);
        Ok(function.map_or_else(Self::default, |function| {
            // A log that cannot be written to is no reason to fail.
            Self::of(function, counts, |line| {
                _ = writeln!(std::io::stdout(), "{line}");
            })
        }))
    }

    /// Those of `function`; `write` gets each line. Without `counts` only what the alarms need is published.
    pub fn of(
        function: impl Into<String>,
        counts: bool,
        write: impl Fn(&Value) + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(Publisher {
            function: function.into(),
            counts,
            write: Box::new(write),
        })))
    }

    /// Whether more is published than the alarms need.
    pub fn counts(&self) -> bool {
        self.0.as_ref().is_some_and(|publisher| publisher.counts)
    }

    /// Publishes `DueAge`, in seconds: the time from enqueueing a notification to this attempt to deliver it. An alarm needs
    /// it.
    ///
    /// SQS's own age of the oldest message leaves out messages that were received and failed, which may be all of them
    /// while a receiver is down.
    pub fn due_age(&self, sent: Option<Timestamp>, now: Timestamp) {
        if let (Some(publisher), Some(sent)) = (&self.0, sent) {
            let age = now.since(sent).as_secs_f64();
            publisher.publish(now, &[("DueAge", Unit::Seconds, json!(age))]);
        }
    }

    /// Publishes these numbers, except zeros, unless counts are off.
    pub fn count(&self, now: Timestamp, numbers: &[(&str, u64)]) {
        if let Some(publisher) = self.0.as_ref().filter(|publisher| publisher.counts) {
            let some = numbers.iter().filter(|(_, number)| *number > 0);
            let some = some.map(|(name, number)| (*name, Unit::Count, json!(number)));
            publisher.publish(now, &some.collect::<Vec<_>>());
        }
    }

    /// Publishes the values of one metric, at most 100 of them, unless counts are off.
    pub fn values(&self, now: Timestamp, name: &str, unit: Unit, values: &[u64]) {
        if let Some(publisher) = self.0.as_ref().filter(|publisher| publisher.counts)
            && !values.is_empty()
        {
            let values = &values[..values.len().min(MAX_VALUES)];
            publisher.publish(now, &[(name, unit, json!(values))]);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = self.0.as_ref().map(|publisher| &publisher.function);
        f.debug_tuple("Metrics").field(&function).finish()
    }
}

impl Publisher {
    /// Writes one line with these metrics, and the function as their dimension.
    fn publish(&self, now: Timestamp, metrics: &[(&str, Unit, Value)]) {
        if metrics.is_empty() {
            return;
        }
        let declared: Vec<_> = metrics
            .iter()
            .map(|(name, unit, _)| json!({"Name": name, "Unit": format!("{unit:?}")}))
            .collect();
        let mut line = json!({
            "_aws": {
                "Timestamp": now.0,
                "CloudWatchMetrics": [{
                    "Namespace": NAMESPACE,
                    "Dimensions": [["FunctionName"]],
                    "Metrics": declared,
                }],
            },
            "FunctionName": self.function,
        });
        for (name, _, value) in metrics {
            line[*name] = value.clone();
        }
        (self.write)(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The lines of metrics that `publish` publishes.
    fn lines(counts: bool, publish: impl FnOnce(&Metrics)) -> Vec<Value> {
        let lines = Arc::new(Mutex::new(vec![]));
        let written = Arc::clone(&lines);
        let metrics = Metrics::of("kinto-broadcaster", counts, move |line| {
            written.lock().unwrap().push(line.clone());
        });
        publish(&metrics);
        lines.lock().unwrap().clone()
    }

    #[test]
    fn a_line_names_its_values_and_its_dimension() {
        let lines = lines(true, |metrics| {
            metrics.count(Timestamp(7), &[("Writes", 2), ("Failed", 0)]);
            metrics.values(Timestamp(7), "MonitorLag", Unit::Milliseconds, &[5; 101]);
        });
        let directive = &lines[0]["_aws"]["CloudWatchMetrics"][0];
        let declared = json!([{"Name": "Writes", "Unit": "Count"}]);
        assert_eq!(directive["Metrics"], declared);
        assert_eq!(
            (&lines[0]["Writes"], &lines[0]["Failed"]),
            (&json!(2), &Value::Null)
        );
        let dimension = directive["Dimensions"][0][0].as_str().unwrap();
        assert_eq!(lines[0][dimension], "kinto-broadcaster");
        assert_eq!(lines[0]["_aws"]["Timestamp"], 7);
        assert_eq!(lines[1]["MonitorLag"].as_array().unwrap().len(), MAX_VALUES);
    }

    #[test]
    fn what_an_alarm_needs_is_published_whatever_is_off_and_nothing_else() {
        let lines = lines(false, |metrics| {
            metrics.count(Timestamp(7), &[("Writes", 2)]);
            metrics.values(Timestamp(7), "MonitorLag", Unit::Milliseconds, &[5]);
            metrics.due_age(Some(Timestamp(1000)), Timestamp(2500));
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["DueAge"], 1.5);
    }

    #[test]
    fn nothing_is_published_where_nobody_reads_the_log_for_metrics() {
        let vars = |function| Vars::from_iter([("KINTO_METRICS", "true"), (FUNCTION, function)]);
        assert!(!Metrics::from_vars(&vars("")).unwrap().counts());
        assert!(Metrics::from_vars(&vars("kinto-api")).unwrap().counts());
        let unclear = Vars::from_iter([("KINTO_METRICS", "perhaps")]);
        let error = Metrics::from_vars(&unclear).unwrap_err();
        assert_eq!(error.variable, "KINTO_METRICS");
    }
}
