//! Lists: which of the objects, in which order, how many, and which of their fields.
//!
//! All here is pure and the same for every list: the query string is read once ([`ListQuery::parse`]), then applied
//! to objects as JSON, one after the other ([`selection`](super::selection)). Values compare as in Kinto on PostgreSQL: null < string <
//! number < boolean < array < object < missing.
//!
//! The order of a list is one of which no two objects have the same place: what else it is sorted by, [`ID`] is its last
//! key, and a page begins behind the place of the last object of the page before, whatever became of that. So nothing
//! that stays is missed or shown twice.

use std::cmp::Ordering;
use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderName, Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value, json};

use crate::api::lists::projection::{Path, Projection};
use crate::api::web::error::{ApiError, Detail};
use crate::api::web::request::{IN_QUERY, Request};
use crate::api::web::response::Response;
use crate::json::values::compare_numbers;
use crate::settings::ApiSettings;
use crate::timestamp::Timestamp;
use crate::wildcard;

/// The field whose filters reach tombstones too.
pub const LAST_MODIFIED: &str = "last_modified";

/// The field that no two objects of a list share.
const ID: &str = "id";

/// The header that leads to the page that follows.
pub const NEXT_PAGE: HeaderName = HeaderName::from_static("next-page");

/// What the tokens of deletions have.
const DELETES: &str = "deletes";

/// How far ahead of now a time that a client gives may lie: one day, in milliseconds (Kinto 26.5, of those in queries).
const MAX_AHEAD: u64 = 24 * 60 * 60 * 1000;

/// What takes the place of now where times of a list are looked at: the list's own `timestamp` may lie further ahead, and
/// what it answered is always taken back.
pub fn reference_time(now: Timestamp, timestamp: Timestamp) -> Timestamp {
    now.max(Timestamp(timestamp.0.saturating_sub(MAX_AHEAD)))
}

/// The latest time that a client may give to what it writes to a list with this timestamp.
pub fn latest_time(now: Timestamp, timestamp: Timestamp) -> Timestamp {
    Timestamp(reference_time(now, timestamp).0.saturating_add(MAX_AHEAD))
}
/// The largest whole number that a parameter may give (Kinto 26.5).
const MAX_WHOLE: u64 = 1 << 63;

/// Keys that a query may have looked up in each object: those of 200 filters by a short field, or 14 by one of eleven parts.
const MAX_LOOKUPS: usize = 1000;
/// What a filter takes beside its look-up, as look-ups of keys.
const FILTER: usize = 4;
/// The same of one that goes through a text or a list.
const SEARCHING_FILTER: usize = 16;
/// The same of a key that a list is sorted by: an object is compared with others.
const SORT_KEY: usize = 60;

/// What a query string asks for.
#[derive(Clone, Debug)]
pub struct ListQuery {
    filters: Vec<Filter>,
    sort: Vec<SortKey>,
    fields: Option<Projection>,
    pub(super) limit: usize,
    /// Whether what is deleted is not asked for, whatever else is.
    live_only: bool,
    /// The sorting fields of the last object of the page before.
    after: Option<Map<String, Value>>,
    keys: Keys,
}

/// The fields by which the objects of a list are ordered and told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The time that `_since`, `_before` and the order go by where nothing else is asked for; without one, what is asked
    /// of times is passed over.
    pub time: Option<&'static str>,
    /// No two objects have the same; the last field that they are sorted by.
    pub unique: &'static str,
}

impl Keys {
    /// Of a list whose objects may have the same time: clients give those too.
    const BY_TIME: Self = Self {
        time: Some(LAST_MODIFIED),
        unique: ID,
    };

    /// The fields that the order ends with, and whether the largest value of each comes first.
    fn order(self) -> impl Iterator<Item = (&'static str, bool)> {
        let time = self.time.filter(|time| *time != self.unique);
        let time = time.map(|time| (time, true));
        time.into_iter().chain([(self.unique, self.unique != ID)])
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    field: Path,
    operator: Operator,
    /// Of the operators that take a list, it is in order; of `like_`, in lower case.
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Eq,
    Not,
    Lt,
    Max,
    Min,
    Gt,
    In,
    Exclude,
    Like,
    Has,
    Contains,
    ContainsAny,
}

/// Prefixes of filters, a longer one before the one that it begins with.
const PREFIXES: [(&str, Operator); 12] = [
    ("contains_any_", Operator::ContainsAny),
    ("contains_", Operator::Contains),
    ("exclude_", Operator::Exclude),
    ("like_", Operator::Like),
    ("has_", Operator::Has),
    ("not_", Operator::Not),
    ("min_", Operator::Min),
    ("max_", Operator::Max),
    ("lt_", Operator::Lt),
    ("gt_", Operator::Gt),
    ("eq_", Operator::Eq),
    ("in_", Operator::In),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct SortKey {
    field: Path,
    descending: bool,
}

/// The data of an object with its id and its time, as the API shows it.
pub fn named(mut data: Map<String, Value>, id: &str, at: Timestamp) -> Map<String, Value> {
    data.insert("id".to_owned(), id.into());
    data.insert(LAST_MODIFIED.to_owned(), at.0.into());
    data
}

/// The same as JSON, of data that are JSON already.
pub fn named_text(data: &str, id: &str, at: Timestamp) -> String {
    let fields = data.trim_end().strip_suffix('}').unwrap_or(data);
    let comma = if fields == "{" { "" } else { "," };
    // Ids are of letters that JSON does not escape, but for those of accounts, which it does not escape either.
    format!(
        "{fields}{comma}\"id\":{},\"last_modified\":{at}}}",
        Value::from(id)
    )
}

/// Whether a query cannot even be read: then its preconditions do not matter, while they go before what is wrong with
/// its filters (Kinto 26.5).
pub fn is_malformed(error: &ApiError) -> bool {
    let parameters = ["_limit", "_since", "_to", "_before", LAST_MODIFIED];
    let names = |detail: &Detail| {
        let name = detail.name.as_deref();
        name.is_some_and(|name| parameters.contains(&name))
    };
    matches!(error, ApiError::Invalid(details) if details.iter().any(names))
}

/// What the preconditions make of a request for a list: `Some` is the answer already, 304 to one that reads.
///
/// # Errors
/// 412 when they do not hold, 400 when they cannot be read.
pub fn check_preconditions(
    request: &Request,
    timestamp: Timestamp,
) -> Result<Option<Response>, ApiError> {
    let preconditions = request.preconditions()?;
    if request.is_read() && preconditions.not_modified(timestamp) {
        return Ok(Some(
            Response::empty(StatusCode::NOT_MODIFIED).modified_at(timestamp),
        ));
    }
    if !preconditions.hold(Some(timestamp)) {
        return Err(ApiError::Modified {
            current: Some(timestamp),
            existing: None,
        });
    }
    Ok(None)
}

/// The response to the `HEAD` of a list of so many objects.
pub fn counted(count: usize, timestamp: Timestamp) -> Response {
    let mut response = Response::json(StatusCode::OK, &json!({"data": []}))
        .modified_at(timestamp)
        .uncached();
    for header in ["total-objects", "total-records"] {
        response.set(HeaderName::from_static(header), count.into());
    }
    response
}

/// The times between which objects are asked for, both exclusive: what an index can spare from being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Only what is later.
    pub since: Option<Timestamp>,
    /// Only what is earlier.
    pub before: Option<Timestamp>,
}

impl ListQuery {
    /// Reads the query string of a request for a list whose objects have the fields `known`, or any, and the latest of
    /// which come first where it does not say otherwise.
    ///
    /// # Errors
    /// 400 for a filter or sort on a field that is not known, and for values that the parameter cannot have.
    pub fn parse(
        request: &Request,
        known: Option<&[&str]>,
        settings: &ApiSettings,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        Self::parse_keyed(request, known, Keys::BY_TIME, settings, now)
    }

    /// The same of a list with other keys.
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
                    let limit = match native(value) {
                        // Says nothing (Kinto 26.5).
                        Value::Null => None,
                        Value::String(text) if text.is_empty() => None,
                        Value::Array(values) if values.is_empty() => None,
                        Value::Object(fields) if fields.is_empty() => None,
                        limit => {
                            let limit = whole(&limit);
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
                    query.after = Some(read_token(value, keys, &request.method)?);
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
                "querystring",
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

    /// What it takes to apply it to one object, as look-ups of keys.
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

    /// Asks for everything that exists.
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

    /// Whether tombstones are among what is asked for: when there is a filter by time, and it is not to be deleted.
    pub fn includes_tombstones(&self) -> bool {
        let mut filters = self.filters.iter();
        !self.live_only && filters.any(|filter| filter.field.text() == LAST_MODIFIED)
    }

    /// The times between which all that is asked for lies.
    pub fn bounds(&self) -> Bounds {
        let mut bounds = Bounds::default();
        let times = self.filters.iter();
        for filter in times.filter(|filter| self.is_time(&filter.field)) {
            let Some(time) = whole(&filter.value).map(Timestamp) else {
                continue;
            };
            match filter.operator {
                Operator::Gt => bounds.since = bounds.since.max(Some(time)),
                // Nothing is before a time's fraction that is not before the time that follows.
                Operator::Lt if filter.value.is_f64() => bounds.be_before(time.next()),
                Operator::Lt => bounds.be_before(time),
                _ => {}
            }
        }
        if let Some(last) = self.after() {
            // Others may have the same time.
            bounds.be_before(last.next());
        }
        bounds
    }

    /// Whether it can be told of an object's id and time alone what becomes of it.
    pub fn is_of_keys(&self) -> bool {
        let is_key = |path: &Path| matches!(path.text(), ID | LAST_MODIFIED);
        self.fields.is_none()
            && self.filters.iter().all(|filter| is_key(&filter.field))
            && self.sort.iter().all(|by| is_key(&by.field))
    }

    /// Whether it asks for all that is within its bounds.
    pub fn is_of_bounds(&self) -> bool {
        let mut filters = self.filters.iter();
        filters.all(|filter| {
            self.is_time(&filter.field)
                && matches!(filter.operator, Operator::Gt | Operator::Lt)
                && whole(&filter.value).is_some()
        })
    }

    /// The time of the last object of the page before, where the order is that of the index.
    fn after(&self) -> Option<Timestamp> {
        let is_of_index = self.keys == Keys::BY_TIME && self.is_by_time();
        let after = self.after.as_ref().filter(|_| is_of_index)?;
        after.get(LAST_MODIFIED)?.as_u64().map(Timestamp)
    }

    /// How many of the latest objects within the bounds are enough to make a page and to see that there is another one,
    /// if no two have the same time; `None` when all are needed.
    pub fn enough(&self) -> Option<usize> {
        // Of a later page the first one that is read is the last one of the page before, most often.
        let more = 1 + usize::from(self.after.is_some());
        (self.is_by_time() && self.is_of_bounds()).then_some(self.limit.saturating_add(more))
    }

    /// How many objects a page holds at most, if it is of whole objects, the latest first, chosen by their time alone.
    pub fn plain_page_size(&self) -> Option<usize> {
        let is_plain = self.enough().is_some() && self.fields.is_none() && self.after.is_none();
        is_plain.then_some(self.limit)
    }

    /// Whether `_since` and `_before` go by that field.
    fn is_time(&self, field: &Path) -> bool {
        self.keys.time == Some(field.text())
    }

    /// Whether the order is that of the index: the latest first.
    pub fn is_by_time(&self) -> bool {
        let keys: Vec<_> = self.keys.order().collect();
        let is_key = |(by, (key, descending)): (&SortKey, &(&str, bool))| {
            by.field.text() == *key && by.descending == *descending
        };
        self.keys.time.is_some()
            && self.sort.len() == keys.len()
            && self.sort.iter().zip(&keys).all(is_key)
    }

    /// Whether the object is one of those that are asked for, and no tombstone.
    pub fn counts(&self, object: &Map<String, Value>) -> bool {
        object.get("deleted") != Some(&Value::Bool(true)) && self.matches(object)
    }

    /// The fields of an object that are asked for, as JSON.
    pub fn shown(&self, object: &Map<String, Value>) -> String {
        let shown;
        let object = match self.keys.time.filter(|time| *time != LAST_MODIFIED) {
            // A time of the list's own is none of its objects' fields.
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
        // What is made of JSON can always be written.
        shown.unwrap_or_default()
    }

    /// Whether all of an object is shown.
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

    /// Whether an object comes after the page before.
    pub fn is_behind_token(&self, object: &Map<String, Value>) -> bool {
        let after = self.after.as_ref();
        after.is_none_or(|after| self.order(after, object) == Ordering::Less)
    }

    /// Whether an object of which only some fields are known may be asked for.
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

    pub fn next_page(
        &self,
        last: &Map<String, Value>,
        request: &Request,
        settings: &ApiSettings,
    ) -> String {
        let mut token = json!({"last_object": last});
        if request.method == Method::DELETE {
            token[DELETES] = true.into();
        }
        let token = BASE64_URL_SAFE_NO_PAD.encode(token.to_string());
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

impl Filter {
    fn parse(
        name: &str,
        text: &str,
        is_known: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let prefixed = PREFIXES.iter().find_map(|(prefix, operator)| {
            let field = name
                .strip_prefix(prefix)
                .filter(|field| !field.is_empty())?;
            Some((field, *operator))
        });
        let (field, operator) = prefixed.unwrap_or((name, Operator::Eq));
        if !is_known(field) {
            return Err(invalid(name, &format!("Unknown filter field {name}")));
        }
        let wrong = || invalid(name, &format!("Invalid value for {name}"));
        if has_nul(&field.into()) || has_nul(&native(text)) {
            return Err(wrong());
        }
        let words = || parts(text).map(native).collect::<Vec<_>>();
        let of_id = field == ID;
        let of_time = field == LAST_MODIFIED;
        // An id is a text, between quotes or not.
        let id = || match native(text) {
            Value::String(id) => id,
            _ => text.to_owned(),
        };
        let value = match operator {
            Operator::Contains | Operator::ContainsAny if of_id || of_time => return Err(wrong()),
            Operator::Contains | Operator::ContainsAny => match native(text) {
                Value::Array(values) => values.into(),
                value => json!([value]),
            },
            Operator::In | Operator::Exclude if of_id && !words().iter().all(Value::is_string) => {
                return Err(wrong());
            }
            Operator::In | Operator::Exclude if of_time && !words().iter().all(Value::is_u64) => {
                return Err(wrong());
            }
            Operator::In | Operator::Exclude => words().into(),
            Operator::Like if of_id => id().to_lowercase().into(),
            Operator::Like if of_time => return Err(wrong()),
            Operator::Like => match native(text) {
                Value::String(text) => text.to_lowercase().into(),
                _ => return Err(wrong()),
            },
            Operator::Eq if of_time => {
                let time = whole(&native(text)).map(Value::from);
                return Self::time(name, LAST_MODIFIED, operator, now, time);
            }
            _ if of_time => {
                return Self::time(name, LAST_MODIFIED, operator, now, time_in(&native(text)));
            }
            Operator::Has => native(text),
            _ if of_id => id().into(),
            _ => native(text),
        };
        let mut value = value;
        if let (
            Value::Array(values),
            Operator::In | Operator::Exclude | Operator::Contains | Operator::ContainsAny,
        ) = (&mut value, operator)
        {
            // To be found by halves.
            values.sort_by(|a, b| compare(Some(a), Some(b)));
            values.dedup_by(|a, b| compare(Some(a), Some(b)).is_eq());
        }
        Ok(Self {
            field: Path::new(field),
            operator,
            value,
        })
    }

    /// A filter by a time as `_since` and `_before` name it. `null` is before all times.
    fn bound(
        name: &str,
        field: &str,
        operator: Operator,
        text: &str,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        match native(text) {
            Value::Null => Ok(Self {
                field: Path::new(field),
                operator,
                value: Value::Null,
            }),
            time => Self::time(name, field, operator, now, whole(&time).map(Value::from)),
        }
    }

    /// A filter by a time, in milliseconds; `None` is refused, and what is far ahead.
    fn time(
        name: &str,
        field: &str,
        operator: Operator,
        now: Timestamp,
        time: Option<Value>,
    ) -> Result<Self, ApiError> {
        let latest = now.0.saturating_add(MAX_AHEAD) as f64;
        let value = time.filter(|time| time.as_f64().is_some_and(|time| time <= latest));
        let value = value.ok_or_else(|| invalid(name, &format!("Invalid value for {name}")))?;
        Ok(Self {
            field: Path::new(field),
            operator,
            value,
        })
    }

    fn matches(&self, object: &Map<String, Value>) -> bool {
        let found = self.field.of(object);
        let order = || compare(found, Some(&self.value));
        let listed = self.value.as_array().map_or(&[][..], Vec::as_slice);
        let place_of = |value: Option<&Value>| {
            listed
                .binary_search_by(|listed| compare(Some(listed), value))
                .ok()
        };
        let places = || {
            let values = found.and_then(Value::as_array).into_iter().flatten();
            values.filter_map(|value| place_of(Some(value)))
        };
        match self.operator {
            Operator::Eq => order().is_eq(),
            Operator::Not => order().is_ne(),
            Operator::Lt => order().is_lt(),
            Operator::Max => order().is_le(),
            Operator::Min => order().is_ge(),
            Operator::Gt => order().is_gt(),
            Operator::In => place_of(found).is_some(),
            Operator::Exclude => place_of(found).is_none(),
            Operator::Like => match found {
                Some(Value::String(text)) => is_like(text, &self.value),
                Some(Value::Number(number)) => is_like(&number.to_string(), &self.value),
                _ => false,
            },
            Operator::Has => found.is_some() == is_truthy(&self.value),
            Operator::Contains => {
                found.is_some_and(Value::is_array)
                    && places().collect::<HashSet<_>>().len() == listed.len()
            }
            Operator::ContainsAny => places().next().is_some(),
        }
    }
}

fn invalid(name: &str, description: &str) -> ApiError {
    ApiError::invalid("querystring", name, description)
}

/// A value of the query string: JSON where it is JSON, else the text itself.
pub fn native(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The whole number that a parameter gives (Kinto 26.5): one that is not negative, as an integer, a decimal, whose
/// fraction is dropped, or the digits of a text. `None` of anything else.
pub fn whole(value: &Value) -> Option<u64> {
    let whole = match value {
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole,
            // -0.5 is 0 as well.
            (None, Some(decimal)) if -1.0 < decimal && decimal <= MAX_WHOLE as f64 => {
                decimal as u64
            }
            _ => return None,
        },
        Value::String(text) => {
            let text = text.trim();
            let digits = text.strip_prefix('+').unwrap_or(text);
            match digits {
                "-0" => 0,
                _ => Timestamp::from_digits(digits)?.0,
            }
        }
        _ => return None,
    };
    (whole <= MAX_WHOLE).then_some(whole)
}

/// The time that a value stands for, with its fraction; `None` of what is none.
fn time_in(value: &Value) -> Option<Value> {
    whole(value)?;
    match value {
        Value::Number(number) => Some(number.clone().into()),
        value => whole(value).map(Value::from),
    }
}

/// Whether a text in the value has a character that Kinto on PostgreSQL could not look for.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => {
            let mut fields = fields.iter();
            fields.any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

/// The fields that `_fields` names, if any, and those that are always shown.
pub fn fields(list: &str) -> Option<Projection> {
    let always = [ID, LAST_MODIFIED];
    parts(list).next()?;
    Some(Projection::of(parts(list).chain(always)))
}

/// The parts of a list in the query string; Kinto passes over empty ones.
fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|part| !part.is_empty())
}

fn sort_keys(value: &str, is_known: impl Fn(&str) -> bool) -> Result<Vec<SortKey>, ApiError> {
    let mut keys = vec![];
    for word in value.split(',').map(str::trim) {
        let (descending, field) = match word.strip_prefix('-') {
            Some(field) => (true, field),
            None => (false, word.strip_prefix('+').unwrap_or(word)),
        };
        // As Kinto: what cannot name a field is passed over.
        if field.is_empty()
            || !field
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
        {
            continue;
        }
        if !is_known(field) {
            let description = format!("Unknown sort field {field}");
            return Err(ApiError::invalid_unnamed("querystring", description));
        }
        // A field decides where it stands first.
        if keys.iter().any(|key: &SortKey| key.field.text() == field) {
            continue;
        }
        keys.push(SortKey {
            field: Path::new(field),
            descending,
        });
    }
    Ok(keys)
}

/// The fields that a token carries, the keys among them. Only a deletion's token goes on deleting (Kinto 26.5).
fn read_token(token: &str, keys: Keys, method: &Method) -> Result<Map<String, Value>, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let content: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let content =
        content.filter(|content| method != Method::DELETE || content.get(DELETES).is_some());
    let last = content.and_then(|mut content| content.get_mut("last_object").map(Value::take));
    let has_key = |last: &Map<String, Value>, key| match last.get(key) {
        Some(Value::Number(number)) => keys.time == Some(key) && number.is_u64(),
        Some(Value::String(_)) => keys.time != Some(key),
        // Tokens of an earlier version have none; they are behind all of their time.
        None => key == ID,
        Some(_) => false,
    };
    match last {
        Some(Value::Object(last)) if keys.order().all(|(key, _)| has_key(&last, key)) => Ok(last),
        _ => Err(ApiError::invalid_unnamed(
            "querystring",
            "_token has invalid content",
        )),
    }
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Whether `text` is like `pattern`, which is in lower case and in which `*` stands for anything; without one it may be anywhere. Case is ignored.
fn is_like(text: &str, pattern: &Value) -> bool {
    let pattern = pattern.as_str().unwrap_or_default();
    let text = text.to_lowercase();
    if pattern.contains('*') {
        wildcard::matches(&text, pattern)
    } else {
        text.contains(pattern)
    }
}

/// Orders values as Kinto does; `None` is a field that is missing.
fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let rank = |value: Option<&Value>| match value {
        Some(Value::Null) => 0,
        Some(Value::String(_)) => 1,
        Some(Value::Number(_)) => 2,
        Some(Value::Bool(_)) => 3,
        Some(Value::Array(_)) => 4,
        Some(Value::Object(_)) => 5,
        None => 6,
    };
    match (a, b) {
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (Some(Value::Number(a)), Some(Value::Number(b))) => compare_numbers(a, b),
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            let pairs = a.iter().zip(b).map(|(a, b)| compare(Some(a), Some(b)));
            pairs
                .into_iter()
                .find(|order| order.is_ne())
                .unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Some(Value::Object(a)), Some(Value::Object(b))) if a == b => Ordering::Equal,
        (Some(a @ Value::Object(_)), Some(b @ Value::Object(_))) => {
            a.to_string().cmp(&b.to_string())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    fn matches(name: &str, value: &str, of: Value) -> bool {
        Filter::parse(name, value, |_| true, Timestamp(1_000))
            .unwrap()
            .matches(&object(of))
    }

    #[test]
    fn values_are_compared_as_json() {
        assert!(matches("s", "3", json!({"s": 3})));
        assert!(matches("s", "3", json!({"s": 3.0})));
        assert!(!matches("s", "3", json!({"s": "3"})));
        assert!(matches("s", "\"3\"", json!({"s": "3"})));
        assert!(matches("s", "red", json!({"s": "red"})));
        assert!(!matches("s", "true", json!({"s": 1})));
        assert!(matches("id", "3", json!({"id": "3"})));
        assert!(matches("id", "\"r\"", json!({"id": "r"})));
        assert!(!matches("not_id", "\"r\"", json!({"id": "r"})));
        assert!(matches("like_id", "\"R*\"", json!({"id": "r0"})));
        assert!(matches("a.b", "1", json!({"a": {"b": 1}})));
        assert!(matches("a.b", "1", json!({"a.b": 1, "a": {"b": 2}})));
    }

    #[test]
    fn what_is_missing_is_higher_than_all() {
        assert!(matches("min_n", "5", json!({})));
        assert!(matches("gt_n", "5", json!({})));
        assert!(!matches("max_n", "5", json!({})));
        assert!(!matches("lt_n", "5", json!({})));
        assert!(matches("not_n", "5", json!({})));
        assert!(!matches("n", "5", json!({})));
    }

    #[test]
    fn lists_of_values_are_taken_apart() {
        assert!(matches("in_n", "1,2", json!({"n": 2})));
        assert!(!matches("in_n", "1,2", json!({"n": "2"})));
        assert!(matches("exclude_n", "1,2", json!({"n": 3})));
        assert!(matches("in_id", "a,b", json!({"id": "a"})));
        assert!(!matches("in_s", "a,,", json!({"s": ""})));
        assert!(matches("exclude_s", "", json!({"s": ""})));
        assert!(matches("contains_n", "[1,2]", json!({"n": [3, 2, 1]})));
        assert!(!matches("contains_n", "[1,4]", json!({"n": [3, 2, 1]})));
        assert!(matches("contains_any_n", "[1,4]", json!({"n": [3, 2, 1]})));
        assert!(matches("contains_n", "1", json!({"n": [1]})));
        assert!(!matches("contains_n", "1", json!({"n": 1})));
    }

    #[test]
    fn like_has_wildcards_and_ignores_case() {
        for (pattern, text, like) in [
            ("ell", "HELLO", true),
            ("h*o", "Hello", true),
            ("ell*", "Hello", false),
            ("*l*l*", "Hello", true),
            ("*", "", true),
            ("h*h", "h", false),
            (".", "Hello", false),
        ] {
            assert_eq!(is_like(text, &json!(pattern)), like, "{pattern} {text}");
        }
        assert!(Filter::parse("like_s", "3", |_| true, Timestamp(0)).is_err());
    }

    #[test]
    fn presence_can_be_asked_for() {
        assert!(matches("has_n", "true", json!({"n": null})));
        assert!(matches("has_n", "false", json!({})));
        assert!(!matches("has_n", "true", json!({})));
    }

    #[test]
    fn times_must_be_times_and_not_far_ahead() {
        let wrong = |name: &str, value: &str| {
            Filter::parse(name, value, |_| true, Timestamp(1_000)).is_err()
        };
        for value in [
            "abc",
            "-1",
            "null",
            "true",
            "",
            "99999999999999",
            "[1]",
            "1e400",
        ] {
            assert!(wrong("last_modified", value), "{value}");
            assert!(wrong("min_last_modified", value), "{value}");
            assert!(wrong("has_last_modified", value), "{value}");
        }
        for value in ["\"12\"", "12", "12.0", "1.5e3", "-0", " 1", "+1"] {
            assert!(!wrong("last_modified", value), "{value}");
            assert!(!wrong("min_last_modified", value), "{value}");
        }
        assert!(matches(
            "last_modified",
            "12.7",
            json!({"last_modified": 12})
        ));
        assert!(matches(
            "gt_last_modified",
            "12.7",
            json!({"last_modified": 13})
        ));
        assert!(!matches(
            "gt_last_modified",
            "12.7",
            json!({"last_modified": 12})
        ));
        assert!(wrong("like_last_modified", "1"));
        assert!(wrong("a", "\"\\u0000\"") && wrong("in_a", "\0"));
        assert!(wrong("contains_id", "x"));
        assert!(wrong("in_last_modified", "1,x"));
        assert!(wrong("in_id", "1,x"));
    }

    #[test]
    fn values_of_different_types_have_their_order() {
        let sorted = [
            json!(null),
            json!("a"),
            json!("b"),
            json!(1),
            json!(2.5),
            json!(false),
            json!(true),
            json!([1]),
            json!({}),
        ];
        for (n, a) in sorted.iter().enumerate() {
            for (m, b) in sorted.iter().enumerate() {
                assert_eq!(compare(Some(a), Some(b)), n.cmp(&m), "{a} {b}");
            }
            assert_eq!(compare(Some(a), None), Ordering::Less);
        }
    }
}
