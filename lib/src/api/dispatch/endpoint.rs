//! A row of the table of endpoints.

use futures::future::BoxFuture;
use http::Method;

use crate::api::dispatch::context::Context;
use crate::api::dispatch::target::Target;
use crate::api::service::operation::Operation;
use crate::api::web::cors::Exposes;
use crate::api::web::error::ApiError;
use crate::api::web::response::Response;
use crate::resource::{Kind, ListUri, ObjectUri};
use crate::settings::{ApiSettings, EndpointType};
use crate::timestamp::Timestamp;
use crate::unit_of_work::Needs;

/// The methods that read; a read-only server takes no others.
pub const READ: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS];
/// The methods of endpoints that perform an action.
pub const ACTION: &[Method] = &[Method::POST, Method::OPTIONS];
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

/// All facts about an endpoint, stated once: routing, 405s, CORS and `__api__` follow from them.
///
/// A row states how it differs from [`Endpoint::READ_ONLY`], [`Endpoint::object`] or [`Endpoint::list`].
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Its path without the version; `{…}` stands for an id.
    pub path: &'static str,
    /// The thing that the ids in the path identify.
    pub about: About,
    /// The methods that it takes, unless a setting turns one off.
    pub methods: &'static [Method],
    /// The users whose credentials it reads.
    pub audience: Audience,
    /// Whether these settings serve it. An endpoint of a plugin also needs the plugin to be on.
    pub is_served: fn(&ApiSettings) -> bool,
    /// The headers that scripts of other origins may read.
    pub exposes: Exposes,
    /// The description of one of its methods in `__api__`.
    pub operation: fn(&Method, Timestamp) -> Operation,
    /// The reads that it needs before the handler is called, beside those for the user's groups.
    pub needs: fn() -> Needs,
    /// The code that answers.
    pub handler: Handler,
}

/// The thing that an endpoint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The server, or everything in it.
    Server,
    /// Something else, named by the only id in the path.
    Named,
    /// A single object.
    Object(Kind),
    /// The objects of one kind under one parent.
    List(Kind),
    /// The changeset of a collection.
    Changeset,
    /// Something else of a bucket, or of a collection, that is no object itself.
    Within(Kind),
}

/// The users whose credentials an endpoint reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// None: it answers everyone the same, or checks a token of its own.
    Everyone,
    /// Every user's: user and groups are known when the handler is called.
    Users,
    /// Every user's: the handler itself reads the user, at the same moment as the data.
    UsersAtOnce,
}

/// The future of a response.
pub type Answer<'c> = BoxFuture<'c, Result<Response, ApiError>>;

/// The code that answers a request.
#[derive(Clone, Copy)]
pub enum Handler {
    /// The rules of objects and lists, the same for all kinds.
    Resource,
    /// Several requests in one, each with an endpoint of its own.
    Batch,
    /// A function of the endpoint's own.
    Call(for<'c> fn(&'c mut Context<'_>) -> Answer<'c>),
}

impl Endpoint {
    /// A read-only endpoint that answers everyone the same.
    pub const READ_ONLY: Self = Self {
        path: "",
        about: About::Server,
        methods: READ,
        audience: Audience::Everyone,
        is_served: |_| true,
        exposes: Exposes::Basic,
        operation: |_, _| Operation::utility("", ""),
        needs: Needs::default,
        handler: Handler::Resource,
    };

    /// The endpoint of single objects of a kind.
    pub const fn object(
        kind: Kind,
        path: &'static str,
        operation: fn(&Method, Timestamp) -> Operation,
    ) -> Self {
        Self {
            path,
            about: About::Object(kind),
            methods: OBJECT,
            audience: Audience::Users,
            exposes: Exposes::Object,
            operation,
            ..Self::READ_ONLY
        }
    }

    /// The endpoint of lists of objects of a kind.
    pub const fn list(
        kind: Kind,
        path: &'static str,
        operation: fn(&Method, Timestamp) -> Operation,
    ) -> Self {
        Self {
            path,
            about: About::List(kind),
            methods: LIST,
            audience: Audience::Users,
            exposes: Exposes::List,
            operation,
            ..Self::READ_ONLY
        }
    }

    /// The methods that it takes under these settings.
    pub fn methods(&self, settings: &ApiSettings) -> Vec<Method> {
        let switched = match self.about {
            About::Object(kind) => Some((EndpointType::Object, kind)),
            About::List(kind) => Some((EndpointType::Plural, kind)),
            _ => None,
        };
        let is_enabled = |method: &&Method| {
            (!settings.readonly || READ.contains(method))
                && switched
                    .is_none_or(|(endpoint, kind)| settings.web.is_enabled(endpoint, kind, method))
        };
        self.methods.iter().filter(is_enabled).cloned().collect()
    }

    /// The ids in a path, which is without its version; `None` if the path does not lead here.
    pub fn ids_in<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let mut ids = vec![];
        let mut segments = path.split('/');
        for expected in self.path.split('/') {
            let segment = segments.next()?;
            // Not a search of the text: that would be a fifth of all instructions of a GET.
            if expected.ends_with("}@{timestamp}") {
                let (id, time) = segment.rsplit_once('@')?;
                if id.is_empty() || time.is_empty() {
                    return None;
                }
                ids.extend([id, time]);
            } else if expected.starts_with('{') {
                if segment.is_empty() {
                    return None;
                }
                ids.push(segment);
            } else if segment != expected {
                return None;
            }
        }
        segments.next().is_none().then_some(ids)
    }

    /// The target that these ids identify; each is as the client sent it, valid or not.
    pub fn target(&self, ids: &[&str]) -> Target {
        let id = |n: usize| ids.get(n).copied().unwrap_or_default();
        let list = |kind: Kind| match kind {
            Kind::Account => ListUri::accounts(),
            Kind::Bucket => ListUri::buckets(),
            Kind::Group | Kind::Collection => ObjectUri::bucket(id(0)).children(kind),
            Kind::Record => ObjectUri::collection(id(0), id(1)).children(kind),
        };
        match self.about {
            About::Server => Target::Server,
            About::Named => Target::Named(id(0).to_owned()),
            About::List(kind) => Target::List(list(kind)),
            About::Object(kind) => Target::Object {
                uri: list(kind).object(ids.last().copied().unwrap_or_default()),
                is_new: false,
            },
            About::Changeset => Target::Changeset(ObjectUri::collection(id(0), id(1))),
            About::Within(Kind::Bucket) => Target::Within(ObjectUri::bucket(id(0))),
            About::Within(_) => Target::Within(ObjectUri::collection(id(0), id(1))),
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path)
    }
}

/// An endpoint that is served, with the methods that the settings leave it.
#[derive(Clone, Debug)]
pub struct ServedEndpoint {
    /// The endpoint.
    pub endpoint: &'static Endpoint,
    /// The methods that it takes.
    pub methods: Vec<Method>,
    /// The number of slashes in its path, and so in all that lead here: most rows need no other look.
    slashes: usize,
}

impl ServedEndpoint {
    /// An endpoint under these settings.
    pub fn new(endpoint: &'static Endpoint, settings: &ApiSettings) -> Self {
        Self {
            endpoint,
            methods: endpoint.methods(settings),
            slashes: slashes(endpoint.path),
        }
    }

    /// Returns `true` if it takes requests with this method; a preflight is none.
    pub fn takes(&self, method: &Method) -> bool {
        *method != Method::OPTIONS && self.methods.contains(method)
    }

    /// The first of these endpoints that a path without its version leads to, with the ids in the path.
    pub fn find<'e, 'p>(path: &'p str, endpoints: &'e [Self]) -> Option<(&'e Self, Vec<&'p str>)> {
        let slashes = slashes(path);
        endpoints
            .iter()
            .filter(|served| served.slashes == slashes)
            .find_map(|served| Some((served, served.endpoint.ids_in(path)?)))
    }
}

fn slashes(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_an_endpoint_by_its_segments() {
        let endpoint = |path| Endpoint {
            path,
            ..Endpoint::READ_ONLY
        };
        assert_eq!(endpoint("/").ids_in("/"), Some(vec![]));
        assert_eq!(endpoint("/a/{id}").ids_in("/a/b"), Some(vec!["b"]));
        let moment = endpoint("/a/{id}@{timestamp}");
        assert_eq!(moment.ids_in("/a/b@c@7"), Some(vec!["b@c", "7"]));
        assert_eq!(moment.ids_in("/a/b"), None);
        assert_eq!(moment.ids_in("/a/b@"), None);
        for path in ["/a", "/a/", "/a/b/", "/a/b/c", "//a/b", "a/b", "/A/b"] {
            assert_eq!(endpoint("/a/{id}").ids_in(path), None, "{path}");
        }
    }
}
