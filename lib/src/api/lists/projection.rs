//! The fields that a query names by paths with dots: parsed once, looked up in each object.

use serde_json::{Map, Value};

/// A field of an object, or of a nested object: `a.b`. A key that itself has dots goes before a nested one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    text: String,
    /// The positions of the dots.
    dots: Vec<usize>,
}

impl Path {
    /// Parses a path; every text is one.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let dots = text.match_indices('.').map(|(at, _)| at).collect();
        Self { text, dots }
    }

    /// The path as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value at this path.
    pub fn of<'o>(&self, object: &'o Map<String, Value>) -> Option<&'o Value> {
        self.from(0, &self.dots, object)
    }

    /// The value at the part of the path that begins at `start`, with these dots in it.
    fn from<'o>(
        &self,
        start: usize,
        dots: &[usize],
        object: &'o Map<String, Value>,
    ) -> Option<&'o Value> {
        if let Some(value) = object.get(&self.text[start..]) {
            return Some(value);
        }
        let (n, end, nested) = dots.iter().enumerate().rev().find_map(|(n, end)| {
            let nested = object.get(&self.text[start..*end])?;
            Some((n, *end, nested))
        })?;
        self.from(end + 1, &dots[n + 1..], nested.as_object()?)
    }

    /// The most keys of about 32 bytes that are looked up to find it in an object.
    pub fn lookups(&self) -> usize {
        let keys = (self.dots.len() + 1) * (self.dots.len() + 2) / 2;
        keys * (1 + self.text.len() / 32)
    }
}

/// The fields of an object that are shown; paths with dots name those of nested objects.
///
/// Each field has the projection of its value, which is all of it if nothing is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection(Vec<(String, Projection)>);

impl Projection {
    /// The fields that these paths name, in their order.
    pub fn of<'p>(paths: impl IntoIterator<Item = &'p str>) -> Self {
        let mut projection = Self::default();
        for path in paths {
            projection.add(path);
        }
        projection
    }

    fn add(&mut self, path: &str) {
        let (field, rest) = path
            .split_once('.')
            .map_or((path, None), |(field, rest)| (field, Some(rest)));
        let known = self.0.iter_mut().find(|(known, _)| known == field);
        match (known, rest) {
            // All of it is shown already.
            (Some((_, Self(nested))), Some(_)) if nested.is_empty() => {}
            (Some((_, nested)), Some(rest)) => nested.add(rest),
            (Some((_, nested)), None) => *nested = Self::default(),
            (None, rest) => {
                let nested = Self::of(rest);
                self.0.push((field.to_owned(), nested));
            }
        }
    }

    /// The object with these fields only. A field that is not an object is shown whole, whatever is named in it.
    pub fn pick(&self, object: &Map<String, Value>) -> Map<String, Value> {
        let mut picked = Map::new();
        for (field, nested) in &self.0 {
            let shown = match object.get(field) {
                Some(Value::Object(fields)) if !nested.0.is_empty() => nested.pick(fields).into(),
                Some(value) => value.clone(),
                None => continue,
            };
            picked.insert(field.clone(), shown);
        }
        picked
    }

    /// The most fields that are looked up to pick them.
    pub fn lookups(&self) -> usize {
        let nested = self.0.iter().map(|(_, nested)| 1 + nested.lookups());
        nested.sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn a_key_with_dots_goes_before_a_nested_one() {
        let found = |path: &str, of: Value| Path::new(path).of(&object(of)).cloned();
        assert_eq!(found("a.b", json!({"a": {"b": 1}})), Some(json!(1)));
        assert_eq!(
            found("a.b", json!({"a.b": 1, "a": {"b": 2}})),
            Some(json!(1))
        );
        assert_eq!(
            found("a.b.c", json!({"a.b": {"c": 1}, "a": {"b.c": 2}})),
            Some(json!(1))
        );
        assert_eq!(found("a.b.c", json!({"a": {"b.c": 2}})), Some(json!(2)));
        assert_eq!(found("a.b", json!({"a": 1})), None);
    }

    #[test]
    fn fields_are_picked_from_nested_objects_too() {
        let of = object(json!({"a": {"b": 1, "c": null, "d": 3}, "e": 4, "f": 5, "g": {"h": 1}}));
        let picked =
            |paths: &[&str]| Value::Object(Projection::of(paths.iter().copied()).pick(&of));
        assert_eq!(
            picked(&["a.b", "a.c", "e", "f.g", "nope"]),
            json!({"a": {"b": 1, "c": null}, "e": 4, "f": 5})
        );
        assert_eq!(picked(&["g.h", "g", "g.x"]), json!({"g": {"h": 1}}));
        assert_eq!(picked(&["a.x"]), json!({"a": {}}));
    }

    #[test]
    fn what_is_named_twice_is_looked_up_once() {
        assert_eq!(Projection::of(["a"; 1000]).lookups(), 1);
        assert_eq!(Projection::of(["a", "a.b", "a.b.c"]).lookups(), 1);
        let deep = Path::new(["a"; 2400].join("."));
        assert!(deep.lookups() > 1_000_000);
    }
}
