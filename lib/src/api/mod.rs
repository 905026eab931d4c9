//! The Kinto HTTP API v1, from API Gateway's event to its response.
//!
//! A request goes: [`web::gateway`] (out of the event) → [`dispatch`] ([`dispatch::router`]: which endpoint;
//! [`auth::credentials`]: which user; [`dispatch::call`]: what it must know) → the endpoint → [`web::gateway`] (into the
//! event). [`dispatch::retry`] repeats that while other writes come between. Every refusal is a
//! [`web::error::ApiError`], turned into Kinto's JSON at one place.
//!
//! Imports run down this list and never back; no file imports one that imports it.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`dispatch`] | one request, or batch, from event to event |
//! | [`dispatch::router`] | method and path in, endpoint out |
//! | [`dispatch::call`] | one request on its way: what it must know, what it is answered |
//! | [`dispatch::batch`] | the requests in a batch, and their answers |
//! | [`dispatch::retry`] | read, decide, commit; again while other writes come between |
//! | [`service`] | endpoints that describe the server |
//! | [`service::hello`] | the root, heartbeats, version |
//! | [`service::openapi`] | `__api__`, the endpoints for machines |
//! | [`plugins`] | Kinto's plugins |
//! | [`plugins::accounts`] | accounts with passwords |
//! | [`plugins::admin`] | Kinto Admin, a web page |
//! | [`plugins::default_bucket`] | each user's own bucket |
//! | [`plugins::flush`] | remove everything |
//! | [`plugins::openid`] | log in with OpenID Connect |
//! | [`plugins::openid::login`] | its endpoints |
//! | [`plugins::openid::provider`] | an identity provider, and its tokens |
//! | [`plugins::permissions_endpoint`] | `/permissions`, all that a user may do |
//! | [`changes`] | what changed |
//! | [`changes::monitor`] | monitor/changes, its list and changeset |
//! | [`changes::changeset`] | changesets of collections |
//! | [`changes::changeset_cache`] | changesets that this process has read |
//! | [`changes::broadcasts`] | the latest broadcast, for clients that ask |
//! | [`lists`] | the endpoints of lists |
//! | [`lists::query`] | a list's query string: filters, order, page |
//! | [`lists::projection`] | fields named by paths with dots |
//! | [`lists::selection`] | the objects of one page, chosen from many |
//! | [`objects`] | the endpoints of single objects |
//! | [`objects::body`] | `data` and `permissions` that a client sends |
//! | [`objects::patch`] | JSON Patch |
//! | [`objects::schema`] | JSON schemas of collections and buckets |
//! | [`objects::schema::evaluation`] | data against a schema, in bounded work |
//! | [`objects::schema::failure`] | why data do not match a schema |
//! | [`objects::schema::pattern`] | a schema's regular expressions |
//! | [`objects::schema::references`] | a schema's `$ref` |
//! | [`auth`] | which user, and what this user may do |
//! | [`auth::authorization`] | one request against the permissions of its objects |
//! | [`auth::credentials`] | credentials, the user that they prove, the user's principals |
//! | [`auth::passwords`] | passwords of accounts: hashed, checked, remembered for a while |
//! | [`web`] | HTTP |
//! | [`web::gateway`] | a request out of API Gateway's event, a response into one |
//! | [`web::request`] | the request; preconditions |
//! | [`web::response`] | the response |
//! | [`web::error`] | every refusal and failure, with its status and body |
//! | [`web::cors`] | preflights, and what scripts of other origins may read |
//! | [`web::compression`] | gzip, and how large an answer may be |
//! | [`web::cache_control`] | how long clients and caches may keep an answer |
//! | [`web::end_of_service`] | the `Alert` header, and 410 |
//! | [`web::origin`] | the secret that a CDN in front shows |

mod auth;
mod changes;
mod dispatch;
mod lists;
mod objects;
mod plugins;
mod service;
mod web;

// What an import has to keep to as well.
pub use self::objects::body::{MAX_DEPTH, depth};

use std::sync::Arc;

use self::auth::passwords::Passwords;
use self::changes::{changeset_cache, monitor};
use self::dispatch::retry;
use self::plugins::openid::provider::Provider;
use crate::listeners::Listeners;
use crate::megaphone::Megaphone;
use crate::settings::Settings;
use crate::store::Store;

/// The HTTP API over one table.
#[derive(Clone, Debug)]
pub struct Api {
    store: Store,
    settings: Settings,
    megaphones: Vec<Megaphone>,
    /// Those that are told before the commit.
    listeners: Listeners,
    passwords: Arc<Passwords>,
    /// What is remembered of what was answered; shared by clones.
    monitor: Arc<monitor::Memory>,
    changesets: Arc<changeset_cache::Memory>,
    providers: Arc<[Provider]>,
    /// What keeps requests that met contention from meeting it again; shared by clones.
    contention: Arc<retry::Contention>,
}

impl Api {
    /// The API with its dependencies; `listeners` are those that are told before the commit.
    pub fn new(
        store: Store,
        settings: Settings,
        megaphones: Vec<Megaphone>,
        listeners: Listeners,
    ) -> Self {
        Self {
            passwords: Arc::new(Passwords::new(&settings.api)),
            monitor: Arc::default(),
            providers: Provider::all(&settings.api).into(),
            store,
            settings,
            megaphones,
            listeners,
            changesets: Arc::default(),
            contention: Arc::default(),
        }
    }
}
