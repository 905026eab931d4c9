//! `POST /batch`: several requests in one, answered in order and committed in one unit of work.
//!
//! A refusal (4xx) of one request leaves the others standing; a server error undoes all of them (Kinto 26.5).

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::api::objects::body;
use crate::api::web::error::{ApiError, Location};
use crate::api::web::media_type;
use crate::api::web::request::PREFIX;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::settings::ApiSettings;

/// The methods that a request in a batch may have.
pub const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::DELETE,
    Method::TRACE,
    Method::POST,
    Method::PUT,
    Method::PATCH,
];

/// The requests in a batch, each completed from `defaults` and the batch's own headers.
///
/// # Errors
/// 400 when the body is malformed, has a batch in it, or more than `batch_max_requests`; 415 and 406 as anywhere.
pub fn requests(batch: &Request, settings: &ApiSettings) -> Result<Vec<Request>, ApiError> {
    media_type::check(batch)?;
    let mut fields = object("", Some(body::parse_json(&batch.body)?))?;
    let defaults = object("defaults", fields.shift_remove("defaults"))?;
    if !defaults.is_empty() {
        // They must be valid in a request, even where no request takes them.
        let mut alone = defaults.clone();
        alone.entry("path").or_insert("/".into());
        read_request(batch, "defaults", alone)?;
    }
    let requests = match fields.shift_remove("requests") {
        Some(Value::Array(requests)) => requests,
        Some(_) => return Err(invalid("requests", "Must be a list")),
        None => return Err(invalid("requests", "Required")),
    };
    if let Some(unknown) = fields.keys().next() {
        return Err(invalid("", &format!("Unknown key {unknown}")));
    }
    let max = settings.batch_max_requests;
    if requests.len() > max {
        let problem = format!("Number of requests is limited to {max}");
        return Err(invalid("requests", &problem));
    }
    let read = |(n, request)| {
        let name = format!("requests.{n}");
        let mut fields = object(&name, Some(request))?;
        add_missing(&mut fields, &defaults);
        read_request(batch, &name, fields)
    };
    requests.into_iter().enumerate().map(read).collect()
}

fn read_request(
    batch: &Request,
    name: &str,
    mut fields: Map<String, Value>,
) -> Result<Request, ApiError> {
    let within = |field: &str| format!("{name}.{field}");
    let path = match fields.shift_remove("path") {
        Some(Value::String(path)) if path.starts_with('/') => path,
        Some(_) => {
            return Err(invalid(
                &within("path"),
                "Must be a path that begins with /",
            ));
        }
        None => return Err(invalid(&within("path"), "Required")),
    };
    let method = match fields.shift_remove("method") {
        None => Some(Method::GET),
        Some(Value::String(method)) => METHODS.into_iter().find(|known| *known == *method),
        Some(_) => None,
    };
    let method = method.ok_or_else(|| {
        let known: Vec<_> = METHODS.iter().map(Method::as_str).collect();
        invalid(
            &within("method"),
            &format!("Must be one of {}", known.join(", ")),
        )
    })?;
    let mut headers = batch.headers.clone();
    headers.remove(CONTENT_LENGTH);
    for (header, value) in object(&within("headers"), fields.shift_remove("headers"))? {
        let Value::String(value) = value else {
            return Err(invalid(&within("headers"), "Must have strings as values"));
        };
        let header = HeaderName::try_from(header);
        let (Ok(header), Ok(value)) = (header, HeaderValue::try_from(value)) else {
            return Err(invalid(&within("headers"), "Must be valid HTTP headers"));
        };
        headers.insert(header, value);
    }
    let body = match fields.shift_remove("body") {
        None => vec![],
        // As Kinto: an empty object is no body; any other is JSON, whatever the headers say.
        Some(Value::Object(body)) if body.is_empty() => vec![],
        Some(Value::Object(body)) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Value::Object(body).to_string().into_bytes()
        }
        Some(_) => return Err(invalid(&within("body"), "Must be a JSON object")),
    };
    if let Some(unknown) = fields.keys().next() {
        return Err(invalid(name, &format!("Unknown key {unknown}")));
    }
    let (path, query_string) = path.split_once('?').unwrap_or((&path, ""));
    let path = percent_decode_str(path).decode_utf8_lossy().into_owned();
    let path = match path.strip_prefix(PREFIX) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => path,
        _ => format!("{PREFIX}{path}"),
    };
    if path.trim_end_matches('/') == format!("{PREFIX}/batch") {
        return Err(invalid("requests", "A batch cannot hold another one"));
    }
    Ok(Request {
        method,
        path,
        query_string: query_string.to_owned(),
        headers,
        body,
        domain_name: batch.domain_name.clone(),
    })
}

/// The response to a batch: those to its requests, each with the path that was asked for. Their bodies are JSON already
/// and are not parsed: that may take far more memory than the text.
pub fn response(answers: Vec<(Arc<Request>, Response)>) -> Response {
    let answers = answers.into_iter().map(|(request, response)| {
        let body = match request.method {
            Method::HEAD => Cow::Borrowed("\"\""),
            _ => response.body_json(),
        };
        let path = Value::from(&*request.path);
        let status = response.status().as_u16();
        let headers = Value::from(named_as_kinto(response.headers()));
        format!(r#"{{"path":{path},"status":{status},"headers":{headers},"body":{body}}}"#)
    });
    let answers = answers.collect::<Vec<_>>().join(",");
    Response::json_text(StatusCode::OK, format!(r#"{{"responses":[{answers}]}}"#))
}

/// The headers as an object. Keys in JSON are case-sensitive, so the names are written as in Kinto's responses.
fn named_as_kinto(headers: &HeaderMap) -> Map<String, Value> {
    let headers = headers.iter().map(|(name, value)| {
        let name = match name.as_str() {
            "etag" => "ETag".to_owned(),
            "www-authenticate" => "WWW-Authenticate".to_owned(),
            name => name
                .split('-')
                .map(capitalized)
                .collect::<Vec<_>>()
                .join("-"),
        };
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name, value.into())
    });
    headers.collect()
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Adds the fields that only `defaults` has, in nested objects too.
fn add_missing(fields: &mut Map<String, Value>, defaults: &Map<String, Value>) {
    for (field, default) in defaults {
        match (fields.get_mut(field), default) {
            (None, default) => _ = fields.insert(field.clone(), default.clone()),
            (Some(Value::Object(nested)), Value::Object(defaults)) => add_missing(nested, defaults),
            _ => {}
        }
    }
}

/// The value, which must be an object; a missing one is an empty object.
fn object(name: &str, value: Option<Value>) -> Result<Map<String, Value>, ApiError> {
    match value {
        None => Ok(Map::new()),
        Some(Value::Object(fields)) => Ok(fields),
        Some(_) => Err(invalid(name, "Must be a JSON object")),
    }
}

fn invalid(name: &str, problem: &str) -> ApiError {
    ApiError::invalid(Location::Body, name, problem)
}
