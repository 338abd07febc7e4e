//! Large objects part by part ("multipart upload"), and uploads that nobody completed.

use std::fmt::Write as _;

use async_trait::async_trait;
use chrono::DateTime;
use md5::{Digest as _, Md5};
use reqwest::Method;

use super::S3Store;
use super::answer::Trouble;
use super::client::Request;
use super::xml::{self, Element};
use crate::model::{StoreName, Timestamp};
use crate::store::{Part, PartBuffers, PartStore, PartTag, StoreError, StoreErrorKind, Upload};

/// The smallest part. S3 wants 5 MiB at least; larger ones are fewer requests, smaller ones less to repeat and to hold.
const PART: u64 = 8 * 1024 * 1024;

/// S3 takes 10,000 parts; some room is left.
const PARTS: u64 = 9_000;

/// Parts under way at once; each is held in memory, and one more. R2 refuses more than two or three of one upload at a
/// time (litestream's pull request 951; Cloudflare's documentation said three).
const PARTS_AT_ONCE: usize = 4;
const PARTS_AT_ONCE_R2: usize = 3;

/// Pages of unfinished uploads after which something must be wrong with the store.
const PAGES: usize = 10_000;

#[async_trait]
impl PartStore for S3Store {
    /// All parts but the last are of one size, which R2 insists on.
    fn part_size(&self, size: u64) -> u64 {
        PART.max(size.div_ceil(PARTS))
    }

    fn parts_at_once(&self) -> usize {
        if self.name == StoreName::R2 { PARTS_AT_ONCE_R2 } else { PARTS_AT_ONCE }
    }

    fn buffers(&self) -> PartBuffers {
        self.buffers.clone()
    }

    async fn begin_upload(&self, key: &str) -> Result<Upload, StoreError> {
        let begin = async {
            let request =
                Request { method: Method::POST, key, query: &[("uploads", "")], ..Request::default() };
            let answer = self.client.send(request).await?;
            let document = answer.document("InitiateMultipartUploadResult")?;
            let id = document.need("UploadId").map_err(Trouble::broken)?;
            if id.is_empty() {
                return Err(Trouble::broken("the upload that was begun has no identifier"));
            }
            Ok(Upload { key: key.to_owned(), id: id.to_owned() })
        };
        begin.await.map_err(|trouble| self.error("begin an upload to", key, trouble))
    }

    async fn put_part(&self, upload: &Upload, number: u32, part: &Part) -> Result<PartTag, StoreError> {
        let text = number.to_string();
        let query = [("partNumber", text.as_str()), ("uploadId", upload.id.as_str())];
        match self.upload(&upload.key, &query, part).await {
            Ok(tag) => Ok(PartTag { number, tag }),
            Err(mut trouble) => {
                trouble.cause = format!("part {number}: {}", trouble.cause);
                Err(self.error("write", &upload.key, trouble))
            }
        }
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartTag],
        _size: u64,
    ) -> Result<(), StoreError> {
        self.complete(upload, parts)
            .await
            .map_err(|trouble| self.error("complete the upload to", &upload.key, trouble))
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.abort(upload).await.map_err(|trouble| self.error("give up the upload to", &upload.key, trouble))
    }
}

impl S3Store {
    async fn complete(&self, upload: &Upload, parts: &[PartTag]) -> Result<(), Trouble> {
        let mut document = String::from("<CompleteMultipartUpload>");
        for PartTag { number, tag } in parts {
            let tag = xml::escaped(tag);
            // Writing to a string does not fail.
            let _ = write!(
                document,
                "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag></Part>"
            );
        }
        document.push_str("</CompleteMultipartUpload>");
        let document = Part::new(document.into());
        let expected = composite(parts);
        let request = Request {
            method: Method::POST,
            key: &upload.key,
            query: &[("uploadId", &upload.id)],
            body: Some(&document),
            is_slow: true,
            ..Request::default()
        };
        let tag = match self.client.send(request).await {
            Ok(answer) => {
                let document = answer.document("CompleteMultipartUploadResult")?;
                let tag = document.need("ETag").map_err(Trouble::broken)?.trim_matches('"').to_owned();
                if !answer.etag_is_md5() {
                    return Ok(());
                }
                tag
            }
            // An attempt whose answer was lost may have completed it: then the object is there, made of these parts.
            Err(trouble) if trouble.code == "NoSuchUpload" => match self.tag_of(&upload.key).await? {
                Some(tag) if Some(&tag) == expected.as_ref() => return Ok(()),
                _ => return Err(trouble),
            },
            Err(trouble) => return Err(trouble),
        };
        match expected {
            Some(expected) if !tag.eq_ignore_ascii_case(&expected) => {
                let cause =
                    format!("the parts sent have the tag {expected}, the store has made {tag} of them");
                Err(Trouble::new(StoreErrorKind::Differs, cause))
            }
            _ => Ok(()),
        }
    }

    async fn tag_of(&self, key: &str) -> Result<Option<String>, Trouble> {
        let answer = self.client.send(Request { method: Method::HEAD, key, ..Request::default() }).await;
        Ok(answer.ok().and_then(|answer| answer.etag().map(ToOwned::to_owned)))
    }

    async fn abort(&self, upload: &Upload) -> Result<(), Trouble> {
        let query = [("uploadId", upload.id.as_str())];
        let request =
            Request { method: Method::DELETE, key: &upload.key, query: &query, ..Request::default() };
        match self.client.send(request).await {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.code == "NoSuchUpload" => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Gives up the uploads under the prefix that were begun before that time.
    pub(super) async fn abort_old(&self, prefix: &str, begun_before: Timestamp) -> Result<u64, Trouble> {
        let mut count = 0;
        let mut from: Option<(String, String)> = None;
        for _ in 0..PAGES {
            let mut query = vec![("uploads", ""), ("prefix", prefix), ("max-uploads", "1000")];
            if let Some((key, id)) = &from {
                query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
            }
            let answer = self.client.send(Request { query: &query, ..Request::default() }).await?;
            let list = answer.document("ListMultipartUploadsResult")?;
            for entry in list.children().iter().filter(|child| child.name() == "Upload") {
                let (upload, begun) = unfinished(entry).map_err(Trouble::broken)?;
                // What lies elsewhere is none of ours, even if the service doesn't heed the prefix.
                if upload.key.starts_with(prefix) && begun < begun_before {
                    self.abort(&upload).await?;
                    count += 1;
                }
            }
            if !list.need_bool("IsTruncated").map_err(Trouble::broken)? {
                return Ok(count);
            }
            let next = (
                list.need("NextKeyMarker").map_err(Trouble::broken)?.to_owned(),
                list.need("NextUploadIdMarker").map_err(Trouble::broken)?.to_owned(),
            );
            if from.as_ref() == Some(&next) {
                return Err(Trouble::broken("the list of uploads goes on where it began"));
            }
            from = Some(next);
        }
        Err(Trouble::broken(format!("the list of uploads does not end after {PAGES} pages")))
    }
}

fn unfinished(entry: &Element) -> Result<(Upload, Timestamp), String> {
    let upload = Upload { key: entry.need("Key")?.to_owned(), id: entry.need("UploadId")?.to_owned() };
    let text = entry.need("Initiated")?;
    let begun = DateTime::parse_from_rfc3339(text).map_err(|_| format!("the upload's time is {text:?}"))?;
    Ok((upload, begun.to_utc()))
}

/// The tag of an object made of these parts: MD5 of their MD5 sums, and their number. None when the tags are no MD5 sums.
fn composite(parts: &[PartTag]) -> Option<String> {
    let mut sums = Vec::new();
    for part in parts {
        sums.extend(hex::decode(&part.tag).ok().filter(|sum| sum.len() == 16)?);
    }
    Some(format!("{}-{}", hex::encode(Md5::digest(&sums)), parts.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_an_object_in_parts_is_what_s3_makes_of_it() {
        let part = |number, tag: &str| PartTag { number, tag: tag.to_owned() };
        // printf '%s%s' <the two sums> | xxd -r -p | md5sum
        let parts =
            [part(1, "5d41402abc4b2a76b9719d911017c592"), part(2, "7d793037a0760186574b0282f2f435e7")];
        assert_eq!(composite(&parts).as_deref(), Some("065947336a2f2a95ba8899f3675c3be6-2"));
        assert_eq!(composite(&[part(1, "not a sum")]), None);
    }
}
