//! JSON that is deeper than can be parsed, which Kinto takes from whoever writes.

/// The deepest level that is kept. An object that fits is less deep, in a batch too; `serde_json` refuses only deeper text.
const MAX: usize = 120;

/// The text with `null` in the place of each list and object that is too deep, so that what surrounds them can be read. An
/// object that loses something is still too deep to fit.
pub fn shallow(json: &[u8]) -> Vec<u8> {
    let (mut out, mut depth) = (Vec::with_capacity(json.len()), 0_usize);
    let (mut is_text, mut is_escaped) = (false, false);
    for &byte in json {
        let opens = !is_text && matches!(byte, b'[' | b'{');
        let closes = !is_text && matches!(byte, b']' | b'}');
        depth += usize::from(opens);
        if depth <= MAX {
            out.push(byte);
        } else if opens && depth == MAX + 1 {
            out.extend_from_slice(b"null");
        }
        depth = depth.saturating_sub(usize::from(closes));
        if byte == b'"' && !is_escaped {
            is_text = !is_text;
        }
        is_escaped = is_text && byte == b'\\' && !is_escaped;
    }
    out
}

#[cfg(test)]
mod tests {
    use kinto_serverless::api::{MAX_DEPTH, depth};
    use serde_json::{Value, json};

    use super::*;

    /// Brackets in texts are none, whatever is before their quotes.
    fn nested(depth: usize) -> String {
        let (open, close) = (r#"[{"\\":"#.repeat(depth / 2), "}]".repeat(depth / 2));
        format!(r#"{open}"]\"[{{"{close}"#)
    }

    #[test]
    fn what_is_too_deep_is_left_out_and_the_rest_stays() {
        let deep = nested(5000);
        let text = format!("{{\"data\": [{{\"id\": \"a\", \"d\": {deep}}}, {{\"id\": \"]}}\"}}]}}");
        assert!(serde_json::from_str::<Value>(&text).is_err());
        let read: Value = serde_json::from_slice(&shallow(text.as_bytes())).unwrap();
        assert_eq!(read["data"][1], json!({"id": "]}"}));
        assert!(depth(&read["data"][0]) > MAX_DEPTH);
        let fits = nested(MAX_DEPTH);
        assert_eq!(shallow(fits.as_bytes()), fits.as_bytes());
    }
}
