//! A BPF map as memory: 0.3 ns a read instead of 1.5 µs for a system call.
//!
//! Others write at any time, so nothing here hands out a reference to a value: words are atomics, values are copied
//! word by word. A copy is whole in each word, not across words; `docs/atomicity.md` says where that is enough.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of an array map of `T`s.
#[derive(Debug)]
pub struct Mapped<T> {
    start: NonNull<AtomicU64>,
    words: usize,
    values: std::marker::PhantomData<T>,
}

// SAFETY: all access is by atomic operations on memory that lives as long as the value.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(8), "map values are whole words");
        size_of::<T>() / 8
    };

    /// Maps `values` values of the map.
    pub fn new(map: impl AsFd, values: usize) -> io::Result<Self> {
        let words = Self::WORDS * values;
        // SAFETY: a fresh mapping at a place of the kernel's choice; the kernel refuses a length beyond the map.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                (words * 8).next_multiple_of(rustix::param::page_size()),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap gave no address"))?;
        Ok(Self { start, words, values: std::marker::PhantomData })
    }

    /// The word at byte `offset` of value `index`.
    ///
    /// # Panics
    /// Beyond the map; indices are the caller's own, never from outside.
    pub fn word(&self, index: usize, offset: usize) -> &AtomicU64 {
        let at = index * Self::WORDS + offset / 8;
        assert!(at < self.words && offset.is_multiple_of(8), "a word of the map");
        // SAFETY: inside the mapping, aligned, and alive as long as `self`.
        unsafe { self.start.add(at).as_ref() }
    }

    /// All words of the map.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping, aligned, and alive as long as `self`; others change it through atomics only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// A copy of value `index`, each word whole.
    pub fn copy(&self, index: usize) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        for offset in 0..Self::WORDS {
            let word = self.word(index, offset * 8).load(Ordering::Relaxed);
            // SAFETY: inside the value, which is `WORDS` words long.
            unsafe { value.as_mut_ptr().cast::<u64>().add(offset).write_unaligned(word) };
        }
        // SAFETY: every word was written; map values are plain words and have no invalid ones.
        unsafe { value.assume_init() }
    }

    /// Writes value `index`, word by word.
    pub fn fill(&self, index: usize, value: &T) {
        for offset in 0..Self::WORDS {
            // SAFETY: inside the value.
            let word = unsafe { std::ptr::from_ref(value).cast::<u64>().add(offset).read_unaligned() };
            self.word(index, offset * 8).store(word, Ordering::Relaxed);
        }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nothing borrowed from it outlives `self`.
        unsafe {
            let _ = munmap(
                self.start.as_ptr().cast(),
                (self.words * 8).next_multiple_of(rustix::param::page_size()),
            );
        }
    }
}
