//! Canonical JSON: one text for each value, the same in every language.
//!
//! The form is that of Remote Settings' `canonicaljson-rs`: no blanks, fields sorted by code point, everything outside of
//! printable ASCII escaped, integers in decimal and other numbers with an exponent.

use std::fmt::Write;

use serde_json::{Number, Value};

/// Appends `value` to `text`. The text is ASCII.
pub fn write(value: &Value, text: &mut String) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => write_number(number, text),
        Value::String(string) => write_string(string, text),
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(value, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            // The order of UTF-8 bytes is that of code points; that of UTF-16, as JavaScript sorts, is not.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_string(name, text);
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
    }
}

/// Appends a number: `1`, `-1`, but `1E0` for `1.0`, with the fewest digits that tell it from others.
fn write_number(number: &Number, text: &mut String) {
    // A text takes everything: writing to it cannot fail.
    let _ = match (number.as_i128(), number.as_f64()) {
        (Some(integer), _) => write!(text, "{integer}"),
        (None, Some(float)) => write!(text, "{float:E}"),
        (None, None) => write!(text, "{number}"),
    };
}

/// Appends a string with its quotes.
pub(super) fn write_string(string: &str, text: &mut String) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            ' '..='~' => text.push(character),
            // Two units where the character is beyond 16 bits.
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> String {
        let mut text = String::new();
        write(&serde_json::from_str(json).unwrap(), &mut text);
        text
    }

    #[test]
    fn numbers_are_integers_or_have_an_exponent() {
        for (json, expected) in [
            ("0", "0"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1.0", "1E0"),
            ("-0.0", "-0E0"),
            ("0.1", "1E-1"),
            ("1e2", "1E2"),
            ("1.5e300", "1.5E300"),
            ("123456789.123", "1.23456789123E8"),
            ("5e-324", "5E-324"),
        ] {
            assert_eq!(canonical(json), expected, "{json}");
        }
    }

    #[test]
    fn fields_are_sorted_by_code_point_and_not_by_utf_16() {
        assert_eq!(
            canonical("{\"\u{1f600}\": 1, \"\u{ff6a}\": 2, \"z\": 3, \"\": 4, \"B\": 5}"),
            r#"{"":4,"B":5,"z":3,"\uff6a":2,"\ud83d\ude00":1}"#
        );
    }

    #[test]
    fn the_text_is_the_one_that_canonicaljson_rs_makes() {
        // Each line is a value, a tab, and what canonicaljson-rs 0.9.3 made of it (tests/signer/canonical_cases.py).
        let cases = include_str!("canonical_cases.txt");
        let mut count = 0;
        for case in cases.lines() {
            let (json, expected) = case.split_once('\t').unwrap();
            assert_eq!(canonical(json), expected, "{json}");
            count += 1;
        }
        assert!(count >= 200, "only {count} cases");
    }
}
