//! The two places in a cloud: `R2_*` and `B2_*`. Any S3-compatible service works in either through its ENDPOINT.

use super::alerts::is_loopback;
use super::faults::Faults;
use super::values::{Value, Values};
use crate::model::{Fault, StoreName};
use crate::system::Secret;

/// Where a cloud keeps objects for us, and as whom we come.
#[derive(Debug, Clone)]
pub struct Cloud {
    /// Which of the two places.
    pub name: StoreName,
    /// The service: `https://host[:port]`; `http` for loopback only.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// The key's identifier.
    pub access_key: String,
    /// The key's secret.
    pub secret_key: Secret,
    /// Whether deleting must remove all versions of an object: buckets of B2 keep them always.
    pub keeps_versions: bool,
}

/// R2 knows one region (Cloudflare's documentation, "R2", "S3 API compatibility").
const R2_REGION: &str = "auto";
/// What services without regions of their own expect when `B2_ENDPOINT` is none of Backblaze's.
const PLAIN_REGION: &str = "us-east-1";

/// Reads both; one of which nothing is set is none, one of which something is missing is a fault.
pub(super) fn read(values: &Values, faults: &mut Faults) -> Vec<Cloud> {
    [r2(values, faults), b2(values, faults)].into_iter().flatten().collect()
}

fn r2(values: &Values, faults: &mut Faults) -> Option<Cloud> {
    let account = values.get("R2_ACCOUNT_ID");
    let endpoint = match (values.get("R2_ENDPOINT"), account) {
        (Some(value), _) => faults.keep(endpoint(value)),
        (None, Some(value)) => faults.keep(plain_word(value)).map(|account| {
            // Cloudflare's documentation, "R2", "S3 API": each account has a host of its own.
            format!("https://{account}.r2.cloudflarestorage.com")
        }),
        (None, None) => None,
    };
    let region = values.get("R2_REGION").map_or_else(|| R2_REGION.to_owned(), |value| value.text.to_string());
    let parts = Parts {
        name: StoreName::R2,
        names: ["R2_BUCKET", "R2_ACCESS_KEY", "R2_SECRET_KEY"],
        others: &["R2_ACCOUNT_ID", "R2_ENDPOINT", "R2_REGION"],
        place: ["R2_ENDPOINT", "R2_ACCOUNT_ID"],
    };
    parts.gather(values, endpoint, region, false, faults)
}

fn b2(values: &Values, faults: &mut Faults) -> Option<Cloud> {
    let region = values.get("B2_REGION").and_then(|value| faults.keep(plain_word(value)));
    let endpoint = match (values.get("B2_ENDPOINT"), &region) {
        (Some(value), _) => faults.keep(endpoint(value)),
        // Backblaze's documentation, "Call the S3-Compatible API": the region is part of the host.
        (None, Some(region)) => Some(format!("https://s3.{region}.backblazeb2.com")),
        (None, None) => None,
    };
    let region = region
        .or_else(|| endpoint.as_deref().and_then(region_of_backblaze).map(ToOwned::to_owned))
        .unwrap_or_else(|| PLAIN_REGION.to_owned());
    let parts = Parts {
        name: StoreName::B2,
        names: ["B2_BUCKET_NAME", "B2_KEY_ID", "B2_APPLICATION_KEY"],
        others: &["B2_BUCKET_ID", "B2_ENDPOINT", "B2_REGION"],
        place: ["B2_REGION", "B2_ENDPOINT"],
    };
    parts.gather(values, endpoint, region, true, faults)
}

/// The settings of one place.
struct Parts {
    name: StoreName,
    /// Bucket, key, secret: all needed.
    names: [&'static str; 3],
    /// The others that make the place wanted when set.
    others: &'static [&'static str],
    /// Of which one is needed to know where the service is.
    place: [&'static str; 2],
}

impl Parts {
    fn gather(
        self,
        values: &Values,
        endpoint: Option<String>,
        region: String,
        keeps_versions: bool,
        faults: &mut Faults,
    ) -> Option<Cloud> {
        let set = self.names.iter().chain(self.others).find_map(|name| values.get(name))?;
        let mut missing: Vec<String> = self
            .names
            .iter()
            .filter(|name| values.get(name).is_none())
            .map(|&name| name.to_owned())
            .collect();
        if self.place.iter().all(|name| values.get(name).is_none()) {
            missing.push(self.place.join(" or "));
        }
        if !missing.is_empty() {
            let (missing, name) = (missing.join(", "), self.name);
            faults.add(
                set.fault(format_args!("the store {name} also needs {missing}"))
                    .hint(format!("Set what is missing, or unset all of {name} to do without this store.")),
            );
            return None;
        }
        let [bucket, access_key, secret_key] = self.names.map(|name| values.get(name));
        let bucket = faults.keep(plain_word(bucket?))?;
        Some(Cloud {
            name: self.name,
            endpoint: endpoint?,
            region,
            bucket,
            access_key: access_key?.text.to_string(),
            secret_key: Secret::new(secret_key?.text.to_string()),
            keeps_versions,
        })
    }
}

/// Reads a service's address: scheme and host, nothing else; without TLS on this machine only.
fn endpoint(value: &Value) -> Result<String, Fault> {
    let text = value.text.trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let fine = |letter: char| letter.is_ascii_alphanumeric() || ".-:[]_".contains(letter);
    if !matches!(scheme, "https" | "http") || rest.is_empty() || !rest.chars().all(fine) {
        return Err(value
            .fault(format_args!("\"{}\" is not the address of a service", *value.text))
            .hint("Write https:// and the host, without bucket or path."));
    }
    let host = rest.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let host = host.unwrap_or_else(|| rest.split(':').next().unwrap_or_default());
    if scheme == "http" && !is_loopback(host) {
        return Err(value
            .fault("without TLS anybody on the way could read the key's use and change what is stored")
            .hint("Write https://; plain http is for services on this machine."));
    }
    Ok(text.to_owned())
}

/// A word that becomes part of an address.
fn plain_word(value: &Value) -> Result<String, Fault> {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
    if value.text.chars().all(fine) {
        return Ok(value.text.to_string());
    }
    Err(value
        .fault(format_args!("\"{}\" holds characters other than letters, digits, . - and _", *value.text)))
}

/// `us-west-004` out of `https://s3.us-west-004.backblazeb2.com`.
fn region_of_backblaze(endpoint: &str) -> Option<&str> {
    endpoint.strip_prefix("https://s3.")?.strip_suffix(".backblazeb2.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_part_of_backblazes_host() {
        assert_eq!(region_of_backblaze("https://s3.us-west-004.backblazeb2.com"), Some("us-west-004"));
        assert_eq!(region_of_backblaze("https://s3.example.com"), None);
    }
}
