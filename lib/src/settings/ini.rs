//! The syntax of a `kinto.ini`: parses its text into the settings of its application.
//!
//! The rules are those of `PasteDeploy` 3.1, with which Kinto reads the file, and of Python's `configparser` below it.
//! Whatever they refuse is refused, and so is text that would be read as something else than it seems. The meaning of
//! settings is left to `file.rs`.

use std::collections::{BTreeMap, BTreeSet};

/// A file larger than this is no settings file.
pub const MAX_BYTES: usize = 256 * 1024;
/// The beginnings of the sections of applications. A section of the first kind hides those of the second.
const APPLICATIONS: [&str; 2] = ["app", "application"];
/// Other kinds of sections that `PasteDeploy` runs as applications; they are not read here.
const OTHERS: [&str; 4] = ["composite", "composit", "pipeline", "filter-app"];
/// The section whose values are available to the others.
const DEFAULT: &str = "DEFAULT";
/// The greatest depth of `%(x)s` references, and of inheritance between sections.
const MAX_DEPTH: usize = 10;

/// An error in a file, with its place. It never shows a value, which may be a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IniError {
    /// More than [`MAX_BYTES`].
    #[error("the file is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// UTF-16, a byte-order mark, or no text at all.
    #[error("the file must be UTF-8 without a byte-order mark")]
    Encoding,
    /// There is no application section.
    #[error("the file has no section [app:main], or more than one")]
    NoApplication,
    /// An invalid line.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The problem.
        problem: String,
    },
    /// An invalid value.
    #[error("line {line}, `{key}`: {problem}")]
    Value {
        /// The line of the key, counted from 1.
        line: usize,
        /// The key as the file has it.
        key: String,
        /// The problem with its value.
        problem: String,
    },
}

/// A setting of the application, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, with or without `kinto.`.
    pub key: String,
    /// Its value, with every `%(x)s` replaced.
    pub value: String,
    /// The line on which it begins, counted from 1.
    pub line: usize,
}

impl Entry {
    /// An error about its value.
    pub fn refuse(&self, problem: impl Into<String>) -> IniError {
        refuse(&self.key, self.line, problem)
    }
}

fn refuse(key: &str, line: usize, problem: impl Into<String>) -> IniError {
    IniError::Value {
        line,
        key: key.to_owned(),
        problem: problem.into(),
    }
}

/// The settings of `[app:main]`, in order of their keys. `path` is that of the file.
///
/// # Errors
/// The first error in the file.
pub fn parse(bytes: &[u8], path: &str) -> Result<Vec<Entry>, IniError> {
    if bytes.len() > MAX_BYTES {
        return Err(IniError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| IniError::Encoding)?;
    if text.starts_with('\u{feff}') || text.contains('\0') {
        return Err(IniError::Encoding);
    }
    let mut file = File::read(text)?;
    let here = path.rsplit_once('/').map_or("", |(here, _)| here);
    for (key, value) in [("here", here), ("__file__", path)] {
        // The file's own value takes precedence, as in PasteDeploy.
        let raw = Raw {
            value: value.replace('%', "%%"),
            line: 0,
        };
        file.defaults.entry(key.to_owned()).or_insert(raw);
    }
    let main = file.application("main").ok_or(IniError::NoApplication)?;
    let settings = file.settings(&main, 0)?;
    Ok(settings.into_values().collect())
}

/// A value as it stands in the file.
struct Raw {
    value: String,
    line: usize,
}

type Section = BTreeMap<String, Raw>;

/// All sections of a file.
#[derive(Default)]
struct File {
    defaults: Section,
    sections: BTreeMap<String, Section>,
}

impl File {
    fn read(text: &str) -> Result<Self, IniError> {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut file = Self::default();
        let mut given = BTreeSet::new();
        let mut section: Option<String> = None;
        // The key whose value may continue on the next line.
        let mut open: Option<String> = None;
        let mut indent = 0;
        for (index, whole) in text.split('\n').enumerate() {
            let line = index + 1;
            let wrong = |problem: &str| IniError::Line {
                line,
                problem: problem.to_owned(),
            };
            let content = whole.trim();
            if content.starts_with(['#', ';']) {
                continue;
            }
            if content.is_empty() {
                if let (Some(section), Some(key)) = (&section, &open) {
                    file.go_on(section, key, "");
                }
                continue;
            }
            let indented = whole.chars().take_while(|c| c.is_whitespace()).count();
            if let (Some(section), Some(key)) = (&section, &open)
                && indented > indent
            {
                file.go_on(section, key, content);
                continue;
            }
            indent = indented;
            if let Some(name) = header(content) {
                if name != DEFAULT
                    && file
                        .sections
                        .insert(name.to_owned(), Section::new())
                        .is_some()
                {
                    return Err(wrong(&format!("there is another section [{name}]")));
                }
                section = Some(name.to_owned());
                open = None;
                continue;
            }
            let Some(name) = &section else {
                return Err(wrong("there is no section before it, as [app:main]"));
            };
            let Some((key, value)) = content.split_once(['=', ':']) else {
                return Err(wrong("it has neither `=` nor `:`"));
            };
            let key = key.trim_end();
            if key.is_empty() {
                return Err(wrong("it has no name before the `=`"));
            }
            if !given.insert((name.clone(), key.to_owned())) {
                return Err(refuse(key, line, "is given twice"));
            }
            let value = value.trim().to_owned();
            file.section(name)
                .insert(key.to_owned(), Raw { value, line });
            open = Some(key.to_owned());
        }
        for raw in file.values() {
            raw.value.truncate(raw.value.trim_end().len());
        }
        Ok(file)
    }

    fn section(&mut self, name: &str) -> &mut Section {
        if name == DEFAULT {
            return &mut self.defaults;
        }
        self.sections.entry(name.to_owned()).or_default()
    }

    fn go_on(&mut self, section: &str, key: &str, line: &str) {
        if let Some(raw) = self.section(section).get_mut(key) {
            raw.value.push('\n');
            raw.value.push_str(line);
        }
    }

    fn values(&mut self) -> impl Iterator<Item = &mut Raw> {
        let sections = self.sections.values_mut().flat_map(Section::values_mut);
        self.defaults.values_mut().chain(sections)
    }

    /// The section of an application: `[app:name]`, also with spaces before the name. `None` if there is none, or more than one.
    fn application(&self, name: &str) -> Option<String> {
        let named = |kind: &&str| {
            let sections = self.sections.keys().filter(|section| {
                let named = section
                    .strip_prefix(*kind)
                    .and_then(|it| it.strip_prefix(':'));
                named.is_some_and(|it| it.trim() == name)
            });
            sections.cloned().collect::<Vec<_>>()
        };
        let mut of_kinds = APPLICATIONS.iter().map(named);
        let mut found = of_kinds.find(|found| !found.is_empty())?;
        found.extend(OTHERS.iter().flat_map(named));
        (found.len() == 1).then(|| found.remove(0))
    }

    /// The settings of a section, merged over those that it inherits.
    fn settings(&self, name: &str, depth: usize) -> Result<BTreeMap<String, Entry>, IniError> {
        let section = &self.sections[name];
        for (key, raw) in &self.defaults {
            self.interpolate(key, raw, &self.defaults, 0, &mut 0)?;
        }
        let mut own = BTreeMap::new();
        for (key, raw) in section {
            let value = self.interpolate(key, raw, section, 0, &mut 0)?;
            // PasteDeploy: a key that [DEFAULT] has too is no setting of the application.
            if self.defaults.contains_key(key) && !key.starts_with("set ") {
                let problem = "is in [DEFAULT] as well, and then no setting: remove it there";
                return Err(refuse(key, raw.line, problem));
            }
            if key.starts_with("set ") || key.starts_with("get ") {
                return Err(refuse(key, raw.line, "`set` and `get` are not known here"));
            }
            let (key, line) = (key.clone(), raw.line);
            own.insert(key.clone(), Entry { key, value, line });
        }
        for unsupported in ["filter-with", "require"] {
            if let Some(entry) = own.get(unsupported) {
                return Err(entry.refuse("is not known here"));
            }
        }
        let factory = own.remove("paste.app_factory");
        let Some(used) = own.remove("use").or(factory) else {
            let line = section.values().map(|raw| raw.line).min().unwrap_or(1);
            return Err(refuse("use", line, "is missing, as in `use = egg:kinto`"));
        };
        if ["egg:kinto", "egg:kinto#main", "kinto:main"].contains(&&*used.value)
            || used.value == "call:kinto:main"
        {
            return Ok(own);
        }
        let inherited = self.application(&used.value);
        match inherited {
            Some(_) if depth == MAX_DEPTH => Err(used.refuse("leads back to itself")),
            Some(inherited) => {
                let mut settings = self.settings(&inherited, depth + 1)?;
                settings.extend(own);
                Ok(settings)
            }
            None => Err(used.refuse("must be egg:kinto, or the name of another [app:…] section")),
        }
    }

    /// Replaces every `%(x)s` in the value by its target, and `%%` by `%`.
    fn interpolate(
        &self,
        key: &str,
        raw: &Raw,
        section: &Section,
        depth: usize,
        replaced: &mut usize,
    ) -> Result<String, IniError> {
        let wrong = |problem: &str| Err(refuse(key, raw.line, problem));
        if depth > MAX_DEPTH {
            return wrong("its %(…)s lead back to itself");
        }
        let mut value = String::new();
        let mut rest = &*raw.value;
        while let Some((before, after)) = rest.split_once('%') {
            value.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                value.push('%');
                rest = after;
                continue;
            }
            let name = after.strip_prefix('(').and_then(|it| it.split_once(")s"));
            let Some((name, after)) = name.filter(|(name, _)| !name.contains(')')) else {
                return wrong("has a lone `%`; write `%%` for one");
            };
            let Some(other) = section.get(name).or_else(|| self.defaults.get(name)) else {
                return wrong(&format!("%({name})s is nowhere in the file"));
            };
            value.push_str(&self.interpolate(key, other, section, depth + 1, replaced)?);
            // Limits the size of a value, and the time, that repetition may take.
            *replaced += 1;
            if value.len() > MAX_BYTES || *replaced > 10_000 {
                return wrong("is too long");
            }
            rest = after;
        }
        value.push_str(rest);
        Ok(value)
    }
}

/// The name in the line of a section's header.
fn header(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix('[')?.rsplit_once(']')?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Vec<(String, String)>, IniError> {
        let text = text.replace("APP", "[app:main]\nuse = egg:kinto\n");
        let entries = parse(text.as_bytes(), "/etc/kinto/kinto.ini")?;
        let pair = |entry: Entry| (entry.key, entry.value);
        Ok(entries.into_iter().map(pair).collect())
    }

    fn one(text: &str) -> String {
        let settings = settings(text).unwrap();
        assert_eq!(settings.len(), 1, "{settings:?}");
        settings[0].1.clone()
    }

    fn refused(text: &str) -> String {
        settings(text).unwrap_err().to_string()
    }

    #[test]
    fn the_settings_of_the_application_alone_are_read() {
        let text = "[server:main]\nport = %(http_port)s\n[formatter]\nformat = %(asctime)s\nAPP\nkinto.readonly: true\nMixed.Case = 1\n";
        let expected = [("Mixed.Case", "1"), ("kinto.readonly", "true")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(settings(text).unwrap(), expected);
    }

    #[test]
    fn a_value_goes_on_over_blank_lines_and_comments() {
        assert_eq!(one("APP\na = b\n  c\n\n# d\n  ; e\n    f\n\n"), "b\nc\n\nf");
        assert_eq!(one("APP\na =\n  b = c\n"), "\nb = c");
        assert_eq!(one("APP\r\na = b\r\n  c\r\n"), "b\nc");
    }

    #[test]
    fn a_file_may_be_indented_throughout() {
        assert_eq!(
            one("  [app:main]\n  use = egg:kinto\n  a = b\n    c\n"),
            "b\nc"
        );
    }

    #[test]
    fn what_stands_behind_a_value_belongs_to_it() {
        assert_eq!(one("APP\na = true ; remark"), "true ; remark");
        assert_eq!(one("APP\na = b = c : d"), "b = c : d");
    }

    #[test]
    fn defaults_serve_the_other_sections() {
        assert_eq!(
            one("[DEFAULT]\nx = 1%(y)s\ny = 2\nAPP\na = %(x)s%% %(here)s"),
            "12% /etc/kinto"
        );
        assert_eq!(
            settings("APP\na = %(b)s\nb = c").unwrap()[0],
            ("a".into(), "c".into())
        );
    }

    #[test]
    fn the_name_of_an_application_may_have_spaces_before_it() {
        assert_eq!(
            one("[app: main]\nuse = other\n[application:  other]\nuse = egg:kinto\na = b"),
            "b"
        );
    }

    #[test]
    fn a_section_inherits_from_the_one_that_it_uses() {
        let text =
            "[app:main]\nuse = other\na = 1\n[app:other]\nuse = egg:kinto#main\na = 2\nb = 3\n";
        let expected = [("a", "1"), ("b", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(settings(text).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_named_by_line_and_key_without_its_value() {
        for (text, message) in [
            ("APP\na = 1\na = hush", "line 5, `a`: is given twice"),
            ("APP\nhush", "line 4: it has neither"),
            ("APP\n= hush", "line 4: it has no name"),
            ("a = hush", "line 1: there is no section"),
            ("[server:main]\na = hush", "the file has no section"),
            ("APP\n[app:main]\n", "line 4: there is another"),
            ("APP\na = hush 100%", "line 4, `a`: has a lone"),
            ("APP\na = hush %(b)", "line 4, `a`: has a lone"),
            ("APP\na = %(b)s hush", "line 4, `a`: %(b)s is nowhere"),
            ("APP\na = %(a)s hush", "line 4, `a`: its %(…)s lead back"),
            ("[DEFAULT]\nx = 50% hush\nAPP", "line 2, `x`: has a lone"),
            (
                "[DEFAULT]\na = hush\nAPP\na = hush",
                "line 6, `a`: is in [DEFAULT] as well",
            ),
            ("[app:main]\na = hush", "line 2, `use`: is missing"),
            ("[app:main]\nuse = main", "line 2, `use`: leads back"),
            ("[app]\nuse = egg:kinto", "the file has no section"),
            (
                "APP\n[app: main]\na = hush",
                "the file has no section [app:main], or more",
            ),
            (
                "APP\n[pipeline:main]\na = hush",
                "the file has no section [app:main], or more",
            ),
            ("[app:main]\nuse = egg:hush", "line 2, `use`: must be"),
            ("APP\nfilter-with = hush", "line 4, `filter-with`: is not"),
            ("APP\nset x = hush", "line 4, `set x`: `set` and `get`"),
            (
                "\u{feff}[app:main]\nuse = egg:kinto",
                "the file must be UTF-8",
            ),
        ] {
            let refusal = refused(text);
            assert!(refusal.starts_with(message), "{text}: {refusal}");
            assert!(!refusal.contains("hush"), "{refusal}");
        }
        let utf16: Vec<u8> = "[app:main]\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(parse(&utf16, "/"), Err(IniError::Encoding));
        let large = vec![b'#'; MAX_BYTES + 1];
        assert_eq!(parse(&large, "/"), Err(IniError::TooLarge));
    }
}
