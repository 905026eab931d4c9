//! Patterns in which `*` matches anything: CORS origins, callback URLs, `like_` filters.

/// Returns `true` if `text` matches `pattern`, in which each `*` matches any text, also an empty one.
pub fn matches(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(mut left) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else {
            return false;
        };
        left = after;
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*a", "a", false),
            ("*b*d*", "abcde", true),
            ("*d*b*", "abcde", false),
            ("abc", "abc", true),
            ("abc", "ABC", false),
        ] {
            assert_eq!(matches(text, pattern), expected, "{pattern} {text}");
        }
    }
}
