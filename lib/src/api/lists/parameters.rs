//! Values of the query string.

use serde_json::Value;

use crate::api::lists::projection::Projection;
use crate::api::objects::metadata::{ID, LAST_MODIFIED};
use crate::api::web::error::{ApiError, Location};
use crate::timestamp::Timestamp;

/// The largest whole number that a parameter may have (Kinto 26.5).
const MAX_WHOLE: u64 = 1 << 63;

/// The error of an invalid parameter.
pub fn invalid(name: &str, description: &str) -> ApiError {
    ApiError::invalid(Location::Querystring, name, description)
}

/// A value of the query string: as JSON if it is JSON, else as the text itself.
pub fn parse_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The whole number that a parameter gives (Kinto 26.5): a non-negative integer, a decimal without its fraction, or the
/// digits of a string. `None` for anything else.
pub fn integer(value: &Value) -> Option<u64> {
    let whole = match value {
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole,
            // -0.5 is 0 as well.
            (None, Some(decimal)) if -1.0 < decimal && decimal <= MAX_WHOLE as f64 => {
                decimal as u64
            }
            _ => return None,
        },
        Value::String(text) => {
            let text = text.trim();
            let digits = text.strip_prefix('+').unwrap_or(text);
            match digits {
                "-0" => 0,
                _ => Timestamp::from_digits(digits)?.0,
            }
        }
        _ => return None,
    };
    (whole <= MAX_WHOLE).then_some(whole)
}

/// The time that a value gives, with its fraction; `None` if it gives none.
pub fn time_in(value: &Value) -> Option<Value> {
    integer(value)?;
    match value {
        Value::Number(number) => Some(number.clone().into()),
        value => integer(value).map(Value::from),
    }
}

/// Returns `true` if a string in the value has a character that Kinto on PostgreSQL could not search for.
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => {
            let mut fields = fields.iter();
            fields.any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

/// The fields that `_fields` names and those that are always shown; `None` if it names none.
pub fn fields(list: &str) -> Option<Projection> {
    let always = [ID, LAST_MODIFIED];
    parts(list).next()?;
    Some(Projection::of(parts(list).chain(always)))
}

/// The elements of a list in the query string, without empty ones, as in Kinto.
pub fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|part| !part.is_empty())
}
