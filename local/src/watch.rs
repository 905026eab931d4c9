//! `--watch`: shows the stack's work live, each step with its lag: as a view that fills the terminal, or as a log if
//! standard output is not one.
//!
//! Writes are shown when they are answered, the monitor when the aggregator has handled a change, broadcasts when the
//! built-in Megaphone takes them (another one is not watched), listeners when the notifier has notified them. Nothing
//! waits for this.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lambda_events::dynamodb::EventRecord;
use aws_lambda_events::sqs::SqsMessage;
use kinto_serverless::queue::NotificationRequest;
use kinto_serverless::timestamp::Timestamp;
use serde_dynamo::AttributeValue;

/// The lines of the view for the latest events: with the rest it fits into 24.
const LAST: usize = 10;
/// The number of lags for the median and the greatest.
const LAGS: usize = 100;
/// The shortest time between two drawings of the view.
const FRAME: Duration = Duration::from_millis(100);

/// A stage of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A request that changes something was answered.
    Write,
    /// A change is in monitor/changes.
    Monitor,
    /// A Megaphone was notified.
    Broadcast,
    /// A listener was notified.
    Listener,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Write, Self::Monitor, Self::Broadcast, Self::Listener];

    const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Monitor => "monitor",
            Self::Broadcast => "broadcast",
            Self::Listener => "listener",
        }
    }
}

/// The view of the pipeline, on or off; clones share it.
#[derive(Clone)]
pub enum Watch {
    /// Off.
    Off,
    /// A log, with a line for each event.
    Log,
    /// A view in the terminal.
    View(Arc<Mutex<View>>),
}

impl Watch {
    /// A view below these lines if standard output is a terminal, else a log. Needs a runtime: a task draws the view,
    /// until the last clone is dropped.
    pub fn start(banner: Vec<String>) -> Self {
        if !stdout().is_terminal() {
            return Self::Log;
        }
        let view = Arc::new(Mutex::new(View::new(banner)));
        let drawn = Arc::downgrade(&view);
        // The alternate screen without a cursor, whose lines are truncated and not wrapped.
        write("\x1b[?1049h\x1b[?25l\x1b[?7l");
        tokio::spawn(async move {
            while let Some(view) = drawn.upgrade() {
                write(&lock(&view).draw());
                drop(view);
                tokio::time::sleep(FRAME).await;
            }
        });
        Self::View(view)
    }

    /// Returns `true` if the view is on.
    pub fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Records an event, and its lag since the write, or its request, began.
    pub fn note(&self, stage: Stage, what: &str, lag: Duration) {
        let line = || line(Timestamp::now(), stage, what, lag);
        match self {
            Self::Off => {}
            Self::Log => write(&format!("{}\n", line())),
            Self::View(view) => {
                let line = line();
                lock(view).note(stage, line, lag);
            }
        }
    }

    /// Records the changes that the aggregator has taken from the stream.
    pub fn note_monitored(&self, records: &[EventRecord], now: Timestamp) {
        for record in records {
            let (keys, item) = (&record.change.keys, &record.change.new_image);
            let (Some(AttributeValue::S(list)), Some(AttributeValue::N(time))) =
                (keys.get("pk"), item.get("timestamp"))
            else {
                continue;
            };
            let collection = list.strip_suffix("#record").unwrap_or(list);
            self.note(
                Stage::Monitor,
                collection,
                since(time.parse().unwrap_or(now.0), now),
            );
        }
    }

    /// Records a version that Megaphone has taken.
    pub fn note_broadcast(&self, channel: &str, version: &str, now: Timestamp) {
        let time = version.trim_matches('"').parse().unwrap_or(now.0);
        let what = format!("{channel} {version}");
        self.note(Stage::Broadcast, &what, since(time, now));
    }

    /// Records the listeners that the notifier has notified.
    pub fn note_told(&self, messages: &[SqsMessage], now: Timestamp) {
        for message in messages {
            let body = message.body.as_deref().unwrap_or_default();
            if let Ok(request) = serde_json::from_str::<NotificationRequest>(body) {
                let time = request
                    .entry
                    .id
                    .trim_start_matches(|c: char| !c.is_ascii_digit());
                let time = time.split('-').next().and_then(|time| time.parse().ok());
                let parent = request.entry.parent.trim_start_matches('#');
                let what = format!("{} of {parent}", request.listener);
                self.note(Stage::Listener, &what, since(time.unwrap_or(now.0), now));
            }
        }
    }

    /// Restores the terminal.
    pub fn end(&self) {
        if let Self::View(_) = self {
            write("\x1b[?7h\x1b[?25h\x1b[?1049l");
        }
    }
}

/// The state that the view shows.
pub struct View {
    banner: Vec<String>,
    stages: [StageCount; Stage::ALL.len()],
    last: VecDeque<String>,
}

#[derive(Default)]
struct StageCount {
    count: u64,
    lags: VecDeque<Duration>,
}

impl View {
    fn new(banner: Vec<String>) -> Self {
        Self {
            banner,
            stages: Default::default(),
            last: VecDeque::new(),
        }
    }

    fn note(&mut self, stage: Stage, line: String, lag: Duration) {
        let seen = &mut self.stages[stage as usize];
        seen.count += 1;
        seen.lags.push_front(lag);
        seen.lags.truncate(LAGS);
        self.last.push_front(line);
        self.last.truncate(LAST);
    }

    /// The whole screen, drawn over the previous one.
    fn draw(&self) -> String {
        let mut screen = "\x1b[H".to_owned();
        let mut row = |text: &str| screen.push_str(&format!(" {text}\x1b[K\r\n"));
        for line in &self.banner {
            row(line);
        }
        row("");
        row(&format!(
            "{:<12}{:>8}{:>10}{:>10}{:>10}   of the last {LAGS}",
            "", "count", "latest", "median", "slowest"
        ));
        for (stage, seen) in Stage::ALL.into_iter().zip(&self.stages) {
            let mut sorted: Vec<_> = seen.lags.iter().copied().collect();
            sorted.sort_unstable();
            let lags = [
                seen.lags.front(),
                sorted.get(sorted.len() / 2),
                sorted.last(),
            ];
            let [latest, median, slowest] =
                lags.map(|lag| lag.map_or_else(String::new, |lag| millis(*lag)));
            let (name, count) = (stage.name(), seen.count);
            row(&format!(
                "{name:<12}{count:>8}{latest:>10}{median:>10}{slowest:>10}"
            ));
        }
        row("");
        for line in &self.last {
            row(line);
        }
        if self.last.is_empty() {
            row("Nothing was written yet. Ctrl-C ends the stack.");
        }
        // Clears the rest of an earlier, longer screen.
        screen.push_str("\x1b[J");
        screen
    }
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not `print`: a closed pipe must not end the stack.
fn write(text: &str) {
    let mut out = stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn since(then: u64, now: Timestamp) -> Duration {
    Duration::from_millis(now.0.saturating_sub(then))
}

fn millis(lag: Duration) -> String {
    format!("{:.1} ms", lag.as_secs_f64() * 1000.0)
}

/// One event, with the time of day (UTC). Text from clients cannot move the cursor.
fn line(now: Timestamp, stage: Stage, what: &str, lag: Duration) -> String {
    let (seconds, millis_of) = (now.0 / 1000, now.0 % 1000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    let what: String = what
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    format!(
        "{hours:02}:{minutes:02}:{:02}.{millis_of:03} {:<10}{:>9}  {what}",
        seconds % 60,
        stage.name(),
        millis(lag)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_when_what_and_how_late_and_moves_no_cursor() {
        let lag = Duration::from_micros(12_345);
        let shown = line(Timestamp(3_723_004), Stage::Write, "PUT /a\x1b[2J 201", lag);
        assert_eq!(shown, "01:02:03.004 write       12.3 ms  PUT /a?[2J 201");
    }

    #[test]
    fn the_view_counts_stages_and_shows_the_latest_things_first() {
        let mut view = View::new(vec!["API".to_owned()]);
        assert!(view.draw().contains("Nothing was written yet"));
        for lag in [3, 1, 20] {
            let line = format!("after {lag}");
            view.note(Stage::Monitor, line, Duration::from_millis(lag));
        }
        let screen = view.draw();
        let rows: Vec<_> = screen.split("\x1b[K\r\n").map(str::trim).collect();
        let monitor = rows.iter().find(|row| row.starts_with("monitor")).unwrap();
        let words: Vec<_> = monitor.split_whitespace().collect();
        assert_eq!(
            words,
            ["monitor", "3", "20.0", "ms", "3.0", "ms", "20.0", "ms"]
        );
        let first = rows.iter().position(|row| *row == "after 20").unwrap();
        assert_eq!(rows[first + 1], "after 1");
        for _ in 0..200 {
            view.note(Stage::Write, "w".to_owned(), Duration::ZERO);
        }
        assert!(view.draw().matches('\n').count() < 24);
    }
}
