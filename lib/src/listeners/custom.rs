//! Your own listeners: the one place where code gets the name that a listener's `use` gives it.
//!
//! Write a type that is a [`Listener`](super::Listener) with a function that makes it, and add a line to [`LISTENERS`]:
//! every function of the stack, and the local one, knows it then. `examples/bucket_mail` of the local stack is a
//! whole one, `docs/listeners.md` leads through it. Settings that are secrets are called `SECRET` or `PASSWORD`: these
//! may be ARNs.

use super::ListenerFactory;

/// `use` and what makes the listener. Goes before what is built in.
pub const LISTENERS: &[(&str, ListenerFactory)] = &[];
