//! The rules, each a small function with its reason, and for each a bad sample among the tests below: a rule
//! that cannot fail is no rule.
//!
//! Deliberately not here: exceptions by file. A file that needs one shows that the rule, or the file, is
//! wrong.

use super::lexer::Halves;
use crate::sources::{Finding, Source};

/// A longer file than this hides its story.
const LINES_SOFT_MAX: usize = 500;
/// A file longer than this is two files.
const LINES_MAX: usize = 700;

/// The rooms where `unsafe` is allowed, and why each needs it.
const UNSAFE_ROOMS: [(&str, &str); 3] = [
    ("ebpf/", "kernel programs read packets and maps through raw pointers"),
    ("daemon/src/sys/", "the daemon's system calls and shared map pages"),
    ("tests/lab/src/sys/", "the lab's namespaces and raw sockets"),
];

/// What the pure core must not name, and what it uses instead.
const IMPURE: [(&str, &str); 13] = [
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("std::fs", "durable state is an output"),
    ("std::net", "packets are inputs and outputs; plain addresses are in core::net"),
    ("std::env", "configuration is an argument"),
    ("std::process", "actions are outputs"),
    ("std::thread", "the core has no threads"),
    ("thread::", "the core has no threads"),
    ("tokio", "the core knows no runtime"),
    ("aya", "the core knows no kernel"),
    ("rand", "randomness is an argument"),
    ("HashMap", "its order differs between runs: BTreeMap"),
    ("HashSet", "its order differs between runs: BTreeSet"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["manager", "helper", "helpers", "util", "utils", "data", "info", "misc"];

/// The marks that people leave where work is not done.
const UNFINISHED: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// The macros for the same.
const UNFINISHED_MACROS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// The rules for every text file.
pub(super) fn on_text(source: &Source) -> Vec<Finding> {
    let rules = [trailing_space, end_of_file, marks_outside_rust];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

/// The rules for Rust files.
pub(super) fn on_rust(source: &Source, halves: &Halves) -> Vec<Finding> {
    let rules = [
        length,
        no_tabs,
        module_doc,
        file_names,
        unfinished,
        unsafe_in_its_rooms,
        pure_core,
        tests_last,
        module_names,
    ];
    rules.iter().flat_map(|rule| rule(source, halves)).collect()
}

/// Invisible, and every editor that strips it makes a diff about nothing.
fn trailing_space(source: &Source) -> Vec<Finding> {
    // A recorded output is as it was.
    if !is_written_by_hand(source) {
        return Vec::new();
    }
    on_lines(source, &source.text, |line| {
        (line.trim_end() != line).then(|| "trailing white space".to_string())
    })
}

/// A file that does not end in a newline makes the next line added look like two changes.
fn end_of_file(source: &Source) -> Vec<Finding> {
    let last = source.text.lines().count().max(1);
    if source.text.is_empty() || !is_written_by_hand(source) {
        Vec::new()
    } else if !source.text.ends_with('\n') {
        vec![Finding::new(source, last, "no newline at the end")]
    } else if source.text.ends_with("\n\n") {
        vec![Finding::new(source, last, "empty lines at the end")]
    } else {
        Vec::new()
    }
}

/// Work that is not done is an issue, not a mark that nobody reads. (In Rust, see [`unfinished`]; prose may
/// speak of such marks.)
fn marks_outside_rust(source: &Source) -> Vec<Finding> {
    if source.path.ends_with(".rs") || source.path.ends_with(".md") || !is_written_by_hand(source) {
        return Vec::new();
    }
    on_lines(source, &source.text, |line| {
        UNFINISHED.iter().find(|mark| has_word(line, mark)).map(|mark| format!("{mark}: make it an issue"))
    })
}

/// The first screen tells a file's story; past some length there is no telling.
fn length(source: &Source, _: &Halves) -> Vec<Finding> {
    let count = source.text.lines().count();
    if count > LINES_MAX {
        vec![Finding::new(source, LINES_MAX, format!("{count} lines: split it, {LINES_MAX} is the limit"))]
    } else if count > LINES_SOFT_MAX {
        vec![Finding::warning(source, LINES_SOFT_MAX, format!("{count} lines: is it two files?"))]
    } else {
        Vec::new()
    }
}

/// A tab is as wide as the reader's settings; the formatter uses spaces everywhere but inside literals.
fn no_tabs(source: &Source, _: &Halves) -> Vec<Finding> {
    on_lines(source, &source.text, |line| line.contains('\t').then(|| "a tab: spaces, or `\\t`".to_string()))
}

/// What a file is for, why, and what it leaves out, is the first thing that one reads in it. A build script
/// may go without: cargo already says what it is for.
fn module_doc(source: &Source, _: &Halves) -> Vec<Finding> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//!") || source.name() == "build.rs" {
        return Vec::new();
    }
    vec![Finding::new(source, 1, "starts without a `//!` that says what this file is for, and why")]
}

/// A name such as these says where things were put, not what they are; everything ends up there.
fn file_names(source: &Source, _: &Halves) -> Vec<Finding> {
    let parts = source.path.trim_end_matches(".rs").split('/');
    let empty = parts.filter(|part| EMPTY_NAMES.contains(part));
    empty.map(|part| Finding::new(source, 1, format!("`{part}` says nothing: name what is inside"))).collect()
}

/// The same for modules that have no file of their own.
fn module_names(source: &Source, halves: &Halves) -> Vec<Finding> {
    on_lines(source, &halves.code, |line| {
        let mut words = line.split(|char| !is_name(char)).filter(|word| !word.is_empty());
        words.find(|word| *word == "mod")?;
        let name = words.next().filter(|name| EMPTY_NAMES.contains(name))?;
        Some(format!("`mod {name}` says nothing: name what is inside"))
    })
}

/// Work that is not done is an issue; a macro for it is a panic in production, or noise on its terminal.
fn unfinished(source: &Source, halves: &Halves) -> Vec<Finding> {
    let mut findings = on_lines(source, &halves.comments, |line| {
        UNFINISHED.iter().find(|mark| has_word(line, mark)).map(|mark| format!("{mark}: make it an issue"))
    });
    findings.extend(on_lines(source, &halves.code, |line| {
        UNFINISHED_MACROS
            .iter()
            .find(|name| has_word(line, name))
            .map(|name| format!("{name} is not finished"))
    }));
    findings
}

/// Soundness is audited by reading; what must be read has to be in few places.
fn unsafe_in_its_rooms(source: &Source, halves: &Halves) -> Vec<Finding> {
    if UNSAFE_ROOMS.iter().any(|(room, _why)| source.path.starts_with(room)) {
        return Vec::new();
    }
    on_lines(source, &halves.code, |line| {
        let rooms = UNSAFE_ROOMS.map(|(room, _why)| room).join(", ");
        has_word(line, "unsafe").then(|| format!("`unsafe` outside its rooms ({rooms})"))
    })
}

/// The core replays: the same inputs give the same outputs, on any machine, at any time.
fn pure_core(source: &Source, halves: &Halves) -> Vec<Finding> {
    if !source.path.starts_with("daemon/core/src/") {
        return Vec::new();
    }
    let message = |name: &str, instead: &str| format!("the core must not name `{name}`: {instead}");
    let mut findings = Vec::new();
    for (name, instead) in IMPURE {
        findings.extend(on_lines(source, &halves.code, |line| {
            has_word(line, name).then(|| message(name, instead))
        }));
    }
    // `use std::{collections::BTreeMap, fs}` names `std::fs` too.
    for (line, path) in imports(&halves.code) {
        for (name, instead) in IMPURE.iter().filter(|(name, _)| has_word(&path, name)) {
            let finding = Finding::new(source, line, message(name, instead));
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

/// A reader who meets the tests has read the code: nothing may hide behind them.
fn tests_last(source: &Source, halves: &Halves) -> Vec<Finding> {
    let code = &halves.code;
    let Some(start) = code.find("#[cfg(test)]").map(|at| at + "#[cfg(test)]".len()) else {
        return Vec::new();
    };
    let Some(module) = code[start..].find("mod tests").map(|at| start + at) else { return Vec::new() };
    let Some(open) = code[module..].find('{').map(|at| module + at) else { return Vec::new() };
    // `mod tests;`, whose body is a file of its own, stands with its sisters at the top.
    if code[module..open].contains(';') {
        return Vec::new();
    }
    let mut depth = 0_usize;
    let close = code[open..].bytes().position(|byte| {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    let Some(end) = close.map(|at| open + at + 1) else { return Vec::new() };
    let behind = code[end..].find(|char: char| !char.is_whitespace());
    behind
        .map(|at| Finding::new(source, line_of(code, end + at), "code behind the tests: tests come last"))
        .into_iter()
        .collect()
}

/// Golden files and lock files are written by programs; their spaces are theirs.
fn is_written_by_hand(source: &Source) -> bool {
    if source.path.split('/').any(|part| part == "golden") {
        return false;
    }
    let ends = [".rs", ".toml", ".md", ".sh", ".yml", ".yaml", ".service", ".conf", ".c", ".h"];
    ends.iter().any(|end| source.path.ends_with(end)) || source.path.starts_with(".ci/")
}

/// One finding for each line that `look` has something to say about.
fn on_lines(source: &Source, text: &str, look: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let numbered = (1..).zip(text.lines());
    numbered.filter_map(|(number, line)| Some(Finding::new(source, number, look(line)?))).collect()
}

/// `line` has `word`, and not only as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let free_before = !line[..at].chars().next_back().is_some_and(is_name);
        let free_after = !line[at + word.len()..].chars().next().is_some_and(is_name);
        // `todo!` and `thread::` end by themselves.
        free_before && (free_after || !word.ends_with(is_name))
    })
}

/// A character of a name.
fn is_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Every path that is imported, with the line where its `use` begins.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    let mut offset = 0;
    for line in code.split_inclusive('\n') {
        let start = line.trim_start();
        let start = start.strip_prefix("pub ").unwrap_or(start);
        if let Some(tree) = start.strip_prefix("use ") {
            let begin = offset + (line.len() - tree.len());
            let tree = code[begin..].split(';').next().unwrap_or_default();
            let number = line_of(code, offset);
            imports.extend(paths_of(tree.trim()).into_iter().map(|path| (number, path)));
        }
        offset += line.len();
    }
    imports
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn paths_of(tree: &str) -> Vec<String> {
    let (Some(open), Some(close)) = (tree.find('{'), tree.rfind('}')) else {
        return vec![tree.split_whitespace().next().unwrap_or_default().to_string()];
    };
    let mut depth = 0_usize;
    let parts = tree[open + 1..close].split(|char| {
        match char {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        char == ',' && depth == 0
    });
    let prefix = tree[..open].trim();
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(paths_of).map(|path| format!("{prefix}{path}")).collect()
}

/// The line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::super::lexer::split;
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_string(), text: text.to_string() }
    }

    /// The lines that a rule for Rust finds fault with.
    fn lines(rule: fn(&Source, &Halves) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        rule(&source(path, text), &split(text)).iter().map(|finding| finding.line).collect()
    }

    fn text_lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        rule(&source(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn trailing_space_is_found() {
        assert_eq!(text_lines(trailing_space, "a.rs", "a\nb \nc\t\n"), [2, 3]);
        assert_eq!(text_lines(trailing_space, "tests/frames.txt", "b \n"), [0; 0]);
        assert_eq!(text_lines(trailing_space, "daemon/tests/golden/a.toml", "b \n"), [0; 0]);
    }

    #[test]
    fn the_end_of_a_file_is_one_newline() {
        assert_eq!(text_lines(end_of_file, "a.md", "a\nb"), [2]);
        assert_eq!(text_lines(end_of_file, "a.md", "a\n\n"), [2]);
        assert_eq!(text_lines(end_of_file, "a.md", "a\n"), [0; 0]);
        assert_eq!(text_lines(end_of_file, "a.md", ""), [0; 0]);
    }

    #[test]
    fn marks_are_found_in_scripts_and_comments() {
        assert_eq!(text_lines(marks_outside_rust, ".ci/run", "a\n# FIXME later\n"), [2]);
        assert_eq!(text_lines(marks_outside_rust, ".ci/run", "mktemp /tmp/a.XXXXXX\n"), [0; 0]);
        assert_eq!(lines(unfinished, "a.rs", "// TODO: b\n/* XXX */\n"), [1, 2]);
        assert_eq!(lines(unfinished, "a.rs", "todo!();\nunimplemented!()\nlet a = dbg!(b);\n"), [1, 2, 3]);
        assert_eq!(lines(unfinished, "a.rs", "// a todo list\nlet a = \"TODO\"; my_todo!();\n"), [0; 0]);
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(lines(length, "a.rs", &"\n".repeat(LINES_MAX + 1)), [LINES_MAX]);
        let text = "\n".repeat(LINES_MAX);
        let findings = length(&source("a.rs", &text), &split(&text));
        assert!(findings.iter().all(|finding| finding.is_warning) && findings.len() == 1);
        assert_eq!(lines(length, "a.rs", &"\n".repeat(LINES_SOFT_MAX)), [0; 0]);
    }

    #[test]
    fn tabs_are_found() {
        assert_eq!(lines(no_tabs, "a.rs", "a\n\tb\n"), [2]);
    }

    #[test]
    fn a_missing_module_doc_is_found() {
        assert_eq!(lines(module_doc, "a.rs", "#![no_std]\n//! A.\n"), [1]);
        assert_eq!(lines(module_doc, "a.rs", ""), [1]);
        assert_eq!(lines(module_doc, "a.rs", "\n//! A.\n"), [0; 0]);
        assert_eq!(lines(module_doc, "a/build.rs", "fn main() {}\n"), [0; 0]);
    }

    #[test]
    fn empty_names_are_found() {
        assert_eq!(lines(file_names, "daemon/src/util.rs", ""), [1]);
        assert_eq!(lines(file_names, "daemon/helpers/ring.rs", ""), [1]);
        assert_eq!(lines(file_names, "daemon/src/dataplane.rs", ""), [0; 0]);
        assert_eq!(lines(module_names, "a.rs", "mod ring;\npub(crate) mod utils {\n}\n"), [2]);
        assert_eq!(
            lines(module_names, "a.rs", "mod information;\n// mod info;\nlet modal = data;\n"),
            [0; 0]
        );
    }

    #[test]
    fn unsafe_outside_its_rooms_is_found() {
        let text = "//! A.\nfn a() { unsafe { b() } }\n";
        assert_eq!(lines(unsafe_in_its_rooms, "daemon/src/main.rs", text), [2]);
        assert_eq!(lines(unsafe_in_its_rooms, "daemon/src/system.rs", text), [2]);
        for (room, _why) in UNSAFE_ROOMS {
            assert_eq!(lines(unsafe_in_its_rooms, &format!("{room}a.rs"), text), [0; 0]);
        }
        let text = "#![forbid(unsafe_code)] // unsafe\nlet a = \"unsafe\";\n";
        assert_eq!(lines(unsafe_in_its_rooms, "daemon/core/src/lib.rs", text), [0; 0]);
    }

    #[test]
    fn an_impure_core_is_found() {
        let path = "daemon/core/src/detector.rs";
        for bad in [
            "let now = Instant::now();",
            "let now = std::time::Instant::now();",
            "use std::time::{Duration, SystemTime};",
            "std::fs::read(a);",
            "use std::{collections::BTreeMap, fs};",
            "use std::{\n    collections::{BTreeMap, HashMap},\n    fmt,\n};",
            "use std::net::UdpSocket;",
            "std::env::var(a)",
            "std::process::exit(1)",
            "use std::{fmt, thread};",
            "thread::spawn(a)",
            "use tokio::time;",
            "aya::Ebpf::load(a)",
            "rand::random()",
            "let a: HashMap<u8, u8>;",
            "HashSet::new()",
        ] {
            assert!(!lines(pure_core, path, bad).is_empty(), "{bad}");
            assert!(lines(pure_core, "daemon/src/main.rs", bad).is_empty(), "{bad}");
        }
        let good =
            "use std::{collections::BTreeMap, time::{Duration, Instant}};\n// HashMap\nlet layaway = 1;\n";
        assert_eq!(lines(pure_core, path, good), [0; 0]);
        assert_eq!(lines(pure_core, path, "\nuse std::{\n    fmt,\n    fs,\n};\n"), [2]);
    }

    #[test]
    fn code_behind_the_tests_is_found() {
        let tests = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { \"}\"; }\n}\n";
        assert_eq!(lines(tests_last, "a.rs", tests), [0; 0]);
        assert_eq!(lines(tests_last, "a.rs", &format!("{tests}\nfn c() {{}}\n")), [7]);
        assert_eq!(lines(tests_last, "a.rs", "#[cfg(test)]\nmod tests;\nfn c() {}\n"), [0; 0]);
        assert_eq!(lines(tests_last, "a.rs", "#[cfg(test)]\nuse a::B;\nfn c() {}\n"), [0; 0]);
    }
}
