//! `pattern` and `patternProperties`: regular expressions as Python's `re` reads them, which is what Kinto searches with.
//!
//! [`translate`] writes them in the syntax of the `fancy-regex` crate. Where the two read the same text differently,
//! Python's meaning counts: `\w` has letters and digits of all scripts, `$` also matches before a final newline, a
//! brace that is no repetition stands for itself. Syntax that only ECMAScript has (`(?<name>…)`, `\p{…}`, `\cX`) is
//! accepted too.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use fancy_regex::{Error, Regex, RegexBuilder};

use crate::api::objects::schema::failure::Failure;
use crate::api::objects::schema::translation::translate;

/// The sizes that a compiled pattern may have, in bytes, each with the cost of trying it, in steps.
///
/// Measured (fancy-regex 0.19): 16 MB take 80 ms and 25 MB of memory, which is what `\w{255}` needs; `\w{60}` needs 4 MB.
const SIZES: [(usize, usize); 5] = [
    (16 << 10, 50),
    (128 << 10, 1_000),
    (1 << 20, 20_000),
    (4 << 20, 100_000),
    (16 << 20, 400_000),
];
/// The most bytes of all compiled patterns that a process caches.
const MAX_KEPT: usize = 40 << 20;
/// The memory that a compiled pattern takes, as a multiple of its size.
const COPIES: usize = 2;
/// The bytes of the cache that a pattern fills while it searches.
const CACHE: usize = 256 << 10;
/// The most backtracking steps of a first search, and its cost in steps of an evaluation.
const QUICK: (usize, usize) = (2_000, 200);
/// The same of a second search, if the first was too short: users write patterns, and some would never end.
const THOROUGH: (usize, usize) = (100_000, 10_000);

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    quick: Regex,
    /// The same with more steps, for a pattern that backtracks.
    thorough: Option<Regex>,
    /// The upper bound of its size in bytes.
    size: usize,
    /// The steps that its compilation took.
    pub steps: usize,
}

/// Spends this many steps of the evaluation.
type Spend<'s> = &'s mut dyn FnMut(usize) -> Result<(), Failure>;

impl Pattern {
    fn of(pattern: &str, spend: Spend<'_>) -> Result<Option<Self>, Failure> {
        let Some(translated) = translate(pattern) else {
            return Ok(None);
        };
        let built = |steps: usize, size: usize| {
            RegexBuilder::new(&translated)
                .backtrack_limit(steps)
                .delegate_size_limit(size)
                .delegate_dfa_size_limit(CACHE)
                .build()
        };
        let mut taken = 0;
        for (size, steps) in SIZES {
            spend(steps)?;
            taken += steps;
            let quick = match built(QUICK.0, size) {
                Ok(quick) => quick,
                Err(Error::ParseError(..)) => return Ok(None),
                // A larger size may do.
                Err(_) => continue,
            };
            let thorough = goes_back(&translated).then(|| built(THOROUGH.0, size).ok());
            return Ok(Some(Self {
                quick,
                thorough: thorough.flatten(),
                size,
                steps: taken,
            }));
        }
        Ok(None)
    }

    /// Tells whether the pattern is found in the text; `None` when that takes too long.
    pub fn is_in(&self, text: &str, spend: Spend<'_>) -> Result<Option<bool>, Failure> {
        // Without backtracking, the lengths of pattern and text bound the time of a search.
        spend(1 + text.len() / 64 * (1 + self.size / SIZES[1].0))?;
        let Some(thorough) = &self.thorough else {
            return Ok(self.quick.is_match(text).ok());
        };
        spend(QUICK.1)?;
        if let Ok(found) = self.quick.is_match(text) {
            return Ok(Some(found));
        }
        spend(THOROUGH.1)?;
        Ok(thorough.is_match(text).ok())
    }

    /// The approximate bytes of memory that it takes.
    fn weight(&self) -> usize {
        COPIES * self.size + CACHE
    }
}

/// Returns `true` if a pattern in the syntax of `fancy-regex` may backtrack: it looks around, or back at what it found.
fn goes_back(translated: &str) -> bool {
    let looks = [
        "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?(", "\\k", "++", "*+", "?+", "}+",
    ];
    let refers = |pair: &[u8]| pair[0] == b'\\' && pair[1].is_ascii_digit();
    looks.iter().any(|look| translated.contains(look))
        || translated.as_bytes().windows(2).any(refers)
}

/// The compiled patterns that a process caches.
#[derive(Default)]
struct PatternCache {
    patterns: HashMap<String, Arc<Pattern>>,
    weight: usize,
}

/// The compiled pattern, cached for the next time; `None` if it is not a pattern, or is too large when compiled.
///
/// # Errors
/// Its compilation takes more steps than are left.
pub(super) fn compiled(pattern: &str, spend: Spend<'_>) -> Result<Option<Arc<Pattern>>, Failure> {
    static KEPT: LazyLock<Mutex<PatternCache>> = LazyLock::new(Mutex::default);
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pattern) = kept().patterns.get(pattern) {
        return Ok(Some(pattern.clone()));
    }
    let Some(compiled) = Pattern::of(pattern, spend)? else {
        return Ok(None);
    };
    let compiled = Arc::new(compiled);
    let mut kept = kept();
    if kept.weight + compiled.weight() > MAX_KEPT {
        *kept = PatternCache::default();
    }
    kept.weight += compiled.weight() + pattern.len();
    kept.patterns.insert(pattern.to_owned(), compiled.clone());
    Ok(Some(compiled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let regex = compiled(pattern, &mut |_| Ok(())).unwrap();
        let regex = regex.unwrap_or_else(|| panic!("{pattern} is no pattern"));
        regex.is_in(text, &mut |_| Ok(())).unwrap().unwrap()
    }

    /// The steps that it takes to compile a new pattern and to search for it in a text.
    fn steps(pattern: &str, text: &str) -> usize {
        let mut steps = 0;
        let mut spend = |taken| {
            steps += taken;
            Ok(())
        };
        let compiled = Pattern::of(pattern, &mut spend).unwrap().unwrap();
        _ = compiled.is_in(text, &mut spend).unwrap();
        steps
    }

    #[test]
    fn a_pattern_counts_by_its_size_and_by_going_back() {
        assert!(steps("^[0-9a-f]{8}-[0-9a-f]{4}$", "0") < 100);
        assert!(steps(r"^\w{1,60}$", "a") > 10_000);
        let goes_back = r"^(?=a)((a+)\2?)+$";
        assert!(steps(goes_back, "a") < 1_000);
        assert!(steps(goes_back, &format!("{}!", "a".repeat(64))) > 10_000);
    }

    #[test]
    fn a_pattern_that_is_too_large_is_none() {
        let mut left = 1_000_000_usize;
        let mut spend = |steps| {
            left -= steps;
            Ok(())
        };
        assert!(compiled(r"(\w{100}){100}", &mut spend).unwrap().is_none());
    }

    #[test]
    fn patterns_mean_what_they_mean_in_python() {
        for (pattern, text) in [
            (r"^\w+$", "Zürich"),
            (r"^\d+$", "٣"),
            (r"^\s$", "\u{1c}"),
            (r"^\s$", "\u{a0}"),
            ("(?i)^abc$", "ABC"),
            ("^(?i:a)b$", "Ab"),
            ("(?P<x>a)(?P=x)", "aa"),
            ("(?<x>a)\\k<x>", "aa"),
            (r"(a)\1", "aa"),
            (r"\Aab\Z", "ab"),
            ("^{[0-9a-f-]+}$", "{0a-f}"),
            ("^[^]]+$", "a[b"),
            ("^[]a]+$", "]a"),
            ("^a{,2}$", ""),
            ("^a{,2}$", "aa"),
            ("^a{2}$", "aa"),
            ("^a{}$", "a{}"),
            ("^a{x}$", "a{x}"),
            ("^a{1,2}b{2,}$", "abbb"),
            ("^a$", "a\n"),
            ("^(a$|b)", "a\n"),
            ("a$|b$", "b\n"),
            ("(?m)^b$", "a\nb\nc"),
            ("(?s)a.b", "a\nb"),
            (r"^\/\-\_\.\:$", "/-_.:"),
            (r"^\u00e9\x41\101\0$", "éAA\0"),
            (r"^[\u00e0-\u00ff]$", "é"),
            (r"^[\w.-]+@[\w-]+$", "ü.a-b@c-d"),
            ("^[-a&&b~~/]+$", "a&b~-/"),
            ("^[[:x]$", "["),
            (r"^[\b]$", "\u{8}"),
            (r"^[^\W\d]$", "é"),
            (r"^(?=.*\d)(?!.*x).{3,}$", "ab1"),
            ("(?<=a)b", "ab"),
            ("(?#what)a", "a"),
            ("^(a)?(?(1)b|c)$", "c"),
            (r"^\p{Lu}$", "É"),
            ("^[^\u{d7ff}-\u{e000}]$", "a"),
            (r"^([\ud800-\udbff][\udc00-\udfff]|a)$", "a"),
            (r"^[^\ud800]$", "a"),
            ("^a++b$", "aab"),
            ("", "anything"),
            ("a b#c", "a b#c"),
            (r"^\$\{\w+\}$", "${é}"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text:?}");
        }
        for (pattern, text) in [
            (r"^\w$", "\u{301}"),
            (r"^\w+$", "a-b"),
            (r"(?a)^\w+$", "Zürich"),
            (r"\Aab\Z", "ab\n"),
            ("^a$", "a\n\n"),
            ("^a{,2}$", "aaa"),
            ("^[^]]+$", "a]"),
            ("a.b", "a\nb"),
            (r"^[\ud800-\udfff]$", "😀"),
            ("^(a$|b)c", "ac"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for pattern in [
            "(", "[a", "*a", r"\y", "[b-a]", r"\x1", "(?P<a", "(?y:a)", r"(a)\2", "a{2,1}", "\\",
        ] {
            let none = compiled(pattern, &mut |_| Ok(())).unwrap();
            assert!(none.is_none(), "{pattern}");
        }
    }

    #[test]
    fn a_plain_pattern_takes_no_steps_of_its_own() {
        assert!(matches(r"^(\w+|[a-z]*)$", &"é".repeat(200_000)));
    }
}
