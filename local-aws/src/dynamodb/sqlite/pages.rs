//! A `Query` or `Scan` that reads no more than DynamoDB does: 1 MB of items.
//!
//! dynoxide's pages end there too, but it first reads all that the request's range holds, e.g. the whole rest of a
//! partition. So it gets a limit of one item more than fits, with which it answers the same. How many fit is asked of
//! `SQLite`, where dynoxide keeps the size of each item.

use dynoxide::Result;
use dynoxide::actions::query::{self, QueryRequest, QueryResponse};
use dynoxide::actions::scan::{self, ScanRequest, ScanResponse};
use dynoxide::types::Item;
use serde::Serialize;

use super::{Sqlite, complete, json, read};
use crate::dynamodb::TableDefinition;

/// The most bytes that a page reads beyond its first item.
const MAX_PAGE: usize = 1024 * 1024;
/// The items that are asked for first, without knowing their sizes: most requests have fewer.
const FIRST: usize = 50;

/// The order in which a request reads a table.
struct Order<'a> {
    table: &'a TableDefinition,
    is_by_index: bool,
    is_forward: bool,
    /// It reads all partitions in place of one.
    is_scan: bool,
}

/// An answer.
trait Page: Serialize {
    /// The `LastEvaluatedKey`.
    fn last_key(&self) -> Option<&Item>;

    /// The `ScannedCount`.
    fn scanned(&mut self) -> &mut usize;
}

impl Page for QueryResponse {
    fn last_key(&self) -> Option<&Item> {
        self.last_evaluated_key.as_ref()
    }

    fn scanned(&mut self) -> &mut usize {
        &mut self.scanned_count
    }
}

impl Page for ScanResponse {
    fn last_key(&self) -> Option<&Item> {
        self.last_evaluated_key.as_ref()
    }

    fn scanned(&mut self) -> &mut usize {
        &mut self.scanned_count
    }
}

impl Sqlite {
    /// A `Query`.
    pub(super) fn query(&self, body: &[u8]) -> Result<String> {
        let request: QueryRequest = read(body)?;
        let order = self.order(&request.table_name, request.index_name.as_deref());
        let order = order.map(|order| Order {
            is_forward: request.scan_index_forward,
            ..order
        });
        self.page(order, request.limit, |limit| {
            let request = QueryRequest {
                limit,
                ..read(body)?
            };
            complete(query::execute(&self.storage, request))
        })
    }

    /// A `Scan`.
    pub(super) fn scan(&self, body: &[u8]) -> Result<String> {
        let request: ScanRequest = read(body)?;
        let order = self.order(&request.table_name, request.index_name.as_deref());
        // A segment has an order of its own.
        let order = order.filter(|_| request.segment.is_none());
        let order = order.map(|order| Order {
            is_scan: true,
            ..order
        });
        self.page(order, request.limit, |limit| {
            let request = ScanRequest {
                limit,
                ..read(body)?
            };
            complete(scan::execute(&self.storage, request))
        })
    }

    /// The order of a table that was created by [`Sqlite::create_table`], or of its index.
    fn order(&self, table: &str, index: Option<&str>) -> Option<Order<'_>> {
        let table = self.tables.iter().find(|known| known.name == table)?;
        index
            .is_none_or(|index| index == table.index)
            .then_some(Order {
                table,
                is_by_index: index.is_some(),
                is_forward: true,
                is_scan: false,
            })
    }

    /// The answer to a request, which `ask` sends with a limit in place of its own.
    fn page<P: Page>(
        &self,
        order: Option<Order<'_>>,
        limit: Option<usize>,
        ask: impl Fn(Option<usize>) -> Result<P>,
    ) -> Result<String> {
        let Some(order) = order else {
            return json(&ask(limit)?);
        };
        // All that is read here is of one moment, also in a file that another process writes to.
        let _moment = self.storage.conn().unchecked_transaction()?;
        let asked = limit.map_or(FIRST, |limit| limit.min(FIRST));
        let page = ask(Some(asked))?;
        if page.last_key().is_none() {
            return json(&page);
        }
        let first = ask(Some(1))?;
        let Some(place) = first.last_key().and_then(|key| order.place(key)) else {
            return json(&ask(limit)?);
        };
        let fitting = self.fitting(&order, &place, limit.unwrap_or(usize::MAX))?;
        match limit {
            Some(limit) if limit <= fitting && limit == asked => json(&page),
            Some(limit) if limit <= fitting => json(&ask(Some(limit))?),
            _ => {
                let mut page = ask(Some(fitting + 1))?;
                if page.last_key().is_some() {
                    // dynoxide counts the item that did not fit.
                    *page.scanned() = fitting;
                }
                json(&page)
            }
        }
    }

    /// How many items fit in a page whose first is at `place`, or `most` if more do.
    fn fitting(&self, order: &Order<'_>, place: &[String], most: usize) -> Result<usize> {
        let mut statement = self.storage.conn().prepare(&order.sizes())?;
        let mut rows = match place {
            [pk, sk] => statement.query([pk, sk])?,
            place => statement.query([&place[0], &place[1], &place[2]])?,
        };
        let (mut count, mut bytes) = (0, 0);
        while count < most
            && let Some(row) = rows.next()?
        {
            bytes += row.get::<_, usize>(0)?;
            if count > 0 && bytes > MAX_PAGE {
                break;
            }
            count += 1;
        }
        Ok(count)
    }
}

impl Order<'_> {
    /// The place of a key as dynoxide stores it: partition key, index key if it is by the index, and sort key.
    fn place(&self, key: &Item) -> Option<Vec<String>> {
        let TableDefinition {
            partition_key,
            index_key,
            sort_key,
            ..
        } = self.table;
        let names = match self.is_by_index {
            true => vec![partition_key, index_key, sort_key],
            false => vec![partition_key, sort_key],
        };
        let parts = names
            .into_iter()
            .map(|name| key.get(*name)?.to_key_string());
        parts.collect()
    }

    /// The statement for the sizes of the items from a place on, over the tables of dynoxide.
    fn sizes(&self) -> String {
        let TableDefinition { name, index, .. } = self.table;
        let (rows, size, columns, place) = match self.is_by_index {
            false => (
                name.clone(),
                "item_size".to_owned(),
                &["pk", "sk"][..],
                &["?1", "?2"][..],
            ),
            true => (
                format!("{name}::lsi::{index}"),
                format!(
                    "(SELECT item_size FROM \"{name}\" AS item WHERE item.pk = base_pk AND item.sk = base_sk)"
                ),
                &["pk", "sk", "base_pk", "base_sk"][..],
                &["?1", "?2", "?1", "?3"][..],
            ),
        };
        let (comparison, direction) = match self.is_forward {
            true => (">=", "ASC"),
            false => ("<=", "DESC"),
        };
        let (partition, from) = match self.is_scan {
            true => ("", 0),
            false => ("pk = ?1 AND ", 1),
        };
        let order = columns.join(&format!(" {direction}, "));
        let (columns, place) = (columns[from..].join(", "), place[from..].join(", "));
        format!(
            "SELECT {size} FROM \"{rows}\" WHERE {partition}({columns}) {comparison} ({place}) ORDER BY {order} {direction}"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ITEMS: usize = 1000;
    /// The size of each: its key of 1 and 4 bytes, its number, the names, and 4 KB.
    const SIZE: usize = 1 + 4 + 3 + "pksklast_modifieddata".len() + 4096;
    const FITTING: usize = MAX_PAGE / SIZE;

    /// A table with a partition of 4 MB, of which the items from the 300th to the 700th cannot be read.
    fn with_unreadable_middle() -> Sqlite {
        let mut sqlite = Sqlite {
            imports: true,
            ..Sqlite::memory().unwrap()
        };
        sqlite.create_table(&TableDefinition::for_tests()).unwrap();
        let item = |number: usize| {
            json!({"PutRequest": {"Item": {
                "pk": {"S": "p"}, "sk": {"S": format!("{number:04}")},
                "last_modified": {"N": (1000 + number).to_string()}, "data": {"S": "x".repeat(4096)},
            }}})
        };
        let numbers: Vec<_> = (0..ITEMS).collect();
        for part in numbers.chunks(25) {
            let writes: Vec<_> = part.iter().map(|number| item(*number)).collect();
            let batch = json!({"RequestItems": {"kinto": writes}}).to_string();
            sqlite.execute("BatchWriteItem", batch.as_bytes()).unwrap();
        }
        // dynoxide expects text there, and the size to be a number.
        let unreadable = "
            UPDATE kinto SET item_json = x'00', item_size = 'unread' WHERE sk BETWEEN 'S:0300' AND 'S:0700';
            UPDATE \"kinto::lsi::by_last_modified\" SET item_json = x'00' WHERE base_sk BETWEEN 'S:0300' AND 'S:0700'";
        sqlite.storage.conn().execute_batch(unreadable).unwrap();
        sqlite
    }

    fn answer(sqlite: &Sqlite, operation: &str, members: &Value) -> Result<Value> {
        let mut request = json!({"TableName": "kinto"});
        let request = request.as_object_mut().unwrap();
        if operation == "Query" {
            request.insert("KeyConditionExpression".to_owned(), json!("pk = :p"));
            request.insert(
                "ExpressionAttributeValues".to_owned(),
                json!({":p": {"S": "p"}}),
            );
        }
        request.extend(members.as_object().unwrap().clone());
        let body = Value::Object(request.clone()).to_string();
        let answer = sqlite.execute(operation, body.as_bytes())?;
        Ok(serde_json::from_str(&answer).unwrap())
    }

    #[test]
    fn a_page_reads_what_it_holds_and_not_the_rest_of_the_partition() {
        let sqlite = with_unreadable_middle();
        for (operation, members, last) in [
            ("Query", json!({}), FITTING - 1),
            ("Query", json!({"Limit": 1000}), FITTING - 1),
            ("Query", json!({"Select": "COUNT"}), FITTING - 1),
            (
                "Query",
                json!({"FilterExpression": "attribute_exists(absent)"}),
                FITTING - 1,
            ),
            (
                "Query",
                json!({"ExclusiveStartKey": {"pk": {"S": "p"}, "sk": {"S": "0009"}}}),
                FITTING + 9,
            ),
            ("Query", json!({"ScanIndexForward": false}), ITEMS - FITTING),
            (
                "Query",
                json!({"IndexName": "by_last_modified"}),
                FITTING - 1,
            ),
            (
                "Query",
                json!({"IndexName": "by_last_modified", "ScanIndexForward": false}),
                ITEMS - FITTING,
            ),
            ("Scan", json!({}), FITTING - 1),
            (
                "Scan",
                json!({"IndexName": "by_last_modified"}),
                FITTING - 1,
            ),
        ] {
            let page = answer(&sqlite, operation, &members).unwrap();
            let last = json!(format!("{last:04}"));
            assert_eq!(page["LastEvaluatedKey"]["sk"]["S"], last, "{members}");
            assert_eq!(page["ScannedCount"], FITTING, "{members}");
        }
        let into_the_middle = json!({"ExclusiveStartKey": {"pk": {"S": "p"}, "sk": {"S": "0290"}}});
        answer(&sqlite, "Query", &into_the_middle).unwrap_err();
    }

    #[test]
    fn the_capacity_of_a_page_is_that_of_its_items() {
        let sqlite = with_unreadable_middle();
        for (members, items) in [
            (json!({}), FITTING),
            (json!({"IndexName": "by_last_modified"}), FITTING),
            (json!({"Limit": 100}), 100),
        ] {
            let mut members = members;
            members["ConsistentRead"] = json!(true);
            members["ReturnConsumedCapacity"] = json!("TOTAL");
            let page = answer(&sqlite, "Query", &members).unwrap();
            let units = (items * SIZE).div_ceil(4096);
            assert_eq!(
                page["ConsumedCapacity"]["CapacityUnits"].as_f64(),
                Some(units as f64),
                "{members}"
            );
        }
    }

    #[test]
    fn the_sizes_of_a_page_are_found_by_the_order_that_it_is_read_in() {
        let mut sqlite = Sqlite::memory().unwrap();
        sqlite.create_table(&TableDefinition::for_tests()).unwrap();
        for (index, is_forward, is_scan) in [
            (None, true, false),
            (None, false, false),
            (None, true, true),
            (Some("by_last_modified"), true, false),
            (Some("by_last_modified"), false, false),
            (Some("by_last_modified"), true, true),
        ] {
            let order = Order {
                is_forward,
                is_scan,
                ..sqlite.order("kinto", index).unwrap()
            };
            let plan = format!("EXPLAIN QUERY PLAN {}", order.sizes());
            let mut plan = sqlite.storage.conn().prepare(&plan).unwrap();
            let mut rows = plan.raw_query();
            let mut steps = vec![];
            while let Some(row) = rows.next().unwrap() {
                steps.push(row.get::<_, String>(3).unwrap());
            }
            // Neither sorted nor read from the beginning of the table or partition.
            assert!(steps[0].starts_with("SEARCH"), "{steps:?}");
            assert!(
                steps[0].contains('>') || steps[0].contains('<'),
                "{steps:?}"
            );
            assert!(!steps.concat().contains("TEMP B-TREE"), "{steps:?}");
        }
    }
}
