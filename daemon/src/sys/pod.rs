//! The shared types as aya wants them: a promise that any bytes are a value.

use ringbeat_common::maps::Link;
use ringbeat_common::slot::Slot;

/// A value of a map, read and written whole by system call.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Value<T>(pub T);

// SAFETY: whole words without padding or invalid values, laid out in C's way and asserted in `ringbeat-common`.
unsafe impl aya::Pod for Value<Slot> {}
// SAFETY: as above.
unsafe impl aya::Pod for Value<Link> {}
