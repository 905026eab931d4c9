//! `GET /v1/__api__`: the endpoints of the running server, for machines.
//!
//! The document is of the version that Kinto 26.5 writes, Swagger 2.0 (called `OpenAPI` 2.0 since), with its
//! `operationId`s, `host` and `basePath`: clients that build their calls from it go on working. It is made of what
//! the router serves, so a method that a setting turns off is not in it. `HEAD` and `OPTIONS` are left out, as in
//! Kinto.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::batch::METHODS as BATCH_METHODS;
use super::request::Request;
use super::response::Response;
use super::router::Route;
use super::server::HTTP_API_VERSION;
use crate::resource::Kind;
use crate::settings::ApiSettings;

const ETAG: &str = r#"^"[0-9]+"$"#;
const PRECONDITION: &str = r#"^("[0-9]+"|\*)$"#;

/// The response to `GET /v1/__api__`.
pub fn response(request: &Request, settings: &ApiSettings) -> Response {
    Response::json(
        StatusCode::OK,
        &document(&request.origin(settings), settings),
    )
}

/// The document of a server at `origin`, `scheme://host`.
fn document(origin: &str, settings: &ApiSettings) -> Value {
    let (scheme, host) = origin.split_once("://").unwrap_or(("https", origin));
    let mut paths = Map::new();
    let mut tags: Vec<String> = vec![];
    let served = Route::all().into_iter();
    for (path, route) in served.filter(|(_, route)| route.is_served(settings)) {
        let mut operations = Map::new();
        for method in route.methods(settings) {
            if method == Method::HEAD || method == Method::OPTIONS {
                continue;
            }
            let operation = operation(&route, &method);
            if !tags.contains(&operation.tag) {
                tags.push(operation.tag.clone());
            }
            operations.insert(method.as_str().to_ascii_lowercase(), operation.into_json());
        }
        if operations.is_empty() {
            continue;
        }
        let ids = ids_in(&path);
        if !ids.is_empty() {
            operations.insert("parameters".to_owned(), ids.into());
        }
        paths.insert(path, operations.into());
    }
    let tags: Vec<_> = tags.into_iter().map(|tag| json!({"name": tag})).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": settings.web.project_name, "version": HTTP_API_VERSION},
        "host": host,
        "basePath": "/v1",
        "schemes": [scheme],
        "securityDefinitions": {"basicauth": {"type": "basic"}},
        "tags": tags,
        "paths": paths,
        "definitions": definitions(),
    })
}

/// One method of one endpoint.
struct Operation {
    /// `operationId`, unique in the document.
    id: String,
    tag: String,
    /// Whether what is answered depends on who asks.
    is_secured: bool,
    parameters: Vec<Value>,
    /// The media types of the body, where there is one.
    consumes: &'static [&'static str],
    responses: Map<String, Value>,
}

impl Operation {
    fn into_json(self) -> Value {
        let security = if self.is_secured {
            json!([{"basicauth": []}])
        } else {
            json!([])
        };
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "security": security,
            "produces": ["application/json"],
            "parameters": self.parameters,
            "responses": self.responses,
        });
        if !self.consumes.is_empty() {
            operation["consumes"] = json!(self.consumes);
        }
        operation
    }
}

fn operation(route: &Route, method: &Method) -> Operation {
    match route {
        Route::Hello => utility("server_info", "What the server is and can do."),
        Route::Heartbeat => {
            let mut operation = utility("__heartbeat__", "All that the server needs answers.");
            let unhealthy = described("Something that the server needs does not answer.");
            operation.responses.insert("503".to_owned(), unhealthy);
            operation
        }
        Route::LbHeartbeat => utility("__lbheartbeat__", "The server answers."),
        Route::Version => utility("__version__", "What is deployed."),
        Route::OpenApi => utility("get_openapi_spec", "This document."),
        Route::Contribute => utility("contribute", "How to take part in the project."),
        Route::PullBroadcasts => utility(
            "get_broadcasts",
            "The latest broadcast, held back for a while.",
        ),
        Route::Broadcasts => utility(
            "get_megaphone_broadcasts",
            "The same in Megaphone's place, for who has its reader's token.",
        ),
        Route::MonitorChangeset => changeset("monitor", false),
        Route::Changeset(_) => changeset("collection", true),
        Route::Flush => utility("flush_post", "Everything is gone."),
        Route::OpenIdLogin(_) => utility(
            "openid_login",
            "Sends the browser to the identity provider.",
        ),
        Route::OpenIdToken(_) => utility(
            "openid_token",
            "Sends the browser back with the provider's tokens.",
        ),
        Route::Batch => Operation {
            id: "batch".to_owned(),
            tag: "Batch".to_owned(),
            is_secured: false,
            parameters: vec![body("Batch")],
            consumes: &["application/json"],
            responses: {
                let refusals = [(400, ""), (406, ""), (413, ""), (415, "")];
                let mut responses = responses(&refusals);
                let mut answer = described("The responses, in the order of the requests.");
                answer["schema"] = reference("Responses");
                responses.insert("200".to_owned(), answer);
                responses
            },
        },
        Route::Permissions => Operation {
            id: "get_permissionss".to_owned(),
            tag: "Permissionss".to_owned(),
            is_secured: true,
            parameters: list_parameters(true),
            consumes: &[],
            responses: responses(&[&REFUSALS[..], &[(200, "Permissions"), (304, "")]].concat()),
        },
        Route::Object(uri) => of_object(uri.kind(), method),
        Route::List(list) => of_list(list.kind(), method),
        // The names that kinto-changes 4.1 ends up with.
        Route::MonitorRecords => Operation {
            id: "get_changess".to_owned(),
            tag: "Changess".to_owned(),
            is_secured: false,
            parameters: list_parameters(true),
            consumes: &[],
            responses: responses(&[(200, "Changes"), (304, ""), (400, ""), (406, ""), (412, "")]),
        },
    }
}

/// An endpoint that takes nothing and tells everyone the same.
fn utility(id: &str, description: &str) -> Operation {
    let mut answer = described(description);
    answer["schema"] = json!({"type": "object"});
    let mut responses = Map::new();
    responses.insert("200".to_owned(), answer);
    Operation {
        id: id.to_owned(),
        tag: "Utilities".to_owned(),
        is_secured: false,
        parameters: vec![],
        consumes: &[],
        responses,
    }
}

/// The changeset of monitor/changes, or that of a collection, which not everyone may read.
fn changeset(of: &str, is_secured: bool) -> Operation {
    let text = |name: &str| json!({"name": name, "in": "query", "type": "string"});
    let mut expected = text("_expected");
    expected["required"] = true.into();
    let limit = json!({"name": "_limit", "in": "query", "type": "integer", "minimum": 0});
    let mut parameters = vec![expected, text("_since"), limit];
    let mut answers = vec![
        (200, "Changeset"),
        (304, ""),
        (400, ""),
        (406, ""),
        (413, ""),
    ];
    if is_secured {
        answers.extend([(401, ""), (403, ""), (404, "")]);
    } else {
        parameters.extend([text("bucket"), text("collection")]);
    }
    Operation {
        id: format!("get_{of}_changeset"),
        tag: "Changesets".to_owned(),
        is_secured,
        parameters,
        consumes: &[],
        responses: responses(&answers),
    }
}

const REFUSALS: [(u16, &str); 5] = [(400, ""), (401, ""), (403, ""), (406, ""), (412, "")];

fn of_object(kind: Kind, method: &Method) -> Operation {
    let shown = title(kind.name());
    let mut parameters = vec![];
    let mut answers = REFUSALS.to_vec();
    answers.push((200, &shown));
    let (verb, consumes): (&str, &[&str]) = match *method {
        Method::PUT => {
            parameters.push(body(&shown));
            answers.extend([(201, &*shown), (413, ""), (415, "")]);
            ("update", &["application/json"])
        }
        Method::PATCH => {
            parameters.extend([body(&shown), response_behavior()]);
            answers.extend([(404, ""), (413, ""), (415, "")]);
            (
                "patch",
                &["application/json", "application/merge-patch+json"],
            )
        }
        Method::DELETE => {
            parameters.push(time("last_modified"));
            answers.push((404, ""));
            ("delete", &[])
        }
        _ => {
            parameters.push(words("_fields"));
            answers.extend([(304, ""), (404, "")]);
            ("get", &[])
        }
    };
    parameters.extend(preconditions());
    Operation {
        id: format!("{verb}_{}", kind.name()),
        tag: title(kind.plural()),
        is_secured: true,
        parameters,
        consumes,
        responses: responses(&answers),
    }
}

fn of_list(kind: Kind, method: &Method) -> Operation {
    let (shown, listed) = (title(kind.name()), title(kind.plural()));
    let mut answers = REFUSALS.to_vec();
    let (id, parameters, consumes): (_, _, &[&str]) = match *method {
        Method::POST => {
            answers.extend([(200, &*shown), (201, &shown), (413, ""), (415, "")]);
            let parameters = [body(&shown)].into_iter().chain(preconditions()).collect();
            (
                format!("create_{}", kind.name()),
                parameters,
                &["application/json"],
            )
        }
        Method::DELETE => {
            answers.push((200, &listed));
            (
                format!("delete_{}", kind.plural()),
                list_parameters(false),
                &[],
            )
        }
        _ => {
            answers.extend([(200, &*listed), (304, "")]);
            (format!("get_{}", kind.plural()), list_parameters(true), &[])
        }
    };
    Operation {
        id,
        tag: listed.clone(),
        is_secured: true,
        parameters,
        consumes,
        responses: responses(&answers),
    }
}

/// `Bucket` for `bucket`.
fn title(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_ascii_uppercase() + rest
}

/// What a path has between braces.
fn ids_in(path: &str) -> Vec<Value> {
    let names = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| json!({"name": name, "in": "path", "required": true, "type": "string"}))
        .collect()
}

fn list_parameters(reads: bool) -> Vec<Value> {
    let mut parameters = vec![
        json!({"name": "_limit", "in": "query", "type": "integer", "minimum": 0}),
        words("_sort"),
        json!({"name": "_token", "in": "query", "type": "string"}),
        time("_since"),
        time("_to"),
        time("_before"),
        json!({"name": "id", "in": "query", "type": "string"}),
        time("last_modified"),
    ];
    if reads {
        parameters.push(words("_fields"));
    }
    parameters.extend(preconditions());
    parameters
}

fn words(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "array", "items": {"type": "string"}})
}

fn time(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "integer", "minimum": 0})
}

fn preconditions() -> [Value; 2] {
    ["If-Match", "If-None-Match"].map(
        |name| json!({"name": name, "in": "header", "type": "string", "pattern": PRECONDITION}),
    )
}

fn response_behavior() -> Value {
    json!({"name": "Response-Behavior", "in": "header", "type": "string", "enum": ["full", "light", "diff"]})
}

fn body(definition: &str) -> Value {
    json!({"name": "body", "in": "body", "schema": reference(definition)})
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/definitions/{definition}")})
}

fn described(description: &str) -> Value {
    json!({"description": description})
}

/// The responses with these codes; below 300 the body is the definition named.
fn responses(answers: &[(u16, &str)]) -> Map<String, Value> {
    let mut responses = Map::new();
    for (code, definition) in answers {
        let description = match code {
            200 => "What is there now.",
            201 => "What was created.",
            304 => "It is what `If-None-Match` names.",
            400 => "The request is not valid.",
            401 => "This takes credentials.",
            403 => "The user may not do this.",
            404 => "There is no such object.",
            406 => "The client does not take JSON.",
            412 => "It is not what `If-Match` or `If-None-Match` names.",
            413 => "What is sent, or is to be answered, is too large.",
            415 => "The body is of another type than the endpoint takes.",
            _ => "",
        };
        let mut response = described(description);
        match code {
            200 | 201 => response["schema"] = reference(definition),
            304 => {}
            _ => response["schema"] = reference("Error"),
        }
        if matches!(code, 200 | 201 | 304) {
            response["headers"] = json!({
                "ETag": {"type": "string", "pattern": ETAG},
                "Last-Modified": {"type": "string"},
            });
        }
        responses.insert(code.to_string(), response);
    }
    let mut default = described("Any other refusal or failure.");
    default["schema"] = reference("Error");
    responses.insert("default".to_owned(), default);
    responses
}

fn definitions() -> Value {
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
        let schema = json!({"type": "object"});
        let mut properties = json!({"id": text, "last_modified": integer});
        match kind {
            Kind::Bucket => {
                for field in ["collection:schema", "group:schema", "record:schema"] {
                    properties[field] = schema.clone();
                }
            }
            Kind::Collection => {
                properties["schema"] = schema;
                properties["cache_expires"] = integer.clone();
            }
            Kind::Group => properties["members"] = json!({"type": "array", "items": text}),
            Kind::Account => properties["password"] = text.clone(),
            Kind::Record => {}
        }
        let data = json!({"type": "object", "properties": properties});
        let principals = json!({"type": "array", "items": text});
        let permissions: Map<String, Value> = kind
            .permissions()
            .iter()
            .map(|permission| ((*permission).to_owned(), principals.clone()))
            .collect();
        definitions.insert(title(kind.plural()), list_of(&data));
        let object = json!({
            "type": "object",
            "properties": {
                "data": data,
                "permissions": {"type": "object", "properties": permissions},
            },
        });
        definitions.insert(title(kind.name()), object);
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
    let request = json!({
        "type": "object",
        "properties": {
            "method": method, "path": text, "headers": headers, "body": {"type": "object"},
        },
    });
    let batch = json!({
        "type": "object",
        "required": ["requests"],
        "properties": {"defaults": request, "requests": {"type": "array", "items": request}},
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn documented() -> Value {
        let vars = [("KINTO_USERID_HMAC_SECRET", "s")].into_iter().collect();
        document(
            "https://kinto.example",
            &ApiSettings::from_vars(&vars).unwrap(),
        )
    }

    #[test]
    fn every_endpoint_of_the_router_is_listed() {
        // A new endpoint does not compile here until it has a number; then it must be in `Route::all`.
        let number = |route: &Route| match route {
            Route::Hello => 0,
            Route::Heartbeat => 1,
            Route::LbHeartbeat => 2,
            Route::Version => 3,
            Route::OpenApi => 4,
            Route::Contribute => 5,
            Route::Object(_) => 6,
            Route::List(_) => 7,
            Route::MonitorRecords => 8,
            Route::Batch => 9,
            Route::Permissions => 10,
            Route::PullBroadcasts => 11,
            Route::Broadcasts => 12,
            Route::MonitorChangeset => 13,
            Route::Changeset(_) => 14,
            Route::Flush => 15,
            Route::OpenIdLogin(_) => 16,
            Route::OpenIdToken(_) => 17,
        };
        let numbers: BTreeSet<_> = Route::all()
            .iter()
            .map(|(_, route)| number(route))
            .collect();
        assert_eq!(
            numbers.into_iter().collect::<Vec<_>>(),
            Vec::from_iter(0..18)
        );
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
