//! One request on its way through the API: its reads and its response.
//!
//! A single request is one call, a batch is several; everything after this treats them alike.

use std::sync::Arc;

use http::Method;

use crate::api::auth::credentials::Credentials;
use crate::api::auth::principals::{MAX_OTHER_BUCKETS, User};
use crate::api::dispatch::context::Context;
use crate::api::dispatch::endpoint::{Audience, Endpoint, Handler};
use crate::api::dispatch::target::Target;
use crate::api::plugins::{default_bucket, signer};
use crate::api::summary::notes;
use crate::api::web::cors::Exposes;
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::api::{Api, lists, objects};
use crate::event::{Origin, OriginTarget};
use crate::settings::{ApiSettings, PluginName};
use crate::unit_of_work::{Needs, UnitOfWork};

/// A request and its endpoint.
#[derive(Debug)]
pub struct Call {
    /// The request.
    pub request: Arc<Request>,
    endpoint: &'static Endpoint,
    target: Target,
    credentials: Credentials,
    is_in_default_bucket: bool,
}

impl Call {
    /// A request to `endpoint` about `target`, from a user with these credentials.
    pub fn new(
        request: Arc<Request>,
        endpoint: &'static Endpoint,
        target: Target,
        credentials: Credentials,
        settings: &ApiSettings,
    ) -> Self {
        let is_in_default_bucket = settings.includes.has(PluginName::DefaultBucket)
            && target.bucket_id() == Some(default_bucket::ALIAS);
        let target = match target {
            Target::List(list) if request.method == Method::POST => objects::posted(list, &request),
            target => target,
        };
        Self {
            request,
            endpoint,
            target,
            credentials,
            is_in_default_bucket,
        }
    }

    /// Returns `true` if this is a batch of other requests.
    pub fn is_batch(&self) -> bool {
        matches!(self.endpoint.handler, Handler::Batch)
    }

    /// The headers of its response that scripts of other origins may read.
    pub fn exposes(&self) -> Exposes {
        self.endpoint.exposes
    }

    /// Returns `true` if its method may change something.
    pub fn writes(&self) -> bool {
        !self.request.is_read()
    }

    /// The reads that it needs before it is answered.
    pub fn needs(&self, settings: &ApiSettings) -> Needs {
        let needs = if self.is_in_default_bucket {
            let buckets = self.credentials.user_ids();
            buckets
                .map(|user_id| default_bucket::id_for_user(user_id, settings))
                .map(|bucket| self.needs_of(&self.target.in_bucket(&bucket)))
                .fold(Needs::default(), Needs::and)
        } else {
            self.needs_of(&self.target)
        };
        let signer = settings.signer.as_ref();
        let mut needs = needs;
        needs.lists.extend(signer::reading::published_list(
            signer,
            &self.request,
            &self.target,
        ));
        match self.endpoint.audience {
            // The id of a default bucket depends on the user.
            Audience::UsersAtOnce if !self.is_in_default_bucket => needs,
            _ => self.credentials.add_to(needs, settings),
        }
    }

    fn needs_of(&self, target: &Target) -> Needs {
        match target {
            Target::Object { uri, is_new } => objects::needs(&self.request, uri, *is_new),
            Target::List(list) => lists::needs(list),
            Target::Within(uri) => Needs {
                objects: uri
                    .lineage()
                    .filter(|uri| uri.is_valid())
                    .cloned()
                    .collect(),
                ..Needs::default()
            },
            _ => (self.endpoint.needs)(),
        }
    }

    /// The reads that it needs after its [`Self::needs`]: whether the user is a member of the groups, maybe of other
    /// buckets, that permissions name.
    pub fn needs_of_groups(&self, unit: &UnitOfWork) -> Needs {
        match self.target.object() {
            Some(uri) if !self.is_in_default_bucket => {
                let groups = unit.groups_named_on(uri);
                self.credentials.needs_of_groups(unit, &groups)
            }
            _ => Needs::default(),
        }
    }

    /// Answers it and writes its changes to `unit`.
    ///
    /// # Errors
    /// Any refusal of the request; then `unit` has none of its writes, except of objects that are created because they
    /// were asked for ([`default_bucket`]).
    pub async fn answer(&self, api: &Api, unit: &mut UnitOfWork) -> Result<Response, ApiError> {
        let settings = &api.settings.api;
        let mut user = self.credentials.user(unit, &api.passwords)?;
        notes::user(user.id.as_deref());
        let own_bucket = match self.is_in_default_bucket {
            true => Some(default_bucket::require_id(&user, settings)?),
            false => None,
        };
        let own_target = own_bucket.as_deref().map(|id| self.target.in_bucket(id));
        let target = own_target.as_ref().unwrap_or(&self.target);
        if let Some(uri) = target.object() {
            let groups = unit.groups_named_on(uri);
            user.add_groups(unit, &api.store, &groups, MAX_OTHER_BUCKETS)
                .await?;
        }
        let resolved = own_bucket.map(|id| default_bucket::resolve(&self.request, &id));
        if let Some(uri) = target.object().filter(|_| resolved.is_some()) {
            let (store, method) = (&api.store, &self.request.method);
            default_bucket::create_missing(unit, store, uri, method, &user, settings).await?;
        }
        let request = resolved.as_ref().unwrap_or(&self.request);
        signer::reading::settle_before_write(api, unit, request, target).await?;
        let published = signer::reading::published_list(settings.signer.as_ref(), request, target);
        let layer = match &published {
            Some(list) => signer::reading::read_layer(&api.store, unit, target, list).await?,
            None => None,
        };
        unit.set_origin(|| origin(request, target, &user));
        let mut cx = Context {
            api,
            unit,
            request,
            target,
            credentials: &self.credentials,
            user: &user,
        };
        let response = match (self.endpoint.handler, target) {
            (Handler::Call(handle), _) => handle(&mut cx).await,
            (_, Target::Object { uri, .. }) => objects::handle(&mut cx, uri),
            (_, Target::List(list)) => lists::handle(&mut cx, list).await,
            _ => Err(ApiError::UnknownPath),
        }?;
        signer::after_call(&mut cx).await?;
        if let (Some(list), Some(layer)) = (published, layer) {
            signer::reading::check(&api.store, &list, &layer).await?;
        }
        Ok(response)
    }
}

/// The origin of a request's events; `None` for a request of whose writes nobody is notified (Kinto 26.5).
fn origin(request: &Request, target: &Target, user: &User) -> Option<Origin> {
    let target = match target {
        Target::Object { uri, .. } if request.method == Method::POST => {
            OriginTarget::List(uri.list().clone())
        }
        Target::Object { uri, .. } => OriginTarget::Object(uri.clone()),
        Target::List(list) => OriginTarget::List(list.clone()),
        _ => return None,
    };
    Some(Origin {
        user_id: user.id.clone(),
        target,
    })
}
