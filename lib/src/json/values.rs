//! Comparison of JSON values: numbers by value, so that `1` equals `1.0`; values of different types are never equal.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Returns `true` if the values are equal, also within lists and objects; the order of an object's fields does not
/// matter.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b).is_eq(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let has = |(field, value): (&String, &Value)| {
                b.get(field).is_some_and(|other| equal(value, other))
            };
            a.len() == b.len() && a.iter().all(has)
        }
        _ => a == b,
    }
}

/// Compares numbers by value, whether they are written as integers or as decimals.
pub fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => {
            let order = a.as_f64().partial_cmp(&b.as_f64());
            order.unwrap_or(Ordering::Equal)
        }
    }
}

/// A text that is the same for equal values, and differs for others.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Number(number) => match (number.as_i128(), number.as_f64()) {
            (Some(integer), _) => text.push_str(&integer.to_string()),
            // A greater decimal equals no integer.
            (None, Some(decimal)) if decimal.fract() == 0.0 && decimal.abs() < 1e19 => {
                text.push_str(&(decimal as i128).to_string());
            }
            _ => text.push_str(&number.to_string()),
        },
        Value::Array(values) => {
            text.push('[');
            for value in values {
                write_canonical(value, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (name, value) in fields {
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_equal_by_what_they_count() {
        for (a, b, same) in [
            (json!(1), json!(1.0), true),
            (json!(-0.0), json!(0), true),
            (json!([1, {"a": 2.0}]), json!([1.0, {"a": 2}]), true),
            (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), true),
            (json!(1), json!(true), false),
            (json!(0), json!(false), false),
            (json!("1"), json!(1), false),
            (json!(null), json!(0), false),
            (json!([1]), json!([1, 1]), false),
            (json!({"a": null}), json!({"b": null}), false),
        ] {
            assert_eq!(equal(&a, &b), same, "{a} {b}");
            assert_eq!(canonical(&a) == canonical(&b), same, "{a} {b}");
        }
    }
}
