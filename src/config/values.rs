//! The values of all settings, as text, with where each came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::documented;
use super::env_file::Line;
use super::faults::Faults;
use super::inputs::Inputs;
use crate::model::{Fault, Kind};

/// Where a setting was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the process's environment.
    Environment,
    /// In the env file, in this line.
    File {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A setting that was set, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The variable's name.
    pub name: &'static str,
    /// Its value, or `[redacted]`.
    pub shown: String,
    /// Where it was set.
    pub source: Source,
}

/// One setting's text.
pub(super) struct Value {
    pub(super) name: &'static str,
    pub(super) text: Zeroizing<String>,
    source: Source,
}

impl Value {
    /// Makes a fault about this setting, of kind [`Kind::Settings`].
    pub(super) fn fault(&self, what: impl fmt::Display) -> Fault {
        Fault::new(Kind::Settings, format!("{} ({}): {what}", self.name, self.source))
    }

    /// Reads the value as a type whose `parse` says what is wrong with the text.
    pub(super) fn parse<T: std::str::FromStr<Err = Fault>>(&self) -> Result<T, Fault> {
        self.text.parse().map_err(|wrong: Fault| Fault { hint: wrong.hint, ..self.fault(wrong.message) })
    }

    /// Reads a whole number within these bounds.
    pub(super) fn number(&self, least: u64, most: u64) -> Result<u64, Fault> {
        let number = self.text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| {
            self.fault(format_args!("\"{}\" is not a number from {least} to {most}", *self.text))
        })
    }
}

/// All settings that are set.
pub(super) struct Values {
    set: BTreeMap<&'static str, Value>,
}

impl Values {
    /// Puts the environment over the file. What pgkeep would have to ignore although somebody may rely on it
    /// goes to `faults`.
    pub(super) fn merge(inputs: &Inputs, file: Option<(&Path, Vec<Line>)>, faults: &mut Faults) -> Self {
        let mut values = Self { set: BTreeMap::new() };
        if let Some((path, lines)) = file {
            for Line { number, name, value } in lines {
                let source = Source::File { path: path.to_owned(), line: number };
                values.put(&name, value, source, faults);
            }
        }
        let mut environment: Vec<_> =
            inputs.environment.iter().filter(|(_, value)| !value.is_empty()).collect();
        environment.sort();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            match value.to_str() {
                // `pg_ctl -D data` hands it on to the server, and that to archive_command: of the directory in which
                // pg_ctl was called.
                Some(value) if name == "PGDATA" && !value.starts_with('/') => {}
                // Whoever is not named in the file must not get in by naming oneself.
                Some(_) if name == "PGKEEP_ADMINS" && values.set.contains_key(name) => {}
                Some(value) => {
                    values.put(name, Zeroizing::new(value.to_owned()), Source::Environment, faults);
                }
                None if documented::find(name).is_some() => faults.add(Fault::new(
                    Kind::Settings,
                    format!("{name} ({}): the value is not text in UTF-8", Source::Environment),
                )),
                None => {}
            }
        }
        values
    }

    fn put(&mut self, name: &str, text: Zeroizing<String>, source: Source, faults: &mut Faults) {
        if let Some(setting) = documented::find(name) {
            self.set.insert(setting.name, Value { name: setting.name, text, source });
        } else if let Some((what, hint)) = objection(name, &source) {
            faults.add(Fault::new(Kind::Settings, format!("{name} ({source}): {what}")).hint(hint));
        }
    }

    /// The value of a setting, if it is set.
    pub(super) fn get(&self, name: &'static str) -> Option<&Value> {
        debug_assert!(documented::find(name).is_some(), "{name} is not documented");
        self.set.get(name)
    }

    /// Everything that is set, without secrets, in the documentation's order.
    pub(super) fn variables(&self) -> Vec<Variable> {
        let set = documented::documented().iter().filter_map(|setting| {
            let value = self.set.get(setting.name)?;
            let shown = if setting.secret { "[redacted]".to_owned() } else { value.text.to_string() };
            Some(Variable { name: setting.name, shown, source: value.source.clone() })
        });
        set.collect()
    }
}

/// Says why a variable that is not a setting must not be passed over in silence, and what to do.
fn objection(name: &str, source: &Source) -> Option<(&'static str, String)> {
    // In an environment they may be another program's.
    let of_alerts = ["ALERT_", "SMTP_", "TWILIO_", "WEBHOOK_"];
    let is_of_alerts = *source != Source::Environment && of_alerts.iter().any(|it| name.starts_with(it));
    if is_of_alerts || ["BACKUP_", "R2_", "B2_"].iter().any(|prefix| name.starts_with(prefix)) {
        let hint = documented::nearest(name).map_or_else(
            || "Unset it; the README lists every setting.".to_owned(),
            |near| format!("Did you mean {near}?"),
        );
        return Some(("is not a setting of this version of pgkeep", hint));
    }
    // They decide which server is reached, or what must be true of it; without them it might be another.
    let hint = match name {
        "PGSERVICE" => "Set PGHOST, PGPORT, PGUSER and PGDATABASE instead.",
        "PGHOSTADDR" => "Set PGHOST to the address instead.",
        "PGTARGETSESSIONATTRS" => "Set PGHOST to the one server that is meant, and unset it.",
        "PGREQUIREAUTH" | "PGREQUIREPEER" | "PGCHANNELBINDING" | "PGSSLCRL" | "PGSSLCRLDIR" => {
            "Unset it for pgkeep; PGSSLMODE=verify-full is the strongest check of the server that it makes."
        }
        _ => return None,
    };
    Some(("is not understood by pgkeep", hint.to_owned()))
}
