//! The system calls behind the lab. The only unsafe code of this crate.

pub(crate) mod clock;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod packet;
pub(crate) mod process;
pub(crate) mod sched;
pub(crate) mod spaces;
