//! A kernel map in this process's memory, so that a fault is a store.

use std::{io, os::fd::BorrowedFd, ptr::NonNull, sync::atomic::AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The 64-bit values of a `BPF_F_MMAPABLE` array map.
#[derive(Debug)]
pub(crate) struct SharedWords {
    words: NonNull<AtomicU64>,
    count: usize,
}

impl SharedWords {
    /// Maps the first `count` values of the array map behind `map`.
    pub(crate) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<AtomicU64>();
        // SAFETY: the kernel chooses the address, so no mapping of ours is replaced; the file is checked by
        // mmap.
        let start = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }?;
        let words = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { words, count })
    }

    /// All words of the map.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` starts a page-aligned mapping of `count` words that lives as long as `self`; the
        // kernel and other processes write it too, which is what atomics are for.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping, and no borrow outlives `self`.
        // An error would mean that the range is not mapped: nothing is left to do.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for SharedWords {}
// SAFETY: only atomics are handed out.
unsafe impl Sync for SharedWords {}
