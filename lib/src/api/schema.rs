//! JSON schemas: those of records, groups and collections that collections and buckets carry.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::listing::LAST_MODIFIED;
use crate::resource::Kind;
use crate::timestamp::Timestamp;
use crate::unit_of_work::Live;

/// The field of a collection that its records must match, and that of a record with the version it matched.
const SCHEMA: &str = "schema";
/// Compiled schemas that a process keeps.
const MAX_KEPT: usize = 200;
/// Steps that one match of a `pattern` may take: users write patterns, and some would take for ever.
const MAX_PATTERN_STEPS: usize = 100_000;

/// Checks that a field of a bucket or collection is a schema (Kinto 26.5: draft 7).
///
/// # Errors
/// What is wrong with it.
pub fn check(schema: &Value) -> Result<(), String> {
    jsonschema::draft7::meta::validate(schema).map_err(|error| error.to_string())
}

/// Checks a record against its collection's schema, then whatever it is against its bucket's. A record that matched its
/// collection's is marked with the version of that schema.
///
/// # Errors
/// 400 that names the field.
pub fn validate(
    kind: Kind,
    mut data: Map<String, Value>,
    bucket: Option<Live<'_>>,
    collection: Option<Live<'_>>,
) -> Result<Map<String, Value>, ApiError> {
    let schema_of = |live: Option<Live<'_>>, field: &str| {
        let (time, data) = live.map(|live| (live.last_modified, live.data))?;
        Some((time, data.get(field)?.as_object()?.clone()))
    };
    let of_collection: Option<(Timestamp, Map<String, Value>)> = match kind {
        Kind::Record => schema_of(collection, SCHEMA),
        _ => None,
    };
    if let Some((version, schema)) = of_collection {
        match_schema(kind, schema, &data)?;
        data.insert(SCHEMA.to_owned(), version.0.into());
    }
    if kind != Kind::Bucket
        && let Some((_, schema)) = schema_of(bucket, &format!("{}:schema", kind.name()))
    {
        match_schema(kind, schema, &data)?;
    }
    Ok(data)
}

fn match_schema(
    kind: Kind,
    mut schema: Map<String, Value>,
    data: &Map<String, Value>,
) -> Result<(), ApiError> {
    // What the server sets is not the client's to match; the id counts where the schema speaks of it.
    let properties = schema.get("properties").and_then(Value::as_object);
    let of_id = properties.is_some_and(|properties| properties.contains_key("id"));
    let ignored = |field: &str| match field {
        LAST_MODIFIED => true,
        SCHEMA => kind == Kind::Record,
        "id" => !of_id,
        _ => false,
    };
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|field| !field.as_str().is_some_and(ignored));
    }
    let data = data.iter().filter(|(field, _)| !ignored(field));
    let data = Value::Object(data.map(|(field, v)| (field.clone(), v.clone())).collect());
    let validator = compiled(&Value::Object(schema))
        .map_err(|problem| ApiError::invalid("body", SCHEMA, problem))?;
    validator.validate(&data).map_err(|error| {
        let problem = error.to_string();
        ApiError::invalid("body", field_of(&error), problem)
    })
}

/// The field that an error is about: the last part of its path; at the top, what is missing or the rule itself.
fn field_of(error: &ValidationError<'_>) -> String {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let at = last(error.instance_path().as_str());
    match error.kind() {
        _ if !at.is_empty() => at,
        ValidationErrorKind::Required {
            property: Value::String(field),
        } => field.clone(),
        _ => last(error.schema_path().as_str()),
    }
}

/// The schema made ready, kept for the next time: a batch has many records of one collection.
fn compiled(schema: &Value) -> Result<Arc<Validator>, String> {
    static KEPT: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let text = schema.to_string();
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(validator) = kept().get(&text) {
        return Ok(validator.clone());
    }
    let patterns = PatternOptions::fancy_regex().backtrack_limit(MAX_PATTERN_STEPS);
    let validator = jsonschema::options()
        .offline()
        .should_validate_formats(false)
        .with_pattern_options(patterns)
        .build(schema)
        .map_err(|error| error.to_string())?;
    let validator = Arc::new(validator);
    let mut kept = kept();
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(text, validator.clone());
    Ok(validator)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(schema: Value, data: Value) -> Option<String> {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        match match_schema(Kind::Record, object(schema), &object(data)) {
            Ok(()) => None,
            Err(ApiError::Invalid(details)) => details[0].name.clone(),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_match_is_named() {
        let schema = json!({
            "type": "object",
            "properties": {"title": {"type": "string"}, "tags": {"items": {"type": "string"}}},
            "required": ["title"],
            "additionalProperties": false,
        });
        assert_eq!(problem(schema.clone(), json!({"title": "x"})), None);
        assert_eq!(
            problem(schema.clone(), json!({"title": 3})).as_deref(),
            Some("title")
        );
        assert_eq!(problem(schema.clone(), json!({})).as_deref(), Some("title"));
        let deep = problem(schema.clone(), json!({"title": "x", "tags": [3]}));
        assert_eq!(deep.as_deref(), Some("0"));
        let more = problem(schema, json!({"title": "x", "more": 1}));
        assert_eq!(more.as_deref(), Some("additionalProperties"));
    }

    #[test]
    fn what_the_server_sets_is_not_matched() {
        let schema =
            json!({"required": ["id", "schema", "last_modified"], "additionalProperties": false});
        let data = json!({"id": "a", "schema": 1, "last_modified": 2});
        assert_eq!(problem(schema, data), None);
        let of_id = json!({"properties": {"id": {"pattern": "^x"}}});
        assert_eq!(problem(of_id, json!({"id": "a"})).as_deref(), Some("id"));
    }

    #[test]
    fn references_are_followed_within_the_schema_only() {
        let local = json!({"definitions": {"n": {"type": "number"}}, "properties": {"a": {"$ref": "#/definitions/n"}}});
        assert_eq!(problem(local, json!({"a": "x"})).as_deref(), Some("a"));
        for url in [
            "http://127.0.0.1:1/schema",
            "file:///etc/passwd",
            "#/definitions/none",
        ] {
            let foreign = json!({"properties": {"a": {"$ref": url}}});
            assert_eq!(
                problem(foreign, json!({"a": 1})).as_deref(),
                Some("schema"),
                "{url}"
            );
        }
    }

    #[test]
    fn a_pattern_cannot_take_for_ever() {
        let schema = json!({"properties": {"a": {"pattern": "^(?=x)?(a+)+$"}}});
        assert!(problem(schema, json!({"a": format!("{}!", "a".repeat(64))})).is_some());
    }

    #[test]
    fn what_is_no_schema_is_told() {
        assert!(check(&json!({"type": "object", "title": "x"})).is_ok());
        assert!(check(&json!({"type": "nonsense"})).is_err());
        assert!(check(&json!({"properties": []})).is_err());
    }
}
