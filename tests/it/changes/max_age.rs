//! The max-age of changesets, monitor/changes and records.

use super::{CHANGESET, MONITOR, monitor, put};
use serde_json::{Value, json};
use tests::{COLLECTION, Kinto, NOBODY, now};

#[tokio::test]
async fn what_is_set_for_a_bucket_reaches_changesets_in_kinto_changes_successor() {
    let kinto = Kinto::with(&[
        ("KINTO_INCLUDES", "kinto_remote_settings"),
        ("KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS", "10"),
    ]);
    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.put("/buckets/main", public).await;
    kinto.put(COLLECTION, json!({})).await;
    let changeset = format!("{CHANGESET}?_expected=1");
    let answer = kinto.as_user(NOBODY).get(&changeset).await;
    assert_eq!(answer.header("cache-control"), "max-age=10");
}

#[tokio::test]
async fn changes_are_kept_for_as_long_as_the_settings_say() {
    let kinto = Kinto::with(&[
        ("KINTO_MONITOR_CHANGES_RECORD_CACHE_EXPIRES_SECONDS", "60"),
        (
            "KINTO_MONITOR_CHANGES_RECORD_CACHE_MAXIMUM_EXPIRES_SECONDS",
            "3600",
        ),
        (
            "KINTO_MONITOR_CHANGES_RECORD_CACHE_MINIMUM_EXPIRES_SECONDS",
            "5",
        ),
        ("KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS", "10"),
    ]);
    let at = now();
    monitor(&kinto, &[("main", "one", at, false)]);
    let anonymous = kinto.as_user(NOBODY);
    for (path, seconds) in [
        ("records".to_owned(), 60),
        ("records?bucket=main".to_owned(), 60),
        ("records?_expected=0".to_owned(), 5),
        ("changeset?_expected=0".to_owned(), 5),
        ("changeset?_expected=9999123".to_owned(), 5),
        ("changeset?_expected=abc".to_owned(), 5),
        // This very state never changes; a request for an earlier one gets a newer one, for a future one an older one.
        (format!("records?_expected={at}"), 3600),
        (format!("changeset?_expected={at}"), 3600),
        (format!("changeset?_expected=%22{at}%22"), 3600),
        (format!("changeset?_expected=W/%22{at}%22"), 3600),
        (format!("changeset?_expected={}", at - 1), 5),
        (format!("changeset?_expected={}", at + 1), 5),
    ] {
        let path = format!("{MONITOR}/{path}");
        let own = kinto.get(&path).await;
        assert_eq!(own.header("cache-control"), "no-cache, no-store", "{path}");
        assert_eq!(own.header("expires"), "");
        let answer = anonymous.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        let vary = answer.header("vary");
        assert_eq!(vary, "authorization, accept-encoding", "{path}");
        assert_eq!(
            answer.header("cache-control"),
            format!("max-age={seconds}"),
            "{path}"
        );
        let expires = httpdate::parse_http_date(answer.header("expires")).unwrap();
        let left = expires
            .duration_since(std::time::SystemTime::now())
            .unwrap_or_default();
        assert!(left.as_secs().abs_diff(seconds) <= 2, "{path}: {left:?}");
    }
    let unset = Kinto::with(&[]).as_user(NOBODY);
    let uncached = unset.get(&format!("{MONITOR}/records")).await;
    assert_eq!(uncached.header("cache-control"), "no-cache, no-store");

    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.put("/buckets/main", public).await;
    kinto.put(COLLECTION, json!({})).await;
    let path = format!("{CHANGESET}?_expected=1");
    let own = kinto.get(&path).await;
    assert_eq!(own.header("cache-control"), "no-cache, no-store");
    let answer = anonymous.get(&path).await;
    assert_eq!(answer.header("cache-control"), "no-cache, no-store");
    let records = anonymous.get(&format!("{COLLECTION}/records")).await;
    assert_eq!(records.header("cache-control"), "max-age=10");

    // Where anonymous users may write, they must see what they wrote.
    let open =
        json!({"permissions": {"read": ["system.Everyone"], "record:create": ["system.Everyone"]}});
    kinto.put(COLLECTION, open).await;
    for path in [path, format!("{COLLECTION}/records")] {
        let answer = anonymous.get(&path).await;
        assert_eq!(answer.header("cache-control"), "no-cache, no-store");
    }
}

#[tokio::test]
async fn one_setting_says_how_long_all_is_kept_that_has_no_setting_of_its_own() {
    let kinto = Kinto::with(&[
        ("KINTO_CACHE_EXPIRES_SECONDS", "60"),
        ("KINTO_COLLECTION_CACHE_EXPIRES_SECONDS", "0"),
        ("KINTO_MAIN_TWO_RECORD_CACHE_EXPIRES_SECONDS", "7"),
    ]);
    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    kinto.put("/buckets/main", public).await;
    kinto.put(COLLECTION, json!({})).await;
    kinto.put("/buckets/main/collections/two", json!({})).await;
    let at = put(&kinto, "a", json!({})).await;
    let anonymous = kinto.as_user(NOBODY);
    for (path, lifetime) in [
        (format!("{MONITOR}/records"), "max-age=60"),
        (format!("{MONITOR}/changeset?_expected=0"), "max-age=60"),
        ("/buckets/main".to_owned(), "max-age=60"),
        ("/buckets/main/groups".to_owned(), "max-age=60"),
        (COLLECTION.to_owned(), "no-cache, no-store"),
        (format!("{COLLECTION}/records"), "max-age=60"),
        (format!("{COLLECTION}/records/a"), "max-age=60"),
        (format!("{CHANGESET}?_expected=0"), "max-age=60"),
        (format!("{CHANGESET}?_expected={at}"), "max-age=600"),
        (
            "/buckets/main/collections/two/records".to_owned(),
            "max-age=7",
        ),
        ("/".to_owned(), "no-store"),
    ] {
        let answer = anonymous.get(&path).await;
        assert_eq!(answer.header("cache-control"), lifetime, "{path}");
    }
}

#[tokio::test]
async fn records_are_kept_by_anonymous_users_for_as_long_as_is_set() {
    let public = json!({"permissions": {"read": ["system.Everyone"]}});
    let of = async |vars: &[(&str, &str)], collection: Value| {
        let kinto = Kinto::with(vars);
        kinto.put("/buckets/main", public.clone()).await;
        kinto.put(COLLECTION, json!({"data": collection})).await;
        put(&kinto, "a", json!({})).await;
        let record = format!("{COLLECTION}/records/a");
        assert_eq!(
            kinto.get(&record).await.header("cache-control"),
            "no-cache, no-store"
        );
        let anonymous = kinto.as_user(NOBODY);
        let listed = anonymous.get(&format!("{COLLECTION}/records")).await;
        let answer = anonymous.get(&record).await;
        assert_eq!(
            listed.header("cache-control"),
            answer.header("cache-control")
        );
        assert_eq!(
            listed.header("expires").is_empty(),
            answer.header("expires").is_empty()
        );
        let bucket = anonymous.get("/buckets/main").await;
        (
            answer.header("cache-control").to_owned(),
            bucket.header("cache-control").to_owned(),
        )
    };
    let none = || "no-cache, no-store".to_owned();
    let kept = |seconds: u32| format!("max-age={seconds}");
    let all = ("KINTO_RECORD_CACHE_EXPIRES_SECONDS", "10");
    assert_eq!(of(&[], json!({})).await, (none(), none()));
    assert_eq!(of(&[all], json!({})).await, (kept(10), none()));
    assert_eq!(
        of(&[all], json!({"cache_expires": 5})).await,
        (kept(10), none())
    );
    assert_eq!(
        of(&[], json!({"cache_expires": 5})).await,
        (kept(5), none())
    );
    let bucket = ("KINTO_MAIN_RECORD_CACHE_EXPIRES_SECONDS", "20");
    assert_eq!(of(&[all, bucket], json!({})).await, (kept(20), none()));
    let one = ("KINTO_MAIN_ONE_RECORD_CACHE_EXPIRES_SECONDS", "0");
    let (never, _) = of(&[all, bucket, one], json!({})).await;
    assert!(never.starts_with("max-age=0, must-revalidate"), "{never}");
    let buckets = ("KINTO_BUCKET_CACHE_EXPIRES_SECONDS", "7");
    assert_eq!(of(&[buckets], json!({})).await, (none(), kept(7)));
}
