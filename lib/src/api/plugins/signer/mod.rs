//! `kinto_remote_settings.signer`: sources that people write, whose contents are reviewed, signed, and published to
//! collections that the stack alone writes ([decision 25](../../../../../docs/decisions/025-signer.md)).
//!
//! A request goes: its handler → [`after_call`], which decides on what was written ([`transitions`]), carries out its
//! command at its place in the batch ([`source`], [`commands`]), and plans what is to be published → when all of a batch is answered, [`publish`] writes what
//! changes to layers, signs, and has the unit of work show it in the transaction that commits the request.

pub mod certificates;
mod commands;
mod publish;
pub mod reading;
mod records;
pub mod refresh;
mod source;
pub mod transitions;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::source::Source;
use self::transitions::Refusal;
use crate::api::dispatch::context::Context;
use crate::api::plugins::Plugin;
use crate::api::web::error::ApiError;
use crate::event::{Action, Origin, OriginTarget};
use crate::resource::{Kind, ObjectUri};
use crate::settings::{PluginName, Role, SignedResource, SignerSettings};
use crate::signer::resources::Resource;
use crate::store::Content;
use crate::unit_of_work::Needs;
use crate::unit_of_work::publications::JournalEntry;

/// The user that the stack is when it publishes.
pub const PLUGIN_USER: &str = "plugin:remote-settings";
/// The plugin.
pub static PLUGIN: Plugin = Plugin {
    capability: "signer",
    is_on: |settings| settings.includes.has(PluginName::Signer),
    describe: |api| {
        let signer = api.settings.api.signer.as_ref();
        let description = signer.map(describe);
        Box::pin(async { description })
    },
    endpoints: &[],
    on_write: Some(|api, unit, _| Box::pin(publish::publish(api, unit))),
};

fn describe(signer: &SignerSettings) -> Value {
    let place = |uri: &ObjectUri| match uri.kind() {
        Kind::Bucket => json!({"bucket": uri.id(), "collection": null}),
        _ => json!({"bucket": uri.bucket_id(), "collection": uri.id()}),
    };
    let describe = |line: &Resource| {
        let mut described = json!({"source": place(&line.source)});
        if let Some(preview) = &line.preview {
            described["preview"] = place(preview);
        }
        described["destination"] = place(&line.destination);
        let collection = (line.source.kind() == Kind::Collection).then(|| line.source.id());
        let is_reviewed = signer.is_reviewed(line.source.bucket_id(), collection);
        if is_reviewed != signer.to_review_enabled {
            described["to_review_enabled"] = is_reviewed.into();
        }
        described
    };
    json!({
        "description": "What is reviewed and published here is signed.",
        "url": "https://github.com/mozilla/remote-settings/tree/main/kinto-remote-settings",
        "version": env!("CARGO_PKG_VERSION"),
        "resources": signer.resources.0.iter().map(describe).collect::<Vec<_>>(),
        "to_review_enabled": signer.to_review_enabled,
        "plugin_userid": PLUGIN_USER,
        "group_check_enabled": true,
        "editors_group": "{collection_id}-editors",
        "reviewers_group": "{collection_id}-reviewers",
    })
}

/// The ends of the ids of a source's groups: of those who may request reviews, and of those who may approve.
const GROUPS: [&str; 2] = ["editors", "reviewers"];

/// The groups of a source, as in [`GROUPS`].
fn groups(source: &ObjectUri) -> [ObjectUri; 2] {
    GROUPS.map(|name| ObjectUri::group(source.bucket_id(), format!("{}-{name}", source.id())))
}

/// The collection that a group is for, if it is named as those of a source.
fn collection_of(group: &ObjectUri) -> Option<ObjectUri> {
    let (collection, name) = group.id().rsplit_once('-')?;
    let is_named = GROUPS.contains(&name);
    is_named.then(|| ObjectUri::collection(group.bucket_id(), collection))
}

fn is_source(signer: &SignerSettings, uri: &ObjectUri) -> bool {
    matches!(signer.role(uri), Some(Role::Source(_)))
}

/// Whether the user does not come to own what a write of theirs leaves at `uri`: what is published, a source, or a record of
/// one by who may write the whole source. Whoever leaves its editors shall write no more.
pub fn is_owned_by_nobody(
    signer: Option<&SignerSettings>,
    uri: &ObjectUri,
    created: bool,
    may_write_parent: impl FnOnce() -> bool,
) -> bool {
    let Some(signer) = signer else {
        return false;
    };
    match uri.kind() {
        Kind::Collection => match signer.role(uri) {
            Some(Role::Source(_)) => !created,
            role => role.is_some(),
        },
        Kind::Record => {
            uri.parent().is_some_and(|uri| is_source(signer, uri)) && may_write_parent()
        }
        _ => false,
    }
}

/// Returns `true` if an object stays when the only user who may write it is deleted: a preview or destination, its bucket, or a
/// group of a source. The deletion of the user who made the first source must not delete what clients read.
pub fn belongs_to_publishing(signer: Option<&SignerSettings>, uri: &ObjectUri) -> bool {
    let Some(signer) = signer else {
        return false;
    };
    match uri.kind() {
        Kind::Bucket => {
            let mut targets = signer.resources.0.iter().flat_map(Resource::targets);
            targets.any(|target| target.bucket_uri() == uri)
        }
        Kind::Group => collection_of(uri).is_some_and(|uri| is_source(signer, &uri)),
        _ => matches!(signer.role(uri), Some(Role::Target(_))),
    }
}

/// Looks at what a call has just written, and does what follows from it.
///
/// # Errors
/// What it is refused for, and with it all of its batch: it is written already in the unit.
pub async fn after_call(cx: &mut Context<'_>) -> Result<(), ApiError> {
    let Some(signer) = cx.api.settings.api.signer.as_ref() else {
        return Ok(());
    };
    let journal = cx.unit.take_journal();
    if journal.is_empty() {
        return Ok(());
    }
    let mut edited = BTreeMap::new();
    for entry in journal {
        let uri = &entry.uri;
        match uri.kind() {
            Kind::Record => {
                let Some(role) = uri.parent().and_then(|parent| signer.role(parent)) else {
                    continue;
                };
                let Role::Source(of) = role else {
                    return Err(published());
                };
                let live = cx.unit.get(uri);
                if let Some(live) = live.filter(|_| !signer.allow_floats)
                    && records::has_floats(live.data)
                {
                    let problem = "Numbers that are no integers cannot be signed";
                    return Err(refuse(Refusal::Invalid(problem)));
                }
                edited.insert(of.source.clone(), of);
            }
            Kind::Collection => match signer.role(uri) {
                Some(Role::Target(of)) => check_target(cx, &entry, &of).await?,
                Some(Role::Source(of)) => {
                    cx.unit.set_origin(|| Some(origin(&of.source)));
                    match entry.action {
                        Action::Create => Source { cx, of }.created().await?,
                        Action::Update => Source { cx, of }.updated(&entry).await?,
                        Action::Delete => Source { cx, of }.deleted().await?,
                    }
                }
                None => {}
            },
            _ => {}
        }
    }
    for (uri, of) in edited {
        if cx.unit.get(&uri).is_some() {
            cx.unit.set_origin(|| Some(origin(&uri)));
            Source { cx, of }.edited().await?;
        }
    }
    // What the stack itself wrote.
    cx.unit.take_journal();
    Ok(())
}

fn origin(source: &ObjectUri) -> Origin {
    Origin {
        user_id: Some(PLUGIN_USER.to_owned()),
        target: OriginTarget::Object(source.clone()),
    }
}

fn refuse(refusal: Refusal) -> ApiError {
    let (is_forbidden, message) = match refusal {
        Refusal::Invalid(message) => (false, message),
        Refusal::Forbidden(message) => (true, message),
    };
    ApiError::Review {
        is_forbidden,
        message: message.to_owned(),
    }
}

fn published() -> ApiError {
    refuse(Refusal::Forbidden(
        "What is published here is written by the server alone",
    ))
}

/// Checks a write of a collection that is published to: it may be deleted when its source is gone, and otherwise be made
/// readable.
async fn check_target(
    cx: &mut Context<'_>,
    entry: &JournalEntry,
    of: &SignedResource,
) -> Result<(), ApiError> {
    let unit = &mut *cx.unit;
    if entry.action == Action::Delete {
        let objects = of.source.lineage().cloned().collect();
        let needs = Needs {
            objects,
            ..Needs::default()
        };
        unit.read_more(&cx.api.store, needs).await?;
        return match unit.get(&of.source) {
            None => Ok(()),
            Some(_) => Err(refuse(Refusal::Forbidden(
                "The collection is in use: its source is published to it",
            ))),
        };
    }
    let old = entry.old.as_ref().map(|old| &old.content);
    let (Some(Content::Live { data, permissions }), Some(new)) = (old, unit.get(&entry.uri)) else {
        return Err(published());
    };
    let other = |name: &str| new.permissions.granted(name) != permissions.granted(name);
    // What gives to write there gives nothing: it may as well go.
    let adds = ["write", "record:create"]
        .into_iter()
        .any(|name| other(name) && !new.permissions.granted(name).is_empty());
    match new.data == data && !adds {
        true => Ok(()),
        false => Err(published()),
    }
}
