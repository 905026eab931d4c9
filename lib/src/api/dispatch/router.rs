//! Which endpoint a request is for: method and path in, [`Route`] out.

use http::Method;

use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{ApiSettings, EndpointType, Plugin, Redirects};

/// The version prefix of every path.
pub const PREFIX: &str = "/v1";
/// The bucket id under which monitor/changes is served.
const MONITOR: &str = "monitor";

const READ: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS];
const OBJECT: &[Method] = &[
    Method::GET,
    Method::HEAD,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];
const LIST: &[Method] = &[
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::DELETE,
    Method::OPTIONS,
];
/// Of endpoints that do something.
const ACTION: &[Method] = &[Method::POST, Method::OPTIONS];

/// An endpoint. Ids in it are as the client sent them, valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`
    Hello,
    /// `/__heartbeat__`
    Heartbeat,
    /// `/__lbheartbeat__`
    LbHeartbeat,
    /// `/__version__`
    Version,
    /// `/__api__`
    OpenApi,
    /// `/contribute.json`
    Contribute,
    /// `/batch`
    Batch,
    /// `/permissions`
    Permissions,
    /// `/__broadcasts__`
    PullBroadcasts,
    /// `/broadcasts`
    Broadcasts,
    /// `/__flush__`
    Flush,
    /// `/openid/{provider}/login`
    OpenIdLogin(String),
    /// `/openid/{provider}/token`
    OpenIdToken(String),
    /// A single object.
    Object(ObjectUri),
    /// The objects of one kind under one parent.
    List(ListUri),
    /// `/buckets/monitor/collections/changes/records`
    MonitorRecords,
    /// `/buckets/monitor/collections/changes/changeset`
    MonitorChangeset,
    /// The changeset of any other collection.
    Changeset(ObjectUri),
}

impl Route {
    /// The endpoint at `path`, without its version prefix.
    fn at(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        if segments.len() > 1 && segments.contains(&"") {
            return None;
        }
        let groups = |bucket: &str| ObjectUri::bucket(bucket).children(Kind::Group);
        let collections = |bucket: &str| ObjectUri::bucket(bucket).children(Kind::Collection);
        let records = |bucket: &str, collection: &str| {
            ObjectUri::collection(bucket, collection).children(Kind::Record)
        };
        Some(match segments.as_slice() {
            [""] => Self::Hello,
            ["__heartbeat__"] => Self::Heartbeat,
            ["__lbheartbeat__"] => Self::LbHeartbeat,
            ["__version__"] => Self::Version,
            ["__api__"] => Self::OpenApi,
            ["contribute.json"] => Self::Contribute,
            ["batch"] => Self::Batch,
            ["permissions"] => Self::Permissions,
            ["__broadcasts__"] => Self::PullBroadcasts,
            ["broadcasts"] => Self::Broadcasts,
            ["__flush__"] => Self::Flush,
            ["openid", provider, "login"] => Self::OpenIdLogin((*provider).to_owned()),
            ["openid", provider, "token"] => Self::OpenIdToken((*provider).to_owned()),
            ["accounts"] => Self::List(ListUri::accounts()),
            ["accounts", id] => Self::Object(ObjectUri::account(*id)),
            ["buckets", MONITOR, "collections", "changes", "records"] => Self::MonitorRecords,
            ["buckets", MONITOR, "collections", "changes", "changeset"] => Self::MonitorChangeset,
            ["buckets", b, "collections", c, "changeset"] => {
                Self::Changeset(collections(b).object(*c))
            }
            ["buckets"] => Self::List(ListUri::buckets()),
            ["buckets", b] => Self::Object(ObjectUri::bucket(*b)),
            ["buckets", b, "groups"] => Self::List(groups(b)),
            ["buckets", b, "groups", g] => Self::Object(groups(b).object(*g)),
            ["buckets", b, "collections"] => Self::List(collections(b)),
            ["buckets", b, "collections", c] => Self::Object(collections(b).object(*c)),
            ["buckets", b, "collections", c, "records"] => Self::List(records(b, c)),
            ["buckets", b, "collections", c, "records", r] => {
                Self::Object(records(b, c).object(*r))
            }
            _ => return None,
        })
    }

    /// Every endpoint, with the path that leads there; `{…}` stands for the ids in it.
    pub fn all() -> Vec<(String, Self)> {
        let (bucket, collection) = ("{bucket_id}", "{collection_id}");
        let lists = Kind::ALL.map(|kind| match kind {
            Kind::Account => ListUri::accounts(),
            Kind::Bucket => ListUri::buckets(),
            Kind::Group | Kind::Collection => ObjectUri::bucket(bucket).children(kind),
            Kind::Record => ObjectUri::collection(bucket, collection).children(kind),
        });
        let of_kinds = lists
            .into_iter()
            .flat_map(|list| [list.to_string(), list.object("{id}").to_string()]);
        let others = [
            "/",
            "/__heartbeat__",
            "/__lbheartbeat__",
            "/__version__",
            "/__api__",
            "/contribute.json",
            "/batch",
            "/permissions",
            "/__broadcasts__",
            "/broadcasts",
            "/__flush__",
            "/openid/{provider}/login",
            "/openid/{provider}/token",
            "/buckets/monitor/collections/changes/records",
            "/buckets/monitor/collections/changes/changeset",
            "/buckets/{bucket_id}/collections/{collection_id}/changeset",
        ];
        let paths = others.into_iter().map(str::to_owned).chain(of_kinds);
        paths
            .filter_map(|path| Self::at(&path).map(|route| (path, route)))
            .collect()
    }

    /// Whether it matters who asks.
    pub fn knows_users(&self) -> bool {
        matches!(
            self,
            Self::Object(_) | Self::List(_) | Self::Hello | Self::Permissions | Self::Changeset(_)
        )
    }

    /// The plugin that the endpoint is there with.
    fn plugin(&self) -> Option<Plugin> {
        match self {
            Self::Flush => Some(Plugin::Flush),
            Self::OpenIdLogin(_) | Self::OpenIdToken(_) => Some(Plugin::OpenId),
            Self::Object(uri) if uri.kind() == Kind::Account => Some(Plugin::Accounts),
            Self::List(list) if list.kind() == Kind::Account => Some(Plugin::Accounts),
            _ => None,
        }
    }

    /// The same; where there is no changes feed its path is that of a list like others.
    fn without_changes(self, settings: &ApiSettings) -> Self {
        match self {
            Self::MonitorRecords if !settings.includes.changes() => {
                let collection = ObjectUri::collection(MONITOR, "changes");
                Self::List(collection.children(Kind::Record))
            }
            route => route,
        }
    }

    /// Whether there is such an endpoint with these settings.
    pub fn is_served(&self, settings: &ApiSettings) -> bool {
        match self {
            Self::Permissions => settings.permissions_endpoint,
            Self::Broadcasts => settings.broadcasts_endpoint,
            Self::PullBroadcasts | Self::Changeset(_) => settings.includes.changes(),
            Self::MonitorRecords | Self::MonitorChangeset => settings.includes.changes(),
            _ => self
                .plugin()
                .is_none_or(|plugin| settings.includes.has(plugin)),
        }
    }

    /// The methods that the endpoint takes.
    pub fn methods(&self, settings: &ApiSettings) -> Vec<Method> {
        let (methods, switched) = match self {
            Self::Object(uri) => (OBJECT, Some((EndpointType::Object, uri.kind()))),
            Self::List(list) => (LIST, Some((EndpointType::Plural, list.kind()))),
            Self::Batch | Self::Flush => (ACTION, None),
            _ => (READ, None),
        };
        let is_enabled = |method: &&Method| {
            (!settings.readonly || READ.contains(method))
                && switched
                    .is_none_or(|(endpoint, kind)| settings.web.is_enabled(endpoint, kind, method))
        };
        methods.iter().filter(is_enabled).cloned().collect()
    }

    /// The id of the bucket that the object is, or that it or the list is in.
    pub fn bucket_id(&self) -> Option<&str> {
        match self {
            Self::Object(uri) if uri.kind() != Kind::Account => Some(uri.bucket_id()),
            Self::List(list) => list.parent().map(ObjectUri::bucket_id),
            Self::Changeset(uri) => Some(uri.bucket_id()),
            _ => None,
        }
    }
}

/// Where a request goes.
#[derive(Debug)]
pub enum Routed {
    /// To an endpoint that takes its method.
    To(Route),
    /// Elsewhere.
    Redirect {
        /// The path to ask for.
        path: String,
        /// Seconds for which clients may keep that; `None` says nothing of keeping.
        max_age: Option<u64>,
    },
}

/// The endpoint that a path with its version leads to, whatever the method.
pub fn endpoint(path: &str, settings: &ApiSettings) -> Option<Route> {
    let route = Route::at(path.strip_prefix(PREFIX)?)?.without_changes(settings);
    Some(route).filter(|route| route.is_served(settings))
}

/// Finds the endpoint of a request.
///
/// # Errors
/// 404 for an unknown path or version, 405 for a method that the endpoint does not take, 403 for a write to
/// the bucket `monitor`: in Kinto anyone may create it and so hide the changes feed.
pub fn route(request: &Request, settings: &ApiSettings) -> Result<Routed, ApiError> {
    if settings.readonly && !READ.contains(&request.method) {
        let allow = READ.to_vec();
        return Err(ApiError::MethodNotAllowed { allow });
    }
    let redirect = |path: &str, redirects: Redirects| {
        Ok(Routed::Redirect {
            path: format!("{PREFIX}{path}"),
            max_age: redirects.ttl_seconds,
        })
    };
    let versions = settings.web.version_prefix_redirect;
    let slashes = settings.web.trailing_slash_redirect;
    let path = match request.path.strip_prefix(PREFIX) {
        Some("") if slashes.enabled => return redirect("/", slashes),
        Some("") => return Err(ApiError::UnknownPath),
        Some(path) if path.starts_with('/') => path,
        _ if names_a_version(&request.path) || !versions.enabled => {
            return Err(ApiError::UnknownVersion);
        }
        _ => return redirect(&request.path, versions),
    };
    if slashes.enabled && path.len() > 1 && path.ends_with('/') {
        return redirect(path.trim_end_matches('/'), slashes);
    }
    let route = Route::at(path)
        .map(|route| route.without_changes(settings))
        .filter(|route| route.is_served(settings))
        .ok_or(ApiError::UnknownPath)?;
    let allow = route.methods(settings);
    if !allow.contains(&request.method) {
        return Err(ApiError::MethodNotAllowed { allow });
    }
    if route.bucket_id() == Some(MONITOR) && !READ.contains(&request.method) {
        return Err(RESERVED);
    }
    Ok(Routed::To(route))
}

/// The refusal of what would write to the bucket of the changes feed.
pub const RESERVED: ApiError =
    ApiError::Reserved("The bucket id monitor is reserved for the changes feed.");

/// Whether an object is the bucket of the changes feed, or in it: no path may name it, nor the id that is posted.
pub fn is_reserved(uri: &ObjectUri) -> bool {
    uri.kind() != Kind::Account && uri.bucket_id() == MONITOR
}

/// Whether a path begins with the version of this API.
pub fn has_version(path: &str) -> bool {
    let rest = path.strip_prefix(PREFIX);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path begins with a version prefix: `/v` and digits.
fn names_a_version(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    first
        .strip_prefix('v')
        .is_some_and(|version| !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_endpoints() {
        let records = ObjectUri::collection("a", "b").children(Kind::Record);
        assert_eq!(Route::at("/"), Some(Route::Hello));
        assert_eq!(
            Route::at("/buckets/a"),
            Some(Route::Object(ObjectUri::bucket("a")))
        );
        assert_eq!(
            Route::at("/buckets/a/collections/b/records"),
            Some(Route::List(records.clone()))
        );
        assert_eq!(
            Route::at("/buckets/a/collections/b/records/c"),
            Some(Route::Object(records.object("c")))
        );
        assert_eq!(
            Route::at("/buckets/monitor/collections/changes/records"),
            Some(Route::MonitorRecords)
        );
        assert_eq!(
            Route::at("/buckets/monitor/collections/changes/changeset"),
            Some(Route::MonitorChangeset)
        );
        assert_eq!(
            Route::at("/buckets/a/collections/b/changeset"),
            Some(Route::Changeset(ObjectUri::collection("a", "b")))
        );
        assert_eq!(Route::at("/buckets/a/records"), None);
        assert_eq!(Route::at("//buckets"), None);
        assert_eq!(Route::at("/buckets/"), None);
        assert_eq!(Route::at("/buckets//collections"), None);
    }

    #[test]
    fn versions_are_told_from_paths_without_one() {
        assert!(names_a_version("/v0/buckets"));
        assert!(names_a_version("/v12"));
        assert!(!names_a_version("/buckets/v1"));
        assert!(!names_a_version("/version"));
        assert!(!names_a_version("/v"));
    }
}
