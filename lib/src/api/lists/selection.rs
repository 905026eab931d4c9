//! The first objects in a query's order, out of many, in no more memory than a page takes.

use http::{HeaderName, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::lists::query::ListQuery;
use crate::api::web::compression::MAX_BODY;
use crate::api::web::request::Request;
use crate::api::web::response::{NEXT_PAGE, Response};
use crate::json::weight;
use crate::settings::ApiSettings;
use crate::timestamp::Timestamp;

/// The most bytes of JSON that the objects of one page have; the rest goes to the next page.
pub const MAX_PAGE: usize = MAX_BODY - 100;

/// The most that the sort values of one page's objects may weigh.
const MAX_KEYS: usize = 200_000;

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects as JSON, with the fields that the query asks for.
    pub objects: Vec<String>,
    /// The URL of the next page; `None` on the last one.
    pub next: Option<String>,
}

impl Page {
    /// The response to the `GET` of a list with this timestamp.
    pub fn into_response(self, timestamp: Timestamp) -> Response {
        let body = format!("{{\"data\":[{}]}}", self.objects.join(","));
        let response = Response::json_text(StatusCode::OK, body).modified_at(timestamp);
        with_next_page(response.uncached(), self.next)
    }
}

/// The response to the `DELETE` of a page of a list, which has this timestamp now.
pub fn deleted_response(
    tombstones: Vec<Value>,
    next: Option<String>,
    timestamp: Timestamp,
) -> Response {
    let response = Response::json(StatusCode::OK, &json!({"data": tombstones}));
    with_next_page(response.modified_at(timestamp), next)
}

fn with_next_page(mut response: Response, next: Option<String>) -> Response {
    if let Some(next) = next {
        response.set_text(NEXT_PAGE, &next);
    }
    response
}

/// The response to the `HEAD` of a list of `count` objects.
pub fn count_response(count: usize, timestamp: Timestamp) -> Response {
    let mut response = Response::json(StatusCode::OK, &json!({"data": []}))
        .modified_at(timestamp)
        .uncached();
    for header in ["total-objects", "total-records"] {
        response.set(HeaderName::from_static(header), count.into());
    }
    response
}

/// The page that a query asks for, out of all objects that may be in it.
pub fn page_of(
    query: &ListQuery,
    objects: impl IntoIterator<Item = Map<String, Value>>,
    request: &Request,
    settings: &ApiSettings,
) -> Page {
    let mut selection = Selection::of(query);
    for object in objects {
        selection.offer(&object, || {
            let text = query.shown(&object);
            let length = text.len();
            (text, length)
        });
    }
    let (objects, next) = selection.finish(false, request, settings);
    Page { objects, next }
}

/// The objects of one page, chosen from those that are offered; of each a `T` is kept.
#[derive(Debug)]
pub struct Selection<'q, T> {
    query: &'q ListQuery,
    kept: Vec<SelectedObject<T>>,
    /// The bytes of the objects that are kept, and the weight of their keys.
    size: Size,
    /// Whether there are more than the page holds.
    more: bool,
}

#[derive(Debug)]
struct SelectedObject<T> {
    /// The fields that the page is sorted by.
    keys: Map<String, Value>,
    size: Size,
    shown: T,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    bytes: usize,
    keys: usize,
}

impl Size {
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            keys: self.keys.saturating_add(other.keys),
        }
    }

    /// Returns `true` if this fits in `pages` pages.
    fn is_within(self, pages: usize) -> bool {
        self.bytes <= pages * MAX_PAGE && self.keys <= pages * MAX_KEYS
    }
}

impl<'q, T> Selection<'q, T> {
    /// An empty selection for the query.
    pub fn of(query: &'q ListQuery) -> Self {
        Self {
            query,
            kept: vec![],
            size: Size::default(),
            more: false,
        }
    }

    /// Takes in an object with these fields if the query asks for it; `show` returns the part of it to keep, and the
    /// bytes that this takes in the page.
    pub fn offer(&mut self, fields: &Map<String, Value>, show: impl FnOnce() -> (T, usize)) {
        if !self.query.matches(fields) || !self.query.is_behind_token(fields) {
            return;
        }
        let keys = self.query.keys_of(fields);
        let (shown, bytes) = show();
        let size = Size {
            bytes: bytes + ",".len(),
            keys: keys.values().map(weight::of).sum(),
        };
        self.size = self.size.and(size);
        self.kept.push(SelectedObject { keys, size, shown });
        if self.kept.len() / 2 > self.query.limit || !self.size.is_within(2) {
            self.prune();
        }
    }

    /// Returns `true` if the page is full, so that objects later in its order cannot be in it.
    pub fn is_full(&self) -> bool {
        self.kept.len() > self.query.limit || !self.size.is_within(1)
    }

    /// Keeps the first objects, as many as the page holds.
    fn prune(&mut self) {
        let query = self.query;
        self.kept.sort_by(|a, b| query.order(&a.keys, &b.keys));
        let mut size = Size::default();
        let fits = |kept: &&SelectedObject<T>| {
            size = size.and(kept.size);
            size.is_within(1)
        };
        let fitting = self.kept.iter().take(query.limit).take_while(fits).count();
        // The first one always fits: nothing that is stored is longer than a page.
        let fitting = fitting.max(1).min(self.kept.len());
        self.more |= self.kept.len() > fitting;
        self.kept.truncate(fitting);
        let sizes = self.kept.iter().map(|kept| kept.size);
        self.size = sizes.fold(Size::default(), Size::and);
    }

    /// The parts kept of the page's objects, in their order, and the URL of the next page, if there is one; `more` says
    /// that not all objects were offered.
    pub fn finish(
        mut self,
        more: bool,
        request: &Request,
        settings: &ApiSettings,
    ) -> (Vec<T>, Option<String>) {
        self.prune();
        let last = self.kept.last().filter(|_| self.more || more);
        let next = last.map(|last| self.query.next_page(&last.keys, request, settings));
        let shown = self.kept.into_iter().map(|kept| kept.shown);
        (shown.collect(), next)
    }
}
