//! The values that the texts of settings stand for: Kinto parses every one as JSON (26.5,
//! `kinto.core.utils.native_value`).

use serde_json::Value;

/// The text that `text` stands for: `"x"` is `x`, `["a", "b"]` the words `a` and `b`, `1.10` is `1.1`, `null` is empty;
/// objects and invalid JSON are kept as they are. White space around it is removed.
pub fn text_of(text: &str) -> String {
    let text = text.trim();
    // Most texts are a plain word.
    let may_be_json = text.starts_with(|c: char| "\"[ntf-".contains(c) || c.is_ascii_digit());
    if !may_be_json {
        return text.to_owned();
    }
    match serde_json::from_str(text) {
        Ok(Value::String(value)) => value,
        Ok(Value::Null) => String::new(),
        Ok(Value::Array(values)) => {
            let words = values.into_iter().map(|value| match value {
                Value::String(word) => word,
                other => other.to_string(),
            });
            words.collect::<Vec<_>>().join(" ")
        }
        // An integer of any length stays as it is.
        Ok(Value::Number(number)) if text.contains(['.', 'e', 'E']) => number.to_string(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_it_is_as_json() {
        for (text, value) in [
            (" word ", "word"),
            ("\"quoted\"", "quoted"),
            ("\" with space \"", " with space "),
            ("\"2026-11-27\"", "2026-11-27"),
            ("\"not closed", "\"not closed"),
            ("\"a\" \"b\"", "\"a\" \"b\""),
            ("[\"a\", \"b\"]", "a b"),
            ("[]", ""),
            ("[app:main]", "[app:main]"),
            ("true", "true"),
            ("null", ""),
            ("1.10", "1.1"),
            ("1e3", "1000.0"),
            ("-1", "-1"),
            ("007", "007"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("2026-11-27", "2026-11-27"),
            ("", ""),
        ] {
            assert_eq!(text_of(text), value, "{text}");
        }
    }
}
