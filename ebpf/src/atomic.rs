//! The atomic instructions of the BPF machine, by their own names.
//!
//! `core::sync::atomic` offers no read-modify-write on this target; the intrinsics do, from CPU v3 on.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use core::ptr;

/// Compare and swap; true when `new` was written.
///
/// # Safety
/// `at` points to an aligned word of a map value, checked by the verifier.
#[inline(always)]
pub(crate) unsafe fn swap(at: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(at, old, new).1 }
}

/// Adds, and gives the sum.
///
/// # Safety
/// As [`swap`].
#[inline(always)]
pub(crate) unsafe fn add(at: *mut u64, more: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(at, more) }.wrapping_add(more)
}

/// One whole load of a word that others write.
///
/// # Safety
/// As [`swap`].
#[inline(always)]
pub(crate) unsafe fn load(at: *const u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { ptr::read_volatile(at) }
}

/// One whole store of a word that others read.
///
/// # Safety
/// As [`swap`].
#[inline(always)]
pub(crate) unsafe fn store(at: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { ptr::write_volatile(at, value) }
}
