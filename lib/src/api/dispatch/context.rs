//! Everything that a handler works with.

use crate::api::Api;
use crate::api::auth::credentials::Credentials;
use crate::api::auth::principals::User;
use crate::api::dispatch::target::Target;
use crate::api::web::request::Request;
use crate::settings::ApiSettings;
use crate::unit_of_work::UnitOfWork;

/// One request, as its handler gets it.
#[derive(Debug)]
pub struct Context<'a> {
    /// The API: settings, table, caches.
    pub api: &'a Api,
    /// The request's reads and writes; committed when all requests of a batch are answered.
    pub unit: &'a mut UnitOfWork,
    /// The request.
    pub request: &'a Request,
    /// The target of the request.
    pub target: &'a Target,
    /// The credentials of the request, for handlers that read the user themselves.
    pub credentials: &'a Credentials,
    /// The user.
    pub user: &'a User,
}

impl<'a> Context<'a> {
    /// The settings of the API.
    pub fn settings(&self) -> &'a ApiSettings {
        &self.api.settings.api
    }
}
