//! Criterion micro benches of the parts that run for every frame and for every event: `cargo bench -p ringbeat-benches`.
//!
//! They are in `benches/benches/`. Deliberately not here: anything with a kernel, a network or a second process; that
//! is `cargo xtask bench`, and its figures are the ones that count.
