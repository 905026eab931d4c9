//! HMAC-SHA256, for user ids, ids of default buckets, cache keys of secrets, and signatures of webhooks.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// HMAC-SHA256 of `message`.
pub fn sign(key: &[u8], message: &str) -> [u8; 32] {
    // HMAC accepts keys of any length: this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; 32];
    };
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().into()
}

/// The bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_id_is_the_one_that_kinto_computes() {
        // Kinto 26.5.0's response with `userid_hmac_secret = s3cret` to `curl -u a:b`.
        assert_eq!(
            hex(&sign(b"s3cret", "a:b")),
            "ea9e08d8cae10602e265b0c84235330f9b0286c69abcf7a1877f2dc939b115f8"
        );
    }
}
