//! Keywords that look at one value alone: its type, how great a number is, how many parts it has.

use referencing::Draft;
use serde_json::Value;

use crate::api::objects::schema::at::{EvaluationResult, Instance, shown};
use crate::json::values::compare_numbers;

pub(super) fn check_type(at: &Instance<'_, '_, '_>, argument: &Value) -> EvaluationResult {
    let is = |name: &Value| match (name.as_str().unwrap_or_default(), at.value) {
        ("null", Value::Null)
        | ("boolean", Value::Bool(_))
        | ("string", Value::String(_))
        | ("number", Value::Number(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_)) => true,
        ("integer", Value::Number(number)) => {
            let is_whole = || {
                number
                    .as_f64()
                    .is_some_and(|decimal| decimal.fract() == 0.0)
            };
            !number.is_f64() || at.scope.draft >= Draft::Draft6 && is_whole()
        }
        _ => false,
    };
    let matches = match argument {
        Value::Array(names) => names.iter().any(is),
        name => is(name),
    };
    match matches {
        true => Ok(()),
        false => at.mismatch(format!(
            "{} is not of type {}",
            shown(at.value),
            shown(argument)
        )),
    }
}

pub(super) fn check_number(at: &Instance<'_, '_, '_>, argument: &Value) -> EvaluationResult {
    let (Value::Number(number), Value::Number(bound)) = (at.value, argument) else {
        return Ok(());
    };
    let order = compare_numbers(number, bound);
    // In draft 4 this is a flag beside the bound.
    let excludes =
        |flag| at.scope.draft == Draft::Draft4 && at.schema.get(flag) == Some(&Value::Bool(true));
    let (holds, rule) = match at.keyword {
        "minimum" if excludes("exclusiveMinimum") => (order.is_gt(), "greater than"),
        "maximum" if excludes("exclusiveMaximum") => (order.is_lt(), "less than"),
        "minimum" => (order.is_ge(), "at least"),
        "maximum" => (order.is_le(), "at most"),
        "exclusiveMinimum" => (order.is_gt(), "greater than"),
        "exclusiveMaximum" => (order.is_lt(), "less than"),
        _ => {
            let holds = match (number.as_i128(), bound.as_i128()) {
                (_, Some(0)) => true,
                (Some(number), Some(bound)) => number % bound == 0,
                _ => is_multiple(number.as_f64(), bound.as_f64(), bound.is_f64()),
            };
            (holds, "a multiple of")
        }
    };
    match holds {
        true => Ok(()),
        false => at.mismatch(format!("{number} is not {rule} {bound}")),
    }
}

/// Returns `true` if `number` is a multiple of `of`, as far as decimals can tell. With `divides`, that is if their
/// quotient is whole.
fn is_multiple(number: Option<f64>, of: Option<f64>, divides: bool) -> bool {
    let (Some(number), Some(of)) = (number, of) else {
        return true;
    };
    let quotient = number / of;
    if divides && quotient.is_finite() {
        quotient.fract() == 0.0
    } else {
        number % of == 0.0
    }
}

pub(super) fn check_size(at: &Instance<'_, '_, '_>, argument: &Value) -> EvaluationResult {
    let size = match (at.keyword, at.value) {
        ("minLength" | "maxLength", Value::String(text)) => text.chars().count(),
        ("minItems" | "maxItems", Value::Array(values)) => values.len(),
        ("minProperties" | "maxProperties", Value::Object(fields)) => fields.len(),
        _ => return Ok(()),
    } as u64;
    match whole(argument) {
        Some(least) if at.keyword.starts_with("min") && size < least => {
            at.mismatch(format!("{} has less than {least}", shown(at.value)))
        }
        Some(most) if at.keyword.starts_with("max") && size > most => {
            at.mismatch(format!("{} has more than {most}", shown(at.value)))
        }
        _ => Ok(()),
    }
}

/// A count, which may be written as `2.0`.
pub(super) fn whole(value: &Value) -> Option<u64> {
    let decimal = || value.as_f64().filter(|decimal| *decimal >= 0.0);
    value
        .as_u64()
        .or_else(|| decimal().map(|decimal| decimal as u64))
}
