//! The translation of Python's regular expressions into the syntax of the `fancy-regex` crate.

use std::iter::Peekable;
use std::str::Chars;

/// A letter, digit or underscore in Python, as items of a class.
const WORD: &str = r"\p{L}\p{N}_";
/// White space in Python.
const SPACE: &str = r"\s\x1c-\x1f";
/// A pattern that matches nothing.
const NEVER: &str = "[a&&b]";

/// The pattern in the syntax of `fancy-regex`; `None` if neither Python nor ECMAScript accepts it.
pub(super) fn translate(pattern: &str) -> Option<String> {
    let mut translation = Translation {
        rest: pattern.chars().peekable(),
        output: String::with_capacity(pattern.len() * 2),
        multiline: false,
        ascii: false,
    };
    translation.flags_of_all()?;
    translation.all()?;
    Some(translation.output)
}

struct Translation<'p> {
    rest: Peekable<Chars<'p>>,
    output: String,
    /// Whether `$` matches before each newline.
    multiline: bool,
    /// Whether `\w`, `\d` and `\s` match ASCII only.
    ascii: bool,
}

/// The meaning of an escape.
enum Escaped {
    Char(char),
    /// A surrogate, which no text has.
    Surrogate(u32),
    /// Items of a class.
    Class(String),
    /// An assertion in the syntax of the output, outside of classes only.
    Assertion(String),
}

impl Translation<'_> {
    fn take(&mut self, expected: char) -> bool {
        self.rest.next_if_eq(&expected).is_some()
    }

    /// Reads the text up to `end`, and skips `end`.
    fn until(&mut self, end: char) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.rest.next()? {
                c if c == end => return Some(text),
                c => text.push(c),
            }
        }
    }

    /// Reads the flags at the beginning, which hold for the whole pattern.
    fn flags_of_all(&mut self) -> Option<()> {
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('(') || ahead.next() != Some('?') {
            return Some(());
        }
        let flags: String = ahead
            .by_ref()
            .take_while(|c| c.is_ascii_alphabetic())
            .collect();
        let is_for_all = !flags.is_empty()
            && flags.chars().all(|flag| "aimsux".contains(flag))
            && self.rest.clone().nth(2 + flags.len()) == Some(')');
        if !is_for_all {
            return Some(());
        }
        self.rest.nth(2 + flags.len())?;
        self.multiline = flags.contains('m');
        self.ascii = flags.contains('a');
        let flags: String = flags.chars().filter(|flag| !"au".contains(*flag)).collect();
        if !flags.is_empty() {
            self.output.push_str(&format!("(?{flags})"));
        }
        Some(())
    }

    fn all(&mut self) -> Option<()> {
        while let Some(c) = self.rest.next() {
            match c {
                '\\' => match self.escape(false)? {
                    Escaped::Char(c) => self.literal(c),
                    Escaped::Surrogate(_) => self.output.push_str(NEVER),
                    Escaped::Class(items) => self.output.push_str(&format!("[{items}]")),
                    Escaped::Assertion(text) => self.output.push_str(&text),
                },
                '[' => self.class()?,
                '(' => self.group()?,
                '{' => self.repetition()?,
                '$' if self.multiline => self.output.push('$'),
                // Consumed where nothing follows, since a look-ahead needs backtracking.
                '$' if self.nothing_follows() => self.output.push_str(r"\n?\z"),
                '$' => self.output.push_str(r"(?=\n?\z)"),
                '.' | '^' | '|' | ')' | '*' | '+' | '?' | ' ' | '#' | '\n' | '\t' => {
                    self.output.push(c)
                }
                c => self.literal(c),
            }
        }
        Some(())
    }

    fn literal(&mut self, c: char) {
        if c.is_ascii() && !c.is_ascii_alphanumeric() {
            self.output.push_str(&format!(r"\x{{{:x}}}", u32::from(c)));
        } else {
            self.output.push(c);
        }
    }

    /// Returns `true` if a match is complete here: only ends of groups and other alternatives follow.
    fn nothing_follows(&self) -> bool {
        let mut rest = self.rest.clone();
        while let Some(c) = rest.next() {
            match c {
                ')' => {}
                '|' => {
                    let mut depth = 0;
                    let mut in_class = false;
                    while let Some(c) = rest.peek().copied() {
                        match c {
                            '\\' => _ = rest.next(),
                            '[' => in_class = true,
                            ']' => in_class = false,
                            '(' if !in_class => depth += 1,
                            ')' if !in_class && depth == 0 => break,
                            ')' if !in_class => depth -= 1,
                            _ => {}
                        }
                        rest.next();
                    }
                }
                _ => return false,
            }
        }
        true
    }

    /// Reads a repetition: `{2}`, `{2,}`, `{,2}` or `{1,2}`. All other braces stand for themselves.
    fn repetition(&mut self) -> Option<()> {
        let inner: String = self.rest.clone().take_while(|c| *c != '}').collect();
        let is_closed = self.rest.clone().nth(inner.chars().count()) == Some('}');
        let (least, most) = inner.split_once(',').unwrap_or((&inner, &inner));
        let are_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if !is_closed || inner.is_empty() || !are_digits(least) || !are_digits(most) {
            self.output.push_str(r"\{");
            return Some(());
        }
        let times = |text: &str| text.parse::<u32>().ok();
        if !least.is_empty() && !most.is_empty() && times(least)? > times(most)? {
            return None;
        }
        let least = if least.is_empty() { "0" } else { least };
        let repetition = if inner.contains(',') {
            format!("{{{least},{most}}}")
        } else {
            format!("{{{least}}}")
        };
        self.output.push_str(&repetition);
        self.rest.nth(inner.len());
        Some(())
    }

    /// Reads what begins with `(`, up to the beginning of its content.
    fn group(&mut self) -> Option<()> {
        if !self.take('?') {
            self.output.push('(');
            return Some(());
        }
        match self.rest.next()? {
            'P' if self.take('=') => {
                let name = self.until(')')?;
                self.output.push_str(&format!(r"(?:\k<{name}>)"));
            }
            'P' if self.take('<') => self.named()?,
            '#' => _ = self.until(')')?,
            '(' => {
                let condition = self.until(')')?;
                let is_number = condition.bytes().all(|b| b.is_ascii_digit());
                let condition = if is_number {
                    condition
                } else {
                    format!("<{condition}>")
                };
                self.output.push_str(&format!("(?({condition})"));
            }
            '<' => match self.rest.next_if(|c| matches!(c, '=' | '!')) {
                Some(c) => self.output.extend(['(', '?', '<', c]),
                None => self.named()?,
            },
            c @ (':' | '=' | '!' | '>') => self.output.extend(['(', '?', c]),
            c if c.is_ascii_alphabetic() || c == '-' => {
                let flags = format!("{c}{}", self.until(':')?);
                let flags: String = flags.chars().filter(|flag| !"au".contains(*flag)).collect();
                if !flags.chars().all(|flag| "imsx-".contains(flag)) {
                    return None;
                }
                self.output.push_str(&format!("(?{flags}:"));
            }
            _ => return None,
        }
        Some(())
    }

    fn named(&mut self) -> Option<()> {
        let name = self.until('>')?;
        self.output.push_str(&format!("(?P<{name}>"));
        Some(())
    }

    fn class(&mut self) -> Option<()> {
        let negated = self.take('^');
        let mut items = String::new();
        let mut is_first = true;
        loop {
            let start = match self.rest.next()? {
                ']' if !is_first => break,
                '\\' => self.escape(true)?,
                c => Escaped::Char(c),
            };
            is_first = false;
            let mut ahead = self.rest.clone();
            let is_range = ahead.next() == Some('-') && !matches!(ahead.next(), Some(']') | None);
            let start = match start {
                Escaped::Class(class) => {
                    items.push_str(&class);
                    continue;
                }
                Escaped::Char(c) => u32::from(c),
                Escaped::Surrogate(unit) => unit,
                Escaped::Assertion(_) => return None,
            };
            let end = if is_range {
                self.rest.next();
                match self.rest.next()? {
                    '\\' => match self.escape(true)? {
                        Escaped::Char(c) => u32::from(c),
                        Escaped::Surrogate(unit) => unit,
                        _ => return None,
                    },
                    c => u32::from(c),
                }
            } else {
                start
            };
            if end < start {
                return None;
            }
            // Without the surrogates, which no text has.
            for (start, end) in [(start, end.min(0xd7ff)), (start.max(0xe000), end)] {
                if start <= end {
                    items.push_str(&format!(r"\x{{{start:x}}}-\x{{{end:x}}}"));
                }
            }
        }
        match (negated, items.is_empty()) {
            (false, true) => self.output.push_str(NEVER),
            (true, true) => self.output.push_str("(?s:.)"),
            (false, false) => self.output.push_str(&format!("[{items}]")),
            (true, false) => self.output.push_str(&format!("[^{items}]")),
        }
        Some(())
    }

    /// Reads an escape after its backslash.
    fn escape(&mut self, in_class: bool) -> Option<Escaped> {
        let (word, digit, space) = match self.ascii {
            true => ("A-Za-z0-9_", "0-9", r"\t-\r "),
            false => (WORD, r"\p{Nd}", SPACE),
        };
        let class = |items: &str| Some(Escaped::Class(items.to_owned()));
        let without = |items: &str| Some(Escaped::Class(format!("[^{items}]")));
        let assertion = |text: &str| Some(Escaped::Assertion(text.to_owned()));
        match self.rest.next()? {
            'w' => class(word),
            'W' => without(word),
            'd' => class(digit),
            'D' => without(digit),
            's' => class(space),
            'S' => without(space),
            'b' if in_class => Some(Escaped::Char('\u{8}')),
            c @ ('b' | 'B' | 'A') if !in_class => assertion(&format!(r"\{c}")),
            'Z' if !in_class => assertion(r"\z"),
            'k' if !in_class && self.take('<') => {
                let name = self.until('>')?;
                assertion(&format!(r"(?:\k<{name}>)"))
            }
            c @ ('p' | 'P') if self.take('{') => {
                let property = self.until('}')?;
                class(&format!(r"\{c}{{{property}}}"))
            }
            'c' => {
                let letter = self.rest.next().filter(char::is_ascii_alphabetic)?;
                Some(Escaped::Char(char::from(letter as u8 % 32)))
            }
            'a' => Some(Escaped::Char('\u{7}')),
            'f' => Some(Escaped::Char('\u{c}')),
            'n' => Some(Escaped::Char('\n')),
            'r' => Some(Escaped::Char('\r')),
            't' => Some(Escaped::Char('\t')),
            'v' => Some(Escaped::Char('\u{b}')),
            'x' => self.code(2),
            'u' => self.code(4),
            'U' => self.code(8),
            c @ '0'..='9' => self.number(c, in_class),
            c if c.is_ascii_alphabetic() => None,
            c => Some(Escaped::Char(c)),
        }
    }

    /// Reads this many hexadecimal digits.
    fn code(&mut self, digits: usize) -> Option<Escaped> {
        let text: String = self.rest.by_ref().take(digits).collect();
        let is_hexadecimal = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
        let code = u32::from_str_radix(&text, 16)
            .ok()
            .filter(|_| is_hexadecimal)?;
        match char::from_u32(code) {
            Some(c) => Some(Escaped::Char(c)),
            None if code <= 0xffff => Some(Escaped::Surrogate(code)),
            None => None,
        }
    }

    /// Reads an octal code, or a reference to a group.
    fn number(&mut self, first: char, in_class: bool) -> Option<Escaped> {
        let mut digits = String::from(first);
        let is_octal = |digit: &char| ('0'..='7').contains(digit);
        let ahead: String = self.rest.clone().take(2).collect();
        let three =
            is_octal(&first) && ahead.chars().count() == 2 && ahead.chars().all(|c| is_octal(&c));
        if in_class || first == '0' || three {
            if !is_octal(&first) {
                return None;
            }
            while digits.len() < 3
                && let Some(digit) = self.rest.next_if(is_octal)
            {
                digits.push(digit);
            }
            let code = u32::from_str_radix(&digits, 8)
                .ok()
                .filter(|code| *code < 0o400)?;
            return char::from_u32(code).map(Escaped::Char);
        }
        digits.extend(self.rest.next_if(char::is_ascii_digit));
        Some(Escaped::Assertion(format!(r"(?:\{digits})")))
    }
}
