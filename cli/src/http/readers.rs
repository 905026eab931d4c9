//! Who may see the entries of a history that was read over HTTP.
//!
//! Kinto keeps with each entry who could read the object when it was written, by its own permissions, its collection's or its
//! bucket's, and shows it to nobody. But an entry shows the object's own permissions, and the entries of collections and buckets theirs.
//! Where these do not tell, nobody gains access by an entry.

use std::collections::{BTreeSet, HashMap};

use kinto_serverless::resource::ObjectUri;
use kinto_serverless::timestamp::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::history::history_of;
use super::mirror::Mirror;
use super::reading::Result;

/// The principals of one entry, or of an object at a time.
type Principals = BTreeSet<String>;

/// What of an entry counts.
#[derive(Deserialize)]
struct Entry {
    uri: String,
    target: Target,
}

#[derive(Deserialize)]
struct Target {
    data: Written,
    #[serde(default)]
    permissions: Map<String, Value>,
}

#[derive(Deserialize)]
struct Written {
    /// It may be before 1970.
    #[serde(default)]
    last_modified: i64,
}

impl Entry {
    fn written(&self) -> Timestamp {
        Timestamp(self.target.data.last_modified.max(0).cast_unsigned())
    }
}

/// What is known of a bucket or a collection.
#[derive(Debug, Default)]
struct Known {
    /// When it was written by what its last entry tells.
    last: Timestamp,
    /// When it was written by the latest entry that was visited, and who could read it since.
    visited: Option<(Timestamp, Principals)>,
    /// When it was last written, and who may read it, if it is there and shows that.
    now: Option<(Timestamp, Option<Principals>)>,
}

impl Known {
    /// Who could read it at a time, the latest that was visited; `None` where that is not known.
    fn readers(&self, at: Timestamp) -> Option<Principals> {
        let (since, readers) = match (&self.visited, &self.now) {
            (Some(visited), _) => visited,
            // Nobody has written it since.
            (None, Some((since, readers))) if *since <= at => return readers.clone(),
            (None, _) => return None,
        };
        match &self.now {
            // It was written afterwards, which no entry tells of.
            Some((written, now)) if *since == self.last && written > since => match now {
                Some(now) if *written <= at => Some(now.clone()),
                Some(now) => Some(readers & now),
                None => None,
            },
            _ => Some(readers.clone()),
        }
    }
}

/// Who may see each entry of a bucket's history.
#[derive(Debug)]
pub struct Readers {
    bucket: String,
    known: HashMap<String, Known>,
}

impl Readers {
    /// For the history of a bucket.
    ///
    /// # Errors
    /// The copy fails.
    pub fn new(mirror: &Mirror, bucket: &ObjectUri) -> Result<Self> {
        let mut known: HashMap<String, Known> = HashMap::new();
        let now = |uri: &ObjectUri| -> Result<_> {
            let Some(object) = mirror.object(uri)?.filter(|object| object.data.is_some()) else {
                return Ok(None);
            };
            let shown = object.permissions.as_deref().map(serde_json::from_str);
            // To those who may not write it Kinto shows none at all.
            let readers = match shown {
                Some(Ok(Value::Object(shown))) if !shown.is_empty() => Some(principals(&shown)),
                _ => None,
            };
            Ok(Some((object.last_modified, readers)))
        };
        let name = bucket.to_string();
        known.entry(name.clone()).or_default().now = now(bucket)?;
        mirror.by_time(&history_of(bucket), |entry| {
            let Some(Ok(entry)) = entry.data.as_deref().map(serde_json::from_str::<Entry>) else {
                return Ok(());
            };
            let Some(collection) = collection_of(&entry.uri, &name) else {
                return Ok(());
            };
            let is_new = !known.contains_key(collection);
            let of = known.entry(collection.to_owned()).or_default();
            if collection == entry.uri {
                of.last = entry.written();
            }
            if is_new && let Some(uri) = ObjectUri::parse(collection) {
                of.now = now(&uri)?;
            }
            Result::Ok(())
        })?;
        Ok(Self {
            bucket: name,
            known,
        })
    }

    /// Those who may see an entry of that data and time, which are to come in the order of times, and whether these are all as far as
    /// is known.
    pub fn of(&mut self, data: &str, at: Timestamp) -> (Principals, bool) {
        let Ok(entry) = serde_json::from_str::<Entry>(data) else {
            return (Principals::new(), false);
        };
        let mut readers = principals(&entry.target.permissions);
        if let Some(known) = self.known.get_mut(&entry.uri) {
            known.visited = Some((entry.written(), readers.clone()));
        }
        let above = [Some(&*self.bucket), collection_of(&entry.uri, &self.bucket)];
        let mut are_all = true;
        for above in above.into_iter().flatten() {
            if above == entry.uri {
                continue;
            }
            let of = self.known.get(above).and_then(|known| known.readers(at));
            are_all &= of.is_some();
            readers.extend(of.into_iter().flatten());
        }
        (readers, are_all)
    }
}

/// The collection that an object of a bucket is or is in, or else the bucket where the object is that; `None` of others.
fn collection_of<'a>(uri: &'a str, bucket: &str) -> Option<&'a str> {
    let under = uri.strip_prefix(bucket)?;
    if under.is_empty() {
        return Some(uri);
    }
    let id = under.strip_prefix("/collections/")?.split('/').next()?;
    Some(&uri[..bucket.len() + "/collections/".len() + id.len()])
}

/// Who may read by permissions.
fn principals(permissions: &Map<String, Value>) -> Principals {
    let granted = ["read", "write"].map(|name| permissions.get(name).and_then(Value::as_array));
    let granted = granted.into_iter().flatten().flatten();
    let granted = granted.filter_map(Value::as_str);
    granted.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::mirror::Mirrored;
    use super::*;
    use kinto_serverless::resource::ListUri;
    use serde_json::json;

    const BUCKET: &str = "/buckets/b";
    const COLLECTION: &str = "/buckets/b/collections/c";
    const RECORD: &str = "/buckets/b/collections/c/records/r";

    fn entry(uri: &str, written: u64, readers: &[&str]) -> String {
        let data = json!({"last_modified": written});
        json!({"uri": uri, "target": {"data": data, "permissions": {"read": readers}}}).to_string()
    }

    /// Who may see each of these entries, with `!` where that may not be all; of a bucket that Alice may read, and of a collection
    /// that was written last at 50 and that Carol may read now.
    fn readers_of(entries: &[(u64, &str, u64, &[&str])]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let (mut mirror, _) = Mirror::open(&directory.path().join("work"), "").unwrap();
        let bucket = ObjectUri::bucket("b");
        let live = |id: &str, at, reader: &str| Mirrored {
            id: id.to_owned(),
            last_modified: Timestamp(at),
            data: Some("{}".to_owned()),
            permissions: Some(json!({"write": [reader]}).to_string()),
        };
        let mut keep = |list: &str, object| mirror.keep(&list, &[object], Timestamp(0)).unwrap();
        keep(&ListUri::buckets().to_string(), live("b", 1, "alice"));
        keep("/buckets/b/collections", live("c", 50, "carol"));
        for (time, uri, written, readers) in entries {
            let mut object = live(&time.to_string(), *time, "");
            object.data = Some(entry(uri, *written, readers));
            keep("/buckets/b/history", object);
        }
        let mut readers = Readers::new(&mirror, &bucket).unwrap();
        let told = entries.iter().map(|(time, uri, written, own)| {
            let (found, are_all) = readers.of(&entry(uri, *written, own), Timestamp(*time));
            let found: Vec<_> = found.into_iter().collect();
            format!("{}{}", found.join(" "), if are_all { "" } else { "!" })
        });
        told.collect()
    }

    #[test]
    fn who_could_read_object_collection_or_bucket_sees_an_entry() {
        let found = readers_of(&[
            (10, COLLECTION, 10, &["bob"]),
            (20, RECORD, 20, &["dora"]),
            (50, COLLECTION, 50, &["carol"]),
            (60, RECORD, 60, &[]),
            (70, BUCKET, 70, &["eve"]),
            (80, "/buckets/b/groups/g", 80, &["bob"]),
        ]);
        let expected = [
            "alice bob",
            "alice bob dora",
            "alice carol",
            "alice carol",
            "eve",
            "bob eve",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_no_entry_tells_of_lets_nobody_see_more() {
        // The collection was written at 50.
        let found = readers_of(&[
            (10, COLLECTION, 10, &["bob", "carol"]),
            (20, RECORD, 20, &[]),
            (60, RECORD, 60, &[]),
        ]);
        assert_eq!(found, ["alice bob carol", "alice carol", "alice carol"]);
        // Who could read it before is not known.
        let found = readers_of(&[(20, RECORD, 20, &["dora"]), (60, RECORD, 60, &[])]);
        assert_eq!(found, ["alice dora!", "alice carol"]);
    }
}
