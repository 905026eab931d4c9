//! `_sort`, and the order of values, which is Kinto's on PostgreSQL: null < string < number < boolean < array < object <
//! missing.

use std::cmp::Ordering;

use serde_json::Value;

use crate::api::lists::projection::Path;
use crate::api::objects::metadata::{ID, LAST_MODIFIED};
use crate::api::web::error::{ApiError, Location};
use crate::json::values::compare_numbers;

/// A field that a list is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// The field.
    pub field: Path,
    /// Whether its largest value comes first.
    pub descending: bool,
}

/// The fields by which the objects of a list are ordered and told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The time that `_since`, `_before` and the default order go by; without one, parameters about times are ignored.
    pub time: Option<&'static str>,
    /// The field that no two objects share; the last sort key.
    pub unique: &'static str,
}

impl Keys {
    /// The keys of a list whose objects may have the same time, since clients give times too.
    pub const BY_TIME: Self = Self {
        time: Some(LAST_MODIFIED),
        unique: ID,
    };

    /// The fields that the order ends with, and whether each is descending.
    pub fn order(self) -> impl Iterator<Item = (&'static str, bool)> {
        let time = self.time.filter(|time| *time != self.unique);
        let time = time.map(|time| (time, true));
        time.into_iter().chain([(self.unique, self.unique != ID)])
    }
}

/// Parses `_sort`: a field counts where it is named first, and what cannot name a field is ignored.
///
/// # Errors
/// 400 for an unknown field.
pub fn sort_keys(value: &str, is_known: impl Fn(&str) -> bool) -> Result<Vec<SortKey>, ApiError> {
    let mut keys = vec![];
    for word in value.split(',').map(str::trim) {
        let (descending, field) = match word.strip_prefix('-') {
            Some(field) => (true, field),
            None => (false, word.strip_prefix('+').unwrap_or(word)),
        };
        // As Kinto: what cannot name a field is ignored.
        if field.is_empty()
            || !field
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
        {
            continue;
        }
        if !is_known(field) {
            let description = format!("Unknown sort field {field}");
            return Err(ApiError::invalid_unnamed(
                Location::Querystring,
                description,
            ));
        }
        // A field counts where it is named first.
        if keys.iter().any(|key: &SortKey| key.field.text() == field) {
            continue;
        }
        keys.push(SortKey {
            field: Path::new(field),
            descending,
        });
    }
    Ok(keys)
}

/// Orders values as Kinto does; `None` is a missing field.
pub fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let rank = |value: Option<&Value>| match value {
        Some(Value::Null) => 0,
        Some(Value::String(_)) => 1,
        Some(Value::Number(_)) => 2,
        Some(Value::Bool(_)) => 3,
        Some(Value::Array(_)) => 4,
        Some(Value::Object(_)) => 5,
        None => 6,
    };
    match (a, b) {
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (Some(Value::Number(a)), Some(Value::Number(b))) => compare_numbers(a, b),
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            let pairs = a.iter().zip(b).map(|(a, b)| compare(Some(a), Some(b)));
            pairs
                .into_iter()
                .find(|order| order.is_ne())
                .unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Some(Value::Object(a)), Some(Value::Object(b))) if a == b => Ordering::Equal,
        (Some(a @ Value::Object(_)), Some(b @ Value::Object(_))) => {
            a.to_string().cmp(&b.to_string())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}
