//! DynamoDB's expressions, as far as the store uses them: conditions on top-level attributes, and updates of these.
//! Anything else is refused, never guessed.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use serde_dynamo::{AttributeValue, Item};
use winnow::Parser;
use winnow::ascii::multispace0;
use winnow::combinator::{alt, delimited, preceded, repeat, separated, separated_pair, seq};
use winnow::error::EmptyError;
use winnow::stream::AsChar;
use winnow::token::take_while;

use super::DynamoDbError;

/// The values of the placeholders in a request's expressions: `#name` for an attribute, `:value` for a value.
#[derive(Clone, Copy)]
pub struct Placeholders<'a> {
    /// `ExpressionAttributeNames`
    pub names: &'a HashMap<String, String>,
    /// `ExpressionAttributeValues`
    pub values: &'a Item,
}

impl<'a> Placeholders<'a> {
    /// The attribute that `path` refers to.
    pub fn attribute(self, path: &'a str) -> Result<&'a str, DynamoDbError> {
        if !path.starts_with('#') {
            return Ok(path);
        }
        let name = self.names.get(path).map(String::as_str);
        name.ok_or_else(|| DynamoDbError::invalid(format!("{path} stands for no name")))
    }

    /// The value of a placeholder.
    pub fn constant(self, placeholder: &'a str) -> Result<&'a AttributeValue, DynamoDbError> {
        let value = self.values.get(placeholder);
        value.ok_or_else(|| DynamoDbError::invalid(format!("{placeholder} stands for no value")))
    }

    /// The value of `operand`, a placeholder or an attribute of `item`; `None` if the item lacks it.
    fn value(
        self,
        operand: &'a str,
        item: Option<&'a Item>,
    ) -> Result<Option<&'a AttributeValue>, DynamoDbError> {
        if !operand.starts_with(':') {
            let attribute = self.attribute(operand)?;
            return Ok(item.and_then(|item| item.get(attribute)));
        }
        self.constant(operand).map(Some)
    }
}

/// A condition, a filter, or a key condition.
#[derive(Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// At least one of them holds.
    Any(Vec<Self>),
    /// Each of them holds.
    All(Vec<Self>),
    /// The item has the attribute.
    Exists(&'a str),
    /// The item lacks the attribute, or there is no item.
    Absent(&'a str),
    /// A string that begins with another.
    BeginsWith(&'a str, &'a str),
    /// A value between two others, both included.
    Between(&'a str, [&'a str; 2]),
    /// A comparison of two values.
    Compare(&'a str, Comparison, &'a str),
}

/// A comparison of two values of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl<'a> Condition<'a> {
    /// Parses an expression.
    pub fn parse(expression: &'a str) -> Result<Self, DynamoDbError> {
        whole(any, expression)
    }

    /// Returns `true` if it holds for the item, or for its absence.
    pub fn holds(
        &self,
        item: Option<&Item>,
        placeholders: Placeholders<'_>,
    ) -> Result<bool, DynamoDbError> {
        let value = |operand| placeholders.value(operand, item);
        let has = |path| -> Result<bool, DynamoDbError> {
            let attribute = placeholders.attribute(path)?;
            Ok(item.is_some_and(|item| item.contains_key(attribute)))
        };
        Ok(match self {
            Self::Any(conditions) => {
                for condition in conditions {
                    if condition.holds(item, placeholders)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::All(conditions) => {
                for condition in conditions {
                    if !condition.holds(item, placeholders)? {
                        return Ok(false);
                    }
                }
                true
            }
            Self::Exists(path) => has(path)?,
            Self::Absent(path) => !has(path)?,
            Self::BeginsWith(whole, prefix) => match (value(whole)?, value(prefix)?) {
                (Some(AttributeValue::S(whole)), Some(AttributeValue::S(prefix))) => {
                    whole.starts_with(prefix)
                }
                _ => false,
            },
            Self::Between(between, [low, high]) => {
                let between = value(between)?;
                Comparison::GreaterOrEqual.holds(between, value(low)?)?
                    && Comparison::LessOrEqual.holds(between, value(high)?)?
            }
            Self::Compare(left, comparison, right) => {
                comparison.holds(value(left)?, value(right)?)?
            }
        })
    }
}

impl Comparison {
    /// Values of different types are unequal and unordered, as is a missing one. Only numbers, texts and
    /// bytes have an order: `true >= true` is false.
    fn holds(
        self,
        left: Option<&AttributeValue>,
        right: Option<&AttributeValue>,
    ) -> Result<bool, DynamoDbError> {
        let (Some(left), Some(right)) = (left, right) else {
            return Ok(self == Self::Unequal);
        };
        let order = match (left, right) {
            (AttributeValue::N(left), AttributeValue::N(right)) => {
                Some(number(left)?.cmp(&number(right)?))
            }
            (AttributeValue::S(left), AttributeValue::S(right)) => Some(left.cmp(right)),
            (AttributeValue::B(left), AttributeValue::B(right)) => Some(left.cmp(right)),
            _ => None,
        };
        Ok(match self {
            Self::Equal => order.map_or(left == right, Ordering::is_eq),
            Self::Unequal => order.map_or(left != right, Ordering::is_ne),
            Self::Less => order.is_some_and(Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order.is_some_and(Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        })
    }
}

/// The changes of an update to an item.
#[derive(Debug, PartialEq, Eq)]
pub struct Update<'a>(Vec<Change<'a>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change<'a> {
    Set(&'a str, &'a str),
    /// Sets the attribute to the second one's value if it exists, else to the third.
    SetIfMissing(&'a str, &'a str, &'a str),
    Remove(&'a str),
    Add(&'a str, &'a str),
}

impl<'a> Update<'a> {
    /// Parses an expression.
    pub fn parse(expression: &'a str) -> Result<Self, DynamoDbError> {
        whole(update, expression)
    }

    /// The item after the update; all operands are read from it as it was before.
    pub fn apply(
        &self,
        item: &Item,
        placeholders: Placeholders<'_>,
    ) -> Result<Item, DynamoDbError> {
        let value = |operand| {
            let value = placeholders.value(operand, Some(item))?.cloned();
            value.ok_or_else(|| DynamoDbError::invalid(format!("the item has no {operand}")))
        };
        let mut updated = item.clone();
        for change in &self.0 {
            match *change {
                Change::Set(path, operand) => {
                    updated.insert(placeholders.attribute(path)?.to_owned(), value(operand)?);
                }
                Change::SetIfMissing(path, kept, operand) => {
                    let kept = placeholders.value(kept, Some(item))?.cloned();
                    let new = kept.map_or_else(|| value(operand), Ok)?;
                    updated.insert(placeholders.attribute(path)?.to_owned(), new);
                }
                Change::Remove(path) => {
                    updated.remove(placeholders.attribute(path)?);
                }
                Change::Add(path, operand) => {
                    let attribute = placeholders.attribute(path)?;
                    let sum = match (item.get(attribute), value(operand)?) {
                        (None, AttributeValue::N(added)) => {
                            AttributeValue::N(number(&added)?.to_string())
                        }
                        (Some(AttributeValue::N(before)), AttributeValue::N(added)) => {
                            let sum = number(before)? + number(&added)?;
                            AttributeValue::N(sum.to_string())
                        }
                        (None, AttributeValue::Ss(added)) => AttributeValue::Ss(added),
                        (Some(AttributeValue::Ss(before)), AttributeValue::Ss(added)) => {
                            let both: BTreeSet<_> = before.iter().cloned().chain(added).collect();
                            AttributeValue::Ss(both.into_iter().collect())
                        }
                        _ => {
                            return Err(DynamoDbError::invalid(
                                "only numbers and sets of texts are added",
                            ));
                        }
                    };
                    updated.insert(attribute.to_owned(), sum);
                }
            }
        }
        Ok(updated)
    }
}

/// An integer of up to 37 digits, of which two can be added; DynamoDB has 38, and fractions.
pub fn number(text: &str) -> Result<i128, DynamoDbError> {
    let number = text.parse::<i128>().ok();
    let number = number.filter(|number| number.unsigned_abs() < 10_u128.pow(37));
    number.ok_or_else(|| DynamoDbError::invalid(format!("{text} is no whole number of 37 digits")))
}

type Parsed<T> = winnow::Result<T, EmptyError>;

fn whole<'a, T>(
    mut parser: impl Parser<&'a str, T, EmptyError>,
    expression: &'a str,
) -> Result<T, DynamoDbError> {
    let read = parser.parse(expression);
    read.map_err(|_| DynamoDbError::invalid(format!("not an expression known here: {expression}")))
}

fn any<'a>(input: &mut &'a str) -> Parsed<Condition<'a>> {
    separated(1.., all, keyword("OR"))
        .map(|conditions| only(conditions, Condition::Any))
        .parse_next(input)
}

fn all<'a>(input: &mut &'a str) -> Parsed<Condition<'a>> {
    separated(
        1..,
        alt((nested, function, between, compare)),
        keyword("AND"),
    )
    .map(|conditions| only(conditions, Condition::All))
    .parse_next(input)
}

fn only<'a>(
    mut conditions: Vec<Condition<'a>>,
    several: fn(Vec<Condition<'a>>) -> Condition<'a>,
) -> Condition<'a> {
    match conditions.pop() {
        Some(only) if conditions.is_empty() => only,
        last => {
            conditions.extend(last);
            several(conditions)
        }
    }
}

fn nested<'a>(input: &mut &'a str) -> Parsed<Condition<'a>> {
    delimited(sign("("), any, sign(")")).parse_next(input)
}

fn function<'a>(input: &mut &'a str) -> Parsed<Condition<'a>> {
    let one = |name| delimited((keyword(name), sign("(")), word, sign(")"));
    let pair = separated_pair(word, sign(","), word);
    alt((
        one("attribute_exists").map(Condition::Exists),
        one("attribute_not_exists").map(Condition::Absent),
        delimited((keyword("begins_with"), sign("(")), pair, sign(")"))
            .map(|(whole, prefix)| Condition::BeginsWith(whole, prefix)),
    ))
    .parse_next(input)
}

fn between<'a>(input: &mut &'a str) -> Parsed<Condition<'a>> {
    let bounds = separated_pair(word, keyword("AND"), word);
    separated_pair(word, keyword("BETWEEN"), bounds)
        .map(|(between, (low, high))| Condition::Between(between, [low, high]))
        .parse_next(input)
}

fn compare<'a>(input: &mut &'a str) -> Parsed<Condition<'a>> {
    let mut comparison = alt((
        sign("=").value(Comparison::Equal),
        sign("<>").value(Comparison::Unequal),
        sign("<=").value(Comparison::LessOrEqual),
        sign("<").value(Comparison::Less),
        sign(">=").value(Comparison::GreaterOrEqual),
        sign(">").value(Comparison::Greater),
    ));
    seq!(Condition::Compare(word, comparison, word)).parse_next(input)
}

fn update<'a>(input: &mut &'a str) -> Parsed<Update<'a>> {
    let clause = alt((
        clause("SET", set),
        clause("REMOVE", word.map(Change::Remove)),
        clause("ADD", seq!(Change::Add(word, word))),
    ));
    repeat(1.., clause)
        .map(|clauses: Vec<_>| Update(clauses.concat()))
        .parse_next(input)
}

fn clause<'a>(
    name: &'static str,
    change: impl Parser<&'a str, Change<'a>, EmptyError>,
) -> impl Parser<&'a str, Vec<Change<'a>>, EmptyError> {
    preceded(keyword(name), separated(1.., change, sign(",")))
}

fn set<'a>(input: &mut &'a str) -> Parsed<Change<'a>> {
    let pair = separated_pair(word, sign(","), word);
    let if_missing = delimited((keyword("if_not_exists"), sign("(")), pair, sign(")"));
    alt((
        separated_pair(word, sign("="), if_missing)
            .map(|(path, (kept, operand))| Change::SetIfMissing(path, kept, operand)),
        separated_pair(word, sign("="), word).map(|(path, operand)| Change::Set(path, operand)),
    ))
    .parse_next(input)
}

/// An attribute, a placeholder, or a keyword.
fn word<'a>(input: &mut &'a str) -> Parsed<&'a str> {
    let word = take_while(1.., (AsChar::is_alphanum, '_', '#', ':'));
    delimited(multispace0, word, multispace0).parse_next(input)
}

fn keyword<'a>(keyword: &'static str) -> impl Parser<&'a str, &'a str, EmptyError> {
    word.verify(move |word: &str| word.eq_ignore_ascii_case(keyword))
}

fn sign<'a>(sign: &'static str) -> impl Parser<&'a str, &'a str, EmptyError> {
    delimited(multispace0, sign, multispace0)
}
