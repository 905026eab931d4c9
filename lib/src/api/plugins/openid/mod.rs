//! `kinto.plugins.openid`: users log in with OpenID Connect providers (Kinto 26.5).
//!
//! The policies of `multiauth` name the providers ([`crate::settings::OpenIdSettings`]);
//! [`crate::api::auth::credentials`] asks each of them for the user of a token.

pub mod login;
pub mod provider;

use futures::future::join_all;
use serde_json::json;

use self::provider::Provider;
use crate::api::dispatch::endpoint::{About, Endpoint, Handler};
use crate::api::plugins::Plugin;
use crate::api::service::operation::{Operation, required, text};
use crate::settings;

/// The plugin.
pub static PLUGIN: Plugin = Plugin {
    capability: "openid",
    is_on: |settings| settings.includes.has(settings::PluginName::OpenId),
    describe: |api| {
        Box::pin(async {
            if api.providers.is_empty() {
                return None;
            }
            let providers = join_all(api.providers.iter().map(Provider::capability)).await;
            Some(json!({
                "description": "Users can log in with OpenID Connect providers.",
                "url": "http://kinto.readthedocs.io/en/stable/api/1.x/authentication.html",
                "providers": providers,
            }))
        })
    },
    endpoints: &[
        Endpoint {
            path: "/openid/{provider}/login",
            about: About::Named,
            operation: |_, _| Operation {
                parameters: vec![
                    required(text("callback")),
                    required(text("scope")),
                    json!({"name": "prompt", "in": "query", "type": "string", "enum": ["none"]}),
                ],
                ..Operation::redirect("openid_login", "The identity provider is asked who it is.")
            },
            handler: Handler::Call(|cx| Box::pin(login::login(cx))),
            ..Endpoint::READ_ONLY
        },
        Endpoint {
            path: "/openid/{provider}/token",
            about: About::Named,
            operation: |_, _| Operation {
                parameters: vec![
                    required(text("state")),
                    text("code"),
                    text("error"),
                    text("error_description"),
                ],
                ..Operation::redirect(
                    "openid_token",
                    "The provider's tokens are brought to where the login began.",
                )
            },
            handler: Handler::Call(|cx| Box::pin(login::token(cx))),
            ..Endpoint::READ_ONLY
        },
    ],
    on_write: None,
};
