//! Reads one field of a JSON text without keeping the rest in memory.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The field of a text at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Field {
    /// There is none, or the text is no JSON.
    Missing,
    /// A string.
    Text(String),
    /// Any other value.
    Other,
}

/// Finds the field at `path`, one key for each object on the way. As elsewhere, the last one of duplicate keys counts.
pub fn at(path: &[&str], json: &[u8]) -> Field {
    let mut json = serde_json::Deserializer::from_slice(json);
    let found = FieldSeed(path).deserialize(&mut json);
    let found = found.and_then(|found| json.end().map(|()| found));
    found.unwrap_or(Field::Missing)
}

struct FieldSeed<'p>(&'p [&'p str]);

impl FieldSeed<'_> {
    /// The field for a value that is no string.
    fn other(&self) -> Field {
        match self.0 {
            [] => Field::Other,
            _ => Field::Missing,
        }
    }
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Field, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        let mut found = self.other();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.0 {
                [first, rest @ ..] if key == *first => {
                    found = map.next_value_seed(FieldSeed(rest))?
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Field, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.other())
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        match self.0 {
            [] => Ok(Field::Text(text.to_owned())),
            _ => Ok(Field::Missing),
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(self.other())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(self.other())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(self.other())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(self.other())
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(self.other())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_field_is_what_it_is_in_the_whole_value() {
        for json in [
            r#"{"data": {"id": "a", "x": [{}, 1.5, null, true, -1]}, "permissions": {"id": "b"}}"#,
            r#"{"data": {"id": "a"}, "data": {"id": "b\u00e9"}}"#,
            r#"{"data": {"id": "a"}, "data": 3}"#,
            r#"{"data": {"id": "a", "id": ["b"]}}"#,
            r#"{"data": {"id": {"id": "a"}}}"#,
            r#"{"data": {"id": null}}"#,
            r#"{"data": [{"id": "a"}]}"#,
            r#"{"id": "a"}"#,
            r#"{"data": {}}"#,
            r#"{"data": {"id": "a"}} 1"#,
            r#"{"data": {"id": "a"}"#,
            "[]",
            "1",
            "",
        ] {
            let value = serde_json::from_str::<Value>(json).ok();
            let expected = match value
                .as_ref()
                .and_then(|value| value.get("data")?.get("id"))
            {
                None => Field::Missing,
                Some(Value::String(id)) => Field::Text(id.clone()),
                Some(_) => Field::Other,
            };
            assert_eq!(at(&["data", "id"], json.as_bytes()), expected, "{json}");
        }
    }
}
