//! The options of the stack itself, from the command line and the environment; Kinto's settings are the library's.

use std::ffi::OsString;

/// The text of `--help`.
pub const HELP: &str = "\
Kinto's functions, and the parts of AWS that they need, in one process on loopback.

Usage: kinto-local [--ini FILE] [--data FILE] [--watch]
       kinto-local [--ini FILE] rebuild-monitor

  --ini FILE   read settings from a kinto.ini; variables take precedence
  --data FILE  keep the table in FILE; without it all data are lost at the end
  --watch      show writes, the monitor, broadcasts and listeners as they happen,
               with their lags; a log if standard output is not a terminal
  rebuild-monitor
               compute the entries of monitor/changes again, in the stack
               that runs on AWS_PORT
  --help       print this

Environment:
  PORT         port of the HTTP API, 0 for any [8888]
  AWS_PORT     port of DynamoDB and SQS, for AWS_ENDPOINT_URL, 0 for any [PORT + 1]
  RUST_LOG     levels of the log on stderr
  KINTO_*      Kinto's settings: changes.resources is KINTO_CHANGES_RESOURCES

Without KINTO_EVENT_LISTENERS a built-in Megaphone receives the changes of
KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES [/buckets/main] and prints each broadcast.";

/// The addresses and the table's file of the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Port of the HTTP API; 0 is any.
    pub port: u16,
    /// Port of DynamoDB and SQS; 0 is any.
    pub aws_port: u16,
    /// The table's file; `None` keeps it in memory.
    pub data: Option<String>,
    /// The `kinto.ini`.
    pub ini: Option<String>,
    /// Whether to rebuild the monitor of the running stack instead of starting one.
    pub rebuild_monitor: bool,
    /// `--watch`: show the pipeline live.
    pub watch: bool,
}

/// An invalid option or port.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The command line.
    #[error("{0}; see --help")]
    Arguments(#[from] lexopt::Error),
    /// A variable that is not a port.
    #[error("{0} must be a port, 0 to 65535")]
    Port(&'static str),
}

impl Options {
    /// Parses the arguments (without the program's name) and the variables that `var` returns; `None` for `--help`.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        var: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, OptionsError> {
        use lexopt::prelude::*;

        let (mut data, mut ini) = (None, None);
        let mut rebuild_monitor = false;
        let mut watch = false;
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Value(command) if command == "rebuild-monitor" => rebuild_monitor = true,
                Long("watch") => watch = true,
                Long("data") => data = Some(parser.value()?.string()?),
                Long("ini") => ini = Some(parser.value()?.string()?),
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(argument.unexpected().into()),
            }
        }
        let port = |name| match var(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value
                .parse::<u16>()
                .map(Some)
                .map_err(|_| OptionsError::Port(name)),
        };
        let http = port("PORT")?.unwrap_or(8888);
        let beside = if http == 0 { 0 } else { http.wrapping_add(1) };
        let aws_port = port("AWS_PORT")?.unwrap_or(beside);
        Ok(Some(Self {
            port: http,
            aws_port,
            data,
            ini,
            rebuild_monitor,
            watch,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str], port: Option<&str>) -> Result<Option<Options>, OptionsError> {
        let port = port.map(str::to_owned);
        let var = |name: &str| if name == "PORT" { port.clone() } else { None };
        Options::parse(arguments.iter().map(OsString::from), var)
    }

    #[test]
    fn the_ports_are_kintos_and_the_next_unless_set() {
        let default = parse(&[], None).unwrap().unwrap();
        assert_eq!((default.port, default.aws_port), (8888, 8889));
        let any = parse(&[], Some("0")).unwrap().unwrap();
        assert_eq!((any.port, any.aws_port), (0, 0));
        let error = parse(&[], Some("http")).unwrap_err();
        assert_eq!(error.to_string(), "PORT must be a port, 0 to 65535");
    }

    #[test]
    fn data_names_a_file_and_what_is_unknown_is_refused() {
        let data = parse(&["--data", "x.db"], None).unwrap().unwrap();
        assert_eq!(data.data.as_deref(), Some("x.db"));
        let ini = parse(&["--ini", "kinto.ini"], None).unwrap().unwrap();
        assert_eq!(ini.ini.as_deref(), Some("kinto.ini"));
        assert_eq!(parse(&["--help"], None).unwrap(), None);
        assert!(!parse(&[], None).unwrap().unwrap().rebuild_monitor);
        let command = parse(&["rebuild-monitor"], None).unwrap().unwrap();
        assert!(command.rebuild_monitor);
        assert!(!parse(&[], None).unwrap().unwrap().watch);
        assert!(parse(&["--watch"], None).unwrap().unwrap().watch);
        assert!(parse(&["rebuild"], None).is_err());
        assert!(parse(&["--date"], None).is_err());
        assert!(parse(&["--data"], None).is_err());
    }
}
