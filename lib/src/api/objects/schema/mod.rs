//! JSON schemas: those of records, groups and collections, which collections and buckets carry.

mod evaluation;
mod failure;
mod pattern;
mod references;

use std::sync::LazyLock;

use referencing::{Draft, meta};
use serde_json::{Map, Value, json};

use crate::api::objects::metadata::LAST_MODIFIED;
use crate::api::objects::schema::evaluation::{Rules, evaluate};
use crate::api::objects::schema::failure::Failure;
use crate::api::web::error::{ApiError, Location};
use crate::resource::Kind;
use crate::unit_of_work::{Allowance, LiveObject};

/// The field of a collection with the schema of its records; in a record, the version of the schema that it matched.
const SCHEMA: &str = "schema";

/// The most steps to check a schema: half of what a request has, so that as many are left for values.
const MAX_STEPS: usize = 1_000_000;

/// Draft 7 with the forms of the keywords that later drafts added, so that what is stored can be evaluated.
static LATER: LazyLock<Value> = LazyLock::new(|| {
    let mut metaschema = Value::clone(&meta::DRAFT7);
    let schema = json!({"$ref": "#"});
    let schemas = json!({"type": "object", "additionalProperties": {"$ref": "#"}});
    let names =
        json!({"type": "object", "additionalProperties": {"$ref": "#/definitions/stringArray"}});
    let count = json!({"$ref": "#/definitions/nonNegativeInteger"});
    for (keyword, form) in [
        ("$defs", &schemas),
        ("dependentSchemas", &schemas),
        ("dependentRequired", &names),
        ("prefixItems", &json!({"$ref": "#/definitions/schemaArray"})),
        ("unevaluatedItems", &schema),
        ("unevaluatedProperties", &schema),
        ("minContains", &count),
        ("maxContains", &count),
    ] {
        metaschema["properties"][keyword] = form.clone();
    }
    metaschema
});

/// The reason why a schema is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchema(String);

/// Checks that a field of a bucket or collection is a schema (Kinto 26.5: of draft 7, whatever draft it names, with the
/// patterns of Python).
///
/// A schema that passes can be evaluated; what it refers to need not exist until a value gets there.
///
/// # Errors
/// It is not a schema.
pub fn check(schema: &Value, allowance: &Allowance) -> Result<(), InvalidSchema> {
    let is_later = references::draft_of(schema).is_none_or(|draft| draft > Draft::Draft7);
    let metaschema = if is_later { &*LATER } else { &*meta::DRAFT7 };
    let rules = Rules {
        checks_patterns: true,
        ..Rules::default()
    };
    let steps = |left: usize| left.min(MAX_STEPS);
    let checked = allowance.evaluate(|left| evaluate(metaschema, schema, rules, steps(left)));
    checked.map_err(|failure| match failure {
        Failure::Mismatch { field, problem } => InvalidSchema(format!("{field}: {problem}")),
        Failure::Unusable(problem) => InvalidSchema(problem),
    })
}

/// Checks a record against its collection's schema, then any object against its bucket's. A record that matches its
/// collection's schema is marked with the version of that schema.
///
/// # Errors
/// 400 that names the field.
pub fn validate(
    kind: Kind,
    mut data: Map<String, Value>,
    bucket: Option<LiveObject<'_>>,
    collection: Option<LiveObject<'_>>,
    allowance: &Allowance,
) -> Result<Map<String, Value>, ApiError> {
    let schema_of = |live: Option<LiveObject<'_>>, field: &str| {
        let (version, data) = live.map(|live| (live.last_modified, live.data))?;
        let schema = data.get(field).filter(|schema| schema.is_object())?;
        Some((version, schema.clone()))
    };
    if kind == Kind::Record
        && let Some((version, schema)) = schema_of(collection, SCHEMA)
    {
        match_schema(kind, &schema, &data, allowance)?;
        data.insert(SCHEMA.to_owned(), version.0.into());
    }
    if kind != Kind::Bucket
        && let Some((_, schema)) = schema_of(bucket, &format!("{}:schema", kind.name()))
    {
        match_schema(kind, &schema, &data, allowance)?;
    }
    Ok(data)
}

fn match_schema(
    kind: Kind,
    schema: &Value,
    data: &Map<String, Value>,
    allowance: &Allowance,
) -> Result<(), ApiError> {
    // Fields that the server sets are not the client's to match; the id counts if the schema names it.
    let properties = schema.get("properties").and_then(Value::as_object);
    let speaks_of_id = properties.is_some_and(|properties| properties.contains_key("id"));
    let mut ignored = vec![LAST_MODIFIED];
    if kind == Kind::Record {
        ignored.push(SCHEMA);
    }
    if !speaks_of_id {
        ignored.push("id");
    }
    let fields = data
        .iter()
        .filter(|(field, _)| !ignored.contains(&field.as_str()));
    let data = Value::Object(
        fields
            .map(|(field, v)| (field.clone(), v.clone()))
            .collect(),
    );
    let rules = Rules {
        not_required: &ignored,
        ..Rules::default()
    };
    let matched = allowance.evaluate(|steps| evaluate(schema, &data, rules, steps));
    matched.map_err(|failure| match failure {
        Failure::Mismatch { field, problem } => ApiError::invalid(Location::Body, field, problem),
        Failure::Unusable(problem) => ApiError::invalid(Location::Body, SCHEMA, problem),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(schema: &Value) -> Result<(), InvalidSchema> {
        check(schema, &Allowance::default())
    }

    fn problem(schema: Value, data: Value) -> Option<String> {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        match match_schema(Kind::Record, &schema, &object(data), &Allowance::default()) {
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
    fn a_reference_is_followed_when_a_value_gets_there() {
        let local = json!({"definitions": {"n": {"type": "number"}}, "properties": {"a": {"$ref": "#/definitions/n"}}});
        assert_eq!(problem(local, json!({"a": "x"})).as_deref(), Some("a"));
        for url in [
            "http://127.0.0.1:1/schema",
            "file:///etc/passwd",
            "#/definitions/none",
            "#none",
            "other.json",
            "http://[",
            "#/%ff",
        ] {
            let foreign = json!({"properties": {"a": {"$ref": url}, "b": {}}});
            assert_eq!(checked(&foreign), Ok(()), "{url}");
            assert_eq!(problem(foreign.clone(), json!({"b": 1})), None, "{url}");
            let touched = problem(foreign, json!({"a": 1}));
            assert_eq!(touched.as_deref(), Some("schema"), "{url}");
        }
    }

    /// Checks that each schema accepts the first value and refuses the second.
    fn assert_matches(cases: &[(Value, Value, Value)]) {
        for (schema, taken, refused) in cases {
            assert_eq!(checked(schema), Ok(()), "{schema}");
            assert_eq!(
                problem(schema.clone(), taken.clone()),
                None,
                "{schema} {taken}"
            );
            let refusal = problem(schema.clone(), refused.clone());
            assert!(
                refusal.is_some_and(|field| field != "schema"),
                "{schema} {refused}"
            );
        }
    }

    #[test]
    fn references_lead_to_names_pointers_and_metaschemas() {
        let a = |reference: &str| json!({"a": {"$ref": reference}});
        let (one, text) = (json!({"a": 1}), json!({"a": "x"}));
        let number = json!({"type": "number"});
        let metaschemas = [
            "http://json-schema.org/draft-04/schema#",
            "http://json-schema.org/draft-06/schema",
            "http://json-schema.org/draft-07/schema#",
            "https://json-schema.org/draft/2019-09/schema",
            "https://json-schema.org/draft/2020-12/schema",
        ];
        for uri in metaschemas {
            let (taken, refused) = (
                json!({"a": {"type": "string", "properties": {"b": {}}}}),
                json!({"a": {"properties": {"b": {"type": "z"}}}}),
            );
            assert_matches(&[(json!({"properties": a(uri)}), taken, refused)]);
        }
        assert_matches(&[
            (
                json!({"properties": a("#/definitions/c%20d"), "definitions": {"c d": number}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"properties": a("#/definitions/é"), "definitions": {"é": number}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"properties": a("#/definitions/a~1b~0c"), "definitions": {"a/b~c": number}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"properties": a("#/x/0"), "x": [number]}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"properties": a("#/x/y"), "x": {"y": number}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"properties": a("#n"), "$defs": {"n": {"$anchor": "n", "type": "number"}}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"properties": a("n"), "$defs": {"n": {"$id": "n", "type": "number"}}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"$id": "http://x.y/z/root", "properties": a("n#/x"), "$defs": {"n": {"$id": "n", "x": number}}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"$id": "no URI é", "properties": a("#/definitions/n"), "definitions": {"n": number}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"$schema": "http://json-schema.org/draft-07/schema#", "properties": a("#n"), "definitions": {"n": {"$id": "#n", "type": "number"}}}),
                one.clone(),
                text.clone(),
            ),
            (
                json!({"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x.y/", "properties": a("n"), "definitions": {"n": {"id": "n", "type": "number"}}}),
                one.clone(),
                text.clone(),
            ),
            // A tree.
            (
                json!({"properties": {"a": {"$ref": "#"}, "n": number}}),
                json!({"a": {"a": {"n": 1}}}),
                json!({"a": {"a": {"n": "x"}}}),
            ),
        ]);
    }

    #[test]
    fn a_schema_is_of_the_draft_that_it_names() {
        let of = |draft: &str, rest: Value| {
            let mut schema = json!({"$schema": draft});
            schema
                .as_object_mut()
                .unwrap()
                .extend(rest.as_object().unwrap().clone());
            schema
        };
        let (draft4, draft7) = (
            "http://json-schema.org/draft-04/schema#",
            "http://json-schema.org/draft-07/schema",
        );
        assert_matches(&[
            (
                of(
                    draft4,
                    json!({"required": ["id", "schema"], "properties": {"a": {"type": "integer"}}}),
                ),
                json!({"a": 1}),
                json!({"a": 1.0}),
            ),
            (
                of(draft7, json!({"dependencies": {"a": ["b"]}})),
                json!({"b": 1}),
                json!({"a": 1}),
            ),
            (
                of(
                    draft7,
                    json!({"properties": {"a": {"$ref": "#/definitions/n", "minimum": 5}, "b": {"type": "string"}}, "definitions": {"n": {}}}),
                ),
                json!({"a": 1}),
                json!({"b": 1}),
            ),
            (
                of(
                    "https://example.com/mine",
                    json!({"dependentRequired": {"a": ["b"]}}),
                ),
                json!({"b": 1}),
                json!({"a": 1}),
            ),
            (
                json!({"properties": {"a": {"type": "integer"}}}),
                json!({"a": 1.0}),
                json!({"a": 1.5}),
            ),
            (
                json!({"properties": {"a": {"$ref": "#/$defs/n", "minimum": 5}}, "$defs": {"n": {"type": "integer"}}}),
                json!({"a": 5}),
                json!({"a": 1}),
            ),
            (
                json!({"properties": {"a": {"items": [{"type": "integer"}, {"type": "string"}], "additionalItems": false}}}),
                json!({"a": [1, "x"]}),
                json!({"a": ["x"]}),
            ),
            (
                json!({"properties": {"a": {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}}}),
                json!({"a": [1, "x"]}),
                json!({"a": [1, 2]}),
            ),
        ]);
        let ignored = of(
            draft4,
            json!({"properties": {"a": {"const": 1, "contains": false, "if": false}}}),
        );
        assert_eq!(problem(ignored, json!({"a": [2]})), None);
        assert_eq!(
            problem(json!({"dependencies": {"a": ["b"]}}), json!({"a": 1})),
            None
        );
    }

    #[test]
    fn keywords_mean_what_they_mean_in_python() {
        let a = |schema: Value| json!({"properties": {"a": schema}});
        let of = |value: Value| json!({"a": value});
        let cases = [
            (
                json!({"enum": [1, "x", {"b": [2.0]}]}),
                json!({"b": [2]}),
                json!(true),
            ),
            (json!({"const": 1}), json!(1.0), json!(true)),
            (
                json!({"minimum": 1, "maximum": 2.5}),
                json!(2.5),
                json!(2.6),
            ),
            (json!({"exclusiveMinimum": 1}), json!(1.1), json!(1)),
            (json!({"multipleOf": 0.5}), json!(1.5), json!(1.4)),
            (json!({"multipleOf": 2}), json!(4.0), json!(3)),
            (json!({"multipleOf": 0.5}), json!(1e308), json!(0.15)),
            (
                json!({"minLength": 2, "maxLength": 3}),
                json!("éé"),
                json!("ééééé"),
            ),
            (json!({"minItems": 1.0}), json!([1]), json!([])),
            (
                json!({"uniqueItems": true}),
                json!([1, true, "1", [1]]),
                json!([{"b": 1, "c": 2}, {"c": 2.0, "b": 1.0}]),
            ),
            (
                json!({"contains": {"type": "number"}, "maxContains": 1}),
                json!(["x", 1]),
                json!([1, 2]),
            ),
            (
                json!({"contains": {"type": "number"}, "minContains": 0, "maxItems": 1}),
                json!([]),
                json!([1, 2]),
            ),
            (json!({"not": {"type": "string"}}), json!(1), json!("x")),
            (
                json!({"oneOf": [{"type": "number"}, {"minimum": 5}]}),
                json!(1),
                json!(6),
            ),
            (
                json!({"anyOf": [{"type": "number"}, {"type": "null"}]}),
                json!(null),
                json!("x"),
            ),
            (
                json!({"if": {"type": "number"}, "then": {"minimum": 5}, "else": {"type": "string"}}),
                json!("x"),
                json!(1),
            ),
            (
                json!({"propertyNames": {"maxLength": 2}}),
                json!({"ab": 1}),
                json!({"abc": 1}),
            ),
            (
                json!({"patternProperties": {"^é": {"type": "number"}}, "additionalProperties": false}),
                json!({"éa": 1}),
                json!({"a": 1}),
            ),
            (
                json!({"dependentSchemas": {"b": {"required": ["c"]}}}),
                json!({"c": 1}),
                json!({"b": 1}),
            ),
            (
                json!({"allOf": [{"properties": {"b": {}}}], "unevaluatedProperties": false}),
                json!({"b": 1}),
                json!({"c": 1}),
            ),
            (
                json!({"prefixItems": [{}], "unevaluatedItems": {"type": "string"}}),
                json!([1, "x"]),
                json!([1, 2]),
            ),
            (
                json!({"type": ["string", "null"]}),
                json!(null),
                json!(false),
            ),
            (json!(true), json!(1), json!(1)),
        ];
        for (schema, taken, refused) in cases {
            if schema == Value::Bool(true) {
                assert_eq!(problem(a(schema), of(taken)), None);
            } else {
                assert_matches(&[(a(schema), of(taken), of(refused))]);
            }
        }
        for annotation in [
            json!({"contentEncoding": "base64"}),
            json!({"contentMediaType": "application/json"}),
            json!({"format": "date-time"}),
            json!({"format": "made-up"}),
            json!({"default": 3, "examples": [], "$comment": "x", "title": "y"}),
        ] {
            assert_eq!(checked(&a(annotation.clone())), Ok(()));
            assert_eq!(problem(a(annotation), of(json!("{"))), None);
        }
    }

    #[test]
    fn what_has_no_end_is_refused_not_a_crash() {
        let endless = json!({"$ref": "#"});
        assert_eq!(checked(&endless), Ok(()));
        assert_eq!(problem(endless, json!({})).as_deref(), Some("schema"));
        let unevaluated = json!({"allOf": [{"$ref": "#"}], "unevaluatedProperties": false});
        assert_eq!(
            problem(unevaluated, json!({"a": 1})).as_deref(),
            Some("schema")
        );
        // Each level refers to the next twice.
        let mut levels = json!({});
        for n in 0..40 {
            let next = json!({"$ref": format!("#/definitions/{}", n + 1)});
            levels[n.to_string()] = json!({"allOf": [next, next]});
        }
        levels["40"] = json!({});
        let schema = json!({"definitions": levels, "$ref": "#/definitions/0"});
        assert_eq!(problem(schema, json!({})).as_deref(), Some("schema"));
        let deep = (0..40).fold(json!({}), |inner, _| json!({"items": inner}));
        let value = (0..41).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(checked(&deep), Ok(()));
        assert_eq!(
            problem(json!({"properties": {"a": deep}}), json!({"a": value})),
            None
        );
        let deeper = (0..99).fold(json!({}), |inner, _| json!({"items": [{"not": inner}]}));
        assert!(checked(&deeper).is_err());
    }

    #[test]
    fn a_pattern_cannot_take_for_ever() {
        let schema = json!({"properties": {"a": {"pattern": r"^(?=a)((a+)\2?)+$"}}});
        let refused = problem(schema, json!({"a": format!("{}!", "a".repeat(64))}));
        assert_eq!(refused.as_deref(), Some("schema"));
    }

    #[test]
    fn what_is_no_schema_is_told() {
        assert!(checked(&json!({"type": "object", "title": "x"})).is_ok());
        assert!(checked(&json!({"type": "nonsense"})).is_err());
        assert!(checked(&json!({"properties": []})).is_err());
        assert!(checked(&json!({"properties": {"a": {"pattern": "("}}})).is_err());
        assert!(checked(&json!({"patternProperties": {"[": {}}})).is_err());
        assert!(checked(&json!({"$defs": {"a": {"pattern": "("}}})).is_err());
        assert!(checked(&json!({"prefixItems": [{"type": "nonsense"}]})).is_err());
    }
}
