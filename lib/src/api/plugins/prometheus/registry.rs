//! The counters of this process's requests, and their form as Prometheus's text.
//!
//! Names, kinds and labels are those of Kinto 26.5, for what there is here too: `request_summary`,
//! `request_duration_seconds`, `request_size` and `authentication`; `retries` and `turns` are our own. There is no
//! `users`: it would show the ids of all users to whoever asks.
//!
//! Ids become labels, and clients choose them. So what all labels may take is bounded, and beyond that ids are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::settings::PrometheusSettings;
use crate::timestamp::Timestamp;

/// The most that labels with ids may take, in bytes. Each may be in 60 lines, with the name of a metric.
const MAX_LABELS: usize = 200_000;
/// The bytes of a series beside its labels.
const NAMES: usize = 60;

/// A request, as it is counted.
#[derive(Debug)]
pub struct CountedRequest<'a> {
    /// Its method.
    pub method: &'a str,
    /// Kinto's name of its endpoint.
    pub endpoint: &'a str,
    /// The ids in its path, by their names; empty when it was refused.
    pub ids: Vec<(String, String)>,
    /// The status of its response.
    pub status: u16,
    /// How long it took; `None` for one in a batch, whose requests are answered together.
    pub took: Option<Duration>,
    /// The length of its response, uncompressed.
    pub length: usize,
}

/// The labels of a series, by their names.
type Labels = BTreeMap<String, String>;

/// The metrics of this process.
#[derive(Debug)]
pub struct Registry {
    settings: PrometheusSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: BTreeMap<Labels, Series>,
    authentications: BTreeMap<Labels, Counter>,
    retries: Option<Counter>,
    turns: Option<Counter>,
    /// The bytes of the labels of `requests`.
    labels: usize,
}

/// The requests that have the same labels.
#[derive(Debug)]
struct Series {
    statuses: BTreeMap<u16, Counter>,
    /// For each bucket those that are in it, and not in one before it.
    buckets: Vec<u64>,
    seconds: f64,
    count: u64,
    bytes: f64,
    created: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    value: u64,
    created: Timestamp,
}

/// A metric's kind, as Prometheus names it.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Histogram,
    Summary,
    Gauge,
}

impl Registry {
    pub fn new(settings: PrometheusSettings) -> Self {
        Self {
            settings,
            state: Mutex::default(),
        }
    }

    /// Counts a request, or one of a batch.
    pub fn count(&self, request: CountedRequest<'_>) {
        let now = Timestamp::now();
        let mut state = self.lock();
        let mut labels = self.labels(&request, true);
        if !state.requests.contains_key(&labels) && state.labels + size_of(&labels) > MAX_LABELS {
            labels = self.labels(&request, false);
        }
        if !state.requests.contains_key(&labels) {
            state.labels += size_of(&labels);
        }
        let bounds = &self.settings.buckets;
        let series = state.requests.entry(labels).or_insert_with(|| Series {
            statuses: BTreeMap::new(),
            buckets: vec![0; bounds.len()],
            seconds: 0.0,
            count: 0,
            bytes: 0.0,
            created: now,
        });
        if let Some(seconds) = request.took.map(|took| took.as_secs_f64()) {
            series.seconds += seconds;
            if let Some(bucket) = bounds.iter().position(|bound| seconds <= *bound) {
                series.buckets[bucket] += 1;
            }
        }
        series.count += 1;
        series.bytes += request.length as f64;
        let status = series.statuses.entry(request.status);
        status.or_insert(Counter::new(now)).value += 1;
    }

    /// Counts a user who was known, by the way in which they were.
    pub fn authenticated(&self, policy: &str) {
        let labels = Labels::from([("type".to_owned(), policy.to_owned())]);
        let mut state = self.lock();
        let counter = state.authentications.entry(labels);
        counter.or_insert(Counter::new(Timestamp::now())).value += 1;
    }

    /// Counts the attempts of a request after its first, and the turns that it waited for.
    pub fn contended(&self, retries: u32, turns: u32) {
        let mut state = self.lock();
        let State {
            retries: all_retries,
            turns: all_turns,
            ..
        } = &mut *state;
        for (number, counter) in [(retries, all_retries), (turns, all_turns)] {
            if number > 0 {
                let counter = counter.get_or_insert(Counter::new(Timestamp::now()));
                counter.value += u64::from(number);
            }
        }
    }

    /// The labels of a request; without ids where these have no place.
    fn labels(&self, request: &CountedRequest<'_>, with_ids: bool) -> Labels {
        let id_of = |name: &str| {
            let mut ids = request.ids.iter().filter(|_| with_ids);
            let found = ids.find(|(known, _)| known == name);
            found.map(|(_, id)| id.clone()).unwrap_or_default()
        };
        let ids = self.settings.ids.iter();
        let mut labels: Labels = ids.map(|name| (name.clone(), id_of(name))).collect();
        labels.insert("method".to_owned(), request.method.to_ascii_lowercase());
        labels.insert("endpoint".to_owned(), request.endpoint.to_owned());
        labels
    }

    /// All metrics, in Prometheus's text format, version 0.0.4.
    pub fn text(&self) -> String {
        let state = self.lock();
        let mut text = String::new();
        let is_on = |name: &str| !self.settings.disabled.iter().any(|it| it == name);
        if is_on("request_summary") && !state.requests.is_empty() {
            let counters = state.requests.iter().flat_map(|(labels, series)| {
                series.statuses.iter().map(|(status, counter)| {
                    let mut labels = labels.clone();
                    labels.insert("status".to_owned(), status.to_string());
                    (labels, *counter)
                })
            });
            self.write_counters(
                &mut text,
                "request_summary",
                "Requests.",
                counters.collect(),
            );
        }
        if is_on("request_duration_seconds") {
            self.write_durations(&mut text, &state);
        }
        if is_on("request_size") {
            self.write_sizes(&mut text, &state);
        }
        let authentications = state.authentications.iter();
        let authentications = authentications.map(|(labels, counter)| (labels.clone(), *counter));
        let of_one = |counter: Option<Counter>| {
            let counters = counter.map(|counter| (Labels::new(), counter));
            counters.into_iter().collect::<Vec<_>>()
        };
        for (name, help, counters) in [
            (
                "authentication",
                "Requests of users who are known.",
                authentications.collect(),
            ),
            (
                "retries",
                "Attempts of requests after the first.",
                of_one(state.retries),
            ),
            ("turns", "Turns at contended lists.", of_one(state.turns)),
        ] {
            if is_on(name) && !counters.is_empty() {
                self.write_counters(&mut text, name, help, counters);
            }
        }
        text
    }

    fn write_counters(
        &self,
        text: &mut String,
        name: &str,
        help: &str,
        counters: Vec<(Labels, Counter)>,
    ) {
        let name = format!("{}{name}", self.settings.prefix);
        head(text, &format!("{name}_total"), help, Kind::Counter);
        for (labels, counter) in &counters {
            line(text, &format!("{name}_total"), labels, counter.value as f64);
        }
        let created = counters
            .iter()
            .map(|(labels, counter)| (labels, counter.created));
        self.write_created(text, &name, help, created);
    }

    fn write_durations(&self, text: &mut String, state: &State) {
        if state.requests.is_empty() {
            return;
        }
        let name = format!("{}request_duration_seconds", self.settings.prefix);
        let help = "How long requests took.";
        head(text, &name, help, Kind::Histogram);
        for (labels, series) in &state.requests {
            let mut count = 0;
            for (bound, bucket) in self.settings.buckets.iter().zip(&series.buckets) {
                count += bucket;
                let mut labels = labels.clone();
                let bound = match bound.is_finite() {
                    true => format!("{bound:?}"),
                    false => "+Inf".to_owned(),
                };
                labels.insert("le".to_owned(), bound);
                line(text, &format!("{name}_bucket"), &labels, count as f64);
            }
            line(text, &format!("{name}_count"), labels, count as f64);
            line(text, &format!("{name}_sum"), labels, series.seconds);
        }
        self.write_created(text, &name, help, created_of(state));
    }

    fn write_sizes(&self, text: &mut String, state: &State) {
        if state.requests.is_empty() {
            return;
        }
        let name = format!("{}request_size", self.settings.prefix);
        let help = "The bytes of responses, uncompressed.";
        head(text, &name, help, Kind::Summary);
        for (labels, series) in &state.requests {
            line(text, &format!("{name}_count"), labels, series.count as f64);
            line(text, &format!("{name}_sum"), labels, series.bytes);
        }
        self.write_created(text, &name, help, created_of(state));
    }

    /// Since when each series of a metric is counted.
    fn write_created<'a>(
        &self,
        text: &mut String,
        name: &str,
        help: &str,
        created: impl Iterator<Item = (&'a Labels, Timestamp)>,
    ) {
        if !self.settings.created {
            return;
        }
        let name = format!("{name}_created");
        head(text, &name, help, Kind::Gauge);
        for (labels, created) in created {
            line(text, &name, labels, created.0 as f64 / 1000.0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter {
    fn new(now: Timestamp) -> Self {
        Self {
            value: 0,
            created: now,
        }
    }
}

/// The bytes that a series with these labels takes, about.
fn size_of(labels: &Labels) -> usize {
    let lengths = labels.iter().map(|(name, id)| name.len() + id.len());
    NAMES + lengths.sum::<usize>()
}

fn created_of(state: &State) -> impl Iterator<Item = (&Labels, Timestamp)> {
    let series = state.requests.iter();
    series.map(|(labels, series)| (labels, series.created))
}

fn head(text: &mut String, name: &str, help: &str, kind: Kind) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
        Kind::Gauge => "gauge",
    };
    // Writing to a string does not fail.
    _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &Labels, value: f64) {
    text.push_str(name);
    if !labels.is_empty() {
        let labels = labels.iter();
        let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        _ = write!(text, "{{{}}}", labels.collect::<Vec<_>>().join(","));
    }
    _ = writeln!(text, " {value:?}");
}

/// A value of a label, as Prometheus's text has it.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', r"\\").replace('"', r#"\""#);
    value.replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Vars;

    fn registry(vars: &[(&str, &str)]) -> Registry {
        let vars: Vars = vars.iter().copied().collect();
        Registry::new(PrometheusSettings::from_vars(&vars, "kinto").unwrap())
    }

    fn record(id: &str) -> CountedRequest<'static> {
        CountedRequest {
            method: "PUT",
            endpoint: "record-object",
            ids: vec![("record_id".to_owned(), id.to_owned())],
            status: 201,
            took: Some(Duration::from_millis(50)),
            length: 100,
        }
    }

    #[test]
    fn a_value_of_a_label_is_escaped() {
        let registry = registry(&[("KINTO_METRICS_MATCHDICT_FIELDS", "record_id")]);
        registry.count(record("a\"b\\c\nd"));
        let text = registry.text();
        assert!(text.contains(r#"record_id="a\"b\\c\nd""#), "{text}");
    }

    #[test]
    fn a_bucket_holds_what_took_as_long_as_its_bound_or_less() {
        let registry = registry(&[]);
        registry.count(record("a"));
        let text = registry.text();
        let count = |le: &str| {
            let mut lines = text
                .lines()
                .filter(|line| line.contains(&format!("le=\"{le}\"")));
            lines.next().unwrap().rsplit_once(' ').unwrap().1.to_owned()
        };
        assert_eq!(
            [count("0.01"), count("0.05"), count("+Inf")],
            ["0.0", "1.0", "1.0"]
        );
    }

    #[test]
    fn ids_that_have_no_place_are_left_out_and_their_requests_counted_all_the_same() {
        let registry = registry(&[("KINTO_PROMETHEUS_CREATED_METRICS_ENABLED", "false")]);
        for n in 0..20_000 {
            registry.count(record(&format!("{n}-{}", "x".repeat(200))));
        }
        let text = registry.text();
        assert!(
            text.len() < crate::api::web::compression::MAX_BODY,
            "{}",
            text.len()
        );
        let all = text
            .lines()
            .filter(|line| line.starts_with("kinto_request_summary_total"));
        let all = all.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        assert!((all.sum::<f64>() - 20_000.0).abs() < 0.5);
        let rest = text
            .lines()
            .find(|line| line.contains("summary_total") && line.contains("record_id=\"\""));
        assert!(rest.is_some());
    }
}
