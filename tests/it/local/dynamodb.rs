//! Compares the table in memory of `cargo run` with dynoxide, over which all other tests run: the same requests, the
//! same responses and the same stream.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use aws_lambda_events::dynamodb::EventRecord;
use kinto_local::dynamodb::{DynamoDb, DynamoDbError};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};
use tests::{TABLE, cases};

/// A request: its operation and its JSON.
#[derive(Clone, Debug)]
pub(super) struct Sent(pub &'static str, pub Value);

/// An answer, or the code of an error and its reasons.
pub(super) type Received = Result<Value, (String, Value)>;

/// One DynamoDB with its table.
pub(super) struct Side(DynamoDb);

impl Side {
    pub fn new(dynamodb: DynamoDb) -> Self {
        dynamodb
            .create_table(&kinto_local::aws::table(TABLE))
            .unwrap();
        Self(dynamodb)
    }

    pub fn send(&self, Sent(operation, body): &Sent) -> Received {
        let answer = self.0.execute(operation, body.to_string().as_bytes());
        let mut answer = match answer {
            Ok(answer) => sorted(&serde_json::from_str(&answer).unwrap()),
            Err(refused) => return Err(reasons(&refused)),
        };
        if let Some(items) = answer.pointer_mut("/Responses/kinto") {
            // DynamoDB promises no order.
            items
                .as_array_mut()
                .unwrap()
                .sort_by_key(ToString::to_string);
        }
        Ok(answer)
    }

    /// All pages of a query.
    fn pages(&self, Sent(operation, body): &Sent) -> Vec<Received> {
        let mut body = body.clone();
        let mut pages = vec![];
        loop {
            let page = self.send(&Sent(operation, body.clone()));
            let next = page
                .as_ref()
                .ok()
                .and_then(|page| page.get("LastEvaluatedKey"));
            let next = next.cloned();
            pages.push(page);
            let Some(next) = next else {
                return pages;
            };
            body["ExclusiveStartKey"] = next;
        }
    }

    /// The changes in the stream, in order. A write that changes nothing leaves no record, as on AWS; dynoxide writes
    /// one.
    fn stream(&self) -> Vec<Value> {
        let (records, _) = self.0.records(&self.0.oldest(TABLE), 1000).unwrap();
        let record = |record| {
            let record = serde_json::to_value(record).unwrap();
            let change = &record["dynamodb"];
            let images = [&change["Keys"], &change["OldImage"], &change["NewImage"]];
            json!([
                record["eventName"],
                images.map(sorted),
                change["StreamViewType"],
                record["eventSource"]
            ])
        };
        let is_change = |record: &&EventRecord| record.change.old_image != record.change.new_image;
        records.iter().filter(is_change).map(record).collect()
    }
}

/// The parts that a caller acts on: not the message. An invalid request is the same alone and in a transaction.
fn reasons(refused: &DynamoDbError) -> (String, Value) {
    let code = refused.body["__type"].as_str().unwrap();
    let code = code.rsplit('#').next().unwrap().to_owned();
    let reasons: Vec<_> = refused.body["CancellationReasons"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|reason| json!([reason["Code"], sorted(&reason["Item"])]))
        .collect();
    if reasons.iter().any(|reason| reason[0] == "ValidationError") {
        return ("ValidationException".to_owned(), json!([[], null]));
    }
    (code, json!([reasons, sorted(&refused.body["Item"])]))
}

/// The same JSON with its members sorted by name.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members = members
                .into_iter()
                .map(|(name, member)| (name.clone(), sorted(member)));
            Value::Object(members.collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

fn key() -> impl Strategy<Value = Map<String, Value>> {
    let partitions = prop_oneof![3 => Just("p"), 1 => Just("q")];
    (partitions, select(vec!["a", "ab", "abc", "b", "é"])).prop_map(|(pk, sk)| {
        let key = json!({"pk": {"S": pk}, "sk": {"S": sk}});
        key.as_object().unwrap().clone()
    })
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => 0..4_i128,
        1 => Just(-7),
        1 => Just(u64::MAX.into()),
    ]
    .prop_map(|number: i128| json!({"N": number.to_string()}))
}

fn text() -> impl Strategy<Value = Value> {
    select(vec!["", "a", "ab", "b", "é", "\u{10ffff}"]).prop_map(|text| json!({"S": text}))
}

fn value() -> impl Strategy<Value = Value> {
    let flat = || {
        prop_oneof![
            number(),
            text(),
            any::<bool>().prop_map(|it| json!({"BOOL": it})),
            Just(json!({"NULL": true}))
        ]
    };
    let list = vec(flat(), 0..2).prop_map(|items| json!({"L": items}));
    let map = btree_map("[ab]", flat(), 0..2).prop_map(|members| json!({"M": members}));
    prop_oneof![6 => flat(), 1 => list, 1 => map]
}

fn item() -> impl Strategy<Value = Value> {
    let attributes = btree_map(
        select(vec!["x", "y", "timestamp", "deleted"]),
        value(),
        0..4,
    );
    (key(), attributes, prop::option::weighted(0.8, number())).prop_map(
        |(mut item, attributes, last_modified)| {
            item.extend(
                attributes
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value)),
            );
            item.extend(last_modified.map(|at| ("last_modified".to_owned(), at)));
            Value::Object(item)
        },
    )
}

/// An attribute in expressions.
fn path() -> impl Strategy<Value = &'static str> {
    select(vec!["x", "y", "#timestamp", "deleted", "last_modified"])
}

/// A condition with the placeholders of [`with_placeholders`].
fn condition(paths: &'static [&'static str]) -> impl Strategy<Value = String> {
    let path = || select(paths);
    let operand = || prop_oneof![select(vec![":one", ":two", ":text"]), path()];
    let leaf = prop_oneof![
        path().prop_map(|path| format!("attribute_exists({path})")),
        path().prop_map(|path| format!("attribute_not_exists( {path} )")),
        path().prop_map(|path| format!("begins_with({path}, :text)")),
        path().prop_map(|path| format!("{path} BETWEEN :one AND :two")),
        (
            path(),
            select(vec!["=", "<>"]),
            select(vec![":bool", ":map"])
        )
            .prop_map(|(path, sign, operand)| format!("{path} {sign} {operand}")),
        (
            path(),
            select(vec!["=", "<>", "<", "<=", ">", ">="]),
            operand()
        )
            .prop_filter("DynamoDB wants two operands", |(left, _, right)| left
                != right)
            .prop_map(|(left, sign, right)| format!("{left}{sign}{right}")),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        (
            vec(inner, 2..4),
            select(vec![" AND ", " OR ", " and "]),
            any::<bool>(),
        )
            .prop_map(|(parts, word, nested)| match nested {
                true => format!("({})", parts.join(word)),
                false => parts.join(word),
            })
    })
}

const PATHS: [&str; 5] = ["x", "y", "#timestamp", "deleted", "last_modified"];

fn update() -> impl Strategy<Value = String> {
    let change = || {
        prop_oneof![
            3 => select(vec![":one", ":text", ":bool", ":map", "x"]).prop_map(|to| ("SET", format!("= {to}"))),
            2 => path().prop_map(|kept| ("SET", format!("=if_not_exists({kept}, :two)"))),
            2 => Just(("REMOVE", String::new())),
            2 => select(vec![":one", ":two"]).prop_map(|added| ("ADD", added.to_owned())),
            1 => select(vec![":some", ":others"]).prop_map(|added| ("ADD", added.to_owned())),
        ]
    };
    (subsequence(PATHS.to_vec(), 1..4), vec(change(), 4)).prop_map(|(paths, changes)| {
        let changes: Vec<_> = paths.into_iter().zip(changes).collect();
        let clause = |word: &str| {
            let changes = changes.iter().filter(|(_, (of, _))| *of == word);
            let changes: Vec<_> = changes
                .map(|(path, (_, to))| format!("{path} {to}"))
                .collect();
            match changes.is_empty() {
                true => String::new(),
                false => format!("{word} {} ", changes.join(", ")),
            }
        };
        ["SET", "REMOVE", "ADD"].map(clause).concat()
    })
}

/// Adds the placeholders that the expressions of the request use: DynamoDB accepts no others.
fn with_placeholders(mut request: Value) -> Value {
    let values = json!({
        ":one": {"N": "1"}, ":two": {"N": "2"}, ":text": {"S": "a"}, ":bool": {"BOOL": true},
        ":map": {"M": {"a": {"N": "1"}}}, ":some": {"SS": ["a", "b"]}, ":others": {"SS": ["b", "c"]}, ":p": {"S": "p"}, ":prefix": {"S": "ab"},
        ":zeros": {"S": "000"}, ":from": {"S": "00020"}, ":to": {"S": "00400"}, ":early": {"N": "100"}, ":late": {"N": "800"}, ":parent": {"S": "one"},
    });
    let request_members = request.as_object_mut().unwrap();
    let used: BTreeSet<String> = request_members
        .iter()
        .filter(|(name, _)| name.ends_with("Expression"))
        .filter_map(|(_, expression)| expression.as_str())
        .flat_map(|expression| {
            expression.split(|c: char| !c.is_alphanumeric() && !":#_".contains(c))
        })
        .map(str::to_owned)
        .collect();
    let values: Map<_, _> = values
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| used.contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !values.is_empty() {
        request_members.insert(
            "ExpressionAttributeValues".to_owned(),
            Value::Object(values),
        );
    }
    if used.contains("#timestamp") {
        let names = json!({"#timestamp": "timestamp"});
        request_members.insert("ExpressionAttributeNames".to_owned(), names);
    }
    request
}

/// The request without members that are null, and with the placeholders that it uses.
pub(super) fn request(members: Value) -> Value {
    let Value::Object(mut members) = members else {
        panic!("{members}");
    };
    members.retain(|_, member| !member.is_null());
    with_placeholders(Value::Object(members))
}

fn put() -> impl Strategy<Value = Value> {
    let condition = prop::option::of(condition(&PATHS));
    let failed = prop::option::of(select(vec!["ALL_OLD", "NONE"]));
    (item(), condition, failed).prop_map(|(item, condition, failed)| {
        request(json!({
            "TableName": TABLE, "Item": item, "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": failed,
        }))
    })
}

fn updating() -> impl Strategy<Value = Value> {
    let condition = prop::option::of(condition(&PATHS));
    let failed = prop::option::of(select(vec!["ALL_OLD", "NONE"]));
    (key(), update(), condition, failed).prop_map(|(key, update, condition, failed)| {
        request(json!({
            "TableName": TABLE, "Key": key, "UpdateExpression": update, "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": failed,
        }))
    })
}

fn get() -> impl Strategy<Value = Value> {
    key().prop_map(|key| json!({"TableName": TABLE, "Key": key}))
}

fn query() -> impl Strategy<Value = Value> {
    let of_keys = select(vec!["pk = :p", "pk = :p AND begins_with(sk, :prefix)"]);
    let by_time = select(vec![
        "pk = :p",
        "pk = :p AND last_modified = :one",
        "pk = :p AND last_modified > :one",
        "pk = :p AND last_modified >= :one",
        "pk = :p AND last_modified < :two",
        "pk = :p AND last_modified <= :two",
        "pk = :p AND last_modified BETWEEN :one AND :two",
        "pk = :p AND last_modified BETWEEN :two AND :one",
    ]);
    let condition_of = prop_oneof![
        (Just(None), of_keys),
        (Just(Some("by_last_modified")), by_time)
    ];
    let filter = prop::option::of(condition(&["x", "y", "#timestamp", "deleted"]));
    let projection = prop::option::of(select(vec![
        "sk",
        "sk, x, #timestamp",
        "last_modified,deleted",
    ]));
    let limit = prop::option::of(1..4);
    let forward = prop::option::of(any::<bool>());
    let counts = prop::option::weighted(0.1, Just("COUNT"));
    (condition_of, filter, projection, limit, forward, counts).prop_map(
        |((index, condition), filter, projection, limit, forward, counts)| {
            // A count has no attributes to choose.
            let projection = projection.filter(|_| counts.is_none());
            request(json!({
                "TableName": TABLE, "IndexName": index, "KeyConditionExpression": condition,
                "FilterExpression": filter, "ProjectionExpression": projection, "Limit": limit,
                "ScanIndexForward": forward, "ConsistentRead": true, "Select": counts,
            }))
        },
    )
}

fn sent() -> impl Strategy<Value = Sent> {
    let keys = subsequence(vec!["a", "ab", "abc", "b", "é"], 1..5).prop_map(|keys| {
        let key = |sk| json!({"pk": {"S": "p"}, "sk": {"S": sk}});
        let keys: Vec<_> = keys.into_iter().map(key).collect();
        json!({"RequestItems": {TABLE: {"Keys": keys, "ConsistentRead": true}}})
    });
    let gets = vec(get().prop_map(|get| json!({"Get": get})), 1..4)
        .prop_map(|gets| json!({"TransactItems": gets}));
    let write = prop_oneof![
        put().prop_map(|put| json!({"Put": put})),
        updating().prop_map(|update| json!({"Update": update})),
    ];
    let writes = (
        vec(write, 1..4),
        prop::option::weighted(0.3, select(vec!["t", "u"])),
    )
        .prop_map(|(writes, token)| match token {
            Some(token) => json!({"TransactItems": writes, "ClientRequestToken": token}),
            None => json!({"TransactItems": writes}),
        });
    let update = (updating(), any::<bool>()).prop_map(|(mut update, all_new)| {
        if all_new {
            update["ReturnValues"] = json!("ALL_NEW");
        }
        update
    });
    prop_oneof![
        4 => put().prop_map(|body| Sent("PutItem", body)),
        4 => update.prop_map(|body| Sent("UpdateItem", body)),
        3 => writes.prop_map(|body| Sent("TransactWriteItems", body)),
        1 => get().prop_map(|body| Sent("GetItem", body)),
        1 => keys.prop_map(|body| Sent("BatchGetItem", body)),
        1 => gets.prop_map(|body| Sent("TransactGetItems", body)),
        4 => query().prop_map(|body| Sent("Query", body)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(64), ..ProptestConfig::default() })]

    #[test]
    fn the_table_in_memory_answers_as_dynoxide_does(requests in vec(sent(), 1..40)) {
        let memory = Side::new(DynamoDb::memory());
        let sqlite = Side::new(DynamoDb::sqlite().unwrap());
        for sent in &requests {
            prop_assert_eq!(memory.pages(sent), sqlite.pages(sent), "{:?}", sent);
        }
        prop_assert_eq!(memory.stream(), sqlite.stream());
    }
}

fn put_of(sk: &str, attribute: &str, value: Value) -> Sent {
    let item = json!({"pk": {"S": "p"}, "sk": {"S": sk}, attribute: value});
    Sent("PutItem", json!({"TableName": TABLE, "Item": item}))
}

#[test]
fn a_page_ends_after_a_megabyte_and_an_item_at_400_kilobytes() {
    for side in [DynamoDb::memory(), DynamoDb::sqlite().unwrap()].map(Side::new) {
        for sk in ["a", "b", "c", "d", "e"] {
            side.send(&put_of(sk, "data", json!({"S": "x".repeat(300_000)})))
                .unwrap();
        }
        let all = json!({
            "TableName": TABLE, "KeyConditionExpression": "pk = :p",
            "ExpressionAttributeValues": {":p": {"S": "p"}},
        });
        let pages = side.pages(&Sent("Query", all));
        let counts: Vec<_> = pages
            .iter()
            .map(|page| page.as_ref().unwrap()["Count"].clone())
            .collect();
        assert_eq!(counts, [3, 2]);

        // "p" and "f", and the names pk, sk and data.
        let most = 400 * 1024 - 2 - 8;
        side.send(&put_of("f", "data", json!({"S": "x".repeat(most)})))
            .unwrap();
        let (code, _) = side
            .send(&put_of("f", "data", json!({"S": "x".repeat(most + 1)})))
            .unwrap_err();
        assert_eq!(code, "ValidationException");
    }
}

#[test]
fn only_numbers_texts_and_bytes_have_an_order() {
    let values = [
        json!({"N": "1"}),
        json!({"N": "2"}),
        json!({"S": "1"}),
        json!({"S": "2"}),
        json!({"B": "AQ=="}),
        json!({"B": "Ag=="}),
        json!({"BOOL": true}),
        json!({"BOOL": false}),
        json!({"NULL": true}),
        json!({"L": []}),
        json!({"M": {}}),
    ];
    let ordered = |value: &Value| ["N", "S", "B"].iter().any(|kind| value.get(kind).is_some());
    for side in [DynamoDb::memory(), DynamoDb::sqlite().unwrap()].map(Side::new) {
        for (left, right) in values
            .iter()
            .flat_map(|left| values.iter().map(move |right| (left, right)))
        {
            for sign in ["=", "<>", "<", "<=", ">", ">="] {
                let item = json!({"pk": {"S": "p"}, "sk": {"S": "a"}, "x": left, "y": right});
                let put = json!({"TableName": TABLE, "Item": item});
                side.send(&Sent("PutItem", put.clone())).unwrap();
                let mut again = put;
                again["ConditionExpression"] = format!("x {sign} y").into();
                let same_type = left
                    .as_object()
                    .unwrap()
                    .keys()
                    .eq(right.as_object().unwrap().keys());
                let order =
                    (ordered(left) && same_type).then(|| left.to_string().cmp(&right.to_string()));
                let expected = match sign {
                    "=" => left == right,
                    "<>" => left != right,
                    "<" => order.is_some_and(Ordering::is_lt),
                    "<=" => order.is_some_and(Ordering::is_le),
                    ">" => order.is_some_and(Ordering::is_gt),
                    _ => order.is_some_and(Ordering::is_ge),
                };
                assert_eq!(
                    side.send(&Sent("PutItem", again)).is_ok(),
                    expected,
                    "{left} {sign} {right}"
                );
            }
        }
    }
}

#[test]
fn a_query_that_starts_behind_its_end_finds_nothing() {
    let memory = Side::new(DynamoDb::memory());
    let query = json!({
        "TableName": TABLE, "IndexName": "by_last_modified",
        "KeyConditionExpression": "pk = :p AND last_modified <= :one",
        "ExpressionAttributeValues": {":p": {"S": "p"}, ":one": {"N": "1"}},
        "ExclusiveStartKey": {"pk": {"S": "p"}, "sk": {"S": "a"}, "last_modified": {"N": "5"}},
    });
    memory
        .send(&put_of("a", "last_modified", json!({"N": "1"})))
        .unwrap();
    assert_eq!(memory.send(&Sent("Query", query)).unwrap()["Count"], 0);
}

#[test]
fn what_expired_is_swept_and_told() {
    for side in [DynamoDb::memory(), DynamoDb::sqlite().unwrap()].map(Side::new) {
        side.send(&put_of("past", "expires", json!({"N": "1"})))
            .unwrap();
        side.send(&put_of("future", "expires", json!({"N": "99999999999"})))
            .unwrap();
        side.0.sweep().unwrap();
        let (told, _) = side.0.records(&side.0.oldest(TABLE), 10).unwrap();
        let told = told.last().unwrap();
        assert_eq!(
            (&*told.event_name, told.change.new_image.len()),
            ("REMOVE", 0)
        );
        assert_eq!(
            told.user_identity.as_ref().unwrap().principal_id,
            "dynamodb.amazonaws.com"
        );
        let key = |sk| {
            Sent(
                "GetItem",
                json!({"TableName": TABLE, "Key": {"pk": {"S": "p"}, "sk": {"S": sk}}}),
            )
        };
        assert_eq!(side.send(&key("past")).unwrap(), json!({}));
        assert_ne!(side.send(&key("future")).unwrap(), json!({}));
    }
}

#[test]
fn the_table_in_memory_refuses_what_it_does_not_know() {
    let memory = Side::new(DynamoDb::memory());
    let unknown = [
        Sent("Scan", json!({"TableName": TABLE})),
        Sent(
            "GetItem",
            json!({"TableName": TABLE, "Key": {}, "ProjectionExpression": "pk"}),
        ),
        Sent(
            "PutItem",
            json!({"TableName": TABLE, "Item": {"pk": {"S": "p"}, "sk": {"S": "a"}}, "ConditionExpression": "size(x) = :x"}),
        ),
    ];
    for sent in unknown {
        assert_eq!(
            memory.send(&sent).unwrap_err().0,
            "ValidationException",
            "{sent:?}"
        );
    }
    let elsewhere = Sent("GetItem", json!({"TableName": "other", "Key": {}}));
    assert_eq!(
        memory.send(&elsewhere).unwrap_err().0,
        "ResourceNotFoundException"
    );
}
