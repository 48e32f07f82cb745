//! Key files on a real file system.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use ringbeat_config::{AuthKey, Config, KEY_BYTES_LEAST, KEY_BYTES_MADE, KEY_BYTES_MAX};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(path: &Path, bytes: usize, mode: u32) {
    fs::write(path, vec![7; bytes]).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn refusal(path: &Path) -> Option<&'static str> {
    AuthKey::load(path).err().map(|error| error.code())
}

#[test]
fn a_made_key_is_closed_random_and_loads() {
    let dir = dir();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let made = AuthKey::generate(&one).expect("made");
    let meta = fs::metadata(&one).expect("there");
    assert_eq!((meta.mode() & 0o7777, meta.size()), (0o400, KEY_BYTES_MADE as u64));
    assert_eq!(AuthKey::load(&one).expect("loaded").as_bytes(), made.as_bytes());
    assert_ne!(AuthKey::generate(&other).expect("made").as_bytes(), made.as_bytes());
}

#[test]
fn a_key_is_never_overwritten() {
    let dir = dir();
    let path = dir.path().join("authkey");
    let made = AuthKey::generate(&path).expect("made");
    let error = AuthKey::generate(&path).expect_err("refused");
    assert_eq!(error.code(), "key.exists");
    assert!(error.help().contains("rm "), "{}", error.help());
    assert_eq!(fs::read(&path).expect("there"), made.as_bytes());

    // Nor does a link that leads nowhere yet let it be written elsewhere.
    let (dangling, elsewhere) = (dir.path().join("dangling"), dir.path().join("elsewhere"));
    symlink(&elsewhere, &dangling).expect("a link");
    assert_eq!(AuthKey::generate(&dangling).err().map(|error| error.code()), Some("key.exists"));
    assert!(!elsewhere.exists());
}

#[test]
fn a_missing_folder_is_told() {
    let error = AuthKey::generate(&dir().path().join("a/b/authkey")).expect_err("refused");
    assert_eq!(error.code(), "key.no_folder");
    assert!(error.help().contains("mkdir -p"), "{}", error.help());
}

#[test]
fn what_the_kernel_refuses_is_told_with_its_reason() {
    let dir = dir();
    let (ring, file) = (dir.path().join("ring"), dir.path().join("file"));
    symlink(&ring, &ring).expect("a link to itself");
    assert_eq!(refusal(&ring), Some("key.unreadable"));
    write(&file, 64, 0o400);
    let error = AuthKey::generate(&file.join("authkey")).expect_err("a file is no folder");
    assert_eq!(error.code(), "key.unwritable");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // `check_rights` has its own test, which needs no root.
        return common::skipped("chown needs root");
    }
    let dir = dir();
    let path = dir.path().join("authkey");
    write(&path, 64, 0o400);
    chown(&path, Some(65_534), None).expect("chown");
    assert_eq!(refusal(&path), Some("key.foreign_owner"));
}

#[test]
fn rights_of_others_are_refused() {
    let dir = dir();
    let path = dir.path().join("authkey");
    for (mode, wanted) in [
        (0o400, None),
        (0o600, None),
        (0o440, Some("key.exposed")),
        (0o404, Some("key.exposed")),
        (0o602, Some("key.exposed")),
        (0o620, Some("key.exposed")),
    ] {
        write(&path, 64, mode);
        assert_eq!(refusal(&path), wanted, "{mode:o}");
        fs::remove_file(&path).expect("removed");
    }
    write(&path, 64, 0o444);
    let error = AuthKey::load(&path).expect_err("refused");
    assert!(error.help().starts_with(&format!("chmod 0400 {}", path.display())), "{}", error.help());
}

#[test]
fn sizes_at_the_bounds() {
    let dir = dir();
    let path = dir.path().join("authkey");
    for (bytes, wanted) in [
        (0, Some("key.bad_size")),
        (KEY_BYTES_LEAST - 1, Some("key.bad_size")),
        (KEY_BYTES_LEAST, None),
        (KEY_BYTES_MAX, None),
        (KEY_BYTES_MAX + 1, Some("key.bad_size")),
        (KEY_BYTES_MAX * 3, Some("key.bad_size")),
    ] {
        write(&path, bytes, 0o600);
        assert_eq!(refusal(&path), wanted, "{bytes} bytes");
        if wanted.is_none() {
            assert_eq!(AuthKey::load(&path).expect("good").as_bytes(), vec![7; bytes]);
        }
    }
}

#[test]
fn only_a_regular_file_is_read() {
    let dir = dir();
    assert_eq!(refusal(&dir.path().join("none")), Some("key.missing"));
    assert_eq!(refusal(dir.path()), Some("key.not_a_file"));
    assert_eq!(refusal(Path::new("/dev/zero")), Some("key.not_a_file"));
    let fifo = dir.path().join("fifo");
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    );
    made.expect("a fifo");
    // Must come back at once, though nobody writes to it.
    assert_eq!(refusal(&fifo), Some("key.not_a_file"));
}

#[test]
fn a_link_is_followed_and_its_target_checked() {
    let dir = dir();
    let (target, link) = (dir.path().join("target"), dir.path().join("link"));
    write(&target, 64, 0o444);
    symlink(&target, &link).expect("a link");
    assert_eq!(refusal(&link), Some("key.exposed"));
    fs::remove_file(&target).expect("removed");
    write(&target, 64, 0o400);
    assert_eq!(refusal(&link), None);
}

#[test]
fn the_secret_is_not_printed() {
    let key = AuthKey::generate(&dir().path().join("authkey")).expect("made");
    assert_eq!(format!("{key:?}"), "AuthKey(secret)");
}

#[test]
fn a_config_hands_out_the_key_that_it_checked() {
    let dir = dir();
    let (config, path) = (dir.path().join("ringbeat.toml"), dir.path().join("authkey"));
    let text = Config::example().replacen("[cluster]", &format!("[cluster]\nauthkey = {path:?}"), 1);
    fs::write(&config, text).expect("written");
    let made = AuthKey::generate(&path).expect("made");
    let (loaded, key) = Config::load_with_key(&config, Some("n2")).expect("good");
    assert_eq!((loaded.cluster().authkey(), key.as_bytes()), (path.as_path(), made.as_bytes()));
    assert_eq!(Config::load(&config, Some("n2")).expect("good"), loaded);
}
