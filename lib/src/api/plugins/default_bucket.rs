//! `kinto.plugins.default_bucket`: `/buckets/default` is each user's own bucket.
//!
//! It and the collections in it are created when they are first asked for, in the unit of work of that request. They
//! stay even if the request is then refused for another reason (Kinto 26.5).

use crate::api::plugins::Plugin;
use crate::settings;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use serde_json::{Map, json};
use uuid::Uuid;

use crate::api::auth::principals::User;
use crate::api::objects::body;
use crate::api::web::error::{ApiError, Location};
use crate::api::web::request::Request;
use crate::event::{Origin, OriginTarget};
use crate::hmac;
use crate::permission::Permissions;
use crate::resource::{Kind, ObjectUri};
use crate::settings::ApiSettings;
use crate::store::Store;
use crate::unit_of_work::{Needs, UnitOfWork};

/// The plugin. It adds not only its capability but a name for a bucket: [`crate::api::dispatch::call`] resolves
/// [`ALIAS`].
pub static PLUGIN: Plugin = Plugin {
    capability: "default_bucket",
    is_on: |settings| settings.includes.has(settings::PluginName::DefaultBucket),
    describe: |_| {
        Box::pin(async {
            Some(json!({
                "description": "A personal bucket, under the id default, whose collections are created when they are first asked for.",
                "url": "https://kinto.readthedocs.io/en/latest/api/1.x/buckets.html#personal-bucket-default",
            }))
        })
    },
    endpoints: &[],
    on_write: None,
};

/// The id that stands for the user's own bucket.
pub const ALIAS: &str = "default";

/// The id of a user's own bucket: a UUID made of the HMAC of the user id under `default_bucket_hmac_secret`.
pub fn id_for_user(user_id: &str, settings: &ApiSettings) -> String {
    let digest = hmac::sign(settings.default_bucket_hmac_secret.as_bytes(), user_id);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(half).to_string()
}

/// The id of the bucket of this user.
///
/// # Errors
/// 401 for an anonymous user, 405 when the server is read-only: a request for the bucket may create it (Kinto 26.5).
pub fn require_id(user: &User, settings: &ApiSettings) -> Result<String, ApiError> {
    let Some(user_id) = &user.id else {
        return Err(ApiError::Forbidden {
            authenticated: false,
        });
    };
    if settings.readonly {
        return Err(ApiError::MethodNotAllowed {
            allow: vec![Method::OPTIONS],
        });
    }
    Ok(id_for_user(user_id, settings))
}

/// The request as it would be sent to the bucket itself: with its own id in place of the alias, in the path and as the
/// id in the bucket's body, and with a body.
pub fn resolve(request: &Request, bucket: &str) -> Request {
    let mut request = request.clone();
    let alias = format!("/buckets/{ALIAS}");
    let is_bucket = request.path.ends_with(&alias);
    // A missing body stands for empty data there (Kinto 26.5).
    if request.body.is_empty() && !request.is_read() {
        request.body = br#"{"data": {}}"#.to_vec();
        let json = HeaderValue::from_static("application/json");
        request.headers.insert(CONTENT_TYPE, json);
    }
    request.path = request
        .path
        .replacen(&alias, &format!("/buckets/{bucket}"), 1);
    // An invalid body is refused later.
    if is_bucket && let Ok(mut body) = body::parse_json(&request.body) {
        let id = body.get_mut("data").and_then(|data| data.get_mut("id"));
        if let Some(id) = id.filter(|id| *id == ALIAS) {
            *id = bucket.into();
            request.body = body.to_string().into_bytes();
        }
    }
    request
}

/// Creates the bucket and the collection that a request for `uri` takes for granted, if they do not exist.
///
/// Takes one round trip when there is something to create, to read the lists whose timestamps advance.
///
/// # Errors
/// 400 for a collection with an invalid id.
pub async fn create_missing(
    unit: &mut UnitOfWork,
    store: &Store,
    uri: &ObjectUri,
    method: &Method,
    user: &User,
    settings: &ApiSettings,
) -> Result<(), ApiError> {
    // A `PUT` or `POST` of the bucket or the collection itself creates it.
    let creates_it = matches!(*method, Method::PUT | Method::POST);
    let mut taken_for_granted: Vec<_> = uri
        .lineage()
        .skip(creates_it.into())
        .filter(|uri| matches!(uri.kind(), Kind::Bucket | Kind::Collection))
        .collect();
    taken_for_granted.reverse();
    if let Some(invalid) = taken_for_granted.iter().find(|uri| !uri.is_valid()) {
        let description = format!("Invalid {} id", invalid.kind().name());
        return Err(ApiError::invalid_unnamed(Location::Path, description));
    }
    let missing: Vec<_> = taken_for_granted
        .into_iter()
        .filter(|uri| unit.get(uri).is_none())
        .collect();
    let lists = missing
        .iter()
        .flat_map(|uri| std::iter::once(uri.list().clone()).chain(uri.child_lists()));
    let needs = Needs {
        lists: lists.collect(),
        ..Needs::default()
    };
    unit.read_more(store, needs).await?;
    for uri in missing {
        let mut permissions = Permissions::default();
        if settings.explicit_permissions {
            permissions.grant("write", user.principal());
        }
        // As if the user had sent a `PUT` of it (Kinto 26.5).
        unit.set_origin(|| {
            Some(Origin {
                user_id: user.id.clone(),
                target: OriginTarget::Object(uri.clone()),
            })
        });
        unit.create(uri, Map::new(), permissions, None);
    }
    Ok(())
}
