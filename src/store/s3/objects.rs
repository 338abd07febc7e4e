//! Whole objects: read, look at, list, write, delete.

use async_trait::async_trait;
use chrono::DateTime;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, DATE, LAST_MODIFIED};

use super::S3Store;
use super::answer::{Answer, Trouble};
use super::client::Request;
use crate::model::{StoreName, Timestamp};
use crate::store::{
    Body, ObjectInfo, Page, Part, PartStore, ReadStore, Store, StoreError, StoreErrorKind, bounded,
};

#[async_trait]
impl ReadStore for S3Store {
    fn name(&self) -> StoreName {
        self.name
    }

    fn locate(&self, key: &str) -> String {
        self.client.locate(key)
    }

    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        if length == 0 {
            return Ok(Vec::new());
        }
        if length > bounded::RANGE {
            return bounded::get(self, key, offset, length).await;
        }
        self.range(key, offset, length).await.map_err(|trouble| self.error("read", key, trouble))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.look_at(key).await.map_err(|trouble| self.error("look at", key, trouble))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        bounded::list(self, prefix).await
    }

    async fn list_page(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        self.page(prefix, from).await.map_err(|trouble| self.error("list", prefix, trouble))
    }

    async fn get_small(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.beginning(key).await {
            Ok((bytes, total)) if total > bytes.len() as u64 => {
                let (mut bytes, begun) = (bytes, total.min(bounded::RANGE));
                bytes.extend(self.get(key, begun, total - begun).await?);
                Ok(Some(bytes))
            }
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(trouble) if trouble.kind == StoreErrorKind::Absent => Ok(None),
            Err(trouble) => Err(self.error("read", key, trouble)),
        }
    }
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        if let Some(parts) = bounded::parts_for(self, &body) {
            return bounded::put(self, parts, key, body).await;
        }
        let whole = bounded::load(self, key, body).await?;
        self.upload(key, &[], &whole).await.map(drop).map_err(|trouble| self.error("write", key, trouble))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let result = if self.keeps_versions {
            self.delete_versions(key, true).await
        } else {
            self.delete_one(key, None).await
        };
        result.map_err(|trouble| self.error("delete", key, trouble))
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        let place = keys.first().map_or("", String::as_str);
        self.delete_all_of(keys).await.map_err(|trouble| self.error("delete", place, trouble))
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let query = [("list-type", "2"), ("max-keys", "1")];
        let answer = self.client.send(Request { query: &query, ..Request::default() }).await;
        let answer = answer.map_err(|trouble| self.error("look at the clock of", "", trouble))?;
        let told = answer.header(DATE).and_then(|text| DateTime::parse_from_rfc2822(text).ok());
        Ok(told.map(|time| time.to_utc()))
    }

    fn parts(&self) -> Option<&dyn PartStore> {
        Some(self)
    }

    async fn delete_old_versions(&self, key: &str) -> Result<(), StoreError> {
        if !self.keeps_versions {
            return Ok(());
        }
        self.delete_versions(key, false)
            .await
            .map_err(|trouble| self.error("delete old versions of", key, trouble))
    }

    async fn abort_unfinished(&self, prefix: &str, begun_before: Timestamp) -> Result<u64, StoreError> {
        self.abort_old(prefix, begun_before)
            .await
            .map_err(|trouble| self.error("give up uploads under", prefix, trouble))
    }
}

impl S3Store {
    /// Exactly these bytes.
    async fn range(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, Trouble> {
        let last =
            offset.checked_add(length - 1).ok_or_else(|| Trouble::bug("the range has no end".to_owned()))?;
        let request = Request { key, range: Some((offset, last)), ..Request::default() };
        let answer = self.client.send(request).await?;
        let (first, end, total) = ranged(&answer)?;
        if total <= last {
            let cause = format!("it ends after {total} bytes, at least {} were stored", last + 1);
            return Err(Trouble::new(StoreErrorKind::Short, cause));
        }
        if (first, end) != (offset, last) {
            let cause = format!("bytes {offset} to {last} were asked for, bytes {first} to {end} came");
            return Err(Trouble::broken(cause));
        }
        Ok(answer.body)
    }

    /// The object's first bytes and its size.
    async fn beginning(&self, key: &str) -> Result<(Vec<u8>, u64), Trouble> {
        let request = Request { key, range: Some((0, bounded::RANGE - 1)), ..Request::default() };
        let answer = match self.client.send(request).await {
            // No range is within an object of no bytes.
            Err(trouble) if trouble.kind == StoreErrorKind::Short => {
                return match self.look_at(key).await? {
                    Some(ObjectInfo { size: 0, .. }) => Ok((Vec::new(), 0)),
                    _ => Err(trouble),
                };
            }
            answer => answer?,
        };
        if answer.status == 200 && answer.body.is_empty() && answer.header(CONTENT_LENGTH) == Some("0") {
            return Ok((Vec::new(), 0));
        }
        let (first, end, total) = ranged(&answer)?;
        if first != 0 || end + 1 != total.min(bounded::RANGE) {
            return Err(Trouble::broken(format!("the beginning was asked for, bytes {first} to {end} came")));
        }
        Ok((answer.body, total))
    }

    /// What the store says of the object.
    pub(super) async fn look_at(&self, key: &str) -> Result<Option<ObjectInfo>, Trouble> {
        let request = Request { method: Method::HEAD, key, ..Request::default() };
        let answer = match self.client.send(request).await {
            Ok(answer) => answer,
            // The answer to HEAD has no body, so 404 may also mean that there is no such bucket, or that this is no
            // S3 service at all. Asked for a byte, it has to say which.
            Err(trouble) if trouble.status == Some(404) => {
                let request = Request { key, range: Some((0, 0)), ..Request::default() };
                return match self.client.send(request).await {
                    Err(trouble) if trouble.kind == StoreErrorKind::Absent => Ok(None),
                    Err(trouble) => Err(trouble),
                    Ok(_) => Err(Trouble::new(
                        StoreErrorKind::Server,
                        "the store says that it has the object and that it has not".to_owned(),
                    )),
                };
            }
            Err(trouble) => return Err(trouble),
        };
        let size = answer.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let (Some(size), Some(_)) = (size, answer.etag()) else {
            return Err(Trouble::broken("the answer has no length or no tag: this is no S3 service"));
        };
        let modified = answer.header(LAST_MODIFIED).and_then(|text| DateTime::parse_from_rfc2822(text).ok());
        Ok(Some(ObjectInfo { key: key.to_owned(), size, modified: modified.map(|time| time.to_utc()) }))
    }

    /// One page of the list, checked: half a list is an order to delete.
    async fn page(&self, prefix: &str, from: Option<&str>) -> Result<Page, Trouble> {
        let mut query = vec![("list-type", "2"), ("max-keys", "1000"), ("prefix", prefix)];
        query.extend(from.map(|token| ("continuation-token", token)));
        let answer = self.client.send(Request { query: &query, ..Request::default() }).await?;
        let list = answer.document("ListBucketResult")?;
        let mut objects = Vec::new();
        for object in list.children().iter().filter(|child| child.name() == "Contents") {
            let key = object.need("Key").map_err(Trouble::broken)?;
            let size = object.need("Size").map_err(Trouble::broken)?;
            let size = size.parse().map_err(|_| Trouble::broken(format!("the size of {key} is {size:?}")))?;
            if !key.starts_with(prefix) {
                return Err(Trouble::broken(format!("the list holds {key}, which was not asked for")));
            }
            let modified =
                object.text("LastModified").and_then(|text| DateTime::parse_from_rfc3339(text).ok());
            objects.push(ObjectInfo {
                key: key.to_owned(),
                size,
                modified: modified.map(|time| time.to_utc()),
            });
        }
        if let Some(count) = list.text("KeyCount").and_then(|text| text.parse::<usize>().ok())
            && count != objects.len()
        {
            return Err(Trouble::broken(format!(
                "the list announces {count} keys and has {}",
                objects.len()
            )));
        }
        let next = if list.need_bool("IsTruncated").map_err(Trouble::broken)? {
            let token = list.text("NextContinuationToken").filter(|token| !token.is_empty());
            let token =
                token.ok_or_else(|| Trouble::broken("the list is cut off without saying where to go on"))?;
            if Some(token) == from {
                return Err(Trouble::broken("the list goes on where it began"));
            }
            Some(token.to_owned())
        } else {
            None
        };
        Ok(Page { objects, next })
    }

    /// Sends bytes as an object, or as a part of one, and compares the tag that comes back. Returns it.
    pub(super) async fn upload(
        &self,
        key: &str,
        query: &[(&str, &str)],
        part: &Part,
    ) -> Result<String, Trouble> {
        let request = Request { method: Method::PUT, key, query, body: Some(part), ..Request::default() };
        let answer = self.client.send(request).await?;
        let tag =
            answer.etag().ok_or_else(|| Trouble::broken("the answer has no tag of what was written"))?;
        let md5 = part.md5();
        if answer.etag_is_md5() && !tag.eq_ignore_ascii_case(md5) {
            let cause = format!("what was sent has the MD5 {md5}, the store has taken {tag}");
            return Err(Trouble::new(StoreErrorKind::Differs, cause));
        }
        Ok(tag.to_owned())
    }

    /// Deletes the object, or this version of it; that it is not there is fine.
    pub(super) async fn delete_one(&self, key: &str, version: Option<&str>) -> Result<(), Trouble> {
        let query: Vec<(&str, &str)> = version.map(|id| ("versionId", id)).into_iter().collect();
        match self
            .client
            .send(Request { method: Method::DELETE, key, query: &query, ..Request::default() })
            .await
        {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.kind == StoreErrorKind::Absent || trouble.code == "NoSuchVersion" => {
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }
}

/// The range in an answer, checked against what came.
fn ranged(answer: &Answer) -> Result<(u64, u64, u64), Trouble> {
    let status = answer.status;
    let range = answer.content_range().filter(|_| status == 206);
    let (first, end, total) = range
        .ok_or_else(|| Trouble::broken(format!("a range was asked for, HTTP {status} without one came")))?;
    let length = answer.body.len() as u64;
    if end < first || end >= total || end - first + 1 != length {
        return Err(Trouble::broken(format!(
            "bytes {first} to {end} of {total} were announced, {length} came"
        )));
    }
    Ok((first, end, total))
}
