//! `chain` and `csr`: certificates for the keys that sign what is published (docs/publishing.md).
//!
//! [`certificates`] makes them, and [`key`] is the public key that they are for: of a file, or of a key in KMS, which signs
//! the request for a certificate itself.

pub mod certificates;
pub mod key;

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use self::certificates::{Root, chain, fingerprint, request};
use self::key::{KmsKey, PublicKey};

/// The answer to `--help`.
pub const HELP: &str = "\
Makes certificates for the keys that sign publications.

Usage: kinto-serverless chain DIR --name NAME --key KEY [--days DAYS]
       kinto-serverless csr --name NAME --key arn:aws:kms:…

NAME is the host name that clients expect in the certificate of the key. For
clients of Remote Settings it ends in .content-signature.mozilla.org. For your
own it may be news.content-signature.example.org.

KEY is the ARN of a key in KMS, or a file with a public key
(openssl ec -in private.pem -pubout).

chain writes DIR/NAME-DATE.pem, with the certificate of the key first and the
root last. Clients fetch it by x5u. chain also prints the root in the form that
clients need. DIR/root.key.pem is the key of the root. It is made once and used
again. Whoever has it can sign in your place: keep it offline.

csr prints a request for another CA, signed by the key in KMS.

  --days DAYS        how long the certificate of the key is valid (90)
  --help             print this";

/// Days that a certificate of a key is valid at most: all clients would have to learn of a new root before.
const MAX_DAYS: u64 = 3650;

/// The arguments of `chain` or `csr`.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Where a chain is written to; `None` for a request.
    directory: Option<PathBuf>,
    name: String,
    key: String,
    days: u64,
}

/// Whether the first argument is one of these commands.
pub fn is_asked(argument: Option<&OsString>) -> bool {
    argument.is_some_and(|argument| argument == "chain" || argument == "csr")
}

impl Options {
    /// Reads the arguments; `None` is `--help`.
    ///
    /// # Errors
    /// Names what is wrong or missing.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Option<Self>, Box<dyn Error>> {
        use lexopt::prelude::*;

        let (mut values, mut name, mut key, mut days) = (vec![], None, None, 90);
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(None),
                Long("name") => name = Some(parser.value()?.string()?),
                Long("key") => key = Some(parser.value()?.string()?),
                Long("days") => days = parser.value()?.parse()?,
                Value(value) if values.len() < 2 => values.push(value),
                _ => return Err(argument.unexpected().into()),
            }
        }
        let mut values = values.into_iter();
        let command = values.next();
        let directory = values.next().map(PathBuf::from);
        let name = name.ok_or("--name is missing; see --help")?;
        let is_name = name.contains('.')
            && name.split('.').all(|label| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            });
        if !is_name {
            return Err(format!(
                "--name must be a host name such as news.content-signature.example.org, not {name}"
            )
            .into());
        }
        if !(1..=MAX_DAYS).contains(&days) {
            return Err(format!("--days must be 1 to {MAX_DAYS}").into());
        }
        let is_chain = command.is_some_and(|command| command == "chain");
        if is_chain != directory.is_some() {
            return Err("chain needs a directory, and csr must not have one; see --help".into());
        }
        let key = key.ok_or("--key is missing; see --help")?;
        Ok(Some(Self {
            directory,
            name,
            key,
            days,
        }))
    }
}

/// Does it.
///
/// # Errors
/// The key cannot be read, KMS refuses, a file cannot be written.
pub async fn run(options: Options, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let Options {
        directory,
        name,
        key,
        days,
    } = options;
    let kms = match key.starts_with("arn:") {
        true => Some(KmsKey::open(&key).await?),
        false => None,
    };
    let Some(directory) = directory else {
        let kms = kms.ok_or("csr needs --key with the ARN of a key in KMS")?;
        write!(out, "{}", request(&name, &kms)?)?;
        return Ok(());
    };
    let public = match &kms {
        Some(kms) => kms.public().clone(),
        None => PublicKey::from_pem(&std::fs::read_to_string(&key)?)?,
    };
    std::fs::create_dir_all(&directory)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let root = Root::open(&directory, now)?;
    let pem = chain(&root, &name, &public, now, days)?;
    let path = directory.join(format!("{name}-{now}.pem"));
    write_new(&path, &pem, false)?;
    writeln!(out, "{}", path.display())?;
    writeln!(out, "root {}", fingerprint(root.der()))?;
    Ok(())
}

/// Writes a file that is not there yet; what is secret nobody else may read.
fn write_new(path: &Path, text: &str, is_secret: bool) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if is_secret {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, Box<dyn Error>> {
        Options::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn a_chain_has_a_directory_and_a_request_has_none() {
        let chain = parse("chain d --name a.b --key public.pem --days 30");
        let expected = Options {
            directory: Some("d".into()),
            name: "a.b".to_owned(),
            key: "public.pem".to_owned(),
            days: 30,
        };
        assert_eq!(chain.unwrap(), Some(expected));
        let csr = parse("csr --name a.b --key arn:aws:kms:r:1:key/k");
        assert_eq!(csr.unwrap().unwrap().directory, None);
        assert_eq!(parse("chain --help").unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused() {
        for wrong in [
            "chain --name a.b --key k",
            "csr d --name a.b --key k",
            "chain d --key k",
            "chain d --name a.b",
            "chain d --name ../a.b --key k",
            "chain d --name a --key k",
            "chain d --name a.b --key k --days 0",
            "chain d --name a.b --key k --days 9999",
            "chain d e --name a.b --key k",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
