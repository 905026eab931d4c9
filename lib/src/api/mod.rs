//! The Kinto HTTP API v1, from API Gateway's event to its response.
//!
//! The way of a request: [`web::gateway`] (out of the event) → [`dispatch`] ([`dispatch::router`]: the endpoint;
//! [`auth::credentials`]: the user; [`dispatch::call`]: its reads) → the endpoint → [`web::gateway`] (into the event).
//! [`dispatch::retry`] repeats that while other writes come between. Every refusal is a [`web::error::ApiError`],
//! turned into Kinto's JSON in one place ([`web::error::response`]).
//!
//! No file imports one that imports it.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`endpoints`] | the table: paths, methods, users, headers, handlers |
//! | [`dispatch`] | one request, or batch, from event to event |
//! | [`dispatch::router`] | method and path in, endpoint out |
//! | [`dispatch::call`] | one request on its way: its reads and its response |
//! | [`dispatch::batch`] | the requests in a batch, and their responses |
//! | [`dispatch::context`] | everything that a handler works with |
//! | [`dispatch::endpoint`] | a row of the table of endpoints |
//! | [`dispatch::target`] | the target of a request |
//! | [`dispatch::retry`] | read, decide, commit; retried while other writes come between |
//! | [`service`] | endpoints of the server itself |
//! | [`service::hello`] | the root, heartbeats, version |
//! | [`service::openapi`] | `__api__`, the endpoints described for machines |
//! | [`service::user_data`] | `__user_data__`, which deletes a user |
//! | [`service::operation`] | the descriptions of endpoints' methods in `__api__` |
//! | [`plugins`] | Kinto's plugins |
//! | [`plugins::accounts`] | accounts with passwords |
//! | [`plugins::admin`] | Kinto Admin, a web page |
//! | [`plugins::default_bucket`] | each user's own bucket |
//! | [`plugins::flush`] | remove everything |
//! | [`plugins::history`] | what was written in each bucket |
//! | [`plugins::history::record`] | an entry for each write |
//! | [`plugins::history::list`] | its endpoint |
//! | [`plugins::history::snapshot`] | a collection as it was |
//! | [`plugins::history::trim`] | how much is kept |
//! | [`plugins::openid`] | log in with OpenID Connect |
//! | [`plugins::openid::login`] | its endpoints |
//! | [`plugins::openid::provider`] | an identity provider, and its tokens |
//! | [`plugins::signer`] | review, signatures and publication |
//! | [`plugins::signer::transitions`] | the statuses of a source |
//! | [`plugins::signer::source`] | a source that was written: its groups, targets and status |
//! | [`plugins::signer::commands`] | reviews, approvals, rollbacks |
//! | [`plugins::signer::records`] | the records of a source or of what is published, compared |
//! | [`plugins::signer::publish`] | layers, signatures, what the commit shows |
//! | [`plugins::signer::certificates`] | certificates that near their end |
//! | [`plugins::signer::refresh`] | signing anew by a schedule |
//! | [`plugins::signer::reading`] | lists and records of what is being published |
//! | [`plugins::prometheus`] | `/__metrics__` |
//! | [`plugins::prometheus::registry`] | what a process counted |
//! | [`plugins::permissions_endpoint`] | `/permissions`, all permissions of a user |
//! | [`changes`] | changes of collections |
//! | [`changes::monitor`] | monitor/changes, its list and changeset |
//! | [`changes::monitor_entry`] | one entry: its id and fields |
//! | [`changes::monitor_cache`] | the entries that this process has cached |
//! | [`changes::changeset`] | changesets of collections |
//! | [`changes::collection`] | a collection as changesets show it |
//! | [`changes::published`] | changesets of what is published, which are signed |
//! | [`changes::changeset_cache`] | the records that this process has cached |
//! | [`changes::broadcasts`] | the latest broadcast, for clients that ask |
//! | [`lists`] | the endpoints of lists |
//! | [`lists::query`] | a list's query string as a whole |
//! | [`lists::parameters`] | values of the query string |
//! | [`lists::filter`] | filters: field, operator, value |
//! | [`lists::sort`] | `_sort`, and the order of values |
//! | [`lists::walk`] | all objects except accounts |
//! | [`lists::page_token`] | the token in `Next-Page` |
//! | [`lists::projection`] | fields named by paths with dots |
//! | [`lists::scan`] | the objects of a list one by one, as its last transactions left them |
//! | [`lists::selection`] | the objects of one page, chosen from many |
//! | [`objects`] | the endpoints of single objects |
//! | [`objects::body`] | `data` and `permissions` that a client sends |
//! | [`objects::patch`] | `PATCH`: its three kinds |
//! | [`objects::json_patch`] | JSON Patch |
//! | [`objects::metadata`] | `id` and `last_modified` |
//! | [`objects::schema`] | JSON schemas of collections and buckets |
//! | [`objects::schema::assertions`] | keywords that look at one value alone |
//! | [`objects::schema::at`] | a value and its keyword, and the mismatch that is found |
//! | [`objects::schema::evaluation`] | data against a schema, in bounded work |
//! | [`objects::schema::evaluation::unevaluated`] | which parts of a value other keywords evaluate |
//! | [`objects::schema::failure`] | why data do not match a schema |
//! | [`objects::schema::pattern`] | a schema's regular expressions |
//! | [`objects::schema::references`] | a schema's `$ref` |
//! | [`objects::schema::translation`] | Python's regular expressions in the syntax of `fancy-regex` |
//! | [`auth`] | authentication and authorization |
//! | [`auth::authorization`] | one request against the permissions of its objects |
//! | [`auth::credentials`] | credentials, and the user that they prove |
//! | [`auth::principals`] | the principals of a user |
//! | [`auth::account_id`] | accounts as users |
//! | [`auth::passwords`] | passwords of accounts: hashed, checked, cached for a while |
//! | [`summary`] | what is told of a request |
//! | [`summary::notes`] | what the work on it notes |
//! | [`summary::request_log`] | a line of the log |
//! | [`summary::counts`] | metrics |
//! | [`web`] | HTTP |
//! | [`web::gateway`] | a request out of API Gateway's event, a response into one |
//! | [`web::request`] | the request |
//! | [`web::preconditions`] | `If-Match`, `If-None-Match`: 304, 412 |
//! | [`web::accept`] | the lists in `Accept` and `Accept-Encoding` |
//! | [`web::media_type`] | `Content-Type`, `Accept`: 415, 406 |
//! | [`web::response`] | the response |
//! | [`web::error`] | every refusal and failure, with its status |
//! | [`web::error::response`] | its response: number, message, headers |
//! | [`web::cors`] | preflights, and the headers that scripts of other origins may read |
//! | [`web::compression`] | gzip, and the largest body |
//! | [`web::cache_control`] | the time for which clients and caches may keep a response |
//! | [`web::end_of_service`] | the `Alert` header, and 410 |
//! | [`web::origin`] | the secret that a CDN in front shows |

mod auth;
mod changes;
mod dispatch;
mod endpoints;
mod lists;
mod objects;
mod plugins;
mod service;
mod summary;
mod web;

// Limits that an import must keep too.
pub use self::objects::body::{MAX_DEPTH, depth};

use std::sync::Arc;

use self::auth::passwords::Passwords;
use self::changes::changeset_cache::ChangesetCache;
use self::changes::monitor_cache::MonitorCache;
use self::dispatch::endpoint::ServedEndpoint;
use self::dispatch::retry;
use self::plugins::OnWrite;
use self::plugins::openid::provider::Provider;
use self::summary::Observers;
use crate::listeners::Listeners;
use crate::megaphone::Megaphone;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::signer::keys::Signer;
use crate::store::Store;

/// The HTTP API over one table.
#[derive(Clone, Debug)]
pub struct Api {
    store: Store,
    settings: Settings,
    megaphones: Vec<Megaphone>,
    /// Those that must agree before the commit.
    listeners: Listeners,
    passwords: Arc<Passwords>,
    /// The caches of changes and changesets; shared by clones.
    monitor: Arc<MonitorCache>,
    changesets: Arc<ChangesetCache>,
    providers: Arc<[Provider]>,
    /// The endpoints that the settings serve, and their methods.
    endpoints: Arc<[ServedEndpoint]>,
    /// The code that plugins run after writes.
    on_write: Arc<[OnWrite]>,
    /// Signs publications.
    signer: Signer,
    /// Keeps requests that met contention from meeting it again; shared by clones.
    contention: Arc<retry::Contention>,
    /// The receivers of a summary of each request.
    observers: Observers,
}

impl Api {
    /// The API with its dependencies; `listeners` are those that must agree before the commit.
    pub fn new(
        store: Store,
        settings: Settings,
        megaphones: Vec<Megaphone>,
        listeners: Listeners,
    ) -> Self {
        let observers = Observers::new(&settings.api);
        let store = match observers.want_capacity() {
            true => store.metered(),
            false => store,
        };
        Self {
            observers,
            passwords: Arc::new(Passwords::new(&settings.api)),
            monitor: Arc::default(),
            providers: Provider::all(&settings.api).into(),
            endpoints: endpoints::served(&settings.api).into(),
            on_write: plugins::enabled(&settings.api)
                .filter_map(|plugin| plugin.on_write)
                .collect(),
            store,
            settings,
            megaphones,
            listeners,
            changesets: Arc::default(),
            signer: Signer::default(),
            contention: Arc::default(),
        }
    }

    /// The same, which signs with keys that are reached with clients.
    pub fn signing_with(self, signer: Signer) -> Self {
        Self { signer, ..self }
    }

    /// The same, with metrics of its requests.
    pub fn publishing(self, metrics: Metrics) -> Self {
        Self {
            observers: self.observers.publishing(metrics),
            ..self
        }
    }
}
