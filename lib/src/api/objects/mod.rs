//! The endpoints of single buckets, groups, collections and records: one set of rules for all kinds.
//!
//! Nothing here waits: a request has read what it needs ([`needs`]) when [`answer`] decides.

pub mod body;
pub mod patch;
pub mod schema;

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use self::body::{Body, PatchType, PermissionChanges};
use crate::api::auth::authorization::Asked;
use crate::api::auth::credentials::{MAX_NAMED_BUCKETS, User};
use crate::api::dispatch::router;
use crate::api::lists::projection::Projection;
use crate::api::lists::query;
use crate::api::plugins::accounts;
use crate::api::web::error::ApiError;
use crate::api::web::request::{Preconditions, Request};
use crate::api::web::response::Response;
use crate::permission::Permissions;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::ApiSettings;
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Live, Needs, UnitOfWork};

/// An item of DynamoDB in bytes at most.
const MAX_ITEM_SIZE: usize = 400 * 1024;
/// What keys, times, generations and the names of attributes can add to an object's data and permissions.
const MAX_ITEM_OVERHEAD: usize = 2048;

/// The object that a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its URI, as the client sent it.
    pub uri: ObjectUri,
    /// Whether its id was made just now, so that there can be nothing there yet.
    is_new: bool,
}

impl Target {
    /// The object at `uri`.
    pub fn at(uri: ObjectUri) -> Self {
        Self { uri, is_new: false }
    }

    /// The object of the same ids in another bucket.
    pub fn in_bucket(&self, bucket: &str) -> Self {
        Self {
            uri: self.uri.in_bucket(bucket),
            is_new: self.is_new,
        }
    }

    /// The object that a `POST` to `list` is about, under the id that the client gave, valid or not, or a new one: an
    /// account has none but what is given. A body that cannot be read is looked at later.
    pub fn posted(list: ListUri, request: &Request) -> Self {
        let body = body::parse_json(&request.body).ok();
        let given = body.as_ref().and_then(|body| body.get("data")?.get("id"));
        match given {
            None if list.kind() == Kind::Account => Self::at(list.object("")),
            None => Self {
                uri: list.clone().object(list.kind().new_id()),
                is_new: true,
            },
            Some(id) => Self::at(list.object(id.as_str().unwrap_or_default())),
        }
    }
}

/// What the request must know; what has no valid id cannot exist and is not asked for.
pub fn needs(request: &Request, target: &Target) -> Needs {
    let uri = &target.uri;
    let objects = uri
        .lineage()
        .skip(target.is_new.into())
        .filter(|uri| uri.is_valid())
        .cloned()
        .collect();
    let lists = if request.is_read() || !uri.is_valid() {
        vec![]
    } else {
        std::iter::once(uri.list().clone())
            .chain(uri.child_lists())
            .collect()
    };
    Needs {
        objects,
        lists: lists.into_iter().collect(),
        ..Needs::default()
    }
}

/// Decides on a request, writing to `unit` what it changes.
///
/// # Errors
/// Whatever the request is to be refused for; the unit is to be dropped then.
pub fn answer(
    unit: &mut UnitOfWork,
    request: &Request,
    user: &User,
    uri: &ObjectUri,
    settings: &ApiSettings,
) -> Result<Response, ApiError> {
    let asked = Asked {
        request,
        user,
        settings,
        uri,
    };
    // In Kinto anybody may create it, and so hide the changes feed.
    if !request.is_read() && router::is_reserved(uri) {
        return Err(router::RESERVED);
    }
    // Kinto looks a parent up before the permissions when it writes, after them when it reads.
    let writes = !request.is_read();
    if writes {
        asked.check_parents(unit)?;
    }
    if request.method == Method::POST && !uri.kind().is_valid_id(uri.id()) {
        return Err(match uri.kind() {
            Kind::Account if uri.id().is_empty() => {
                ApiError::invalid("body", "data.id", "Required")
            }
            _ => ApiError::invalid_id(),
        });
    }
    body::check_media_types(request)?;
    if uri.kind() == Kind::Account {
        accounts::check_own(&asked, unit)?;
    }
    asked.check_permission(unit)?;
    if writes {
        asked.check_parent_exists(unit)?;
    } else {
        asked.check_parents(unit)?;
    }
    let preconditions = request.preconditions()?;
    match request.method {
        Method::PUT => asked.put(unit, preconditions),
        Method::POST => asked.post(unit, preconditions),
        Method::PATCH => asked.patch(unit, preconditions),
        Method::DELETE => asked.delete(unit, preconditions),
        _ => asked.get(unit, preconditions),
    }
}

impl Asked<'_> {
    fn get(&self, unit: &UnitOfWork, preconditions: Preconditions) -> Result<Response, ApiError> {
        let object = self.existing(unit)?;
        if preconditions.not_modified(object.last_modified) {
            let response = Response::empty(StatusCode::NOT_MODIFIED);
            return Ok(self.kept(unit, response.modified_at(object.last_modified)));
        }
        if !preconditions.hold(Some(object.last_modified)) {
            return Err(self.modified(unit, object));
        }
        let data = self.with_id(object.data.clone(), object.last_modified);
        let body = match self.fields() {
            Some(fields) => json!({"data": fields.pick(&data)}),
            None => self.shown(data, object.permissions),
        };
        let response = Response::json(StatusCode::OK, &body).modified_at(object.last_modified);
        Ok(self.kept(unit, response))
    }

    fn put(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<Response, ApiError> {
        let body = Body::parse(self.uri.kind(), &self.request.body, &unit.allowance)?;
        if !self.uri.has_valid_id() {
            return Err(ApiError::invalid_id());
        }
        self.check_preconditions(unit, preconditions)?;
        let existing = unit.get(self.uri);
        let created = existing.is_none();
        let previous = existing.map(|object| object.last_modified);
        let kept = existing
            .map(|object| object.data.clone())
            .unwrap_or_default();
        let mut permissions = existing
            .map(|object| object.permissions.clone())
            .unwrap_or_default();
        let replaces = !body.permissions.is_empty();
        if replaces {
            permissions = Permissions::default();
        }
        set_all(&mut permissions, body.permissions);
        let data = body.data.unwrap_or(kept);
        self.store(unit, data, permissions, previous, created)
    }

    fn post(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<Response, ApiError> {
        let body = Body::parse(self.uri.kind(), &self.request.body, &unit.allowance)?;
        self.check_preconditions(unit, preconditions)?;
        if let Some(object) = unit.get(self.uri) {
            let data = self.with_id(object.data.clone(), object.last_modified);
            let shown = self.shown(data, object.permissions);
            return Ok(Response::json(StatusCode::OK, &shown).modified_at(object.last_modified));
        }
        let mut permissions = Permissions::default();
        set_all(&mut permissions, body.permissions);
        self.store(unit, body.data.unwrap_or_default(), permissions, None, true)
    }

    fn patch(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<Response, ApiError> {
        let behavior = self.response_behavior()?;
        let patch_type = body::patch_type(self.request);
        let operations = match patch_type {
            PatchType::Operations => {
                let mut operations = patch::parse(&self.request.body)?;
                accounts::add_replaced_password(self.uri.kind(), &mut operations);
                Some(operations)
            }
            _ => None,
        };
        let body = match patch_type {
            PatchType::Operations => Body::default(),
            PatchType::Merge => Body::parse_patch(self.uri.kind(), &self.request.body)?,
            PatchType::Plain => {
                Body::parse_patch(self.uri.kind(), &self.request.body)?.without_nulls()
            }
        };
        let existing = self.existing(unit)?;
        if !preconditions.hold(Some(existing.last_modified)) {
            return Err(self.modified(unit, existing));
        }
        if operations.is_none() && body.is_empty() {
            return Err(ApiError::invalid(
                "body",
                "data",
                "Give data or permissions, or both",
            ));
        }
        let previous = existing.last_modified;
        let before = self.with_id(existing.data.clone(), previous);
        let mut permissions = existing.permissions.clone();
        let (data, asked_for) = match (operations, patch_type) {
            (Some(operations), _) => {
                let (data, patched) = patch::apply(
                    self.uri.kind(),
                    operations,
                    before.clone(),
                    &permissions,
                    &unit.allowance,
                )?;
                permissions = patched;
                (data.clone(), data)
            }
            (None, PatchType::Merge) => {
                let asked_for = body.data.unwrap_or_default();
                let mut data = Value::Object(before.clone());
                json_patch::merge(&mut data, &Value::Object(asked_for.clone()));
                accounts::check_not_removed(self.uri.kind(), &asked_for)?;
                set_all(&mut permissions, body.permissions);
                let Value::Object(data) = data else {
                    return Err(ApiError::invalid("body", "data", "Must be a JSON object"));
                };
                (
                    body::check_data(self.uri.kind(), data, "", &unit.allowance)?,
                    asked_for,
                )
            }
            (None, _) => {
                let asked_for = body.data.unwrap_or_default();
                let mut data = before.clone();
                data.extend(asked_for.clone());
                set_all(&mut permissions, body.permissions);
                (
                    body::check_data(self.uri.kind(), data, "", &unit.allowance)?,
                    asked_for,
                )
            }
        };
        let mut kept = data.clone();
        if !matches!(wanted_time(kept.get(query::LAST_MODIFIED).cloned(), Timestamp(u64::MAX)), Ok(Some(at)) if at > previous)
        {
            kept.shift_remove(query::LAST_MODIFIED);
        }
        let changed: Vec<String> = asked_for
            .keys()
            .filter(|field| value_of(&before, field) != value_of(&kept, field))
            .cloned()
            .collect();
        let full = self.store(unit, data, permissions, Some(previous), false)?;
        let Some(now) = unit.get(self.uri).filter(|_| behavior != Behavior::Full) else {
            return Ok(full);
        };
        let mut data = self.with_id(now.data.clone(), now.last_modified);
        data.retain(|field, value| {
            changed.contains(field)
                && (behavior == Behavior::Light
                    || value_of(&asked_for, field)
                        != Some(&*value).filter(|value| !value.is_null()))
        });
        Ok(Response::json(StatusCode::OK, &json!({"data": data})).modified_at(now.last_modified))
    }

    fn delete(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<Response, ApiError> {
        let existing = self.existing(unit)?;
        if !preconditions.hold(Some(existing.last_modified)) {
            return Err(self.modified(unit, existing));
        }
        let at = self.last_modified_parameter(unit)?;
        let at = at.filter(|at| *at > existing.last_modified);
        let deleted_at = unit.delete(self.uri, at);
        let tombstone = json!({"id": self.uri.id(), "last_modified": deleted_at, "deleted": true});
        Ok(Response::json(StatusCode::OK, &json!({"data": tombstone})).modified_at(deleted_at))
    }

    /// Creates or updates the object, and shows it.
    fn store(
        &self,
        unit: &mut UnitOfWork,
        mut data: Map<String, Value>,
        mut permissions: Permissions,
        previous: Option<Timestamp>,
        created: bool,
    ) -> Result<Response, ApiError> {
        if data
            .shift_remove("id")
            .is_some_and(|id| id != self.uri.id())
        {
            return Err(ApiError::invalid(
                "body",
                "id",
                "Does not match the id of the object",
            ));
        }
        let latest = query::latest_time(unit.now(), unit.timestamp_of(self.uri.list()));
        let at = wanted_time(data.shift_remove("last_modified"), latest)?
            .filter(|at| previous.is_none_or(|previous| *at > previous));
        if self.settings.schema_validation {
            data = self.validated(unit, data)?;
        }
        if self.uri.kind() == Kind::Account {
            let before = unit.get(self.uri).map(|object| object.data);
            accounts::store_password(&mut data, before, &unit.allowance)?;
        }
        self.check_groups(unit, &permissions)?;
        if self.settings.explicit_permissions {
            permissions.grant("write", &self.owner());
        }
        let size =
            serde_json::to_vec(&(&data, &permissions)).map_or(usize::MAX, |bytes| bytes.len());
        if size > MAX_ITEM_SIZE - MAX_ITEM_OVERHEAD {
            return Err(ApiError::TooLarge);
        }
        let (stored, granted) = (data.clone(), permissions.clone());
        let last_modified = if created {
            unit.create(self.uri, stored, granted, at)
        } else {
            unit.update(self.uri, stored, granted, at)
        };
        let status = if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let shown = self.shown(self.with_id(data, last_modified), &permissions);
        Ok(Response::json(status, &shown).modified_at(last_modified))
    }

    /// Checks that permissions that are new name groups of few other buckets: each request for the object reads who is in
    /// them.
    ///
    /// # Errors
    /// 400.
    fn check_groups(&self, unit: &UnitOfWork, permissions: &Permissions) -> Result<(), ApiError> {
        let before = unit.get(self.uri).map(|object| object.permissions);
        if before == Some(permissions) {
            return Ok(());
        }
        let own = self.uri.bucket_uri();
        let groups = permissions.groups();
        let others = groups.filter(|group| group.bucket_uri() != own);
        let buckets: BTreeSet<_> = others.map(|group| group.bucket_uri().clone()).collect();
        if buckets.len() <= MAX_NAMED_BUCKETS {
            return Ok(());
        }
        let problem =
            format!("Must not name groups of more than {MAX_NAMED_BUCKETS} other buckets");
        Err(ApiError::invalid("body", "permissions", problem))
    }

    /// The data of the object, which match the schemas that its collection and bucket carry.
    fn validated(
        &self,
        unit: &UnitOfWork,
        mut data: Map<String, Value>,
    ) -> Result<Map<String, Value>, ApiError> {
        data.insert("id".to_owned(), self.uri.id().into());
        let parent = self.uri.parent();
        let collection = parent.and_then(|parent| unit.get(parent));
        let bucket = unit.get(self.uri.bucket_uri());
        let mut data =
            schema::validate(self.uri.kind(), data, bucket, collection, &unit.allowance)?;
        data.shift_remove("id");
        Ok(data)
    }

    /// Who is granted `write` on what the user writes.
    fn owner(&self) -> String {
        match self.uri.kind() {
            Kind::Account => accounts::principal(self.uri.id()),
            _ => self.user.principal().to_owned(),
        }
    }

    /// The object, or why it cannot be had: an id that cannot be one, or nothing there.
    fn existing<'u>(&self, unit: &'u UnitOfWork) -> Result<Live<'u>, ApiError> {
        if !self.uri.has_valid_id() {
            return Err(ApiError::invalid_id());
        }
        unit.get(self.uri).ok_or_else(|| ApiError::UnknownObject {
            kind: self.uri.kind(),
            id: self.uri.id().to_owned(),
        })
    }

    fn check_preconditions(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<(), ApiError> {
        match unit.get(self.uri) {
            Some(object) if !preconditions.hold(Some(object.last_modified)) => {
                Err(self.modified(unit, object))
            }
            None if !preconditions.hold(None) => Err(ApiError::Modified {
                current: Some(unit.rely_on_timestamp(self.uri.list())),
                existing: None,
            }),
            _ => Ok(()),
        }
    }

    /// The refusal for what there is, which is shown to those alone who may read it: who may only create learns that
    /// there is something, no more.
    fn modified(&self, unit: &UnitOfWork, object: Live<'_>) -> ApiError {
        let existing = self
            .may_read(unit)
            .then(|| self.with_id(object.data.clone(), object.last_modified));
        ApiError::Modified {
            current: existing.as_ref().map(|_| object.last_modified),
            existing: existing.map(Value::Object),
        }
    }

    /// The data of the object as the API shows it, and takes it from a client to change it.
    fn with_id(&self, data: Map<String, Value>, last_modified: Timestamp) -> Map<String, Value> {
        let data = accounts::without_password(self.uri.kind(), data);
        query::named(data, self.uri.id(), last_modified)
    }

    /// An object as the API shows it. Its permissions are for those alone who may write it by its own permissions.
    fn shown(&self, data: Map<String, Value>, permissions: &Permissions) -> Value {
        // Who gets at an account at all is, or acts for, its owner.
        let may_see =
            self.uri.kind() == Kind::Account || permissions.grants("write", &self.user.principals);
        let permissions = if may_see {
            json!(permissions)
        } else {
            json!({})
        };
        json!({"permissions": permissions, "data": data})
    }

    /// The fields named in `_fields`.
    fn fields(&self) -> Option<Projection> {
        query::fields(&self.request.parameter("_fields")?)
    }

    fn last_modified_parameter(&self, unit: &UnitOfWork) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.request.parameter("last_modified") else {
            return Ok(None);
        };
        let value = query::native(text.trim_matches('"'));
        // Neither says anything, and what is negative is before the object's time (Kinto 26.5).
        let is_ignored = match &value {
            Value::Null | Value::Bool(_) => true,
            Value::Number(number) => number.as_f64().is_some_and(|time| time < 0.0),
            _ => false,
        };
        if is_ignored {
            return Ok(None);
        }
        let latest = query::latest_time(unit.now(), unit.timestamp_of(self.uri.list()));
        let time = query::whole(&value).map(Timestamp);
        time.filter(|at| *at <= latest).map(Some).ok_or_else(|| {
            ApiError::invalid(
                "querystring",
                "last_modified",
                "Must be a time in milliseconds, at most a day ahead",
            )
        })
    }

    fn response_behavior(&self) -> Result<Behavior, ApiError> {
        match self.request.header("response-behavior") {
            None | Some("full" | "") => Ok(Behavior::Full),
            Some("light") => Ok(Behavior::Light),
            Some("diff") => Ok(Behavior::Diff),
            Some(_) => Err(ApiError::invalid(
                "header",
                "Response-Behavior",
                "Must be one of full, light, diff",
            )),
        }
    }
}

/// What the answer to a `PATCH` shows (`Response-Behavior`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behavior {
    /// The whole object.
    Full,
    /// The fields that were changed.
    Light,
    /// The fields that became something else than was asked for.
    Diff,
}

/// The time that a client wants for an object, which is to be no later than `latest`; what is not an integer is ignored
/// (Kinto 26.5, `process_object`).
fn wanted_time(value: Option<Value>, latest: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    let Some(Value::Number(number)) = value else {
        return Ok(None);
    };
    if number.is_f64() {
        return Ok(None);
    }
    let time = number
        .as_u64()
        .map(Timestamp)
        .filter(|time| *time <= latest);
    let out_of_range = || {
        ApiError::invalid(
            "body",
            "last_modified",
            format!("Must be between 0 and {latest}, a day ahead"),
        )
    };
    time.map(Some).ok_or_else(out_of_range)
}

/// A field; one that is `null` counts as missing.
fn value_of<'a>(data: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    data.get(field).filter(|value| !value.is_null())
}

fn set_all(permissions: &mut Permissions, changes: PermissionChanges) {
    for (permission, principals) in changes {
        permissions.set(&permission, principals.unwrap_or_default());
    }
}
