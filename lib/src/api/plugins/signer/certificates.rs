//! Certificates that near their end.

use std::collections::BTreeSet;

use crate::api::Api;
use crate::timestamp::Timestamp;

/// Looks at the certificates of all keys; `false` when some are not valid, or cannot be fetched. Logs these, and those that end soon, in words
/// that the alarm knows (template.yaml).
///
/// Each chain is fetched at most once an hour.
pub async fn are_valid(api: &Api) -> bool {
    let Some(signer) = &api.settings.api.signer else {
        return true;
    };
    let urls = signer.all_keys().flat_map(|keys| &keys.chains);
    let urls: BTreeSet<&String> = urls.collect();
    let now = Timestamp::now();
    let mut are_valid = true;
    for url in urls {
        match api.signer.chain(url).await {
            Ok(chain) if !chain.is_valid(now) => {
                tracing::error!(url, "a certificate of the signer is not valid");
                are_valid = false;
            }
            Ok(chain) if signer.warning.is_due(chain.begins, chain.ends, now) => {
                let days = chain.ends.since(now).as_secs() / (24 * 3600);
                tracing::error!(url, days, "a certificate of the signer ends soon");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "a certificate of the signer cannot be read");
                are_valid = false;
            }
        }
    }
    are_valid
}
