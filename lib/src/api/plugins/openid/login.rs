//! The login of a browser: `/openid/{provider}/login` sends it to the provider, which sends it back to
//! `/openid/{provider}/token`, which sends it on to where it came from, with the tokens (Kinto 26.5).

use crate::api::dispatch::context::Context;
use crate::api::dispatch::target::Target;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use uuid::Uuid;

use crate::api::plugins::admin;
use crate::api::plugins::openid::provider::Provider;
use crate::api::web::error::{ApiError, Detail, Location};
use crate::api::web::request::PREFIX;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::settings::ApiSettings;
use crate::timestamp::Timestamp;

/// The characters to escape in the tokens (Python's `quote`).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'-')
    .remove(b'~')
    .remove(b'/');

/// `GET /openid/{provider}/login`: redirects to the provider.
///
/// # Errors
/// 400 for a missing or invalid parameter, or one that asks for more than is allowed; server errors, and the
/// provider's.
pub async fn login(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let (provider, store) = (provider(cx)?, &cx.api.store);
    let (request, settings) = (cx.request, cx.settings());
    let mut details = vec![];
    let mut required = |name: &str| {
        let value = request.parameter(name).filter(|value| !value.is_empty());
        if value.is_none() {
            details.push(Detail::new(Location::Querystring, name, "Required"));
        }
        value.unwrap_or_default()
    };
    let (callback, scope) = (required("callback"), required("scope"));
    let prompt = request.parameter("prompt");
    if prompt.as_ref().is_some_and(|prompt| prompt != "none") {
        details.push(Detail::new(Location::Querystring, "prompt", "Must be none"));
    }
    if !details.is_empty() {
        return Err(ApiError::Invalid(details));
    }
    let allowed = &provider.settings().allowed_scopes;
    let is_allowed = |scope: &&str| allowed.iter().any(|allowed| allowed == scope);
    let scopes: Vec<_> = scope.split_whitespace().collect();
    let refused: Vec<_> = scopes
        .iter()
        .filter(|scope| !is_allowed(scope))
        .copied()
        .collect();
    if !refused.is_empty() {
        let problem = format!("Scopes not allowed: {}", refused.join(", "));
        return Err(ApiError::invalid(Location::Querystring, "scope", problem));
    }
    let callback = Url::parse(&callback)
        .ok()
        .filter(|callback| {
            let provider = provider.settings();
            provider.trusts(callback)
                || provider.trusts_admin && admin::is_callback(callback, request, settings)
        })
        .ok_or_else(|| {
            ApiError::invalid(Location::Querystring, "callback", "Untrusted callback URL")
        })?;
    if provider.settings().userid_field == "email" && !scopes.contains(&"email") {
        let problem = format!(
            "Provider {} requires 'email' scope",
            provider.settings().name
        );
        return Err(ApiError::invalid(Location::Querystring, "scope", problem));
    }

    let endpoints = provider.endpoints().await?;
    // It must not be guessable: 244 random bits.
    let state = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let (name, ttl) = (&provider.settings().name, provider.settings().state_ttl);
    let now = Timestamp::now();
    store
        .begin_login(&state, name, callback.as_str(), now, ttl)
        .await?;
    let redirect_uri = token_url(provider, request, settings);
    let mut parameters = vec![
        ("client_id", &*provider.settings().client_id),
        ("response_type", "code"),
        ("scope", &scope),
        ("redirect_uri", &redirect_uri),
        ("state", &state),
    ];
    parameters.extend(prompt.as_deref().map(|prompt| ("prompt", prompt)));
    let audience = provider.settings().audience.as_deref();
    parameters.extend(audience.map(|audience| ("audience", audience)));
    let endpoint = &endpoints.authorization_endpoint;
    let url = Url::parse_with_params(endpoint, parameters);
    let url = url.map_or_else(|_| endpoint.clone(), Into::into);
    Ok(Response::redirect(&url, now, None))
}

/// `GET /openid/{provider}/token`: redirects from the provider, with a code or an error, to where the login began.
///
/// # Errors
/// 400 for missing or contradictory parameters, and for a login that is not in progress; server errors, and the
/// provider's.
pub async fn token(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let (provider, store) = (provider(cx)?, &cx.api.store);
    let (request, settings) = (cx.request, cx.settings());
    let (code, error) = (request.parameter("code"), request.parameter("error"));
    let Some(state) = request.parameter("state") else {
        return Err(ApiError::invalid(
            Location::Querystring,
            "state",
            "Required",
        ));
    };
    if code.is_some() == error.is_some() {
        let problem =
            "Provide either 'state' and 'code', or 'error' and 'error_description', but not both.";
        return Err(ApiError::invalid(Location::Querystring, "", problem));
    }
    let now = Timestamp::now();
    let is_ours = state.len() == 64 && state.bytes().all(|b| b.is_ascii_hexdigit());
    let callback = if is_ours {
        let name = &provider.settings().name;
        store.redeem_login(&state, name, now).await?
    } else {
        None
    };
    let callback = callback
        .ok_or_else(|| ApiError::invalid(Location::Querystring, "state", "Invalid state"))?;
    let result = match code {
        Some(code) => {
            let redirect_uri = token_url(provider, request, settings);
            let tokens = provider.exchange_code(&code, &redirect_uri).await?;
            utf8_percent_encode(&BASE64_STANDARD.encode(tokens), ESCAPED).to_string()
        }
        None => {
            let described = request.parameter("error_description");
            let parameters = [("error", error), ("error_description", described)];
            let parameters = parameters
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
            form_urlencoded::Serializer::new(String::new())
                .extend_pairs(parameters)
                .finish()
        }
    };
    Ok(Response::redirect(
        &format!("{callback}{result}"),
        now,
        None,
    ))
}

/// The provider that the path names.
///
/// # Errors
/// 400 for an unknown provider (Kinto 26.5).
fn provider<'a>(cx: &Context<'a>) -> Result<&'a Provider, ApiError> {
    let Target::Named(name) = cx.target else {
        return Err(ApiError::UnknownPath);
    };
    let mut providers = cx.api.providers.iter();
    let provider = providers.find(|provider| provider.settings().name == *name);
    provider.ok_or_else(|| {
        ApiError::invalid(
            Location::Path,
            "provider",
            format!("Unknown provider '{name}'"),
        )
    })
}

/// The URL to which the provider sends browsers back. Never taken from the client's headers, since a code goes there.
fn token_url(provider: &Provider, request: &Request, settings: &ApiSettings) -> String {
    let origin = request.trusted_origin(settings);
    format!("{origin}{PREFIX}/openid/{}/token", provider.settings().name)
}
