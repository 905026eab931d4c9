//! The YAML that kinto-wizard's `load` takes: live objects with their data and permissions.
//!
//! Values are written as JSON, which is YAML but for characters that YAML wants escaped.

use std::io::Write;

use kinto_serverless::permission::Permissions;
use kinto_serverless::resource::{Kind, ListUri, ObjectUri};
use kinto_serverless::store::history::{EntryContent, RawEntry};
use kinto_serverless::store::{Content, Object};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Map, Value, json};

use super::{Format, Result};

/// kinto-wizard's YAML.
#[derive(Debug)]
pub struct Yaml<W> {
    out: W,
    /// The list of each depth that the last object was of.
    open: [Option<ListUri>; 2],
    /// Accounts, tombstones, entries of histories.
    left_out: (u64, u64, u64),
}

impl<W: Write> Yaml<W> {
    /// Into a file.
    ///
    /// # Errors
    /// The file fails.
    pub fn new(mut out: W) -> Result<Self> {
        writeln!(out, "buckets:")?;
        Ok(Self {
            out,
            open: [None, None],
            left_out: (0, 0, 0),
        })
    }

    fn value(&mut self, indent: usize, name: &str, value: &Value) -> Result<()> {
        let value = escaped(&value.to_string());
        Ok(writeln!(self.out, "{:indent$}{name}: {value}", "")?)
    }

    fn write(
        &mut self,
        uri: &ObjectUri,
        object: &Object,
        data: &Map<String, Value>,
        permissions: &Permissions,
    ) -> Result<()> {
        let depth = match uri.kind() {
            Kind::Bucket | Kind::Account => 0,
            Kind::Group | Kind::Collection => 1,
            Kind::Record => 2,
        };
        let indent = 2 + 4 * depth;
        if depth > 0 && self.open[depth - 1].as_ref() != Some(uri.list()) {
            self.open[depth - 1] = Some(uri.list().clone());
            writeln!(self.out, "{:1$}{2}:", "", indent - 2, uri.kind().plural())?;
        }
        writeln!(self.out, "{:indent$}{}:", "", json!(uri.id()))?;
        let mut data = data.clone();
        data.insert("id".to_owned(), uri.id().into());
        data.insert("last_modified".to_owned(), object.last_modified.0.into());
        self.value(indent + 2, "data", &data.into())?;
        self.value(indent + 2, "permissions", &json!(permissions))
    }
}

impl<W: Write> Format for Yaml<W> {
    fn list(&mut self, _: &ListUri, _: Timestamp) -> Result<()> {
        Ok(())
    }

    fn object(&mut self, uri: &ObjectUri, object: &Object) -> Result<()> {
        match &object.content {
            Content::Live { data, permissions } if uri.kind() != Kind::Account => {
                self.write(uri, object, data, permissions)
            }
            Content::Live { .. } => {
                self.left_out.0 += 1;
                Ok(())
            }
            Content::Deleted => {
                self.left_out.1 += 1;
                Ok(())
            }
        }
    }

    fn entry(&mut self, _: &ObjectUri, _: &RawEntry, _: &EntryContent) -> Result<()> {
        self.left_out.2 += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }

    fn remarks(&self) -> Vec<String> {
        let (accounts, tombstones, entries) = self.left_out;
        vec![format!(
            "left out: {accounts} accounts, {tombstones} tombstones, {entries} entries of histories, and the timestamps of lists, because kinto-wizard does not support them"
        )]
    }
}

/// JSON with escapes in place of the characters that YAML does not take as they are, which are all in texts.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                text += &format!("\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{YamlError, YamlObject, read};
    use kinto_serverless::store::Generation;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(texts in prop::collection::vec(any::<String>(), 3), number in any::<f64>()) {
            let live = |data: Value| Object {
                last_modified: Timestamp(1_795_289_972_455),
                generation: Generation::ROOT,
                parent: Generation::ROOT,
                content: Content::Live {
                    data: data.as_object().cloned().unwrap_or_default(),
                    permissions: Permissions::default(),
                },
            };
            prop_assume!(number.is_finite());
            let collection = ObjectUri::collection("b", "c");
            let group = ObjectUri::group("b", "g");
            let record = collection.children(Kind::Record).object("r");
            let values = json!({"text": texts[0], "n": number, "l": [texts[1], {}, [], null], "o": {&*texts[2]: 1}});
            let mut out = vec![];
            let mut yaml = Yaml::new(&mut out).unwrap();
            for uri in [&ObjectUri::bucket("b"), &group, &collection, &record] {
                yaml.object(uri, &live(values.clone())).unwrap();
            }
            yaml.finish().unwrap();
            let mut found = vec![];
            let read = read(std::io::Cursor::new(out), |object: YamlObject| {
                found.push(object);
                Ok::<_, YamlError>(())
            });
            prop_assert!(read.is_ok(), "{:?}", read);
            prop_assert_eq!(found.len(), 4);
            for object in found {
                let mut data = object.data;
                prop_assert_eq!(data.shift_remove("last_modified"), Some(json!(1_795_289_972_455_u64)));
                data.shift_remove("id");
                prop_assert_eq!(Value::Object(data), values.clone());
            }
        }
    }
}
