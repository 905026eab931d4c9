//! `PATCH`: the three kinds of patches, and how each changes an object.

use serde_json::{Map, Value};

use super::body::{self, Body, set_permissions};
use super::json_patch;
use crate::api::plugins::accounts;
use crate::api::web::error::{ApiError, Location};
use crate::api::web::media_type::{self, JSON_PATCH, MERGE_PATCH};
use crate::api::web::request::Request;
use crate::permission::Permissions;
use crate::resource::Kind;
use crate::unit_of_work::Allowance;

/// The way in which the body of a `PATCH` changes an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json`: top-level fields replace those of the object.
    Plain,
    /// `application/merge-patch+json` (RFC 7396): deep, `null` removes.
    Merge,
    /// `application/json-patch+json` (RFC 6902): a list of operations on `/data` and `/permissions`.
    JsonPatch,
}

impl PatchKind {
    /// The kind that a request's `Content-Type` names.
    pub fn of(request: &Request) -> Self {
        match media_type::content_type(request).as_deref() {
            Some(MERGE_PATCH) => Self::Merge,
            Some(JSON_PATCH) => Self::JsonPatch,
            _ => Self::Plain,
        }
    }
}

/// A well-formed patch; whether it can be applied depends on the object.
#[derive(Debug)]
pub enum Patch {
    /// [`PatchKind::Plain`].
    Plain(Body),
    /// [`PatchKind::Merge`].
    Merge(Body),
    /// [`PatchKind::JsonPatch`], its operations.
    Operations(Vec<Value>),
}

/// An object that a patch was applied to.
#[derive(Debug)]
pub struct Patched {
    /// Its data, checked.
    pub data: Map<String, Value>,
    /// Its permissions.
    pub permissions: Permissions,
    /// The fields that the patch gives, as it gives them; for a JSON patch, all fields that the object has now.
    pub asked_for: Map<String, Value>,
}

impl Patch {
    /// Reads the body of a `PATCH` of an object of this kind.
    ///
    /// # Errors
    /// 400 for a body that is not such a patch.
    pub fn parse(kind: Kind, request: &Request) -> Result<Self, ApiError> {
        Ok(match PatchKind::of(request) {
            PatchKind::Plain => {
                Self::Plain(Body::parse_patch(kind, &request.body)?.without_nulls())
            }
            PatchKind::Merge => Self::Merge(Body::parse_patch(kind, &request.body)?),
            PatchKind::JsonPatch => {
                let mut operations = json_patch::parse(&request.body)?;
                accounts::add_replaced_password(kind, &mut operations);
                Self::Operations(operations)
            }
        })
    }

    /// Checks that it changes something; a JSON patch need not.
    ///
    /// # Errors
    /// 400.
    pub fn check_not_empty(&self) -> Result<(), ApiError> {
        match self {
            Self::Plain(body) | Self::Merge(body) if body.is_empty() => Err(ApiError::invalid(
                Location::Body,
                "data",
                "Give data or permissions, or both",
            )),
            _ => Ok(()),
        }
    }

    /// Applies it to an object with these permissions and data; the data include id and time.
    ///
    /// # Errors
    /// 400 if it cannot be applied, or if the result is not valid for an object of this kind.
    pub fn apply(
        self,
        kind: Kind,
        before: &Map<String, Value>,
        permissions: &Permissions,
        allowance: &Allowance,
    ) -> Result<Patched, ApiError> {
        let (body, is_merge) = match self {
            Self::Operations(operations) => {
                let before = before.clone();
                let (data, permissions) =
                    json_patch::apply(kind, operations, before, permissions, allowance)?;
                return Ok(Patched {
                    asked_for: data.clone(),
                    data,
                    permissions,
                });
            }
            Self::Plain(body) => (body, false),
            Self::Merge(body) => (body, true),
        };
        let asked_for = body.data.unwrap_or_default();
        let data = if is_merge {
            let mut data = Value::Object(before.clone());
            ::json_patch::merge(&mut data, &Value::Object(asked_for.clone()));
            accounts::check_not_removed(kind, &asked_for)?;
            match data {
                Value::Object(data) => data,
                _ => {
                    return Err(ApiError::invalid(
                        Location::Body,
                        "data",
                        "Must be a JSON object",
                    ));
                }
            }
        } else {
            let mut data = before.clone();
            data.extend(asked_for.clone());
            data
        };
        let mut permissions = permissions.clone();
        set_permissions(&mut permissions, body.permissions);
        Ok(Patched {
            data: body::check_data(kind, data, "", allowance)?,
            permissions,
            asked_for,
        })
    }
}

/// Returns `true` if the body of a `PUT` or `PATCH` gives the object this field of its data.
pub fn gives(request: &Request, field: &str) -> bool {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match PatchKind::of(request) {
        PatchKind::JsonPatch => json_patch::gives(body.as_array().map_or(&[], |all| all), field),
        PatchKind::Plain | PatchKind::Merge => body["data"].get(field).is_some(),
    }
}
