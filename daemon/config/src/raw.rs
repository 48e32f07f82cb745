//! The file as it is written: serde shapes with the place of each value, and the reading of them.
//!
//! Here text becomes [`RawConfig`], or an error about its form: syntax, unknown and missing keys, wrong types. What
//! the values mean is checked in [`validate`](crate::validate); no default is filled in here. Whole numbers are read as
//! `i128`, so that "too large" is told as a range and not as a type.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Place, Source};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub(crate) cluster: Spanned<RawCluster>,
    pub(crate) ring: Option<RawRing>,
    #[serde(default)]
    pub(crate) link: Vec<RawLink>,
    #[serde(default)]
    pub(crate) node: Vec<RawNode>,
    #[serde(default)]
    pub(crate) address: Vec<RawService>,
}

/// `[cluster]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCluster {
    pub(crate) name: Spanned<String>,
    pub(crate) version: Option<Spanned<i128>>,
    pub(crate) authkey: Option<Spanned<String>>,
    pub(crate) state: Option<Spanned<String>>,
    pub(crate) control: Option<Spanned<String>>,
    pub(crate) datapath: Option<Spanned<String>>,
    pub(crate) daemon_stall_ms: Option<Spanned<i128>>,
    pub(crate) gate_slack_us: Option<Spanned<i128>>,
    pub(crate) node: Option<Spanned<String>>,
    pub(crate) realtime: Option<bool>,
}

/// `[ring]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRing {
    pub(crate) cipher: Option<Spanned<String>>,
    pub(crate) link_mode: Option<Spanned<String>>,
    pub(crate) port: Option<Spanned<i128>>,
}

/// One `[[link]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLink {
    pub(crate) id: Spanned<i128>,
    pub(crate) interface: Spanned<String>,
    pub(crate) network: Spanned<String>,
    pub(crate) port: Option<Spanned<i128>>,
    pub(crate) profile: Option<Spanned<String>>,
    pub(crate) interval_us: Option<Spanned<i128>>,
    pub(crate) count: Option<Spanned<i128>>,
}

/// One `[[node]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNode {
    pub(crate) id: Spanned<i128>,
    pub(crate) name: Spanned<String>,
    pub(crate) addresses: Spanned<Vec<Spanned<String>>>,
    pub(crate) votes: Option<Spanned<i128>>,
    pub(crate) witness: Option<bool>,
}

/// One `[[address]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawService {
    pub(crate) address: Spanned<String>,
    pub(crate) interface: Spanned<String>,
    pub(crate) failback: Option<bool>,
}

impl RawConfig {
    /// Reads the text, or tells what is wrong with its form and where.
    pub(crate) fn read(source: &Source) -> Result<Self, ConfigError> {
        let text = source.inner().as_str();
        let table = DeTable::parse(text).map_err(|error| syntax(source, &error))?;
        tables_only(source, table.get_ref())?;
        Self::deserialize(toml::de::Deserializer::from(table)).map_err(|error| form(source, &error))
    }
}

fn syntax(source: &Source, error: &toml::de::Error) -> ConfigError {
    let at = Place::new(source, error.span().unwrap_or(0..0), "here");
    ConfigError::Syntax { message: error.message().to_owned(), at }
}

/// Serde would read a list as a table whose keys go by position: refused before it does.
fn tables_only(source: &Source, root: &DeTable<'_>) -> Result<(), ConfigError> {
    let refuse = |key: &str, value: &Spanned<DeValue<'_>>, expected: &str| {
        Err(ConfigError::WrongType {
            key: key.to_owned(),
            found: value.get_ref().type_str().to_owned(),
            at: Place::new(source, value.span(), format!("must be {expected}")),
            expected: expected.to_owned(),
        })
    };
    for (key, value) in root {
        let key: &str = key.get_ref();
        match (key, value.get_ref()) {
            ("cluster" | "ring", DeValue::Table(_)) => {}
            ("cluster" | "ring", _) => return refuse(key, value, &format!("one table, [{key}]")),
            ("link" | "node" | "address", DeValue::Array(elements)) => {
                if let Some(element) = elements.iter().find(|element| !element.get_ref().is_table()) {
                    return refuse(key, element, &format!("a table, [[{key}]]"));
                }
            }
            ("link" | "node" | "address", _) => {
                return refuse(key, value, &format!("a list of tables, [[{key}]]"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes our error out of serde's. Serde hands over only words; the golden tests guard these patterns.
fn form(source: &Source, error: &toml::de::Error) -> ConfigError {
    let text = source.inner().as_str();
    let message = error.message();
    let span = error.span().unwrap_or(0..0);
    if message.starts_with("unknown field `") {
        let known = message.rfind("`, expected ").map_or("", |at| &message[at + 1..]);
        let known: Vec<String> = known.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let key = text.get(span.clone()).unwrap_or_default().to_owned();
        return ConfigError::UnknownKey {
            key,
            known,
            at: Place::new(source, span, "not a key of this table"),
        };
    }
    if let Some(key) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let (span, label) =
            if key == "cluster" { (0..0, "no [cluster] in this file") } else { (span, "in this table") };
        return ConfigError::MissingKey { key: key.to_owned(), at: Place::new(source, span, label) };
    }
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = found.and_then(|rest| rest.rsplit_once(", expected ")) {
        let expected = match expected {
            "i128" => "a whole number",
            "a boolean" => "true or false",
            "a sequence" => "a list",
            other => other,
        };
        return ConfigError::WrongType {
            key: path_of(text, &span).unwrap_or_default(),
            found: found.to_owned(),
            at: Place::new(source, span, format!("must be {expected}")),
            expected: expected.to_owned(),
        };
    }
    syntax(source, error)
}

/// The dotted name of the key whose value stands at this place.
fn path_of(text: &str, span: &Range<usize>) -> Option<String> {
    fn within(value: &Spanned<DeValue<'_>>, path: &str, span: &Range<usize>) -> Option<String> {
        if value.span() == *span {
            return Some(path.to_owned());
        }
        match value.get_ref() {
            DeValue::Array(elements) => elements.iter().find_map(|element| within(element, path, span)),
            DeValue::Table(table) => table
                .iter()
                .find_map(|(key, value)| within(value, &format!("{path}.{}", key.get_ref()), span)),
            _ => None,
        }
    }
    let table = DeTable::parse(text).ok()?;
    table.get_ref().iter().find_map(|(key, value)| within(value, key.get_ref(), span))
}
