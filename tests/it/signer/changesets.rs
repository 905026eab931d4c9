//! The signature covers what is shown, at every moment: whatever is published while it is read, and wherever who publishes
//! is killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kinto_local::Fault;
use proptest::prelude::*;
use serde_json::{Value, json};
use tests::{Kinto, batch, cases, in_own_thread};

use super::settling::list_attribute;
use super::{
    DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW, WITHOUT_PREVIEW, prepared,
};

/// Records by id.
type State = BTreeMap<String, u64>;

/// Records that are written, or deleted.
type Edits = Vec<(u8, bool)>;

/// What somebody does while others read.
#[derive(Clone, Debug)]
enum Act {
    /// Edits, and publishes; killed after so many requests to the table, if at all.
    Publish(Edits, Option<u64>),
    /// Signs again.
    Resign,
}

/// How what is published is read.
#[derive(Clone, Copy, Debug)]
enum Read {
    /// The whole changeset.
    Changeset,
    /// What changed since the client last read it.
    Since,
    /// The list of records.
    List,
    /// Each single record.
    Records,
}

/// A server, what was ever to be published, and who publishes.
struct World {
    signer: Signer,
    rival: Kinto,
    states: Mutex<Vec<State>>,
    /// The first of the states that may still be shown.
    first: AtomicU64,
    n: AtomicU64,
    /// How many requests to the table the rival has left; none when it is negative.
    life: Arc<Mutex<Option<u64>>>,
}

impl World {
    async fn new() -> Arc<Self> {
        let signer = Signer::with(WITHOUT_PREVIEW, "false").await;
        let rival = signer.restarted(WITHOUT_PREVIEW, "false");
        Arc::new(Self {
            signer,
            rival,
            states: Mutex::new(vec![State::new()]),
            first: AtomicU64::new(0),
            n: AtomicU64::new(0),
            life: Arc::default(),
        })
    }

    async fn act(&self, act: &Act) {
        match act {
            Act::Resign => {
                let body = json!({"data": {"status": "to-resign"}});
                self.rival.patch(SOURCE, body).await.expect(200);
            }
            Act::Publish(edits, life) => {
                let mut state = self.edit(edits).await;
                state.retain(|_, n| *n > 0);
                self.states.lock().unwrap().push(state);
                let last = self.states.lock().unwrap().len() - 1;
                *self.life.lock().unwrap() = *life;
                let body = json!({"data": {"status": "to-sign"}});
                let answer = self.rival.patch(SOURCE, body).await;
                *self.life.lock().unwrap() = None;
                if answer.status == 200 {
                    self.first.store(last as u64, Ordering::SeqCst);
                }
            }
        }
    }

    /// Writes records of the source, and tells what they are then.
    async fn edit(&self, edits: &Edits) -> State {
        let listed = self.rival.get(&format!("{SOURCE}/records")).await;
        let mut state = State::new();
        for record in listed.body["data"].as_array().unwrap() {
            let id = record["id"].as_str().unwrap().to_owned();
            state.insert(id, record["n"].as_u64().unwrap());
        }
        let mut requests = vec![];
        // One that is there in any case, so that something is new.
        for (record, is_deleted) in edits.iter().chain(&[(99, false)]) {
            let n = self.n.fetch_add(1, Ordering::SeqCst) + 1;
            let id = format!("r{record}");
            let path = format!("{SOURCE}/records/{id}");
            if *is_deleted {
                if state.remove(&id).is_some() {
                    requests.push(json!({"method": "DELETE", "path": path}));
                }
            } else {
                let body = json!({"data": {"n": n}});
                requests.push(json!({"method": "PUT", "path": path, "body": body}));
                state.insert(id, n);
            }
        }
        batch(&self.rival, requests).await.expect(200);
        state
    }

    /// Panics unless the records are one of the states that may be shown since `first`.
    fn check(&self, first: u64, records: &[Value], what: Read) {
        let shown: State = records
            .iter()
            .map(|record| {
                let id = record["id"].as_str().unwrap().to_owned();
                (id, record["n"].as_u64().unwrap())
            })
            .collect();
        let states = self.states.lock().unwrap();
        let first = usize::try_from(first).unwrap();
        let is_one = states[first..].contains(&shown);
        assert!(
            is_one,
            "{what:?} shows {shown:?}, none of {:?}",
            &states[first..]
        );
    }

    /// Reads what is published as a client that remembers what it read.
    async fn read(&self, kinto: &Kinto, read: Read, client: &mut Option<Value>) {
        let first = self.first.load(Ordering::SeqCst);
        match read {
            Read::Changeset => {
                let path = format!("{DESTINATION}/changeset?_expected=0");
                let changeset = kinto.get(&path).await.expect(200);
                self.signer.check(&changeset);
                self.check(first, changeset["changes"].as_array().unwrap(), read);
                *client = Some(changeset);
            }
            Read::Since => {
                let Some(known) = client else {
                    return;
                };
                let since = &known["timestamp"];
                let path = format!("{DESTINATION}/changeset?_expected=0&_since={since}");
                let mut changeset = kinto.get(&path).await.expect(200);
                let mut records = known["changes"].as_array().unwrap().clone();
                let changes = changeset["changes"].as_array().unwrap();
                records.retain(|record| changes.iter().all(|it| it["id"] != record["id"]));
                records.extend(changes.iter().filter(|it| it["deleted"] != true).cloned());
                changeset["changes"] = json!(records);
                self.signer.check(&changeset);
                self.check(first, &records, read);
                *client = Some(changeset);
            }
            Read::List => {
                let listed = kinto.get(&format!("{DESTINATION}/records")).await;
                let listed = listed.expect(200);
                self.check_list(first, listed["data"].as_array().unwrap());
            }
            Read::Records => {
                let path = format!("{DESTINATION}/records/r99");
                let answer = kinto.get(&path).await;
                let n = (answer.status == 200).then(|| answer.body["data"]["n"].as_u64().unwrap());
                let states = self.states.lock().unwrap();
                let first = usize::try_from(first).unwrap();
                let ns: Vec<_> = states[first..]
                    .iter()
                    .map(|it| it.get("r99").copied())
                    .collect();
                assert!(ns.contains(&n), "{n:?} is none of {ns:?}");
            }
        }
    }

    /// A list may show more than its timestamp tells of, never less: each record is of a state that may be shown.
    fn check_list(&self, first: u64, records: &[Value]) {
        let states = self.states.lock().unwrap();
        let first = usize::try_from(first).unwrap();
        for record in records {
            let (id, n) = (record["id"].as_str().unwrap(), record["n"].as_u64());
            let is_one = states[first..].iter().any(|it| it.get(id).copied() == n);
            assert!(is_one, "{record} is none of {:?}", &states[first..]);
        }
        let always = states[first]
            .keys()
            .filter(|id| states[first..].iter().all(|it| it.contains_key(*id)));
        for id in always {
            assert!(records.iter().any(|it| it["id"] == **id), "{id} is missing");
        }
    }

    /// Has the rival act before each of the next requests to the table.
    fn interfere(self: &Arc<Self>, schedule: Vec<Vec<Act>>) {
        let (world, busy) = (Arc::clone(self), AtomicBool::new(false));
        let left = Mutex::new(schedule.into_iter());
        self.signer.kinto.aws.inject(move |_, _| {
            if busy.swap(true, Ordering::SeqCst) {
                return world.spend();
            }
            let acts = left.lock().unwrap().next().unwrap_or_default();
            let world = Arc::clone(&world);
            in_own_thread(async move || {
                for act in &acts {
                    world.act(act).await;
                }
            });
            busy.store(false, Ordering::SeqCst);
            None
        });
    }

    /// Spends one of the requests that the rival has left.
    fn spend(&self) -> Option<Fault> {
        let mut life = self.life.lock().unwrap();
        let left = life.as_mut()?;
        match left.checked_sub(1) {
            Some(less) => {
                *left = less;
                None
            }
            None => Some(Fault::error("ResourceNotFoundException")),
        }
    }
}

fn edits() -> impl Strategy<Value = Edits> {
    prop::collection::vec((0..6_u8, prop::bool::weighted(0.3)), 0..4)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => edits().prop_map(|edits| Act::Publish(edits, None)),
        4 => (edits(), 0..25_u64).prop_map(|(edits, life)| Act::Publish(edits, Some(life))),
        1 => Just(Act::Resign),
    ]
}

/// One reading: by which of two processes, of what, and what happens before each of its requests to the table.
type Ask = (bool, Read, Vec<Vec<Act>>);

fn ask() -> impl Strategy<Value = Ask> {
    let read = prop_oneof![
        3 => Just(Read::Changeset),
        3 => Just(Read::Since),
        1 => Just(Read::List),
        1 => Just(Read::Records),
    ];
    let schedule = prop::collection::vec(prop::collection::vec(act(), 0..2), 0..5);
    (any::<bool>(), read, schedule)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), ..ProptestConfig::default() })]

    /// Whatever is published between any two requests of a reader, and wherever that is killed, each changeset verifies,
    /// and has records that were published together.
    #[test]
    fn every_changeset_verifies(asks in prop::collection::vec(ask(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            world.act(&Act::Publish(vec![(0, false), (1, false), (2, false)], None)).await;
            let processes = [
                world.signer.kinto.clone(),
                world.signer.restarted(WITHOUT_PREVIEW, "false"),
            ];
            let mut client = None;
            for (process, read, schedule) in asks {
                world.interfere(schedule);
                let kinto = &processes[usize::from(process)];
                world.read(kinto, read, &mut client).await;
                world.signer.kinto.aws.clear_faults();
            }
        });
    }
}

#[tokio::test]
async fn wherever_an_approval_is_killed_all_of_it_is_shown_or_nothing_and_it_can_be_done_again() {
    let (before, after) = (["a=1", "b=1", "c=1"], ["a=2", "c=1", "d=2"]);
    let (mut shown, mut hidden, mut unsettled) = (0, 0, 0);
    for life in 0.. {
        let signer = prepared().await;
        signer.set(tests::ALICE, "to-review").await.expect(200);
        let left = AtomicU64::new(life);
        signer.kinto.aws.inject(move |_, _| {
            let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            spent
                .err()
                .map(|_| Fault::error("ResourceNotFoundException"))
        });
        let answer = signer.set(tests::BOB, "to-sign").await;
        signer.kinto.aws.clear_faults();
        // Another process knows nothing of it.
        let other = signer.restarted(WITH_PREVIEW, "true").as_user(tests::BOB);
        let records = signer.verify(&other, DESTINATION).await;
        let has_layer = list_attribute(&signer, DESTINATION, "layer").is_some();
        unsettled += usize::from(has_layer);
        let listed = other
            .get(&format!("{DESTINATION}/records?_sort=id"))
            .await
            .expect(200);
        let listed = listed["data"].as_array().unwrap().iter();
        let listed: Vec<_> = listed
            .map(|it| format!("{}={}", it["id"].as_str().unwrap(), it["n"]))
            .collect();
        assert_eq!(listed, records, "after {life} requests");
        let status = other.get(&format!("{DESTINATION}/records/b")).await.status;
        assert_eq!(signer.verify(&other, PREVIEW).await, after);
        match signer.status().await.as_str() {
            "signed" => {
                assert_eq!((status, &*records), (404, &after.map(str::to_owned)[..]));
                shown += 1;
            }
            "to-review" => {
                assert_eq!((status, &*records), (200, &before.map(str::to_owned)[..]));
                assert_eq!(answer.status, 503, "{answer:?}");
                let body = json!({"data": {"status": "to-sign"}});
                other.patch(SOURCE, body).await.expect(200);
                hidden += 1;
            }
            status => panic!("{status} after {life} requests"),
        }
        assert_eq!(signer.verify(&other, DESTINATION).await, after);
        // What comes next settles it, and is whole.
        signer.write(tests::ALICE, "a", 3).await.expect(200);
        signer.set(tests::ALICE, "to-review").await.expect(200);
        signer.set(tests::BOB, "to-sign").await.expect(200);
        assert_eq!(
            signer.verify(&other, DESTINATION).await,
            ["a=3", "c=1", "d=2"]
        );
        assert_eq!(list_attribute(&signer, DESTINATION, "layer"), None);
        if answer.status == 200 && !has_layer {
            break;
        }
    }
    // It was killed before and after it was shown, and before all was in its place.
    assert!(
        shown > 3 && hidden > 5 && unsettled > 3,
        "{shown} {hidden} {unsettled}"
    );
}

#[tokio::test]
async fn what_is_read_while_nothing_is_being_settled_costs_no_more() {
    let signer = prepared().await;
    let other = signer
        .restarted(WITH_PREVIEW, "true")
        .as_user(tests::NOBODY);
    let requests = signer.kinto.aws.requests();
    requests.take();
    other
        .get(&format!("{DESTINATION}/changeset?_expected=0"))
        .await
        .expect(200);
    let taken = requests.take();
    assert_eq!(taken.get("TransactGetItems"), Some(&1), "{taken:?}");
    assert_eq!(taken.values().sum::<u64>(), 2, "{taken:?}");
    other
        .get(&format!("{DESTINATION}/records/a"))
        .await
        .expect(200);
    assert_eq!(requests.take().values().sum::<u64>(), 1);
    // Who edits already writes the record and its list alone.
    signer.write(tests::ALICE, "a", 4).await.expect(200);
    requests.take();
    signer.write(tests::ALICE, "a", 5).await.expect(200);
    let taken = requests.take();
    assert_eq!(taken.get("TransactWriteItems"), Some(&1), "{taken:?}");
    assert_eq!(taken.values().sum::<u64>(), 2, "{taken:?}");
}
