//! The descriptions of endpoints' methods in `__api__`; each row of the table of endpoints names one of these.

use http::Method;
use serde_json::{Map, Value, json};

use crate::resource::{Kind, MAX_ID_LENGTH};
use crate::timestamp::Timestamp;

const ETAG: &str = r#"^"[0-9]+"$"#;
/// The entity tag of a changeset, which also has the time of the collection and, if it is not zero, the number of backdated
/// writes to its records.
const CHANGESET_ETAG: &str = r#"^"[0-9]+(-[0-9]+){0,2}"$"#;
const PRECONDITION: &str = r#"^("[0-9]+"|\*)$"#;
const ID: &str = "^[a-zA-Z0-9][a-zA-Z0-9_-]*$";
const ACCOUNT_ID: &str = "^[a-zA-Z0-9+.@][a-zA-Z0-9_+.@-]*$";
/// A time in milliseconds, quoted or not, up to [`Timestamp::MAX`].
const TIME: &str = r#"^("[0-3]?[0-9]{1,12}"|[0-3]?[0-9]{1,12})$"#;
/// Half a day in milliseconds: half of how far ahead a time may be.
const HALF_A_DAY: u64 = 12 * 60 * 60 * 1000;

/// One method of one endpoint.
#[derive(Debug)]
pub struct Operation {
    /// `operationId`, unique in the document.
    pub id: String,
    /// The group under which the document shows it.
    pub tag: String,
    /// Whether the response depends on the user.
    pub is_secured: bool,
    /// The parameters that a request may have.
    pub parameters: Vec<Value>,
    /// The media types of the body, where there is one.
    pub consumes: &'static [&'static str],
    /// The possible responses, by status.
    pub responses: Map<String, Value>,
}

impl Operation {
    /// The description in `__api__`; `securities` are the ways to authenticate.
    pub fn into_json(self, securities: &Map<String, Value>) -> Value {
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

    /// An endpoint that takes no parameters and answers everyone the same.
    pub fn utility(id: &str, description: &str) -> Self {
        Self::answering(id, 200, description)
    }

    /// An endpoint that redirects a browser.
    pub fn redirect(id: &str, description: &str) -> Self {
        let mut operation = Self::answering(id, 307, description);
        operation.responses = responses(&[(400, ""), (503, "")]);
        let answer = described(description);
        operation.responses.insert("307".to_owned(), answer);
        operation
    }

    /// An endpoint that takes no parameters and answers with this status.
    pub fn answering(id: &str, status: u16, description: &str) -> Self {
        let mut answer = described(description);
        answer["schema"] = json!({"type": "object"});
        let mut responses = Map::new();
        responses.insert(status.to_string(), answer);
        Self {
            id: id.to_owned(),
            tag: "Utilities".to_owned(),
            is_secured: false,
            parameters: vec![],
            consumes: &[],
            responses,
        }
    }

    /// The changeset of monitor/changes, or that of a collection, which not everyone may read.
    pub fn changeset(of: &str, is_secured: bool) -> Self {
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
        Self {
            id: format!("get_{of}_changeset"),
            tag: "Changesets".to_owned(),
            is_secured,
            parameters,
            consumes: &[],
            responses: responses(&answers),
        }
    }

    /// A method of the single objects of a kind.
    pub fn of_object(kind: Kind, method: &Method, now: Timestamp) -> Self {
        let shown = title(kind.name());
        let mut parameters = vec![];
        let mut answers = REFUSALS.to_vec();
        answers.push((200, &shown));
        let (verb, consumes): (&str, &[&str]) = match *method {
            Method::PUT => {
                let mut sent = body(&format!("{shown}Body"));
                // The body needs a password.
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
        Self {
            id: format!("{verb}_{}", kind.name()),
            tag: title(kind.plural()),
            is_secured: true,
            parameters,
            consumes,
            responses: responses(&answers),
        }
    }

    /// A method of the lists of a kind.
    pub fn of_list(kind: Kind, method: &Method, now: Timestamp) -> Self {
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
        Self {
            id,
            tag: listed.clone(),
            is_secured: true,
            parameters,
            consumes,
            responses: responses(&answers),
        }
    }
}

/// The refusals of endpoints of objects and lists.
pub const REFUSALS: [(u16, &str); 5] = [(400, ""), (401, ""), (403, ""), (406, ""), (412, "")];

/// `Bucket` for `bucket`.
pub fn title(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_ascii_uppercase() + rest
}

/// The form of an id.
pub fn id_form(is_of_account: bool) -> Value {
    let pattern = if is_of_account { ACCOUNT_ID } else { ID };
    json!({"pattern": pattern, "minLength": 1, "maxLength": MAX_ID_LENGTH})
}

/// Adds fields to an object.
pub fn add(to: &mut Value, fields: Value) {
    if let (Value::Object(to), Value::Object(fields)) = (to, fields) {
        to.extend(fields);
    }
}

/// The parameters of a list. `fields` are its objects' only fields; with `key`, that field identifies objects, not
/// times.
pub fn list_parameters(
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

/// A parameter of the query string that is a string.
pub fn text(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "string"})
}

fn whole(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "integer", "format": "int64", "minimum": 0, "maximum": i64::MAX})
}

/// The parameter, which must be given.
pub fn required(mut parameter: Value) -> Value {
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

/// The latest time in the document: the end of the current half of a day, so that it stays the same for as long.
pub fn latest(now: Timestamp) -> u64 {
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

/// The body, in the form of this definition.
pub fn body(definition: &str) -> Value {
    json!({"name": "body", "in": "body", "schema": reference(definition)})
}

/// A reference to a definition.
pub fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/definitions/{definition}")})
}

/// A response with a description only.
pub fn described(description: &str) -> Value {
    json!({"description": description})
}

/// The responses with these statuses; below 300 the body is the definition named.
pub fn responses(answers: &[(u16, &str)]) -> Map<String, Value> {
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
