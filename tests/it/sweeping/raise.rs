//! `kinto-serverless raise-timestamps`: after a restore clients with later entity tags hear of everything.

use std::sync::atomic::{AtomicU32, Ordering};

use kinto_cli::maintenance::raise::{RaiseError, Raised, raise};
use kinto_cli::progress::Progress;
use kinto_local::Fault;
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{COLLECTION, Kinto, RECORDS, clock_passes, execute, ids, now, record};

use super::{aggregator, fill, store};

async fn raised(kinto: &Kinto) -> Result<Raised, RaiseError> {
    raise(&store(kinto), None, Timestamp::now(), &Progress::reading()).await
}

/// Ids and times of a list, the latest first.
async fn times(kinto: &Kinto, path: &str) -> Vec<(String, u64)> {
    let list = kinto.get(path).await;
    assert_eq!(list.status, 200, "{list:?}");
    let objects = list.body["data"].as_array().unwrap().iter();
    let time = |it: &Value| {
        let id = it["id"].as_str().unwrap().to_owned();
        (id, it["last_modified"].as_u64().unwrap())
    };
    objects.map(time).collect()
}

#[tokio::test]
async fn a_client_with_later_etags_hears_of_all_that_exists() {
    let kinto = Kinto::with(&[("KINTO_CHANGES_SINCE_MAX_AGE_DAYS", "-1")]);
    fill(&kinto).await;
    kinto.put("/buckets/main/collections/two", json!({})).await;
    for n in 3..40 {
        kinto.put(&record(&format!("r{n}")), json!({})).await;
    }
    aggregator(&kinto).rebuild_monitor().await.unwrap();
    let lists = [
        "/buckets",
        "/buckets/main/groups",
        "/buckets/main/collections",
        RECORDS,
    ];
    let mut before = vec![];
    for list in lists {
        before.push(times(&kinto, &format!("{list}?_since=0")).await);
    }
    // What clients know of a time that the table does not have any more.
    let known = now() + 1;
    clock_passes(known).await;
    for list in lists {
        let list = kinto.get(&format!("{list}?_since={known}")).await;
        assert!(ids(&list).is_empty());
    }

    let told = raised(&kinto).await.unwrap();
    assert_eq!(told.done_before, 0);
    let objects: usize = before.iter().map(Vec::len).sum();
    assert_eq!(told.objects, objects as u64);
    for (list, before) in lists.into_iter().zip(before) {
        let after = times(&kinto, &format!("{list}?_since={known}")).await;
        let order = |times: &[(String, u64)]| {
            let ids = times.iter().map(|(id, _)| id.clone());
            ids.collect::<Vec<_>>()
        };
        assert_eq!(order(&after), order(&before), "{list}");
        let etag = kinto.get(list).await.header("etag").to_owned();
        let etag: u64 = etag.trim_matches('"').parse().unwrap();
        assert!(after.iter().all(|(_, time)| *time < etag), "{list}");
    }
    let changeset = format!("{COLLECTION}/changeset?_expected=0&_since=%22{known}%22");
    let changes = kinto.get(&changeset).await;
    assert_eq!(changes.body["changes"].as_array().unwrap().len(), 39);
    aggregator(&kinto).rebuild_monitor().await.unwrap();
    let monitor = "/buckets/monitor/collections/changes/records";
    let entries = kinto.get(&format!("{monitor}?_since=%22{known}%22")).await;
    assert_eq!(ids(&entries).len(), 2);
    // Who may read still may, and who writes goes on.
    let shared = kinto.get(&record("r1")).await;
    assert_eq!(
        shared.body["permissions"]["read"].as_array().unwrap().len(),
        12
    );
    assert_eq!(kinto.put(&record("r1"), json!({})).await.status, 200);
    assert_eq!(times(&kinto, RECORDS).await[0].0, "r1");
}

#[tokio::test]
async fn one_that_was_interrupted_goes_on() {
    let kinto = Kinto::new();
    fill(&kinto).await;
    for n in 3..60 {
        kinto.put(&record(&format!("r{n}")), json!({})).await;
    }
    let all = format!("{RECORDS}?_since=0");
    let before = times(&kinto, &all).await;
    let mut objects = 0;
    let mut attempts = 0;
    // Each ends after so many more updates.
    let told = loop {
        attempts += 1;
        let left = AtomicU32::new(17);
        kinto.aws.inject(move |target, _| {
            let fails = target.ends_with("UpdateItem")
                && left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_err();
            fails.then(|| Fault::error("AccessDeniedException"))
        });
        if let Ok(told) = raised(&kinto).await {
            break told;
        }
        objects += 1;
    };
    kinto.aws.clear_faults();
    assert!(attempts > 3 && objects > 2, "{attempts}");
    assert!(told.done_before > 0, "{told:?}");
    let after = times(&kinto, &all).await;
    let begun = before[0].1;
    assert!(after.iter().all(|(_, time)| *time > begun));
    let order = |times: &[(String, u64)]| {
        let mut ids: Vec<_> = times.iter().map(|(id, _)| id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(order(&after), order(&before));
    let distinct: std::collections::BTreeSet<_> = after.iter().map(|(_, time)| time).collect();
    assert_eq!(distinct.len(), after.len());
    // Each got one new time: they are one after the other.
    let (last, first) = (after[0].1, after[after.len() - 1].1);
    assert!(last - first < 2 * after.len() as u64, "{first} {last}");
    // Another one raises all of it again.
    let told = raised(&kinto).await.unwrap();
    assert_eq!(told.done_before, 0);
    assert!(
        times(&kinto, &all)
            .await
            .iter()
            .all(|(_, time)| *time > last)
    );
}

#[tokio::test]
async fn signatures_of_what_was_raised_are_taken_back() {
    let kinto = Kinto::new();
    fill(&kinto).await;
    let key = json!({"pk": {"S": format!("{COLLECTION}#record")}, "sk": {"S": "#timestamp"}});
    let sign = json!({
        "Key": key, "UpdateExpression": "SET signatures = :some",
        "ExpressionAttributeValues": {":some": {"S": "[]"}},
    });
    execute(&kinto.aws, "UpdateItem", sign);
    let told = raised(&kinto).await.unwrap();
    let signed: Vec<_> = told
        .signed
        .iter()
        .filter_map(|list| list.parent())
        .collect();
    assert_eq!(signed.len(), 1);
    assert_eq!(signed[0].to_string(), COLLECTION);
    let item = execute(&kinto.aws, "GetItem", json!({"Key": key}));
    assert!(item["Item"].get("signatures").is_none());
}
