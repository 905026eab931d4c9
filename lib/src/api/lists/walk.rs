//! All objects except accounts: the lists of all buckets, one after the other.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Map, Value};

use crate::api::lists::query::ListQuery;
use crate::api::web::error::ApiError;
use crate::resource::{ListUri, ObjectUri};
use crate::store::list::ListRead;
use crate::store::{Content, Generation, Object, Store};
use crate::unit_of_work::UnitOfWork;

/// The number of lists that are read at once.
const CONCURRENCY: usize = 16;

/// The cost of looking again at an object that was read before, as bytes read.
const LOOK: usize = 256;

/// A live object with its URI; it has no data.
pub type FoundObject = (ObjectUri, Object);
/// Objects of a list with their ids, without their data.
type WalkedObjects = Arc<Vec<(String, Object)>>;

/// All buckets, and all live objects that the query may ask for, except accounts.
///
/// Three round trips, and one `Query` for each list, which is read once for all requests of a batch.
///
/// # Errors
/// There is more than a request may read.
pub async fn walk(
    unit: &mut UnitOfWork,
    store: &Store,
    query: &ListQuery,
) -> Result<(BTreeSet<ObjectUri>, Vec<FoundObject>), ApiError> {
    let root = (ListUri::buckets(), Generation::ROOT);
    let buckets = live(unit, store, vec![root]).await?;
    let in_buckets = live(unit, store, lists_under(&buckets, query)).await?;
    let records = live(unit, store, lists_under(&in_buckets, query)).await?;
    let uris = buckets.iter().map(|(uri, _)| uri.clone()).collect();
    let mut all = buckets;
    all.extend(in_buckets);
    all.extend(records);
    all.retain(|(uri, _)| query.may_match(&names(uri)));
    Ok((uris, all))
}

/// The lists under objects that may hold matches, each with the generation of its parent.
fn lists_under(parents: &[FoundObject], query: &ListQuery) -> Vec<(ListUri, Generation)> {
    let lists = parents.iter().flat_map(|(uri, parent)| {
        let lists = uri
            .child_lists()
            .map(|list| (list, parent.generation.clone()));
        lists.collect::<Vec<_>>()
    });
    lists
        .filter(|(list, _)| holds_matches(list, query))
        .collect()
}

/// The live objects of these lists.
async fn live(
    unit: &mut UnitOfWork,
    store: &Store,
    lists: Vec<(ListUri, Generation)>,
) -> Result<Vec<FoundObject>, ApiError> {
    // Collected first: a closure that borrows in a stream is not general enough for the compiler.
    let reads = lists
        .iter()
        .map(|(list, parent)| stored(unit, store, list, parent));
    let reads: Vec<_> = reads.collect();
    // In their order, so that two requests of one batch get the same one.
    let read: Vec<WalkedObjects> = stream::iter(reads)
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let mut found = vec![];
    for ((list, parent), objects) in lists.into_iter().zip(read) {
        let written: HashMap<_, _> = unit.written_in(&list).collect();
        let unchanged = objects.iter().map(|(id, object)| (&**id, object));
        let unchanged = unchanged.filter(|(id, _)| !written.contains_key(id));
        let now = written.iter().map(|(id, object)| (*id, *object));
        let live = unchanged.chain(now).filter(|(_, object)| {
            parent.owns(&object.parent) && object.content != Content::Deleted
        });
        found.extend(live.map(|(id, object)| (list.clone().object(id), object.without_its_data())));
        unit.remember_walk(list, objects);
    }
    Ok(found)
}

/// The live objects of a list in the table, read once for all requests.
async fn stored(
    unit: &UnitOfWork,
    store: &Store,
    list: &ListUri,
    parent: &Generation,
) -> Result<WalkedObjects, ApiError> {
    if let Some(walked) = unit.walked(list) {
        unit.allowance.read(walked.len() * LOOK)?;
        return Ok(walked);
    }
    let mut pages = store.list(&ListRead {
        list,
        generation: parent,
        since: None,
        before: None,
        tombstones: false,
        limit_hint: None,
    });
    let mut objects = vec![];
    while let Some(page) = pages.next().await? {
        unit.allowance.read(page.bytes)?;
        for object in &page.objects {
            objects.push((object.id.clone(), object.to_object_without_data()?));
        }
    }
    Ok(Arc::new(objects))
}

/// Returns `true` if the list, or one under its objects, may hold matches.
fn holds_matches(list: &ListUri, query: &ListQuery) -> bool {
    let below = list.kind().children().iter();
    std::iter::once(&list.kind()).chain(below).any(|kind| {
        let mut names = names_in(list);
        names.insert("resource_name".to_owned(), kind.name().into());
        query.may_match(&names)
    })
}

/// The fields that name an object and that `/permissions` filters by: `uri`, `id`, `resource_name`, `bucket_id`, …
pub fn names(uri: &ObjectUri) -> Map<String, Value> {
    let mut names = names_in(uri.list());
    names.insert("uri".to_owned(), uri.to_string().into());
    names.insert("id".to_owned(), uri.id().into());
    names.insert(format!("{}_id", uri.kind().name()), uri.id().into());
    names
}

/// The fields of [`names`] that all objects of a list share.
fn names_in(list: &ListUri) -> Map<String, Value> {
    let parents = list.parent().into_iter().flat_map(ObjectUri::lineage);
    let ids = parents.map(|uri| (format!("{}_id", uri.kind().name()), uri.id().into()));
    let kind = ("resource_name".to_owned(), list.kind().name().into());
    std::iter::once(kind).chain(ids).collect()
}
