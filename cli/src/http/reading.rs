//! Everything that a user can read of another Kinto, list by list.
//!
//! A list is read in the order of its times, each page from where the last one ended (`_since`). So a reading that
//! was cut short goes on, and a later one gets what changed. What `_since` does not tell of is found by counting: a list
//! deleted with its parent and made anew, objects written under a past time. A list whose count differs is read anew.
//! Live objects that `_since` does not show, or shows as tombstones, are read by other queries ([`HIDDEN`]).
//! The histories of buckets are read in [`super::history`].

use std::path::PathBuf;

use futures::stream::{self, StreamExt, TryStreamExt};
use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::timestamp::Timestamp;
use reqwest::StatusCode;
use serde_json::{Map, Value};

use super::client::{Answer, Client, HttpError, message};
use super::history::history_of;
use super::mirror::{Mirror, Mirrored};
use crate::progress::Progress;

/// Objects of a page, where they are small enough for one answer.
pub(super) const PAGE: usize = 1000;
/// Batches under way at once.
const CONCURRENCY: usize = 4;
/// Requests in a batch, where the server does not say how many it takes (Kinto's default).
const BATCH: u64 = 25;
/// Live objects that `_since` does not show as such: with a field `deleted`, and no other, they look like tombstones, and none is
/// later than zero whose writer said zero or less.
const HIDDEN: [&str; 2] = ["deleted=true", "_before=1"];
/// The data of an object that looks like a tombstone.
const DELETED: &str = r#"{"deleted":true}"#;
/// How often a list is read whose count differs since others write to it.
const ATTEMPTS: u32 = 4;

/// Why another Kinto was not read to the end.
#[derive(Debug, thiserror::Error)]
pub enum ReadingError {
    /// It does not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The work file.
    #[error("the work file: {0}")]
    Mirror(#[from] rusqlite::Error),
    /// A work file of something else.
    #[error(
        "the work file is of another server or user, or was made with other options; name another file by --work"
    )]
    OtherSource,
    /// Nothing can be read: to take that for a source that holds nothing would empty the table.
    #[error("{0} may not be read: {1}")]
    Refused(String, String),
    /// A list is never the same twice.
    #[error(
        "{list} says that it has {counted} objects but shows {read}. Was it written to meanwhile? Set the server read-only and start again"
    )]
    Count {
        /// The list.
        list: ListUri,
        /// How many it says.
        counted: u64,
        /// How many it shows.
        read: u64,
    },
}

pub(super) type Result<T> = std::result::Result<T, ReadingError>;

/// How a Kinto is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The file of what was read, which a later reading goes on from.
    pub work: Option<PathBuf>,
    /// Whether nobody asks for the permissions of records, which takes a request each.
    pub skips_record_permissions: bool,
}

/// What a reading found, but for the objects themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadReport {
    /// The lists that could be read, parents before what is under them.
    pub lists: Vec<ListUri>,
    /// The buckets whose histories could be read.
    pub histories: Vec<ObjectUri>,
    /// Lists and histories that the user may not read, with what the server says.
    pub unreadable: Vec<(String, String)>,
    /// Plugins of the server whose objects were not read.
    pub plugins: Vec<String>,
}

/// Opens the copy of the Kinto that said `hello`, in the file of the options or else in `otherwise`.
///
/// # Errors
/// The file fails, or is of another server, user or other options.
pub fn open(
    client: &Client,
    hello: &Value,
    options: &Options,
    otherwise: PathBuf,
) -> Result<Mirror> {
    let user = hello["user"]["id"].as_str().unwrap_or_default();
    let skips = options.skips_record_permissions;
    let source = format!("{} {user} {skips}", client.url());
    let path = options.work.clone().unwrap_or(otherwise);
    match Mirror::open(&path, &source)? {
        (mirror, true) => Ok(mirror),
        (_, false) => Err(ReadingError::OtherSource),
    }
}

/// Reads all that the client may read into the mirror.
///
/// # Errors
/// The server or the file fails.
pub async fn read(
    client: &Client,
    hello: &Value,
    mirror: &mut Mirror,
    options: &Options,
    progress: &Progress,
) -> Result<ReadReport> {
    let batch = hello["settings"]["batch_max_requests"].as_u64();
    let capabilities = &hello["capabilities"];
    let has = |name: &str| capabilities.get(name).is_some();
    let trims = |name| capabilities["history"].get(name).is_some();
    let mut reader = Reader {
        client,
        mirror,
        progress,
        batch: usize::try_from(batch.unwrap_or(BATCH).clamp(1, 100)).unwrap_or(1),
        skips_record_permissions: options.skips_record_permissions,
        trims_histories: trims("auto_trim_max_count") || trims("auto_trim_user_ids"),
    };
    let mut found = ReadReport::default();
    let plugins = ["attachments", "quotas"];
    let plugins = plugins.into_iter().filter(|name| has(name));
    found.plugins = plugins.map(str::to_owned).collect();
    let mut lists = vec![ListUri::buckets()];
    if has("accounts") {
        lists.push(ListUri::accounts());
    }
    while let Some(list) = lists.pop() {
        if let Some(refusal) = reader.list(&list).await? {
            if list == ListUri::buckets() {
                return Err(ReadingError::Refused(list.to_string(), refusal));
            }
            found.unreadable.push((list.to_string(), refusal));
            continue;
        }
        if !list.kind().children().is_empty() {
            for object in reader.mirror.objects(&list) {
                let object = object?;
                if object.data.is_some() && list.kind().is_valid_id(&object.id) {
                    lists.extend(list.clone().object(object.id).child_lists());
                }
            }
        }
        found.lists.push(list);
    }
    if has("history") {
        let live = reader.mirror.objects(&ListUri::buckets());
        let live = live.filter(|bucket| bucket.as_ref().map_or(true, |of| of.data.is_some()));
        let buckets = live.map(|bucket| Ok(ObjectUri::bucket(bucket?.id)));
        for bucket in buckets.collect::<Result<Vec<_>>>()? {
            let history = history_of(&bucket);
            match reader.history(&history).await? {
                None => found.histories.push(bucket),
                Some(refusal) => found.unreadable.push((history, refusal)),
            }
        }
    }
    Ok(found)
}

pub(super) struct Reader<'a> {
    pub(super) client: &'a Client,
    pub(super) mirror: &'a mut Mirror,
    pub(super) progress: &'a Progress,
    batch: usize,
    skips_record_permissions: bool,
    /// Whether old entries of histories go by themselves.
    pub(super) trims_histories: bool,
}

impl Reader<'_> {
    /// Reads what is new of a list; what the server says where it may not be read.
    async fn list(&mut self, list: &ListUri) -> Result<Option<String>> {
        let (mut counted, mut read) = (0, 0);
        for attempt in 0..ATTEMPTS {
            if let Some(refusal) = self.changes(list).await? {
                return Ok(Some(refusal));
            }
            let head = self.client.head(&list.to_string()).await?;
            let number = head.number("Total-Objects");
            counted = match number.or_else(|| head.number("Total-Records")) {
                Some(counted) if head.status.is_success() => counted,
                _ => return self.refusal(&list.to_string(), &head).map(Some),
            };
            read = self.mirror.live(list)?;
            if read < counted {
                self.hidden(list).await?;
                read = self.mirror.live(list)?;
            }
            if counted == read {
                let etag = head.etag().unwrap_or_default();
                self.mirror.keep_timestamp(list, etag)?;
                return Ok(None);
            }
            // The first time it may have been written to in between.
            if attempt > 0 {
                self.mirror.forget(list)?;
            }
        }
        Err(ReadingError::Count {
            list: list.clone(),
            counted,
            read,
        })
    }

    /// What is said where the user may not read a list, or it is not there; any other answer is a failure, and so is that
    /// credentials are not valid, or no longer.
    pub(super) fn refusal(&self, list: &str, answer: &Answer) -> Result<String> {
        let said = format!("{} {}", answer.status, message(&answer.body));
        match answer.status {
            StatusCode::UNAUTHORIZED if !self.client.has_credentials() => Ok(said),
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                Ok(said)
            }
            _ => Err(ReadingError::Refused(list.to_owned(), said)),
        }
    }

    /// Reads on from where the list was read up to.
    async fn changes(&mut self, list: &ListUri) -> Result<Option<String>> {
        let mut limit = PAGE;
        loop {
            let since = self.mirror.reached(list)?;
            let path = format!("{list}?_since={since}&_sort=last_modified&_limit={limit}");
            let mut answer = match self.client.get(&path).await {
                Err(HttpError::TooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            let Some(mut objects) = objects_of(&mut answer, &path)? else {
                return self.refusal(&list.to_string(), &answer).map(Some);
            };
            self.permissions(list, &mut objects).await?;
            let latest = objects.iter().map(|object| object.last_modified).max();
            self.mirror
                .keep(list, &objects, latest.unwrap_or_default())?;
            self.progress.advance(objects.len() as u64);
            if objects.is_empty() || !answer.headers.contains_key("Next-Page") {
                return Ok(None);
            }
        }
    }

    /// Reads live objects that the list shows to other questions.
    async fn hidden(&mut self, list: &ListUri) -> Result<()> {
        for query in HIDDEN {
            let path = format!("{list}?{query}&_limit={PAGE}");
            let mut answer = self.client.get(&path).await?;
            let mut objects = objects_of(&mut answer, &path)?.unwrap_or_default();
            for object in &mut objects {
                object.data.get_or_insert_with(|| DELETED.to_owned());
            }
            self.permissions(list, &mut objects).await?;
            self.mirror.keep(list, &objects, Timestamp(0))?;
        }
        Ok(())
    }

    /// Asks for the permissions of objects, which a list does not show.
    async fn permissions(&self, list: &ListUri, objects: &mut [Mirrored]) -> Result<()> {
        if self.skips_record_permissions && list.kind() == Kind::Record {
            return Ok(());
        }
        // An id that no URL can have, as one that ends a line, would be asked for as another's.
        let live = objects
            .iter_mut()
            .filter(|object| object.data.is_some() && list.kind().is_valid_id(&object.id));
        let mut live: Vec<_> = live.collect();
        let uris: Vec<_> = live
            .iter()
            .map(|object| list.clone().object(&*object.id).to_string())
            .collect();
        let batches = uris.chunks(self.batch).map(|uris| self.answers(uris));
        let answers: Vec<Vec<_>> = stream::iter(batches)
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        for (object, shown) in live.iter_mut().zip(answers.into_iter().flatten()) {
            let Some(mut shown) = shown else { continue };
            object.permissions = Some(shown["permissions"].to_string());
            // Kinto-serverless lists accounts without their data.
            if list.kind() == Kind::Account
                && let Value::Object(mut fields) = shown["data"].take()
            {
                fields.retain(|name, _| name != "id" && name != "last_modified");
                object.data = Some(text(fields));
            }
        }
        Ok(())
    }

    /// These objects with their permissions; `None` of one that is not there any more.
    async fn answers(&self, uris: &[String]) -> Result<Vec<Option<Value>>> {
        let answers = match self.client.get_all(uris).await {
            Err(HttpError::TooLarge(_)) if uris.len() > 1 => {
                let (some, others) = uris.split_at(uris.len() / 2);
                let mut shown = Box::pin(self.answers(some)).await?;
                shown.extend(Box::pin(self.answers(others)).await?);
                return Ok(shown);
            }
            answers => answers?,
        };
        let shown = answers.into_iter().zip(uris).map(|((status, body), uri)| {
            match (status, body.get("permissions")) {
                (200, Some(_)) => Ok(Some(body)),
                // It was deleted meanwhile, which the list tells of later.
                (404 | 403 | 401, _) => Ok(None),
                (status, _) => Err(ReadingError::Http(HttpError::Answer {
                    path: uri.clone(),
                    what: format!("{status} {}", message(&body)),
                })),
            }
        });
        shown.collect()
    }
}

/// The objects of an answer, which stays without them; `None` where it has none to show.
pub(super) fn objects_of(answer: &mut Answer, path: &str) -> Result<Option<Vec<Mirrored>>> {
    let objects = match answer.body.get_mut("data").map(Value::take) {
        Some(Value::Array(objects)) if answer.status.is_success() => objects,
        _ => return Ok(None),
    };
    let objects = objects.into_iter().map(|object| parse(object, path));
    objects.collect::<Result<_>>().map(Some)
}

fn parse(object: Value, path: &str) -> Result<Mirrored> {
    let wrong = || HttpError::Answer {
        path: path.to_owned(),
        what: "an object without id or last_modified".to_owned(),
    };
    let Value::Object(mut fields) = object else {
        return Err(wrong().into());
    };
    let mut take = |name: &str| fields.shift_remove(name);
    let (Some(Value::String(id)), Some(Value::Number(time))) = (take("id"), take("last_modified"))
    else {
        return Err(wrong().into());
    };
    let before_1970 = || time.as_i64().map(i64::cast_unsigned);
    let last_modified = time.as_u64().or_else(before_1970);
    let last_modified = last_modified.map(Timestamp).ok_or_else(wrong)?;
    let is_deleted = fields.get("deleted") == Some(&Value::Bool(true)) && fields.len() == 1;
    Ok(Mirrored {
        id,
        last_modified,
        data: (!is_deleted).then(|| text(fields)),
        permissions: None,
    })
}

fn text(fields: Map<String, Value>) -> String {
    Value::Object(fields).to_string()
}
