//! A node's clock in a lab: the boot-time clock with another rate and another zero.
//!
//! Nodes of a lab share one kernel and so one clock; the lease's proof speaks of clocks that differ. What ships runs with
//! a rate and an offset of 0, and then every function here is the identity.

/// Parts of the rate: a rate of `n` adds `n / 2^20` to the clock's speed.
pub const RATE_SHIFT: u32 = 20;

/// A reading of the boot-time clock as the node's own clock shows it.
///
/// `rate` and `offset_ns` are signed numbers, as their two's complement.
#[inline(always)]
pub const fn skewed(raw_ns: u64, rate: u64, offset_ns: u64) -> u64 {
    // Half of the shift before the product: 2^63 ns would be reached after three hours else.
    let half = RATE_SHIFT / 2;
    let gained = ((raw_ns >> half).cast_signed()).wrapping_mul(rate.cast_signed()) >> half;
    raw_ns.wrapping_add(gained.cast_unsigned()).wrapping_add(offset_ns)
}

/// A length of the node's time in true time, within a hundredth.
#[inline(always)]
pub const fn true_length(ns: u64, rate: u64) -> u64 {
    let gained = ns.cast_signed().wrapping_mul(rate.cast_signed()) >> RATE_SHIFT;
    ns.wrapping_sub(gained.cast_unsigned())
}

/// The rate of so many parts in a million.
pub const fn rate_of_ppm(ppm: i32) -> u64 {
    ((ppm as i64 * (1 << RATE_SHIFT)) / 1_000_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes_what_ships() {
        for raw_ns in [0, 1, 12_345_678_901, u64::MAX] {
            assert_eq!(skewed(raw_ns, 0, 0), raw_ns);
            assert_eq!(true_length(raw_ns, 0), raw_ns);
        }
    }

    #[test]
    fn a_clock_gains_and_loses() {
        let day_ns = 86_400_000_000_000;
        let fast = skewed(day_ns, rate_of_ppm(100_000), 5);
        let slow = skewed(day_ns, rate_of_ppm(-100_000), 5);
        let parts = |ns: u64| ns as f64 / day_ns as f64;
        assert!((parts(fast) - 1.1).abs() < 1e-5 && (parts(slow) - 0.9).abs() < 1e-5);
        assert!((true_length(1_000_000, rate_of_ppm(100_000)) as f64 - 909_090.0).abs() < 10_000.0);
        assert_eq!(skewed(1000, 0, (-3i64) as u64), 997);
    }
}
