//! The settings of `signer.*` that say with which keys: for all sources, those of a bucket, or one.
//!
//! Each is looked up for the source's collection, then for its bucket, then for all, by itself: a key of one collection may go
//! with the backend of all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Secret, SettingError, Vars};
use crate::resource::{Kind, ObjectUri};
use crate::signer::autograph::Autograph;
use crate::signer::keys::{Backend, Keys};
use crate::signer::local_ecdsa::LocalEcdsa;
use crate::signer::resources::Resources;

/// The prefix of all variables of the signer.
pub(super) const PREFIX: &str = "KINTO_SIGNER_";
/// The backends that sign with a key of one's own, under the names of either package.
pub(super) const LOCAL_ECDSA: [&str; 2] = [
    "kinto_remote_settings.signer.backends.local_ecdsa",
    "kinto_signer.signer.local_ecdsa",
];
/// The backend that signs with keys in KMS.
const KMS: &str = "kms";
/// The backends that have Autograph sign, under the names of either package.
const AUTOGRAPH: [&str; 2] = [
    "kinto_remote_settings.signer.backends.autograph",
    "kinto_signer.signer.autograph",
];
/// Keys of one source at most: each is one call of KMS for each publication.
const MAX_KEYS: usize = 4;

const BACKEND: &str = "SIGNER_BACKEND";
const PRIVATE_KEY: &str = "ECDSA_PRIVATE_KEY";
const KMS_KEY_IDS: &str = "KMS_KEY_IDS";
const X5U: &str = "X5U";
const SERVER_URL: &str = "AUTOGRAPH_SERVER_URL";
const HAWK_ID: &str = "AUTOGRAPH_HAWK_ID";
const HAWK_SECRET: &str = "AUTOGRAPH_HAWK_SECRET";
const AUTOGRAPH_KEY_IDS: &str = "AUTOGRAPH_KEY_IDS";
/// Every setting of keys. The public key is one of Kinto's, and follows from the private one.
const SETTINGS: [&str; 9] = [
    BACKEND,
    PRIVATE_KEY,
    "ECDSA_PUBLIC_KEY",
    KMS_KEY_IDS,
    X5U,
    SERVER_URL,
    HAWK_ID,
    HAWK_SECRET,
    AUTOGRAPH_KEY_IDS,
];

/// The keys of all sources, by the name of a bucket, or of a bucket and a collection, in variables.
#[derive(Clone, Debug, Default)]
pub(super) struct KeysOfSources(BTreeMap<String, Arc<Keys>>);

/// An id as it stands in the names of variables.
pub(super) fn name(id: &str) -> String {
    id.replace(['-', '.'], "_").to_ascii_uppercase()
}

/// The scope of a setting of keys, given without the prefix: a bucket, or a bucket and a collection; empty for all sources.
/// `None` for another setting.
pub(super) fn scope(variable: &str) -> Option<&str> {
    SETTINGS.iter().find_map(|setting| {
        let scope = variable.strip_suffix(setting)?;
        match scope {
            "" => Some(""),
            _ => scope.strip_suffix('_'),
        }
    })
}

/// Whether a variable holds a secret of the signer.
pub fn is_signer_secret(variable: &str) -> bool {
    let is_secret = variable.ends_with(PRIVATE_KEY) || variable.ends_with(HAWK_SECRET);
    variable.starts_with(PREFIX) && is_secret
}

/// The names of a source in variables, in the order in which they are looked up: the narrowest first.
fn names(source: &ObjectUri) -> Vec<String> {
    let bucket = name(source.bucket_id());
    match source.kind() {
        Kind::Collection => vec![format!("{bucket}_{}", name(source.id())), bucket],
        _ => vec![bucket],
    }
}

impl KeysOfSources {
    /// Reads the keys of every source of the resources.
    ///
    /// # Errors
    /// A key that is missing or cannot be used, and a setting for what is no source.
    pub fn from_vars(vars: &Vars, resources: &Resources) -> Result<Self, SettingError> {
        let sources = || resources.0.iter().map(|line| &line.source);
        let buckets: BTreeSet<_> = sources().map(|source| name(source.bucket_id())).collect();
        let mut scopes: BTreeSet<Vec<String>> = sources().map(names).collect();
        let variables = vars.names().filter_map(|variable| {
            let scope = scope(variable.strip_prefix(PREFIX)?)?;
            Some((variable, scope)).filter(|(_, scope)| !scope.is_empty())
        });
        for (variable, scope) in variables {
            // The longest, should one be the beginning of another.
            let of = buckets.iter().rev().find(|bucket| {
                let rest = scope.strip_prefix(&***bucket);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            });
            let Some(bucket) = of else {
                let problem = "is for no source of KINTO_SIGNER_RESOURCES";
                return Err(SettingError::new(variable, problem));
            };
            let mut names = vec![scope.to_owned(), bucket.clone()];
            names.dedup();
            scopes.insert(names);
        }
        let mut keys = BTreeMap::new();
        for names in scopes {
            let settings = Settings {
                vars,
                names: &names,
            };
            keys.insert(names[0].clone(), Arc::new(settings.keys()?));
        }
        Ok(Self(keys))
    }

    /// Those of all sources.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Keys>> {
        self.0.values()
    }

    /// The keys of a source, which is a collection.
    pub fn of(&self, source: &ObjectUri) -> Option<&Arc<Keys>> {
        names(source).iter().find_map(|name| self.0.get(name))
    }
}

/// The settings as a source sees them.
struct Settings<'a> {
    vars: &'a Vars,
    names: &'a [String],
}

impl<'a> Settings<'a> {
    /// The variable with a setting, and its value; where there is none, the variable that holds for all.
    fn find(&self, setting: &str) -> (String, Option<&'a str>) {
        let narrow = self
            .names
            .iter()
            .map(|name| format!("{PREFIX}{name}_{setting}"));
        let all = format!("{PREFIX}{setting}");
        let mut variables = narrow.chain([all.clone()]);
        let found = variables.find_map(|variable| {
            let value = self.vars.text(&variable)?;
            Some((variable, Some(value)))
        });
        found.unwrap_or((all, None))
    }

    fn require(&self, setting: &str) -> Result<(String, &'a str), SettingError> {
        match self.find(setting) {
            (variable, Some(value)) => Ok((variable, value)),
            (variable, None) => Err(SettingError::new(variable, "is required")),
        }
    }

    fn keys(&self) -> Result<Keys, SettingError> {
        let (variable, name) = self.find(BACKEND);
        let (backend, count) = match name {
            Some(KMS) => {
                let ids = self.kms()?;
                (Backend::Kms(ids.clone()), ids.len())
            }
            Some(name) if AUTOGRAPH.contains(&name) => {
                // The service says the chains.
                return Ok(Keys {
                    backend: Backend::Autograph(self.autograph()?),
                    chains: vec![],
                });
            }
            Some(other) if !LOCAL_ECDSA.contains(&other) => {
                let problem = format!(
                    "must be {}, {KMS} or {}: no other is known here",
                    LOCAL_ECDSA[0], AUTOGRAPH[0]
                );
                return Err(SettingError::new(variable, problem));
            }
            _ => {
                let keys = self.local()?;
                let count = keys.len();
                (Backend::LocalEcdsa(keys), count)
            }
        };
        Ok(Keys {
            backend,
            chains: self.chains(count)?,
        })
    }

    /// The PEM texts, or the path of a file with them.
    fn local(&self) -> Result<Vec<Arc<LocalEcdsa>>, SettingError> {
        let (variable, value) = self.require(PRIVATE_KEY)?;
        let problem = |problem: String| SettingError::new(&variable, problem);
        let pem = match value.contains("-----BEGIN") {
            true => Secret::new(value),
            false => Secret::new(
                std::fs::read_to_string(value)
                    .map_err(|error| problem(format!("the file cannot be read ({error})")))?,
            ),
        };
        let keys = LocalEcdsa::all_from_pem(pem.reveal());
        let keys = keys.map_err(|error| problem(error.to_string()))?;
        check_count(&variable, keys.len())?;
        Ok(keys.into_iter().map(Arc::new).collect())
    }

    fn kms(&self) -> Result<Vec<String>, SettingError> {
        let (variable, value) = self.require(KMS_KEY_IDS)?;
        let ids: Vec<_> = value.split_whitespace().map(str::to_owned).collect();
        let is_key = |id: &String| {
            // arn:partition:kms:region:account:key/id
            let parts: Vec<_> = id.splitn(6, ':').collect();
            matches!(*parts, ["arn", _, "kms", _, _, key] if key.starts_with("key/"))
        };
        if !ids.iter().all(is_key) {
            return Err(SettingError::new(variable, "must be ARNs of keys in KMS"));
        }
        check_count(&variable, ids.len())?;
        Ok(ids)
    }

    fn autograph(&self) -> Result<Autograph, SettingError> {
        let (variable, url) = self.require(SERVER_URL)?;
        let server = url.parse().ok().filter(|url: &reqwest::Url| {
            let is_http = ["http", "https"].contains(&url.scheme());
            is_http && url.username().is_empty()
        });
        let server = server.ok_or_else(|| SettingError::new(variable, "must be a URL"))?;
        let (variable, hawk_id) = self.require(HAWK_ID)?;
        if !hawk_id
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"')
        {
            return Err(SettingError::new(
                variable,
                "must be printable ASCII without quotes",
            ));
        }
        let (_, hawk_secret) = self.require(HAWK_SECRET)?;
        let (variable, key_ids) = self.find(AUTOGRAPH_KEY_IDS);
        let key_ids: Vec<_> = key_ids
            .unwrap_or("remote-settings")
            .split_whitespace()
            .collect();
        check_count(&variable, key_ids.len())?;
        let key_ids = key_ids.into_iter().map(str::to_owned).collect();
        let hawk_secret = Secret::new(hawk_secret);
        Ok(Autograph::new(
            server,
            hawk_id.to_owned(),
            hawk_secret,
            key_ids,
        ))
    }

    fn chains(&self, keys: usize) -> Result<Vec<String>, SettingError> {
        let (variable, value) = self.find(X5U);
        let urls: Vec<_> = value.into_iter().flat_map(str::split_whitespace).collect();
        let problem = |problem: &str| Err(SettingError::new(&variable, problem));
        if !urls.is_empty() && urls.len() != keys {
            return problem("must have one URL for each key, in their order");
        }
        let is_url = |url: &&str| url.starts_with("https://") || url.starts_with("http://");
        if !urls.iter().all(is_url) {
            return problem("must be URLs of chains of certificates");
        }
        Ok(urls.into_iter().map(str::to_owned).collect())
    }
}

fn check_count(variable: &str, count: usize) -> Result<(), SettingError> {
    match count {
        1..=MAX_KEYS => Ok(()),
        _ => {
            let problem = format!("must have 1 to {MAX_KEYS} keys");
            Err(SettingError::new(variable, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/1";
    const OTHER: &str = "arn:aws:kms:eu-central-1:123456789012:key/2";
    const LINES: &str = "/buckets/a -> /buckets/b\nc-d/e -> x/y";

    fn read(vars: &[(&str, &str)]) -> Result<KeysOfSources, SettingError> {
        let resources = Resources::parse(LINES).unwrap();
        KeysOfSources::from_vars(&vars.iter().copied().collect(), &resources)
    }

    /// The keys in KMS of a collection, and their chains.
    fn of(keys: &KeysOfSources, bucket: &str, collection: &str) -> (Vec<String>, Vec<String>) {
        let keys = keys.of(&ObjectUri::collection(bucket, collection)).unwrap();
        match &keys.backend {
            Backend::Kms(ids) => (ids.clone(), keys.chains.clone()),
            _ => panic!("{keys:?}"),
        }
    }

    #[test]
    fn each_setting_is_looked_up_for_the_collection_then_the_bucket_then_all() {
        let keys = read(&[
            ("KINTO_SIGNER_SIGNER_BACKEND", "kms"),
            ("KINTO_SIGNER_KMS_KEY_IDS", KEY),
            ("KINTO_SIGNER_A_X5U", "https://chains/a.pem"),
            ("KINTO_SIGNER_A_ONE_KMS_KEY_IDS", OTHER),
            ("KINTO_SIGNER_C_D_E_X5U", "https://chains/e.pem"),
        ])
        .unwrap();
        let both = |id: &str, url: &str| (vec![id.to_owned()], vec![url.to_owned()]);
        assert_eq!(of(&keys, "a", "one"), both(OTHER, "https://chains/a.pem"));
        assert_eq!(of(&keys, "a", "two"), both(KEY, "https://chains/a.pem"));
        assert_eq!(of(&keys, "c-d", "e"), both(KEY, "https://chains/e.pem"));
    }

    #[test]
    fn several_keys_have_a_chain_each_or_none() {
        let both = format!("{KEY} {OTHER}");
        let vars = [
            ("KINTO_SIGNER_SIGNER_BACKEND", "kms"),
            ("KINTO_SIGNER_KMS_KEY_IDS", &both),
        ];
        let (ids, chains) = of(&read(&vars).unwrap(), "a", "c");
        assert_eq!((ids.len(), chains.len()), (2, 0));
        let x5u = |urls| read(&[vars[0], vars[1], ("KINTO_SIGNER_X5U", urls)]);
        let (_, chains) = of(&x5u("https://a\n https://b").unwrap(), "a", "c");
        assert_eq!(chains, ["https://a", "https://b"]);
        assert_eq!(x5u("https://a").unwrap_err().variable, "KINTO_SIGNER_X5U");
        x5u("https://a ftp://b").unwrap_err();
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let kms = ("KINTO_SIGNER_SIGNER_BACKEND", "kms");
        let refused = |vars: &[(&str, &str)]| read(vars).unwrap_err().variable;
        assert_eq!(refused(&[kms]), "KINTO_SIGNER_KMS_KEY_IDS");
        for ids in ["alias/a", "arn:aws:kms:r:1:alias/a", &[KEY; 5].join(" ")] {
            let vars = [kms, ("KINTO_SIGNER_KMS_KEY_IDS", ids)];
            assert_eq!(refused(&vars), "KINTO_SIGNER_KMS_KEY_IDS");
        }
        let of_no_source = ("KINTO_SIGNER_B_KMS_KEY_IDS", KEY);
        let vars = [kms, ("KINTO_SIGNER_KMS_KEY_IDS", KEY), of_no_source];
        assert_eq!(refused(&vars), of_no_source.0);
    }

    #[test]
    fn a_key_for_all_is_not_needed_where_each_source_has_one() {
        let vars = [
            ("KINTO_SIGNER_SIGNER_BACKEND", "kms"),
            ("KINTO_SIGNER_A_KMS_KEY_IDS", KEY),
            ("KINTO_SIGNER_C_D_KMS_KEY_IDS", OTHER),
        ];
        read(&vars).unwrap();
        assert_eq!(
            read(&vars[..2]).unwrap_err().variable,
            "KINTO_SIGNER_KMS_KEY_IDS"
        );
    }
}
