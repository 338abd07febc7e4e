//! Many objects deleted by one request ("multi-object delete").

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use reqwest::Method;

use super::S3Store;
use super::answer::{self, Trouble};
use super::client::Request;
use super::xml::{self, Element};
use crate::store::Part;

/// What one request takes.
const AT_ONCE: usize = 1000;

/// An object, or a version of one.
type Doomed = (String, Option<String>);

impl S3Store {
    /// Deletes these objects, with all their versions where the bucket keeps such: the newest version of each goes last,
    /// so that after a fault in the middle the object is still what it was.
    pub(super) async fn delete_all_of(&self, keys: &[String]) -> Result<(), Trouble> {
        if !self.keeps_versions {
            let objects: Vec<Doomed> = keys.iter().map(|key| (key.clone(), None)).collect();
            return self.delete_batches(&objects).await;
        }
        let (mut old, mut newest) = (Vec::new(), Vec::new());
        for (directory, keys) in by_directory(keys) {
            for version in self.versions(directory, |key| keys.contains(key)).await? {
                let place = if version.is_newest { &mut newest } else { &mut old };
                place.push((version.key, Some(version.id)));
            }
        }
        self.delete_batches(&old).await?;
        self.delete_batches(&newest).await
    }

    async fn delete_batches(&self, doomed: &[Doomed]) -> Result<(), Trouble> {
        for batch in doomed.chunks(AT_ONCE) {
            match self.delete_batch(batch).await {
                // Not every service that speaks S3 knows this request.
                Err(trouble)
                    if trouble.code == "NotImplemented" || matches!(trouble.status, Some(405 | 501)) =>
                {
                    for (key, version) in batch {
                        self.delete_one(key, version.as_deref()).await?;
                    }
                }
                deleted => deleted?,
            }
        }
        Ok(())
    }

    async fn delete_batch(&self, batch: &[Doomed]) -> Result<(), Trouble> {
        let mut document = String::from("<Delete><Quiet>true</Quiet>");
        for (key, version) in batch {
            // Writing to a string does not fail.
            let _ = write!(document, "<Object><Key>{}</Key>", xml::escaped(key));
            if let Some(version) = version {
                let _ = write!(document, "<VersionId>{}</VersionId>", xml::escaped(version));
            }
            document.push_str("</Object>");
        }
        document.push_str("</Delete>");
        let body = Part::new(document.into());
        let request = Request {
            method: Method::POST,
            query: &[("delete", "")],
            body: Some(&body),
            is_slow: true,
            has_md5: true,
            ..Request::default()
        };
        let answer = self.client.send(request).await?.document("DeleteResult")?;
        let mut errors = answer.children().iter().filter(|child| child.name() == "Error");
        errors.find_map(refused).map_or(Ok(()), Err)
    }
}

/// Why one of them was not deleted; that it is not there is fine.
fn refused(error: &Element) -> Option<Trouble> {
    let text = |name| error.text(name).unwrap_or_default().trim().to_owned();
    let (code, message, key) = (text("Code"), text("Message"), text("Key"));
    if ["NoSuchKey", "NoSuchVersion"].contains(&code.as_str()) {
        return None;
    }
    let mut trouble = answer::of_code(&code, &message);
    trouble.cause = format!("{key}: {}", trouble.cause);
    Some(trouble)
}

/// The keys by what they have in common up to the last `/`: one list of versions is enough for each.
fn by_directory(keys: &[String]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for key in keys {
        let directory = key.rfind('/').map_or("", |end| &key[..=end]);
        found.entry(directory).or_default().insert(key);
    }
    found
}
