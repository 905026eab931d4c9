//! The YAML of kinto-wizard (`dump`, `load`), read event by event: no more of it than one object is in memory at once.
//!
//! `buckets: {BUCKET: {data, permissions, groups: {GROUP: {data, permissions}}, collections: {COLLECTION: {data,
//! permissions, records: {RECORD: {data, permissions}}}}}}`, each key optional and in any order.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use kinto_serverless::api::MAX_DEPTH;
use kinto_serverless::resource::{Kind, ListUri};
use saphyr_parser::{BufferedInput, Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Bytes of text that the values of one file's anchors may have, and those of one object.
const MAX_VALUE: usize = 16 * 1024 * 1024;

/// Why a file is not one of kinto-wizard's.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct YamlError {
    /// Where, the first line is 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

type Result<T, E = YamlError> = std::result::Result<T, E>;

/// An object of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct YamlObject {
    /// Where it is.
    pub list: ListUri,
    /// Its id there.
    pub id: String,
    /// Its fields, `id` and `last_modified` among them where the file has them.
    pub data: Map<String, Value>,
    /// Its permissions; `None` where the file says nothing of them.
    pub permissions: Option<Map<String, Value>>,
}

/// Reads a file, and hands on each object when it is complete: a parent may come after what is under it.
///
/// # Errors
/// The file cannot be read, or is no YAML of kinto-wizard's; `E` for what `found` fails with.
pub fn read<E: From<YamlError>>(
    file: impl Read + 'static,
    mut found: impl FnMut(YamlObject) -> Result<(), E>,
) -> Result<(), E> {
    let chars = Characters::new(file);
    let mut reader = Reader {
        parser: Parser::new_from_iter(chars),
        line: 1,
        anchors: HashMap::new(),
        anchored: 0,
        size: 0,
    };
    loop {
        match reader.next()? {
            Event::MappingStart(..) => break,
            Event::StreamStart | Event::DocumentStart(_) => {}
            _ => {
                return Err(reader
                    .wrong("the file must be a mapping with the key buckets")
                    .into());
            }
        }
    }
    let mut has_buckets = false;
    while let Some(key) = reader.key()? {
        match &*key {
            "buckets" => {
                has_buckets = true;
                reader.objects(&ListUri::buckets(), &mut found)?;
            }
            _ => {
                reader.value()?;
            }
        }
    }
    match has_buckets {
        true => Ok(reader.end()?),
        false => Err(reader.wrong("there are no buckets").into()),
    }
}

struct Reader<R: Read> {
    parser: Parser<'static, BufferedInput<Characters<R>>>,
    line: usize,
    anchors: HashMap<usize, Value>,
    /// Bytes of text in the anchors.
    anchored: usize,
    /// Bytes of text in the object that is being read.
    size: usize,
}

impl<R: Read> Reader<R> {
    fn wrong(&self, what: impl ToString) -> YamlError {
        YamlError {
            line: self.line,
            what: what.to_string(),
        }
    }

    fn next(&mut self) -> Result<Event<'static>> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => Err(YamlError {
                line: error.marker().line(),
                what: error.info().to_owned(),
            }),
            None => Err(self.wrong("the file ends early")),
        }
    }

    /// Nothing may follow but ends.
    fn end(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                Event::StreamEnd => return Ok(()),
                Event::DocumentEnd => {}
                _ => return Err(self.wrong("the file must have only one document")),
            }
        }
    }

    /// The next key of a mapping; `None` at its end.
    fn key(&mut self) -> Result<Option<String>> {
        match self.next()? {
            Event::MappingEnd => Ok(None),
            Event::Scalar(key, style, ..) if key == "<<" && style == ScalarStyle::Plain => {
                Err(self.wrong("merge keys (<<) are not supported; write out their fields"))
            }
            Event::Scalar(key, ..) => Ok(Some(key.into_owned())),
            _ => Err(self.wrong("a key that is no text")),
        }
    }

    /// A mapping from ids to objects, or nothing.
    fn objects<E: From<YamlError>>(
        &mut self,
        list: &ListUri,
        found: &mut impl FnMut(YamlObject) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.begins_mapping()? {
            return Ok(());
        }
        while let Some(id) = self.key()? {
            self.object(list, id, found)?;
        }
        Ok(())
    }

    /// Whether a mapping begins; `false` for null, which stands for an empty one.
    fn begins_mapping(&mut self) -> Result<bool> {
        match self.next()? {
            Event::MappingStart(..) => Ok(true),
            Event::Scalar(text, ScalarStyle::Plain, _, None) if is_null(&text) => Ok(false),
            Event::Alias(_) => {
                Err(self.wrong("an alias is not supported here; write out the value of its anchor"))
            }
            _ => Err(self.wrong("there is no mapping")),
        }
    }

    fn object<E: From<YamlError>>(
        &mut self,
        list: &ListUri,
        id: String,
        found: &mut impl FnMut(YamlObject) -> Result<(), E>,
    ) -> Result<(), E> {
        let uri = list.clone().object(&*id);
        let (mut data, mut permissions) = (Map::new(), None);
        if self.begins_mapping()? {
            while let Some(key) = self.key()? {
                self.size = 0;
                match (&*key, list.kind()) {
                    ("data", _) => data = self.members()?,
                    ("permissions", _) => permissions = Some(self.members()?),
                    ("groups", Kind::Bucket) => self.objects(&uri.children(Kind::Group), found)?,
                    ("collections", Kind::Bucket) => {
                        self.objects(&uri.children(Kind::Collection), found)?;
                    }
                    ("records", Kind::Collection) => {
                        self.objects(&uri.children(Kind::Record), found)?;
                    }
                    _ => {
                        let kind = list.kind().name();
                        return Err(self.wrong(format!("a {kind} has no {key}")).into());
                    }
                }
            }
        }
        found(YamlObject {
            list: list.clone(),
            id,
            data,
            permissions,
        })
    }

    fn members(&mut self) -> Result<Map<String, Value>> {
        match self.value()? {
            Value::Object(members) => Ok(members),
            Value::Null => Ok(Map::new()),
            _ => Err(self.wrong("there is no mapping")),
        }
    }

    fn value(&mut self) -> Result<Value> {
        let event = self.next()?;
        self.value_of(event, 0)
    }

    fn value_of(&mut self, event: Event<'_>, depth: usize) -> Result<Value> {
        // What is deeper fits nowhere; one level more is found by the check of what fits.
        if depth > MAX_DEPTH + 1 {
            return Err(self.wrong(format!("more than {MAX_DEPTH} levels")));
        }
        let before = self.size;
        let (anchor, value) = match event {
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                let value = value.ok_or_else(|| self.wrong("an alias must follow its anchor"))?;
                self.count(value.to_string().len())?;
                (0, value)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(text.len())?;
                let tag = tag.filter(|tag| !tag.suffix.is_empty());
                let is_text = tag.as_ref().is_some_and(|tag| tag.suffix == "str");
                if let Some(tag) = tag.filter(|_| !is_text) {
                    return Err(self.wrong(format!("the tag {tag} is not supported")));
                }
                let value = match style {
                    ScalarStyle::Plain if !is_text => {
                        plain(&text).map_err(|what| self.wrong(what))?
                    }
                    _ => Value::String(text.into_owned()),
                };
                (anchor, value)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = vec![];
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break,
                        event => items.push(self.value_of(event, depth + 1)?),
                    }
                    self.count(1)?;
                }
                (anchor, Value::Array(items))
            }
            Event::MappingStart(anchor, _) => {
                let mut members = Map::new();
                while let Some(key) = self.key()? {
                    self.count(key.len() + 1)?;
                    let event = self.next()?;
                    let value = self.value_of(event, depth + 1)?;
                    members.insert(key, value);
                }
                (anchor, Value::Object(members))
            }
            _ => return Err(self.wrong("a value is missing")),
        };
        if anchor > 0 {
            self.anchored += self.size - before;
            if self.anchored > MAX_VALUE {
                return Err(self.wrong("the anchors hold more than 16 MB"));
            }
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn count(&mut self, bytes: usize) -> Result<()> {
        self.size += bytes;
        match self.size > MAX_VALUE {
            true => Err(self.wrong("a value of more than 16 MB")),
            false => Ok(()),
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// What a plain scalar is by YAML 1.2's core schema, which kinto-wizard writes.
fn plain(text: &str) -> Result<Value, String> {
    match text {
        _ if is_null(text) => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(true.into()),
        "false" | "False" | "FALSE" => return Ok(false.into()),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!("JSON has no {text}"));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(Ok(number)) = text
            .strip_prefix(prefix)
            .filter(|rest| !rest.starts_with(['+', '-']))
            .map(|rest| u64::from_str_radix(rest, radix))
        {
            return Ok(number.into());
        }
    }
    if digits(unsigned) {
        let number = match text.starts_with('-') {
            true => text.parse().map(|n: i64| Number::from(n)),
            false => unsigned.parse().map(|n: u64| Number::from(n)),
        };
        // Larger ones are what JSON's readers take them for.
        let number = number.ok().or_else(|| Number::from_f64(text.parse().ok()?));
        return Ok(number.map_or_else(|| Value::String(text.to_owned()), Value::Number));
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_float = (digits(whole) || whole.is_empty() && digits(fraction))
        && (fraction.is_empty() || digits(fraction))
        && digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    let float = is_float.then(|| text.parse().ok().and_then(Number::from_f64));
    Ok(float
        .flatten()
        .map_or_else(|| Value::String(text.to_owned()), Value::Number))
}

/// The characters of UTF-8, U+FFFD for what is none.
///
/// Line breaks of Unicode are YAML's own no longer. kinto-wizard writes them as they are in a text, and then indents as
/// if a line had ended (ruamel.yaml 0.19): these spaces are left out.
struct Characters<R> {
    bytes: std::io::Bytes<BufReader<R>>,
    waiting: Option<u8>,
    is_indented: bool,
}

impl<R: Read> Characters<R> {
    fn new(file: R) -> Self {
        Self {
            bytes: BufReader::with_capacity(1 << 20, file).bytes(),
            waiting: None,
            is_indented: false,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        // A file that cannot be read on ends: its mappings are not closed, so that this is told.
        self.waiting
            .take()
            .or_else(|| self.bytes.next().and_then(Result::ok))
    }
}

impl<R: Read> Iterator for Characters<R> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let mut next = self.character();
        while self.is_indented && next == Some(' ') {
            next = self.character();
        }
        self.is_indented = matches!(next, Some('\u{85}' | '\u{2028}' | '\u{2029}'));
        next
    }
}

impl<R: Read> Characters<R> {
    fn character(&mut self) -> Option<char> {
        let first = self.byte()?;
        let length = match first {
            0..0x80 => return Some(first.into()),
            0xC0..0xE0 => 2,
            0xE0..0xF0 => 3,
            0xF0..0xF8 => 4,
            _ => return Some(char::REPLACEMENT_CHARACTER),
        };
        let mut bytes = [first, 0, 0, 0];
        for at in &mut bytes[1..length] {
            match self.byte() {
                Some(byte @ 0x80..0xC0) => *at = byte,
                other => {
                    self.waiting = other;
                    return Some(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        let text = std::str::from_utf8(&bytes[..length]).ok();
        let character = text.and_then(|text| text.chars().next());
        Some(character.unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn all(text: &str) -> Result<Vec<YamlObject>> {
        let mut all = vec![];
        read(std::io::Cursor::new(text.to_owned()), |object| {
            all.push(object);
            Ok::<_, YamlError>(())
        })?;
        Ok(all)
    }

    #[test]
    fn objects_come_with_their_data_and_permissions() {
        let found = all("
buckets:
  b:
    collections:
      c:
        permissions:
          write: &all
          - account:alice
        records:
          r:
            data: {id: r, last_modified: 5, text: 'on', n: 1.5e+3}
            permissions: {}
        data: {id: c, schema: {}}
    groups:
      g:
        data:
          members: *all
    permissions:
      read: [system.Everyone]
    data: null
");
        let found = found.unwrap();
        let uris: Vec<_> = found
            .iter()
            .map(|object| object.list.clone().object(&*object.id).to_string())
            .collect();
        let expected = [
            "/buckets/b/collections/c/records/r",
            "/buckets/b/collections/c",
            "/buckets/b/groups/g",
            "/buckets/b",
        ];
        assert_eq!(uris, expected);
        let data = json!({"id": "r", "last_modified": 5, "text": "on", "n": 1500.0});
        assert_eq!(Value::Object(found[0].data.clone()), data);
        assert_eq!(found[0].permissions, Some(Map::new()));
        assert_eq!(found[2].data["members"], json!(["account:alice"]));
        assert_eq!(found[2].permissions, None);
    }

    #[test]
    fn plain_scalars_are_what_the_core_schema_makes_of_them() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("True", json!(true)),
            ("yes", json!("yes")),
            ("12", json!(12)),
            ("+12", json!(12)),
            ("-12", json!(-12)),
            ("012", json!(12)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0x-1", json!("0x-1")),
            ("1e3", json!(1000.0)),
            ("1.", json!(1.0)),
            (".5", json!(0.5)),
            (".", json!(".")),
            ("1_000", json!("1_000")),
            ("12:30", json!("12:30")),
            ("2026-11-26", json!("2026-11-26")),
            ("1.2.3", json!("1.2.3")),
            ("18446744073709551616", json!(18446744073709551616.0)),
        ] {
            assert_eq!(plain(text), Ok(value), "{text}");
        }
        assert!(plain("-.inf").is_err());
    }

    #[test]
    fn what_is_not_read_is_said_with_its_line() {
        for (text, line) in [
            ("buckets:\n  b:\n    colections: {}\n", 3),
            ("buckets:\n  b:\n    data: {<<: {}}\n", 3),
            ("buckets:\n  b:\n    data:\n      x: .nan\n", 4),
            ("other: 1\n", 0),
            ("buckets: [", 0),
        ] {
            let error = all(text).unwrap_err();
            assert!(line == 0 || error.line == line, "{text}: {error}");
        }
    }

    #[test]
    fn aliases_of_aliases_do_not_fill_the_memory() {
        let mut text =
            "buckets:\n  b:\n    data:\n      a0: &a0 [xxxxxxxxxxxxxxxxxxxxxxxx]\n".to_owned();
        for n in 1..12 {
            let before = format!("*a{}", n - 1);
            let all = [&*before; 10].join(", ");
            text += &format!("      a{n}: &a{n} [{all}]\n");
        }
        assert!(all(&text).unwrap_err().what.contains("16 MB"));
    }

    proptest! {
        /// JSON is YAML.
        #[test]
        fn any_file_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = all(&format!("buckets: {text}"));
        }

        #[test]
        fn texts_survive_quotation(text in any::<String>()) {
            let quoted = serde_json::to_string(&text).unwrap();
            // YAML knows no surrogates' pairs, which serde_json does not write, and no other control characters unescaped.
            prop_assume!(!text.contains(['\u{7f}', '\u{85}', '\u{feff}', '\u{2028}', '\u{2029}', '\0']));
            let found = all(&format!("buckets: {{b: {{data: {{text: {quoted}}}}}}}")).unwrap();
            prop_assert_eq!(&found[0].data["text"], &Value::String(text));
        }
    }
}
