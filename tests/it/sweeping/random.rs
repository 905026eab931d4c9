//! Sweeps at any moment among random writes, deletions and recreations, whose transactions commit item by item.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use kinto_local::{Fault, LocalAws};
use kinto_serverless::timestamp::Timestamp;
use serde_json::{Value, json};
use tests::{BOB, Kinto, TABLE, cases, in_own_thread, now};

use super::{expire, sweep};

const PLUGINS: &str = "kinto.plugins.history kinto.plugins.default_bucket";

/// Whatever is written between any two requests of sweeps: once all that they marked has expired, clients see what they
/// saw before, but for tombstones older than the setting, and what only these tell a snapshot of a moment before them (as in Kinto).
#[test]
fn nobody_sees_that_a_sweep_ran() {
    let seed = std::env::var("SWEEP_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..1 << 32), |seed| seed.parse().unwrap());
    let count = u64::from(cases(3));
    for seed in seed..seed + count {
        println!("SWEEP_SEED={seed} KINTO_TEST_CASES=1");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(play(Rng::with_seed(seed)));
    }
}

async fn play(mut rng: Rng) {
    let kinto = Kinto::with(&[("KINTO_INCLUDES", PLUGINS)]);
    for _ in 0..rng.usize(..30) {
        write(&kinto, &mut rng).await;
    }
    let moment = now();
    for round in 0..2_u64 {
        let kept = rng.bool().then_some(Duration::ZERO);
        let unfinished = interfere(&kinto, rng.fork());
        // The second one comes after a time in which every request has ended.
        let at = Timestamp(now());
        sweep(&kinto, None, at.after(Duration::from_secs(round * 7200))).await;
        kinto.aws.clear_faults();
        finish(&kinto.aws, &unfinished);
        // Who looks may get a default bucket by it, which the second look shows.
        view(&kinto, moment).await;
        let before = view(&kinto, moment).await;
        let at = Timestamp(now());
        sweep(&kinto, kept, at).await;
        assert_eq!(view(&kinto, moment).await, before, "the grace");
        expire(&kinto.aws);
        let after = view(&kinto, moment).await;
        match kept {
            None => assert_eq!(after, before),
            Some(_) => assert_eq!(
                without_tombstones(after, Timestamp(0)),
                without_tombstones(before, at)
            ),
        }
        for _ in 0..rng.usize(..10) {
            write(&kinto, &mut rng).await;
        }
    }
}

/// A write that clients make.
async fn write(kinto: &Kinto, rng: &mut Rng) {
    let bucket = match rng.u8(..4) {
        0 => "/buckets/default".to_owned(),
        n => format!("/buckets/b{}", n % 2),
    };
    let collection = format!("{bucket}/collections/c{}", rng.u8(..2));
    let record = format!("{collection}/records/r{}", rng.u8(..4));
    let group = format!("{bucket}/groups/g{}", rng.u8(..2));
    let readers: Vec<_> = (0..rng.u8(..12))
        .map(|n| format!("basicauth:{n}"))
        .collect();
    let shared = json!({"permissions": {"read": readers}});
    let put = |path: &str| json!({"method": "PUT", "path": path, "body": shared});
    match rng.u8(..16) {
        // All of it in one transaction.
        0..3 => {
            let requests = json!({"requests": [put(&bucket), put(&collection), put(&record)]});
            kinto.post("/batch", requests).await;
        }
        3 => _ = kinto.delete(&bucket).await,
        4..6 => _ = kinto.delete(&collection).await,
        6 => _ = kinto.put(&bucket, json!({})).await,
        7..9 => _ = kinto.put(&collection, shared).await,
        9..12 => _ = kinto.put(&record, shared).await,
        12 => _ = kinto.delete(&record).await,
        13 => _ = kinto.delete(&format!("{collection}/records")).await,
        14 => {
            let members: Vec<_> = (0..rng.u8(..4)).map(|n| format!("basicauth:{n}")).collect();
            let body = json!({"data": {"members": members}});
            kinto.put(&group, body).await;
        }
        _ => _ = kinto.delete(&group).await,
    }
}

/// All that clients see, the history of that moment included.
async fn view(kinto: &Kinto, moment: u64) -> Vec<(String, u16, String, Value)> {
    let mut seen = vec![];
    let mut paths = vec!["/buckets?_since=0".to_owned(), "/permissions".to_owned()];
    for bucket in ["b0", "b1", "default"] {
        let bucket = format!("/buckets/{bucket}");
        let lists = [
            "groups",
            "collections",
            "groups?_since=0",
            "collections?_since=0",
        ];
        paths.extend(lists.map(|list| format!("{bucket}/{list}")));
        paths.push(format!("{bucket}/history"));
        for n in 0..2 {
            let collection = format!("{bucket}/collections/c{n}");
            for path in ["", "/records", "/records?_since=0"] {
                paths.push(format!("{collection}{path}"));
            }
            if bucket != "/buckets/default" {
                paths.push(format!("{collection}/changeset?_expected=0"));
                paths.push(format!("{collection}/changeset?_expected=0&_since=%220%22"));
            }
            paths.push(format!("{bucket}/snapshot/collections/c{n}@{moment}"));
        }
    }
    // Another process, which remembers nothing.
    let fresh = Kinto::over(&kinto.aws, &[("KINTO_INCLUDES", PLUGINS)]);
    for user in [fresh.clone(), fresh.as_user(BOB)] {
        for path in &paths {
            let answer = user.get(path).await;
            let etag = match path.ends_with("/history") || path.contains("/snapshot/") {
                // It moves with the clock.
                true => "",
                false => answer.header("etag"),
            };
            seen.push((path.clone(), answer.status, etag.to_owned(), answer.body));
        }
    }
    seen
}

fn without_tombstones(
    mut view: Vec<(String, u16, String, Value)>,
    before: Timestamp,
) -> Vec<(String, u16, String, Value)> {
    view.retain(|(path, ..)| !path.contains("/snapshot/"));
    for (_, _, _, body) in &mut view {
        for list in ["data", "changes"] {
            if let Some(objects) = body[list].as_array_mut() {
                objects.retain(|it| {
                    it["deleted"] != true || it["last_modified"].as_u64().unwrap() >= before.0
                });
            }
        }
    }
    view
}

/// The items of a transaction that are not committed yet.
type Unfinished = Arc<Mutex<Vec<Value>>>;

/// Lets others write before each of a sweep's requests to the table. Some of their transactions show a part of their items first,
/// the rest after that request.
fn interfere(kinto: &Kinto, rng: Rng) -> Unfinished {
    let unfinished = Unfinished::default();
    let (rival, busy, rng) = (kinto.clone(), AtomicBool::new(false), Mutex::new(rng));
    let left = Arc::clone(&unfinished);
    kinto.aws.inject(move |target, body| {
        let reads = ["GetItem", "GetItems", "Query", "Scan"]
            .iter()
            .any(|read| target.ends_with(read));
        // DynamoDB lets nobody write what an unfinished transaction writes.
        let finish_before_write = || {
            if !reads {
                finish(&rival.aws, &left);
            }
        };
        if busy.swap(true, Ordering::SeqCst) {
            finish_before_write();
            let is_write = target.ends_with("TransactWriteItems");
            let stops = is_write
                && rng
                    .try_lock()
                    .map_or_else(|_| fastrand::bool(), |mut it| it.bool());
            return stops.then(|| commit_a_part(&rival.aws, body, &left));
        }
        let has_part = !left.lock().unwrap().is_empty();
        let fault = (has_part && target.ends_with("TransactGetItems"))
            .then(|| Fault::transaction_canceled(&["TransactionConflict"]));
        let (writes, sees_part) = {
            let mut rng = rng.lock().unwrap();
            (rng.usize(..3), rng.bool())
        };
        if !(has_part && sees_part) {
            finish(&rival.aws, &left);
            let (rival, left) = (rival.clone(), Arc::clone(&left));
            let mut rng = rng.lock().unwrap().fork();
            in_own_thread(async move || {
                for _ in 0..writes {
                    finish(&rival.aws, &left);
                    write(&rival, &mut rng).await;
                }
            });
        }
        finish_before_write();
        busy.store(false, Ordering::SeqCst);
        fault
    });
    unfinished
}

/// Commits some items of a transaction, and says that it is committed.
fn commit_a_part(aws: &LocalAws, body: &[u8], left: &Unfinished) -> Fault {
    let transaction: Value = serde_json::from_slice(body).unwrap();
    // Whether its conditions hold is seen on a copy of what they need: nobody writes meanwhile.
    let mut items = transaction["TransactItems"].as_array().unwrap().clone();
    fastrand::shuffle(&mut items);
    let rest = items.split_off(fastrand::usize(..items.len()));
    for item in &items {
        commit_item(aws, item);
    }
    left.lock().unwrap().extend(rest);
    Fault::Refused {
        status: 200,
        body: "{}".to_owned(),
    }
}

fn commit_item(aws: &LocalAws, item: &Value) {
    let (kind, request) = item.as_object().unwrap().iter().next().unwrap();
    let mut request = request.clone();
    request["TableName"] = TABLE.into();
    let request = request.to_string();
    let done = aws
        .database()
        .execute(&format!("{kind}Item"), request.as_bytes());
    done.unwrap_or_else(|error| panic!("{error}: {request}"));
}

/// Commits what is left of a transaction.
fn finish(aws: &LocalAws, left: &Unfinished) {
    for item in left.lock().unwrap().drain(..) {
        commit_item(aws, &item);
    }
}
