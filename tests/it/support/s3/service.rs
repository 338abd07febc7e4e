//! The operations of S3 that a backup tool may use, with the answers that R2 and B2 give.

use std::ops::Bound;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use hyper::body::Bytes;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, BucketLocationConstraint, BucketVersioningStatus,
    CommonPrefix, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteMarkerEntry, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, ETagCondition, EncodingType,
    Error as ObjectError, GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsV2Input, ListObjectsV2Output,
    ListPartsInput, ListPartsOutput, MultipartUpload, Object, ObjectVersion, Part, PutObjectInput,
    PutObjectOutput, Range, StreamingBlob, Timestamp, UploadPartInput, UploadPartOutput,
};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::bucket::{Begun, Contents, Version, md5};
use super::{Shared, State, lock};

/// A PUT, or a part, is at most this large with S3; here it bounds memory.
const LARGEST_BODY: usize = 5 << 30;

/// Who may sign.
pub(super) struct Users(pub(super) Shared);

#[async_trait::async_trait]
impl S3Auth for Users {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let state = lock(&self.0);
        let user = state.users.get(access_key);
        let user = user.ok_or_else(|| s3_error!(InvalidAccessKeyId, "the access key does not exist"))?;
        Ok(SecretKey::from(user.secret_key.clone()))
    }
}

/// Who may do what; here the requests are counted, too.
pub(super) struct Rights(pub(super) Shared);

#[async_trait::async_trait]
impl S3Access for Rights {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = context.s3_op().name().to_owned();
        let mut state = lock(&self.0);
        *state.requests.entry(operation.clone()).or_default() += 1;
        let Some(credentials) = context.credentials() else {
            return Err(s3_error!(AccessDenied, "the request is not signed"));
        };
        only_what_r2_and_b2_know(context)?;
        if let Some(region) = &state.options.region {
            signed_for_region(context, region)?;
        }
        let denied = || s3_error!(AccessDenied, "the key has no right to {operation}");
        // A key that is restricted to buckets may not list them all.
        let bucket = context.s3_path().get_bucket_name().ok_or_else(denied)?;
        if !state.buckets.contains_key(bucket) {
            return Err(s3_error!(NoSuchBucket, "the bucket {bucket} does not exist"));
        }
        let user = state.users.get(&credentials.access_key).ok_or_else(denied)?;
        let is_write = ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
            .contains(&operation.as_str());
        let is_denied = (is_write && state.options.deny_writes)
            || (operation == "DeleteObject" && state.options.deny_deletes)
            || !user.buckets.contains(bucket);
        if is_denied { Err(denied()) } else { Ok(()) }
    }
}

/// Bodies signed in chunks and the checksums that came to S3 later have broken tools on R2 and B2 more than once.
fn only_what_r2_and_b2_know(context: &S3AccessContext<'_>) -> S3Result<()> {
    for (name, value) in context.headers() {
        let name = name.as_str();
        let chunked = name == "x-amz-content-sha256" && value.as_bytes().starts_with(b"STREAMING-");
        let checksum = name.starts_with("x-amz-checksum-")
            || ["x-amz-sdk-checksum-algorithm", "x-amz-trailer"].contains(&name);
        if chunked || checksum {
            return Err(s3_error!(NotImplemented, "header {name} with this value is not implemented"));
        }
    }
    Ok(())
}

fn signed_for_region(context: &S3AccessContext<'_>, region: &str) -> S3Result<()> {
    let header = context.headers().get("authorization").and_then(|value| value.to_str().ok());
    // `Credential=KEY/DATE/REGION/s3/aws4_request`; what is presigned has no such header.
    let signed = header.and_then(|header| header.split("Credential=").nth(1)?.split('/').nth(2));
    if signed.is_some_and(|signed| signed != region) {
        return Err(s3_error!(AuthorizationHeaderMalformed, "the region is wrong; expecting '{region}'"));
    }
    Ok(())
}

/// The operations.
pub(super) struct Service {
    state: Shared,
}

impl Service {
    pub(super) fn new(state: Shared) -> Self {
        Self { state }
    }

    fn bucket<T>(&self, name: &str, look: impl FnOnce(&Contents, &State) -> S3Result<T>) -> S3Result<T> {
        let state = lock(&self.state);
        look(contents(&state, name)?, &state)
    }

    fn upload<T>(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        look: impl FnOnce(&Begun) -> S3Result<T>,
    ) -> S3Result<T> {
        self.bucket(bucket, |contents, _| {
            let upload = contents.uploads.get(id).filter(|upload| upload.key == key);
            look(upload.ok_or_else(no_such_upload)?)
        })
    }
}

fn contents<'a>(state: &'a State, name: &str) -> S3Result<&'a Contents> {
    state.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket))
}

fn contents_mut<'a>(state: &'a mut State, name: &str) -> S3Result<&'a mut Contents> {
    state.buckets.get_mut(name).ok_or_else(|| s3_error!(NoSuchBucket))
}

fn no_such_upload() -> S3Error {
    s3_error!(NoSuchUpload, "the upload does not exist; it may have been aborted or completed")
}

/// Reads a body to its end; what is not as long or not as signed is refused.
async fn receive(body: Option<StreamingBlob>, content_md5: Option<&str>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let received = Body::from(body).store_all_limited(LARGEST_BODY).await;
    let bytes = received.map_err(|error| {
        let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
        let mut refused = S3Error::with_message_fmt(code, format_args!("the body is not as signed: {error}"));
        refused.set_status_code(StatusCode::BAD_REQUEST);
        refused
    })?;
    if content_md5.is_some_and(|given| given != BASE64.encode(md5(&bytes))) {
        return Err(s3_error!(BadDigest, "Content-MD5 is not that of the body"));
    }
    Ok(bytes)
}

fn tag(hex: &str) -> ETag {
    ETag::Strong(hex.to_owned())
}

fn time(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

fn size(bytes: &Bytes) -> i64 {
    i64::try_from(bytes.len()).expect("fits")
}

/// What GET and HEAD have in common: the version that is asked for, its bytes, and which of them.
fn found(
    contents: &Contents,
    key: &str,
    version_id: Option<&str>,
    range: Option<Range>,
) -> S3Result<(Version, Bytes, Option<String>)> {
    let version = match version_id {
        None => contents.current(key).ok_or_else(|| s3_error!(NoSuchKey, "the key {key} does not exist"))?,
        Some(id) => {
            let versions = contents.objects.get(key);
            let version = versions.and_then(|versions| versions.iter().find(|version| version.id == id));
            version.ok_or_else(|| s3_error!(NoSuchVersion))?
        }
    };
    let bytes = version.bytes.clone().ok_or_else(|| s3_error!(MethodNotAllowed, "a marker of deletion"))?;
    let Some(range) = range else { return Ok((version.clone(), bytes, None)) };
    let length = bytes.len() as u64;
    let wanted = range.check(length).map_err(|_| s3_error!(InvalidRange, "the range is not satisfiable"))?;
    let content_range = format!("bytes {}-{}/{length}", wanted.start, wanted.end - 1);
    let wanted = usize::try_from(wanted.start).expect("fits")..usize::try_from(wanted.end).expect("fits");
    Ok((version.clone(), bytes.slice(wanted), Some(content_range)))
}

/// The version's id as it is told: only where there are versions.
fn told(version: &str) -> Option<String> {
    (version != "null").then(|| version.to_owned())
}

impl State {
    /// Deletes as DELETE does: one version for good, or the current object, which with versions is only hidden.
    fn delete(&mut self, bucket: &str, key: &str, version_id: Option<&str>) -> S3Result<Option<String>> {
        match version_id {
            None if self.options.versions => Ok(told(&self.add(bucket, key, None, String::new()))),
            None => {
                contents_mut(self, bucket)?.objects.remove(key);
                Ok(None)
            }
            Some(id) => {
                let contents = contents_mut(self, bucket)?;
                if let Some(versions) = contents.objects.get_mut(key) {
                    versions.retain(|version| version.id != id);
                    if versions.is_empty() {
                        contents.objects.remove(key);
                    }
                }
                Ok(Some(id.to_owned()))
            }
        }
    }
}

/// An entry of a listing: something with a key, or a group of such.
enum Entry<T> {
    One(T),
    Group(String),
}

/// One page of sorted items: those with the prefix, grouped at the delimiter, none of them up to `after`. With the
/// page comes the name of its last entry if there are more.
fn page<T>(
    items: impl Iterator<Item = (String, T)>,
    prefix: &str,
    delimiter: Option<&str>,
    after: &str,
    most: usize,
) -> (Vec<Entry<T>>, Option<String>) {
    let mut entries = Vec::new();
    let mut last = String::new();
    for (key, item) in items.skip_while(|(key, _)| !key.starts_with(prefix)) {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        let group = delimiter.and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(format!("{prefix}{}", &rest[..end]))
        });
        let name = group.clone().unwrap_or(key);
        // All of a group are one entry, here or on the page before.
        if group.is_some() && (name == last || name == after) {
            continue;
        }
        if entries.len() == most {
            return (entries, Some(last));
        }
        last = name;
        entries.push(group.map_or(Entry::One(item), Entry::Group));
    }
    (entries, None)
}

fn split<T>(entries: Vec<Entry<T>>) -> (Vec<T>, Vec<CommonPrefix>) {
    let (mut ones, mut groups) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::One(one) => ones.push(one),
            Entry::Group(prefix) => groups.push(CommonPrefix { prefix: Some(prefix) }),
        }
    }
    (ones, groups)
}

/// The keys of a listing are told as they are.
fn no_encoding(encoding: Option<&EncodingType>) -> S3Result<()> {
    match encoding {
        Some(_) => Err(s3_error!(NotImplemented, "encoding-type is not implemented")),
        None => Ok(()),
    }
}

fn most(asked: Option<i32>, state: &State) -> usize {
    let asked = asked.and_then(|asked| usize::try_from(asked).ok()).unwrap_or(1000);
    asked.min(1000).min(state.options.page_size)
}

/// What a listing's token begins with: it must come back as it was given.
const TOKEN: &str = "1+/=&";

fn token_for(last: &str) -> String {
    format!("{TOKEN}{}", BASE64.encode(last))
}

fn last_of(token: &str) -> S3Result<String> {
    let last = token.strip_prefix(TOKEN).and_then(|token| BASE64.decode(token).ok());
    let last = last.and_then(|last| String::from_utf8(last).ok());
    last.ok_or_else(|| s3_error!(InvalidArgument, "the continuation token is incorrect"))
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn head_bucket(&self, _: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        _: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let region = lock(&self.state).options.region.clone();
        let location_constraint = region.map(BucketLocationConstraint::from);
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    async fn get_bucket_versioning(
        &self,
        _: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let enabled = lock(&self.state).options.versions;
        let status = enabled.then(|| BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED));
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let bytes = receive(input.body, input.content_md5.as_deref()).await?;
        let etag = hex::encode(md5(&bytes));
        let mut state = lock(&self.state);
        let exists = contents(&state, &input.bucket)?.current(&input.key).is_some();
        if let Some(condition) = &input.if_none_match {
            if state.options.versions || !matches!(condition, ETagCondition::Any) {
                return Err(s3_error!(NotImplemented, "this If-None-Match is not implemented"));
            }
            if exists {
                return Err(s3_error!(PreconditionFailed, "the key exists"));
            }
        }
        let version = state.add(&input.bucket, &input.key, Some(bytes), etag.clone());
        let (e_tag, version_id) = (Some(tag(&etag)), told(&version));
        Ok(S3Response::new(PutObjectOutput { e_tag, version_id, ..Default::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let (version, bytes, content_range) = self.bucket(&input.bucket, |contents, _| {
            found(contents, &input.key, input.version_id.as_deref(), input.range)
        })?;
        let status = if content_range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(size(&bytes)),
            content_range,
            e_tag: Some(tag(&version.etag)),
            last_modified: Some(time(version.modified)),
            version_id: told(&version.id),
            body: Some(StreamingBlob::from(Body::from(bytes))),
            ..Default::default()
        };
        Ok(S3Response::with_status(output, status))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let (version, bytes, _) = self.bucket(&input.bucket, |contents, _| {
            found(contents, &input.key, input.version_id.as_deref(), None)
        })?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(size(&bytes)),
            e_tag: Some(tag(&version.etag)),
            last_modified: Some(time(version.modified)),
            version_id: told(&version.id),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let version_id = lock(&self.state).delete(&input.bucket, &input.key, input.version_id.as_deref())?;
        let delete_marker = (input.version_id.is_none() && version_id.is_some()).then_some(true);
        Ok(S3Response::new(DeleteObjectOutput { version_id, delete_marker, ..Default::default() }))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        let mut state = lock(&self.state);
        if input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML, "more than 1000 keys"));
        }
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            // Refused one by one, and the whole answered 200: as real services do it.
            if state.options.deny_deletes {
                let (code, message) =
                    (Some("AccessDenied".to_owned()), Some("no right to delete".to_owned()));
                let key = Some(object.key);
                errors.push(ObjectError { code, key, message, version_id: object.version_id });
                continue;
            }
            let made = state.delete(&input.bucket, &object.key, object.version_id.as_deref())?;
            let is_marker = object.version_id.is_none() && made.is_some();
            deleted.push(DeletedObject {
                key: Some(object.key),
                version_id: object.version_id,
                delete_marker: is_marker.then_some(true),
                delete_marker_version_id: if is_marker { made } else { None },
            });
        }
        if input.delete.quiet == Some(true) {
            deleted.clear();
        }
        let (deleted, errors) = (Some(deleted), Some(errors));
        Ok(S3Response::new(DeleteObjectsOutput { deleted, errors, ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        no_encoding(input.encoding_type.as_ref())?;
        let after = match &input.continuation_token {
            Some(token) => last_of(token)?,
            None => input.start_after.clone().unwrap_or_default(),
        };
        let prefix = input.prefix.clone().unwrap_or_default();
        let (entries, last) = self.bucket(&input.bucket, |contents, state| {
            let from = if after >= prefix { Bound::Excluded(&after) } else { Bound::Included(&prefix) };
            let current =
                contents.objects.range::<String, _>((from, Bound::Unbounded)).filter_map(|(key, _)| {
                    let version = contents.current(key)?;
                    Some((key.clone(), (key, version)))
                });
            let most = most(input.max_keys, state);
            let (entries, last) = page(current, &prefix, input.delimiter.as_deref(), &after, most);
            let object = |(key, version): (&String, &Version)| Object {
                key: Some(key.clone()),
                size: version.bytes.as_ref().map(size),
                e_tag: Some(tag(&version.etag)),
                last_modified: Some(time(version.modified)),
                ..Default::default()
            };
            let owned = entries.into_iter().map(|entry| match entry {
                Entry::One(one) => Entry::One(object(one)),
                Entry::Group(group) => Entry::Group(group),
            });
            Ok((owned.collect::<Vec<_>>(), last))
        })?;
        let key_count = i32::try_from(entries.len()).ok();
        let (objects, groups) = split(entries);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            key_count,
            continuation_token: input.continuation_token,
            is_truncated: Some(last.is_some()),
            next_continuation_token: last.as_deref().map(token_for),
            contents: Some(objects),
            common_prefixes: Some(groups),
            ..Default::default()
        }))
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        no_encoding(input.encoding_type.as_ref())?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.key_marker.clone().unwrap_or_default();
        // The versions of the marker's key that come after the marker's version, or none of them.
        let after_version = input.version_id_marker.clone().unwrap_or_default();
        let (entries, last) = self.bucket(&input.bucket, |contents, state| {
            let all = contents.objects.range(after.clone()..).flat_map(|(key, versions)| {
                versions.iter().rev().enumerate().map(move |(place, version)| (key, place == 0, version))
            });
            let mut seen = after.is_empty();
            let rest = all.filter(|(key, _, version)| {
                let before = !seen && **key == after;
                seen |= before && version.id == after_version;
                !before
            });
            let rest: Vec<_> = rest.map(|found| (found.0.clone(), found)).collect();
            let most = most(input.max_keys, state);
            let (entries, last) = page(rest.into_iter(), &prefix, input.delimiter.as_deref(), &after, most);
            let owned = entries.into_iter().map(|entry| match entry {
                Entry::One((key, newest, version)) => Entry::One((key.clone(), newest, version.clone())),
                Entry::Group(group) => Entry::Group(group),
            });
            Ok((owned.collect::<Vec<_>>(), last))
        })?;
        let next_version_id_marker = match entries.last() {
            Some(Entry::One((_, _, version))) if last.is_some() => Some(version.id.clone()),
            _ => None,
        };
        let (found, groups) = split(entries);
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (key, newest, version) in found {
            let (key, is_latest, last_modified) = (Some(key), Some(newest), Some(time(version.modified)));
            let version_id = Some(version.id);
            match version.bytes {
                Some(bytes) => versions.push(ObjectVersion {
                    e_tag: Some(tag(&version.etag)),
                    size: Some(size(&bytes)),
                    key,
                    is_latest,
                    last_modified,
                    version_id,
                    ..Default::default()
                }),
                None => markers.push(DeleteMarkerEntry {
                    key,
                    is_latest,
                    last_modified,
                    version_id,
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            key_marker: input.key_marker,
            version_id_marker: input.version_id_marker,
            max_keys: Some(input.max_keys.unwrap_or(1000)),
            is_truncated: Some(last.is_some()),
            next_key_marker: last,
            next_version_id_marker,
            versions: Some(versions),
            delete_markers: Some(markers),
            common_prefixes: Some(groups),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let mut state = lock(&self.state);
        state.next += 1;
        let hostile = if state.options.hostile_upload_ids { "+a/b=c&d e%2Ff+" } else { "" };
        let id = format!("upload{:08}{hostile}end", state.next);
        let begun = Begun {
            key: input.key.clone(),
            initiated: SystemTime::now(),
            parts: std::collections::BTreeMap::new(),
        };
        contents_mut(&mut state, &input.bucket)?.uploads.insert(id.clone(), begun);
        let (bucket, key, upload_id) = (Some(input.bucket), Some(input.key), Some(id));
        Ok(S3Response::new(CreateMultipartUploadOutput { bucket, key, upload_id, ..Default::default() }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        if !(1..=10_000).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "part numbers are 1 to 10000"));
        }
        // Before the body is read, and again after: it may have been aborted in between.
        self.upload(&input.bucket, &input.key, &input.upload_id, |_| Ok(()))?;
        let bytes = receive(input.body, input.content_md5.as_deref()).await?;
        let digest = md5(&bytes);
        let mut state = lock(&self.state);
        let upload = contents_mut(&mut state, &input.bucket)?.uploads.get_mut(&input.upload_id);
        upload.ok_or_else(no_such_upload)?.parts.insert(input.part_number, (bytes, digest));
        let e_tag = Some(tag(&hex::encode(digest)));
        Ok(S3Response::new(UploadPartOutput { e_tag, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let mut state = lock(&self.state);
        let options = state.options.clone();
        let contents = contents_mut(&mut state, &input.bucket)?;
        let upload = contents.uploads.get(&input.upload_id).filter(|upload| upload.key == input.key);
        let upload = upload.ok_or_else(no_such_upload)?;

        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let (mut bytes, mut digests, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = 0;
        for part in &named {
            let number = part.part_number.unwrap_or_default();
            if number <= before {
                return Err(s3_error!(InvalidPartOrder, "the parts are not in ascending order"));
            }
            before = number;
            let (stored, digest) =
                upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart, "no part {number}"))?;
            if part.e_tag.as_ref().map(ETag::value) != Some(hex::encode(digest).as_str()) {
                return Err(s3_error!(InvalidPart, "part {number} has another ETag"));
            }
            bytes.extend_from_slice(stored);
            digests.extend_from_slice(digest);
            sizes.push(stored.len());
        }
        let Some((last, others)) = sizes.split_last() else {
            return Err(s3_error!(MalformedXML, "an upload has at least one part"));
        };
        if others.iter().any(|size| *size < options.smallest_part) {
            return Err(s3_error!(EntityTooSmall, "a part is smaller than the minimum"));
        }
        let equal =
            others.iter().all(|size| size == &others[0]) && others.first().is_none_or(|size| last <= size);
        if options.equal_parts && !equal {
            return Err(s3_error!(InvalidPart, "all parts but the last must have the same length"));
        }

        contents.uploads.remove(&input.upload_id);
        let etag = format!("{}-{}", hex::encode(md5(&digests)), named.len());
        let version = state.add(&input.bucket, &input.key, Some(bytes.into()), etag.clone());
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(tag(&etag)),
            version_id: told(&version),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.upload(&input.bucket, &input.key, &input.upload_id, |_| Ok(()))?;
        contents_mut(&mut lock(&self.state), &input.bucket)?.uploads.remove(&input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        no_encoding(input.encoding_type.as_ref())?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.key_marker.clone().unwrap_or_default();
        let after_id = input.upload_id_marker.clone();
        let (entries, last) = self.bucket(&input.bucket, |contents, state| {
            let uploads = contents.uploads.iter().map(|(id, upload)| MultipartUpload {
                key: Some(upload.key.clone()),
                upload_id: Some(id.clone()),
                initiated: Some(time(upload.initiated)),
                ..Default::default()
            });
            let mut sorted: Vec<_> = uploads.collect();
            sorted.sort_by(|one, other| (&one.key, &one.upload_id).cmp(&(&other.key, &other.upload_id)));
            let named = sorted.into_iter().map(|upload| (upload.key.clone().unwrap_or_default(), upload));
            let rest = named.filter(|(key, upload)| {
                after.is_empty()
                    || *key > after
                    || (*key == after && after_id.is_some() && upload.upload_id > after_id)
            });
            let most = most(input.max_uploads, state);
            Ok(page(rest, &prefix, input.delimiter.as_deref(), &after, most))
        })?;
        let next_upload_id_marker = match entries.last() {
            Some(Entry::One(upload)) if last.is_some() => upload.upload_id.clone(),
            _ => None,
        };
        let (uploads, groups) = split(entries);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            key_marker: input.key_marker,
            upload_id_marker: input.upload_id_marker,
            max_uploads: Some(input.max_uploads.unwrap_or(1000)),
            is_truncated: Some(last.is_some()),
            next_key_marker: last,
            next_upload_id_marker,
            uploads: Some(uploads),
            common_prefixes: Some(groups),
            ..Default::default()
        }))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let most = most(input.max_parts, &lock(&self.state));
        let after = input.part_number_marker.unwrap_or_default();
        let (parts, is_truncated) = self.upload(&input.bucket, &input.key, &input.upload_id, |upload| {
            let rest = upload.parts.range(after + 1..);
            let parts = rest.clone().take(most).map(|(number, (bytes, digest))| Part {
                part_number: Some(*number),
                size: Some(size(bytes)),
                e_tag: Some(tag(&hex::encode(digest))),
                last_modified: Some(time(upload.initiated)),
                ..Default::default()
            });
            Ok((parts.collect::<Vec<_>>(), rest.count() > most))
        })?;
        let next_part_number_marker = parts.last().and_then(|part| part.part_number).filter(|_| is_truncated);
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(is_truncated),
            next_part_number_marker,
            parts: Some(parts),
            ..Default::default()
        }))
    }
}
