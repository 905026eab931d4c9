//! Lists: which of the objects, in which order, how many, and which of their fields.
//!
//! All here is pure and the same for every list: the query string is read once ([`ListQuery::parse`]), then applied
//! to objects as JSON ([`ListQuery::apply`]). Values compare as in Kinto on PostgreSQL: null < string < number <
//! boolean < array < object < missing.

use std::borrow::Cow;
use std::cmp::Ordering;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderName, Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value, json};

use super::compression::MAX_BODY;
use super::error::{ApiError, Detail};
use super::request::{IN_QUERY, Request};
use super::response::Response;
use crate::settings::ApiSettings;
use crate::timestamp::Timestamp;

/// The field whose filters reach tombstones too.
pub const LAST_MODIFIED: &str = "last_modified";

/// The header that leads to the page that follows.
pub const NEXT_PAGE: HeaderName = HeaderName::from_static("next-page");

/// What the tokens of deletions have.
const DELETES: &str = "deletes";

/// How far ahead of now a time in a query may lie: one day, in milliseconds (Kinto 26.5).
const MAX_AHEAD: u64 = 24 * 60 * 60 * 1000;

/// Bytes of JSON that the objects of one page have at most; what is left goes to the next page.
pub const MAX_PAGE: usize = MAX_BODY - 100;

/// What a query string asks for.
#[derive(Clone, Debug)]
pub struct ListQuery {
    filters: Vec<Filter>,
    sort: Vec<SortKey>,
    fields: Option<Vec<String>>,
    limit: usize,
    /// The sorting fields of the last object of the page before.
    after: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    field: String,
    operator: Operator,
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
    field: String,
    descending: bool,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects, with the fields that were asked for.
    pub objects: Vec<Value>,
    /// The URL of the next page; `None` on the last one.
    pub next: Option<String>,
}

impl Page {
    /// The response to the `GET` of a list with this timestamp.
    pub fn into_response(self, timestamp: Timestamp) -> Response {
        let mut response = Response::json(StatusCode::OK, &json!({"data": self.objects}))
            .modified_at(timestamp)
            .uncached();
        if let Some(next) = self.next {
            response.set_text(NEXT_PAGE, &next);
        }
        response
    }
}

/// The data of an object with its id and its time, as the API shows it.
pub fn named(mut data: Map<String, Value>, id: &str, at: Timestamp) -> Map<String, Value> {
    data.insert("id".to_owned(), id.into());
    data.insert(LAST_MODIFIED.to_owned(), at.0.into());
    data
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
            current: timestamp,
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
    /// Reads the query string of a request for a list whose objects have the fields `known`, or any; no two of them
    /// have the same `last_modified`.
    ///
    /// # Errors
    /// 400 for a filter or sort on a field that is not known, and for values that the parameter cannot have.
    pub fn parse(
        request: &Request,
        known: Option<&[&str]>,
        settings: &ApiSettings,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        Self::parse_keyed(request, known, LAST_MODIFIED, settings, now)
    }

    /// The same of a list whose objects are told apart by another field, `key`, and have no times: what is asked of
    /// times is passed over.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_keyed(
        request: &Request,
        known: Option<&[&str]>,
        key: &str,
        settings: &ApiSettings,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let is_known = |field: &str| {
            let root = field.split('.').next().unwrap_or_default();
            known.is_none_or(|known| known.contains(&root))
        };
        let mut query = Self {
            filters: vec![],
            sort: vec![],
            fields: None,
            limit: settings.page_size(None),
            after: None,
        };
        let mut read = |name: &str, value: &str| {
            match name {
                "_since" => {
                    let since = Filter::time(name, Operator::Gt, value, now)?;
                    query.filters.push(since);
                }
                "_before" | "_to" => {
                    let before = Filter::time(name, Operator::Lt, value, now)?;
                    query.filters.push(before);
                }
                "_limit" => {
                    let limit = value
                        .parse::<u64>()
                        .map_err(|_| invalid(name, "Must be a whole number"))?;
                    query.limit =
                        settings.page_size(usize::try_from(limit).ok().filter(|limit| *limit > 0));
                }
                "_sort" => query.sort = sort_keys(value, is_known)?,
                "_fields" => {
                    query.fields = fields(value);
                    let mut named = query.fields.iter().flatten();
                    if let Some(unknown) = named.find(|field| !is_known(field)) {
                        return Err(invalid(name, &format!("Unknown field {unknown}")));
                    }
                }
                "_token" if !value.is_empty() => {
                    query.after = Some(read_token(value, key, &request.method)?);
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
        if key != LAST_MODIFIED {
            query.filters.retain(|filter| filter.field != LAST_MODIFIED);
            query.sort.retain(|by| by.field != LAST_MODIFIED);
        }
        if !query.sort.iter().any(|by| by.field == key) {
            query.sort.push(SortKey {
                field: key.to_owned(),
                descending: true,
            });
        }
        Ok(query)
    }

    /// Asks for everything that exists.
    pub fn all() -> Self {
        Self {
            filters: vec![],
            sort: vec![],
            fields: None,
            limit: usize::MAX,
            after: None,
        }
    }

    /// The same, with no fields of the objects but those that are always shown.
    pub fn of_ids(self) -> Self {
        Self {
            fields: Some(vec![]),
            ..self
        }
    }

    /// Whether tombstones are among what is asked for: when there is a filter by time.
    pub fn includes_tombstones(&self) -> bool {
        self.filters
            .iter()
            .any(|filter| filter.field == LAST_MODIFIED)
    }

    /// The times between which all that is asked for lies.
    pub fn bounds(&self) -> Bounds {
        let mut bounds = Bounds::default();
        let times = self
            .filters
            .iter()
            .filter(|filter| filter.field == LAST_MODIFIED);
        for (operator, time) in
            times.filter_map(|filter| Some((filter.operator, filter.value.as_u64()?)))
        {
            match operator {
                Operator::Gt => bounds.since = bounds.since.max(Some(Timestamp(time))),
                Operator::Lt => bounds.be_before(Timestamp(time)),
                _ => {}
            }
        }
        if let Some(last) = self
            .after
            .as_ref()
            .filter(|_| self.is_by_time())
            .and_then(|after| after.get(LAST_MODIFIED))
        {
            bounds.be_before(Timestamp(last.as_u64().unwrap_or_default()));
        }
        bounds
    }

    /// How many of the latest objects within the bounds are enough to make a page; `None` when all are needed.
    pub fn enough(&self) -> Option<usize> {
        let bounded_by_time_only = self.filters.iter().all(|filter| {
            filter.field == LAST_MODIFIED && matches!(filter.operator, Operator::Gt | Operator::Lt)
        });
        (self.is_by_time() && bounded_by_time_only).then_some(self.limit.saturating_add(1))
    }

    /// How many objects a page holds at most, if it is of whole objects, the latest first, chosen by their time alone.
    pub fn plain_page_size(&self) -> Option<usize> {
        let enough = self.enough().filter(|_| self.fields.is_none());
        enough.map(|enough| enough - 1)
    }

    /// Whether the order is that of the index: the latest first.
    fn is_by_time(&self) -> bool {
        matches!(self.sort.as_slice(), [key] if key.field == LAST_MODIFIED && key.descending)
    }

    /// How many of the objects are asked for, tombstones not counted.
    pub fn count(&self, objects: &[Map<String, Value>]) -> usize {
        let live = objects
            .iter()
            .filter(|object| object.get("deleted") != Some(&Value::Bool(true)));
        live.filter(|object| self.matches(object)).count()
    }

    /// The page that is asked for, out of all the objects that may be in it; or out of the first ones, with `more`
    /// to come.
    pub fn apply(
        &self,
        mut objects: Vec<Map<String, Value>>,
        more: bool,
        request: &Request,
        settings: &ApiSettings,
    ) -> Page {
        objects.retain(|object| {
            self.matches(object)
                && self
                    .after
                    .as_ref()
                    .is_none_or(|after| self.order(after, object) == Ordering::Less)
        });
        objects.sort_by(|a, b| self.order(a, b));
        let mut length = 0;
        let fits = |object: &&Map<String, Value>| {
            length += json_length(&self.shown(object)) + ",".len();
            // The first one always does: nothing that is stored is longer than a page.
            length <= MAX_PAGE
        };
        let in_page = objects.iter().take(self.limit).take_while(fits).count();
        let more = more || objects.len() > in_page;
        objects.truncate(in_page);
        let next = objects
            .last()
            .filter(|_| more)
            .map(|last| self.next_page(last, request, settings));
        let shown = |object: Map<String, Value>| match &self.fields {
            Some(fields) => subset(&object, fields).into(),
            None => object.into(),
        };
        Page {
            objects: objects.into_iter().map(shown).collect(),
            next,
        }
    }

    /// The fields of an object that are asked for.
    fn shown<'o>(&self, object: &'o Map<String, Value>) -> Cow<'o, Map<String, Value>> {
        match &self.fields {
            Some(fields) => Cow::Owned(subset(object, fields)),
            None => Cow::Borrowed(object),
        }
    }

    /// Whether an object of which only some fields are known may be asked for.
    pub fn may_match(&self, part: &Map<String, Value>) -> bool {
        let mut known = self.filters.iter();
        known.all(|filter| !part.contains_key(&filter.field) || filter.matches(part))
    }

    fn matches(&self, object: &Map<String, Value>) -> bool {
        self.filters.iter().all(|filter| filter.matches(object))
    }

    fn order(&self, a: &Map<String, Value>, b: &Map<String, Value>) -> Ordering {
        let by_key = |key: &SortKey| {
            let order = compare(lookup(a, &key.field), lookup(b, &key.field));
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

    fn next_page(
        &self,
        last: &Map<String, Value>,
        request: &Request,
        settings: &ApiSettings,
    ) -> String {
        let keys = self
            .sort
            .iter()
            .filter_map(|key| Some((key.field.clone(), lookup(last, &key.field)?.clone())));
        let mut token = json!({"last_object": Map::from_iter(keys)});
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
        let words = || parts(text).map(native).collect::<Vec<_>>();
        let of_id = field == "id";
        let of_time = field == LAST_MODIFIED;
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
            Operator::Like if of_id => text.into(),
            Operator::Like => match native(text) {
                Value::String(text) => text.into(),
                _ => return Err(wrong()),
            },
            Operator::Has => native(text),
            _ if of_time => return Self::time(name, operator, text, now),
            _ if of_id => text.into(),
            _ => native(text),
        };
        Ok(Self {
            field: field.to_owned(),
            operator,
            value,
        })
    }

    /// A filter by `last_modified`: milliseconds, between double quotes or not.
    fn time(name: &str, operator: Operator, text: &str, now: Timestamp) -> Result<Self, ApiError> {
        let time = Timestamp::from_query(text);
        let value = time
            .filter(|time| time.0 <= now.0 + MAX_AHEAD)
            .map(|time| json!(time.0));
        let value = value.ok_or_else(|| invalid(name, &format!("Invalid value for {name}")))?;
        Ok(Self {
            field: LAST_MODIFIED.to_owned(),
            operator,
            value,
        })
    }

    fn matches(&self, object: &Map<String, Value>) -> bool {
        let found = lookup(object, &self.field);
        let order = || compare(found, Some(&self.value));
        let listed = || self.value.as_array().map_or(&[][..], Vec::as_slice);
        let is = |value: &Value| compare(found, Some(value)).is_eq();
        let has = |value: &Value| {
            let values = found
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            values.iter().any(|v| compare(Some(v), Some(value)).is_eq())
        };
        match self.operator {
            Operator::Eq => order().is_eq(),
            Operator::Not => order().is_ne(),
            Operator::Lt => order().is_lt(),
            Operator::Max => order().is_le(),
            Operator::Min => order().is_ge(),
            Operator::Gt => order().is_gt(),
            Operator::In => listed().iter().any(is),
            Operator::Exclude => !listed().iter().any(is),
            Operator::Like => match found {
                Some(Value::String(text)) => is_like(text, &self.value),
                Some(Value::Number(number)) => is_like(&number.to_string(), &self.value),
                _ => false,
            },
            Operator::Has => found.is_some() == is_truthy(&self.value),
            Operator::Contains => found.is_some_and(Value::is_array) && listed().iter().all(has),
            Operator::ContainsAny => listed().iter().any(has),
        }
    }
}

fn invalid(name: &str, description: &str) -> ApiError {
    ApiError::invalid("querystring", name, description)
}

/// A value of the query string: JSON where it is JSON, else the text itself.
fn native(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The fields that `_fields` names, if any.
pub(super) fn fields(list: &str) -> Option<Vec<String>> {
    let fields: Vec<_> = parts(list).map(str::to_owned).collect();
    Some(fields).filter(|fields| !fields.is_empty())
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
        keys.push(SortKey {
            field: field.to_owned(),
            descending,
        });
    }
    Ok(keys)
}

/// The fields that a token carries, `key` among them. Only a deletion's token goes on deleting (Kinto 26.5).
fn read_token(token: &str, key: &str, method: &Method) -> Result<Map<String, Value>, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let content: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let content =
        content.filter(|content| method != Method::DELETE || content.get(DELETES).is_some());
    let last = content.and_then(|mut content| content.get_mut("last_object").map(Value::take));
    let is_key = |value: &Value| match key {
        LAST_MODIFIED => value.is_u64(),
        _ => value.is_string(),
    };
    match last {
        Some(Value::Object(last)) if last.get(key).is_some_and(is_key) => Ok(last),
        _ => Err(ApiError::invalid_unnamed(
            "querystring",
            "_token has invalid content",
        )),
    }
}

/// The value at a path with dots; a key that has dots itself goes before a nested one.
fn lookup<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    let ends: Vec<usize> = path.match_indices('.').map(|(at, _)| at).collect();
    let end = ends
        .into_iter()
        .rev()
        .find(|end| object.contains_key(&path[..*end]))?;
    lookup(object.get(&path[..end])?.as_object()?, &path[end + 1..])
}

/// `object` with the named fields only, and those that are always shown; a name with dots picks from nested objects.
pub fn subset(object: &Map<String, Value>, fields: &[String]) -> Map<String, Value> {
    let always = ["id", LAST_MODIFIED].map(str::to_owned);
    pick(object, fields.iter().chain(&always))
}

fn pick<'a>(
    object: &Map<String, Value>,
    fields: impl Iterator<Item = &'a String>,
) -> Map<String, Value> {
    let mut picked = Map::new();
    for field in fields {
        let (root, rest) = field
            .split_once('.')
            .map_or((field.as_str(), None), |(root, rest)| (root, Some(rest)));
        match (object.get(root), rest) {
            (Some(Value::Object(nested)), Some(rest)) => {
                let nested = pick(nested, std::iter::once(&rest.to_owned()));
                match picked.get_mut(root) {
                    Some(Value::Object(already)) => add(already, nested),
                    _ => _ = picked.insert(root.to_owned(), nested.into()),
                }
            }
            (Some(value), _) => _ = picked.insert(root.to_owned(), value.clone()),
            (None, _) => {}
        }
    }
    picked
}

/// Adds fields, within objects too.
fn add(to: &mut Map<String, Value>, fields: Map<String, Value>) {
    for (field, value) in fields {
        match (to.get_mut(&field), value) {
            (Some(Value::Object(nested)), Value::Object(value)) => add(nested, value),
            (_, value) => _ = to.insert(field, value),
        }
    }
}

/// How many bytes an object has as JSON.
fn json_length(object: &Map<String, Value>) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, object).map_or(usize::MAX, |()| counter.0)
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

/// Whether `text` is like `pattern`, in which `*` stands for anything; without one it may be anywhere. Case is ignored.
fn is_like(text: &str, pattern: &Value) -> bool {
    let pattern = pattern.as_str().unwrap_or_default().to_lowercase();
    let text = text.to_lowercase();
    if pattern.contains('*') {
        matches_wildcards(&text, &pattern)
    } else {
        text.contains(&pattern)
    }
}

/// Whether `text` is `pattern`, in which `*` stands for anything.
pub fn matches_wildcards(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(mut left) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else {
            return false;
        };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
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
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a
                .as_f64()
                .partial_cmp(&b.as_f64())
                .unwrap_or(Ordering::Equal),
        },
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
        for value in ["abc", "-1", "1.5", "true", "", "99999999999999"] {
            assert!(wrong("last_modified", value), "{value}");
            assert!(wrong("min_last_modified", value), "{value}");
        }
        assert!(!wrong("last_modified", "\"12\""));
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

    #[test]
    fn fields_are_picked_from_nested_objects_too() {
        let of = object(
            json!({"id": "x", "last_modified": 1, "a": {"b": 1, "c": null, "d": 3}, "e": 4, "f": 5}),
        );
        let fields = ["a.b", "a.c", "e", "f.g", "nope"].map(str::to_owned);
        let expected =
            json!({"a": {"b": 1, "c": null}, "e": 4, "f": 5, "id": "x", "last_modified": 1});
        assert_eq!(Value::Object(subset(&of, &fields)), expected);
    }
}
