//! Moves a Kinto in and out.
