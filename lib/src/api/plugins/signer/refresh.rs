//! Signing anew what was signed long ago, by a schedule: clients verify certificates, and these end
//! ([decision 29](../../../../../docs/decisions/029-keys.md)).
//!
//! A publication that is signed again gets another timestamp, though its records stay as they are: so monitor/changes and broadcasts tell of
//! it, clients ask with another `_expected`, and no cache answers with the old signature.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::source::{date, needs_of};
use super::{PLUGIN_USER, certificates, origin};
use crate::api::Api;
use crate::api::plugins;
use crate::api::web::error::ApiError;
use crate::api::web::request::Request;
use crate::api::web::response::Response;
use crate::backoff::Backoff;
use crate::resource::{Kind, ObjectUri};
use crate::settings::{Role, SignedResource, SignerSettings};
use crate::store::Generation;
use crate::store::changeset::ChangesQuery;
use crate::timestamp::Timestamp;
use crate::unit_of_work::publications::Publication;
use crate::unit_of_work::{Needs, UnitOfWork};

/// The field that says when a source was signed.
const SIGNED: &str = "last_signature_date";
/// Bytes of the collections of a source bucket that are looked at.
const MAX_READ: usize = 24 * 1024 * 1024;
/// How long one run begins to sign for: the next one goes on.
const RUN: Duration = Duration::from_secs(15);
/// How long one of them may take to be committed after that.
const COMMIT: Duration = Duration::from_secs(8);
/// How often one is tried that others write at the same time.
const ATTEMPTS: u32 = 5;
/// The longest pause before the second attempt; it doubles each time, with full jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before any attempt.
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// The result of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Sources whose publications were signed.
    pub signed: usize,
    /// The sources and certificates that failed; they are logged.
    pub failed: usize,
    /// Sources that are left for the next run.
    pub left: usize,
}

/// The route that the schedule's event names: no front sends another than `$default`, and no client has a say in it.
pub const ROUTE: &str = "refresh-signatures";
/// The parameter with the days after which something is signed anew.
const DAYS: &str = "days";

/// Answers the event of the schedule.
pub async fn answer(api: &Api, request: &Request) -> Response {
    let days = request.parameter(DAYS).and_then(|days| days.parse().ok());
    let Some(days) = days.filter(|days: &u64| *days < 100_000) else {
        return Response::json(StatusCode::BAD_REQUEST, &json!({"error": "no days"}));
    };
    let refreshed = api
        .refresh_signatures(Duration::from_secs(days * 24 * 3600))
        .await;
    let Refreshed {
        signed,
        failed,
        left,
    } = refreshed;
    tracing::info!(signed, failed, left, "signed anew");
    let status = match failed {
        0 => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Response::json(
        status,
        &json!({"signed": signed, "failed": failed, "left": left}),
    )
}

impl Api {
    /// Signs anew what every source has published whose last signature is older than `age`.
    ///
    /// One `Query` a MB of the collections of each source bucket, then for each that is due what a publication without
    /// changes costs.
    ///
    /// A source or bucket that fails is logged and counted, and does not stop the others.
    pub async fn refresh_signatures(&self, age: Duration) -> Refreshed {
        let Some(signer) = &self.settings.api.signer else {
            return Refreshed::default();
        };
        let began = Instant::now();
        let mut refreshed = Refreshed::default();
        if !certificates::are_valid(self).await {
            refreshed.failed += 1;
        }
        let now = Timestamp::now();
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let due = Timestamp(now.0.saturating_sub(age));
        let lines = signer.resources.0.iter();
        let buckets: BTreeSet<&ObjectUri> = lines.map(|line| line.source.bucket_uri()).collect();
        for bucket in buckets {
            let sources = match self.due(signer, bucket, due).await {
                Ok(sources) => sources,
                Err(error) => {
                    tracing::error!(%error, %bucket, "the sources of a bucket were not signed anew");
                    refreshed.failed += 1;
                    continue;
                }
            };
            for of in sources {
                if began.elapsed() > RUN {
                    refreshed.left += 1;
                    continue;
                }
                match self.refresh(&of).await {
                    Ok(()) => refreshed.signed += 1,
                    // No error: an alarm counts these, and the next run tries it again.
                    Err(error @ (ApiError::Overtaken | ApiError::Busy)) => {
                        let source = &of.source;
                        tracing::warn!(%error, %source, "others write a source that is to be signed anew");
                        refreshed.left += 1;
                    }
                    Err(error) => {
                        let (source, cause) = (&of.source, std::error::Error::source(&error));
                        let cause = cause.map(ToString::to_string);
                        tracing::error!(%error, cause, %source, "a publication was not signed anew");
                        refreshed.failed += 1;
                    }
                }
            }
        }
        refreshed
    }

    /// The sources in a bucket that were signed last before `due`.
    ///
    /// # Errors
    /// [`ApiError::TooLargeToPublish`] where the bucket has more collections than are looked at: some of them would
    /// never be signed anew. Failures of the table.
    async fn due(
        &self,
        signer: &SignerSettings,
        bucket: &ObjectUri,
        due: Timestamp,
    ) -> Result<Vec<SignedResource>, ApiError> {
        let list = bucket.children(Kind::Collection);
        let needs = Needs {
            objects: [bucket.clone()].into(),
            lists: [list.clone()].into(),
            ..Needs::default()
        };
        let unit = UnitOfWork::read(&self.store, Timestamp::now(), needs).await?;
        let generation = unit.generation_of(&list).unwrap_or(Generation::ROOT);
        let wanted = ChangesQuery {
            since: Timestamp(0),
            limit: None,
            max_bytes: MAX_READ,
            tombstones: false,
        };
        let at = unit.timestamp_read(&list);
        let collections = self.store.changes(&list, &generation, at, wanted).await?;
        if collections.are_too_large() {
            return Err(ApiError::TooLargeToPublish);
        }
        let due = date(due);
        let sources = collections.shown().into_iter().filter_map(|collection| {
            let uri = list.clone().object(&collection.id);
            let data: Map<String, Value> = serde_json::from_str(collection.data.as_ref()?).ok()?;
            // Both are dates of UTC in one form.
            let signed = data.get(SIGNED).and_then(Value::as_str)?;
            match signer.role(&uri)? {
                Role::Source(of) if signed < &*due => Some(of),
                _ => None,
            }
        });
        let mut sources: Vec<_> = sources.collect();
        sources.sort_by_key(|of| of.source.to_string());
        Ok(sources)
    }

    /// Signs anew what a source has published.
    async fn refresh(&self, of: &SignedResource) -> Result<(), ApiError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        for _ in 1..ATTEMPTS {
            match self.try_refresh(of).await {
                Err(ApiError::Overtaken | ApiError::Busy) => sleep(backoff.next_pause()).await,
                outcome => return outcome,
            }
        }
        self.try_refresh(of).await
    }

    async fn try_refresh(&self, of: &SignedResource) -> Result<(), ApiError> {
        let unit = UnitOfWork::read(&self.store, Timestamp::now(), needs_of(of)).await?;
        let mut unit = unit.with_events(self.has_subscribers());
        let Some(source) = unit.get(&of.source) else {
            return Ok(());
        };
        let (mut data, permissions) = (source.data.clone(), source.permissions.clone());
        let targets: Vec<ObjectUri> = of.targets().cloned().collect();
        if !targets.iter().any(|target| unit.get(target).is_some()) {
            return Ok(());
        }
        unit.set_origin(|| Some(origin(&of.source)));
        for target in targets {
            let publication = Publication {
                is_renewed: true,
                ..Publication::default()
            };
            unit.plan_publication(&target, publication);
        }
        data.insert("last_signature_by".to_owned(), json!(PLUGIN_USER));
        data.insert(SIGNED.to_owned(), date(unit.now()).into());
        unit.update(&of.source, data, permissions, None);
        plugins::after_writes(&self.on_write, self, &mut unit).await?;
        self.commit(unit, Instant::now() + COMMIT).await?;
        Ok(())
    }
}
