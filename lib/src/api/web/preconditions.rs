//! `If-Match` and `If-None-Match`: 304, and the decision on a 412.

use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::error::{ApiError, Location};
use super::request::Request;
use crate::timestamp::Timestamp;

/// Whether a text is a number between double quotes, however large.
fn is_etag(text: &str) -> bool {
    let digits = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// What a precondition header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// `*`: whatever exists.
    Any,
    /// One entity tag.
    Exactly(Timestamp),
    /// One weak entity tag, as a CDN makes of ours when it compresses: as good as the other where a copy is to be
    /// confirmed, worth nothing where a write depends on it (RFC 9110, 8.8.3.2).
    Weakly(Timestamp),
}

impl Tag {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (strong, is_weak) = match text.strip_prefix("W/") {
            Some(strong) => (strong, true),
            None => (text, false),
        };
        // What is larger than any time is none's.
        let time = || Timestamp::from_etag(strong).unwrap_or(Timestamp(u64::MAX));
        is_etag(strong).then(|| match is_weak {
            true => Self::Weakly(time()),
            false => Self::Exactly(time()),
        })
    }
}

/// Whether an entity tag is `etag`, a strong one, or the weak one that was made of it.
pub fn is_weakly(tag: &str, etag: &str) -> bool {
    tag.strip_prefix("W/").unwrap_or(tag) == etag
}

/// What preconditions make of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Met,
    /// It reads what its client has already: 304.
    NotModified,
    /// It must not go on: 412.
    Failed,
}

/// `If-Match` and `If-None-Match` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `If-Match`.
    pub if_match: Option<Tag>,
    /// `If-None-Match`.
    pub if_none_match: Option<Tag>,
}

impl Preconditions {
    /// Those of a request.
    ///
    /// # Errors
    /// 400 when one is neither `*` nor a whole number between double quotes.
    pub fn of(request: &Request) -> Result<Self, ApiError> {
        let read = |name: &'static str, header: HeaderName| {
            let Some(value) = request.headers.get(&header) else {
                return Ok(None);
            };
            let tag = value.to_str().ok().and_then(|text| Tag::parse(text.trim()));
            let wrong = "Must be `*`, or digits between double quotes";
            tag.map(Some)
                .ok_or_else(|| ApiError::invalid(Location::Header, name, wrong))
        };
        Ok(Preconditions {
            if_match: read("If-Match", IF_MATCH)?,
            if_none_match: read("If-None-Match", IF_NONE_MATCH)?,
        })
    }

    /// Whether `If-None-Match` says that the client has `current` already: 304 on reads.
    fn not_modified(self, current: Timestamp) -> bool {
        matches!(self.if_none_match, Some(Tag::Exactly(tag) | Tag::Weakly(tag)) if tag == current)
    }

    /// What they make of a request for something with this timestamp; `None` when it does not exist.
    pub fn check(self, request: &Request, existing: Option<Timestamp>) -> Outcome {
        let is_known = existing.is_some_and(|current| self.not_modified(current));
        if request.is_read() && is_known {
            Outcome::NotModified
        } else if self.are_met(existing) {
            Outcome::Met
        } else {
            Outcome::Failed
        }
    }

    /// Whether the preconditions let a request go on (Kinto 26.5: equality only, `If-Match` above the current
    /// value fails too; a missing object fails every `If-Match`; `If-None-Match` stops writes only as `*`).
    ///
    /// `existing` is the object's timestamp, `None` when there is no such object.
    fn are_met(self, existing: Option<Timestamp>) -> bool {
        match (self.if_match, self.if_none_match, existing) {
            (_, Some(Tag::Any), Some(_)) => false,
            (Some(_), _, None) => false,
            (Some(Tag::Exactly(tag)), _, Some(current)) => tag == current,
            (Some(Tag::Weakly(_)), _, _) => false,
            _ => true,
        }
    }
}

/// Whether a request says that it is to overwrite nothing: then a user who may only create is not asked for more
/// (Kinto#792).
pub fn is_safe_creation(request: &Request) -> bool {
    request.header(IF_NONE_MATCH) == Some("*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_compare_by_equality() {
        let if_match = |tag| Preconditions {
            if_match: Some(tag),
            if_none_match: None,
        };
        let now = Some(Timestamp(5));
        assert!(if_match(Tag::Exactly(Timestamp(5))).are_met(now));
        assert!(!if_match(Tag::Exactly(Timestamp(4))).are_met(now));
        assert!(!if_match(Tag::Exactly(Timestamp(6))).are_met(now));
        assert!(if_match(Tag::Any).are_met(now));
        assert!(!if_match(Tag::Any).are_met(None));
        let if_none_match = |tag| Preconditions {
            if_match: None,
            if_none_match: Some(tag),
        };
        assert!(!if_none_match(Tag::Any).are_met(now));
        assert!(if_none_match(Tag::Any).are_met(None));
        assert!(if_none_match(Tag::Exactly(Timestamp(5))).are_met(now));
        assert!(if_none_match(Tag::Exactly(Timestamp(5))).not_modified(Timestamp(5)));
        assert!(!if_none_match(Tag::Any).not_modified(Timestamp(5)));
    }

    #[test]
    fn a_weak_tag_confirms_a_copy_and_lets_no_write_through() {
        let tag = Tag::Weakly(Timestamp(5));
        let confirming = Preconditions {
            if_none_match: Some(tag),
            ..Preconditions::default()
        };
        assert!(confirming.not_modified(Timestamp(5)) && !confirming.not_modified(Timestamp(6)));
        let writing = Preconditions {
            if_match: Some(tag),
            ..Preconditions::default()
        };
        assert!(!writing.are_met(Some(Timestamp(5))));
    }
}
