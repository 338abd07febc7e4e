//! The certificates that the services of the settings show, and the one with which pgkeep logs in to the server.

use chrono::Utc;

use super::CheckReport;
use crate::command::alerts;
use crate::config::Settings;
use crate::plan::conditions::ends_soon;

/// A line for each. One that can't be had is no line: what does not work with its service is said there.
pub(super) async fn check(settings: &Settings, report: &mut CheckReport) {
    for certificate in alerts::certificates_now(settings).await {
        let day = certificate.until.format("%F");
        let message = format!("{}: good until {day}", certificate.of);
        if certificate.until < Utc::now() {
            let message = format!("{}: expired on {day}", certificate.of);
            report.warn("certificate", message, "Have it made anew, or look why that did not happen.");
        } else if ends_soon(&certificate, Utc::now()) {
            report.warn("certificate", message, "See that it is made anew before.");
        } else {
            report.ok("certificate", message);
        }
    }
}
