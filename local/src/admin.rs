//! Kinto Admin in the local stack: on by default if a build of it is found.

use std::path::{Path, PathBuf};

use kinto_serverless::settings::Vars;

const PATH: &str = "KINTO_ADMIN_ASSETS_PATH";
const INCLUDES: &str = "KINTO_INCLUDES";

/// Sets the path of the build found below `directories`, in a clone or in the folder of a release.
///
/// The settings may set another. If neither a `kinto.ini` nor a variable sets `includes`, includes Kinto Admin.
pub fn set_defaults(vars: &mut Vars, directories: &[PathBuf]) {
    if let Some(build) = find(directories) {
        vars.set_default(PATH, build);
    }
    if vars.get(PATH).is_some() && !vars.has_file() {
        vars.set_default(INCLUDES, "kinto.plugins.admin");
    }
}

/// The directories that may contain a build: the working directory's, and those beside the program.
pub fn directories() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let beside = program
        .as_deref()
        .and_then(Path::parent)
        .map(Path::to_owned);
    [Some(PathBuf::new()), beside]
        .into_iter()
        .flatten()
        .collect()
}

fn find(directories: &[PathBuf]) -> Option<String> {
    let places = directories
        .iter()
        .flat_map(|directory| [directory.join("admin/opt/admin"), directory.join("admin")]);
    let mut builds = places.filter(|place| place.join("index.html").is_file());
    builds.next()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_is_found_is_served_unless_the_settings_say_otherwise() {
        let place = std::env::temp_dir().join(format!("kinto-admin-{}", std::process::id()));
        let build = place.join("admin");
        std::fs::create_dir_all(&build).unwrap();
        std::fs::write(build.join("index.html"), "").unwrap();
        let directories = [place.clone()];

        let mut vars = Vars::default();
        set_defaults(&mut vars, &directories);
        assert_eq!(vars.get(PATH), build.to_str());
        assert_eq!(vars.get(INCLUDES), Some("kinto.plugins.admin"));

        let mut vars = Vars::from_iter([(INCLUDES, ""), (PATH, "/other")]);
        set_defaults(&mut vars, &directories);
        assert_eq!(
            (vars.get(INCLUDES), vars.get(PATH)),
            (Some(""), Some("/other"))
        );

        let mut vars = Vars::default();
        set_defaults(&mut vars, &[place.join("elsewhere")]);
        assert_eq!((vars.get(INCLUDES), vars.get(PATH)), (None, None));
        std::fs::remove_dir_all(place).unwrap();
    }
}
