//! Two Kintos compared by what their APIs show one user: every object, the timestamps of lists, changesets with their
//! signatures, the monitor, and histories.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;

use kinto_serverless::resource::{Kind, ObjectUri};
use reqwest::StatusCode;
use serde_json::{Map, Value};

use super::client::{Client, HttpError};
use super::history::history_of;
use super::mirror::{Mirror, Mirrored};
use super::reading::{self, Options, ReadReport, ReadingError};
use crate::progress::Progress;
use crate::sync::Differences;

type Result<T> = std::result::Result<T, ReadingError>;

/// Where the changes of collections are shown.
const MONITOR: &str = "/buckets/monitor/collections/changes";

/// One of the two.
struct Side<'a> {
    client: &'a Client,
    hello: Value,
    mirror: Mirror,
    found: ReadReport,
}

impl<'a> Side<'a> {
    async fn read(
        client: &'a Client,
        options: &Options,
        otherwise: PathBuf,
        progress: &Progress,
    ) -> Result<Self> {
        let hello = client.hello().await?;
        let mut mirror = reading::open(client, &hello, options, otherwise)?;
        let found = reading::read(client, &hello, &mut mirror, options, progress).await?;
        Ok(Self {
            client,
            hello,
            mirror,
            found,
        })
    }

    fn user(&self, field: &str) -> &Value {
        &self.hello["user"][field]
    }
}

/// What the target shows otherwise than the source does.
///
/// Temporary files lie in a directory, beside those that the
/// options name: what was read of the target is kept in a file whose name ends with `.target`.
///
/// # Errors
/// One of them does not answer, or a file fails.
pub async fn compare(
    source: &Client,
    target: &Client,
    options: &Options,
    directory: PathBuf,
    progress: &Progress,
) -> Result<Differences> {
    let of_target = options.work.as_ref().map(|path| {
        let mut path = path.clone().into_os_string();
        path.push(".target");
        path.into()
    });
    let target_options = Options {
        work: of_target,
        ..options.clone()
    };
    let source = Side::read(source, options, directory.join("source"), progress).await?;
    let target = Side::read(target, &target_options, directory.join("target"), progress).await?;
    let mut found = Differences::default();
    for field in ["id", "bucket"] {
        // Ids come from a secret, those of default buckets too.
        if source.user(field) != target.user(field) {
            let (one, other) = (source.user(field), target.user(field));
            found.add("user of these credentials", format!("{one}, not {other}"));
        }
    }
    compare_lists(&source, &target, &mut found)?;
    compare_changesets(&source, &target, &mut found).await?;
    compare_monitors(&source, &target, &mut found).await?;
    Ok(found)
}

fn compare_lists(source: &Side<'_>, target: &Side<'_>, found: &mut Differences) -> Result<()> {
    let lists = |side: &Side<'_>| side.found.lists.iter().cloned().collect::<BTreeSet<_>>();
    let (lists, others) = (lists(source), lists(target));
    for list in lists.symmetric_difference(&others) {
        // Under an object that only one of them has, which is told of already.
        let is_shown = match list.parent() {
            Some(parent) => source.mirror.is_live(parent)? && target.mirror.is_live(parent)?,
            None => true,
        };
        if is_shown {
            found.add("list that one of them does not show", list);
        }
    }
    for list in lists.intersection(&others) {
        if source.mirror.timestamp(list)? != target.mirror.timestamp(list)? {
            found.add("timestamp of a list", list);
        }
        compare_objects(list, Some(list.kind()), source, target, found)?;
    }
    compare_histories(source, target, found)
}

/// Compares the histories of the buckets that both have. A source without histories has none to compare.
fn compare_histories(source: &Side<'_>, target: &Side<'_>, found: &mut Differences) -> Result<()> {
    let histories = |side: &Side<'_>| {
        let histories = side.found.histories.iter();
        histories.cloned().collect::<BTreeSet<_>>()
    };
    let (histories, others) = (histories(source), histories(target));
    for bucket in &histories {
        if others.contains(bucket) {
            compare_objects(&history_of(bucket), None, source, target, found)?;
        } else if target.mirror.is_live(bucket)? {
            found.add("history that is not shown", bucket);
        }
    }
    Ok(())
}

/// Compares the objects of a list, or the entries of a history, which are of no kind.
fn compare_objects(
    list: &impl Display,
    kind: Option<Kind>,
    source: &Side<'_>,
    target: &Side<'_>,
    found: &mut Differences,
) -> Result<()> {
    let mut left = source.mirror.objects(list);
    let mut right = target.mirror.objects(list);
    let (mut one, mut other) = (left.next().transpose()?, right.next().transpose()?);
    loop {
        let order = match (&one, &other) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.id.cmp(&other.id),
        };
        found.compared += 1;
        let present = match order {
            Ordering::Greater => &other,
            _ => &one,
        };
        let Some(present) = present else {
            return Ok(());
        };
        let uri = format!("{list}/{}", present.id);
        let is_live = present.data.is_some();
        match order {
            Ordering::Less if kind.is_none() => {
                found.add("entry of a history that is missing", uri);
            }
            Ordering::Greater if kind.is_none() => {
                found.add("entry of a history that the source lacks", uri);
            }
            Ordering::Less if is_live => found.add("object that is missing", uri),
            Ordering::Less => found.add("tombstone that is missing", uri),
            Ordering::Greater if is_live => found.add("object that the source lacks", uri),
            Ordering::Greater => found.add("tombstone that the source lacks", uri),
            Ordering::Equal => {
                if let (Some(one), Some(other)) = (&one, &other) {
                    match kind {
                        Some(kind) => compare_object(&uri, kind, one, other, found),
                        None if are_same(one, other) => {}
                        None => found.add("entry of a history", uri),
                    }
                }
            }
        }
        if order.is_le() {
            one = left.next().transpose()?;
        }
        if order.is_ge() {
            other = right.next().transpose()?;
        }
    }
}

fn compare_object(
    uri: &str,
    kind: Kind,
    one: &Mirrored,
    other: &Mirrored,
    found: &mut Differences,
) {
    match (&one.data, &other.data) {
        (Some(_), None) => found.add("object that is deleted", uri),
        (None, Some(_)) => found.add("object that the source deleted", uri),
        (Some(data), Some(other_data)) => {
            // Of an account Kinto shows the hash of its password.
            let of = |data| shown(parsed(data), kind);
            if of(data) != of(other_data) {
                found.add("data", uri);
            }
        }
        (None, None) => {}
    }
    if one.last_modified != other.last_modified {
        found.add("last_modified", uri);
    }
    if let (Some(one), Some(other)) = (&one.permissions, &other.permissions)
        && principals(one) != principals(other)
    {
        found.add("permissions", uri);
    }
}

/// Whether an entry of a history is the same one.
fn are_same(one: &Mirrored, other: &Mirrored) -> bool {
    let data = |entry: &Mirrored| entry.data.as_deref().map(|data| as_numbers(parsed(data)));
    one.last_modified == other.last_modified && data(one) == data(other)
}

fn parsed(json: &str) -> Value {
    // It was written from a value.
    serde_json::from_str(json).unwrap_or_default()
}

fn shown(mut data: Value, kind: Kind) -> Value {
    if let (Kind::Account, Some(fields)) = (kind, data.as_object_mut()) {
        fields.shift_remove("password");
    }
    as_numbers(data)
}

/// JSON in which numbers that are equal are one: PostgreSQL knows no `1.0`.
fn as_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) if !number.is_i64() && !number.is_u64() => {
            let float = number.as_f64().unwrap_or_default();
            // Beyond these not every integer is a float.
            let is_integer = float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
            match is_integer {
                true => Value::from(float as i64),
                false => Value::Number(number),
            }
        }
        Value::Array(items) => items.into_iter().map(as_numbers).collect(),
        Value::Object(members) => {
            let members = members.into_iter();
            Value::Object(members.map(|(name, v)| (name, as_numbers(v))).collect())
        }
        other => other,
    }
}

fn principals(permissions: &str) -> BTreeSet<(String, String)> {
    let granted: Map<String, Value> = serde_json::from_str(permissions).unwrap_or_default();
    let granted = granted.iter().flat_map(|(permission, principals)| {
        let principals = principals.as_array().into_iter().flatten();
        let principals = principals.filter_map(Value::as_str);
        principals.map(|principal| (permission.clone(), principal.to_owned()))
    });
    granted.collect()
}

/// Compares what each collection publishes. One that the source does not publish is none of the target's either.
async fn compare_changesets(
    source: &Side<'_>,
    target: &Side<'_>,
    found: &mut Differences,
) -> Result<()> {
    let records = |side: &Side<'_>| {
        let lists = side.found.lists.iter();
        let lists = lists.filter(|list| list.kind() == Kind::Record);
        lists.cloned().collect::<BTreeSet<_>>()
    };
    for list in records(source).intersection(&records(target)) {
        let Some(collection) = list.parent() else {
            continue;
        };
        let reached = source.mirror.timestamp(list)?.unwrap_or_default();
        let all = format!("{collection}/changeset?_expected=0");
        // Where all does not fit into an answer the records were compared, and the rest is in this one.
        let none = format!("{collection}/changeset?_expected=0&_since=%22{reached}%22");
        let (one, other) = match both(source, target, &all).await {
            Err(HttpError::TooLarge(_)) => both(source, target, &none).await?,
            answers => answers?,
        };
        compare_changeset(&collection.to_string(), one, other, found);
    }
    Ok(())
}

/// A status and a body.
type StatusAndBody = (StatusCode, Value);

/// The answers of both to one request.
async fn both(
    source: &Side<'_>,
    target: &Side<'_>,
    path: &str,
) -> std::result::Result<(StatusAndBody, StatusAndBody), HttpError> {
    let one = source.client.get(path).await?;
    let other = target.client.get(path).await?;
    Ok(((one.status, one.body), (other.status, other.body)))
}

fn compare_changeset(of: &str, one: StatusAndBody, other: StatusAndBody, found: &mut Differences) {
    let ((status, mut one), (other_status, mut other)) = (one, other);
    if status == StatusCode::NOT_FOUND {
        return;
    }
    if status != other_status {
        let statuses = format!("{of} ({status}, not {other_status})");
        return found.add("changeset", statuses);
    }
    if one["timestamp"] != other["timestamp"] {
        found.add("timestamp of a changeset", of);
    }
    let mut take = |field: &str| (one[field].take(), other[field].take());
    let (changes, others) = take("changes");
    if by_id(changes) != by_id(others) {
        found.add("changes of a changeset", of);
    }
    let (mut metadata, mut other) = take("metadata");
    for field in ["signature", "signatures"] {
        if metadata[field].take() != other[field].take() {
            found.add("signature of a changeset", of);
        }
    }
    if as_numbers(metadata) != as_numbers(other) {
        found.add("metadata of a changeset", of);
    }
}

/// Objects in the order of their ids: those of one time come in any.
fn by_id(objects: Value) -> Vec<Value> {
    let mut objects = match objects {
        Value::Array(objects) => objects,
        _ => vec![],
    };
    objects.sort_by(|one, other| one["id"].as_str().cmp(&other["id"].as_str()));
    objects.into_iter().map(as_numbers).collect()
}

/// Compares the entries of collections that both have. A source without a monitor has none to compare.
async fn compare_monitors(
    source: &Side<'_>,
    target: &Side<'_>,
    found: &mut Differences,
) -> Result<()> {
    let path = format!("{MONITOR}/records");
    let ((status, one), (other_status, other)) = both(source, target, &path).await?;
    if !status.is_success() {
        return Ok(());
    }
    if !other_status.is_success() {
        found.add("monitor", format!("{path} ({other_status})"));
        return Ok(());
    }
    let entries = |body: Value| {
        let entries = by_id(body["data"].clone());
        let named = entries.into_iter().map(|entry| {
            let of = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            ((of("bucket"), of("collection")), entry)
        });
        named.collect::<std::collections::BTreeMap<_, _>>()
    };
    let (entries, others) = (entries(one), entries(other));
    let names: BTreeSet<_> = entries.keys().chain(others.keys()).collect();
    for name in names {
        let (bucket, collection) = name;
        let uri = || ObjectUri::collection(&**bucket, &**collection);
        match (entries.get(name), others.get(name)) {
            (Some(entry), Some(other)) if entry == other => {}
            (Some(_), Some(_)) => found.add("entry of the monitor", uri()),
            (Some(_), None) => found.add("entry of the monitor that is missing", uri()),
            (None, _) => found.add("entry of the monitor that the source lacks", uri()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_part_of_a_changeset_is_told_of_apart() {
        let changeset = json!({
            "timestamp": 5, "metadata": {"id": "c", "n": 1, "signature": {"x5u": "a"}},
            "changes": [{"id": "b", "x": 1.0}, {"id": "a"}],
        });
        let differing = |place: &str, value: Value| {
            let (mut other, mut found) = (changeset.clone(), Differences::default());
            *other.pointer_mut(place).unwrap() = value;
            let (one, other) = ((StatusCode::OK, changeset.clone()), (StatusCode::OK, other));
            compare_changeset("/c", one, other, &mut found);
            found.by_kind.into_keys().collect::<Vec<_>>()
        };
        let in_another_order = json!([{"id": "a"}, {"id": "b", "x": 1}]);
        assert!(differing("/changes", in_another_order).is_empty());
        for (place, value, kind) in [
            ("/timestamp", json!(6), "timestamp of a changeset"),
            ("/changes/0/x", json!(1.5), "changes of a changeset"),
            ("/metadata/n", json!("1"), "metadata of a changeset"),
            (
                "/metadata/signature/x5u",
                json!("b"),
                "signature of a changeset",
            ),
        ] {
            assert_eq!(differing(place, value), [kind]);
        }
        let mut found = Differences::default();
        let gone = (StatusCode::NOT_FOUND, Value::Null);
        compare_changeset(
            "/c",
            (StatusCode::OK, changeset.clone()),
            gone.clone(),
            &mut found,
        );
        assert_eq!(found.by_kind.len(), 1);
        compare_changeset("/d", gone, (StatusCode::OK, changeset.clone()), &mut found);
        assert_eq!(found.by_kind["changeset"].0, 1);
    }
}
