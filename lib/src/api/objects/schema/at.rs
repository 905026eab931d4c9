//! A value that is matched with a keyword, and the mismatch that is found.

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::api::objects::schema::failure::Failure;
use crate::api::objects::schema::references::Scope;

/// The most bytes of a value to show in the description of a mismatch.
const MAX_SHOWN: usize = 100;

/// Nothing, or why a value does not match.
pub(super) type EvaluationResult = Result<(), Failure>;

/// The last part of a value's location.
#[derive(Clone, Copy)]
pub(super) enum PathSegment<'p> {
    Field(&'p str),
    Index(usize),
}

/// A value, its location, and the keyword that it is matched with.
#[derive(Clone, Copy)]
pub(super) struct Instance<'a, 's, 'o> {
    pub value: &'a Value,
    pub place: Option<PathSegment<'a>>,
    pub keyword: &'a str,
    /// The schema with the keyword.
    pub schema: &'s Map<String, Value>,
    pub scope: &'o Scope<'s, 'o>,
}

impl Instance<'_, '_, '_> {
    /// The mismatch that a keyword finds.
    pub fn mismatch(&self, problem: impl Display) -> EvaluationResult {
        self.mismatch_of(self.keyword, problem)
    }

    /// The same, for a field that is missing.
    pub fn mismatch_of(&self, field: &str, problem: impl Display) -> EvaluationResult {
        let field = match self.place {
            Some(PathSegment::Field(field)) => field.to_owned(),
            Some(PathSegment::Index(index)) => index.to_string(),
            None => field.to_owned(),
        };
        let problem = problem.to_string();
        Err(Failure::Mismatch { field, problem })
    }
}

/// The beginning of a value, for error messages.
pub(super) fn shown(value: &Value) -> String {
    struct Truncated(Vec<u8>);
    impl Write for Truncated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .extend_from_slice(&bytes[..bytes.len().min(MAX_SHOWN)]);
            match self.0.len() < MAX_SHOWN {
                true => Ok(bytes.len()),
                false => Err(io::ErrorKind::WriteZero.into()),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut start = Truncated(vec![]);
    let is_whole = serde_json::to_writer(&mut start, value).is_ok();
    let text = String::from_utf8_lossy(&start.0).into_owned();
    if is_whole { text } else { text + "…" }
}
