//! The text of an error with its causes.

use std::error::Error;
use std::fmt;

/// Displays an error and each of its causes.
///
/// The SDK's own `DisplayErrorContext` adds the error as `Debug` shows it, with the whole response: in a response that cannot be
/// read that is the secret, or the record, which was asked for.
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        match self.0.source() {
            Some(cause) => write!(f, ": {}", ErrorChain(cause)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it failed")]
    struct Failed {
        #[source]
        cause: std::num::ParseIntError,
        secret: &'static str,
    }

    #[test]
    fn causes_are_named_and_nothing_else() {
        let cause = "x".parse::<u8>().unwrap_err();
        let failed = Failed {
            cause,
            secret: "hush",
        };
        assert!(format!("{failed:?}").contains(failed.secret));
        let text = ErrorChain(&failed).to_string();
        assert_eq!(text, "it failed: invalid digit found in string");
    }
}
