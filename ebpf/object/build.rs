//! Compiles the kernel programs, or says plainly that it cannot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "bpfel-unknown-none";
const LINKER: &str = "bpf-linker";

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    for watched in ["ebpf/src", "ebpf/Cargo.toml", "common/src", "common/Cargo.toml", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo:rerun-if-env-changed=RINGBEAT_NO_BPF");
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rustc-check-cfg=cfg(bpf_programs)");
    match missing().map_or_else(|| compile(&root), Err) {
        Ok(()) => println!("cargo:rustc-cfg=bpf_programs"),
        Err(why) => {
            println!(
                "cargo:warning=no kernel programs in this build: {why}; `cargo xtask setup` brings the tools"
            );
            println!("cargo:rustc-env=RINGBEAT_BPF_MISSING={why}");
        }
    }
}

/// The tool that is missing, if one is.
fn missing() -> Option<String> {
    if env::var_os("RINGBEAT_NO_BPF").is_some_and(|set| set == "1") {
        return Some("RINGBEAT_NO_BPF=1 was set at build time".to_owned());
    }
    if env::var("CARGO_CFG_TARGET_ENDIAN").is_ok_and(|endian| endian != "little") {
        return Some("frames and maps are little-endian, this target is not".to_owned());
    }
    match Command::new(LINKER).arg("--version").output() {
        Err(_) => return Some(format!("{LINKER} is not installed")),
        Ok(said) if !said.status.success() => {
            return Some(format!("{LINKER} does not run here: {}", said.status));
        }
        Ok(_) => {}
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(sysroot) = Command::new(rustc).args(["--print", "sysroot"]).output() else {
        return Some("rustc does not tell where its parts are".to_owned());
    };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if core.exists() { None } else { Some("the component rust-src is not installed".to_owned()) }
}

/// One cargo run for the other target, in a target folder of its own: a cargo waits for its own lock for ever.
fn compile(root: &Path) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let target_dir = out.join("bpf");
    let flags = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3", "--cfg=bpf_target_arch=\"x86_64\""];
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let flags = flags.map(|flag| flag.replace("x86_64", &arch)).join("\x1f");
    // The programs use no feature that this opens but build-std and the atomics; see ebpf/src/atomic.rs.
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--package",
            "ringbeat-ebpf",
            "--bins",
            "-Zbuild-std=core",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        cargo.args(["--features", "log"]);
    }
    let output = cargo.output().map_err(|error| format!("cargo did not start: {error}"))?;
    if !output.status.success() {
        // The tools are there, so this is a mistake in our own programs: never fall back over it.
        panic!("the kernel programs do not compile:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    for name in ["ringbeat-kernel", "ringbeat-lab-softirqs", "ringbeat-lab-switch"] {
        fs::copy(target_dir.join(TARGET).join("release").join(name), out.join(name))
            .map_err(|error| format!("{name} was not built: {error}"))?;
    }
    Ok(())
}
