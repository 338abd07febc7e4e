//! What can go wrong with a store, by what can be done about it.

use std::fmt;
use std::time::Duration;

use crate::model::{Fault, Kind, StoreName};

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The object is not there, and that is certain.
    Absent,
    /// The object is shorter than what was asked for.
    Short,
    /// What the store holds after a write is not what was sent.
    Differs,
    /// No right to do this.
    Denied,
    /// The store does not know the access key, or the secret key is not the one that belongs to it.
    Credentials,
    /// This machine's clock and the store's are so far apart that the store refuses every request.
    Clock,
    /// There is no such bucket.
    NoBucket,
    /// The answer is that of another region's service, or of none for objects.
    Misdirected,
    /// What the settings say cannot be a store's place.
    NoPlace,
    /// No room left.
    Full,
    /// It can't be written at all (mounted read-only).
    ReadOnly,
    /// The store asks for fewer requests, and may have said for how long.
    SlowDown {
        /// Its `Retry-After`.
        wait: Option<Duration>,
    },
    /// No answer in time.
    Timeout,
    /// No connection: refused, no route, no such host.
    Unreachable,
    /// A connection, but the other side could not prove who it is.
    Untrusted,
    /// The connection broke, or brought something else than what was asked for.
    Broken,
    /// The store says that it has failed inside.
    Server,
    /// Anything else.
    Failed,
}

impl StoreErrorKind {
    /// Whether the same request may succeed a little later.
    pub const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::SlowDown { .. }
                | Self::Timeout
                | Self::Unreachable
                | Self::Broken
                | Self::Server
                | Self::Differs
        )
    }

    /// Which exit code it becomes.
    const fn kind(self) -> Kind {
        match self {
            Self::Absent | Self::Short => Kind::Damaged,
            Self::NoPlace => Kind::Settings,
            _ => Kind::Store,
        }
    }

    /// What to do about it.
    const fn hint(self) -> &'static str {
        match self {
            Self::Absent => "Run `pgkeep verify` to see what else is missing.",
            Self::Short => "The copy was cut short; run `pgkeep verify --deep`.",
            Self::Differs => {
                "Run the command again; if it comes back, something between here and the store changes what is sent."
            }
            Self::Denied => "Give the user who runs pgkeep, or the store's access key, the right to it.",
            Self::Credentials => {
                "Compare access key and secret key in the settings with what the provider shows, and see that they \
                 belong to this endpoint and region."
            }
            Self::Clock => {
                "Set this machine's clock (`timedatectl`, chrony, ntpd), then run the command again."
            }
            Self::NoBucket => "Make the bucket, or correct its name or the endpoint in the settings.",
            Self::Misdirected => "Correct the endpoint and the region in the settings.",
            Self::NoPlace => "Correct the store's endpoint and bucket in the settings.",
            Self::Full => "Make room, raise the provider's limit, or choose another place in the settings.",
            Self::ReadOnly => "Mount it for writing, or choose another place.",
            Self::SlowDown { .. } => {
                "The store is busy; run the command again later, or set BACKUP_RATE_LIMIT to ask for less."
            }
            Self::Timeout => {
                "See that the network reaches the store and the provider has no outage; then run the command again."
            }
            Self::Unreachable => {
                "See that the endpoint in the settings is right and that name resolution, network and firewall let it \
                 through."
            }
            Self::Untrusted => {
                "See that the endpoint is right; for a certificate authority of your own, install it on this machine \
                 or set SSL_CERT_FILE to its certificate."
            }
            Self::Broken => {
                "Run the command again; if it comes back, look for a proxy on the way to the store."
            }
            Self::Server => {
                "The store itself has a fault; look at the provider's status page and try again later."
            }
            Self::Failed => "Run `pgkeep check` to see what works and what does not.",
        }
    }
}

/// A failure of one operation on one object of one store.
#[derive(Debug, Clone)]
pub struct StoreError {
    /// Which store.
    pub store: StoreName,
    /// What was being done: `write`, `read`, `list`, `delete`.
    pub operation: &'static str,
    /// Where the object lies.
    pub place: String,
    /// What sort of failure.
    pub kind: StoreErrorKind,
    /// The cause as text.
    pub cause: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in store {}: {}", self.operation, self.place, self.store, self.cause)
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::new(error.kind.kind(), error.to_string()).hint(error.kind.hint())
    }
}

/// Store errors become faults when they leave the stores.
pub trait StoreResult<T> {
    /// As a result whose error carries kind and hint.
    fn fault(self) -> anyhow::Result<T>;
}

impl<T> StoreResult<T> for Result<T, StoreError> {
    fn fault(self) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Fault::from(error)))
    }
}
