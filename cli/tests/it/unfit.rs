//! What an import names before it writes anything.

use std::path::Path;

use kinto_cli::options::Options;
use kinto_cli::run::run;
use serde_json::{Value, json};

/// A dump of Kinto's tables.
#[derive(Default)]
struct Dump {
    objects: String,
    user_principals: String,
    aces: String,
}

impl Dump {
    fn object(&mut self, parent: &str, kind: &str, id: &str, data: Value) {
        self.text(
            parent,
            kind,
            id,
            "2026-11-26 09:48:12.123",
            &data.to_string(),
        );
    }

    /// With a time and with data that are written as PostgreSQL does.
    fn text(&mut self, parent: &str, kind: &str, id: &str, time: &str, data: &str) {
        let data = data.replace('"', "\"\"");
        self.objects += &format!("\"{id}\",\"{parent}\",{kind},{time},\"{data}\",f\n");
    }

    fn ace(&mut self, object: &str, principal: &str) {
        self.aces += &format!("{object},read,{principal}\n");
    }

    fn member(&mut self, user: &str, group: &str) {
        self.user_principals += &format!("{user},{group}\n");
    }

    fn write(&self, directory: &Path) {
        for (table, columns, rows) in [
            (
                "objects",
                "id,parent_id,resource_name,last_modified,data,deleted",
                &*self.objects,
            ),
            ("timestamps", "parent_id,resource_name,last_modified", ""),
            (
                "access_control_entries",
                "object_id,permission,principal",
                &*self.aces,
            ),
            (
                "user_principals",
                "user_id,principal",
                &*self.user_principals,
            ),
        ] {
            let file = directory.join(format!("{table}.csv"));
            std::fs::write(file, format!("{columns}\n{rows}")).unwrap();
        }
    }
}

/// What a command prints about the table in a directory, and whether it succeeded.
async fn command(directory: &Path, words: &str) -> (bool, String) {
    let path = |name: &str| directory.join(name).into_os_string();
    let mut arguments: Vec<_> = words.split(' ').map(Into::into).collect();
    if let Some(dump) = arguments.iter().position(|word| word == "DUMP") {
        arguments[dump] = directory.into();
    }
    arguments.extend(["--data".into(), path("table.db")]);
    let options = Options::parse(arguments).unwrap().unwrap();
    let mut out = vec![];
    let done = run(options, &mut out).await.unwrap();
    (done, String::from_utf8(out).unwrap())
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test]
async fn an_import_names_what_does_not_fit_or_has_no_home_and_writes_nothing() {
    let mut dump = Dump::default();
    let (bucket, collection) = ("/buckets/b", "/buckets/b/collections/c");
    dump.object("", "bucket", "b", json!({}));
    dump.object(bucket, "collection", "c", json!({}));
    dump.object(collection, "record", "fits", json!({"nested": nested(98)}));
    dump.object(collection, "record", &"x".repeat(256), json!({}));
    dump.object(collection, "record", "deep", json!({"nested": nested(101)}));
    dump.object(
        collection,
        "record",
        "large",
        json!({"text": "x".repeat(400 * 1024)}),
    );
    let long = "m".repeat(1025);
    dump.object(bucket, "group", "long", json!({"members": [long]}));
    for number in 0..70 {
        let id = format!("{number:0250}");
        dump.object(bucket, "group", &id, json!({"members": ["everywhere"]}));
        dump.member("everywhere", &format!("{bucket}/groups/{id}"));
    }
    dump.object(bucket, "group", "g", json!({"members": ["listed"]}));
    dump.member("once-listed", "/buckets/b/groups/g");
    dump.object("/buckets/gone", "collection", "c", json!({}));
    dump.object("/buckets/b/collections/gone", "record", "r", json!({}));
    dump.object(
        "/buckets/gone",
        "history",
        "entry",
        json!({"uri": "/buckets/gone"}),
    );
    let before = "1969-12-31 23:59:59.995";
    dump.text(collection, "record", "early", before, "{}");
    dump.object(collection, "record", "line\n", json!({}));
    // Bytes count, not letters.
    let letters = 350 * 1024;
    dump.object(
        collection,
        "record",
        "granted",
        json!({"text": "x".repeat(letters)}),
    );
    let uri = format!("{collection}/records/granted");
    for number in 0..30 {
        dump.ace(&uri, &format!("{number}{}", "é".repeat(900)));
    }
    // PostgreSQL's text of it is larger than the item.
    let many = vec!["1"; 150 * 1024].join(", ");
    let many = format!("{{\"many\": [{many}]}}");
    dump.text(
        collection,
        "record",
        "many",
        "2026-11-26 09:48:12.124",
        &many,
    );
    // What tells of such objects.
    let uri = format!("{collection}/records/deep");
    for deep in [110, 200] {
        let target = json!({"data": {"nested": nested(deep)}});
        let data = json!({"uri": uri, "target": target});
        dump.object(bucket, "history", &format!("deep-{deep}"), data);
    }
    let target = json!({"data": {"last_modified": -5}});
    let data = json!({"uri": format!("{collection}/records/early"), "target": target});
    dump.object(bucket, "history", "early", data);
    dump.object("__attachments__", "attachments", "link", json!({}));
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    dump.write(directory);

    let named = [
        "does not fit: an invalid id: 2, e.g. /buckets/b/collections/c/records/",
        "/records/line\u{fffd}",
        "does not fit: a time before 1970: 1, e.g. /buckets/b/collections/c/records/early",
        "does not fit: not an entry of a history, or one that is too deep: 1, e.g. /buckets/b/history/deep-200",
        "does not fit: an entry of a history that is too deep: 1, e.g. /buckets/b/history/deep-110",
        "does not fit: data that are too deep: 1, e.g. /buckets/b/collections/c/records/deep",
        "does not fit: more than 400 KB: 2, e.g. /buckets/b/collections/c/records/large, /buckets/b/collections/c/records/granted",
        "does not fit: a member of more than 1,024 bytes: 1, e.g. /buckets/b/groups/long",
        "does not fit: in too many groups of a bucket: 1, e.g. /buckets/b everywhere",
        "no parent: collection: 1, e.g. /buckets/gone c",
        "no parent: record: 1, e.g. /buckets/b/collections/gone r",
        "no parent: entry of a history: 1, e.g. /buckets/gone/history entry",
        "no home: attachments: 1, e.g. __attachments__ link",
        "loses a group that does not list them: 1, e.g. /buckets/b/groups/g once-listed",
        "gains a group that lists them: 1, e.g. /buckets/b/groups/g listed",
    ];
    for import in [
        "import --from-dump DUMP --dry-run",
        "import --from-dump DUMP",
    ] {
        let (_, said) = command(directory, import).await;
        for line in named {
            assert!(said.contains(line), "{import} does not say {line}:\n{said}");
        }
        let file = directory.join("empty.ndjson");
        let (_, exported) = command(directory, &format!("export {}", file.display())).await;
        assert_eq!(exported, "0 objects and tombstones\n", "{import}");
    }
    assert!(!command(directory, "import --from-dump DUMP").await.0);

    let (done, said) = command(directory, "import --from-dump DUMP --leave-out").await;
    assert!(done && !said.contains(" 0 items written"), "{said}");
    let (_, again) = command(directory, "import --from-dump DUMP --leave-out").await;
    assert!(again.contains(" 0 items written"), "{again}");
    assert!(command(directory, "verify --from-dump DUMP").await.0);
    let file = directory.join("all.ndjson");
    command(directory, &format!("export {}", file.display())).await;
    let exported = std::fs::read_to_string(file).unwrap();
    for kept in ["/records/fits", "/records/many", "\"id\":\"early\""] {
        assert!(exported.contains(kept), "{kept} is gone");
    }
}
