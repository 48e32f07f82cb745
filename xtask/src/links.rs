//! The links of the Markdown pages: whatever is inside the project must exist, headings included.
//!
//! Three things are links here: `[text](path#heading)`, `[name]: path`, and `src="path"`; and a span of code
//! that begins with one of the project's own top folders is a claim that this path exists.
//!
//! Deliberately not here: addresses on the network. A gate must give the same answer offline.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::process::Workspace;
use crate::sources::{self, Finding, Source};

/// Checks every page; false if a link leads nowhere.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let files = sources::list(workspace)?;
    let site = Site::of(&files);
    let pages: Vec<&Source> = files.iter().filter(|file| file.path.ends_with(".md")).collect();
    let findings: Vec<Finding> = pages.iter().flat_map(|page| check(page, &site)).collect();
    Ok(sources::report("links", pages.len(), &findings))
}

/// What links can lead to.
#[derive(Debug, Default)]
struct Site {
    /// Every file, and every folder that holds one.
    paths: BTreeSet<String>,
    /// The folders at the top.
    rooms: BTreeSet<String>,
    /// The headings of each page.
    headings: BTreeMap<String, BTreeSet<String>>,
}

impl Site {
    fn of(files: &[Source]) -> Self {
        let mut site = Self::default();
        for file in files {
            let folders = file.path.match_indices('/').map(|(at, _)| file.path[..at].to_string());
            site.paths.extend(folders);
            site.paths.insert(file.path.clone());
            if let Some((room, _rest)) = file.path.split_once('/') {
                site.rooms.insert(room.to_string());
            }
            if file.path.ends_with(".md") {
                site.headings.insert(file.path.clone(), headings(&file.text));
            }
        }
        site
    }

    /// Why a link from a page leads nowhere, if so.
    fn objection(&self, page: &str, target: &str) -> Option<String> {
        let (path, heading) = match target.split_once('#') {
            Some((path, heading)) => (path, Some(heading)),
            None => (target, None),
        };
        let resolved = if path.is_empty() { Some(page.to_string()) } else { resolve(page, path) };
        let Some(resolved) = resolved else {
            return Some(format!("`{target}` leads out of the project"));
        };
        if !resolved.is_empty() && !self.paths.contains(&resolved) {
            return Some(format!("`{target}` leads nowhere: there is no {resolved}"));
        }
        // Only pages have headings; `#L12` into a source file is up to the reader.
        let headings = self.headings.get(&resolved)?;
        let heading = heading.filter(|heading| !headings.contains(*heading))?;
        Some(format!("`{target}` leads nowhere: {resolved} has no heading #{heading}"))
    }

    /// Does a span of code claim to be one of our paths, and is it none?
    fn is_false_path(&self, page: &str, span: &str) -> bool {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-/".contains(char);
        let Some((room, rest)) = span.split_once('/') else { return false };
        if !self.rooms.contains(room) || rest.contains("//") || !span.chars().all(is_plain) {
            return false;
        }
        let span = span.trim_end_matches('/');
        !self.paths.contains(span) && !resolve(page, span).is_some_and(|path| self.paths.contains(&path))
    }
}

fn check(page: &Source, site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose(&page.text) {
        let (line, spans) = take_spans(line);
        for target in targets(&line) {
            if let Some(objection) = site.objection(&page.path, &target) {
                findings.push(Finding::new(page, number, objection));
            }
        }
        for span in spans.into_iter().filter(|span| site.is_false_path(&page.path, span)) {
            findings.push(Finding::new(page, number, format!("`{span}` is no path of the project")));
        }
    }
    findings
}

/// The numbered lines outside fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<&str> = None;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let start = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (open, _) => return open.is_none(),
        }
        false
    })
}

/// Takes the code spans out of a line: the line without them, and the spans.
fn take_spans(line: &str) -> (String, Vec<&str>) {
    let mut rest = line;
    let (mut plain, mut spans) = (String::new(), Vec::new());
    while let Some(at) = rest.find('`') {
        let ticks = rest[at..].len() - rest[at..].trim_start_matches('`').len();
        let mark = &rest[at..at + ticks];
        let inside = &rest[at + ticks..];
        let Some(end) = inside.find(mark) else { break };
        plain.push_str(&rest[..at]);
        // What is left keeps `[`…`](target)` a link.
        plain.push(' ');
        spans.push(inside[..end].trim());
        rest = &inside[end + ticks..];
    }
    plain.push_str(rest);
    (plain, spans)
}

/// The link targets of a line that lie inside the project.
fn targets(line: &str) -> Vec<String> {
    let inline = line.match_indices("](").filter_map(|(at, mark)| {
        let rest = &line[at + mark.len()..];
        let mut depth = 1_usize;
        let end = rest.find(|char| {
            match char {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        Some(&rest[..end])
    });
    let quoted = ["src=\"", "href=\""].into_iter().flat_map(|mark| {
        line.match_indices(mark).filter_map(move |(at, _)| line[at + mark.len()..].split('"').next())
    });
    let defined = line.trim_start().strip_prefix('[').and_then(|rest| Some(rest.split_once("]:")?.1));
    let all = inline.chain(quoted).chain(defined);
    // A title may follow the target: `(path "title")`.
    all.filter_map(|target| target.split_whitespace().next())
        .map(|target| target.trim_start_matches('<').trim_end_matches('>').to_string())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// A path as seen from a page, from the top of the project; none if it leads out.
fn resolve(page: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = match path.starts_with('/') {
        true => Vec::new(),
        false => page.split('/').collect(),
    };
    // The page's own name.
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// The anchors of a page's headings, as the usual forges make them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let titles = prose(text).filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len() && title.starts_with(' ')).then_some(title)
    });
    for title in titles {
        let anchor = anchor(title);
        let repeated = (1..).map(|count| format!("{anchor}-{count}"));
        let free = std::iter::once(anchor.clone()).chain(repeated).find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

/// Lower case, spaces to hyphens, and of the signs only hyphens and underscores stay. Of a link, its text.
fn anchor(title: &str) -> String {
    let mut plain = String::new();
    let mut rest = title.trim();
    while let Some((before, after)) = rest.split_once("](") {
        plain.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    let kept = plain.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.flat_map(char::to_lowercase).map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Vec<Source> {
        let page = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        vec![
            page("README.md", "# Ringbeat\n\n## Two commands\n\n## Two commands\n"),
            page("docs/frame.md", "# The `frame`, v1\n"),
            page("daemon/core/src/lib.rs", "//! Core.\n"),
        ]
    }

    fn faults(path: &str, text: &str) -> Vec<usize> {
        let page = Source { path: path.into(), text: text.into() };
        check(&page, &Site::of(&site())).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn good_links_are_left_alone() {
        let good = "[a](README.md) [b](docs/frame.md#the-frame-v1) [c](./docs/) [d](#x y) `daemon/core/src/`\n\
                    [e](https://example.org/x) <img src=\"docs/frame.md\"> [f](README.md#two-commands-1)\n\
                    `daemon/core/*.rs` `target/release/x` `a/b`\n```\n[g](nowhere.md) `docs/nowhere`\n```\n";
        assert_eq!(faults("CHANGES.md", &good.replace("[d](#x y) ", "")), [0; 0]);
        assert_eq!(faults("docs/frame.md", "[a](../README.md#two-commands) [b](#the-frame-v1)\n"), [0; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        assert_eq!(faults("CHANGES.md", "a\n[b](docs/nowhere.md)\n"), [2]);
        assert_eq!(faults("CHANGES.md", "[`b`](docs/nowhere.md \"title\")\n"), [1]);
        assert_eq!(faults("CHANGES.md", "[b]: docs/nowhere.md\n"), [1]);
        assert_eq!(faults("CHANGES.md", "<img src=\"docs/nowhere.svg\">\n"), [1]);
        assert_eq!(faults("CHANGES.md", "[b](README.md#three-commands)\n"), [1]);
        assert_eq!(faults("README.md", "[b](#three-commands)\n"), [1]);
        assert_eq!(faults("docs/frame.md", "[b](../../etc/passwd)\n"), [1]);
        assert_eq!(faults("CHANGES.md", "see `daemon/core/src/main.rs`\n"), [1]);
    }

    #[test]
    fn anchors_are_as_forges_make_them() {
        assert_eq!(anchor(" The `frame`, v1 "), "the-frame-v1");
        assert_eq!(anchor("[Lease](lease.md): no split"), "lease-no-split");
        let found = headings("# A\n# A\n```\n# B\n```\n#hash\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "a-1"]);
    }
}
