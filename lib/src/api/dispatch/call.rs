//! One request on its way through the API: where it goes, who sends it, what it needs, what it is answered.
//!
//! A single request is one call, a batch is several; all that follows treats them alike.

use http::Method;

use crate::api::auth::credentials::{Credentials, MAX_OTHER_BUCKETS, User};
use crate::api::changes::{broadcasts, changeset, monitor};
use crate::api::dispatch::router::Route;
use crate::api::objects::{self, Target};
use crate::api::plugins::openid::login;
use crate::api::plugins::{default_bucket, flush, permissions_endpoint};
use crate::api::service::{hello, openapi};
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::api::{Api, lists};
use crate::event::{Origin, OriginTarget};
use crate::resource::ObjectUri;
use crate::settings::{ApiSettings, Plugin};
use crate::unit_of_work::{Needs, UnitOfWork};

/// A request that was found an endpoint.
#[derive(Debug)]
pub struct Call {
    /// The request.
    pub request: Request,
    endpoint: Endpoint,
    credentials: Credentials,
    is_in_default_bucket: bool,
}

#[derive(Clone, Debug)]
enum Endpoint {
    /// One object: its own path, or a `POST` to its list.
    Object(Target),
    /// All others.
    Route(Route),
}

impl Call {
    /// A request that goes to `route`, from who has `credentials`.
    pub fn to(
        route: Route,
        request: Request,
        credentials: Credentials,
        settings: &ApiSettings,
    ) -> Self {
        let is_in_default_bucket = settings.includes.has(Plugin::DefaultBucket)
            && route.bucket_id() == Some(default_bucket::ALIAS);
        let endpoint = match route {
            Route::Object(uri) => Endpoint::Object(Target::at(uri)),
            Route::List(list) if request.method == Method::POST => {
                Endpoint::Object(Target::posted(list, &request))
            }
            route => Endpoint::Route(route),
        };
        Self {
            request,
            endpoint,
            credentials,
            is_in_default_bucket,
        }
    }

    /// Whether this is a batch of other requests.
    pub fn is_batch(&self) -> bool {
        matches!(self.endpoint, Endpoint::Route(Route::Batch))
    }

    /// Whether its method is one that changes something.
    pub fn writes(&self) -> bool {
        !self.request.is_read()
    }

    /// What it must know.
    pub fn needs(&self, settings: &ApiSettings) -> Needs {
        let request = &self.request;
        let needs = if self.is_in_default_bucket {
            let buckets = self.credentials.user_ids();
            buckets
                .map(|user_id| default_bucket::id_for(user_id, settings))
                .map(|bucket| self.endpoint.in_bucket(&bucket).needs(request))
                .fold(Needs::default(), Needs::and)
        } else {
            self.endpoint.needs(request)
        };
        match &self.endpoint {
            // Reads who asks with the collection, at one moment.
            Endpoint::Route(Route::Changeset(_)) if !self.is_in_default_bucket => needs,
            _ => self.credentials.add_to(needs, settings),
        }
    }

    /// What it must know besides when `unit` has read what it [`Self::needs`]: which of the groups one is in, maybe of other
    /// buckets, that something is granted to.
    pub fn needs_of_groups(&self, unit: &UnitOfWork) -> Needs {
        match self.endpoint.object() {
            Some(uri) if !self.is_in_default_bucket => {
                let groups = unit.groups_named_on(uri);
                self.credentials.needs_of_groups(unit, &groups)
            }
            _ => Needs::default(),
        }
    }

    /// Answers it, writing to `unit` what it changes.
    ///
    /// # Errors
    /// Whatever it is to be refused for; then nothing of it was written to `unit`, but for what is created because it
    /// was asked for ([`default_bucket`]).
    pub async fn answer(&self, api: &Api, unit: &mut UnitOfWork) -> Result<Response, ApiError> {
        let (request, settings) = (&self.request, &api.settings.api);
        let credentials = &self.credentials;
        let mut user = User::of(credentials, unit, &api.passwords)?;
        let bucket = match self.is_in_default_bucket {
            true => Some(default_bucket::id_of(&user, settings)?),
            false => None,
        };
        let endpoint = match &bucket {
            Some(bucket) => self.endpoint.in_bucket(bucket),
            None => self.endpoint.clone(),
        };
        if let Some(uri) = endpoint.object() {
            let groups = unit.groups_named_on(uri);
            user.learn_groups(unit, &api.store, &groups, MAX_OTHER_BUCKETS)
                .await?;
        }
        let Some(bucket) = bucket else {
            return endpoint
                .answer(api, unit, request, credentials, &user)
                .await;
        };
        let request = default_bucket::resolve(request, &bucket);
        if let Some(uri) = endpoint.object() {
            let (store, method) = (&api.store, &request.method);
            default_bucket::create_missing(unit, store, uri, method, &user, settings).await?;
        }
        endpoint
            .answer(api, unit, &request, credentials, &user)
            .await
    }
}

impl Endpoint {
    /// The same in another bucket.
    fn in_bucket(&self, bucket: &str) -> Self {
        match self {
            Self::Object(target) => Self::Object(target.in_bucket(bucket)),
            Self::Route(Route::List(list)) => Self::Route(Route::List(list.in_bucket(bucket))),
            Self::Route(Route::Changeset(uri)) => {
                Self::Route(Route::Changeset(uri.in_bucket(bucket)))
            }
            other => other.clone(),
        }
    }

    /// What is told of a request that writes there; `None` of one of whose writes nobody is told (Kinto 26.5).
    fn origin(&self, request: &Request, user: &User) -> Option<Origin> {
        let target = match self {
            Self::Object(target) if request.method == Method::POST => {
                OriginTarget::List(target.uri.list().clone())
            }
            Self::Object(target) => OriginTarget::Object(target.uri.clone()),
            Self::Route(Route::List(list)) => OriginTarget::List(list.clone()),
            Self::Route(_) => return None,
        };
        Some(Origin {
            user_id: user.id.clone(),
            target,
        })
    }

    /// The object that it is, or that holds the list.
    fn object(&self) -> Option<&ObjectUri> {
        match self {
            Self::Object(target) => Some(&target.uri),
            Self::Route(Route::List(list)) => list.parent(),
            Self::Route(_) => None,
        }
    }

    /// What a request to it must know, whoever sends it.
    fn needs(&self, request: &Request) -> Needs {
        match self {
            Self::Object(target) => objects::needs(request, target),
            Self::Route(Route::List(list)) => lists::needs(list),
            Self::Route(Route::Flush) => flush::needs(),
            Self::Route(_) => Needs::default(),
        }
    }

    async fn answer(
        &self,
        api: &Api,
        unit: &mut UnitOfWork,
        request: &Request,
        credentials: &Credentials,
        user: &User,
    ) -> Result<Response, ApiError> {
        let settings = &api.settings.api;
        unit.on_behalf_of(|| self.origin(request, user));
        match self {
            Self::Object(target) => objects::answer(unit, request, user, &target.uri, settings),
            Self::Route(route) => match route {
                Route::List(list) => {
                    lists::answer(unit, &api.store, request, user, list, settings).await
                }
                Route::Permissions => {
                    permissions_endpoint::answer(unit, &api.store, request, user, settings).await
                }
                Route::MonitorRecords => monitor::records(api, request).await,
                Route::MonitorChangeset => monitor::changeset(api, request).await,
                Route::Changeset(uri) => {
                    changeset::of_collection(api, request, credentials, uri).await
                }
                Route::PullBroadcasts => broadcasts::pull(api).await,
                Route::Broadcasts => broadcasts::broadcasts(api, request).await,
                Route::Flush => flush::answer(unit, &api.store).await,
                Route::OpenIdLogin(name) => {
                    let provider = api.provider(name)?;
                    login::login(provider, &api.store, request, settings).await
                }
                Route::OpenIdToken(name) => {
                    let provider = api.provider(name)?;
                    login::token(provider, &api.store, request, settings).await
                }
                Route::Hello => {
                    let mut user = user.clone();
                    user.learn_first_groups(unit, &api.store).await?;
                    Ok(hello::hello(api, request, &user).await)
                }
                Route::Heartbeat => Ok(hello::heartbeat(api).await),
                Route::LbHeartbeat => Ok(hello::lbheartbeat()),
                Route::Version => Ok(hello::version()),
                Route::Contribute => Ok(hello::contribute()),
                Route::OpenApi => Ok(openapi::response(request, settings, &api.providers).await),
                Route::Object(_) | Route::Batch => Err(ApiError::UnknownPath),
            },
        }
    }
}
