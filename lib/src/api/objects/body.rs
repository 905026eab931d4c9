//! Bodies that clients send: `data` and `permissions`, checked before anything is done with them.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::api::auth::account_id::PASSWORD;
use crate::api::auth::passwords;
use crate::api::objects::schema;
use crate::api::web::error::{ApiError, Location};
use crate::json::weight;
use crate::permission::{EVERYONE, Permissions};
use crate::resource::Kind;
use crate::store::membership::MAX_PRINCIPAL_LENGTH;
use crate::unit_of_work::Allowance;

/// The most lists and objects within one another in the data of an object, itself included. So whatever contains it (a
/// batch, an event, a message) can be read within the limit of `serde_json` (127).
pub const MAX_DEPTH: usize = 100;

/// The most members of a group: each is an item that is written when they join or leave.
pub const MAX_MEMBERS: usize = 1000;

/// The most that the values of a body may weigh: 400,000 numbers, or 57,000 objects. In memory that is 32 MB; a small
/// function cannot hold more than that twice.
const MAX_WEIGHT: usize = 400_000;

/// The permissions in a body: for each the principals to have it, `None` for `null`.
pub type PermissionChanges = Vec<(String, Option<Vec<String>>)>;

/// `data` and `permissions` of a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// `data`, with whatever `id` and `last_modified` the client gave.
    pub data: Option<Map<String, Value>>,
    /// `permissions`.
    pub permissions: PermissionChanges,
    /// Whether the body had `permissions` at all.
    has_permissions: bool,
}

impl Body {
    /// Reads the body of a `PUT` or `POST` of an object of `kind`. No body is read as `{}`, a permission that is `null`
    /// as absent.
    ///
    /// # Errors
    /// 400 for broken JSON, other top-level keys, unknown permissions and wrong types.
    pub fn parse(kind: Kind, bytes: &[u8], allowance: &Allowance) -> Result<Self, ApiError> {
        let mut body = Self::parse_patch(kind, bytes)?;
        let data = body.data.take();
        body.data = data
            .map(|data| check_data(kind, data, "data.", allowance))
            .transpose()?;
        if kind == Kind::Account {
            let data = body.data.as_ref();
            let data = data.ok_or_else(|| ApiError::invalid(Location::Body, "data", "Required"))?;
            if !data.contains_key(PASSWORD) {
                let field = format!("data.{PASSWORD}");
                return Err(ApiError::invalid(Location::Body, field, "Required"));
            }
        }
        Ok(body.without_nulls())
    }

    /// Drops permissions that are `null`; these have a meaning in a merge patch only.
    pub fn without_nulls(mut self) -> Self {
        self.permissions
            .retain(|(_, principals)| principals.is_some());
        self
    }

    /// Reads the body of a plain or merge `PATCH`. Its `data` is a part of an object, which is checked when the patch
    /// is applied ([`check_data`]).
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_patch(kind: Kind, bytes: &[u8]) -> Result<Self, ApiError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let Value::Object(mut fields) = parse_json(bytes)? else {
            return Err(ApiError::invalid(
                Location::Body,
                "",
                "The body must be a JSON object",
            ));
        };
        let data = match fields.shift_remove("data") {
            None => None,
            Some(Value::Object(data)) => Some(data),
            Some(_) => {
                return Err(ApiError::invalid(
                    Location::Body,
                    "data",
                    "Must be a JSON object",
                ));
            }
        };
        let permissions = fields.shift_remove("permissions");
        let has_permissions = permissions.is_some();
        let permissions = permissions
            .map(|value| check_permissions(kind, value))
            .transpose()?
            .unwrap_or_default();
        if !fields.is_empty() {
            let unknown: Vec<_> = fields.keys().map(String::as_str).collect();
            return Err(ApiError::invalid(
                Location::Body,
                "",
                format!("Unknown keys: {}", unknown.join(", ")),
            ));
        }
        Ok(Self {
            data,
            permissions,
            has_permissions,
        })
    }

    /// Returns `true` if the body has neither `data` nor `permissions`.
    pub fn is_empty(&self) -> bool {
        self.data.is_none() && !self.has_permissions
    }
}

/// Reads JSON.
///
/// # Errors
/// 400 for invalid JSON, 413 for JSON that would take too much memory.
pub fn parse_json(bytes: &[u8]) -> Result<Value, ApiError> {
    if weight::of_text(bytes) > MAX_WEIGHT {
        return Err(ApiError::TooManyValues);
    }
    let bytes = without_minus_zero(bytes);
    serde_json::from_slice(&bytes)
        .map_err(|e| ApiError::invalid(Location::Body, "", format!("Invalid JSON: {e}")))
}

/// The JSON with 0 for the integer `-0`, which `serde_json` reads as a decimal.
fn without_minus_zero(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.windows(2).any(|pair| pair == b"-0") {
        return Cow::Borrowed(bytes);
    }
    let mut bytes = bytes.to_vec();
    let (mut in_text, mut at) = (false, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'-' if !in_text && bytes.get(at + 1) == Some(&b'0') => {
                let goes_on = |b: &u8| b.is_ascii_alphanumeric() || *b == b'.';
                let is_alone = at == 0 || !goes_on(&bytes[at - 1]);
                if is_alone && !bytes.get(at + 2).is_some_and(goes_on) {
                    bytes[at] = b' ';
                }
            }
            _ => {}
        }
        at += 1;
    }
    Cow::Owned(bytes)
}

/// Checks the fields that the server interprets (Kinto 26.5: schemas of bucket, group, collection and account), and
/// adds those that must be there. `within` goes before their names in error messages.
///
/// # Errors
/// 400 for a field of a wrong type.
pub fn check_data(
    kind: Kind,
    mut data: Map<String, Value>,
    within: &str,
    allowance: &Allowance,
) -> Result<Map<String, Value>, ApiError> {
    let wrong = |field: &str, problem: &str| {
        Err(ApiError::invalid(
            Location::Body,
            format!("{within}{field}"),
            problem,
        ))
    };
    if data.values().any(|value| depth(value) >= MAX_DEPTH) {
        let problem = format!("Must not be more than {MAX_DEPTH} levels deep");
        return Err(ApiError::invalid(Location::Body, "data", problem));
    }
    let schemas: &[&str] = match kind {
        Kind::Bucket => &["collection:schema", "group:schema", "record:schema"],
        Kind::Collection => &["schema"],
        Kind::Group | Kind::Record | Kind::Account => &[],
    };
    for field in schemas {
        match data.get(*field) {
            Some(schema @ Value::Object(_)) => {
                if let Err(problem) = schema::check(schema, allowance) {
                    return wrong(field, &problem.to_string());
                }
            }
            Some(_) => return wrong(field, "Must be a JSON object"),
            None => {}
        }
    }
    if kind == Kind::Collection
        && let Some(expires) = data.shift_remove("cache_expires")
    {
        let seconds = match &expires {
            Value::Number(number) => number
                .as_i64()
                .or_else(|| number.as_f64().map(|seconds| seconds as i64)),
            Value::String(digits) => digits.trim().parse().ok(),
            Value::Bool(flag) => Some((*flag).into()),
            _ => None,
        };
        let is_empty = match &expires {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        match seconds {
            Some(seconds) => _ = data.insert("cache_expires".to_owned(), seconds.into()),
            // The same as no value (Kinto 26.5).
            None if is_empty => {}
            None => return wrong("cache_expires", "Must be a number of seconds"),
        }
    }
    if kind == Kind::Group {
        let members = data.entry("members").or_insert_with(|| json!([]));
        let Value::Array(members) = members else {
            return wrong("members", "Must be a list of principals");
        };
        if members.len() > MAX_MEMBERS {
            return wrong("members", &format!("Must be at most {MAX_MEMBERS} members"));
        }
        for (n, member) in members.iter().enumerate() {
            let problem = match member {
                Value::String(member) if member.is_empty() => "Required",
                Value::String(member) if member.len() > MAX_PRINCIPAL_LENGTH => "Is too long",
                Value::String(member) if member == EVERYONE || member.starts_with("/buckets/") => {
                    "Must be a user id, not a group or everyone"
                }
                Value::String(_) => continue,
                _ => "Must be a string",
            };
            return wrong(&format!("members.{n}"), problem);
        }
    }
    if kind == Kind::Account {
        match data.get(PASSWORD) {
            Some(Value::String(password)) if password.len() > passwords::MAX_LENGTH => {
                let problem = format!("Must be at most {} bytes long", passwords::MAX_LENGTH);
                return wrong(PASSWORD, &problem);
            }
            // A patch leaves it unchanged; where it is required, that was checked before.
            None => {}
            Some(Value::String(password)) if !password.is_empty() => {}
            Some(Value::Null | Value::String(_)) => return wrong(PASSWORD, "Required"),
            Some(_) => return wrong(PASSWORD, "Must be a string"),
        }
    }
    Ok(data)
}

fn check_permissions(kind: Kind, value: Value) -> Result<PermissionChanges, ApiError> {
    let Value::Object(permissions) = value else {
        return Err(ApiError::invalid(
            Location::Body,
            "permissions",
            "Must be a JSON object",
        ));
    };
    let mut checked = Vec::with_capacity(permissions.len());
    for (permission, principals) in permissions {
        if !kind.permissions().contains(&permission.as_str()) {
            return Err(unknown_permission(kind, &permission));
        }
        let name = format!("permissions.{permission}");
        let principals = match principals {
            Value::Null => None,
            Value::Array(principals) => {
                let strings =
                    principals
                        .into_iter()
                        .enumerate()
                        .map(|(i, principal)| match principal {
                            Value::String(principal) if !principal.is_empty() => Ok(principal),
                            Value::String(_) => Err(ApiError::invalid(
                                Location::Body,
                                format!("{name}.{i}"),
                                "Required",
                            )),
                            _ => Err(ApiError::invalid(
                                Location::Body,
                                format!("{name}.{i}"),
                                "Must be a string",
                            )),
                        });
                Some(strings.collect::<Result<_, _>>()?)
            }
            _ => {
                return Err(ApiError::invalid(
                    Location::Body,
                    name,
                    "Must be a list of principals",
                ));
            }
        };
        checked.push((permission, principals));
    }
    Ok(checked)
}

/// The error for a permission that objects of `kind` do not have.
pub fn unknown_permission(kind: Kind, permission: &str) -> ApiError {
    let known = kind.permissions().join(", ");
    ApiError::invalid(
        Location::Body,
        "permissions",
        format!("\"{permission}\" is not one of {known}"),
    )
}

/// Sets each permission that a body names.
pub fn set_permissions(permissions: &mut Permissions, changes: PermissionChanges) {
    for (permission, principals) in changes {
        permissions.set(&permission, principals.unwrap_or_default());
    }
}

/// The number of lists and objects within one another, the value itself included.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: Kind, body: &str) -> (String, Location) {
        match Body::parse(kind, body.as_bytes(), &Allowance::default()) {
            Err(ApiError::Invalid(details)) => (
                details[0].name.clone().unwrap_or_default(),
                details[0].location,
            ),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_is_named() {
        for (kind, body, name) in [
            (Kind::Record, "{\"data\": {\"a\": 1}", ""),
            (Kind::Record, "[1]", ""),
            (Kind::Record, "null", ""),
            (Kind::Record, "{\"data\": []}", "data"),
            (Kind::Record, "{\"data\": null}", "data"),
            (Kind::Record, "{\"data\": {}, \"foo\": 1}", ""),
            (Kind::Record, "{\"permissions\": 3}", "permissions"),
            (
                Kind::Record,
                "{\"permissions\": {\"record:create\": []}}",
                "permissions",
            ),
            (
                Kind::Record,
                "{\"permissions\": {\"read\": \"x\"}}",
                "permissions.read",
            ),
            (
                Kind::Record,
                "{\"permissions\": {\"read\": [1]}}",
                "permissions.read.0",
            ),
            (
                Kind::Collection,
                "{\"data\": {\"schema\": 3}}",
                "data.schema",
            ),
            (
                Kind::Collection,
                "{\"data\": {\"cache_expires\": \"x\"}}",
                "data.cache_expires",
            ),
            (
                Kind::Bucket,
                "{\"data\": {\"record:schema\": []}}",
                "data.record:schema",
            ),
        ] {
            assert_eq!(
                problem(kind, body),
                (name.to_owned(), Location::Body),
                "{body}"
            );
        }
    }

    #[test]
    fn a_deeply_nested_body_is_refused_not_a_crash() {
        let body = format!(
            "{{\"data\": {}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(problem(Kind::Record, &body).1, Location::Body);
    }

    #[test]
    fn a_body_of_too_many_values_is_not_read() {
        let many = format!("[{}1]", "1,".repeat(MAX_WEIGHT));
        let refused = parse_json(many.as_bytes());
        assert!(matches!(refused, Err(ApiError::TooManyValues)));
    }

    #[test]
    fn an_integer_stays_an_integer() {
        for (sent, read) in [
            ("-0", "0"),
            ("[-0,-0 , -0]", "[0,0,0]"),
            (r#"{"-0":-0,"a":"\\\"-0"}"#, r#"{"-0":0,"a":"\\\"-0"}"#),
            ("[-0.0,-0e1,1e-0]", "[-0.0,-0.0,1.0]"),
        ] {
            assert_eq!(parse_json(sent.as_bytes()).unwrap().to_string(), read);
        }
        for broken in ["-01", "--0", "1-0", "- 0"] {
            assert!(parse_json(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn no_body_is_an_empty_one() {
        let parse = |bytes: &[u8]| Body::parse(Kind::Record, bytes, &Allowance::default());
        assert!(parse(b"").unwrap().is_empty());
        assert!(parse(b" \n").is_err());
        assert!(!parse(b"{\"permissions\": {}}").unwrap().is_empty());
    }

    #[test]
    fn only_a_patch_takes_a_permission_away_by_null() {
        let body = b"{\"permissions\": {\"read\": null}}";
        let put = Body::parse(Kind::Record, body, &Allowance::default()).unwrap();
        assert!(put.permissions.is_empty() && !put.is_empty());
        let patch = Body::parse_patch(Kind::Record, body).unwrap();
        assert_eq!(patch.permissions, [("read".to_owned(), None)]);
    }
}
