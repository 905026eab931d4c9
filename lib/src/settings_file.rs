//! Where the `kinto.ini` is kept that `KINTO_INI` refers to.
//!
//! That is a parameter of Systems Manager (SSM), an object of S3, or a file. It is read at the start of a function and now and
//! then while that is warm, and only where there is a reference.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http_client;
use crate::secrets;
use crate::settings::{MAX_INI_BYTES, SettingError, Vars};

/// The variable with the reference.
pub const KINTO_INI: &str = "KINTO_INI";
/// What S3 does not encode in the path of an object.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');
/// How long S3 may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An object of S3 cannot be read; the message follows its name.
#[derive(Debug, thiserror::Error)]
enum ObjectError {
    #[error("cannot be read: no region is set")]
    NoRegion,
    #[error("cannot be read: there are no credentials")]
    NoCredentials,
    #[error("cannot be read: {0}")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    #[error("cannot be read: S3 answers {0}")]
    Refused(StatusCode),
}

impl ObjectError {
    fn failed(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Failed(Box::new(error))
    }
}

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
            read.map_err(|it| problem(format!("the object {it}")))?
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
///
/// One signed GET, with what the SDK signs with and the client that the functions have anyway: all of the SDK for S3
/// would be the largest part of each of them (docs/decisions/022-settings.md).
async fn object_of_s3(
    partition: &str,
    bucket: &str,
    key: &str,
    config: &SdkConfig,
) -> Result<Vec<u8>, ObjectError> {
    let region = config.region().ok_or(ObjectError::NoRegion)?;
    let endpoint = config.endpoint_url().map_or_else(
        || {
            let suffix = if partition == "aws-cn" { ".cn" } else { "" };
            format!("https://s3.{region}.amazonaws.com{suffix}")
        },
        |endpoint| endpoint.trim_end_matches('/').to_owned(),
    );
    let path = format!("{bucket}/{key}");
    let url = format!("{endpoint}/{}", utf8_percent_encode(&path, UNRESERVED));
    let credentials = config
        .credentials_provider()
        .ok_or(ObjectError::NoCredentials)?;
    let credentials = credentials.provide_credentials().await;
    let identity = credentials.map_err(ObjectError::failed)?.into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(ObjectError::failed)?;
    let body = SignableBody::Bytes(&[]);
    let signable = SignableRequest::new("GET", &url, std::iter::empty(), body);
    let signable = signable.map_err(ObjectError::failed)?;
    let signed = sign(signable, &parameters.into()).map_err(ObjectError::failed)?;
    let client = http_client::builder(TIMEOUT).timeout(TIMEOUT).build();
    let client = client.map_err(ObjectError::failed)?;
    let mut request = client.get(&url);
    for (name, value) in signed.output().headers() {
        request = request.header(name, value);
    }
    let mut answer = request.send().await.map_err(ObjectError::failed)?;
    if !answer.status().is_success() {
        return Err(ObjectError::Refused(answer.status()));
    }
    let mut bytes = vec![];
    while let Some(chunk) = answer.chunk().await.map_err(ObjectError::failed)? {
        bytes.extend_from_slice(&chunk);
        // What is too large is refused where it is parsed.
        if bytes.len() > MAX_INI_BYTES {
            break;
        }
    }
    Ok(bytes)
}
