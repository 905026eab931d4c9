//! JSON patches (RFC 6902): operations on an object that is shown as `{"data": …, "permissions": …}`.

use std::slice;

use json_patch::{Patch, PatchOperation};
use serde_json::{Map, Value, json};

use crate::api::objects::body::{MAX_DEPTH, check_data, depth, parse_json, unknown_permission};
use crate::api::web::compression::MAX_BODY;
use crate::api::web::error::{ApiError, Location};
use crate::json::values;
use crate::json::weight;
use crate::permission::Permissions;
use crate::resource::Kind;
use crate::unit_of_work::Allowance;

/// The most operations in one patch.
const MAX_OPERATIONS: usize = 5_000;
/// The most values that the operations of one patch may read or move in memory, beyond those that they give: a fraction
/// of a second.
const MAX_WORK: usize = 10_000_000;

/// Parses the operations of a JSON patch. Whether each has the `value` or `from` that it needs is checked when they are
/// applied (Kinto 26.5).
///
/// # Errors
/// 400 for invalid JSON, and for a body that is not a list of operations.
pub fn parse(bytes: &[u8]) -> Result<Vec<Value>, ApiError> {
    let Value::Array(mut operations) = parse_json(bytes)? else {
        return Err(ApiError::invalid(
            Location::Body,
            "",
            "Must be a list of operations",
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        let problem = format!("Must not have more than {MAX_OPERATIONS} operations");
        return Err(ApiError::invalid(Location::Body, "", problem));
    }
    for (n, operation) in operations.iter_mut().enumerate() {
        let wrong = |field: &str, problem: &str| {
            let dot = if field.is_empty() { "" } else { "." };
            Err(ApiError::invalid(
                Location::Body,
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
        // A principal is its own value, so none need be given.
        let path = fields.get("path").and_then(Value::as_str);
        let principal = path.and_then(|path| path.strip_prefix("/permissions/")?.split_once('/'));
        if let Some(principal) = principal.map(|(_, principal)| principal.to_owned()) {
            fields.insert("value".to_owned(), principal.into());
        }
    }
    Ok(operations)
}

/// Returns `true` if an operation writes this field of the data, by its own path or with all data.
pub fn gives(operations: &[Value], field: &str) -> bool {
    let path = format!("/data/{field}");
    operations.iter().any(|operation| {
        let writes = !matches!(operation["op"].as_str(), Some("test" | "remove"));
        writes
            && (operation["path"] == *path
                || operation["path"] == "/data" && operation["value"].get(field).is_some())
    })
}

/// Applies operations to an object. Its permissions are objects whose keys are the principals (Kinto 26.5: JSON patch on
/// permissions).
///
/// # Errors
/// 400 when an operation cannot be applied, takes too much work, or makes something that cannot be stored; 413 when
/// copies make the object too large.
pub fn apply(
    kind: Kind,
    operations: Vec<Value>,
    data: Map<String, Value>,
    permissions: &Permissions,
    allowance: &Allowance,
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
    let mut growth = Growth {
        depth: document
            .as_object()
            .map_or(0, |parts| parts.values().map(depth).max().unwrap_or(0)),
        copied: 0,
        work: 0,
    };
    for (n, operation) in patch.iter().enumerate() {
        growth.check(&document, operation)?;
        if let PatchOperation::Test(test) = operation {
            // Not by json-patch, for which 1 is not 1.0.
            let found = document.pointer(test.path.as_str());
            if !found.is_some_and(|found| values::equal(found, &test.value)) {
                return Err(failed(format!(
                    "operation '/{n}' finds another value at '{}'",
                    test.path
                )));
            }
            continue;
        }
        // One by one: json-patch 5.0 panics when it cannot undo the operations before one that fails, for example a
        // move.
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
    let data = check_data(kind, data, "", allowance)?;
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

/// The principals that a permission has after a patch: the keys of an object, or the strings of a list.
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

/// The growth of an object under a patch. Each copy can double the object, and each move can nest it deeper, beyond
/// what memory and stack hold, before the result is checked.
struct Growth {
    /// An upper bound of the lists and objects within one another in `data` or `permissions`, themselves included.
    /// Removals do not lower it.
    depth: usize,
    /// Bytes copied so far.
    copied: usize,
    /// Values read or moved so far.
    work: usize,
}

impl Growth {
    /// Counts an operation before it is applied.
    ///
    /// # Errors
    /// 400 when the object would be nested too deeply or the operations take too much work, 413 when all that was
    /// copied could not be read in one request.
    fn check(&mut self, document: &Value, operation: &PatchOperation) -> Result<(), ApiError> {
        let path = operation.path();
        self.shift(document, path.as_str())?;
        let (placed, from) = match operation {
            PatchOperation::Add(add) => (Some(&add.value), None),
            PatchOperation::Replace(replace) => (Some(&replace.value), None),
            PatchOperation::Copy(copy) => (document.pointer(copy.from.as_str()), Some(&copy.from)),
            PatchOperation::Move(moved) => {
                self.shift(document, moved.from.as_str())?;
                (document.pointer(moved.from.as_str()), Some(&moved.from))
            }
            PatchOperation::Remove(_) => return Ok(()),
            PatchOperation::Test(_) => {
                let tested = document.pointer(path.as_str());
                return self.spend(tested.map_or(0, weight::of));
            }
        };
        let Some(placed) = placed else {
            return Ok(());
        };
        // `data` itself is one token of the path.
        let above = path.count() - 1;
        // A copied or moved value is no deeper than anything at its old place can be. It is measured if that bound is
        // too large.
        let bound = from.map(|from| above + self.depth.saturating_sub(from.count() - 1));
        let depth = match bound {
            Some(bound) if bound <= MAX_DEPTH => bound,
            Some(_) => {
                self.spend(weight::of(placed))?;
                above + depth(placed)
            }
            None => above + depth(placed),
        };
        if depth > MAX_DEPTH {
            return Err(failed(format!("more than {MAX_DEPTH} levels deep")));
        }
        self.depth = self.depth.max(depth);
        if let PatchOperation::Copy(_) = operation {
            self.copied += placed.to_string().len();
            if self.copied > MAX_BODY {
                return Err(ApiError::TooLarge);
            }
        }
        Ok(())
    }

    /// Counts the elements of a list that an insertion or removal moves.
    fn shift(&mut self, document: &Value, path: &str) -> Result<(), ApiError> {
        let parent = path
            .rsplit_once('/')
            .and_then(|(parent, _)| document.pointer(parent));
        self.spend(1 + parent.and_then(Value::as_array).map_or(0, Vec::len))
    }

    fn spend(&mut self, work: usize) -> Result<(), ApiError> {
        self.work = self.work.saturating_add(work);
        if self.work > MAX_WORK {
            return Err(failed("too many operations on too much data"));
        }
        Ok(())
    }
}

fn failed(problem: impl std::fmt::Display) -> ApiError {
    ApiError::invalid_unnamed(Location::Body, format!("JSON patch failed: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(data: Value, operations: Value) -> Result<Map<String, Value>, ApiError> {
        let Value::Object(data) = data else {
            panic!("{data} is no object")
        };
        let operations = parse(operations.to_string().as_bytes())?;
        let (granted, allowance) = (Permissions::default(), Allowance::default());
        apply(Kind::Record, operations, data, &granted, &allowance).map(|(data, _)| data)
    }

    fn refusal(operations: Value) -> String {
        match applied(json!({"n": 0, "a": [1]}), operations) {
            Err(ApiError::Invalid(details)) => details[0].description.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_operation_gives_a_field_that_it_writes() {
        let gives_b = |operation: Value| gives(&[operation], "b");
        assert!(gives_b(
            json!({"op": "replace", "path": "/data/b", "value": 1})
        ));
        assert!(gives_b(
            json!({"op": "add", "path": "/data", "value": {"b": 1}})
        ));
        assert!(!gives_b(
            json!({"op": "test", "path": "/data/b", "value": 1})
        ));
        assert!(!gives_b(json!({"op": "remove", "path": "/data/b"})));
        assert!(!gives_b(
            json!({"op": "add", "path": "/data/c", "value": {"b": 1}})
        ));
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
    fn operations_cannot_go_through_much_data_again_and_again() {
        let much = json!({"a": vec![0; 100_000], "b": []});
        let test = json!({"op": "test", "path": "/data/a", "value": 1});
        let same = json!({"op": "test", "path": "/data/b", "value": []});
        let shift = json!({"op": "add", "path": "/data/a/0", "value": 1});
        for (operation, times) in [(shift, 200), (test, 1), (same, MAX_OPERATIONS + 1)] {
            let refused = applied(much.clone(), vec![operation; times].into());
            assert!(matches!(refused, Err(ApiError::Invalid(_))), "{refused:?}");
        }
        let moves = [
            json!({"op": "move", "from": "/data/a", "path": "/data/c"}),
            json!({"op": "move", "from": "/data/c", "path": "/data/a"}),
        ];
        assert!(applied(much, json!(vec![moves; 1000].concat())).is_ok());
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
