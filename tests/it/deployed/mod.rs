//! See the files below.

mod functions;
mod sample_events;
