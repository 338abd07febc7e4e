//! Versions: what a bucket keeps of objects that were overwritten or deleted.

use super::S3Store;
use super::answer::Trouble;
use super::client::Request;
use super::xml::Element;

/// Pages of versions of one key after which something must be wrong with the store.
const PAGES: usize = 10_000;

impl S3Store {
    /// Deletes the versions of this key and the marks of its deletion: all of them, or all but the newest one.
    ///
    /// The newest goes last: after a fault in the middle the object is still what it was, and the next attempt
    /// goes on.
    pub(super) async fn delete_versions(&self, key: &str, with_newest: bool) -> Result<(), Trouble> {
        let mut versions = self.versions(key, |other| other == key).await?;
        // Newest first, says the API; gone is gone, so the order is turned.
        versions.reverse();
        let (newest, old): (Vec<_>, Vec<_>) = versions.into_iter().partition(|version| version.is_newest);
        for version in old.iter().chain(newest.iter().filter(|_| with_newest)) {
            self.delete_one(key, Some(&version.id)).await?;
        }
        Ok(())
    }

    /// The versions of the wanted keys among those that begin so, the newest of each key first.
    pub(super) async fn versions(
        &self,
        prefix: &str,
        wanted: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<Vec<Version>, Trouble> {
        let mut found = Vec::new();
        let mut from: Option<(String, String)> = None;
        for _ in 0..PAGES {
            let mut query = vec![("versions", ""), ("prefix", prefix), ("max-keys", "1000")];
            if let Some((key, version)) = &from {
                query.push(("key-marker", key));
                if !version.is_empty() {
                    query.push(("version-id-marker", version));
                }
            }
            let answer = self.client.send(Request { query: &query, ..Request::default() }).await?;
            let list = answer.document("ListVersionsResult")?;
            for entry in
                list.children().iter().filter(|child| ["Version", "DeleteMarker"].contains(&child.name()))
            {
                let version = Version::read(entry).map_err(Trouble::broken)?;
                if wanted(&version.key) {
                    found.push(version);
                }
            }
            if !list.need_bool("IsTruncated").map_err(Trouble::broken)? {
                return Ok(found);
            }
            let next = (
                list.need("NextKeyMarker").map_err(Trouble::broken)?.to_owned(),
                list.text("NextVersionIdMarker").unwrap_or_default().to_owned(),
            );
            if from.as_ref() == Some(&next) {
                return Err(Trouble::broken("the list of versions goes on where it began"));
            }
            from = Some(next);
        }
        Err(Trouble::broken(format!("the list of versions does not end after {PAGES} pages")))
    }
}

/// A version of an object, or the mark of its deletion.
pub(super) struct Version {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) is_newest: bool,
}

impl Version {
    fn read(entry: &Element) -> Result<Self, String> {
        Ok(Self {
            key: entry.need("Key")?.to_owned(),
            id: entry.need("VersionId")?.to_owned(),
            is_newest: entry.need_bool("IsLatest")?,
        })
    }
}
