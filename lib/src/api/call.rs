//! One request on its way through the API: where it goes, who sends it, what it needs, what it is answered.
//!
//! A single request is one call, a batch is several; all that follows treats them alike.

use http::Method;

use super::auth::{Credentials, User};
use super::error::ApiError;
use super::objects::{self, Target};
use super::request::Request;
use super::response::Response;
use super::router::Route;
use super::{Api, broadcasts, changeset, lists, monitor, openapi, permissions, server};
use crate::settings::ApiSettings;
use crate::unit_of_work::{Needs, UnitOfWork};

/// A request that was found an endpoint.
#[derive(Debug)]
pub struct Call {
    /// The request.
    pub request: Request,
    endpoint: Endpoint,
    credentials: Credentials,
}

#[derive(Debug)]
enum Endpoint {
    /// One object: its own path, or a `POST` to its list.
    Object(Target),
    /// All others.
    Route(Route),
}

impl Call {
    /// A request that goes to `route`.
    pub fn to(route: Route, request: Request, settings: &ApiSettings) -> Self {
        let endpoint = match route {
            Route::Object(uri) => Endpoint::Object(Target::at(uri)),
            Route::List(list) if request.method == Method::POST => {
                Endpoint::Object(Target::posted(list, &request))
            }
            route => Endpoint::Route(route),
        };
        Self {
            credentials: Credentials::of(&request, settings),
            request,
            endpoint,
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
    pub fn needs(&self) -> Needs {
        let needs = match &self.endpoint {
            Endpoint::Object(target) => objects::needs(&self.request, target),
            Endpoint::Route(Route::List(list)) => lists::needs(list),
            Endpoint::Route(Route::Hello | Route::Permissions) => Needs::default(),
            Endpoint::Route(_) => return Needs::default(),
        };
        Needs {
            principals: self.credentials.principals_in_groups().collect(),
            ..needs
        }
    }

    /// Answers it, writing to `unit` what it changes.
    ///
    /// # Errors
    /// Whatever it is to be refused for; then nothing of it was written to `unit`.
    pub async fn answer(&self, api: &Api, unit: &mut UnitOfWork) -> Result<Response, ApiError> {
        let Self { request, .. } = self;
        let user = User::of(&self.credentials, unit);
        let settings = &api.settings.api;
        match &self.endpoint {
            Endpoint::Object(target) => {
                objects::answer(unit, request, &user, &target.uri, settings)
            }
            Endpoint::Route(route) => match route {
                Route::List(list) => {
                    lists::answer(unit, &api.store, request, &user, list, settings).await
                }
                Route::Permissions => {
                    permissions::answer(&api.store, request, &user, settings).await
                }
                Route::MonitorRecords => {
                    monitor::records(&api.store, request, &user, &api.settings).await
                }
                Route::MonitorChangeset => {
                    monitor::changeset(&api.store, request, &user, &api.settings).await
                }
                // Reads who asks with the collection, at one moment.
                Route::Changeset(uri) => {
                    let (store, settings) = (&api.store, &api.settings);
                    changeset::of_collection(store, request, &self.credentials, uri, settings).await
                }
                Route::PullBroadcasts => broadcasts::pull(api).await,
                Route::Broadcasts => broadcasts::broadcasts(api, request).await,
                Route::Hello => Ok(server::hello(api, request, &user)),
                Route::Heartbeat => Ok(server::heartbeat(api).await),
                Route::LbHeartbeat => Ok(server::lbheartbeat()),
                Route::Version => Ok(server::version()),
                Route::Contribute => Ok(server::contribute()),
                Route::OpenApi => Ok(openapi::response(request, settings)),
                Route::Object(_) | Route::Batch => Err(ApiError::UnknownPath),
            },
        }
    }
}
