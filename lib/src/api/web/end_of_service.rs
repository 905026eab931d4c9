//! The end of the service: an `Alert` on every response, and after its date no response but 410.

use serde_json::json;

use crate::settings::EndOfService;
use crate::timestamp::Timestamp;

/// The header that announces the end.
pub const ALERT: http::HeaderName = http::HeaderName::from_static("alert");

/// Returns `true` if the service has ended.
pub fn is_over(end: Option<&EndOfService>, now: Timestamp) -> bool {
    end.is_some_and(|end| end.at <= now)
}

/// The value of the `Alert` header: JSON, in ASCII only, since a header holds nothing else.
pub fn alert(end: &EndOfService, now: Timestamp, project_docs: &str) -> String {
    let code = if is_over(Some(end), now) {
        "hard-eol"
    } else {
        "soft-eol"
    };
    let url = end.url.as_deref().unwrap_or(project_docs);
    let alert = json!({"code": code, "message": end.message, "url": url}).to_string();
    let mut ascii = String::with_capacity(alert.len());
    for character in alert.chars() {
        if character.is_ascii() {
            ascii.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            ascii.push_str(&format!("\\u{unit:04x}"));
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alert_is_json_in_ascii_and_hardens_at_the_date() {
        let end = EndOfService {
            date: "2030-01-01".to_owned(),
            at: Timestamp(10),
            message: Some("Adiós 👋 \"all\"".to_owned()),
            url: None,
        };
        let soft = alert(&end, Timestamp(9), "https://docs.example/");
        assert!(soft.is_ascii());
        let read: serde_json::Value = serde_json::from_str(&soft).unwrap();
        assert_eq!(
            read,
            json!({"code": "soft-eol", "message": "Adiós 👋 \"all\"", "url": "https://docs.example/"})
        );
        assert!(alert(&end, Timestamp(10), "").contains("hard-eol"));
        assert!(!is_over(None, Timestamp(10)));
    }
}
