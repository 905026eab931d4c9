//! Our own metrics, as lines of the log in `CloudWatch`'s embedded metric format, which needs no requests.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::timestamp::Timestamp;

/// The namespace of all metrics.
const NAMESPACE: &str = "kinto-serverless";

/// The name of this function; `None` where nothing reads its log for metrics.
static FUNCTION: LazyLock<Option<String>> =
    LazyLock::new(|| std::env::var("AWS_LAMBDA_FUNCTION_NAME").ok());

/// Records the time from enqueueing a notification to this attempt to deliver it: `DueAge`, in seconds.
///
/// SQS's own age of the oldest message leaves out messages that were received and failed, which may be all of them
/// while a receiver is down.
pub fn due_age(sent: Option<Timestamp>, now: Timestamp) {
    if let (Some(function), Some(sent)) = (&*FUNCTION, sent) {
        let age = now.since(sent).as_secs_f64();
        println!("{}", metric(function, "DueAge", "Seconds", age, now));
    }
}

/// One value of a metric, with the function as its dimension.
fn metric(function: &str, name: &str, unit: &str, value: f64, now: Timestamp) -> Value {
    json!({
        "_aws": {
            "Timestamp": now.0,
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE,
                "Dimensions": [["FunctionName"]],
                "Metrics": [{"Name": name, "Unit": unit}],
            }],
        },
        "FunctionName": function,
        name: value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_names_its_value_and_its_dimension() {
        let line = metric(
            "kinto-broadcaster",
            "DueAge",
            "Seconds",
            901.5,
            Timestamp(7),
        );
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        let name = directive["Metrics"][0]["Name"].as_str().unwrap();
        assert_eq!(line[name], 901.5);
        let dimension = directive["Dimensions"][0][0].as_str().unwrap();
        assert_eq!(line[dimension], "kinto-broadcaster");
        assert_eq!(line["_aws"]["Timestamp"], 7);
    }
}
