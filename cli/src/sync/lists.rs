//! The lists' own items, with whom they are shared, and the monitor: when all objects are there.

use std::collections::{BTreeSet, HashMap};

use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::store::import::{ImportWrite, imported_list};
use kinto_serverless::store::monitor::CollectionChange;
use kinto_serverless::store::shares::{ShareWrite, Shares};
use kinto_serverless::store::{Generation, Key};
use kinto_serverless::timestamp::Timestamp;

use super::{Result, Sync};
use crate::maintenance::raise;

impl Sync<'_> {
    /// The monitor and the lists' own items, once all objects are there.
    pub(super) async fn end_lists(&mut self) -> Result<()> {
        let lists = std::mem::take(&mut self.lists);
        let mut items = vec![];
        for chunk in lists.chunks(100) {
            let uris: Vec<_> = chunk.iter().map(|(uri, ..)| uri.clone()).collect();
            let stored = self.store.stored_lists(&uris).await?;
            for (uri, generation, changed, latest) in chunk {
                let stored = stored.get(uri);
                let before = stored.map(|stored| &stored.list);
                if stored.is_some_and(|stored| stored.is_written_by_api) {
                    if self.found.used.0 == 0 {
                        self.found.used.1 = uri.to_string();
                    }
                    self.found.used.0 += 1;
                }
                let reached = before.map(|list| list.timestamp);
                let told = self.staging.timestamp(uri)?;
                let timestamp = match (told, reached) {
                    _ if self.options.raises => raise::of_list(self.base(reached), *latest),
                    (Some(told), reached) => told.max(reached.unwrap_or_default()),
                    // Nobody looked at it there, who would have given it a time.
                    (None, Some(reached)) => reached,
                    (None, None) => self.now,
                };
                if told.is_some_and(|told| !self.options.raises && reached != Some(told)) {
                    self.found.add("timestamp of a list", uri);
                }
                let is_open =
                    before.is_some_and(|list| !list.closed && generation.owns(&list.generation));
                // What is named beside these may stay: it only says that there may be something.
                let named = before.filter(|list| is_open && list.shares.are_known());
                let named = named.map_or_else(Shares::none, |list| list.shares.clone());
                let shares = self.shares(uri, generation, named).await?;
                if !is_open {
                    self.found.add("list that is not open", uri);
                }
                if is_open && before.is_some_and(|list| list.shares != shares) {
                    self.found.add("shares of a list", uri);
                }
                let is_same = is_open
                    && reached == Some(timestamp)
                    && !changed
                    && before.is_some_and(|list| list.shares == shares)
                    && stored.is_some_and(|stored| !stored.is_written_by_api);
                if let (Kind::Record, Some(collection)) = (uri.kind(), uri.parent()) {
                    self.changes.push(change(collection, timestamp, false));
                }
                if !is_same {
                    let past = before.map_or(0, |list| list.backdated_writes + 1);
                    items.push((
                        uri.clone(),
                        imported_list(timestamp, generation.clone(), past, shares),
                    ));
                }
            }
        }
        self.flush().await?;
        self.monitor().await?;
        for (uri, list) in items {
            self.write(ImportWrite::list(&uri, list)?).await?;
        }
        self.flush().await
    }

    async fn monitor(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.changes);
        let (_, known) = self.store.monitor().await?;
        let known: HashMap<_, _> = known
            .into_iter()
            .map(|entry| (entry.change.uri(), entry.change))
            .collect();
        for change in &changes {
            let uri = change.uri();
            let entry = known.get(&uri);
            let told = self.staging.timestamp(&uri.children(Kind::Record))?;
            if told.is_some() && entry != Some(change) || entry.is_none() {
                self.found.add("entry of the monitor", uri);
            }
        }
        if self.options.writes {
            let new = self.store.import_into_monitor(changes).await?;
            self.found.written.0 += new as u64;
        }
        Ok(())
    }

    /// With whom a list is shared: notes those that its item has no room for.
    async fn shares(
        &mut self,
        list: &ListUri,
        generation: &Generation,
        mut shares: Shares,
    ) -> Result<Shares> {
        let count = self.staging.find_shares(list)?;
        let (mut added, mut read) = (BTreeSet::new(), 0);
        while read < count {
            let page = self.staging.shares(read)?;
            read += page.len() as u64;
            let apart = page
                .iter()
                .filter(|principal| shares.add(principal, &mut added) == ShareWrite::Apart);
            let apart: Vec<_> = apart
                .filter_map(|p| Key::share(list, generation, p))
                .collect();
            if page.is_empty() {
                break;
            }
            let noted = self.store.read(&apart).await?;
            for key in apart.into_iter().filter(|key| !noted.contains_key(key)) {
                self.found.add("shares of a list", list);
                self.write(ImportWrite::share(key)?).await?;
            }
        }
        Ok(shares)
    }
}

pub(super) fn change(
    collection: &ObjectUri,
    last_modified: Timestamp,
    deleted: bool,
) -> CollectionChange {
    CollectionChange {
        bucket: collection.bucket_id().to_owned(),
        collection: collection.id().to_owned(),
        last_modified,
        deleted,
    }
}
