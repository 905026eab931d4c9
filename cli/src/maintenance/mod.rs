//! Maintenance of a table by an operator: [`purge`] removes tombstones, [`raise`] raises times after a restore, [`sweep`] marks
//! items that are over.

pub mod pace;
pub mod purge;
pub mod raise;
pub mod sweep;

use kinto_serverless::resource::{ListUri, ObjectUri};
use kinto_serverless::store::{Content, Generation, Store, StoreError};

/// Lists of which what is in them exists, each with the generation of its parent: first those of buckets and accounts, and each before
/// what is under its objects.
struct Lists {
    store: Store,
    next: Vec<(ListUri, Generation)>,
}

impl Lists {
    fn of(store: &Store) -> Self {
        let roots = [ListUri::buckets(), ListUri::accounts()];
        Self {
            store: store.clone(),
            next: roots.map(|list| (list, Generation::ROOT)).into(),
        }
    }

    /// The next list; `None` when there is no more. Reads the objects that have lists under them.
    async fn next(&mut self) -> Result<Option<(ListUri, Generation)>, StoreError> {
        let Some((list, generation)) = self.next.pop() else {
            return Ok(None);
        };
        if !list.kind().children().is_empty() {
            let mut by_id = self.store.objects_by_id(&list);
            while let Some(page) = by_id.next().await? {
                let present = page.into_iter().filter(|(_, object)| {
                    generation.owns(&object.parent) && object.content != Content::Deleted
                });
                for (id, object) in present {
                    let uri: ObjectUri = list.clone().object(id);
                    let under = uri.child_lists();
                    let under = under.map(|list| (list, object.generation.clone()));
                    self.next.extend(under);
                }
            }
        }
        Ok(Some((list, generation)))
    }
}
