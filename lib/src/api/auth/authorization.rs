//! Authorization: one request against the permissions of the objects that it is about.

use http::Method;

use crate::api::auth::principals::User;
use crate::api::web::cache_control;
use crate::api::web::error::ApiError;
use crate::api::web::preconditions::is_safe_creation;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::permission::{self, Access, Permissions};
use crate::resource::{Kind, ListUri, ObjectUri, is_valid_id};
use crate::settings::ApiSettings;
use crate::unit_of_work::UnitOfWork;

/// The bucket id under which the changes feed is served.
pub const MONITOR: &str = "monitor";

/// The error of a write to the bucket of the changes feed: in Kinto anyone may create it, which hides the feed.
pub const RESERVED: ApiError =
    ApiError::Reserved("The bucket id monitor is reserved for the changes feed.");

/// Returns `true` if the object is the bucket of the changes feed, or in it: neither a path nor a posted id may name
/// it.
pub fn is_reserved(uri: &ObjectUri) -> bool {
    uri.kind() != Kind::Account && uri.bucket_id() == MONITOR
}

/// A request and all that its authorization depends on, except the unit of work.
#[derive(Clone, Copy)]
pub struct ObjectRequest<'a> {
    /// The request.
    pub request: &'a Request,
    /// The user who sends it.
    pub user: &'a User,
    /// The settings, which grant permissions too.
    pub settings: &'a ApiSettings,
    /// The object; for a list, any object in it.
    pub uri: &'a ObjectUri,
}

impl ObjectRequest<'_> {
    /// Checks that the ids of the object's parents are valid, and that a record's collection exists.
    ///
    /// # Errors
    /// 404.
    pub fn check_parents(&self, unit: &UnitOfWork) -> Result<(), ApiError> {
        let Some(parent) = self.uri.parent() else {
            return Ok(());
        };
        let ancestors: Vec<_> = parent.lineage().collect();
        if let Some(invalid) = ancestors
            .into_iter()
            .rev()
            .find(|uri| !is_valid_id(uri.id()))
        {
            return Err(ApiError::unknown_parent(invalid));
        }
        // The check of permissions refuses a bucket that does not exist, since it grants nothing.
        if self.uri.kind() == Kind::Record && unit.get(parent).is_none() {
            return Err(ApiError::unknown_parent(parent));
        }
        Ok(())
    }

    /// Checks that the object's parent exists, before a write: settings grant permissions in any bucket, even in one
    /// that does not exist.
    ///
    /// # Errors
    /// 404.
    pub fn check_parent_exists(&self, unit: &UnitOfWork) -> Result<(), ApiError> {
        match self.uri.parent() {
            Some(parent) if unit.get(parent).is_none() => Err(ApiError::unknown_parent(parent)),
            _ => Ok(()),
        }
    }

    /// Checks that the user has the permission that the request needs on the object.
    ///
    /// # Errors
    /// 403, or 401 for an anonymous user.
    pub fn check_permission(&self, unit: &UnitOfWork) -> Result<(), ApiError> {
        let exists = unit.get(self.uri).is_some();
        let safe_creation = is_safe_creation(self.request);
        let allowed = match self.request.method {
            // Kinto#792: a user who may only create can rule out overwriting (`If-None-Match: *`).
            Method::PUT if exists && !safe_creation => self.may(unit, Access::Write, self.uri),
            Method::POST if exists => self.may(unit, Access::Read, self.uri),
            Method::PUT | Method::POST => self.may_create(unit),
            // Kinto#918: a user who may read the parent may learn that the object does not exist.
            Method::PATCH | Method::DELETE if !exists => self.may_all(unit, Access::Read),
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
        self.granted_by_settings(access)
            || permission::allows(access, uri, &self.user.principals, |object| {
                unit.get(object).map(|live| live.permissions)
            })
    }

    fn granted_by_settings(&self, access: Access) -> bool {
        match access {
            Access::Read => self.settings_grant("read") || self.settings_grant("write"),
            Access::Write => self.settings_grant("write"),
            Access::Create(_) => self.settings_grant("create") || self.settings_grant("write"),
        }
    }

    /// Returns `true` if the user may read the object.
    pub fn may_read(&self, unit: &UnitOfWork) -> bool {
        self.may(unit, Access::Read, self.uri)
    }

    /// Returns `true` if the user may create an object in the list that the object is in.
    pub fn may_create(&self, unit: &UnitOfWork) -> bool {
        match self.uri.parent() {
            Some(parent) => self.may(unit, Access::Create(self.uri.kind()), parent),
            None => self.settings_grant("create"),
        }
    }

    /// Returns `true` if the user has `access`, to read or to write, to every object of the list that the object is in.
    pub fn may_all(&self, unit: &UnitOfWork, access: Access) -> bool {
        // Only the object's parents count here: the object itself grants nothing, whether it exists or not.
        let granted_above = |object: &ObjectUri| {
            let live = unit.get(object).filter(|_| object != self.uri);
            live.map(|live| live.permissions)
        };
        self.granted_by_settings(access)
            || permission::allows(access, self.uri, &self.user.principals, granted_above)
    }

    /// Like [`Self::may_all`], for requests for the list. A setting that grants write on buckets or accounts does not
    /// grant listing all of them (Kinto 26.5).
    pub fn may_list_all(&self, unit: &UnitOfWork, access: Access) -> bool {
        match (access, self.uri.parent()) {
            (Access::Read, None) => self.settings_grant("read"),
            _ => self.may_all(unit, access),
        }
    }

    /// Returns `true` if an object of the list grants `access` by its own permissions.
    pub fn is_shared(
        &self,
        access: Access,
        list: &ListUri,
        id: &str,
        permissions: &Permissions,
    ) -> bool {
        let uri = list.clone().object(id);
        let granted = |object: &ObjectUri| (*object == uri).then_some(permissions);
        permission::allows(access, &uri, &self.user.principals, granted)
    }

    /// Returns `true` if the user may write the object, or create one in its list.
    pub fn may_change(&self, unit: &UnitOfWork) -> bool {
        self.may(unit, Access::Write, self.uri) || self.may_create(unit)
    }

    /// Says in the response to a `GET` how long it may be cached. Anonymous users who may write must see what they
    /// wrote.
    pub fn with_cache_headers(&self, unit: &UnitOfWork, response: Response) -> Response {
        if self.may_change(unit) {
            return response.uncached();
        }
        let parent = self.uri.parent().and_then(|parent| unit.get(parent));
        let collection = parent.map(|live| live.data);
        let caching = &self.settings.caching;
        cache_control::apply_to_read(response, self.uri.list(), collection, self.user, caching)
    }

    /// The error for a user without the permission.
    pub fn forbidden(&self) -> ApiError {
        self.user.forbidden()
    }

    fn settings_grant(&self, permission: &'static str) -> bool {
        let principals = &self.user.principals;
        self.settings
            .grants(self.uri.kind(), permission, principals)
    }
}
