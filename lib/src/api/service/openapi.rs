//! `GET /v1/__api__`: the endpoints of the running server, for machines.
//!
//! The document is of the version that Kinto 26.5 writes, Swagger 2.0 (called `OpenAPI` 2.0 since), with its
//! `operationId`s, `host` and `basePath`: clients that build their calls from it go on working. It is made of what
//! the router serves, so a method that a setting turns off is not in it. `HEAD` and `OPTIONS` are left out, as in
//! Kinto. What it says that a request may have is taken: `tests/clients.rs` sends such requests, and others.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::auth::passwords;
use crate::api::changes::monitor::FIELDS as MONITOR_FIELDS;
use crate::api::dispatch::batch::METHODS as BATCH_METHODS;
use crate::api::dispatch::router::{PREFIX, Route};
use crate::api::plugins::openid::provider::Provider;
use crate::api::plugins::permissions_endpoint::FIELDS as PERMISSIONS_FIELDS;
use crate::api::service::hello::HTTP_API_VERSION;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::resource::{Kind, MAX_ID_LENGTH};
use crate::settings::{ACCOUNT_POLICY, ApiSettings, Policy};
use crate::store::membership::MAX_PRINCIPAL_LENGTH;
use crate::timestamp::Timestamp;

const ETAG: &str = r#"^"[0-9]+"$"#;
/// With the time of the collection, which a changeset has too.
const CHANGESET_ETAG: &str = r#"^"[0-9]+(-[0-9]+)?"$"#;
const PRECONDITION: &str = r#"^("[0-9]+"|\*)$"#;
const ID: &str = "^[a-zA-Z0-9][a-zA-Z0-9_-]*$";
const ACCOUNT_ID: &str = "^[a-zA-Z0-9+.@][a-zA-Z0-9_+.@-]*$";
/// A time in milliseconds, between double quotes or not, up to [`Timestamp::MAX`].
const TIME: &str = r#"^("[0-3]?[0-9]{1,12}"|[0-3]?[0-9]{1,12})$"#;
/// No other group, and not everyone.
const MEMBER: &str = r"^(?!/buckets/)(?!system\.Everyone$)[\s\S]+$";
/// Bytes of a letter at most: bounds are of bytes here, of letters in the document.
const MAX_LETTER: usize = 4;
/// How long a time from the document can be sent, in milliseconds: half of what it may be ahead.
const HALF_A_DAY: u64 = 12 * 60 * 60 * 1000;

/// The response to `GET /v1/__api__`.
pub async fn response(
    request: &Request,
    settings: &ApiSettings,
    providers: &[Provider],
) -> Response {
    let origin = request.origin(settings);
    let securities = securities(&origin, settings, providers).await;
    let document = document(&origin, settings, &securities, Timestamp::now());
    Response::json(StatusCode::OK, &document)
}

/// How users show who they are, by the names of the policies. A provider that does not answer is found through this
/// server (Kinto 26.5 does not start without it).
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
    now: Timestamp,
) -> Value {
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
            let operation = operation(&route, &method, now);
            if !tags.contains(&operation.tag) {
                tags.push(operation.tag.clone());
            }
            let operation = operation.into_json(securities);
            operations.insert(method.as_str().to_ascii_lowercase(), operation);
        }
        if operations.is_empty() {
            continue;
        }
        let ids = ids_in(&path, &route);
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
        "securityDefinitions": securities,
        "tags": tags,
        "paths": paths,
        "definitions": definitions(settings, now),
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
    fn into_json(self, securities: &Map<String, Value>) -> Value {
        let one_of: Vec<_> = securities.keys().map(|name| json!({name: []})).collect();
        let security = if self.is_secured { one_of } else { vec![] };
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

fn operation(route: &Route, method: &Method, now: Timestamp) -> Operation {
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
        Route::Flush => answering("flush_post", 202, "Everything is gone."),
        Route::OpenIdLogin(_) => Operation {
            parameters: vec![
                required(text("callback")),
                required(text("scope")),
                json!({"name": "prompt", "in": "query", "type": "string", "enum": ["none"]}),
            ],
            ..redirect("openid_login", "The identity provider is asked who it is.")
        },
        Route::OpenIdToken(_) => Operation {
            parameters: vec![
                required(text("state")),
                text("code"),
                text("error"),
                text("error_description"),
            ],
            ..redirect(
                "openid_token",
                "The provider's tokens are brought to where the login began.",
            )
        },
        Route::Batch => Operation {
            id: "batch".to_owned(),
            tag: "Batch".to_owned(),
            is_secured: false,
            parameters: vec![required(body("Batch"))],
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
            tag: "Permissions".to_owned(),
            // It tells everyone what everyone may do.
            is_secured: false,
            parameters: list_parameters(true, Some(&PERMISSIONS_FIELDS), Some("uri"), now),
            consumes: &[],
            responses: responses(&[&REFUSALS[..], &[(200, "Permissions"), (304, "")]].concat()),
        },
        Route::Object(uri) => of_object(uri.kind(), method, now),
        Route::List(list) => of_list(list.kind(), method, now),
        // The id that kinto-changes 4.1 ends up with.
        Route::MonitorRecords => Operation {
            id: "get_changess".to_owned(),
            tag: "Changes".to_owned(),
            is_secured: false,
            parameters: list_parameters(true, Some(&MONITOR_FIELDS), None, now),
            consumes: &[],
            responses: responses(&[
                (200, "Changes"),
                (304, ""),
                (307, ""),
                (400, ""),
                (406, ""),
                (412, ""),
            ]),
        },
    }
}

/// An endpoint that takes nothing and tells everyone the same.
fn utility(id: &str, description: &str) -> Operation {
    answering(id, 200, description)
}

/// An endpoint that sends a browser elsewhere.
fn redirect(id: &str, description: &str) -> Operation {
    let mut operation = answering(id, 307, description);
    operation.responses = responses(&[(400, ""), (503, "")]);
    let answer = described(description);
    operation.responses.insert("307".to_owned(), answer);
    operation
}

fn answering(id: &str, status: u16, description: &str) -> Operation {
    let mut answer = described(description);
    answer["schema"] = json!({"type": "object"});
    let mut responses = Map::new();
    responses.insert(status.to_string(), answer);
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
    let mut expected = required(text("_expected"));
    expected["minLength"] = 1.into();
    let mut since = text("_since");
    since["pattern"] = TIME.into();
    let mut parameters = vec![expected, since, whole("_limit")];
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
        answers.push((307, ""));
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

fn of_object(kind: Kind, method: &Method, now: Timestamp) -> Operation {
    let shown = title(kind.name());
    let mut parameters = vec![];
    let mut answers = REFUSALS.to_vec();
    answers.push((200, &shown));
    let (verb, consumes): (&str, &[&str]) = match *method {
        Method::PUT => {
            let mut sent = body(&format!("{shown}Body"));
            // It needs a password.
            sent["required"] = (kind == Kind::Account).into();
            parameters.push(sent);
            answers.extend([(201, &*shown), (413, ""), (415, "")]);
            ("update", &["application/json"])
        }
        Method::PATCH => {
            let sent = required(body(&format!("{shown}Patch")));
            parameters.extend([sent, response_behavior()]);
            answers.extend([(404, ""), (413, ""), (415, "")]);
            (
                "patch",
                &["application/json", "application/merge-patch+json"],
            )
        }
        Method::DELETE => {
            parameters.push(time("last_modified", now));
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

fn of_list(kind: Kind, method: &Method, now: Timestamp) -> Operation {
    let (shown, listed) = (title(kind.name()), title(kind.plural()));
    let mut answers = REFUSALS.to_vec();
    let (id, parameters, consumes): (_, _, &[&str]) = match *method {
        Method::POST => {
            answers.extend([(200, &*shown), (201, &shown), (413, ""), (415, "")]);
            let mut sent = body(&format!("New{shown}"));
            sent["required"] = (kind == Kind::Account).into();
            let parameters = [sent].into_iter().chain(preconditions()).collect();
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
                list_parameters(false, None, None, now),
                &[],
            )
        }
        _ => {
            answers.extend([(200, &*listed), (304, "")]);
            (
                format!("get_{}", kind.plural()),
                list_parameters(true, None, None, now),
                &[],
            )
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
fn ids_in(path: &str, route: &Route) -> Vec<Value> {
    let is_account = matches!(route, Route::Object(uri) if uri.kind() == Kind::Account);
    let names = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| {
            let mut id = json!({"name": name, "in": "path", "required": true, "type": "string"});
            if name != "provider" {
                add(&mut id, id_form(is_account));
            }
            id
        })
        .collect()
}

/// What an id looks like.
fn id_form(is_of_account: bool) -> Value {
    let pattern = if is_of_account { ACCOUNT_ID } else { ID };
    json!({"pattern": pattern, "minLength": 1, "maxLength": MAX_ID_LENGTH})
}

/// Adds fields to an object.
fn add(to: &mut Value, fields: Value) {
    if let (Value::Object(to), Value::Object(fields)) = (to, fields) {
        to.extend(fields);
    }
}

/// Those of a list; of one whose objects have these fields alone, and of `key` and no times where that tells them apart.
fn list_parameters(
    reads: bool,
    fields: Option<&[&str]>,
    key: Option<&str>,
    now: Timestamp,
) -> Vec<Value> {
    let words = |name: &str, with_signs: bool| {
        let mut words = words(name);
        if let Some(fields) = fields {
            let signs: &[&str] = if with_signs { &["", "-"] } else { &[""] };
            let named = signs
                .iter()
                .flat_map(|sign| fields.iter().map(move |field| format!("{sign}{field}")));
            words["items"]["enum"] = named.collect();
        }
        words
    };
    let mut id = text("id");
    id["pattern"] = ID.into();
    let mut parameters = vec![
        whole("_limit"),
        words("_sort", true),
        text("_token"),
        time("_since", now),
        time("_to", now),
        time("_before", now),
        id,
    ];
    if key.is_none() {
        parameters.push(time("last_modified", now));
    }
    if reads {
        parameters.push(words("_fields", false));
    }
    parameters.extend(preconditions());
    parameters
}

fn text(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "string"})
}

fn whole(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX})
}

fn required(mut parameter: Value) -> Value {
    parameter["required"] = true.into();
    parameter
}

fn words(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "array", "items": {"type": "string"}})
}

fn time(name: &str, now: Timestamp) -> Value {
    let mut time = whole(name);
    time["maximum"] = latest(now).into();
    time
}

/// The latest time that can be sent for the next half of a day, the same for as long.
fn latest(now: Timestamp) -> u64 {
    (now.0 / HALF_A_DAY + 1) * HALF_A_DAY
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
    let is_of_changeset = answers
        .iter()
        .any(|(_, definition)| *definition == "Changeset");
    let etag = if is_of_changeset {
        CHANGESET_ETAG
    } else {
        ETAG
    };
    for (code, definition) in answers {
        let description = match code {
            200 => "What is there now.",
            201 => "What was created.",
            304 => "It is what `If-None-Match` names.",
            307 => "`_since` is too long ago: all there is, elsewhere.",
            400 => "The request is not valid.",
            401 => "This takes credentials.",
            403 => "The user may not do this.",
            404 => "There is no such object.",
            406 => "The client does not take JSON.",
            412 => "It is not what `If-Match` or `If-None-Match` names.",
            413 => "What is sent, or is to be answered, is too large.",
            415 => "The body is of another type than the endpoint takes.",
            503 => "The identity provider does not answer.",
            _ => "",
        };
        let mut response = described(description);
        match code {
            200 | 201 => response["schema"] = reference(definition),
            304 | 307 => {}
            _ => response["schema"] = reference("Error"),
        }
        if matches!(code, 200 | 201 | 304) {
            response["headers"] = json!({
                "ETag": {"type": "string", "pattern": etag},
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
        // The id is in the path, and need not be sent.
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
    // Unless the defaults have it.
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

/// The data of an object of that kind; what may be sent now, or what may be shown.
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

    fn documented() -> Value {
        let vars = [("KINTO_USERID_HMAC_SECRET", "s")].into_iter().collect();
        let settings = ApiSettings::from_vars(&vars).unwrap();
        let securities = json!({"basicauth": {"type": "basic"}});
        let securities = securities.as_object().unwrap();
        document(
            "https://kinto.example",
            &settings,
            securities,
            Timestamp::now(),
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
