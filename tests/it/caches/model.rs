//! Caches as specified, with a clock of their own: the most eager one that RFC 9111 allows, and CloudFront.
//!
//! CloudFront is modelled after its Developer Guide (docs/decisions/020-cdn.md names the pages) with the policies of
//! template.yaml, except that it compresses: other people's distributions do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Write as _;
use std::ops::AsyncFn;
use std::rc::Rc;
use std::time::Duration;

use super::exchange::{Answer, Cache, Request, strong};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, EXPIRES, HOST, HeaderName, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, ORIGIN,
    RANGE, VARY,
};
use http::{HeaderValue, Method};

/// `DefaultTTL` of the cache policy, for responses without directives.
const DEFAULT_TTL: Duration = Duration::from_secs(1);
/// `ErrorCachingMinTTL` of the distribution.
const ERROR_TTL: Duration = Duration::ZERO;
/// Sizes of bodies that CloudFront compresses.
const COMPRESSED: std::ops::RangeInclusive<usize> = 1_000..=10_000_000;

/// The kind of cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Rfc9111,
    CloudFront,
}

/// A cache between its clients and `origin`.
pub struct Model<O> {
    rules: Rules,
    origin: O,
    now: Cell<Duration>,
    copies: RefCell<HashMap<String, Vec<Rc<Copy>>>>,
    forwarded: Cell<usize>,
}

/// A cached response.
struct Copy {
    request: Request,
    answer: Answer,
    stored: Duration,
    lifetime: Duration,
}

impl<O: AsyncFn(&Request) -> Answer> Model<O> {
    /// An empty cache.
    pub fn new(rules: Rules, origin: O) -> Self {
        Self {
            rules,
            origin,
            now: Cell::default(),
            copies: RefCell::default(),
            forwarded: Cell::default(),
        }
    }

    /// Sets the clock.
    pub fn set_now(&self, now: Duration) {
        self.now.set(now);
    }

    /// The number of requests that the origin got.
    pub fn forwarded(&self) -> usize {
        self.forwarded.get()
    }

    /// The cache key of a request.
    fn key(&self, request: &Request) -> String {
        match self.rules {
            Rules::Rfc9111 => request.target.clone(),
            Rules::CloudFront => format!(
                "{}\n{}\n{}\n{}",
                request.target,
                request.header(AUTHORIZATION),
                request.header(ORIGIN),
                request.header(ACCEPT_ENCODING).contains("gzip")
            ),
        }
    }

    /// Returns `true` if a copy may answer a request with the same key.
    fn matches(&self, copy: &Copy, request: &Request) -> bool {
        let vary = copy.answer.header(VARY).to_owned();
        self.rules == Rules::CloudFront
            || vary
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .all(|name| {
                    let name: HeaderName = name.parse().unwrap();
                    copy.request.headers.get(&name) == request.headers.get(&name)
                })
    }

    async fn forward(&self, request: &Request) -> Answer {
        self.forwarded.set(self.forwarded.get() + 1);
        let mut request = request.clone();
        if self.rules == Rules::CloudFront {
            // The policy of requests to the origin is "all viewer except Host".
            request.headers.remove(HOST);
            let gzip = request.header(ACCEPT_ENCODING).contains("gzip");
            request.headers.remove(ACCEPT_ENCODING);
            request = request.with(ACCEPT_ENCODING, if gzip { "gzip" } else { "" });
        }
        let answer = (self.origin)(&request).await;
        match self.rules {
            Rules::CloudFront => compressed(&request, answer),
            Rules::Rfc9111 => answer,
        }
    }

    /// The lifetime of a copy of a response; `None` if it is not cached.
    fn lifetime(&self, request: &Request, answer: &Answer) -> Option<Duration> {
        let seconds = |name| {
            let value = answer.directive(name)?;
            value.parse().ok().map(Duration::from_secs)
        };
        let explicit = seconds("s-maxage").or_else(|| seconds("max-age"));
        let is_refused = ["no-store", "private", "no-cache"]
            .iter()
            .any(|name| answer.directive(name).is_some());
        match self.rules {
            Rules::CloudFront => match answer.status {
                404 | 410 | 414 | 501 if is_refused => None,
                404 | 410 | 414 | 500..=504 => Some(explicit.unwrap_or_default().max(ERROR_TTL)),
                400 | 403 | 405 | 412 | 415 => explicit,
                401 | 406..=599 => None,
                _ if is_refused => None,
                _ => Some(explicit.unwrap_or(DEFAULT_TTL)),
            },
            Rules::Rfc9111 => {
                let is_shared = ["public", "s-maxage", "must-revalidate"]
                    .iter()
                    .any(|name| answer.directive(name).is_some());
                if is_refused || request.headers.contains_key(AUTHORIZATION) && !is_shared {
                    return None;
                }
                let is_heuristic = [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501]
                    .contains(&answer.status);
                let is_dated = !answer.header(EXPIRES).is_empty();
                assert!(!is_dated || explicit.is_some(), "Expires alone: {answer:?}");
                // A tenth of the time since its last change, for instance; anything if that is unknown.
                let heuristic = is_heuristic.then_some(Duration::from_secs(600));
                explicit.or(heuristic)
            }
        }
    }

    fn keep(&self, request: &Request, answer: &Answer) {
        let key = self.key(request);
        let mut copies = self.copies.borrow_mut();
        let copies = copies.entry(key).or_default();
        copies.retain(|copy| !self.matches(copy, request));
        if let Some(lifetime) = self.lifetime(request, answer) {
            // The response may come from another cache.
            let age = answer.header(AGE).parse().map(Duration::from_secs);
            copies.push(Rc::new(Copy {
                request: request.clone(),
                answer: answer.clone(),
                stored: self.now.get(),
                lifetime: lifetime.saturating_sub(age.unwrap_or_default()),
            }));
        }
    }

    fn copy_for(&self, request: &Request) -> Option<Rc<Copy>> {
        let copies = self.copies.borrow();
        let mut copies = copies.get(&self.key(request))?.iter().rev();
        copies.find(|copy| self.matches(copy, request)).cloned()
    }

    /// The response to a read, from a copy if possible.
    async fn read(&self, request: &Request) -> Answer {
        let copy = self.copy_for(request);
        if let Some(copy) = &copy
            && self.now.get() - copy.stored < copy.lifetime
        {
            return served(request, &copy.answer, self.now.get() - copy.stored);
        }
        // The cache itself evaluates the client's conditions and ranges.
        let mut plain = request.clone();
        plain.headers.remove(IF_NONE_MATCH);
        plain.headers.remove(RANGE);
        let Some(copy) = copy else {
            if request.method == Method::HEAD {
                return self.forward(request).await;
            }
            if self.rules == Rules::Rfc9111 && request.headers.contains_key(IF_NONE_MATCH) {
                // A 304 is passed on. It belongs to the client's copy.
                let answer = self.forward(request).await;
                if answer.status != 304 {
                    self.keep(&plain, &answer);
                }
                return answer;
            }
            let answer = self.forward(&plain).await;
            self.keep(&plain, &answer);
            return served(request, &answer, Duration::ZERO);
        };
        plain.method = Method::GET;
        let tag = copy.answer.header(ETAG);
        let question = plain.clone().with(IF_NONE_MATCH, tag);
        let fresh = self.forward(&question).await;
        let answer = if fresh.status == 304 {
            let mut answer = copy.answer.clone();
            // The compressed copy keeps its weak tag.
            for (name, value) in fresh.headers.iter().filter(|(name, _)| **name != ETAG) {
                answer.headers.insert(name.clone(), value.clone());
            }
            if fresh.header(CACHE_CONTROL).is_empty() {
                answer.headers.remove(CACHE_CONTROL);
            }
            answer
        } else if fresh.status >= 500 && self.rules == Rules::CloudFront {
            return served(request, &copy.answer, self.now.get() - copy.stored);
        } else {
            fresh
        };
        self.keep(&plain, &answer);
        served(request, &answer, Duration::ZERO)
    }
}

impl<O: AsyncFn(&Request) -> Answer> Cache for Model<O> {
    async fn send(&self, request: Request) -> Answer {
        if request.method == Method::GET || request.method == Method::HEAD {
            return self.read(&request).await;
        }
        let answer = self.forward(&request).await;
        if self.rules == Rules::Rfc9111 && answer.status < 400 {
            self.copies.borrow_mut().remove(&self.key(&request));
        }
        answer
    }

    async fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }
}

/// A client's response, made from the one to the plain request.
fn served(request: &Request, whole: &Answer, age: Duration) -> Answer {
    let mut answer = Answer {
        status: whole.status,
        headers: whole.headers.clone(),
        body: vec![],
    };
    answer.headers.insert(AGE, age.as_secs().into());
    let known = request.header(IF_NONE_MATCH);
    let is_known = known == "*" || strong(known) == strong(answer.header(ETAG));
    if answer.status == 200 && !known.is_empty() && is_known {
        answer.status = 304;
    } else if request.method == Method::HEAD {
    } else if answer.status == 200
        && let Some(range) = request.header(RANGE).strip_prefix("bytes=")
        && let Some((first, last)) = range.split_once('-')
    {
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        answer.body = whole.body[first..=last].to_vec();
        answer.status = 206;
        let range = format!("bytes {first}-{last}/{}", whole.body.len());
        answer
            .headers
            .insert(CONTENT_RANGE, HeaderValue::from_str(&range).unwrap());
    } else {
        answer.body.clone_from(&whole.body);
    }
    answer
}

/// CloudFront's compression of a response that the origin has not compressed.
fn compressed(request: &Request, mut answer: Answer) -> Answer {
    let is_wanted = request.header(ACCEPT_ENCODING) == "gzip"
        && answer.header(CONTENT_ENCODING).is_empty()
        && answer.header(CONTENT_TYPE).starts_with("application/json")
        && answer.status == 200
        && COMPRESSED.contains(&answer.body.len());
    if is_wanted {
        let mut encoder = GzEncoder::new(vec![], Compression::fast());
        encoder.write_all(&answer.body).unwrap();
        answer.body = encoder.finish().unwrap();
        let tag = format!("W/{}", strong(answer.header(ETAG)));
        answer
            .headers
            .insert(ETAG, HeaderValue::from_str(&tag).unwrap());
        answer
            .headers
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

/// Headers of a response that a cache must pass on unchanged.
pub const HANDED_ON: [HeaderName; 4] = [
    LOCATION,
    LAST_MODIFIED,
    CONTENT_TYPE,
    http::header::ACCESS_CONTROL_ALLOW_ORIGIN,
];
