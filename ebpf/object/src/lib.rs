//! The compiled kernel programs, as bytes inside the binary.
//!
//! The build script compiles `ebpf/` for the BPF machine with the pinned stable compiler. Where the tools for that are
//! not there, the workspace still builds, the constants are `None`, and [`MISSING`] says why: the daemon then has its
//! userspace datapath only, and says so. Deliberately not there: loading; that is the daemon's.
#![forbid(unsafe_code)]

/// Aligned as an ELF file must be to be read in place.
#[cfg(bpf_programs)]
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

#[cfg(bpf_programs)]
mod built {
    use super::Aligned;
    static KERNEL_BYTES: &Aligned<[u8]> =
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/ringbeat-kernel")));
    static LAB_SOFTIRQS_BYTES: &Aligned<[u8]> =
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/ringbeat-lab-softirqs")));
    static LAB_SWITCH_BYTES: &Aligned<[u8]> =
        &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/ringbeat-lab-switch")));
    pub(super) static KERNEL: &[u8] = &KERNEL_BYTES.0;
    pub(super) static LAB_SOFTIRQS: &[u8] = &LAB_SOFTIRQS_BYTES.0;
    pub(super) static LAB_SWITCH: &[u8] = &LAB_SWITCH_BYTES.0;
}

/// The daemon's programs.
#[cfg(bpf_programs)]
pub static KERNEL: Option<&'static [u8]> = Some(built::KERNEL);
/// The lab's watch over softirqs.
#[cfg(bpf_programs)]
pub static LAB_SOFTIRQS: Option<&'static [u8]> = Some(built::LAB_SOFTIRQS);
/// The lab's switch.
#[cfg(bpf_programs)]
pub static LAB_SWITCH: Option<&'static [u8]> = Some(built::LAB_SWITCH);
/// The daemon's programs.
#[cfg(not(bpf_programs))]
pub static KERNEL: Option<&'static [u8]> = None;
/// The lab's watch over softirqs.
#[cfg(not(bpf_programs))]
pub static LAB_SOFTIRQS: Option<&'static [u8]> = None;
/// The lab's switch.
#[cfg(not(bpf_programs))]
pub static LAB_SWITCH: Option<&'static [u8]> = None;

/// Why the programs are not there; `None` when they are.
pub const MISSING: Option<&str> = option_env!("RINGBEAT_BPF_MISSING");
