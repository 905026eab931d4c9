//! The histories of another Kinto's buckets (`kinto.plugins.history`), entry by entry in the order of their times.
//!
//! Entries are read as the objects of a list are, but for two things. Nobody says how many there are: that a history
//! is no more the one that was read, since its bucket was deleted and made anew, is seen by its first entry, and one that is trimmed,
//! which leaves no tombstones, is read anew each time. And ours may show an entry after a later one, or two of one time (decision 24):
//! so the next reading begins no later than the `ETag` of this one, and pages follow the server's `Next-Page`.

use kinto_serverless::resource::ObjectUri;
use kinto_serverless::timestamp::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;

use super::client::{Answer, HttpError};
use super::reading::{PAGE, Reader, Result, objects_of};
use crate::staging::entries::HISTORY;

/// The header with the URL of the page that follows.
const NEXT_PAGE: &str = "Next-Page";

/// The path of the history of a bucket.
pub fn history_of(bucket: &ObjectUri) -> String {
    format!("{bucket}/{HISTORY}")
}

impl Reader<'_> {
    /// Reads what is new of a history; what the server says where it may not be read.
    pub(super) async fn history(&mut self, history: &str) -> Result<Option<String>> {
        if self.trims_histories {
            self.mirror.forget(&history)?;
        }
        let mut is_second = false;
        loop {
            let goes_on = self.mirror.reached(&history)? > Timestamp(0);
            if let Some(refusal) = self.entries(history).await? {
                return Ok(Some(refusal));
            }
            if !goes_on {
                return Ok(None);
            }
            let path = format!("{history}?_sort=last_modified&_limit=1");
            let mut answer = self.client.get(&path).await?;
            let Some(first) = objects_of(&mut answer, &path)? else {
                return self.refusal(history, &answer).map(Some);
            };
            let first = first.first().map(|entry| entry.last_modified);
            if first == self.mirror.earliest(&history)? {
                return Ok(None);
            }
            // The first time entries may have been deleted in between.
            if is_second {
                self.mirror.forget(&history)?;
            }
            is_second = true;
        }
    }

    /// Reads on from where the history was read up to.
    async fn entries(&mut self, history: &str) -> Result<Option<String>> {
        let since = self.mirror.reached(&history)?;
        let (mut limit, mut token, mut settled) = (PAGE, String::new(), None);
        loop {
            let path =
                format!("{history}?_since={since}&_sort=last_modified&_limit={limit}{token}");
            let mut answer = match self.client.get(&path).await {
                Err(HttpError::TooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            let Some(entries) = objects_of(&mut answer, &path)? else {
                return self.refusal(history, &answer).map(Some);
            };
            let settled = *settled.get_or_insert(answer.etag().unwrap_or(Timestamp::MAX));
            let next = next_token(&answer, &path)?.filter(|_| !entries.is_empty());
            let latest = entries.iter().map(|entry| entry.last_modified).max();
            // Another entry of the same time may be on the next page.
            let read = latest.unwrap_or_default().0;
            let read = Timestamp(read.saturating_sub(u64::from(next.is_some())));
            self.mirror.keep(&history, &entries, read.min(settled))?;
            self.progress.advance(entries.len() as u64);
            match next {
                Some(next) => token = next,
                None => return Ok(None),
            }
        }
    }
}

/// What leads to the next page, as a parameter of the query.
fn next_token(answer: &Answer, path: &str) -> Result<Option<String>> {
    let Some(next) = answer.headers.get(NEXT_PAGE) else {
        return Ok(None);
    };
    // The server may be known to itself by another name than to us, so that only the token counts.
    let next = next.to_str().ok().and_then(|url| Url::parse(url).ok());
    let pairs = next.as_ref().map(Url::query_pairs).into_iter().flatten();
    let token = pairs.filter(|(name, _)| name == "_token").last();
    match token {
        Some((name, token)) => {
            let token = utf8_percent_encode(&token, NON_ALPHANUMERIC);
            Ok(Some(format!("&{name}={token}")))
        }
        None => Err(HttpError::Answer {
            path: path.to_owned(),
            what: format!("a {NEXT_PAGE} without a token"),
        }
        .into()),
    }
}
