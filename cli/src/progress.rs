//! How far it is, on stderr.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar with the rate and the time left; nothing where stderr is no terminal.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Of so many objects.
    pub fn new(objects: u64) -> Self {
        let style = "{bar:30} {human_pos}/{human_len} objects, {per_sec}, {eta} left{msg}";
        let bar = ProgressBar::new(objects);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Of as many objects as there will be.
    pub fn reading() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{human_pos} read, {per_sec}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many more were compared or read.
    pub fn advance(&self, objects: u64) {
        self.0.inc(objects);
    }

    /// So many items were written in all, with write capacity units.
    pub fn wrote(&self, items: u64, units: u64) {
        let message = format!("; {items} items written with {units} write capacity units");
        self.0.set_message(message);
    }

    /// It ends.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
