//! The messages, as a person sees them: `golden/<case>.toml` is refused with `golden/<case>.txt`.
//!
//! A first line `# host: NAME` says whose host it is; without one it is `n1`, with an empty one it is not known.
//! `BLESS=1 cargo test -p ringbeat-config` writes the answers anew; the diff is then what a reviewer reads.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use ringbeat_config::{AuthKey, CONFIG_BYTES_MAX, Config, ConfigError};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn render(error: &dyn Diagnostic) -> String {
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(110)
        .with_wrap_lines(false)
        .render_report(&mut out, error)
        .expect("a report that renders");
    out.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Compares with the golden answer, or writes it. A difference comes back as text, so that all are seen at once.
fn against(case: &str, got: &str) -> Option<String> {
    let path = folder().join(case).with_extension("txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, got).expect("a writable golden file");
        return None;
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    (got != wanted).then(|| format!("--- {case}: wanted\n{wanted}--- {case}: got\n{got}"))
}

fn cases() -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder()).expect("the golden folder").map(|entry| entry.expect("an entry").path());
    let mut cases: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    cases.sort();
    cases
}

fn refused(path: &Path) -> ConfigError {
    let text = fs::read_to_string(path).expect("a golden case");
    let host = match text.lines().next().and_then(|line| line.strip_prefix("# host:")) {
        Some(name) => Some(name.trim()).filter(|name| !name.is_empty()),
        None => Some("n1"),
    };
    Config::parse(&text, "ringbeat.toml", host).expect_err(&format!("{} must be refused", path.display()))
}

#[test]
fn each_case_is_refused_with_its_message() {
    let mut differences = Vec::new();
    for path in cases() {
        let case = path.file_stem().and_then(|stem| stem.to_str()).expect("a case name").to_owned();
        let error = refused(&path);
        let cause = error.code().strip_prefix("config.").expect("a config code");
        assert!(case.starts_with(cause), "{case} is refused as {}: {error}", error.code());
        differences.extend(against(&case, &render(&error)));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Writes a good file that names a key file, after `spoil` had its way with both; gives the refusal as text.
fn load_refused(spoil: impl FnOnce(&Path, &Path)) -> (ConfigError, String) {
    // Not in TMPDIR: the underline in the message is as long as the path.
    let dir = tempfile::tempdir_in("/tmp").expect("a folder");
    let (config, key) = (dir.path().join("ringbeat.toml"), dir.path().join("authkey"));
    let named = format!("[cluster]\nauthkey = {:?}", key);
    fs::write(&config, Config::example().replacen("[cluster]", &named, 1)).expect("a config file");
    AuthKey::generate(&key).expect("a key");
    spoil(&config, &key);
    let error = Config::load(&config, Some("n1")).expect_err("must be refused");
    let rendered = render(&error).replace(dir.path().to_str().expect("a name"), "DIR");
    (error, rendered)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn file_cases() -> Vec<(ConfigError, String)> {
    let remove = |path: &Path| fs::remove_file(path).expect("removed");
    vec![
        load_refused(|config, _| remove(config)),
        load_refused(|config, _| {
            remove(config);
            fs::create_dir(config).expect("a folder");
        }),
        load_refused(|config, _| fs::write(config, vec![b'#'; CONFIG_BYTES_MAX + 1]).expect("written")),
        load_refused(|config, _| {
            fs::write(config, b"[cluster]\nname = \"dem\xf6\" # Latin-1\n").expect("written");
        }),
        load_refused(|_, key| remove(key)),
        load_refused(|_, key| chmod(key, 0o644)),
        load_refused(|_, key| {
            chmod(key, 0o600);
            fs::write(key, "secret").expect("written");
        }),
        load_refused(|_, key| {
            remove(key);
            fs::create_dir(key).expect("a folder");
        }),
    ]
}

#[test]
fn files_that_cannot_be_used_are_refused_with_their_message() {
    let differences: Vec<_> = file_cases()
        .iter()
        .filter_map(|(error, text)| against(&error.code().replacen("config.", "", 1).replace('.', "_"), text))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_key_file_of_the_default_path_has_its_place_at_the_cluster() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ringbeat.toml");
    fs::write(&path, Config::example()).expect("written");
    match Config::load(&path, Some("n1")) {
        // A machine that runs a cluster has the key: then there is nothing to see here.
        Ok(_) => {}
        Err(error) => {
            assert!(error.code().starts_with("key."), "{error}");
            let place = error.place().expect("a place").to_string();
            assert!(place.contains("ringbeat.toml:"), "{place}");
            assert!(!error.help().is_empty());
            render(&error);
        }
    }
}

#[test]
fn each_cause_has_a_golden_case() {
    let mut seen: BTreeSet<String> = cases().iter().map(|path| refused(path).code().to_owned()).collect();
    seen.extend(file_cases().iter().map(|(error, _)| error.code().to_owned()));
    let source = include_str!("../src/error.rs");
    let codes: BTreeSet<String> =
        source.split('"').filter(|word| word.starts_with("config.")).map(str::to_owned).collect();
    assert!(codes.len() > 25, "the codes are no longer found in the source: {codes:?}");
    let missing: Vec<_> = codes.difference(&seen).collect();
    assert!(missing.is_empty(), "no golden case for {missing:?}");
}
