//! `GET /v1/__api__`: a description of the running server's endpoints, for machines.
//!
//! The document has the format that Kinto 26.5 writes, Swagger 2.0 (called `OpenAPI` 2.0 since), with its
//! `operationId`s, `host` and `basePath`: clients that build their calls from it keep working. It is made from the
//! table of endpoints, so a method that a setting turns off is not in it. `HEAD` and `OPTIONS` are left out, as in
//! Kinto. Requests that match it are accepted: `tests/it/clients.rs` sends such requests, and others.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::auth::passwords;
use crate::api::dispatch::batch::METHODS as BATCH_METHODS;
use crate::api::dispatch::context::Context;
use crate::api::dispatch::endpoint::{About, Endpoint, ServedEndpoint};
use crate::api::plugins::openid::provider::Provider;
use crate::api::service::hello::HTTP_API_VERSION;
use crate::api::service::operation::{add, id_form, latest, title};
use crate::api::web::error::ApiError;
use crate::api::web::request::PREFIX;
use crate::api::web::response::Response;
use crate::resource::Kind;
use crate::settings::{ACCOUNT_POLICY, ApiSettings, Policy};
use crate::store::membership::MAX_PRINCIPAL_LENGTH;
use crate::timestamp::Timestamp;

/// The pattern of a member: no other group, and not everyone.
const MEMBER: &str = r"^(?!/buckets/)(?!system\.Everyone$)[\s\S]+$";
/// The most bytes of a character: bounds are in bytes here, in characters in the document.
const MAX_LETTER: usize = 4;

/// Answers `GET /v1/__api__`.
///
/// # Errors
/// None.
pub async fn handle(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let (api, settings) = (cx.api, cx.settings());
    let origin = cx.request.origin(settings);
    let securities = securities(&origin, settings, &api.providers).await;
    let now = Timestamp::now();
    let document = document(&origin, settings, &securities, &api.endpoints, now);
    Ok(Response::json(StatusCode::OK, &document))
}

/// The ways to authenticate, by the names of the policies. Where a provider does not answer, the document names this
/// server's login instead of the provider's (Kinto 26.5 does not start without it).
async fn securities(
    origin: &str,
    settings: &ApiSettings,
    providers: &[Provider],
) -> Map<String, Value> {
    let mut securities = Map::new();
    for policy in &settings.policies {
        match policy {
            Policy::Basic { name } => {
                securities.insert(name.clone(), json!({"type": "basic"}));
            }
            Policy::Account => {
                securities.insert(ACCOUNT_POLICY.to_owned(), json!({"type": "basic"}));
            }
            Policy::OpenId(provider) => {
                let name = &provider.name;
                let mut known = providers.iter();
                let known = known.find(|known| known.settings().name == *name);
                let endpoints = match known {
                    Some(known) => known.endpoints().await.ok(),
                    None => None,
                };
                let url = match endpoints {
                    Some(endpoints) => endpoints.authorization_endpoint.clone(),
                    None => format!("{origin}{PREFIX}/openid/{name}/login"),
                };
                let scopes = provider.allowed_scopes.iter();
                let scopes: Map<_, _> = scopes.map(|scope| (scope.clone(), "".into())).collect();
                let definition = json!({
                    "type": "oauth2", "flow": "implicit", "authorizationUrl": url, "scopes": scopes,
                });
                securities.insert(name.clone(), definition);
            }
        }
    }
    securities
}

/// The document of a server at `origin`, `scheme://host`.
fn document(
    origin: &str,
    settings: &ApiSettings,
    securities: &Map<String, Value>,
    endpoints: &[ServedEndpoint],
    now: Timestamp,
) -> Value {
    let (scheme, host) = origin.split_once("://").unwrap_or(("https", origin));
    let mut paths = Map::new();
    let mut tags: Vec<String> = vec![];
    for ServedEndpoint {
        endpoint, methods, ..
    } in endpoints
    {
        let mut operations = Map::new();
        for method in methods {
            if method == Method::HEAD || method == Method::OPTIONS {
                continue;
            }
            let operation = (endpoint.operation)(method, now);
            if !tags.contains(&operation.tag) {
                tags.push(operation.tag.clone());
            }
            let operation = operation.into_json(securities);
            operations.insert(method.as_str().to_ascii_lowercase(), operation);
        }
        if operations.is_empty() {
            continue;
        }
        let ids = ids_in(endpoint);
        if !ids.is_empty() {
            operations.insert("parameters".to_owned(), ids.into());
        }
        paths.insert(endpoint.path.to_owned(), operations.into());
    }
    let tags: Vec<_> = tags.into_iter().map(|tag| json!({"name": tag})).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": settings.web.project_name, "version": HTTP_API_VERSION},
        "host": host,
        "basePath": "/v1",
        "schemes": [scheme],
        "securityDefinitions": securities,
        "tags": tags,
        "paths": paths,
        "definitions": definitions(settings, now),
    })
}

/// The parameters between braces in a path.
fn ids_in(endpoint: &Endpoint) -> Vec<Value> {
    let is_account = endpoint.about == About::Object(Kind::Account);
    let names = endpoint
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| {
            let mut id = json!({"name": name, "in": "path", "required": true, "type": "string"});
            if endpoint.about != About::Named {
                add(&mut id, id_form(is_account));
            }
            id
        })
        .collect()
}

fn definitions(settings: &ApiSettings, now: Timestamp) -> Value {
    let text = json!({"type": "string"});
    let integer = json!({"type": "integer"});
    let list_of = |items: &Value| {
        json!({
            "type": "object",
            "properties": {"data": {"type": "array", "items": items}},
        })
    };
    let mut definitions = Map::new();
    for kind in Kind::ALL {
        let name = title(kind.name());
        let shown = data_of(kind, None);
        let data = data_of(kind, Some(now));
        let permissions = |nullable: bool| {
            let mut principals = json!({
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": MAX_PRINCIPAL_LENGTH / MAX_LETTER},
            });
            if nullable {
                principals["x-nullable"] = true.into();
            }
            let named = kind.permissions().iter();
            let named: Map<_, _> = named
                .map(|name| ((*name).to_owned(), principals.clone()))
                .collect();
            json!({"type": "object", "properties": named, "additionalProperties": false})
        };
        let object = |data: &Value, nullable: bool| {
            json!({
                "type": "object",
                "properties": {"data": data, "permissions": permissions(nullable)},
                "additionalProperties": false,
            })
        };
        definitions.insert(title(kind.plural()), list_of(&shown));
        definitions.insert(name.clone(), object(&shown, false));
        let mut new = object(&data, false);
        // The id is in the path, and may be left out here.
        let mut without_id = data.clone();
        if let Some(properties) = without_id["properties"].as_object_mut() {
            properties.shift_remove("id");
        }
        let mut sent = object(&without_id, false);
        let mut patch = object(&without_id, true);
        patch["minProperties"] = 1.into();
        if kind == Kind::Account {
            new["required"] = json!(["data"]);
            new["properties"]["data"]["required"] = json!(["id", "password"]);
            sent["required"] = json!(["data"]);
            sent["properties"]["data"]["required"] = json!(["password"]);
        }
        definitions.insert(format!("New{name}"), new);
        definitions.insert(format!("{name}Body"), sent);
        definitions.insert(format!("{name}Patch"), patch);
    }
    let change = json!({
        "type": "object",
        "properties": {
            "id": text, "last_modified": integer, "bucket": text, "collection": text, "host": text,
        },
    });
    definitions.insert("Changes".to_owned(), list_of(&change));
    let changeset = json!({
        "type": "object",
        "properties": {
            "metadata": {"type": "object"},
            "timestamp": integer,
            "changes": {"type": "array", "items": {"type": "object"}},
        },
    });
    definitions.insert("Changeset".to_owned(), changeset);
    let permission = json!({
        "type": "object",
        "properties": {
            "id": text, "last_modified": integer, "uri": text, "resource_name": text, "bucket_id": text,
            "collection_id": text, "group_id": text, "record_id": text,
            "permissions": {"type": "array", "items": text},
        },
    });
    definitions.insert("Permissions".to_owned(), list_of(&permission));
    let headers = json!({"type": "object", "additionalProperties": text});
    let method = json!({"type": "string", "enum": BATCH_METHODS.map(|method| method.to_string())});
    let defaults = json!({
        "type": "object",
        "properties": {
            "method": method,
            "path": {"type": "string", "pattern": "^/"},
            "headers": headers,
            "body": {"type": "object"},
        },
        "additionalProperties": false,
    });
    let mut request = defaults.clone();
    // Each request needs a path, unless the defaults have it.
    request["required"] = json!(["path"]);
    let requests =
        json!({"type": "array", "maxItems": settings.batch_max_requests, "items": request});
    let batch = json!({
        "type": "object",
        "required": ["requests"],
        "properties": {"defaults": defaults, "requests": requests},
        "additionalProperties": false,
    });
    definitions.insert("Batch".to_owned(), batch);
    let response = json!({
        "type": "object",
        "required": ["status", "path"],
        "properties": {"status": integer, "path": text, "headers": headers, "body": {}},
    });
    let responses = json!({
        "type": "object",
        "properties": {"responses": {"type": "array", "items": response}},
    });
    definitions.insert("Responses".to_owned(), responses);
    let error = json!({
        "type": "object",
        "required": ["code", "errno", "error"],
        "properties": {
            "code": integer, "errno": integer, "error": text, "message": text, "info": text,
            "details": {},
        },
    });
    definitions.insert("Error".to_owned(), error);
    definitions.into()
}

/// The data of an object of this kind: those that may be sent at the time `now`, or those that are shown without one.
fn data_of(kind: Kind, now: Option<Timestamp>) -> Value {
    let schema = json!({"type": "object"});
    let mut id = json!({"type": "string"});
    add(&mut id, id_form(kind == Kind::Account));
    let mut last_modified = json!({"type": "integer", "format": "int64", "minimum": 0});
    if let Some(now) = now {
        last_modified["maximum"] = latest(now).into();
    }
    let mut properties = json!({"id": id, "last_modified": last_modified});
    match kind {
        Kind::Bucket => {
            for field in ["collection:schema", "group:schema", "record:schema"] {
                properties[field] = schema.clone();
            }
        }
        Kind::Collection => {
            properties["schema"] = schema;
            properties["cache_expires"] = json!({"type": "integer", "format": "int64"});
        }
        Kind::Group => {
            let member = json!({
                "type": "string", "pattern": MEMBER, "maxLength": MAX_PRINCIPAL_LENGTH / MAX_LETTER,
            });
            properties["members"] = json!({"type": "array", "items": member});
        }
        Kind::Account => {
            properties["password"] = json!({
                "type": "string", "minLength": 1, "maxLength": passwords::MAX_LENGTH / MAX_LETTER,
            });
        }
        Kind::Record => {}
    }
    json!({"type": "object", "properties": properties})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::endpoints;

    fn documented() -> Value {
        let vars = [("KINTO_USERID_HMAC_SECRET", "s")].into_iter().collect();
        let settings = ApiSettings::from_vars(&vars).unwrap();
        let securities = json!({"basicauth": {"type": "basic"}});
        let securities = securities.as_object().unwrap();
        document(
            "https://kinto.example",
            &settings,
            securities,
            &endpoints::served(&settings),
            Timestamp::now(),
        )
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = documented();
        let operations = document["paths"].as_object().unwrap().values();
        let ids: Vec<_> = operations
            .flat_map(|path| path.as_object().unwrap().values())
            .filter_map(|operation| operation.get("operationId"))
            .collect();
        let distinct: BTreeSet<_> = ids.iter().map(|id| id.to_string()).collect();
        assert_eq!(ids.len(), distinct.len());
        assert!(distinct.contains("\"update_record\""));
    }

    #[test]
    fn every_definition_that_is_named_is_there() {
        let document = documented();
        let text = document.to_string();
        for reference in text.split("#/definitions/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["definitions"][name].is_object(), "{name}");
        }
    }
}
