//! Objects of S3, copied from and to files.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use kinto_serverless::error_chain::ErrorChain;

/// Bytes of a part: S3 takes 10,000, so that an object may have 320 GB.
const PART: u64 = 32 * 1024 * 1024;

/// Why an object was not copied.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// The URL.
    #[error("{0} must have the form s3://BUCKET/KEY")]
    Url(String),
    /// S3.
    #[error("S3: {0}")]
    Request(String),
    /// The file.
    #[error("the temporary file: {0}")]
    File(#[from] std::io::Error),
}

impl<E, R> From<SdkError<E, R>> for S3Error
where
    SdkError<E, R>: std::error::Error + 'static,
{
    fn from(error: SdkError<E, R>) -> Self {
        Self::Request(ErrorChain(&error).to_string())
    }
}

type Result<T> = std::result::Result<T, S3Error>;

/// One object.
#[derive(Debug)]
pub struct S3Object {
    client: Client,
    bucket: String,
    key: String,
}

impl S3Object {
    /// The one of `s3://BUCKET/KEY`, with credentials and region as the SDK finds them.
    ///
    /// # Errors
    /// The URL is of another form.
    pub async fn open(url: &str) -> Result<Self> {
        let named = url
            .strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
        let (bucket, key) = named.ok_or_else(|| S3Error::Url(url.to_owned()))?;
        let config = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
        Ok(Self {
            client: Client::new(&config),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }

    /// The one whose key is this one's, a slash and a name.
    #[must_use]
    pub fn under(&self, name: &str) -> Self {
        Self {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            key: format!("{}/{name}", self.key),
        }
    }

    /// Copies it into a file.
    ///
    /// # Errors
    /// It is not there or cannot be read, or the file cannot be written.
    pub async fn download(&self, path: &Path) -> Result<()> {
        let object = self.client.get_object().bucket(&self.bucket).key(&self.key);
        let mut body = object.send().await?.body;
        let mut file = File::create(path)?;
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| S3Error::Request(error.to_string()))?;
            file.write_all(&part)?;
        }
        Ok(())
    }

    /// Makes it what a file holds. It is there as a whole or, where this fails, as it was.
    ///
    /// # Errors
    /// It cannot be written, or the file cannot be read.
    pub async fn upload(&self, path: &Path) -> Result<()> {
        let mut file = File::open(path)?;
        let upload = self.client.create_multipart_upload();
        let upload = upload.bucket(&self.bucket).key(&self.key);
        let upload = upload.content_type("application/x-ndjson").send().await?;
        let id = upload.upload_id().unwrap_or_default();
        let uploaded = self.upload_parts(&mut file, id).await;
        if uploaded.is_err() {
            let abort = self.client.abort_multipart_upload();
            let abort = abort.bucket(&self.bucket).key(&self.key).upload_id(id);
            // What failed first is what counts.
            let _ = abort.send().await;
        }
        uploaded
    }

    async fn upload_parts(&self, file: &mut File, id: &str) -> Result<()> {
        let mut parts = vec![];
        for number in 1.. {
            let mut part = vec![];
            file.take(PART).read_to_end(&mut part)?;
            if part.is_empty() && number > 1 {
                break;
            }
            let sent = self.client.upload_part().part_number(number);
            let sent = sent.bucket(&self.bucket).key(&self.key).upload_id(id);
            let sent = sent.body(part.into()).send().await?;
            let part = CompletedPart::builder().part_number(number);
            parts.push(part.set_e_tag(sent.e_tag).build());
        }
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let whole = self.client.complete_multipart_upload();
        let whole = whole.bucket(&self.bucket).key(&self.key).upload_id(id);
        whole.multipart_upload(parts.build()).send().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_names_bucket_and_key() {
        let object = S3Object::open("s3://backups/kinto/2026-11-26.ndjson").await;
        let object = object.unwrap();
        assert_eq!(
            (&*object.bucket, &*object.key),
            ("backups", "kinto/2026-11-26.ndjson")
        );
        for wrong in ["s3://backups", "s3://backups/", "s3:///key", "backups/key"] {
            assert!(S3Object::open(wrong).await.is_err(), "{wrong}");
        }
    }
}
