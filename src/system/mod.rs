//! The machine: files that survive a crash, locks, secrets, processes, free space, signals.
//!
//! The one place where the operating system is spoken to directly; it knows nothing of backups.

pub mod boot;
pub mod calendar;
pub mod caller;
pub mod certificate;
pub mod durable;
pub mod gentle;
pub mod handshake;
pub mod https;
pub mod lock;
pub mod process;
pub mod secret;
pub mod space;
pub mod step;
pub mod stop;
pub mod tether;

pub use secret::Secret;
pub use step::Step;
pub use stop::Stop;

/// A random number from the operating system.
pub fn random_u32() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    fill_random(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Fills the buffer with random bytes from the operating system, fit for keys.
pub fn fill_random(buffer: &mut [u8]) -> anyhow::Result<()> {
    use ring::rand::{SecureRandom, SystemRandom};
    SystemRandom::new().fill(buffer).map_err(|_| anyhow::anyhow!("the operating system gave no random bytes"))
}
