//! The records of a source, or of what is published, as they are compared and copied.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::api::web::error::ApiError;
use crate::resource::ListUri;
use crate::signer::payload;
use crate::store::changeset::ChangesQuery;
use crate::store::{Content, Store};
use crate::timestamp::Timestamp;
use crate::unit_of_work::UnitOfWork;

/// The most bytes of records that are published together: what a changeset can still send.
const MAX_READ: usize = 24 * 1024 * 1024;
/// A field of a record that says when it was validated: it is copied, and makes no difference.
const SCHEMA: &str = "schema";
/// A field of a record by which clients take it for a tombstone.
const DELETED: &str = "deleted";

/// Changes of records, by id: the new fields, `None` for a deletion.
pub type Changes = BTreeMap<String, Option<Map<String, Value>>>;

/// Records by id: the JSON of their fields but for `id` and `last_modified`, and when each was written.
#[derive(Clone, Debug, Default)]
pub struct Records {
    records: Arc<BTreeMap<String, String>>,
    times: BTreeMap<String, Timestamp>,
}

impl Records {
    /// Reads a list that has no layer, at the moment at which the unit read its item; what the unit has written takes the
    /// place of what was there.
    ///
    /// # Errors
    /// [`ApiError::Overtaken`] where something was written meanwhile; [`ApiError::TooLargeToPublish`]; failures of the table.
    pub async fn read(store: &Store, unit: &UnitOfWork, list: &ListUri) -> Result<Self, ApiError> {
        let Some(generation) = unit.generation_of(list) else {
            return Ok(Self::default());
        };
        let at = unit.timestamp_read(list);
        let wanted = ChangesQuery {
            since: Timestamp(0),
            limit: None,
            max_bytes: MAX_READ,
            tombstones: false,
        };
        let changes = store.changes(list, &generation, at, wanted).await?;
        if changes.are_too_large() {
            return Err(ApiError::TooLargeToPublish);
        }
        if changes.timestamp() != at || !changes.show(&unit.recent_writes(list)) {
            return Err(ApiError::Overtaken);
        }
        let mut times = BTreeMap::new();
        let mut records = BTreeMap::new();
        for change in changes.shown() {
            if let Some(data) = &change.data {
                times.insert(change.id.clone(), change.last_modified);
                records.insert(change.id.clone(), data.clone());
            }
        }
        for (id, object) in unit.written_in(list) {
            match &object.content {
                Content::Live { data, .. } if generation.owns(&object.parent) => {
                    times.insert(id.to_owned(), object.last_modified);
                    let data = Value::Object(data.clone()).to_string();
                    records.insert(id.to_owned(), data);
                }
                _ => {
                    times.remove(id);
                    records.remove(id);
                }
            }
        }
        Ok(Self {
            records: Arc::new(records),
            times,
        })
    }

    /// The same without those that clients would take for tombstones: who reads them has no such records, and could not
    /// verify a signature over them (Remote Settings leaves them out too).
    ///
    /// # Errors
    /// As [`Self::changes_of`].
    pub fn that_clients_keep(mut self) -> Result<Self, ApiError> {
        let records = self.records.iter();
        let named = records.filter(|(_, data)| data.contains(DELETED));
        let mut gone = vec![];
        for (id, data) in named {
            let deleted = parse(data)?.remove(DELETED).unwrap_or_default();
            if payload::is_tombstone(&deleted) {
                gone.push(id.clone());
            }
        }
        for id in &gone {
            Arc::make_mut(&mut self.records).remove(id);
            self.times.remove(id);
        }
        Ok(self)
    }

    /// The records, to be published.
    pub fn shared(&self) -> Arc<BTreeMap<String, String>> {
        Arc::clone(&self.records)
    }

    /// When each was written.
    pub fn times(&self) -> &BTreeMap<String, Timestamp> {
        &self.times
    }

    /// What makes `other` these records, by id: the fields of what is to be there, `None` of what is to go.
    ///
    /// # Errors
    /// [`ApiError::Store`] where a record is not as the store writes it.
    pub fn changes_of(&self, other: &Self) -> Result<Changes, ApiError> {
        changes(&self.records, &other.records)
    }
}

/// What makes `before` the records of `after`.
///
/// # Errors
/// As [`Records::changes_of`].
pub fn changes(
    after: &BTreeMap<String, String>,
    before: &BTreeMap<String, String>,
) -> Result<Changes, ApiError> {
    let mut changes = BTreeMap::new();
    for (id, data) in after {
        let was = before.get(id);
        if was == Some(data) {
            continue;
        }
        let fields = parse(data)?;
        let is_same = match was {
            Some(was) => is_same(&fields, &parse(was)?),
            None => false,
        };
        if !is_same {
            changes.insert(id.clone(), Some(fields));
        }
    }
    let gone = before.keys().filter(|id| !after.contains_key(*id));
    changes.extend(gone.map(|id| (id.clone(), None)));
    Ok(changes)
}

/// The fields of a record from its JSON.
///
/// # Errors
/// It is no JSON object, which the store never writes.
pub fn parse(data: &str) -> Result<Map<String, Value>, ApiError> {
    serde_json::from_str(data).map_err(|_| {
        ApiError::Store(crate::store::StoreError::Malformed {
            pk: String::new(),
            sk: String::new(),
            attribute: "data",
        })
    })
}

fn is_same(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let fields = |data: &Map<String, Value>| data.len() - usize::from(data.contains_key(SCHEMA));
    fields(one) == fields(other)
        && one
            .iter()
            .all(|(field, value)| field == SCHEMA || other.get(field) == Some(value))
}

/// Whether there is a number anywhere in the data that is no integer of 64 bits.
pub fn has_floats(data: &Map<String, Value>) -> bool {
    fn is_in(value: &Value) -> bool {
        match value {
            Value::Number(number) => !number.is_i64() && !number.is_u64(),
            Value::Array(values) => values.iter().any(is_in),
            Value::Object(fields) => fields.values().any(is_in),
            _ => false,
        }
    }
    data.values().any(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(records: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = records.iter();
        pairs
            .map(|(id, data)| ((*id).to_owned(), (*data).to_owned()))
            .collect()
    }

    #[test]
    fn what_differs_in_more_than_when_it_was_validated_is_a_change() {
        let before = records(&[
            ("gone", "{}"),
            ("kept", r#"{"a":1,"b":{"c":2,"d":3}}"#),
            ("order", r#"{"b":2,"a":1}"#),
            ("schema", r#"{"a":1,"schema":5}"#),
            ("other", r#"{"a":1}"#),
            ("less", r#"{"a":1,"b":null}"#),
        ]);
        let after = records(&[
            ("new", r#"{"x":1}"#),
            ("kept", r#"{"a":1,"b":{"c":2,"d":3}}"#),
            ("order", r#"{"a":1,"b":2}"#),
            ("schema", r#"{"schema":6,"a":1}"#),
            ("other", r#"{"a":2}"#),
            ("less", r#"{"a":1}"#),
        ]);
        let changes = changes(&after, &before).unwrap();
        let ids: Vec<_> = changes
            .iter()
            .map(|(id, data)| (&**id, data.is_some()))
            .collect();
        let expected = [
            ("gone", false),
            ("less", true),
            ("new", true),
            ("other", true),
        ];
        assert_eq!(ids, expected);
    }

    #[test]
    fn integers_of_64_bits_are_no_floats() {
        let has_floats = |json: &str| has_floats(&serde_json::from_str(json).unwrap());
        for json in [
            r#"{"a":1,"b":[-9223372036854775808,18446744073709551615]}"#,
            r#"{"a":{"b":["1.5",true,null]}}"#,
        ] {
            assert!(!has_floats(json), "{json}");
        }
        for json in [
            r#"{"a":1.0}"#,
            r#"{"a":{"b":[0,{"c":1e2}]}}"#,
            // Which JSON's reader does not tell from `-0`, that Kinto takes for the integer 0.
            r#"{"a":-0.0}"#,
            r#"{"a":18446744073709551616}"#,
        ] {
            assert!(has_floats(json), "{json}");
        }
    }
}
