//! Where the `kinto.ini` is kept that `KINTO_INI` refers to.
//!
//! That is a parameter of Systems Manager (SSM), an object of S3, or a file. It is read at the start of a function and now and
//! then while that is warm, and only where there is a reference.

use std::io::Read;
use std::path::Path;

use aws_config::SdkConfig;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error_chain::ErrorChain;
use crate::secrets;
use crate::settings::{MAX_INI_BYTES, SettingError, Vars};
use crate::signed_request::{RequestError, SignedRequest};

/// The variable with the reference.
pub const KINTO_INI: &str = "KINTO_INI";
/// What S3 does not encode in the path of an object.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Takes over the settings of the `kinto.ini` that `KINTO_INI` refers to; returns warnings of what is of no matter in it.
/// Makes no request, and no client, where there is no reference.
///
/// # Errors
/// The file cannot be read, or what is in it cannot be used.
pub async fn read(vars: &mut Vars, config: &SdkConfig) -> Result<Vec<String>, SettingError> {
    let Some(reference) = vars.text(KINTO_INI).map(str::to_owned) else {
        return Ok(vec![]);
    };
    let problem = |problem: String| SettingError::new(KINTO_INI, problem);
    // arn:partition:service:region:account:resource
    let parts: Vec<&str> = reference.splitn(6, ':').collect();
    let bytes = match *parts {
        ["arn", _, "ssm", _, _, resource] if resource.starts_with("parameter/") => {
            let read = secrets::parameter(&reference, config).await;
            let text = read.map_err(|it| problem(format!("the parameter {it}")))?;
            text.into_bytes()
        }
        ["arn", partition, "s3", _, _, resource] => {
            let object = resource.split_once('/').filter(|(_, key)| !key.is_empty());
            let (bucket, key) = object
                .ok_or_else(|| problem("must name a bucket and an object in it".to_owned()))?;
            let read = object_of_s3(partition, bucket, key, config).await;
            read.map_err(|it| problem(format!("the object cannot be read: {}", ErrorChain(&it))))?
        }
        ["arn", ..] => {
            let one = "must be the ARN of a parameter of Systems Manager or of an object of S3, or a file";
            return Err(problem(one.to_owned()));
        }
        _ => return read_file(vars, Path::new(&reference)),
    };
    vars.add_ini(&bytes, "")
}

/// Takes over the settings of a file; returns warnings as [`read`].
///
/// # Errors
/// The file cannot be read, or what is in it cannot be used.
pub fn read_file(vars: &mut Vars, path: &Path) -> Result<Vec<String>, SettingError> {
    let mut bytes = vec![];
    let file = std::fs::File::open(path);
    file.and_then(|file| file.take(MAX_INI_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| SettingError::new(KINTO_INI, format!("{}: {error}", path.display())))?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    vars.add_ini(&bytes, &path.to_string_lossy())
}

/// The object `key` of the bucket, which is in the function's own region.
async fn object_of_s3(
    partition: &str,
    bucket: &str,
    key: &str,
    config: &SdkConfig,
) -> Result<Vec<u8>, RequestError> {
    let path = format!("/{bucket}/{key}");
    let request = SignedRequest {
        service: "s3",
        partition,
        method: http::Method::GET,
        path: &utf8_percent_encode(&path, UNRESERVED).to_string(),
        headers: &[],
        body: vec![],
        max_length: MAX_INI_BYTES,
    };
    request.send(config).await
}
