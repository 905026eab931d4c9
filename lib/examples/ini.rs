//! What is read of ini files: each line of the input is a file as JSON text, each of the output its settings, or `null`
//! of one that is refused. `tests/settings/fuzz.py` compares that with `PasteDeploy`.

use std::io::{self, BufRead};

use kinto_serverless::settings::ini;
use serde_json::{Value, json};

fn main() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let settings = match ini::parse(text.as_bytes(), "/here/kinto.ini") {
            Ok(entries) => entries
                .into_iter()
                .map(|entry| (entry.key, Value::String(entry.value)))
                .collect(),
            Err(error) => {
                // What it says is looked at by the unit tests.
                eprintln!("{error}");
                json!(null)
            }
        };
        println!("{settings}");
    }
    Ok(())
}
