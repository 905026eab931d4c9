//! The endpoints of single buckets, groups, collections and records: one set of rules for all kinds.
//!
//! Nothing here waits: a request has read all that it needs ([`needs`]) when [`handle`] decides.

pub mod body;
pub mod json_patch;
pub mod metadata;
pub mod patch;
pub mod schema;

use crate::api::dispatch::context::Context;
use crate::api::dispatch::target::Target;
use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use self::body::{Body, set_permissions};
use self::patch::{Patch, Patched};
use crate::api::auth::account_id;
use crate::api::auth::authorization::ObjectRequest;
use crate::api::auth::authorization::{RESERVED, is_reserved};
use crate::api::auth::principals::MAX_NAMED_BUCKETS;
use crate::api::lists::parameters;
use crate::api::lists::projection::Projection;
use crate::api::plugins::{accounts, signer};
use crate::api::web::error::{ApiError, Location};
use crate::api::web::media_type;
use crate::api::web::preconditions::{Outcome, Preconditions};
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::json::field::{self, Field};
use crate::json::length;
use crate::permission::{Access, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::timestamp::Timestamp;
use crate::unit_of_work::client_time;
use crate::unit_of_work::{LiveObject, Needs, UnitOfWork};

/// The largest item of DynamoDB, in bytes.
const MAX_ITEM_SIZE: usize = 400 * 1024;
/// The most bytes that keys, times, generations and the names of attributes add to an object's data and permissions.
const MAX_ITEM_OVERHEAD: usize = 2048;

/// The target of a `POST` to `list`: the object with the id that the client gave, valid or not, or with a new one; for
/// accounts, only a given id counts. An unreadable body is refused later.
pub fn posted(list: ListUri, request: &Request) -> Target {
    let (uri, is_new) = match field::at(&["data", "id"], &request.body) {
        Field::Missing if list.kind() == Kind::Account => (list.object(""), false),
        Field::Missing => {
            let id = list.kind().new_id();
            (list.object(id), true)
        }
        Field::Text(id) => (list.object(id), false),
        Field::Other => (list.object(""), false),
    };
    Target::Object { uri, is_new }
}

/// The reads that the request needs. An object without a valid id cannot exist, and is not read.
pub fn needs(request: &Request, uri: &ObjectUri, is_new: bool) -> Needs {
    let objects = uri
        .lineage()
        .skip(is_new.into())
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

/// Decides on a request and writes its changes to `unit`.
///
/// # Errors
/// Any refusal of the request; then nothing was written to `unit`.
pub fn handle(cx: &mut Context<'_>, uri: &ObjectUri) -> Result<Response, ApiError> {
    let settings = cx.settings();
    let (request, user) = (cx.request, cx.user);
    let unit = &mut *cx.unit;
    let object_request = ObjectRequest {
        request,
        user,
        settings,
        uri,
    };
    // In Kinto anyone may create it, which hides the changes feed.
    if !request.is_read() && is_reserved(uri) {
        return Err(RESERVED);
    }
    // Kinto looks up a parent before the permissions when it writes, after them when it reads.
    let writes = !request.is_read();
    if writes {
        object_request.check_parents(unit)?;
    }
    if request.method == Method::POST && !uri.kind().is_valid_id(uri.id()) {
        return Err(match uri.kind() {
            Kind::Account if uri.id().is_empty() => {
                ApiError::invalid(Location::Body, "data.id", "Required")
            }
            _ => ApiError::invalid_id(),
        });
    }
    media_type::check(request)?;
    if uri.kind() == Kind::Account {
        accounts::check_own(&object_request, unit)?;
    }
    object_request.check_permission(unit)?;
    if writes {
        object_request.check_parent_exists(unit)?;
    } else {
        object_request.check_parents(unit)?;
    }
    let preconditions = Preconditions::of(request)?;
    match request.method {
        Method::PUT => object_request.put(unit, preconditions),
        Method::POST => object_request.post(unit, preconditions),
        Method::PATCH => object_request.patch(unit, preconditions),
        Method::DELETE => object_request.delete(unit, preconditions),
        _ => object_request.get(unit, preconditions),
    }
}

impl ObjectRequest<'_> {
    fn get(&self, unit: &UnitOfWork, preconditions: Preconditions) -> Result<Response, ApiError> {
        let object = self.existing(unit)?;
        match preconditions.check(self.request, Some(object.last_modified)) {
            Outcome::Met => {}
            Outcome::NotModified => {
                let response = Response::empty(StatusCode::NOT_MODIFIED);
                return Ok(
                    self.with_cache_headers(unit, response.modified_at(object.last_modified))
                );
            }
            Outcome::Failed => return Err(self.precondition_failed(unit, object)),
        }
        let data = self.with_id(object.data.clone(), object.last_modified);
        let body = match self.fields() {
            Some(fields) => json!({"data": fields.pick(&data)}),
            None => self.shown(data, object.permissions),
        };
        let response = Response::json(StatusCode::OK, &body).modified_at(object.last_modified);
        Ok(self.with_cache_headers(unit, response))
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
        set_permissions(&mut permissions, body.permissions);
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
        set_permissions(&mut permissions, body.permissions);
        self.store(unit, body.data.unwrap_or_default(), permissions, None, true)
    }

    fn patch(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<Response, ApiError> {
        let behavior = self.response_behavior()?;
        let kind = self.uri.kind();
        let patch = Patch::parse(kind, self.request)?;
        let existing = self.existing(unit)?;
        self.check_existing(unit, existing, preconditions)?;
        patch.check_not_empty()?;
        let previous = existing.last_modified;
        let before = self.with_id(existing.data.clone(), previous);
        let Patched {
            data,
            permissions,
            asked_for,
        } = patch.apply(kind, &before, existing.permissions, &unit.allowance)?;
        let mut kept = data.clone();
        if !matches!(wanted_time(kept.get(metadata::LAST_MODIFIED).cloned(), Timestamp(u64::MAX)), Ok(Some(at)) if at > previous)
        {
            kept.shift_remove(metadata::LAST_MODIFIED);
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
        self.check_existing(unit, existing, preconditions)?;
        let at = self.last_modified_parameter(unit)?;
        let at = at.filter(|at| *at > existing.last_modified);
        let deleted_at = unit.delete(self.uri, at);
        let tombstone = json!({"id": self.uri.id(), "last_modified": deleted_at, "deleted": true});
        Ok(Response::json(StatusCode::OK, &json!({"data": tombstone})).modified_at(deleted_at))
    }

    /// Creates or updates the object, and returns it as the API shows it.
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
                Location::Body,
                "id",
                "Does not match the id of the object",
            ));
        }
        let latest = client_time::latest_time(unit.now(), unit.timestamp_of(self.uri.list()));
        let at = wanted_time(data.shift_remove("last_modified"), latest)?
            .filter(|at| previous.is_none_or(|previous| *at > previous));
        if self.settings.schema_validation {
            data = self.validated(unit, data)?;
        }
        if self.uri.kind() == Kind::Account {
            let before = unit.get(self.uri).map(|object| object.data);
            accounts::store_password(
                &mut data,
                before,
                self.settings.account_hash_cost,
                &unit.allowance,
            )?;
        }
        self.check_groups(unit, &permissions)?;
        let is_owned_by_nobody = || {
            let signer = self.settings.signer.as_ref();
            signer::is_owned_by_nobody(signer, self.uri, created, || {
                self.may_all(unit, Access::Write)
            })
        };
        if self.settings.explicit_permissions && !is_owned_by_nobody() {
            permissions.grant("write", &self.owner());
        }
        if length::of(&(&data, &permissions)) > MAX_ITEM_SIZE - MAX_ITEM_OVERHEAD {
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

    /// Checks that changed permissions name groups of few other buckets: each request for the object reads whether its
    /// user is a member of them.
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
        Err(ApiError::invalid(Location::Body, "permissions", problem))
    }

    /// The data of the object, after validation against the schemas of its collection and bucket.
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

    /// The principal that is granted `write` on what the user writes.
    fn owner(&self) -> String {
        match self.uri.kind() {
            Kind::Account => account_id::principal(self.uri.id()),
            _ => self.user.principal().to_owned(),
        }
    }

    /// The object, or the error that its id is invalid or that it does not exist.
    fn existing<'u>(&self, unit: &'u UnitOfWork) -> Result<LiveObject<'u>, ApiError> {
        if !self.uri.has_valid_id() {
            return Err(ApiError::invalid_id());
        }
        unit.get(self.uri).ok_or_else(|| ApiError::UnknownObject {
            kind: self.uri.kind(),
            id: self.uri.id().to_owned(),
        })
    }

    /// Checks the preconditions of a request that may create the object.
    fn check_preconditions(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<(), ApiError> {
        if let Some(existing) = unit.get(self.uri) {
            return self.check_existing(unit, existing, preconditions);
        }
        match preconditions.check(self.request, None) {
            Outcome::Failed => {
                let timestamp = unit.rely_on_timestamp(self.uri.list());
                Err(ApiError::precondition_failed(timestamp))
            }
            _ => Ok(()),
        }
    }

    /// Checks the preconditions of a request that changes an object.
    fn check_existing(
        &self,
        unit: &UnitOfWork,
        existing: LiveObject<'_>,
        preconditions: Preconditions,
    ) -> Result<(), ApiError> {
        match preconditions.check(self.request, Some(existing.last_modified)) {
            Outcome::Failed => Err(self.precondition_failed(unit, existing)),
            _ => Ok(()),
        }
    }

    /// The 412 for an existing object. Only users who may read the object are shown it: one who may only create learns
    /// no more than that it exists.
    fn precondition_failed(&self, unit: &UnitOfWork, object: LiveObject<'_>) -> ApiError {
        let existing = self
            .may_read(unit)
            .then(|| self.with_id(object.data.clone(), object.last_modified));
        ApiError::PreconditionFailed {
            current: existing.as_ref().map(|_| object.last_modified),
            existing: existing.map(Value::Object),
        }
    }

    /// The data of the object as the API shows it, and as patches apply to it.
    fn with_id(&self, data: Map<String, Value>, last_modified: Timestamp) -> Map<String, Value> {
        let data = accounts::without_password(self.uri.kind(), data);
        metadata::with_metadata(data, self.uri.id(), last_modified)
    }

    /// An object as the API shows it. Only users who may write it by its own permissions see these.
    fn shown(&self, data: Map<String, Value>, permissions: &Permissions) -> Value {
        // A user with access to an account is its owner, or acts for the owner.
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
        parameters::fields(&self.request.parameter("_fields")?)
    }

    fn last_modified_parameter(&self, unit: &UnitOfWork) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.request.parameter("last_modified") else {
            return Ok(None);
        };
        let value = parameters::parse_value(text.trim_matches('"'));
        // Neither has a meaning, and a negative time is before the object's (Kinto 26.5).
        let is_ignored = match &value {
            Value::Null | Value::Bool(_) => true,
            Value::Number(number) => number.as_f64().is_some_and(|time| time < 0.0),
            _ => false,
        };
        if is_ignored {
            return Ok(None);
        }
        let latest = client_time::latest_time(unit.now(), unit.timestamp_of(self.uri.list()));
        let time = parameters::integer(&value).map(Timestamp);
        time.filter(|at| *at <= latest).map(Some).ok_or_else(|| {
            ApiError::invalid(
                Location::Querystring,
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
                Location::Header,
                "Response-Behavior",
                "Must be one of full, light, diff",
            )),
        }
    }
}

/// The content of the response to a `PATCH` (`Response-Behavior`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behavior {
    /// The whole object.
    Full,
    /// The changed fields.
    Light,
    /// The changed fields whose values are not those that the client sent.
    Diff,
}

/// The time that a client gives for an object, which must not be later than `latest`. Anything but an integer is
/// ignored (Kinto 26.5, `process_object`).
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
            Location::Body,
            "last_modified",
            format!("Must be between 0 and {latest}, a day ahead"),
        )
    };
    time.map(Some).ok_or_else(out_of_range)
}

/// The value of a field; `null` counts as missing.
fn value_of<'a>(data: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    data.get(field).filter(|value| !value.is_null())
}
