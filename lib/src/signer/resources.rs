//! The lines of `signer.resources`: each names a source and the collections it is published to.
//!
//! Forms and refusals are those of kinto-signer 8.1.1.

use std::collections::HashSet;

use crate::resource::{Kind, ObjectUri};

/// Sources with the places that they are published to, in the order of the setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub Vec<Resource>);

/// A line: three buckets, each collection of which goes under its own name, or three collections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Where people write.
    pub source: ObjectUri,
    /// Where reviewers see what they are asked to approve, if they do.
    pub preview: Option<ObjectUri>,
    /// The collection that clients read.
    pub destination: ObjectUri,
}

/// Why a setting is refused, with the line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Blanks alone could be a mistake.
    #[error("`{0}` has neither `->` nor `;` between its parts")]
    NotSeparated(String),
    /// Two or three are.
    #[error("`{0}` is not a source, a preview that may be left out, and a destination")]
    NotParts(String),
    /// Another form of URI, or an id that no object may have.
    #[error("`{0}` has a part that is no URI of a bucket or collection")]
    NotUri(String),
    /// A bucket is paired with a collection, so its collections have no destination.
    #[error("`{0}` has buckets and collections mixed")]
    Mixed(String),
    /// A place in two roles, or twice in one: two lines would undo each other's work.
    #[error("`{0}` names a bucket or collection that is named already")]
    Repeated(String),
}

impl Resources {
    /// Reads the setting, one resource a line. The empty text is no resource.
    pub fn parse(setting: &str) -> Result<Self, Error> {
        let setting = setting.trim();
        let mut named = HashSet::new();
        let mut resources = vec![];
        for line in setting.lines().map(str::trim) {
            let resource = Resource::parse(line)?;
            for uri in resource.places() {
                if !named.insert(uri.to_string()) {
                    return Err(Error::Repeated(line.to_owned()));
                }
            }
            resources.push(resource);
        }
        Ok(Self(resources))
    }
}

impl Resource {
    fn parse(line: &str) -> Result<Self, Error> {
        if !line.contains("->") && !line.contains(';') {
            return Err(Error::NotSeparated(line.to_owned()));
        }
        let parts = line.replace("->", " ").replace(';', " ");
        let parts: Vec<_> = parts.split_whitespace().collect();
        let (source, preview, destination) = match parts.as_slice() {
            [source, destination] => (*source, None, *destination),
            [source, preview, destination] => (*source, Some(*preview), *destination),
            _ => return Err(Error::NotParts(line.to_owned())),
        };
        let uri = |text| place(text).ok_or_else(|| Error::NotUri(line.to_owned()));
        let resource = Self {
            source: uri(source)?,
            preview: preview.map(uri).transpose()?,
            destination: uri(destination)?,
        };
        if resource
            .places()
            .any(|uri| uri.kind() != resource.source.kind())
        {
            return Err(Error::Mixed(line.to_owned()));
        }
        Ok(resource)
    }

    /// All that the line names.
    pub fn places(&self) -> impl Iterator<Item = &ObjectUri> {
        [&self.source].into_iter().chain(self.targets())
    }

    /// The preview, if there is one, and the destination.
    pub fn targets(&self) -> impl Iterator<Item = &ObjectUri> {
        self.preview.iter().chain([&self.destination])
    }
}

/// A bucket or collection: `/buckets/B`, `/buckets/B/collections/C` or `B/C`.
fn place(text: &str) -> Option<ObjectUri> {
    let uri = match text.split_once('/')? {
        ("", _) => ObjectUri::parse(text)?,
        (bucket, collection) => ObjectUri::collection(bucket, collection),
    };
    let is_place = matches!(uri.kind(), Kind::Bucket | Kind::Collection);
    (is_place && uri.is_valid()).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The resources as `source|preview|destination`.
    fn parse(setting: &str) -> Result<Vec<String>, Error> {
        let show = |resource: &Resource| {
            let uris: Vec<_> = resource.places().map(ObjectUri::to_string).collect();
            uris.join("|")
        };
        Resources::parse(setting).map(|resources| resources.0.iter().map(show).collect())
    }

    #[test]
    fn every_form_is_read_as_kinto_signer_reads_it() {
        for (setting, expected) in [
            ("", vec![]),
            ("/buckets/a -> /buckets/b", vec!["/buckets/a|/buckets/b"]),
            ("\n /buckets/a;/buckets/b \n", vec!["/buckets/a|/buckets/b"]),
            ("/buckets/a->/buckets/b", vec!["/buckets/a|/buckets/b"]),
            ("/buckets/a -> /buckets/b;", vec!["/buckets/a|/buckets/b"]),
            (
                "/buckets/a /buckets/p -> /buckets/b",
                vec!["/buckets/a|/buckets/p|/buckets/b"],
            ),
            (
                "a/c;/buckets/b/collections/c",
                vec!["/buckets/a/collections/c|/buckets/b/collections/c"],
            ),
            (
                "/buckets/a -> /buckets/b\na/c -> b/c",
                vec![
                    "/buckets/a|/buckets/b",
                    "/buckets/a/collections/c|/buckets/b/collections/c",
                ],
            ),
        ] {
            assert_eq!(
                parse(setting),
                Ok(expected.into_iter().map(str::to_owned).collect()),
                "{setting}"
            );
        }
    }

    #[test]
    fn what_kinto_signer_refuses_is_refused_with_its_line() {
        type Refusal = fn(String) -> Error;
        for (setting, line, refusal) in [
            ("a/c b/c", "a/c b/c", Error::NotSeparated as Refusal),
            ("a/c -> b/c\n\nd/c -> e/c", "", Error::NotSeparated),
            ("a/c ->", "a/c ->", Error::NotParts),
            (";;", ";;", Error::NotParts),
            ("a/c;b/c;d/c;e/c", "a/c;b/c;d/c;e/c", Error::NotParts),
            ("a -> b", "a -> b", Error::NotUri),
            ("a/c/d -> b/c", "a/c/d -> b/c", Error::NotUri),
            ("a/ -> b/", "a/ -> b/", Error::NotUri),
            ("a!/c -> b/c", "a!/c -> b/c", Error::NotUri),
            (
                "/buckets/a/ -> /buckets/b",
                "/buckets/a/ -> /buckets/b",
                Error::NotUri,
            ),
            (
                "/buckets/a/groups/g -> b/c",
                "/buckets/a/groups/g -> b/c",
                Error::NotUri,
            ),
            ("/accounts/a -> b/c", "/accounts/a -> b/c", Error::NotUri),
            ("a/c -> /buckets/b", "a/c -> /buckets/b", Error::Mixed),
            (
                "a/c -> /buckets/a/collections/c",
                "a/c -> /buckets/a/collections/c",
                Error::Repeated,
            ),
            ("a/c -> b/c\na/c -> d/c", "a/c -> d/c", Error::Repeated),
            ("a/c -> b/c\nd/c -> b/c", "d/c -> b/c", Error::Repeated),
            ("a/c;p/c;b/c\nd/c;p/c;e/c", "d/c;p/c;e/c", Error::Repeated),
            ("a/c -> b/c\nb/c -> d/c", "b/c -> d/c", Error::Repeated),
        ] {
            assert_eq!(parse(setting), Err(refusal(line.to_owned())), "{setting}");
        }
    }
}
