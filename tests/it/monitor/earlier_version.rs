//! Tables and aggregators of an earlier version.

use std::collections::BTreeMap;

use super::{ENTRIES, EarlierBatch, RECORDS, STATE, Stack, heard, pairs};
use kinto_serverless::store::broadcast_claim::ClaimOutcome;
use kinto_serverless::timestamp::Timestamp;
use serde_json::json;
use tests::{execute, put_item};

/// A table of an earlier version: two collections, whose changes were broadcast.
fn earlier_table(begin: u64) -> Stack {
    let stack = Stack::new();
    let batch = EarlierBatch::begin(&stack, "1", begin);
    batch.put("a", begin);
    batch.put("b", begin + 10);
    batch.end();
    for item in [
        json!({"pk": "#broadcast", "sk": "mp", "due": begin + 10, "sent": begin + 10, "not_before": 0}),
        json!({"pk": "#broadcast", "sk": "#pull", "due": begin + 10, "due_at": 0}),
    ] {
        put_item(&stack.kinto.aws, &item);
    }
    stack
}

#[tokio::test]
async fn a_table_of_an_earlier_version_goes_on() {
    let begin = Timestamp::now().0;
    let without_state = earlier_table(begin);
    let key = json!({"Key": {"pk": {"S": "#monitor"}, "sk": {"S": "#state"}}});
    execute(&without_state.kinto.aws, "DeleteItem", key);
    for stack in [earlier_table(begin), without_state] {
        let process = stack.process();
        // A function of that version may be writing: the entries are read each time.
        for _ in 0..2 {
            stack.poll(&process, RECORDS, ENTRIES).await;
        }
        let all = pairs(&[("b", begin + 10), ("a", begin)]);
        assert_eq!(heard(&process, 0).await, (begin + 10, all));
        assert_eq!(heard(&process, begin).await.1, pairs(&[("b", begin + 10)]));
        assert_eq!(stack.pulled().await, begin + 10);
        assert_eq!(stack.claimed().await, ClaimOutcome::NothingDue);

        // A late change is broadcast too; a known one is not.
        assert!(stack.aggregate(&[tests::changed(1, "c", begin + 5)]).await);
        assert_eq!(
            heard(&process, begin + 10).await,
            (begin + 11, pairs(&[("c", begin + 5)]))
        );
        assert_eq!(
            stack.claimed().await,
            ClaimOutcome::Granted(Timestamp(begin + 11))
        );
        assert_eq!(stack.pulled().await, begin + 11);
        assert!(stack.state_item().get("last_modified").is_none());
        stack.poll(&process, RECORDS, ENTRIES).await;
        stack.poll(&process, RECORDS, STATE).await;
        // Its own entries are known.
        assert!(stack.aggregate(&[tests::changed(2, "b", begin + 10)]).await);
        assert_eq!(heard(&process, begin + 11).await.1, []);
    }
}

#[tokio::test]
async fn a_version_that_is_due_by_an_earlier_one_is_told() {
    let stack = Stack::new();
    put_item(
        &stack.kinto.aws,
        &json!({"pk": "#broadcast", "sk": "mp", "due": 7}),
    );
    assert_eq!(stack.claimed().await, ClaimOutcome::Granted(Timestamp(7)));
    let other = stack
        .store
        .claim_broadcast("other", "this test", None, Timestamp(1), Timestamp(2));
    assert_eq!(other.await.unwrap(), ClaimOutcome::NothingDue);
}

#[tokio::test]
async fn an_aggregator_of_an_earlier_version_may_go_on_beside_one_of_this() {
    let begin = Timestamp::now().0;
    let stack = earlier_table(begin);
    let process = stack.process();
    assert!(stack.aggregate(&[tests::changed(1, "c", begin + 20)]).await);
    stack.poll(&process, RECORDS, ENTRIES).await;
    stack.poll(&process, RECORDS, STATE).await;
    let (known, _) = heard(&process, 0).await;

    let batch = EarlierBatch::begin(&stack, "2", Timestamp::now().0);
    batch.put("a", begin + 15);
    batch.put("b", begin + 30);
    for _ in 0..2 {
        // It shows at once, in every process; nobody continues from a timestamp that is not yet a position.
        let shown = pairs(&[("b", begin + 30), ("c", begin + 20), ("a", begin + 15)]);
        assert_eq!(heard(&process, 0).await, (known, shown));
        stack.poll(&process, RECORDS, ENTRIES).await;
    }
    // Meanwhile others write.
    assert!(stack.aggregate(&[tests::changed(2, "d", begin + 25)]).await);
    let (between, _) = heard(&process, known).await;
    batch.put("e", begin + 28);
    batch.end();
    assert!(stack.aggregate(&[tests::changed(3, "f", begin + 40)]).await);
    let heard_at_last: BTreeMap<_, _> = heard(&process, known).await.1.into_iter().collect();
    let every = pairs(&[
        ("a", begin + 15),
        ("b", begin + 30),
        ("d", begin + 25),
        ("e", begin + 28),
        ("f", begin + 40),
    ]);
    assert_eq!(heard_at_last, every.into_iter().collect());
    let heard_between: BTreeMap<_, _> = heard(&process, between).await.1.into_iter().collect();
    assert!(heard_between.contains_key("e") && heard_between.contains_key("f"));
    stack.poll(&process, RECORDS, STATE).await;
    // Megaphone got `b` at its timestamp; it still gets the changes beside it.
    assert!(stack.state().await.due("mp") >= Some(Timestamp(begin + 40)));
}

#[tokio::test]
async fn a_rebuilding_gives_positions_to_what_an_earlier_version_wrote() {
    let begin = Timestamp::now().0;
    let stack = earlier_table(begin);
    stack.aggregator.rebuild_monitor().await.unwrap();
    let (known, _) = stack.heard_since(0).await;
    let batch = EarlierBatch::begin(&stack, "2", Timestamp::now().0);
    stack.create(&["late"]).await;
    let late = stack.timestamps(&["late"]).await["late"];
    batch.put("late", late);
    batch.end();
    stack.aggregator.rebuild_monitor().await.unwrap();
    assert!(
        stack
            .heard_since(known)
            .await
            .1
            .contains(&("late".to_owned(), late))
    );
    let process = stack.process();
    stack.poll(&process, RECORDS, ENTRIES).await;
    stack.poll(&process, RECORDS, STATE).await;
}

#[tokio::test]
async fn a_batch_of_an_earlier_version_that_never_ended_costs_reads_for_an_hour() {
    const HOUR: u64 = 60 * 60 * 1000;
    let now = Timestamp::now().0;
    let stack = earlier_table(now - 2 * HOUR);
    assert!(stack.aggregate(&[tests::changed(1, "c", now - HOUR)]).await);
    let process = stack.process();
    for (began, cost) in [(now - HOUR, STATE), (now - HOUR + 60_000, ENTRIES)] {
        // It was killed before its end.
        EarlierBatch::begin(&stack, "dead", began).put("a", began);
        let (known, _) = heard(&process, 0).await;
        assert!(stack.aggregate(&[tests::changed(2, "c", began + 1)]).await);
        let heard: BTreeMap<_, _> = heard(&process, known).await.1.into_iter().collect();
        assert_eq!(heard.get("a"), Some(&began));
        process.get(RECORDS).await;
        stack.poll(&process, RECORDS, cost).await;
        let is_pending = stack.state_item().get("pending dead").is_some();
        assert_eq!(is_pending, cost == ENTRIES);
    }
}
