//! A `Query` of the table in memory.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde::Serialize;
use serde_dynamo::{AttributeValue, Item};

use super::expression::{Comparison, Condition, Placeholders, number};
use super::requests::Query;
use super::table::{Order, Position, Row, Table};
use super::{DynamoDbError, TableDefinition};

/// The most bytes that a query reads beyond its first item.
const MAX_PAGE: usize = 1024 * 1024;

/// The answer, as JSON.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Page<'a> {
    /// `None` if they are only counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Cow<'a, Item>>>,
    count: usize,
    scanned_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_evaluated_key: Option<Item>,
}

/// Reads a page of the query's items.
pub fn run<'a>(table: &'a Table, query: &Query) -> Result<Page<'a>, DynamoDbError> {
    let definition = table.definition();
    let order = match query.index_name.as_deref() {
        None => Order::Key,
        Some(index) if index == definition.index => Order::Index,
        Some(other) => {
            return Err(DynamoDbError::invalid(format!(
                "no index is called {other}"
            )));
        }
    };
    let placeholders = Placeholders {
        names: &query.expression_attribute_names,
        values: &query.expression_attribute_values,
    };
    let (pk, mut range) = range(&query.key_condition_expression, placeholders, definition)?;
    let forward = query.scan_index_forward.unwrap_or(true);
    if let Some(key) = &query.exclusive_start_key {
        let place = Row::new(key.clone(), definition)?.place(order);
        let (at, sk) =
            place.ok_or_else(|| DynamoDbError::invalid("a start that is not in the index"))?;
        match forward {
            // The next possible string.
            true => range.start = (at, sk + "\0"),
            false => range.end = (at, sk),
        }
    }
    let filter = query.filter_expression.as_deref();
    let filter = filter.map(Condition::parse).transpose()?;
    let projection = query.projection_expression.as_deref();
    let projection = projection.map(|attributes| Projection::parse(attributes, placeholders));
    let projection = projection.transpose()?;

    let rows = table.range(pk, order, range);
    let rows: Box<dyn Iterator<Item = _>> = match forward {
        true => Box::new(rows),
        false => Box::new(rows.rev()),
    };
    let mut rows = rows.peekable();
    let mut page = Page {
        items: query.select.is_none().then(Vec::new),
        ..Page::default()
    };
    let mut size = 0;
    while let Some(row) = rows.next() {
        size += row.size();
        page.scanned_count += 1;
        let shown = match &filter {
            Some(filter) => filter.holds(Some(row.item()), placeholders)?,
            None => true,
        };
        page.count += usize::from(shown);
        if shown && let Some(items) = &mut page.items {
            items.push(match &projection {
                Some(projection) => Cow::Owned(projection.of(row.item())),
                None => Cow::Borrowed(row.item()),
            });
        }
        let is_too_much = rows
            .peek()
            .is_some_and(|next| size + next.size() > MAX_PAGE);
        if query.limit == Some(page.scanned_count) || is_too_much {
            page.last_evaluated_key = Some(row.position(order, definition));
            break;
        }
    }
    Ok(page)
}

/// The partition, and the range of positions in it, of a key condition: `pk = :pk`, alone or with one on the sort key.
fn range<'a>(
    expression: &'a str,
    placeholders: Placeholders<'a>,
    table: &TableDefinition,
) -> Result<(&'a str, Range<Position>), DynamoDbError> {
    let unknown =
        || DynamoDbError::invalid(format!("not a condition of a key known here: {expression}"));
    let text = |operand| match placeholders.constant(operand)? {
        AttributeValue::S(text) => Ok(text.as_str()),
        _ => Err(unknown()),
    };
    // No sort key is empty, so this precedes all items with the same number.
    let at = |operand, later| match placeholders.constant(operand)? {
        AttributeValue::N(at) => Ok((number(at)? + later, String::new())),
        _ => Err(unknown()),
    };
    let (first, last) = ((i128::MIN, String::new()), (i128::MAX, String::new()));
    let (pk, sort) = match Condition::parse(expression)? {
        Condition::All(mut both) if both.len() == 2 => {
            let sort = both.pop();
            (both.pop(), sort)
        }
        pk => (Some(pk), None),
    };
    let pk = match pk {
        Some(Condition::Compare(key, Comparison::Equal, pk)) if key == table.partition_key => pk,
        _ => return Err(unknown()),
    };
    let range = match sort {
        None => first..last,
        // No id contains that character.
        Some(Condition::BeginsWith(key, prefix)) if key == table.sort_key => {
            let prefix = text(prefix)?;
            (0, prefix.to_owned())..(0, format!("{prefix}{}", char::MAX))
        }
        Some(Condition::Between(key, [from, to]))
            if [table.sort_key, table.index_key].contains(&key) =>
        {
            let range = match key == table.sort_key {
                // The next string there is.
                true => (0, text(from)?.to_owned())..(0, format!("{}\0", text(to)?)),
                false => at(from, 0)?..at(to, 1)?,
            };
            if range.is_empty() {
                return Err(DynamoDbError::invalid(
                    "BETWEEN takes the lower value first",
                ));
            }
            range
        }
        Some(Condition::Compare(key, comparison, operand)) if key == table.index_key => {
            match comparison {
                Comparison::Equal => at(operand, 0)?..at(operand, 1)?,
                Comparison::Less => first..at(operand, 0)?,
                Comparison::LessOrEqual => first..at(operand, 1)?,
                Comparison::Greater => at(operand, 1)?..last,
                Comparison::GreaterOrEqual => at(operand, 0)?..last,
                Comparison::Unequal => return Err(unknown()),
            }
        }
        Some(_) => return Err(unknown()),
    };
    Ok((text(pk)?, range))
}

/// The requested attributes.
struct Projection<'a>(HashSet<&'a str>);

impl<'a> Projection<'a> {
    fn parse(attributes: &'a str, placeholders: Placeholders<'a>) -> Result<Self, DynamoDbError> {
        let attributes = attributes.split(',').map(str::trim);
        let attributes = attributes.map(|attribute| placeholders.attribute(attribute));
        attributes.collect::<Result<_, _>>().map(Self)
    }

    fn of(&self, item: &Item) -> Item {
        let asked_for = item
            .iter()
            .filter(|(name, _)| self.0.contains(name.as_str()));
        let attributes = asked_for.map(|(name, value)| (name.clone(), value.clone()));
        attributes.collect::<HashMap<_, _>>().into()
    }
}
