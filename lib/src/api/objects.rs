//! The endpoints of buckets, collections and records: one set of rules for all kinds.
//!
//! Nothing here waits: a request has read what it needs ([`needs`]) when [`answer`] decides.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::auth::User;
use super::body::{self, Body, PatchType};
use super::error::ApiError;
use super::listing::{self, ListQuery};
use super::request::{Preconditions, Request};
use super::response::Response;
use crate::permission::{self, Access, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri, is_valid_id};
use crate::settings::ApiSettings;
use crate::store::{Content, Object, Store, StoreError};
use crate::timestamp::Timestamp;
use crate::unit_of_work::{Live, UnitOfWork};

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

    /// The object that a `POST` to `list` is about, under the id that the client gave or a new one.
    ///
    /// # Errors
    /// 400 when the body gives an id that cannot be one. A body that cannot be read is looked at later.
    pub fn posted(list: ListUri, request: &Request) -> Result<Self, ApiError> {
        let body: Option<Value> = serde_json::from_slice(&request.body).ok();
        let given = body.as_ref().and_then(|body| body.get("data")?.get("id"));
        match given {
            None => Ok(Self {
                uri: list.object(Uuid::new_v4().to_string()),
                is_new: true,
            }),
            Some(Value::String(id)) if is_valid_id(id) => Ok(Self::at(list.object(id))),
            Some(_) => Err(ApiError::invalid_id()),
        }
    }
}

/// The objects and lists that the request must know; what has no valid id cannot exist and is not asked for.
pub fn needs(request: &Request, target: &Target) -> (Vec<ObjectUri>, Vec<ListUri>) {
    let uri = &target.uri;
    let objects = uri
        .lineage()
        .skip(target.is_new.into())
        .filter(|uri| uri.is_valid())
        .cloned()
        .collect();
    let reads_only = request.method == Method::GET || request.method == Method::HEAD;
    if reads_only || !uri.is_valid() {
        return (objects, vec![]);
    }
    (
        objects,
        std::iter::once(uri.list().clone())
            .chain(uri.child_lists())
            .collect(),
    )
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
    // Kinto looks a parent up before the permissions when it writes, after them when it reads.
    let writes = request.method != Method::GET && request.method != Method::HEAD;
    if writes {
        asked.check_parents(unit)?;
    }
    body::check_media_types(request)?;
    asked.check_permission(unit)?;
    if !writes {
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

/// Answers `GET` and `HEAD` of a list.
///
/// Two round trips: the parents with the list's timestamp, then the objects. In this order a write that comes
/// between shows as an object later than the `ETag`, which the client asks for again, never as one that it misses.
///
/// # Errors
/// Whatever the request is to be refused for.
pub async fn list(
    store: &Store,
    request: &Request,
    user: &User,
    list: &ListUri,
    settings: &ApiSettings,
) -> Result<Response, ApiError> {
    body::check_media_types(request)?;
    // Any object of the list stands for all: what they live under is the same.
    let uri = list.clone().object("x");
    let asked = Asked {
        request,
        user,
        settings,
        uri: &uri,
    };
    let (parents, lists) = if uri.is_valid() {
        let parents = uri.lineage().skip(1).cloned().collect();
        (parents, vec![list.clone()])
    } else {
        (vec![], vec![])
    };
    let now = Timestamp::now();
    let unit = UnitOfWork::read(store, now, parents, lists).await?;

    // Who may not read all of the list sees what of it is shared; this takes all of it to be read.
    let shared = if asked.may_list(&unit) {
        None
    } else {
        let (all, _) = read_list(&unit, store, list, &ListQuery::all(), None).await?;
        let shared: Vec<_> = all
            .into_iter()
            .filter(|(id, object)| asked.is_shared(list, id, object))
            .collect();
        if shared.is_empty() && !asked.may_create(&unit) {
            return Err(asked.forbidden());
        }
        Some(shared)
    };
    asked.check_parents(&unit)?;

    let timestamp = unit.timestamp_of(list);
    if let Some(answer) = listing::check_preconditions(request, timestamp)? {
        return Ok(answer);
    }
    let query = ListQuery::parse(request, None, settings, now)?;
    let counts = request.method == Method::HEAD;
    let (objects, more) = match shared {
        Some(shared) => (shared, false),
        None => {
            let enough = query.enough().filter(|_| !counts);
            read_list(&unit, store, list, &query, enough).await?
        }
    };
    let objects: Vec<_> = objects
        .into_iter()
        .map(|(id, object)| shown_in_list(&id, object))
        .collect();
    if counts {
        return Ok(listing::counted(query.count(&objects), timestamp));
    }
    Ok(query
        .apply(objects, more, request, settings)
        .into_response(timestamp))
}

/// The objects of the list that `query` may ask for, and whether there may be more of them, which a page that is as
/// large as it may be has no room for; none when what they live under does not exist.
async fn read_list(
    unit: &UnitOfWork,
    store: &Store,
    list: &ListUri,
    query: &ListQuery,
    enough: Option<usize>,
) -> Result<(Vec<(String, Object)>, bool), StoreError> {
    let Some(generation) = unit.generation_of(list) else {
        return Ok((vec![], false));
    };
    let bounds = query.bounds();
    // Where one page is read and no more, what it cannot hold need not be read.
    let bytes = enough.map_or(usize::MAX, |_| listing::MAX_PAGE);
    store
        .list_within(
            bytes,
            list,
            &generation,
            (bounds.since, bounds.before),
            query.includes_tombstones(),
            enough,
        )
        .await
}

/// An object of a list, a tombstone or not, as the API shows it.
fn shown_in_list(id: &str, object: Object) -> Map<String, Value> {
    let mut data = match object.content {
        Content::Live { data, .. } => data,
        Content::Deleted => Map::from_iter([("deleted".to_owned(), true.into())]),
    };
    data.insert("id".to_owned(), id.into());
    data.insert(
        listing::LAST_MODIFIED.to_owned(),
        object.last_modified.0.into(),
    );
    data
}

/// One request, with all that decides on it but the unit of work.
struct Asked<'a> {
    request: &'a Request,
    user: &'a User,
    settings: &'a ApiSettings,
    uri: &'a ObjectUri,
}

impl Asked<'_> {
    /// Checks that what the object lives under can exist, and that a record's collection does.
    fn check_parents(&self, unit: &UnitOfWork) -> Result<(), ApiError> {
        let Some(parent) = self.uri.parent() else {
            return Ok(());
        };
        let unknown = |uri: &ObjectUri| ApiError::UnknownParent {
            kind: uri.kind(),
            id: uri.id().to_owned(),
        };
        let ancestors: Vec<_> = parent.lineage().collect();
        if let Some(invalid) = ancestors
            .into_iter()
            .rev()
            .find(|uri| !is_valid_id(uri.id()))
        {
            return Err(unknown(invalid));
        }
        // A bucket that does not exist grants nothing, which the check of permissions sees.
        if self.uri.kind() == Kind::Record && unit.get(parent).is_none() {
            return Err(unknown(parent));
        }
        Ok(())
    }

    fn check_permission(&self, unit: &UnitOfWork) -> Result<(), ApiError> {
        let exists = unit.get(self.uri).is_some();
        let safe_creation = self.request.header(http::header::IF_NONE_MATCH) == Some("*");
        let allowed = match self.request.method {
            // Kinto#792: who may only create can say that nothing is to be overwritten.
            Method::PUT if exists && !safe_creation => self.may(unit, Access::Write, self.uri),
            Method::POST if exists => self.may(unit, Access::Read, self.uri),
            Method::PUT | Method::POST => self.may_create(unit),
            // Kinto#918: who may read the parent may learn that the object is not there.
            Method::PATCH | Method::DELETE if !exists => self.may_list(unit),
            Method::PATCH | Method::DELETE => self.may(unit, Access::Write, self.uri),
            _ => self.may(unit, Access::Read, self.uri),
        };
        if allowed {
            Ok(())
        } else {
            Err(self.forbidden())
        }
    }

    fn may(&self, unit: &UnitOfWork, access: Access, uri: &ObjectUri) -> bool {
        let by_settings = match access {
            Access::Read => self.settings_grant("read") || self.settings_grant("write"),
            Access::Write => self.settings_grant("write"),
            Access::Create(_) => self.settings_grant("create") || self.settings_grant("write"),
        };
        by_settings || self.is_granted(unit, access, uri)
    }

    fn may_create(&self, unit: &UnitOfWork) -> bool {
        match self.uri.parent() {
            Some(parent) => self.may(unit, Access::Create(self.uri.kind()), parent),
            None => self.settings_grant("create"),
        }
    }

    /// Whether the user may read whatever is in the list that the object is in.
    fn may_list(&self, unit: &UnitOfWork) -> bool {
        // The object itself grants nothing here, whether it exists or not: only what it lives under is asked.
        let granted_above = |object: &ObjectUri| {
            let live = unit.get(object).filter(|_| object != self.uri);
            live.map(|live| live.permissions)
        };
        self.settings_grant("read")
            || self.settings_grant("write")
            || permission::allows(Access::Read, self.uri, &self.user.principals, granted_above)
    }

    /// Whether an object of the list is readable by its own permissions.
    fn is_shared(&self, list: &ListUri, id: &str, object: &Object) -> bool {
        let Content::Live { permissions, .. } = &object.content else {
            return false;
        };
        let uri = list.clone().object(id);
        let granted = |asked: &ObjectUri| (*asked == uri).then_some(permissions);
        permission::allows(Access::Read, &uri, &self.user.principals, granted)
    }

    fn forbidden(&self) -> ApiError {
        ApiError::Forbidden {
            authenticated: self.user.id.is_some(),
        }
    }

    fn is_granted(&self, unit: &UnitOfWork, access: Access, uri: &ObjectUri) -> bool {
        permission::allows(access, uri, &self.user.principals, |object| {
            unit.get(object).map(|live| live.permissions)
        })
    }

    fn settings_grant(&self, permission: &str) -> bool {
        let granted = self.settings.granted(self.uri.kind(), permission);
        granted
            .iter()
            .any(|principal| self.user.principals.contains(principal))
    }

    fn get(&self, unit: &UnitOfWork, preconditions: Preconditions) -> Result<Response, ApiError> {
        let object = self.existing(unit)?;
        if preconditions.not_modified(object.last_modified) {
            return Ok(Response::empty(StatusCode::NOT_MODIFIED).modified_at(object.last_modified));
        }
        if !preconditions.hold(Some(object.last_modified)) {
            return Err(self.modified(object));
        }
        let data = self.with_id(object.data.clone(), object.last_modified);
        let body = match self.fields() {
            Some(fields) => json!({"data": listing::subset(&data, &fields)}),
            None => self.shown(data, object.permissions),
        };
        Ok(Response::json(StatusCode::OK, &body)
            .modified_at(object.last_modified)
            .uncached())
    }

    fn put(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<Response, ApiError> {
        let body = Body::parse(self.uri.kind(), &self.request.body)?;
        if !is_valid_id(self.uri.id()) {
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
        let body = Body::parse(self.uri.kind(), &self.request.body)?;
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
            PatchType::Operations => Some(body::parse_operations(&self.request.body)?),
            _ => None,
        };
        let body = match operations {
            Some(_) => Body::default(),
            None => Body::parse(self.uri.kind(), &self.request.body)?,
        };
        let existing = self.existing(unit)?;
        if !preconditions.hold(Some(existing.last_modified)) {
            return Err(self.modified(existing));
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
                let (data, patched) = body::apply_operations(
                    self.uri.kind(),
                    &operations,
                    before.clone(),
                    &permissions,
                )?;
                permissions = patched;
                (data.clone(), data)
            }
            (None, PatchType::Merge) => {
                let asked_for = body.data.unwrap_or_default();
                let mut data = Value::Object(before.clone());
                json_patch::merge(&mut data, &Value::Object(asked_for.clone()));
                set_all(&mut permissions, body.permissions);
                let Value::Object(data) = data else {
                    return Err(ApiError::invalid("body", "data", "Must be a JSON object"));
                };
                (data, asked_for)
            }
            (None, _) => {
                let asked_for = body.data.unwrap_or_default();
                let mut data = before.clone();
                data.extend(asked_for.clone());
                set_all(
                    &mut permissions,
                    body.permissions
                        .into_iter()
                        .filter(|(_, principals)| principals.is_some()),
                );
                (data, asked_for)
            }
        };
        let changed: Vec<String> = asked_for
            .keys()
            .filter(|field| before.get(*field) != data.get(*field))
            .cloned()
            .collect();
        let full = self.store(unit, data, permissions, Some(previous), false)?;
        let Some(now) = unit.get(self.uri).filter(|_| behavior != Behavior::Full) else {
            return Ok(full);
        };
        let mut data = self.with_id(now.data.clone(), now.last_modified);
        data.retain(|field, value| {
            changed.contains(field)
                && (behavior == Behavior::Light || asked_for.get(field) != Some(value))
        });
        Ok(Response::json(StatusCode::OK, &json!({"data": data})).modified_at(now.last_modified))
    }

    fn delete(
        &self,
        unit: &mut UnitOfWork,
        preconditions: Preconditions,
    ) -> Result<Response, ApiError> {
        let at = self.last_modified_parameter()?;
        let existing = self.existing(unit)?;
        if !preconditions.hold(Some(existing.last_modified)) {
            return Err(self.modified(existing));
        }
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
        let at = wanted_time(data.shift_remove("last_modified"))?
            .filter(|at| previous.is_none_or(|previous| *at > previous));
        if self.settings.explicit_permissions {
            permissions.grant("write", self.user.principal());
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

    /// The object, or why it cannot be had: an id that cannot be one, or nothing there.
    fn existing<'u>(&self, unit: &'u UnitOfWork) -> Result<Live<'u>, ApiError> {
        if !is_valid_id(self.uri.id()) {
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
                Err(self.modified(object))
            }
            None if !preconditions.hold(None) => Err(ApiError::Modified {
                current: unit.rely_on_timestamp(self.uri.list()),
                existing: None,
            }),
            _ => Ok(()),
        }
    }

    fn modified(&self, object: Live<'_>) -> ApiError {
        let existing = self.with_id(object.data.clone(), object.last_modified);
        ApiError::Modified {
            current: object.last_modified,
            existing: Some(existing.into()),
        }
    }

    fn with_id(
        &self,
        mut data: Map<String, Value>,
        last_modified: Timestamp,
    ) -> Map<String, Value> {
        data.insert("id".to_owned(), self.uri.id().into());
        data.insert("last_modified".to_owned(), last_modified.0.into());
        data
    }

    /// An object as the API shows it. Its permissions are for those alone who may write it by its own permissions.
    fn shown(&self, data: Map<String, Value>, permissions: &Permissions) -> Value {
        let may_see = permissions.grants("write", &self.user.principals);
        let permissions = if may_see {
            json!(permissions)
        } else {
            json!({})
        };
        json!({"permissions": permissions, "data": data})
    }

    /// The fields named in `_fields`.
    fn fields(&self) -> Option<Vec<String>> {
        let fields = self
            .request
            .parameter("_fields")
            .filter(|fields| !fields.is_empty())?;
        Some(fields.split(',').map(str::to_owned).collect())
    }

    fn last_modified_parameter(&self) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.request.parameter("last_modified") else {
            return Ok(None);
        };
        Timestamp::from_query(&text)
            .filter(|at| *at <= Timestamp::MAX)
            .map(Some)
            .ok_or_else(|| {
                ApiError::invalid(
                    "querystring",
                    "last_modified",
                    "Must be a time in milliseconds",
                )
            })
    }

    fn response_behavior(&self) -> Result<Behavior, ApiError> {
        match self
            .request
            .header("response-behavior")
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            None | Some("full") => Ok(Behavior::Full),
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

/// The time that a client wants for an object; what is not an integer is ignored (Kinto 26.5, `process_object`).
fn wanted_time(value: Option<Value>) -> Result<Option<Timestamp>, ApiError> {
    let Some(Value::Number(number)) = value else {
        return Ok(None);
    };
    if number.is_f64() {
        return Ok(None);
    }
    let time = number
        .as_u64()
        .map(Timestamp)
        .filter(|time| (Timestamp(1)..=Timestamp::MAX).contains(time));
    let out_of_range = || {
        ApiError::invalid(
            "body",
            "last_modified",
            format!("Must be between 1 and {}", Timestamp::MAX),
        )
    };
    time.map(Some).ok_or_else(out_of_range)
}

fn set_all(
    permissions: &mut Permissions,
    changes: impl IntoIterator<Item = (String, Option<Vec<String>>)>,
) {
    for (permission, principals) in changes {
        permissions.set(&permission, principals.unwrap_or_default());
    }
}
