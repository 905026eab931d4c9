//! The endpoints that describe the server itself.

use crate::api::dispatch::context::Context;
use crate::api::web::error::ApiError;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::api::Api;
use crate::api::plugins::signer::certificates;
use crate::api::plugins::{self, default_bucket};
use crate::api::web::cache_control;
use crate::api::web::response::Response;
use crate::settings::{PluginName, Policy};
use crate::timestamp::Timestamp;

/// The version of the HTTP API that Kinto 26.5 speaks.
pub const HTTP_API_VERSION: &str = "1.23";

/// `GET /v1/`: the server, its capabilities, and the user that it sees.
///
/// # Errors
/// Failures of the table.
pub async fn hello(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let (api, request, settings) = (cx.api, cx.request, cx.settings());
    let mut user = cx.user.clone();
    user.add_first_groups(cx.unit, &api.store).await?;
    let web = &settings.web;
    let mut hello = json!({
        "project_name": web.project_name,
        "project_version": web.project_version,
        "http_api_version": HTTP_API_VERSION,
        "project_docs": settings.project_docs,
        "url": format!("{}/v1/", request.origin(settings)),
        // Kinto's hash of its `.ini` file: there is none.
        "config": null,
    });
    if let Some(end) = &web.end_of_service {
        hello["eos"] = json!(end.date);
    }
    hello["settings"] = json!({
        "batch_max_requests": settings.batch_max_requests,
        "readonly": settings.readonly,
        "explicit_permissions": settings.explicit_permissions,
    });
    if let Some(id) = &user.id {
        hello["user"] = json!({"id": id, "principals": user.principals});
        if settings.includes.has(PluginName::DefaultBucket) {
            hello["user"]["bucket"] = default_bucket::id_for_user(id, settings).into();
        }
    }
    hello["capabilities"] = capabilities(api).await.into();
    let response = Response::json(StatusCode::OK, &hello);
    Ok(if settings.readonly {
        match &user.id {
            None => {
                let lifetime = web.root_cache_expires_seconds;
                let mut response = response.cached_for(lifetime, Timestamp::now());
                cache_control::vary_by_origin(&mut response, settings);
                response
            }
            // The response names the user.
            Some(_) => response.uncached(),
        }
    } else {
        response
    })
}

async fn capabilities(api: &Api) -> Map<String, Value> {
    let changes = &api.settings.changes;
    let mut capabilities = Map::new();
    if api.settings.api.includes.changes() {
        capabilities.insert("changes".to_owned(), json!({
            "description": "Tells which collections changed, and when.",
            "url": "https://github.com/Kinto/kinto-changes",
            "version": env!("CARGO_PKG_VERSION"),
            "collections": changes.resources.uris().iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    if api.settings.api.schema_validation {
        capabilities.insert("schema".to_owned(), json!({
            "description": "Records, groups and collections must match JSON schemas.",
            "url": "https://kinto.readthedocs.io/en/latest/api/1.x/collections.html#collection-json-schema",
        }));
    }
    let mut policies = api.settings.api.policies.iter();
    if policies.any(|policy| matches!(policy, Policy::Basic { .. })) {
        capabilities.insert(
            "basicauth".to_owned(),
            json!({
                "description": "Basic authentication: every user and password make a user id.",
                "url": "https://kinto.readthedocs.io/en/stable/api/1.x/authentication.html",
            }),
        );
    }
    if api.settings.api.includes.megaphone() && !api.settings.megaphones.is_empty() {
        capabilities.insert(
            "megaphone".to_owned(),
            json!({
                "description": "Broadcasts the time of the latest change to all clients.",
                "url": "https://github.com/Kinto/kinto-megaphone",
                "version": env!("CARGO_PKG_VERSION"),
            }),
        );
    }
    plugins::describe(api, &mut capabilities).await;
    capabilities
}

/// `GET /v1/__heartbeat__`: whether the services that the server depends on answer; 503 when one does not.
///
/// `storage` and `permission` are one table. `megaphone` is shown when one is configured.
///
/// # Errors
/// None: a failure is a response.
pub async fn heartbeat(cx: &mut Context<'_>) -> Result<Response, ApiError> {
    let api = cx.api;
    let storage = async {
        let answer = api.store.ping().await;
        if let Err(error) = &answer {
            tracing::error!(%error, "storage does not answer");
        }
        answer.is_ok()
    };
    let megaphones = join_all(
        api.megaphones
            .iter()
            .map(|megaphone| megaphone.is_healthy()),
    );
    let signer = async {
        let keys = api.settings.api.signer.iter();
        let checks = keys.flat_map(|signer| signer.all_keys());
        let checked = try_join_all(checks.map(|keys| api.signer.check(keys))).await;
        if let Err(error) = &checked {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, source, "the signer does not sign");
        }
        checked.is_ok() && certificates::are_valid(api).await
    };
    let limit = Duration::from_secs(api.settings.api.web.heartbeat_timeout_seconds);
    let (storage, megaphones, signer) = futures::join!(
        timeout(limit, storage),
        timeout(limit, megaphones),
        timeout(limit, signer)
    );
    let storage = storage.unwrap_or(false);
    let mut status = BTreeMap::from([("storage", storage), ("permission", storage)]);
    if !api.megaphones.is_empty() {
        let healthy = megaphones.is_ok_and(|all| all.into_iter().all(|healthy| healthy));
        status.insert("megaphone", healthy);
    }
    if api.settings.api.signer.is_some() {
        status.insert("signer", signer.unwrap_or(false));
    }
    let healthy = status.values().all(|healthy| *healthy);
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok(Response::json(code, &json!(status)))
}

/// `GET /v1/__lbheartbeat__`: whether the server answers at all.
pub fn lbheartbeat() -> Response {
    Response::json(StatusCode::OK, &json!({}))
}

/// `GET /v1/__version__`: the version that is deployed (Dockerflow).
pub fn version() -> Response {
    let version = json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "source": option_env!("KINTO_SERVERLESS_SOURCE").unwrap_or_default(),
        "commit": option_env!("KINTO_SERVERLESS_COMMIT").unwrap_or_default(),
    });
    Response::json(StatusCode::OK, &version)
}

/// `GET /v1/contribute.json`: where the project lives and how to take part in it.
pub fn contribute() -> Response {
    let contribute = json!({
        "name": env!("CARGO_PKG_NAME"),
        "description": "Kinto's HTTP API, changes feed and global broadcasts as serverless functions.",
        "repository": {"license": env!("CARGO_PKG_LICENSE")},
        "keywords": ["JSON", "REST", "API", "Rust", "serverless", "Kinto"],
    });
    Response::json(StatusCode::OK, &contribute)
}
