//! JSON patches (RFC 6902): operations on an object that is shown as `{"data": …, "permissions": …}`.

use std::slice;

use json_patch::{Patch, PatchOperation};
use serde_json::{Map, Value, json};

use super::body::{MAX_DEPTH, check_data, depth, parse_json, unknown_permission};
use super::compression::MAX_BODY;
use super::error::ApiError;
use super::values;
use crate::permission::Permissions;
use crate::resource::Kind;

/// Reads the operations of a JSON patch. Whether each has the `value` or `from` that it needs is seen when they are
/// applied (Kinto 26.5).
///
/// # Errors
/// 400 for broken JSON and for what is no list of operations.
pub fn parse(bytes: &[u8]) -> Result<Vec<Value>, ApiError> {
    let Value::Array(mut operations) = parse_json(bytes)? else {
        return Err(ApiError::invalid(
            "body",
            "",
            "Must be a list of operations",
        ));
    };
    for (n, operation) in operations.iter_mut().enumerate() {
        let wrong = |field: &str, problem: &str| {
            let dot = if field.is_empty() { "" } else { "." };
            Err(ApiError::invalid(
                "body",
                format!("{n}{dot}{field}"),
                problem,
            ))
        };
        let Value::Object(fields) = operation else {
            return wrong("", "Must be a JSON object");
        };
        match fields.get("op").map(Value::as_str) {
            Some(Some("test" | "add" | "remove" | "replace" | "move" | "copy")) => {}
            Some(_) => {
                return wrong(
                    "op",
                    "Must be one of test, add, remove, replace, move, copy",
                );
            }
            None => return wrong("op", "Required"),
        }
        for field in ["path", "from"] {
            match fields.get(field).map(Value::as_str) {
                Some(Some(pointer)) if pointer.starts_with('/') => {}
                None if field == "from" => {}
                Some(_) => return wrong(field, "Must be a JSON pointer that begins with /"),
                None => return wrong(field, "Required"),
            }
        }
        let known = ["op", "path", "from", "value"];
        if let Some(unknown) = fields.keys().find(|field| !known.contains(&field.as_str())) {
            return wrong("", &format!("Unknown key {unknown}"));
        }
        // A principal is its own value, which need not be given.
        let path = fields.get("path").and_then(Value::as_str);
        let principal = path.and_then(|path| path.strip_prefix("/permissions/")?.split_once('/'));
        if let Some(principal) = principal.map(|(_, principal)| principal.to_owned()) {
            fields.insert("value".to_owned(), principal.into());
        }
    }
    Ok(operations)
}

/// Applies operations to an object. Its permissions are objects whose keys are the principals (Kinto 26.5: JSON patch on
/// permissions).
///
/// # Errors
/// 400 when an operation cannot be applied or leaves what cannot be stored, 413 when copies make too much of it.
pub fn apply(
    kind: Kind,
    operations: Vec<Value>,
    data: Map<String, Value>,
    permissions: &Permissions,
) -> Result<(Map<String, Value>, Permissions), ApiError> {
    let principals = |granted: &[String]| {
        granted
            .iter()
            .map(|p| (p.clone(), Value::from(p.as_str())))
            .collect()
    };
    let granted: Map<String, Value> = kind
        .permissions()
        .iter()
        .map(|permission| {
            (
                (*permission).to_owned(),
                Value::Object(principals(permissions.granted(permission))),
            )
        })
        .collect();
    let mut document = json!({"data": data, "permissions": granted});
    let patch: Patch = serde_json::from_value(operations.into()).map_err(failed)?;
    let mut copied = 0;
    for (n, operation) in patch.iter().enumerate() {
        check_growth(&document, operation, &mut copied)?;
        if let PatchOperation::Test(test) = operation {
            // By ourselves: to json-patch 1 is not 1.0.
            let found = document.pointer(test.path.as_str());
            if !found.is_some_and(|found| values::equal(found, &test.value)) {
                return Err(failed(format!(
                    "operation '/{n}' finds another value at '{}'",
                    test.path
                )));
            }
            continue;
        }
        // One by one: json-patch 5.0 panics when it cannot undo what it did before one that fails, a move for one.
        json_patch::patch_unsafe(&mut document, slice::from_ref(operation)).map_err(
            |mut error| {
                error.operation = n;
                failed(error)
            },
        )?;
    }

    let Some(Value::Object(data)) = document.get_mut("data").map(Value::take) else {
        return Err(failed("data must stay a JSON object"));
    };
    let data = check_data(kind, data, "")?;
    let mut patched = Permissions::default();
    if let Some(granted) = document.get("permissions") {
        let Value::Object(granted) = granted else {
            return Err(failed("permissions must stay a JSON object"));
        };
        for (permission, principals) in granted {
            if !kind.permissions().contains(&permission.as_str()) {
                return Err(unknown_permission(kind, permission));
            }
            patched.set(permission, principals_in(permission, principals)?);
        }
    }
    Ok((data, patched))
}

/// The principals that a permission has after a patch: the keys of an object, or the texts of a list.
///
/// # Errors
/// 400 for anything else, and for an empty principal.
fn principals_in(permission: &str, value: &Value) -> Result<Vec<String>, ApiError> {
    let principals: Option<Vec<String>> = match value {
        Value::Object(principals) => Some(principals.keys().cloned().collect()),
        Value::Array(principals) => {
            let texts = principals
                .iter()
                .map(|principal| principal.as_str().map(str::to_owned));
            texts.collect()
        }
        _ => None,
    };
    let principals = principals.filter(|all| all.iter().all(|principal| !principal.is_empty()));
    principals.ok_or_else(|| failed(format!("{permission} must stay a set of principals")))
}

/// Whether what an operation puts somewhere may become a part of the object. Each copy can double the object, and each
/// move can nest it deeper, beyond what memory and stack hold, before the whole is looked at.
///
/// # Errors
/// 400 for what would be nested too deeply, 413 when what was copied in all would not be read in one request.
fn check_growth(
    document: &Value,
    operation: &PatchOperation,
    copied: &mut usize,
) -> Result<(), ApiError> {
    let placed = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Copy(copy) => document.pointer(copy.from.as_str()),
        PatchOperation::Move(moved) => document.pointer(moved.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let Some(placed) = placed else {
        return Ok(());
    };
    // `data` itself is one token of the path.
    if operation.path().count() - 1 + depth(placed) > MAX_DEPTH {
        return Err(failed(format!("more than {MAX_DEPTH} levels deep")));
    }
    if let PatchOperation::Copy(_) = operation {
        *copied += placed.to_string().len();
        if *copied > MAX_BODY {
            return Err(ApiError::TooLarge);
        }
    }
    Ok(())
}

fn failed(problem: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_unnamed("body", format!("JSON patch failed: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(data: Value, operations: Value) -> Result<Map<String, Value>, ApiError> {
        let Value::Object(data) = data else {
            panic!("{data} is no object")
        };
        let operations = parse(operations.to_string().as_bytes())?;
        apply(Kind::Record, operations, data, &Permissions::default()).map(|(data, _)| data)
    }

    fn refusal(operations: Value) -> String {
        match applied(json!({"n": 0, "a": [1]}), operations) {
            Err(ApiError::Invalid(details)) => details[0].description.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_operation_that_cannot_be_applied_is_named() {
        let operations = json!([
            {"op": "add", "path": "/data/b", "value": 1},
            {"op": "remove", "path": "/data/c"},
        ]);
        assert!(refusal(operations).contains("'/1'"));
    }

    #[test]
    fn what_fails_after_a_move_is_refused_not_a_panic() {
        let operations = json!([
            {"op": "move", "from": "/data/a/0", "path": "/data/a"},
            {"op": "test", "path": "/data/n", "value": 9},
        ]);
        assert!(refusal(operations).starts_with("JSON patch failed: "));
    }

    #[test]
    fn copies_cannot_fill_the_memory() {
        let doubled = |n| json!({"op": "copy", "from": "/data", "path": format!("/data/a{n}")});
        let copies: Vec<_> = (0..30).map(doubled).collect();
        let refused = applied(json!({"n": "x".repeat(1000)}), copies.into());
        assert!(matches!(refused, Err(ApiError::TooLarge)));
    }

    #[test]
    fn moves_cannot_nest_without_end() {
        let chain = (0..60).fold(json!({}), |inner, _| json!({"a": inner}));
        let bottom = "/a".repeat(60);
        let mut operations = vec![];
        for _ in 0..3 {
            operations.extend([
                json!({"op": "add", "path": "/data/b", "value": chain}),
                json!({"op": "move", "from": "/data/a", "path": format!("/data/b{bottom}")}),
                json!({"op": "move", "from": "/data/b", "path": "/data/a"}),
            ]);
        }
        assert_eq!(
            refusal(operations.into()),
            "JSON patch failed: more than 100 levels deep"
        );
    }
}
