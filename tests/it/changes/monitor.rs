//! monitor/changes as in kinto-changes, and redirects of an old `_since`.

use super::{MONITOR, monitor};
use serde_json::{Value, json};
use tests::{Kinto, NOBODY, now, put_item};

#[tokio::test]
async fn the_monitors_changeset_is_public_and_has_the_highest_timestamp() {
    let kinto = Kinto::with(&[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")]).as_user(NOBODY);
    let empty = kinto.get(&format!("{MONITOR}/changeset?_expected=1")).await;
    let nothing = json!({"metadata": {}, "timestamp": 0, "changes": []});
    assert_eq!((empty.status, empty.body), (200, nothing));

    monitor(
        &kinto,
        &[
            ("main", "one", 10, false),
            ("main", "two", 30, false),
            ("main", "gone", 40, true),
            ("other", "hidden", 50, false),
        ],
    );
    let all = kinto.get(&format!("{MONITOR}/changeset?_expected=1")).await;
    let listed = kinto.get(&format!("{MONITOR}/records")).await;
    assert_eq!(all.body["timestamp"], 40);
    assert_eq!(all.body["changes"], listed.body["data"]);
    assert_eq!(all.header("etag"), "\"40\"");
    assert_eq!(all.header("last-modified"), listed.header("last-modified"));
    assert_eq!(kinto.aws.requests().total(), 2);

    for (query, expected) in [
        ("_since=10", &["two"][..]),
        ("_since=%2230%22", &[]),
        ("_since=50", &[]),
        ("_limit=1", &["two"]),
        ("bucket=main&collection=one", &["one"]),
        ("bucket=other", &[]),
        ("collection=two&_since=30", &[]),
    ] {
        let changeset = kinto
            .get(&format!("{MONITOR}/changeset?_expected=1&{query}"))
            .await;
        assert_eq!(changeset.body["timestamp"], 40, "{query}");
        let changes = changeset.body["changes"].as_array().unwrap();
        let collections: Vec<_> = changes
            .iter()
            .map(|c| c["collection"].as_str().unwrap())
            .collect();
        assert_eq!(collections, expected, "{query}");
    }
    let known = [("if-none-match", "\"40\"")];
    let path = format!("{MONITOR}/changeset?_expected=1");
    assert_eq!(kinto.send("GET", &path, &known, "").await.status, 304);
    for write in ["POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(kinto.send(write, &path, &[], "").await.error(), (405, 115));
    }
}

#[tokio::test]
async fn filters_and_sorts_by_last_modified_go_by_the_collections_timestamp_and_paging_by_the_position()
 {
    let kinto = Kinto::with(&[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")]).as_user(NOBODY);
    // Seven collections that changed at the same time, and one with an earlier change that the monitor received last.
    let names: Vec<_> = (0..7).map(|n| format!("c{n}")).collect();
    let mut entries: Vec<_> = names
        .iter()
        .map(|name| ("main", &**name, 20, false))
        .collect();
    entries.push(("main", "late", 10, false));
    monitor(&kinto, &entries);

    let listed = async |query: &str| {
        let answer = kinto.get(&format!("{MONITOR}/records?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        assert_eq!(answer.header("etag"), "\"27\"");
        let data = answer.body["data"].as_array().unwrap();
        assert!(data.iter().all(|entry| entry.get("position").is_none()));
        let names = data
            .iter()
            .map(|entry| entry["collection"].as_str().unwrap().to_owned());
        let names: Vec<String> = names.collect();
        let next = answer.header("next-page").split("/v1").nth(1);
        (names, next.map(str::to_owned))
    };
    let newest_first = ["late", "c6", "c5", "c4", "c3", "c2", "c1", "c0"];
    assert_eq!(listed("").await.0, newest_first);
    assert_eq!(listed("_since=25").await.0, ["late", "c6"]);
    assert_eq!(listed("_before=22&_limit=9").await.0, ["c1", "c0"]);
    assert_eq!(listed("last_modified=10").await.0, ["late"]);
    assert_eq!(listed("lt_last_modified=20").await.0, ["late"]);
    assert_eq!(listed("gt_last_modified=10&_since=25").await.0, ["c6"]);
    assert_eq!(
        listed("_sort=last_modified&_limit=2").await.0,
        ["late", "c6"]
    );
    assert_eq!(listed("_fields=collection").await.0, newest_first);
    for unknown in ["position=20", "_sort=position", "_fields=position"] {
        let path = format!("{MONITOR}/records?{unknown}");
        assert_eq!(kinto.get(&path).await.error(), (400, 107), "{unknown}");
    }

    for query in [
        "",
        "&_sort=last_modified",
        "&_sort=-last_modified,bucket",
        "&_since=19",
        "&_fields=collection",
    ] {
        let mut path = format!("{MONITOR}/records?_limit=2{query}");
        let mut all = vec![];
        loop {
            let (names, next) = listed(path.split_once('?').unwrap().1).await;
            all.extend(names);
            let Some(next) = next else { break };
            path = next;
        }
        all.sort_unstable();
        let mut every: Vec<_> = newest_first.map(str::to_owned).to_vec();
        every.sort_unstable();
        assert_eq!(all, every, "{query}");
    }
}

#[tokio::test]
async fn what_a_clock_that_is_ahead_said_is_taken_back() {
    let kinto = Kinto::new().as_user(NOBODY);
    let ahead = now() + 3 * 24 * 60 * 60 * 1000;
    monitor(
        &kinto,
        &[("main", "one", ahead, false), ("main", "two", ahead, false)],
    );
    for path in ["records?", "changeset?_expected=1&"] {
        let all = kinto.get(&format!("{MONITOR}/{path}")).await;
        assert_eq!(all.header("etag"), format!("\"{}\"", ahead + 1));
        for (since, count) in [(ahead + 1, 0), (ahead, 1)] {
            let again = kinto
                .get(&format!("{MONITOR}/{path}_since=%22{since}%22"))
                .await;
            assert_eq!(again.status, 200, "{path}");
            let key = if path.starts_with("records") {
                "data"
            } else {
                "changes"
            };
            assert_eq!(again.body[key].as_array().unwrap().len(), count);
        }
    }
}

#[tokio::test]
async fn a_first_poll_reads_the_state_and_those_entries_alone_that_it_needs_besides() {
    let vars = [("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")];
    let kinto = Kinto::with(&vars);
    for (collection, position, deleted) in [("a", 10, false), ("b", 20, false), ("c", 30, true)] {
        let entry = json!({
            "pk": "#monitor", "sk": format!("/buckets/main/collections/{collection}"), "bucket": "main",
            "collection": collection, "last_modified": position, "collection_timestamp": position, "deleted": deleted,
        });
        put_item(&kinto.aws, &entry);
    }
    let state = |latest: Value| {
        let state = json!({
            "pk": "#monitor", "sk": "#state", "clock": 40, "floor": 30, "latest": latest, "due": {}, "adopted": 0,
        });
        put_item(&kinto.aws, &state);
    };
    let queries = async |path: &str, etag: &str| {
        kinto.aws.requests().take();
        let process = Kinto::over(&kinto.aws, &vars).as_user(NOBODY);
        let answer = process.get(&format!("{MONITOR}/{path}")).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("etag"), etag, "{path}");
        let requests = kinto.aws.requests().take();
        assert_eq!(requests["GetItem"], 1);
        requests.get("Query").copied().unwrap_or_default()
    };
    state(json!({}));
    for path in [
        "records",
        "records?_since=30",
        "records?_since=15&_sort=last_modified",
        "changeset?_expected=1&_since=30",
        "changeset?_expected=1&_since=0",
    ] {
        assert_eq!(queries(path, "\"30\"").await, 1, "{path}");
    }
    // A change that the settings hide does not raise the highest visible position.
    state(json!({"other/hidden": [40, 40]}));
    assert_eq!(queries("records?_since=31", "\"30\"").await, 1);
    // A visible one does.
    state(json!({"main/d": [39, 35], "other/hidden": [40, 40]}));
    assert_eq!(queries("records?_since=30", "\"39\"").await, 0);
    assert_eq!(queries("records?_since=40", "\"39\"").await, 0);
    assert_eq!(queries("records?_since=29", "\"39\"").await, 1);
    assert_eq!(queries("records", "\"39\"").await, 1);
}

#[tokio::test]
async fn the_settings_of_the_monitor_show_at_once() {
    let kinto = Kinto::with(&[]);
    let at = now();
    monitor(
        &kinto,
        &[("main", "one", at, false), ("other", "two", at, false)],
    );
    let shown = async |vars: &[(&str, &str)]| {
        let other = Kinto::over(&kinto.aws, vars);
        let answer = other
            .get(&format!("{MONITOR}/records?_sort=collection"))
            .await;
        let entries = answer.body["data"].as_array().unwrap().clone();
        let capabilities =
            other.get("/").await.body["capabilities"]["changes"]["collections"].clone();
        (entries, capabilities)
    };
    let both = "/buckets/main /buckets/other/collections/two";
    let (entries, collections) =
        shown(&[("KINTO_CHANGES_RESOURCES", both), ("KINTO_HTTP_HOST", "h")]).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["host"], "h");
    assert_eq!(
        collections,
        json!(["/buckets/main", "/buckets/other/collections/two"])
    );
    let (excluded, _) = shown(&[
        ("KINTO_CHANGES_RESOURCES", both),
        (
            "KINTO_CHANGES_EXCLUDED_COLLECTIONS",
            "/buckets/main/collections/one",
        ),
        ("KINTO_HTTP_HOST", "other"),
        // Where redirects lead to, and nothing else.
        ("KINTO_CHANGES_HTTP_HOST", "cdn.example"),
    ])
    .await;
    assert_eq!(excluded.len(), 1);
    assert_eq!(
        (&excluded[0]["collection"], &excluded[0]["host"]),
        (&json!("two"), &json!("other"))
    );
    assert_ne!(excluded[0]["id"], entries[1]["id"]);
}

#[tokio::test]
async fn an_old_since_is_sent_to_the_whole_list() {
    let host = ("KINTO_CHANGES_HTTP_HOST", "cdn.example");
    let kinto = Kinto::with(&[host]).as_user(NOBODY);
    let month_ago = now() - 30 * 24 * 60 * 60 * 1000;
    for (asked, location) in [
        (format!("records?_since={month_ago}"), "records"),
        (
            "records?_since=-1&bucket=main".to_owned(),
            "records?bucket=main",
        ),
        (
            format!("changeset?_expected=a%20b&%5Fsince=%22{month_ago}%22&_limit=2"),
            "changeset?_expected=a%20b&_limit=2",
        ),
    ] {
        let redirect = kinto.get(&format!("{MONITOR}/{asked}")).await;
        assert_eq!(redirect.status, 307, "{asked}");
        let url = format!("https://cdn.example/v1{MONITOR}/{location}");
        assert_eq!(redirect.header("location"), url);
        assert_eq!(redirect.header("cache-control"), "max-age=86400");
        assert_ne!(redirect.header("expires"), "");
    }
    let week_ago = now() - 7 * 24 * 60 * 60 * 1000;
    let recent = format!("{MONITOR}/records?_since={week_ago}");
    assert_eq!(kinto.get(&recent).await.status, 200);
    assert_eq!(
        kinto
            .get(&format!("{MONITOR}/records?_since=abc"))
            .await
            .error(),
        (400, 107)
    );

    let kinto = Kinto::with(&[
        ("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "5"),
        ("KINTO_CHANGES_SINCE_MAX_AGE_REDIRECT_TTL_SECONDS", "-1"),
    ]);
    let redirect = kinto.get(&recent).await;
    let url = format!("/v1{MONITOR}/records");
    assert_eq!((redirect.status, redirect.header("location")), (307, &*url));
    assert_eq!(redirect.header("cache-control"), "no-store");
    let kinto = Kinto::with(&[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")]);
    assert_eq!(
        kinto
            .get(&format!("{MONITOR}/records?_since=1"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn the_successor_differs_in_four_answers() {
    let includes = (
        "KINTO_INCLUDES",
        "kinto_megaphone kinto_remote_settings.changes",
    );
    let (original, successor) = (Kinto::with(&[]), Kinto::with(&[includes]));
    let at = now();
    for kinto in [&original, &successor] {
        monitor(kinto, &[("main", "one", at, false)]);
    }
    let etag = format!("\"{at}\"");
    let both = async |path: &str, headers: &[(&str, &str)]| {
        let path = format!("{MONITOR}/{path}");
        (
            original.send("GET", &path, headers, "").await,
            successor.send("GET", &path, headers, "").await,
        )
    };
    let (a, b) = both("changeset?_expected=1", &[]).await;
    assert_eq!(a.body["metadata"], json!({}));
    assert_eq!(b.body["metadata"], json!({"bucket": "monitor"}));

    // An empty list is only for a client that tells its state by `_since`. For the plain URL a cache would take it for
    // the whole list.
    let known = [("if-none-match", &*etag)];
    for (plain, since) in [
        ("records".to_owned(), format!("records?_since={at}")),
        (
            "changeset?_expected=1".to_owned(),
            format!("changeset?_expected={at}&_since={at}"),
        ),
    ] {
        let (a, b) = both(&plain, &known).await;
        assert_eq!((a.status, b.status, &b.body), (304, 304, &Value::Null));
        let (a, b) = both(&since, &known).await;
        assert_eq!((a.status, b.status), (304, 200), "{since}");
        let changes = b.body.get("data").unwrap_or(&b.body["changes"]);
        assert_eq!((changes, b.header("etag")), (&json!([]), &*etag));
    }

    for path in ["records", "changeset"] {
        let stale = format!("{path}?_since={at}&_expected={}", at - 1);
        let (a, b) = both(&stale, &[]).await;
        assert_eq!((a.status, b.status), (200, 204));
        assert_eq!(b.header("cache-control"), "private, max-age=86400");
        let (_, b) = both(&format!("{path}?_since={at}&_expected=0"), &[]).await;
        assert_eq!(b.status, 200);
    }

    let (a, b) = both("changeset?_expected=%2212%22&bucket=main", &[]).await;
    assert_eq!((a.status, b.status), (200, 307));
    let url = format!("/v1{MONITOR}/changeset?_expected=12&bucket=main");
    assert_eq!(
        (b.header("location"), b.header("cache-control")),
        (&*url, "no-store")
    );
}
