//! The form in which a body is sent (as it is, compressed, or as base64), and its largest size.
//!
//! Lambda takes 6,291,556 bytes of response, which is JSON: text is escaped there, which can double it, and binary
//! grows by a third as base64. [`MAX_BODY`] fits in any case, whatever the client accepts.

use std::io::Write as _;

use aws_lambda_events::encodings::Body;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::accept;

/// The bytes that any response may have: as base64 they are 6,000,000, which leaves room for the headers.
pub const MAX_BODY: usize = 4_500_000;

/// The bytes that Lambda takes as a body: its limit, less those for the headers and the rest of the response.
const MAX_ENCODED: usize = 6_291_556 - 64 * 1024;

/// The bytes from which a body is compressed.
///
/// Measured (flate2 with `miniz_oxide`, level 1, JSON of records, a whole CPU): 4,096 bytes become 1,480 in 25 µs, a
/// MB becomes 319 KB in 4.8 ms; a function of 256 MB has a seventh of a CPU. Less than 4 KB is three packets, which
/// arrive together with the first.
const WORTH_COMPRESSING: usize = 4096;

/// Returns `true` if the client's `Accept-Encoding` would change how a body of this size is sent.
pub fn is_negotiated(length: usize) -> bool {
    length >= WORTH_COMPRESSING
}

/// `text` compressed by gzip; `None` if writing fails, which it never does into a `Vec`.
pub fn gzip(text: &str) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 2), Compression::fast());
    encoder.write_all(text.as_bytes()).ok()?;
    encoder.finish().ok()
}

/// `text` in the form that is shorter in Lambda's response, where it is large enough to matter.
pub fn plain(text: String) -> Body {
    if text.len() > MAX_BODY / 2 && escaped_length(&text) > text.len() / 3 * 4 {
        Body::Binary(text.into_bytes())
    } else {
        Body::Text(text)
    }
}

/// Returns `true` if Lambda takes the body. It takes any of [`MAX_BODY`] bytes.
pub fn fits(body: &Body) -> bool {
    match body {
        Body::Text(text) => text.len() <= MAX_ENCODED / 6 || escaped_length(text) <= MAX_ENCODED,
        Body::Binary(bytes) => bytes.len().div_ceil(3) * 4 <= MAX_ENCODED,
        _ => true,
    }
}

/// An upper bound of the length of `text` as a JSON string.
fn escaped_length(text: &str) -> usize {
    let more = |byte: &u8| u16::from(matches!(byte, b'"' | b'\\')) + 5 * u16::from(*byte < 0x20);
    // The sum of this many fits into 16 bits, which allows vector instructions: a MB takes 0.3 ms instead of 2.
    let chunks = text.as_bytes().chunks(8192);
    let more = chunks.map(|chunk| usize::from(chunk.iter().map(more).sum::<u16>()));
    text.len() + more.sum::<usize>()
}

/// Returns `true` if a client that sends this `Accept-Encoding` accepts gzip.
pub fn accepts_gzip(accept_encoding: &str) -> bool {
    let is_gzip =
        |name: &str| name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip");
    accept::elements(accept_encoding).any(|coding| is_gzip(coding.name) && !coding.is_refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_accepted_where_it_is_named_and_not_refused() {
        for accepted in ["gzip", "deflate, gzip;q=0.5, br", "GZIP", "x-gzip"] {
            assert!(accepts_gzip(accepted), "{accepted}");
        }
        for refused in ["", "br", "gzip;q=0", "gzip; q=0.0, identity", "*"] {
            assert!(!accepts_gzip(refused), "{refused}");
        }
    }

    #[test]
    fn a_large_body_that_escaping_would_blow_up_travels_as_base64() {
        let quotes = "\"".repeat(MAX_BODY);
        assert!(matches!(plain(quotes), Body::Binary(_)));
        assert!(matches!(plain("a".repeat(MAX_BODY)), Body::Text(_)));
        assert!(matches!(plain("\"".repeat(100)), Body::Text(_)));
        assert_eq!(escaped_length("a\"\\\n"), 11);
        assert_eq!(escaped_length(&"\n".repeat(20_000)), 120_000);
    }

    #[test]
    fn what_endpoints_may_answer_fits_and_what_is_longer_may_not() {
        assert!(fits(&plain("\"".repeat(MAX_BODY))));
        assert!(fits(&plain("a".repeat(MAX_BODY))));
        assert!(!fits(&plain("\"".repeat(MAX_BODY * 2))));
    }
}
