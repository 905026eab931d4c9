//! `If-Match` and `If-None-Match`: 304, and the decision on a 412.

use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::error::{ApiError, Location};
use super::request::Request;
use crate::timestamp::Timestamp;

/// Returns `true` if a text is a number between double quotes, however large.
fn is_etag(text: &str) -> bool {
    let digits = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The value of a precondition header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// `*`: anything that exists.
    Any,
    /// One entity tag.
    Exactly(Timestamp),
    /// One weak entity tag, as a CDN makes of ours when it compresses: as good as the strong one to confirm a copy,
    /// worth nothing where a write depends on it (RFC 9110, 8.8.3.2).
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
        // A number larger than any time matches nothing.
        let time = || Timestamp::from_etag(strong).unwrap_or(Timestamp(u64::MAX));
        is_etag(strong).then(|| match is_weak {
            true => Self::Weakly(time()),
            false => Self::Exactly(time()),
        })
    }
}

/// Returns `true` if `If-None-Match` is the strong `etag`, or the weak one made of it: 304. For changesets, whose entity
/// tags are not times: any other value, `*` included, has no effect there.
pub fn has_copy(request: &Request, etag: &str) -> bool {
    let tag = request.header(IF_NONE_MATCH);
    tag.is_some_and(|tag| tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The effect of the preconditions on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request goes on.
    Met,
    /// The client already has what it would read: 304.
    NotModified,
    /// The request must not go on: 412.
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
    /// Reads the preconditions of a request.
    ///
    /// # Errors
    /// 400 when one is neither `*` nor a whole number between double quotes, weak (`W/`) or not.
    pub fn of(request: &Request) -> Result<Self, ApiError> {
        let read = |name: &'static str, header: HeaderName| match tag(request, &header) {
            None => Ok(None),
            Some(Some(tag)) => Ok(Some(tag)),
            Some(None) => {
                let wrong = "Must be `*`, or digits between double quotes";
                Err(ApiError::invalid(Location::Header, name, wrong))
            }
        };
        Ok(Preconditions {
            if_match: read("If-Match", IF_MATCH)?,
            if_none_match: read("If-None-Match", IF_NONE_MATCH)?,
        })
    }

    /// Returns `true` if `If-None-Match` says that the client already has `current`: 304 on reads.
    fn not_modified(self, current: Timestamp) -> bool {
        matches!(self.if_none_match, Some(Tag::Exactly(tag) | Tag::Weakly(tag)) if tag == current)
    }

    /// Checks a request for something with the timestamp `existing`, which is `None` when it does not exist.
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

    /// Returns `true` if the preconditions let a request go on (Kinto 26.5: equality only, so an `If-Match` above the
    /// current value fails too; a missing object fails every `If-Match`; `If-None-Match` stops writes only as `*`).
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

/// Returns `true` if the request rules out overwriting (`If-None-Match: *`): then a user who may only create needs no
/// other permission (Kinto#792).
pub fn is_safe_creation(request: &Request) -> bool {
    matches!(tag(request, &IF_NONE_MATCH), Some(Some(Tag::Any)))
}

/// The value of a precondition header: `None` without the header, `Some(None)` when it is malformed.
fn tag(request: &Request, name: &HeaderName) -> Option<Option<Tag>> {
    let value = request.headers.get(name)?;
    Some(value.to_str().ok().and_then(|text| Tag::parse(text.trim())))
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
