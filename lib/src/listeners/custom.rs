//! Your own listeners: the one place that maps a listener's `use` to code.
//!
//! Write a type that implements [`Listener`](super::Listener) with a function that builds it, and add a line to
//! [`LISTENERS`]: then every function of the stack, and the local stack, knows it. `examples/bucket_mail` of the local
//! stack is a complete one; `docs/listeners.md` explains it. Name secret settings `SECRET` or `PASSWORD`: these may be
//! ARNs.

use super::ListenerFactory;

/// The factory for each `use`. Takes precedence over the built-in ones.
pub const LISTENERS: &[(&str, ListenerFactory)] = &[];
