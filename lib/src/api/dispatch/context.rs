//! All that a handler works with.

use crate::api::Api;
use crate::api::auth::credentials::Credentials;
use crate::api::auth::principals::User;
use crate::api::dispatch::target::Target;
use crate::api::web::request::Request;
use crate::settings::ApiSettings;
use crate::unit_of_work::UnitOfWork;

/// One request, when its handler is called.
#[derive(Debug)]
pub struct Context<'a> {
    /// The API: settings, table, caches.
    pub api: &'a Api,
    /// What was read for the request, and what it writes; committed when all requests of a batch are answered.
    pub unit: &'a mut UnitOfWork,
    /// The request.
    pub request: &'a Request,
    /// What it is about.
    pub target: &'a Target,
    /// What it says of its user, for handlers that read the user themselves.
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
