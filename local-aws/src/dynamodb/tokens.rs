//! Idempotency of transactions: one that is sent twice is written once.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{DynamoDbError, read};

/// The time for which DynamoDB remembers a `ClientRequestToken`.
const TOKEN_WINDOW: Duration = Duration::from_secs(600);

/// The answers of committed transactions, by their `ClientRequestToken`.
#[derive(Debug, Default)]
pub struct Tokens {
    answers: HashMap<String, (u64, String)>,
    by_age: VecDeque<(Instant, String)>,
}

/// The identity of a transaction.
#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "ClientRequestToken")]
    token: Option<String>,
    #[serde(rename = "TransactItems")]
    items: Digest,
}

impl Tokens {
    /// Returns the earlier answer to the same `TransactWriteItems` if there was one, else that of `execute`.
    pub fn once(
        &mut self,
        body: &[u8],
        execute: impl FnOnce() -> Result<String, DynamoDbError>,
    ) -> Result<String, DynamoDbError> {
        let identity: Identity = read(body)?;
        let Some(token) = identity.token else {
            return execute();
        };
        self.forget();
        match self.answers.get(&token) {
            Some((known, answer)) if *known == identity.items.0 => Ok(answer.clone()),
            Some(_) => Err(DynamoDbError::new(
                "IdempotentParameterMismatchException",
                "The ClientRequestToken was used with other parameters",
            )),
            None => {
                let answer = execute()?;
                self.by_age.push_back((Instant::now(), token.clone()));
                self.answers
                    .insert(token, (identity.items.0, answer.clone()));
                Ok(answer)
            }
        }
    }

    fn forget(&mut self) {
        while let Some((at, _)) = self.by_age.front()
            && at.elapsed() > TOKEN_WINDOW
            && let Some((_, expired)) = self.by_age.pop_front()
        {
            self.answers.remove(&expired);
        }
    }
}

/// A hash of DynamoDB's JSON (which has no numbers) that does not depend on the order of keys: the SDK writes its maps
/// in iteration order.
struct Digest(u64);

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(DigestVisitor)
    }
}

struct DigestVisitor;

impl DigestVisitor {
    fn digest<E>(value: impl Hash) -> Result<Digest, E> {
        Ok(Digest(hash_of(value)))
    }
}

impl<'de> Visitor<'de> for DigestVisitor {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Digest, E> {
        Self::digest(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Digest, E> {
        Self::digest(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<Digest, E> {
        Self::digest(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Digest, A::Error> {
        let mut hasher = DefaultHasher::new();
        while let Some(Digest(item)) = items.next_element()? {
            item.hash(&mut hasher);
        }
        Ok(Digest(hasher.finish()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Digest, A::Error> {
        let mut sum = 0_u64;
        while let Some((Digest(key), Digest(member))) = members.next_entry()? {
            sum = sum.wrapping_add(hash_of((key, member)));
        }
        Self::digest(sum)
    }
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
