//! `prometheus_*` and `metrics_matchdict_fields`: which metrics are served, and how they are named (Kinto 26.5).

use super::{SettingError, Vars};

/// The bounds of the buckets of histograms that Kinto has.
const BUCKETS: &str = "0.01 0.05 0.1 0.5 1.0 3.0 6.0 Inf";
/// The most buckets: each is a line for each label that there is.
const MAX_BUCKETS: usize = 50;

/// Settings of `kinto.plugins.prometheus`.
#[derive(Clone, Debug, PartialEq)]
pub struct PrometheusSettings {
    /// `prometheus_prefix`: what each name begins with; the name of the project if not set.
    pub prefix: String,
    /// `prometheus_disabled_metrics`: the names, without the prefix, of metrics that are not served.
    pub disabled: Vec<String>,
    /// `prometheus_histogram_buckets`: the upper bounds of the buckets of histograms, in seconds, rising; the last is infinite.
    pub buckets: Vec<f64>,
    /// `prometheus_created_metrics_enabled`: whether each metric has another one that tells since when it is counted.
    pub created: bool,
    /// `metrics_matchdict_fields`: the ids in a path that are labels.
    pub ids: Vec<String>,
}

impl PrometheusSettings {
    /// Reads them, with Kinto's defaults. `project` is the project's name.
    ///
    /// # Errors
    /// Bounds that are no numbers or do not rise, and more than 50; a field that is no name of a label.
    pub fn from_vars(vars: &Vars, project: &str) -> Result<Self, SettingError> {
        let prefix = vars.get("KINTO_PROMETHEUS_PREFIX").unwrap_or(project);
        // As in Kinto, the only `_` is the last character.
        let plain: String = prefix.chars().filter(char::is_ascii_alphanumeric).collect();
        let prefix = match &*plain.to_ascii_lowercase() {
            "" => String::new(),
            name => format!("{name}_"),
        };
        let words = |name| vars.words(name);
        let disabled = words("KINTO_PROMETHEUS_DISABLED_METRICS").unwrap_or_default();
        let disabled = disabled
            .into_iter()
            .map(|name| name.strip_prefix(&prefix).unwrap_or(&name).to_owned());
        Ok(Self {
            disabled: disabled.collect(),
            buckets: buckets(vars)?,
            created: vars.flag("KINTO_PROMETHEUS_CREATED_METRICS_ENABLED", true)?,
            ids: ids(vars)?,
            prefix,
        })
    }
}

fn buckets(vars: &Vars) -> Result<Vec<f64>, SettingError> {
    let variable = "KINTO_PROMETHEUS_HISTOGRAM_BUCKETS";
    let refused = |problem: &str| Err(SettingError::new(variable, problem));
    let bounds = vars.get(variable).unwrap_or(BUCKETS).split_whitespace();
    let Ok(mut bounds) = bounds.map(str::parse).collect::<Result<Vec<f64>, _>>() else {
        return refused("must be numbers, separated by spaces");
    };
    if bounds.last() != Some(&f64::INFINITY) {
        bounds.push(f64::INFINITY);
    }
    let rise = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    match bounds.len() {
        2..=MAX_BUCKETS if rise => Ok(bounds),
        2..=MAX_BUCKETS => refused("must rise"),
        _ => refused("must be 1 to 49 numbers"),
    }
}

fn ids(vars: &Vars) -> Result<Vec<String>, SettingError> {
    let variable = "KINTO_METRICS_MATCHDICT_FIELDS";
    let Some(ids) = vars.words(variable) else {
        let ids = ["bucket_id", "collection_id", "group_id", "record_id"];
        return Ok(ids.map(str::to_owned).into());
    };
    let is_label = |id: &String| {
        let mut bytes = id.bytes();
        bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !["method", "endpoint", "status", "le"].contains(&&**id)
    };
    match ids.iter().find(|id| !is_label(id)) {
        None => Ok(ids),
        Some(id) => {
            let problem = format!("`{id}` is no label: letters, digits and _, and none of ours");
            Err(SettingError::new(variable, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<PrometheusSettings, SettingError> {
        PrometheusSettings::from_vars(&vars.iter().copied().collect(), "Kinto-Main Server")
    }

    #[test]
    fn names_begin_with_the_project_and_one_underscore() {
        assert_eq!(read(&[]).unwrap().prefix, "kintomainserver_");
        let prefix = |prefix| read(&[("KINTO_PROMETHEUS_PREFIX", prefix)]).unwrap().prefix;
        assert_eq!(prefix("remote-settings"), "remotesettings_");
        assert_eq!(prefix(""), "");
    }

    #[test]
    fn a_metric_is_turned_off_by_its_name_with_the_prefix_or_without() {
        let names = "request_size kintomainserver_request_summary";
        let settings = read(&[("KINTO_PROMETHEUS_DISABLED_METRICS", names)]).unwrap();
        assert_eq!(settings.disabled, ["request_size", "request_summary"]);
    }

    #[test]
    fn the_last_bucket_has_no_bound() {
        assert_eq!(read(&[]).unwrap().buckets.len(), 8);
        let buckets = read(&[("KINTO_PROMETHEUS_HISTOGRAM_BUCKETS", "1 2.5")]).unwrap();
        assert_eq!(buckets.buckets, [1.0, 2.5, f64::INFINITY]);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let many = "1 ".repeat(60);
        for (variable, value) in [
            ("KINTO_PROMETHEUS_HISTOGRAM_BUCKETS", "1 one"),
            ("KINTO_PROMETHEUS_HISTOGRAM_BUCKETS", "2 1"),
            ("KINTO_PROMETHEUS_HISTOGRAM_BUCKETS", "NaN"),
            ("KINTO_PROMETHEUS_HISTOGRAM_BUCKETS", ""),
            ("KINTO_PROMETHEUS_HISTOGRAM_BUCKETS", &many),
            ("KINTO_PROMETHEUS_CREATED_METRICS_ENABLED", "perhaps"),
            ("KINTO_METRICS_MATCHDICT_FIELDS", "bucket_id status"),
            ("KINTO_METRICS_MATCHDICT_FIELDS", "\"a\\\"b\""),
        ] {
            assert_eq!(read(&[(variable, value)]).unwrap_err().variable, variable);
        }
    }
}
