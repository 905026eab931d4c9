//! Filters of the query string: a field, an operator, a value.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::api::lists::parameters::{has_nul, integer, invalid, parse_value, parts, time_in};
use crate::api::lists::projection::Path;
use crate::api::lists::sort::compare;
use crate::api::objects::metadata::{ID, LAST_MODIFIED};
use crate::api::web::error::ApiError;
use crate::timestamp::Timestamp;
use crate::unit_of_work::client_time::MAX_AHEAD;
use crate::wildcard;

/// One filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// The field.
    pub field: Path,
    /// The comparison with its value.
    pub operator: Operator,
    /// The value: sorted for operators that take a list, in lower case for `like_`.
    pub value: Value,
}

/// The comparison that a filter makes, named by its prefix; `Eq` has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Eq,
    Not,
    Lt,
    Max,
    Min,
    Gt,
    In,
    Exclude,
    Like,
    Has,
    Contains,
    ContainsAny,
}

/// The prefixes of filters; one that begins with another stands before it.
const PREFIXES: [(&str, Operator); 12] = [
    ("contains_any_", Operator::ContainsAny),
    ("contains_", Operator::Contains),
    ("exclude_", Operator::Exclude),
    ("like_", Operator::Like),
    ("has_", Operator::Has),
    ("not_", Operator::Not),
    ("min_", Operator::Min),
    ("max_", Operator::Max),
    ("lt_", Operator::Lt),
    ("gt_", Operator::Gt),
    ("eq_", Operator::Eq),
    ("in_", Operator::In),
];

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// 400 for an unknown field, and for a value that the operator cannot have.
    pub fn parse(
        name: &str,
        text: &str,
        is_known: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let prefixed = PREFIXES.iter().find_map(|(prefix, operator)| {
            let field = name
                .strip_prefix(prefix)
                .filter(|field| !field.is_empty())?;
            Some((field, *operator))
        });
        let (field, operator) = prefixed.unwrap_or((name, Operator::Eq));
        if !is_known(field) {
            return Err(invalid(name, &format!("Unknown filter field {name}")));
        }
        let wrong = || invalid(name, &format!("Invalid value for {name}"));
        if has_nul(&field.into()) || has_nul(&parse_value(text)) {
            return Err(wrong());
        }
        let words = || parts(text).map(parse_value).collect::<Vec<_>>();
        let of_id = field == ID;
        let of_time = field == LAST_MODIFIED;
        // An id is a string, quoted or not.
        let id = || match parse_value(text) {
            Value::String(id) => id,
            _ => text.to_owned(),
        };
        let value = match operator {
            Operator::Contains | Operator::ContainsAny if of_id || of_time => return Err(wrong()),
            Operator::Contains | Operator::ContainsAny => match parse_value(text) {
                Value::Array(values) => values.into(),
                value => json!([value]),
            },
            Operator::In | Operator::Exclude if of_id && !words().iter().all(Value::is_string) => {
                return Err(wrong());
            }
            Operator::In | Operator::Exclude if of_time && !words().iter().all(Value::is_u64) => {
                return Err(wrong());
            }
            Operator::In | Operator::Exclude => words().into(),
            Operator::Like if of_id => id().to_lowercase().into(),
            Operator::Like if of_time => return Err(wrong()),
            Operator::Like => match parse_value(text) {
                Value::String(text) => text.to_lowercase().into(),
                _ => return Err(wrong()),
            },
            Operator::Eq if of_time => {
                let time = integer(&parse_value(text)).map(Value::from);
                return Self::time(name, LAST_MODIFIED, operator, now, time);
            }
            _ if of_time => {
                return Self::time(
                    name,
                    LAST_MODIFIED,
                    operator,
                    now,
                    time_in(&parse_value(text)),
                );
            }
            Operator::Has => parse_value(text),
            _ if of_id => id().into(),
            _ => parse_value(text),
        };
        let mut value = value;
        if let (
            Value::Array(values),
            Operator::In | Operator::Exclude | Operator::Contains | Operator::ContainsAny,
        ) = (&mut value, operator)
        {
            // Sorted for binary search.
            values.sort_by(|a, b| compare(Some(a), Some(b)));
            values.dedup_by(|a, b| compare(Some(a), Some(b)).is_eq());
        }
        Ok(Self {
            field: Path::new(field),
            operator,
            value,
        })
    }

    /// A filter by time, as `_since` and `_before` give it. `null` is before all times.
    pub fn bound(
        name: &str,
        field: &str,
        operator: Operator,
        text: &str,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        match parse_value(text) {
            Value::Null => Ok(Self {
                field: Path::new(field),
                operator,
                value: Value::Null,
            }),
            time => Self::time(name, field, operator, now, integer(&time).map(Value::from)),
        }
    }

    /// A filter by a time in milliseconds. Refuses `None`, and a time that is too far ahead.
    fn time(
        name: &str,
        field: &str,
        operator: Operator,
        now: Timestamp,
        time: Option<Value>,
    ) -> Result<Self, ApiError> {
        let latest = now.0.saturating_add(MAX_AHEAD) as f64;
        let value = time.filter(|time| time.as_f64().is_some_and(|time| time <= latest));
        let value = value.ok_or_else(|| invalid(name, &format!("Invalid value for {name}")))?;
        Ok(Self {
            field: Path::new(field),
            operator,
            value,
        })
    }

    /// Returns `true` if the object matches.
    pub fn matches(&self, object: &Map<String, Value>) -> bool {
        let found = self.field.of(object);
        let order = || compare(found, Some(&self.value));
        let listed = self.value.as_array().map_or(&[][..], Vec::as_slice);
        let place_of = |value: Option<&Value>| {
            listed
                .binary_search_by(|listed| compare(Some(listed), value))
                .ok()
        };
        let places = || {
            let values = found.and_then(Value::as_array).into_iter().flatten();
            values.filter_map(|value| place_of(Some(value)))
        };
        match self.operator {
            Operator::Eq => order().is_eq(),
            Operator::Not => order().is_ne(),
            Operator::Lt => order().is_lt(),
            Operator::Max => order().is_le(),
            Operator::Min => order().is_ge(),
            Operator::Gt => order().is_gt(),
            Operator::In => place_of(found).is_some(),
            Operator::Exclude => place_of(found).is_none(),
            Operator::Like => match found {
                Some(Value::String(text)) => is_like(text, &self.value),
                Some(Value::Number(number)) => is_like(&number.to_string(), &self.value),
                _ => false,
            },
            Operator::Has => found.is_some() == is_truthy(&self.value),
            Operator::Contains => {
                found.is_some_and(Value::is_array)
                    && places().collect::<HashSet<_>>().len() == listed.len()
            }
            Operator::ContainsAny => places().next().is_some(),
        }
    }
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Returns `true` if `text` matches `pattern`, ignoring case. The pattern is in lower case, and `*` in it stands for
/// anything; one without `*` may match anywhere in the text.
fn is_like(text: &str, pattern: &Value) -> bool {
    let pattern = pattern.as_str().unwrap_or_default();
    let text = text.to_lowercase();
    if pattern.contains('*') {
        wildcard::matches(&text, pattern)
    } else {
        text.contains(pattern)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    fn matches(name: &str, value: &str, of: Value) -> bool {
        Filter::parse(name, value, |_| true, Timestamp(1_000))
            .unwrap()
            .matches(&object(of))
    }

    #[test]
    fn values_are_compared_as_json() {
        assert!(matches("s", "3", json!({"s": 3})));
        assert!(matches("s", "3", json!({"s": 3.0})));
        assert!(!matches("s", "3", json!({"s": "3"})));
        assert!(matches("s", "\"3\"", json!({"s": "3"})));
        assert!(matches("s", "red", json!({"s": "red"})));
        assert!(!matches("s", "true", json!({"s": 1})));
        assert!(matches("id", "3", json!({"id": "3"})));
        assert!(matches("id", "\"r\"", json!({"id": "r"})));
        assert!(!matches("not_id", "\"r\"", json!({"id": "r"})));
        assert!(matches("like_id", "\"R*\"", json!({"id": "r0"})));
        assert!(matches("a.b", "1", json!({"a": {"b": 1}})));
        assert!(matches("a.b", "1", json!({"a.b": 1, "a": {"b": 2}})));
    }

    #[test]
    fn what_is_missing_is_higher_than_all() {
        assert!(matches("min_n", "5", json!({})));
        assert!(matches("gt_n", "5", json!({})));
        assert!(!matches("max_n", "5", json!({})));
        assert!(!matches("lt_n", "5", json!({})));
        assert!(matches("not_n", "5", json!({})));
        assert!(!matches("n", "5", json!({})));
    }

    #[test]
    fn lists_of_values_are_taken_apart() {
        assert!(matches("in_n", "1,2", json!({"n": 2})));
        assert!(!matches("in_n", "1,2", json!({"n": "2"})));
        assert!(matches("exclude_n", "1,2", json!({"n": 3})));
        assert!(matches("in_id", "a,b", json!({"id": "a"})));
        assert!(!matches("in_s", "a,,", json!({"s": ""})));
        assert!(matches("exclude_s", "", json!({"s": ""})));
        assert!(matches("contains_n", "[1,2]", json!({"n": [3, 2, 1]})));
        assert!(!matches("contains_n", "[1,4]", json!({"n": [3, 2, 1]})));
        assert!(matches("contains_any_n", "[1,4]", json!({"n": [3, 2, 1]})));
        assert!(matches("contains_n", "1", json!({"n": [1]})));
        assert!(!matches("contains_n", "1", json!({"n": 1})));
    }

    #[test]
    fn like_has_wildcards_and_ignores_case() {
        for (pattern, text, like) in [
            ("ell", "HELLO", true),
            ("h*o", "Hello", true),
            ("ell*", "Hello", false),
            ("*l*l*", "Hello", true),
            ("*", "", true),
            ("h*h", "h", false),
            (".", "Hello", false),
        ] {
            assert_eq!(is_like(text, &json!(pattern)), like, "{pattern} {text}");
        }
        assert!(Filter::parse("like_s", "3", |_| true, Timestamp(0)).is_err());
    }

    #[test]
    fn presence_can_be_asked_for() {
        assert!(matches("has_n", "true", json!({"n": null})));
        assert!(matches("has_n", "false", json!({})));
        assert!(!matches("has_n", "true", json!({})));
    }

    #[test]
    fn times_must_be_times_and_not_far_ahead() {
        let wrong = |name: &str, value: &str| {
            Filter::parse(name, value, |_| true, Timestamp(1_000)).is_err()
        };
        for value in [
            "abc",
            "-1",
            "null",
            "true",
            "",
            "99999999999999",
            "[1]",
            "1e400",
        ] {
            assert!(wrong("last_modified", value), "{value}");
            assert!(wrong("min_last_modified", value), "{value}");
            assert!(wrong("has_last_modified", value), "{value}");
        }
        for value in ["\"12\"", "12", "12.0", "1.5e3", "-0", " 1", "+1"] {
            assert!(!wrong("last_modified", value), "{value}");
            assert!(!wrong("min_last_modified", value), "{value}");
        }
        assert!(matches(
            "last_modified",
            "12.7",
            json!({"last_modified": 12})
        ));
        assert!(matches(
            "gt_last_modified",
            "12.7",
            json!({"last_modified": 13})
        ));
        assert!(!matches(
            "gt_last_modified",
            "12.7",
            json!({"last_modified": 12})
        ));
        assert!(wrong("like_last_modified", "1"));
        assert!(wrong("a", "\"\\u0000\"") && wrong("in_a", "\0"));
        assert!(wrong("contains_id", "x"));
        assert!(wrong("in_last_modified", "1,x"));
        assert!(wrong("in_id", "1,x"));
    }

    #[test]
    fn values_of_different_types_have_their_order() {
        let sorted = [
            json!(null),
            json!("a"),
            json!("b"),
            json!(1),
            json!(2.5),
            json!(false),
            json!(true),
            json!([1]),
            json!({}),
        ];
        for (n, a) in sorted.iter().enumerate() {
            for (m, b) in sorted.iter().enumerate() {
                assert_eq!(compare(Some(a), Some(b)), n.cmp(&m), "{a} {b}");
            }
            assert_eq!(compare(Some(a), None), Ordering::Less);
        }
    }
}
