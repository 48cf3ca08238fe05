//! Settings: one commented struct per table; flags over environment over files over defaults.
//!
//! The doc comment of a field is its manual: [`template`] prints them as a complete `tidelock.toml`,
//! so neither can go out of date. Every value remembers where it came from ([`Loaded::origin`]).
//!
//! # Where values come from, strongest first
//!
//! 1. a flag of the command
//! 2. the environment: `TIDELOCK_NODE_LISTEN` is `listen` of `[node]`
//! 3. `tidelock.toml` in the current directory, or the file named by `TIDELOCK_CONFIG`
//! 4. `$XDG_CONFIG_HOME/tidelock/tidelock.toml`
//! 5. the default
//!
//! Unknown tables, keys and variables are errors, so that a typing mistake is not silently a default.

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// A shorter lease of sessions is refused: peers would lose each other whenever one is busy.
pub const NODE_LEASE_MS_MIN: u64 = 100;

/// A shorter lease of nodes is refused: they ask for it anew three times within one, but at the most every 100 ms.
pub const CONTROL_LEASE_MS_MIN: u64 = 300;

/// What modules can be compiled for.
pub const PROFILES: [&str; 4] = ["auto", "dense", "compute", "trusted"];

/// One line of a template: name of the key and its doc comment.
type Doc = (&'static str, &'static [&'static str]);

macro_rules! table {
    (
        $(#[doc = $doc:literal])*
        $name:ident [$table:literal] {
            $( $(#[doc = $field_doc:literal])* $field:ident : $type:ty = $default:expr ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $( $(#[doc = $field_doc])* pub $field: $type ),* }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default ),* }
            }
        }

        impl $name {
            const TABLE: &'static str = $table;
            const DOC: &'static [&'static str] = &[$($doc),*];
            const FIELDS: &'static [Doc] = &[$( (stringify!($field), &[$($field_doc),*]) ),*];
        }
    };
}

table! {
    /// A node: where guests run.
    NodeTable ["node"] {
        /// The stable name, part of the certificate. Empty: that of the saved identity, else one made of the
        /// machine's host name: small letters, and `-` for whatever cannot stand in a name.
        name: String = String::new(),
        /// UDP address for other nodes; port 0 takes a free one.
        listen: SocketAddr = loopback(7717),
        /// TCP address for operators: processes, logs, metrics, health.
        admin_listen: SocketAddr = loopback(7718),
        /// The address (without a port) that others reach it by, if that is not where it listens.
        advertise: String = String::new(),
        /// What guests find this node by, such as `region=eu&gpu=yes`. Other nodes believe it.
        tags: String = String::new(),
        /// Address of the control plane, host and port.
        control: String = "127.0.0.1:7700".to_owned(),
        /// Where key, certificate and modules are kept between starts. Empty: a folder of the user's.
        state_dir: String = String::new(),
        /// How long a peer may be silent before the session with it is over, in milliseconds, at least 100. Both
        /// sides of a lost session know within this time and 300 ms.
        lease_ms: u64 = 3000,
        /// The most live nodes that a cluster has in which each opens a session with each at once; in a larger one a
        /// session opens when a process has something to say to another node. 0: always then.
        mesh_max: u64 = crate::MESH_MAX as u64,
        /// What modules are compiled for: `dense` for a million processes, `compute` for speed, `trusted` for more
        /// speed with processes that cannot be killed while they compute. `auto`: as the module says, else
        /// speed if it cannot start processes.
        profile: String = "auto".to_owned(),
        /// Directories, with all below them, that processes spawned by other nodes may be given;
        /// several are separated by `:`. Empty: such processes see no files of this machine.
        remote_preopens: String = String::new(),
        /// How long a guest waits for a message until its memory is packed, in milliseconds: after that long to
        /// twice as long. 0: never.
        hibernate_after_ms: u64 = 5000,
    }
}

table! {
    /// The control plane: who is in the cluster, and its modules.
    ControlTable ["control"] {
        /// TCP address for nodes and operators.
        listen: SocketAddr = loopback(7700),
        /// Host and port that others reach it at, if that is not `listen`.
        advertise: String = String::new(),
        /// Where the authority's key and the books are kept. Empty: a folder of the user's.
        state_dir: String = String::new(),
        /// The cluster's name, part of every certificate. Fixed when the authority is made.
        cluster: String = "default".to_owned(),
        /// How long a node may be silent before it is listed as lost, in milliseconds, at least 300. Sessions
        /// between nodes do not depend on it.
        lease_ms: u64 = 10_000,
    }
}

table! {
    /// Bounds. Each says what happens when it is reached.
    LimitsTable ["limits"] {
        /// Processes at the same time; one more is refused with `full`.
        processes_max: u64 = 2_000_000,
        /// Messages in one mailbox; one more ends its owner.
        mailbox_len_max: u64 = 1_000_000,
        /// Bytes in one mailbox, with 64 for each message; one more ends its owner.
        mailbox_bytes_max: u64 = 64 << 20,
        /// Bytes of one message; a longer one is an error for its sender.
        message_bytes_max: u64 = 64 << 20,
    }
}

table! {
    /// What the daemons say on stderr.
    LogTable ["log"] {
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `warn,tidelock_node=debug`.
        filter: String = "info".to_owned(),
        /// `auto`: text on a terminal, JSON lines otherwise. `text` and `json` fix it.
        format: String = "auto".to_owned(),
        /// Lines of guest output kept for `tidelock logs`; the oldest makes room.
        output_lines_max: u64 = 10_000,
        /// Events kept for `tidelock events`; the oldest makes room.
        events_max: u64 = 10_000,
    }
}

/// All tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[node]`
    pub node: NodeTable,
    /// `[control]`
    pub control: ControlTable,
    /// `[limits]`
    pub limits: LimitsTable,
    /// `[log]`
    pub log: LogTable,
}

impl Settings {
    /// Refuses what has the right type, and can be of no use all the same.
    fn check(&self) -> Result<(), String> {
        let leases = [
            (self.node.lease_ms, NODE_LEASE_MS_MIN),
            (self.control.lease_ms, CONTROL_LEASE_MS_MIN),
        ];
        if let Some((ms, min)) = leases.into_iter().find(|(ms, min)| ms < min) {
            return Err(format!("{ms}: a lease has at least {min} ms"));
        }
        let profile = self.node.profile.as_str();
        if !PROFILES.contains(&profile) {
            return Err(format!("{profile}: it is none of {}", PROFILES.join(", ")));
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command, without its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// Why settings could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is there but cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A value has the wrong type, or a name is unknown.
    #[error("{place}: {message}")]
    Value {
        /// Key and origin.
        place: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Settings with the origin of each value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The result.
    pub settings: Settings,
    values: BTreeMap<(String, String), Value>,
    origins: BTreeMap<(String, String), Origin>,
}

impl Loaded {
    /// Loads from the places of this process, with `flags` on top: table, key, value as text.
    ///
    /// # Errors
    ///
    /// The first value that cannot be used. A missing file is no error, unless `TIDELOCK_CONFIG`
    /// names it.
    pub fn from_process(flags: &[(&str, &str, String)]) -> Result<Self, ConfigError> {
        let mut files = Vec::new();
        if let Some(path) = user_file() {
            files.push((path, false));
        }
        match env::var_os("TIDELOCK_CONFIG").filter(|path| !path.is_empty()) {
            Some(path) => files.push((PathBuf::from(path), true)),
            None => files.push((PathBuf::from("tidelock.toml"), false)),
        }
        let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        check_variables(names)?;
        Self::load(&files, &|name| env::var(name).ok(), flags)
    }

    /// Loads from the given places: files (weakest first, with whether they must exist), a lookup
    /// in an environment, flags.
    ///
    /// # Errors
    ///
    /// As [`Loaded::from_process`].
    pub fn load(
        files: &[(PathBuf, bool)],
        environment: &dyn Fn(&str) -> Option<String>,
        flags: &[(&str, &str, String)],
    ) -> Result<Self, ConfigError> {
        let mut loaded = Self {
            settings: Settings::default(),
            values: BTreeMap::new(),
            origins: BTreeMap::new(),
        };
        for (table, key, value) in entries(&defaults()) {
            loaded.set(table, key, value, Origin::Default)?;
        }
        for (path, required) in files {
            let text = match fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !required => continue,
                Err(source) => {
                    return Err(ConfigError::Read {
                        path: path.clone(),
                        source,
                    });
                }
            };
            let parsed: Table = text.parse().map_err(|error: toml::de::Error| {
                let message = error.to_string().trim().replace('\n', "\n  ");
                ConfigError::Syntax {
                    path: path.clone(),
                    message,
                }
            })?;
            let known = |name: &str| tables().iter().any(|(table, _, _)| *table == name);
            if let Some(name) = parsed.keys().find(|name| !known(name)) {
                let names = tables().map(|(table, _, _)| format!("[{table}]"));
                return Err(ConfigError::Value {
                    place: format!("{name} ({})", path.display()),
                    message: format!("unknown table, expected one of {}", names.join(", ")),
                });
            }
            if let Some((name, _)) = parsed.iter().find(|(_, value)| !value.is_table()) {
                return Err(ConfigError::Value {
                    place: format!("{name} ({})", path.display()),
                    message: format!("this is a table: [{name}], and its settings below it"),
                });
            }
            for (table, key, value) in entries(&parsed) {
                loaded.set(table, key, value, Origin::File(path.clone()))?;
            }
        }
        for (table, _, fields) in tables() {
            for (key, _) in fields {
                let name = format!("TIDELOCK_{table}_{key}").to_uppercase();
                if let Some(text) = environment(&name) {
                    loaded.set_text(table, key, &text, Origin::Environment(name))?;
                }
            }
        }
        for (table, key, text) in flags {
            loaded.set_text(table, key, text, Origin::Flag(flag_of(table, key)))?;
        }
        Ok(loaded)
    }

    /// Where a value came from.
    #[must_use]
    pub fn origin(&self, table: &str, key: &str) -> &Origin {
        self.origins
            .get(&(table.to_owned(), key.to_owned()))
            .unwrap_or(&Origin::Default)
    }

    /// Every value: table, key, value, origin; in the template's order.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, &'static str, Value, Origin)> {
        let mut rows = Vec::new();
        for (table, _, fields) in tables() {
            for (key, _) in fields {
                let place = (table.to_owned(), (*key).to_owned());
                let value = self
                    .values
                    .get(&place)
                    .cloned()
                    .unwrap_or(Value::Boolean(false));
                rows.push((table, *key, value, self.origin(table, key).clone()));
            }
        }
        rows
    }

    /// A value as text gets the type that the default has.
    fn set_text(
        &mut self,
        table: &str,
        key: &str,
        text: &str,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let place = (table.to_owned(), key.to_owned());
        let value = match self.values.get(&place) {
            Some(Value::Integer(_)) => match text.replace('_', "").parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::String(text.to_owned()),
            },
            _ => Value::String(text.to_owned()),
        };
        self.set(table.to_owned(), key.to_owned(), value, origin)
    }

    /// Replaces one value and checks it at once, so that a fault names its origin.
    fn set(
        &mut self,
        table: String,
        key: String,
        value: Value,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let fault = |message: String| ConfigError::Value {
            place: format!("{table}.{key} ({origin})"),
            message,
        };
        let mut inner = Table::new();
        inner.insert(key.clone(), value.clone());
        let mut outer = Table::new();
        outer.insert(table.clone(), Value::Table(inner));
        // With the defaults of all others, which are good.
        let alone = Settings::deserialize(Value::Table(outer)).map_err(|error| {
            let text = error.to_string();
            fault(text.lines().next().unwrap_or("cannot be used").to_owned())
        })?;
        alone.check().map_err(fault)?;

        let place = (table, key);
        self.values.insert(place.clone(), value);
        self.origins.insert(place, origin);
        let mut all = Table::new();
        for ((table, key), value) in &self.values {
            let inner = all
                .entry(table)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                inner.insert(key.clone(), value.clone());
            }
        }
        self.settings =
            Settings::deserialize(Value::Table(all)).expect("each value was accepted on its own");
        Ok(())
    }
}

/// A complete, commented `tidelock.toml` with the defaults.
#[must_use]
pub fn template() -> String {
    let defaults = defaults();
    let mut text = String::from("# Tidelock settings. Every line may be left out.\n");
    for (table, doc, fields) in tables() {
        text.push('\n');
        for line in doc {
            text.push_str(&format!("#{line}\n"));
        }
        text.push_str(&format!("[{table}]\n"));
        for (key, doc) in fields {
            for line in *doc {
                text.push_str(&format!("#{line}\n"));
            }
            let value = &defaults[table][*key];
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    text
}

/// The user's folder for state that survives restarts: `$XDG_STATE_HOME/tidelock`.
#[must_use]
pub fn user_state_dir() -> Option<PathBuf> {
    home_folder("XDG_STATE_HOME", ".local/state")
}

fn user_file() -> Option<PathBuf> {
    home_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("tidelock.toml"))
}

fn home_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set(variable)
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(Path::new(below_home))))
        .map(|folder| folder.join("tidelock"))
}

fn tables() -> [(&'static str, &'static [&'static str], &'static [Doc]); 4] {
    [
        (NodeTable::TABLE, NodeTable::DOC, NodeTable::FIELDS),
        (ControlTable::TABLE, ControlTable::DOC, ControlTable::FIELDS),
        (LimitsTable::TABLE, LimitsTable::DOC, LimitsTable::FIELDS),
        (LogTable::TABLE, LogTable::DOC, LogTable::FIELDS),
    ]
}

/// Finds the variable that looks like a setting and is none: it begins with a table's name, or ends with a setting's.
fn check_variables(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    for name in names {
        check_table(&name)?;
        for (table, _, fields) in tables() {
            let prefix = format!("TIDELOCK_{table}_").to_uppercase();
            let Some(key) = name.strip_prefix(&prefix) else {
                continue;
            };
            // What Kubernetes sets for a service that is called tidelock-node.
            let is_service = key.starts_with("SERVICE_") || key.starts_with("PORT");
            let key = key.to_lowercase();
            if !is_service && fields.iter().all(|(field, _)| *field != key) {
                return Err(ConfigError::Value {
                    place: format!("${name}"),
                    message: format!("[{table}] has no setting {key}"),
                });
            }
        }
    }
    Ok(())
}

/// Refuses a setting whose table is none, such as `TIDELOCK_NODES_LISTEN`.
fn check_table(name: &str) -> Result<(), ConfigError> {
    let Some(rest) = name.strip_prefix("TIDELOCK_") else {
        return Ok(());
    };
    let begins = |table: &str| rest.starts_with(&format!("{table}_").to_uppercase());
    // As Kubernetes sets them, again.
    let is_service = rest.contains("SERVICE_") || rest.contains("PORT_");
    if is_service || tables().iter().any(|(table, _, _)| begins(table)) {
        return Ok(());
    }
    for (table, _, fields) in tables() {
        for (key, _) in fields {
            if rest.ends_with(&format!("_{key}").to_uppercase()) {
                let meant = format!("TIDELOCK_{table}_{key}").to_uppercase();
                return Err(ConfigError::Value {
                    place: format!("${name}"),
                    message: format!("there is no such setting; {meant} is one"),
                });
            }
        }
    }
    Ok(())
}

/// What the command calls the flag of a setting: as its key, but for two.
fn flag_of(table: &str, key: &str) -> String {
    match (table, key) {
        ("node", "control") => "join".to_owned(),
        ("node", "admin_listen") => "admin".to_owned(),
        _ => key.replace('_', "-"),
    }
}

fn defaults() -> Table {
    Table::try_from(Settings::default()).expect("the defaults are plain values")
}

/// Table, key and value of everything two levels deep.
fn entries(all: &Table) -> Vec<(String, String, Value)> {
    let mut entries = Vec::new();
    for (table, inner) in all {
        for (key, value) in inner.as_table().into_iter().flatten() {
            entries.push((table.clone(), key.clone(), value.clone()));
        }
    }
    entries
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_template_is_the_default() {
        let parsed: Settings = toml::from_str(&template()).unwrap();
        assert_eq!(parsed, Settings::default());
    }

    #[test]
    fn every_key_has_a_manual() {
        for (table, doc, fields) in tables() {
            assert!(!doc.is_empty(), "[{table}]");
            for (key, doc) in fields {
                assert!(!doc.is_empty(), "{table}.{key}");
            }
        }
    }

    #[test]
    fn flags_over_environment_over_files() {
        let folder = tempfile::tempdir().unwrap();
        let weak = folder.path().join("weak.toml");
        let strong = folder.path().join("strong.toml");
        fs::write(
            &weak,
            "[node]\nname = \"a\"\nlease_ms = 101\ncontrol = \"x:1\"\n",
        )
        .unwrap();
        fs::write(&strong, "[node]\nname = \"b\"\n").unwrap();
        let environment = |name: &str| (name == "TIDELOCK_NODE_NAME").then(|| "c".to_owned());
        let files = [(weak.clone(), true), (strong.clone(), false)];

        let loaded = Loaded::load(&files, &nothing, &[]).unwrap();
        assert_eq!(loaded.settings.node.name, "b");
        assert_eq!(loaded.settings.node.lease_ms, 101);
        assert_eq!(loaded.origin("node", "lease_ms"), &Origin::File(weak));
        assert_eq!(loaded.origin("node", "listen"), &Origin::Default);

        let loaded = Loaded::load(&files, &environment, &[]).unwrap();
        assert_eq!(loaded.settings.node.name, "c");

        let flags = [
            ("node", "name", "d".to_owned()),
            ("node", "lease_ms", "107".to_owned()),
        ];
        let loaded = Loaded::load(&files, &environment, &flags).unwrap();
        assert_eq!(loaded.settings.node.name, "d");
        assert_eq!(loaded.settings.node.lease_ms, 107);
        assert_eq!(loaded.origin("node", "lease_ms").to_string(), "--lease-ms");
    }

    #[test]
    fn mistakes_name_key_and_origin() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.toml");
        fs::write(&file, "[node]\nnmae = \"a\"\n").unwrap();
        let error = Loaded::load(&[(file, true)], &nothing, &[])
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("node.nmae ("), "{error}");
        assert!(error.contains("unknown field"), "{error}");

        let flags = [("node", "lease_ms", "soon".to_owned())];
        let error = Loaded::load(&[], &nothing, &flags).unwrap_err().to_string();
        assert!(error.starts_with("node.lease_ms (--lease-ms)"), "{error}");

        let flags = [("node", "admin_listen", "here".to_owned())];
        let error = Loaded::load(&[], &nothing, &flags).unwrap_err().to_string();
        assert!(error.starts_with("node.admin_listen (--admin)"), "{error}");
    }

    #[test]
    fn what_is_of_no_use_is_refused() {
        for (table, key, bad, good) in [
            ("node", "lease_ms", "99", "100"),
            ("node", "lease_ms", "0", "3_000"),
            ("control", "lease_ms", "299", "300"),
            ("node", "profile", "fast", "trusted"),
        ] {
            let load = |text: &str| Loaded::load(&[], &nothing, &[(table, key, text.to_owned())]);
            load(good).unwrap();
            let error = load(bad).unwrap_err().to_string();
            let place = format!("{table}.{key} (--{}): {bad}: ", key.replace('_', "-"));
            assert!(error.starts_with(&place), "{error}");
        }
    }

    #[test]
    fn a_mistyped_table_or_variable_is_none_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.toml");
        for text in ["[nodee]\n", "[nodee]\nname = \"a\"\n", "name = \"a\"\n"] {
            fs::write(&file, text).unwrap();
            let error = Loaded::load(&[(file.clone(), true)], &nothing, &[]).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("unknown table, expected one of [node]"),
                "{error}"
            );
        }
        fs::write(&file, "node = 3\n").unwrap();
        let error = Loaded::load(&[(file.clone(), true)], &nothing, &[]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("node (") && error.contains("a table: [node]"),
            "{error}"
        );
        fs::write(&file, "[node]\n").unwrap();
        Loaded::load(&[(file, true)], &nothing, &[]).unwrap();

        let check = |name: &str| check_variables(std::iter::once(name.to_owned()));
        for name in [
            "TIDELOCK_NODE_NAME",
            "TIDELOCK_LOG_OUTPUT_LINES_MAX",
            "TIDELOCK_TOKEN",
            "TIDELOCK_NODE_SERVICE_HOST",
            "TIDELOCK_CONTROL_PORT_7700_TCP",
            "TIDELOCK_NODES_SERVICE_PORT_CONTROL",
            "TIDELOCK_CONTROL",
        ] {
            check(name).unwrap();
        }
        let error = check("TIDELOCK_NODE_NMAE").unwrap_err().to_string();
        assert_eq!(error, "$TIDELOCK_NODE_NMAE: [node] has no setting nmae");
        let error = check("TIDELOCK_NODES_LISTEN").unwrap_err().to_string();
        assert_eq!(
            error,
            "$TIDELOCK_NODES_LISTEN: there is no such setting; TIDELOCK_NODE_LISTEN is one"
        );
    }
}
