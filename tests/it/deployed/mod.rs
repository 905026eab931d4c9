//! The functions as they are deployed.

mod functions;
mod sample_events;
