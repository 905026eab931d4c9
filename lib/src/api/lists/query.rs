//! The query string of a list: parsed once, then applied to objects as JSON, one after the other
//! ([`super::selection`]).
//!
//! The order of a list is one in which no two objects have the same place: whatever else it is sorted by, [`ID`] is its
//! last key. So a page can begin after the last object of the page before, and no object that stays is missed or shown
//! twice.

use std::cmp::Ordering;

use http::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value};

use crate::api::lists::filter::{Filter, Operator};
use crate::api::lists::page_token;
use crate::api::lists::parameters::{fields, integer, invalid, parse_value, parts};
use crate::api::lists::projection::{Path, Projection};
use crate::api::lists::sort::{Keys, SortKey, compare, sort_keys};
use crate::api::objects::metadata::{ID, LAST_MODIFIED};
use crate::api::web::error::{ApiError, Detail, Location};
use crate::api::web::request::{IN_QUERY, Request};
use crate::settings::ApiSettings;
use crate::timestamp::Timestamp;

/// The most keys to look up in each object: those of 200 filters by a short field, or of 14 by a field of eleven parts.
const MAX_LOOKUPS: usize = 1000;
/// The cost of a filter beside its look-up, as look-ups of keys.
const FILTER: usize = 4;
/// The same of a filter that searches a text or a list.
const SEARCHING_FILTER: usize = 16;
/// The same of a sort key: each object is compared with others.
const SORT_KEY: usize = 60;

/// The query string of a list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    filters: Vec<Filter>,
    sort: Vec<SortKey>,
    fields: Option<Projection>,
    pub(super) limit: usize,
    /// Whether tombstones are left out, whatever the filters.
    live_only: bool,
    /// The sort fields of the last object of the page before.
    after: Option<Map<String, Value>>,
    keys: Keys,
}

/// Returns `true` if the query is malformed: such an error goes before the preconditions, which go before the errors of
/// filters (Kinto 26.5).
pub fn is_malformed(error: &ApiError) -> bool {
    let parameters = ["_limit", "_since", "_to", "_before", LAST_MODIFIED];
    let names = |detail: &Detail| {
        let name = detail.name.as_deref();
        name.is_some_and(|name| parameters.contains(&name))
    };
    matches!(error, ApiError::Invalid(details) if details.iter().any(names))
}

/// The times between which objects are asked for, both exclusive: an index need not read the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Only later objects.
    pub since: Option<Timestamp>,
    /// Only earlier objects.
    pub before: Option<Timestamp>,
}

impl ListQuery {
    /// Parses the query string of a request for a list whose objects have the fields `known`, or any. The latest
    /// objects come first unless it says otherwise.
    ///
    /// # Errors
    /// 400 for a filter or sort on an unknown field, and for an invalid value of a parameter.
    pub fn parse(
        request: &Request,
        known: Option<&[&str]>,
        settings: &ApiSettings,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        Self::parse_keyed(request, known, Keys::BY_TIME, settings, now)
    }

    /// Like [`Self::parse`], for a list with other keys.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_keyed(
        request: &Request,
        known: Option<&[&str]>,
        keys: Keys,
        settings: &ApiSettings,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let time = keys.time.unwrap_or(LAST_MODIFIED);
        let is_known = |field: &str| {
            let root = field.split('.').next().unwrap_or_default();
            known.is_none_or(|known| known.contains(&root))
        };
        let mut query = Self {
            filters: vec![],
            sort: vec![],
            fields: None,
            limit: settings.page_size(None),
            live_only: request.method == Method::DELETE,
            after: None,
            keys,
        };
        let mut read = |name: &str, value: &str| {
            match name {
                "_since" => {
                    let since = Filter::bound(name, time, Operator::Gt, value, now)?;
                    query.filters.push(since);
                }
                "_before" | "_to" => {
                    let before = Filter::bound(name, time, Operator::Lt, value, now)?;
                    query.filters.push(before);
                }
                "_limit" => {
                    let limit = match parse_value(value) {
                        // The same as no limit (Kinto 26.5).
                        Value::Null => None,
                        Value::String(text) if text.is_empty() => None,
                        Value::Array(values) if values.is_empty() => None,
                        Value::Object(fields) if fields.is_empty() => None,
                        limit => {
                            let limit = integer(&limit);
                            Some(limit.ok_or_else(|| invalid(name, "Must be a whole number"))?)
                        }
                    };
                    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
                    query.limit = settings.page_size(limit.filter(|limit| *limit > 0));
                }
                "_sort" => query.sort = sort_keys(value, is_known)?,
                "_fields" => {
                    query.fields = fields(value);
                    if let Some(unknown) = parts(value).find(|field| !is_known(field)) {
                        return Err(invalid(name, &format!("Unknown field {unknown}")));
                    }
                }
                "_token" if !value.is_empty() => {
                    query.after = Some(page_token::decode(value, keys, &request.method)?);
                }
                _ if name.starts_with('_') || name.is_empty() => {}
                _ => {
                    let filter = Filter::parse(name, value, is_known, now)?;
                    query.filters.push(filter);
                }
            }
            Ok(())
        };
        let mut wrong = None;
        for (name, value) in request.query() {
            match read(name.trim(), &value) {
                Err(error) if is_malformed(&error) => return Err(error),
                Err(error) => wrong = wrong.or(Some(error)),
                Ok(()) => {}
            }
        }
        if let Some(error) = wrong {
            return Err(error);
        }
        if query.lookups() > MAX_LOOKUPS {
            return Err(ApiError::invalid_unnamed(
                Location::Querystring,
                "Asks for too much: give fewer filters, sort keys and fields, with fewer dots",
            ));
        }
        if keys.time.is_none() {
            query
                .filters
                .retain(|filter| filter.field.text() != LAST_MODIFIED);
            query.sort.retain(|by| by.field.text() != LAST_MODIFIED);
        }
        for (key, descending) in keys.order() {
            if !query.sort.iter().any(|by| by.field.text() == key) {
                query.sort.push(SortKey {
                    field: Path::new(key),
                    descending,
                });
            }
        }
        Ok(query)
    }

    /// The cost of applying it to one object, as look-ups of keys.
    fn lookups(&self) -> usize {
        let filters = self.filters.iter().map(|filter| {
            let own = match filter.operator {
                Operator::Like | Operator::Contains | Operator::ContainsAny => SEARCHING_FILTER,
                _ => FILTER,
            };
            own + filter.field.lookups()
        });
        let sort = self.sort.iter().map(|by| SORT_KEY + by.field.lookups());
        let fields = self.fields.iter().map(Projection::lookups);
        filters.chain(sort).chain(fields).sum()
    }

    /// The same where these fields hold texts alone: whole numbers that they are compared with stand for their digits. Those
    /// in lists do not (Kinto 26.5, of histories).
    pub fn with_texts(mut self, fields: &[&str]) -> Self {
        let is_of_texts = |filter: &&mut Filter| {
            fields.contains(&filter.field.text())
                && !matches!(
                    filter.operator,
                    Operator::Has | Operator::In | Operator::Exclude
                )
        };
        for filter in self.filters.iter_mut().filter(is_of_texts) {
            if filter.value.is_i64() || filter.value.is_u64() {
                filter.value = filter.value.to_string().into();
            }
        }
        self
    }

    /// The query for everything that exists.
    pub fn all() -> Self {
        Self {
            filters: vec![],
            sort: vec![],
            fields: None,
            limit: usize::MAX,
            live_only: false,
            after: None,
            keys: Keys::BY_TIME,
        }
    }

    /// Returns `true` if it asks for tombstones too: it has a filter by time, and does not delete.
    pub fn includes_tombstones(&self) -> bool {
        let mut filters = self.filters.iter();
        !self.live_only && filters.any(|filter| filter.field.text() == LAST_MODIFIED)
    }

    /// The times between which all objects that it asks for lie.
    pub fn bounds(&self) -> Bounds {
        let mut bounds = Bounds::default();
        let times = self.filters.iter();
        for filter in times.filter(|filter| self.is_time(&filter.field)) {
            let Some(time) = integer(&filter.value).map(Timestamp) else {
                continue;
            };
            match filter.operator {
                Operator::Gt => bounds.since = bounds.since.max(Some(time)),
                // A time before one with a fraction is also before the next whole one.
                Operator::Lt if filter.value.is_f64() => bounds.be_before(time.next()),
                Operator::Lt => bounds.be_before(time),
                _ => {}
            }
        }
        if let Some(last) = self.after() {
            // Other objects may have the same time.
            bounds.be_before(last.next());
        }
        bounds
    }

    /// Returns `true` if an object's id and time are all that it needs.
    pub fn is_of_keys(&self) -> bool {
        let is_key = |path: &Path| matches!(path.text(), ID | LAST_MODIFIED);
        self.fields.is_none()
            && self.filters.iter().all(|filter| is_key(&filter.field))
            && self.sort.iter().all(|by| is_key(&by.field))
    }

    /// Returns `true` if it asks for everything within its bounds.
    pub fn is_of_bounds(&self) -> bool {
        let mut filters = self.filters.iter();
        filters.all(|filter| {
            self.is_time(&filter.field)
                && matches!(filter.operator, Operator::Gt | Operator::Lt)
                && integer(&filter.value).is_some()
        })
    }

    /// The time of the last object of the page before, if the order is that of the index.
    fn after(&self) -> Option<Timestamp> {
        let is_of_index = self.keys == Keys::BY_TIME && self.is_by_time();
        let after = self.after.as_ref().filter(|_| is_of_index)?;
        after.get(LAST_MODIFIED)?.as_u64().map(Timestamp)
    }

    /// The number of the latest objects within the bounds that suffices to make a page and to see whether there is
    /// another, if no two have the same time; `None` when all are needed.
    pub fn objects_for_page(&self) -> Option<usize> {
        // Of a later page, the first object read is usually the last one of the page before.
        let more = 1 + usize::from(self.after.is_some());
        (self.is_by_time() && self.is_of_bounds()).then_some(self.limit.saturating_add(more))
    }

    /// The most objects in a page of whole objects, the latest first, chosen by time alone; `None` for any other page.
    pub fn plain_page_size(&self) -> Option<usize> {
        let is_plain =
            self.objects_for_page().is_some() && self.fields.is_none() && self.after.is_none();
        is_plain.then_some(self.limit)
    }

    /// Returns `true` if `_since` and `_before` go by this field.
    fn is_time(&self, field: &Path) -> bool {
        self.keys.time == Some(field.text())
    }

    /// Returns `true` if the order is that of the index: the latest first.
    pub fn is_by_time(&self) -> bool {
        let keys: Vec<_> = self.keys.order().collect();
        let is_key = |(by, (key, descending)): (&SortKey, &(&str, bool))| {
            by.field.text() == *key && by.descending == *descending
        };
        self.keys.time.is_some()
            && self.sort.len() == keys.len()
            && self.sort.iter().zip(&keys).all(is_key)
    }

    /// Returns `true` if the object matches and is no tombstone.
    pub fn counts(&self, object: &Map<String, Value>) -> bool {
        object.get("deleted") != Some(&Value::Bool(true)) && self.matches(object)
    }

    /// The fields of an object that the query asks for, as JSON.
    pub fn shown(&self, object: &Map<String, Value>) -> String {
        let shown;
        let object = match self.keys.time.filter(|time| *time != LAST_MODIFIED) {
            // A time of the list's own is no field of its objects.
            Some(time) => {
                let fields = object.iter().filter(|(name, _)| *name != time);
                shown = fields.map(|(n, v)| (n.clone(), v.clone())).collect();
                &shown
            }
            None => object,
        };
        let shown = match &self.fields {
            Some(fields) => serde_json::to_string(&fields.pick(object)),
            None => serde_json::to_string(object),
        };
        // A value of JSON can always be serialized.
        shown.unwrap_or_default()
    }

    /// Returns `true` if objects are shown whole.
    pub fn shows_all(&self) -> bool {
        self.fields.is_none()
    }

    /// The fields of an object that the list is sorted by.
    pub fn keys_of(&self, object: &Map<String, Value>) -> Map<String, Value> {
        let keys = self.sort.iter().filter_map(|by| {
            let value = by.field.of(object)?.clone();
            Some((by.field.text().to_owned(), value))
        });
        keys.collect()
    }

    /// Returns `true` if the object comes after the page before.
    pub fn is_behind_token(&self, object: &Map<String, Value>) -> bool {
        let after = self.after.as_ref();
        after.is_none_or(|after| self.order(after, object) == Ordering::Less)
    }

    /// Returns `true` if an object of which only some fields are known may match.
    pub fn may_match(&self, part: &Map<String, Value>) -> bool {
        let mut known = self.filters.iter();
        known.all(|filter| !part.contains_key(filter.field.text()) || filter.matches(part))
    }

    pub fn matches(&self, object: &Map<String, Value>) -> bool {
        self.filters.iter().all(|filter| filter.matches(object))
    }

    pub fn order(&self, a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
        let by_key = |key: &SortKey| {
            let order = compare(key.field.of(a), key.field.of(b));
            if key.descending {
                order.reverse()
            } else {
                order
            }
        };
        self.sort
            .iter()
            .map(by_key)
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// The URL of the page after an object with these fields.
    pub fn next_page(
        &self,
        last: &Map<String, Value>,
        request: &Request,
        settings: &ApiSettings,
    ) -> String {
        let token = page_token::encode(last, &request.method);
        let encode = |text: &str| utf8_percent_encode(text, IN_QUERY).to_string();
        let kept = request
            .query()
            .filter(|(name, _)| name != "_limit" && name != "_token");
        let kept: String = kept
            .map(|(name, value)| format!("{}={}&", encode(&name), encode(&value)))
            .collect();
        format!(
            "{}{}?{kept}_limit={}&_token={token}",
            request.origin(settings),
            request.path,
            self.limit
        )
    }
}

impl Bounds {
    fn be_before(&mut self, time: Timestamp) {
        self.before = Some(self.before.map_or(time, |before| before.min(time)));
    }
}
