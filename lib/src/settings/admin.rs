//! `kinto.plugins.admin`: the build of Kinto Admin to serve.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{SettingError, Vars};

/// The directory of a Lambda layer with the build (template.yaml).
const LAYER: &str = "/opt/admin";
/// The build of Kinto Admin 6.2 has five files.
const MAX_FILES: usize = 1000;
const MAX_DEPTH: usize = 8;

/// A directory has no build of Kinto Admin that can be served.
#[derive(Debug, thiserror::Error)]
enum AssetsError {
    #[error("there is no {0}")]
    Missing(&'static str),
    #[error("VERSION cannot be read ({0})")]
    Version(#[source] io::Error),
    #[error("the files cannot be listed ({0})")]
    Unlisted(#[source] io::Error),
    #[error("directories are more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("there are more than {MAX_FILES} files")]
    TooMany,
}

/// The files of a build, found once at start: a request can name one of these and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminAssets {
    version: String,
    files: Arc<BTreeMap<String, PathBuf>>,
}

impl AdminAssets {
    /// Finds the build in the directory `KINTO_ADMIN_ASSETS_PATH`, or else in that of a layer.
    ///
    /// Without a layer the page is missing and a warning is logged; a Kinto whose package has no build starts too. A
    /// `kinto.ini` that includes the plugin is no reason to refuse to serve the API.
    ///
    /// # Errors
    /// The named directory has no build: no `VERSION` and `index.html`.
    pub(super) fn from_vars(vars: &Vars) -> Result<Option<Self>, SettingError> {
        let variable = "KINTO_ADMIN_ASSETS_PATH";
        let named = vars.text(variable);
        let directory = named.unwrap_or(LAYER);
        match Self::find(Path::new(directory)) {
            Ok(assets) => Ok(Some(assets)),
            Err(problem) => {
                let problem = format!(
                    "{problem} in {directory}; admin/fetch brings in a build of Kinto Admin"
                );
                if named.is_some() {
                    return Err(SettingError::new(variable, problem));
                }
                tracing::warn!("there is no admin page, only `/permissions`: {problem}");
                Ok(None)
            }
        }
    }

    fn find(directory: &Path) -> Result<Self, AssetsError> {
        let mut files = BTreeMap::new();
        walk(directory, "", 0, &mut files)?;
        let version = files
            .get("VERSION")
            .ok_or(AssetsError::Missing("VERSION"))?;
        let version = std::fs::read_to_string(version).map_err(AssetsError::Version)?;
        if !files.contains_key("index.html") {
            return Err(AssetsError::Missing("index.html"));
        }
        Ok(Self {
            version: version.trim().to_owned(),
            files: files.into(),
        })
    }

    /// The version of Kinto Admin.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The file at a path below the build's directory; `None` if there is none.
    pub fn file(&self, path: &str) -> Option<&Path> {
        self.files.get(path).map(PathBuf::as_path)
    }
}

/// Adds the files below `directory` under their paths with `/`. Skips symbolic links, which may lead elsewhere.
fn walk(
    directory: &Path,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), AssetsError> {
    if depth == MAX_DEPTH {
        return Err(AssetsError::TooDeep);
    }
    for entry in std::fs::read_dir(directory).map_err(AssetsError::Unlisted)? {
        let entry = entry.map_err(AssetsError::Unlisted)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(AssetsError::Unlisted)?;
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), depth + 1, files)?;
        } else if kind.is_file() {
            if files.len() == MAX_FILES {
                return Err(AssetsError::TooMany);
            }
            files.insert(path, entry.path());
        }
    }
    Ok(())
}
