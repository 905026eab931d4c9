//! The memory that JSON takes once parsed, computed before it is parsed.
//!
//! A value is 72 bytes however short its text, and an object also has a table of its fields: 6 MB of text can take half
//! a gigabyte. The unit is a value that is no object.

use serde_json::Value;

/// The weight of an object beside its fields.
const OBJECT: usize = 7;

/// The weight of a value with its contents.
pub fn of(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(of).sum::<usize>(),
        Value::Object(fields) => OBJECT + fields.values().map(of).sum::<usize>(),
        _ => 1,
    }
}

/// The weight of a text's value, or slightly more.
pub fn of_text(json: &[u8]) -> usize {
    let (mut weight, mut in_text, mut is_escaped) = (1, false, false);
    for byte in json {
        match (in_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',' | b'[') => weight += 1,
            (false, b'{') => weight += OBJECT,
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_weighs_what_its_value_does() {
        for (text, weight) in [
            ("1", 1),
            ("[1,2,3]", 4),
            (r#"{"a":1}"#, 8),
            (r#"["[,{\"[,",{},{"a":[]}]"#, 17),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(of(&value), weight, "{text}");
            let estimated = of_text(text.as_bytes());
            assert!(
                (weight..=weight + 2).contains(&estimated),
                "{text} {estimated}"
            );
        }
    }
}
