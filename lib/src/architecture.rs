//! Checks the documents against the code: follows every path, function and link that they name.
//!
//! Compiled only for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR"));
    lib.parent().unwrap().to_owned()
}

/// All files below a folder of the repository, as paths from its root.
fn files_below(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|is| is == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents for people.
fn documents() -> Vec<PathBuf> {
    let mut documents = files_below("docs", "md");
    documents.extend(["ARCHITECTURE.md", "README.md"].map(PathBuf::from));
    documents
}

/// The parts of a text between `open` and the next `close`.
fn between<'t>(text: &'t str, open: &'t str, close: char) -> impl Iterator<Item = &'t str> {
    let parts = text.split(open).skip(1);
    parts.filter_map(move |part| part.split_once(close).map(|(inner, _)| inner))
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `path` without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = normal.pop(),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// Returns `true` if Rust code defines the name, the last part of `Type::name`.
fn defines(code: &str, name: &str) -> bool {
    let name = name.rsplit("::").next().unwrap_or_default();
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let kinds = ["fn", "struct", "enum", "trait", "const", "static", "type"];
    kinds.iter().any(|kind| {
        let definition = format!("{kind} {name}");
        let mut rests = code.split(&*definition).skip(1);
        rests.any(is_end)
    })
}

#[test]
fn every_link_leads_somewhere() {
    let code = ["lib", "local", "functions"].into_iter();
    let code = code.flat_map(|folder| files_below(folder, "rs"));
    for document in documents().into_iter().chain(code) {
        let text = read(&document);
        // In code, only the documentation.
        let is_code = document.extension().is_some_and(|is| is == "rs");
        let lines = text.lines();
        let lines = lines.filter(|line| !is_code || line.trim_start().starts_with("//"));
        for link in lines.flat_map(|line| between(line, "](", ')')) {
            let path = link.split('#').next().unwrap_or_default();
            let is_elsewhere = path.contains("://") || path.is_empty() || path.contains("::");
            // A link to code by its name, which rustdoc follows.
            let is_of_rustdoc = is_code && !path.contains('/');
            if is_elsewhere || is_of_rustdoc {
                continue;
            }
            let folder = document.parent().unwrap();
            let target = normal(&folder.join(path));
            let name = document.display();
            assert!(root().join(target).exists(), "{name} links to {link}");
        }
    }
}

#[test]
fn every_path_that_a_document_names_is_there() {
    const FOLDERS: [&str; 7] = [
        "lib/",
        "local/",
        "local-aws/",
        "functions/",
        "tests/",
        "docs/",
        "examples/",
    ];
    for document in documents() {
        let text = read(&document);
        let paths =
            quoted(&text).filter(|text| FOLDERS.iter().any(|folder| text.starts_with(folder)));
        for path in paths.filter(|path| !path.contains([' ', '*', '<', '{', '…'])) {
            let name = document.display();
            assert!(root().join(path).exists(), "{name} names {path}");
        }
    }
}

#[test]
fn every_function_of_the_index_is_where_it_says() {
    /// A reader does not open more.
    const MAX_FILES: usize = 12;
    let text = read("ARCHITECTURE.md");
    let (_, index) = text.split_once("\n## Where to look\n").unwrap();
    let index = index.split("\n## ").next().unwrap();
    let rows: Vec<_> = index.lines().filter(|line| line.contains("](")).collect();
    assert!(rows.len() >= 30, "{} behaviours", rows.len());
    for row in rows {
        let files = row.matches("](").count();
        assert!(files <= MAX_FILES, "more than one behaviour: {row}");
        // `[file](path) `name`, `name`; [file](path) …`
        for place in row.split("](").skip(1) {
            let (path, names) = place.split_once(')').unwrap();
            let names = names.split('[').next().unwrap_or_default();
            let code = read(path);
            let names: Vec<_> = quoted(names).collect();
            assert!(!names.is_empty(), "no function of {path}: {row}");
            for name in names {
                assert!(defines(&code, name), "{path} has no {name}: {row}");
            }
        }
    }
}

#[test]
fn every_decision_names_its_code() {
    for decision in files_below("docs/decisions", "md") {
        let text = read(&decision);
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let name = decision.display();
        assert!(last.starts_with("Code: "), "{name} ends with {last}");
        assert!(
            quoted(last).any(|path| root().join(path).is_file()),
            "{name}"
        );
    }
}

#[test]
fn every_file_of_the_api_is_listed() {
    let list = read("lib/src/api/mod.rs");
    let list: String = list
        .lines()
        .filter(|line| line.starts_with("//!"))
        .collect();
    for file in files_below("lib/src/api", "rs") {
        let file = file.strip_prefix("lib/src/api").unwrap();
        let module = match file.file_name().is_some_and(|name| name == "mod.rs") {
            true => file.parent().unwrap().to_owned(),
            false => file.with_extension(""),
        };
        let parts: Vec<_> = module.iter().map(|part| part.to_string_lossy()).collect();
        let path = parts.join("::");
        let is_listed = list.contains(&format!("[`{path}`]"));
        assert!(
            path.is_empty() || is_listed,
            "api/mod.rs does not list {path}"
        );
    }
}

/// The modules of the library by path, each with its imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let module_of = |file: &Path| {
        let file = file.strip_prefix("lib/src").unwrap().with_extension("");
        let parts: Vec<_> = file
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let parts = match parts.last().is_some_and(|last| last == "mod") {
            true => &parts[..parts.len() - 1],
            false => &parts[..],
        };
        parts.join("::")
    };
    let files: BTreeMap<_, _> = files_below("lib/src", "rs")
        .into_iter()
        .map(|file| (module_of(&file), read(&file)))
        .filter(|(module, _)| module != "lib" && module != "architecture")
        .collect();
    // The longest module that is a prefix of the path.
    let owner = |path: &str| {
        let mut path = path;
        loop {
            if files.contains_key(path) {
                return Some(path.to_owned());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let mut imports = BTreeMap::new();
    for (module, code) in &files {
        let code = code
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        let lines = code.lines().map(str::trim_start);
        let code: String = lines.filter(|line| !line.starts_with("//")).collect();
        let mut named = BTreeSet::new();
        for path in code
            .split("use ")
            .skip(1)
            .filter_map(|rest| rest.split(';').next())
        {
            let (relative, rest) = if let Some(rest) = path.strip_prefix("crate::") {
                (String::new(), rest)
            } else if let Some(rest) = path.strip_prefix("self::") {
                (module.clone(), rest)
            } else if let Some(rest) = path.strip_prefix("super::") {
                (
                    module
                        .rsplit_once("::")
                        .map_or("", |(parent, _)| parent)
                        .to_owned(),
                    rest,
                )
            } else {
                continue;
            };
            for leaf in leaves(rest) {
                let full = match &*relative {
                    "" => leaf,
                    relative => format!("{relative}::{leaf}"),
                };
                named.extend(owner(&full).filter(|owner| owner != module));
            }
        }
        imports.insert(module.clone(), named);
    }
    imports
}

/// The paths that a `use` tree expands to.
fn leaves(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        return vec![
            tree.split(" as ")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned(),
        ];
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut start, mut parts) = (0, 0, vec![]);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(leaves)
        .map(|leaf| format!("{head}{leaf}"))
        .collect()
}

/// Returns `true` if `module` contains `other`, or the reverse: a module and its parts are one thing.
fn is_family(module: &str, other: &str) -> bool {
    let holds = |outer: &str, inner: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.starts_with("::"))
    };
    holds(module, other) || holds(other, module)
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let imports = imports();
    let mut cycles = vec![];
    for (module, named) in &imports {
        for other in named.iter().filter(|other| *other > module) {
            let is_mutual = imports[other].contains(module);
            if is_mutual && !is_family(module, other) {
                cycles.push(format!("{module} <-> {other}"));
            }
        }
    }
    assert!(cycles.is_empty(), "{cycles:#?}");
}
