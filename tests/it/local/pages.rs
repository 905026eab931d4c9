//! Compares the pages of queries of the table in memory with those over dynoxide, where they end at 1 MB or at a limit.

use kinto_local::dynamodb::DynamoDb;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tests::{TABLE, cases};

use super::dynamodb::{Sent, Side, request};

/// The most bytes of items with about the same size that follow each other.
const RUN: usize = 2_000_000;
/// The most pages of a query that are compared.
const PAGES: usize = 4;

/// The sizes of the items of a partition: runs of small ones and large ones.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![3 => 10..200_usize, 2 => 200..8_000_usize, 1 => 8_000..300_000_usize];
    let run = (size, 1..200_usize)
        .prop_flat_map(|(size, count)| vec(size / 2..=size, count.min(RUN / size).max(1)));
    vec(run, 1..6).prop_map(|runs| runs.concat())
}

fn item(pk: &str, number: usize, size: usize) -> Value {
    let mut item = json!({
        "pk": {"S": pk}, "sk": {"S": sk(number)}, "data": {"S": "é".repeat(size / 2)},
        "parent": {"S": if number.is_multiple_of(3) { "one" } else { "two" }},
    });
    if !number.is_multiple_of(7) {
        item["last_modified"] = json!({"N": time(number).to_string()});
    }
    item
}

fn sk(number: usize) -> String {
    format!("{number:05}")
}

/// Its place in the index, which is another than by its key; some have the same.
fn time(number: usize) -> usize {
    number * 7919 % 997
}

fn query() -> impl Strategy<Value = Value> {
    let of_keys = select(vec![
        "pk = :p",
        "pk = :p AND begins_with(sk, :zeros)",
        "pk = :p AND sk BETWEEN :from AND :to",
    ]);
    let by_time = select(vec![
        "pk = :p",
        "pk = :p AND last_modified > :early",
        "pk = :p AND last_modified BETWEEN :early AND :late",
    ]);
    let condition = prop_oneof![
        (Just(None), of_keys),
        (Just(Some("by_last_modified")), by_time)
    ];
    let filter = prop::option::of(select(vec![
        "parent = :parent",
        "attribute_not_exists(parent)",
    ]));
    let limit = prop::option::of(prop_oneof![1..60_usize, 1..1000_usize]);
    let shown = prop_oneof![3 => Just((None, None)), 1 => Just((Some("COUNT"), None)), 1 => Just((None, Some("sk")))];
    let start = prop::option::of(0..600_usize);
    (condition, filter, limit, any::<bool>(), shown, start).prop_map(
        |((index, condition), filter, limit, forward, (counts, projection), start)| {
            // dynoxide refuses a start that the condition excludes. No item has to be there.
            let start = start.filter(|_| condition == "pk = :p").map(|number| {
                let mut start = json!({"pk": {"S": "p"}, "sk": {"S": sk(number)}});
                if index.is_some() {
                    start["last_modified"] = json!({"N": time(number).to_string()});
                }
                start
            });
            request(json!({
                "TableName": TABLE, "IndexName": index, "KeyConditionExpression": condition,
                "FilterExpression": filter, "Limit": limit, "ScanIndexForward": forward, "Select": counts,
                "ProjectionExpression": projection, "ExclusiveStartKey": start, "ConsistentRead": true,
            }))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(8), max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_page_ends_at_the_same_item_on_both(sizes in sizes(), queries in vec(query(), 6)) {
        let sides = [DynamoDb::memory(), DynamoDb::sqlite().unwrap()].map(Side::new);
        let of_p = sizes.iter().enumerate().map(|(number, size)| item("p", number, *size));
        let beside = ["o", "q"].into_iter().flat_map(|pk| (0..4).map(move |number| item(pk, number, 290_000)));
        let items: Vec<_> = of_p.chain(beside).map(|item| json!({"PutRequest": {"Item": item}})).collect();
        for part in items.chunks(25) {
            let batch = Sent("BatchWriteItem", json!({"RequestItems": {TABLE: part}}));
            for side in &sides {
                side.send(&batch).unwrap();
            }
        }
        for mut query in queries {
            for _ in 0..PAGES {
                let sent = Sent("Query", query.clone());
                let [memory, sqlite] = sides.each_ref().map(|side| side.send(&sent));
                prop_assert!(memory == sqlite, "{sent:?}: {}", difference(&memory, &sqlite));
                let Some(next) = sqlite.unwrap().get_mut("LastEvaluatedKey").map(Value::take) else {
                    break;
                };
                query["ExclusiveStartKey"] = next;
            }
        }
    }
}

#[test]
fn a_megabyte_counts_the_significant_digits_of_numbers() {
    // pk: p, sk: 00000, last_modified: 800 (one digit: 2 bytes) and data, with their names.
    let data = "x".repeat(1024 - (2 + 1) - (2 + 5) - (13 + 2) - 4);
    let items = (0..1025).map(|number| {
        json!({"PutRequest": {"Item": {
            "pk": {"S": "p"}, "sk": {"S": sk(number)}, "data": {"S": data}, "last_modified": {"N": "800"},
        }}})
    });
    let items: Vec<_> = items.collect();
    for side in [DynamoDb::memory(), DynamoDb::sqlite().unwrap()].map(Side::new) {
        for part in items.chunks(25) {
            let batch = json!({"RequestItems": {TABLE: part}});
            side.send(&Sent("BatchWriteItem", batch)).unwrap();
        }
        let all = request(json!({
            "TableName": TABLE, "KeyConditionExpression": "pk = :p",
            "ExpressionAttributeValues": {":p": {"S": "p"}},
        }));
        let page = side.send(&Sent("Query", all)).unwrap();
        assert_eq!(page["ScannedCount"], 1024);
    }
}

/// Two answers without their items, which are long.
fn difference<E: std::fmt::Debug>(memory: &Result<Value, E>, sqlite: &Result<Value, E>) -> String {
    let short = |answer: &Result<Value, E>| match answer {
        Ok(page) => json!([
            page["Count"],
            page["ScannedCount"],
            page["LastEvaluatedKey"]
        ])
        .to_string(),
        Err(error) => format!("{error:?}"),
    };
    format!(
        "{} in memory, {} over dynoxide",
        short(memory),
        short(sqlite)
    )
}
