//! The common settings of all HTTP clients, and the parser of `Retry-After`.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{ClientBuilder, Error, Response};

/// A client that follows no redirects: requests go where the settings say and nowhere else.
pub fn builder(connect_timeout: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("kinto-serverless/", env!("CARGO_PKG_VERSION")))
}

/// The same for requests that another mechanism retries, such as a queue: each is sent once, over a new connection.
pub fn builder_without_retries(connect_timeout: Duration) -> ClientBuilder {
    builder(connect_timeout)
        // A connection that was idle while the function slept may be dead, and a request lost on it would get no
        // response.
        .pool_max_idle_per_host(0)
        .retry(reqwest::retry::never())
}

/// The body of a response; `None` if it has more than `max` bytes, of which no more are read.
///
/// # Errors
/// The connection fails.
pub async fn body_up_to(response: &mut Response, max: usize) -> Result<Option<Vec<u8>>, Error> {
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The pause that a response's `Retry-After` asks for; `None` if it is absent or invalid.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// Parses the value of `Retry-After`: seconds, or a date. `None` for anything else.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_289_972);
        let seconds = |value| parse_retry_after(value, now).map(|pause| pause.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sat, 21 Nov 2026 19:40:32 GMT"), Some(60));
        assert_eq!(seconds("Sat, 21 Nov 2026 19:39:30 GMT"), Some(0));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("-1"), None);
    }
}
