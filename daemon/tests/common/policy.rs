//! What the scheduler says of a thread.

/// The scheduling policy of the calling thread, by its number (proc_pid_stat(5), field 41).
pub(crate) fn policy() -> String {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("procfs");
    // The name may hold blanks; behind it comes field 3.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    fields.split(' ').nth(41 - 3).expect("field 41").to_owned()
}
