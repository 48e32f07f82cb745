//! The documents: they show only commands that a test has run, and samples with the fields of real answers.
//!
//! Commands stand in `sh` blocks, in blocks set in by four blanks, and in spans of code. Those of `ringbeat` and
//! `ringbeatd` are run in a node and have to succeed; those of the lab go through its parser. A `text` block after the
//! first of them in a paragraph, or in a block, is a sample of its answer.
//!
//! Deliberately not here: `cargo xtask` but for what it hands to the lab (a test of xtask parses that), and the
//! commands of `LEFT`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{ALL, ALONE, Ctx, TIMEOUT, Test};
use crate::{
    Lab, Node,
    demo::MOMENTS,
    lab::{program, remove},
};

pub(super) const TESTS: &[Test] = &[
    Test { name: "docs/commands", needs: ALL, timeout: TIMEOUT, run: commands },
    Test { name: "docs/benches", needs: ALONE, timeout: LONG, run: benches },
    Test { name: "docs/demo", needs: ALL, timeout: TIMEOUT, run: demo },
    Test { name: "docs/lab_speaks_json", needs: ALL, timeout: TIMEOUT, run: lab_speaks_json },
];

/// Benches take their time.
const LONG: Duration = Duration::from_secs(180);
/// Commands that are shown and not run, and why.
const LEFT: [(&str, &str); 5] = [
    ("systemctl", "a node of a lab has no systemd"),
    ("mkdir", "it is for a machine's own folders"),
    ("install", "it is for a machine's own folders"),
    ("cargo test", "it compiles for minutes; `cargo xtask test` runs the same"),
    ("cargo bench", "it compiles and measures for minutes"),
];
/// Spans of code that look like commands.
const NO_COMMANDS: [&str; 5] = [
    "ringbeat 1 cluster id",
    "ringbeat 1 frame tag",
    "ringbeat 1 message tag",
    "ringbeat 1 ring",
    "ringbeat 1 ring frames",
];
/// Words that stand for one of the reader's own.
const PLACES: [(&str, &str); 1] = [("SHELL", "bash")];
/// Lines that an answer has only when there is a reason.
const SOMETIMES: [&str; 2] = ["announced", "warning"];
/// Exit code of a command line that is not understood.
const USAGE: i32 = 64;

/// A command as a page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    /// The page and the line.
    place: String,
    line: String,
    /// What the page says that it answers.
    sample: Option<String>,
}

/// What can be done about a command.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// It is run in a node.
    Run(Vec<String>),
    /// It goes through the lab's parser.
    Parse(Vec<String>),
    /// A test of xtask parses it.
    Xtask,
    /// See [`LEFT`].
    Left,
}

fn commands(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(ctx.spec())?;
    super::expect::all_up(&lab)?;
    let (mut run, mut parsed, mut objections) = (BTreeMap::new(), 0, Vec::new());
    for (name, text) in pages()? {
        for shown in shown(&name, &text) {
            match way(&shown.line) {
                Ok(Way::Run(words)) => {
                    run.entry(turn(&words)).or_insert_with(|| (words, Vec::new())).1.push(shown)
                }
                Ok(Way::Parse(words)) => {
                    parsed += 1;
                    let said = tool(&[&["parse".to_owned(), "--".to_owned()], words.as_slice()].concat())?;
                    if !said.status.success() {
                        objections.push(format!(
                            "{}: {}: {}",
                            shown.place,
                            shown.line,
                            text_of(&said.stderr)
                        ));
                    }
                }
                Ok(Way::Xtask | Way::Left) => {}
                Err(error) => objections.push(format!("{}: {error}", shown.place)),
            }
        }
    }
    ensure!(run.len() > 8 && parsed > 10, "only {} commands to run and {parsed} to parse", run.len());
    for (words, shown) in run.values() {
        ctx.step(&words.join(" "));
        let said = in_node(&lab, words)?;
        for shown in shown {
            let place = format!("{}: {}", shown.place, shown.line);
            if !said.status.success() {
                objections.push(format!("{place}: {}, {}", said.status, text_of(&said.stderr)));
            }
            let against = shown.sample.iter().flat_map(|sample| against(sample, &text_of(&said.stdout)));
            objections.extend(against.map(|objection| format!("{place}: {objection}")));
        }
        let slip = [&words[..1], &[format!("{}x", words[1])], &words[2..]].concat();
        ensure!(in_node(&lab, &slip)?.status.code() == Some(USAGE), "{slip:?} is understood");
    }
    flags(&lab, &mut objections)?;
    ensure!(objections.is_empty(), "{}", objections.join("; "));
    lab.down()
}

/// Every flag that a page names in a span of code is one that some program has.
fn flags(lab: &Lab, objections: &mut Vec<String>) -> Result<()> {
    let mut known = BTreeSet::new();
    for name in ["ringbeat", "ringbeatd"] {
        helps(&|path| in_node(lab, &[&[name.to_owned()], path].concat()), &mut Vec::new(), &mut known)?;
    }
    helps(&|path| tool(path), &mut Vec::new(), &mut known)?;
    for (page, text) in pages()? {
        let spans = text.lines().flat_map(spans).filter(|span| span.starts_with('-') && span.len() > 1);
        for span in spans.filter(|span| !known.contains(span.split([' ', '=']).next().unwrap_or_default())) {
            objections.push(format!("{page}: no program has the flag {span}"));
        }
    }
    Ok(())
}

/// Gathers the flags of a command and of the commands below it, from what their helps say.
fn helps(
    run: &dyn Fn(&[String]) -> Result<Output>,
    path: &mut Vec<String>,
    known: &mut BTreeSet<String>,
) -> Result<()> {
    let said = run(&[path.as_slice(), &["--help".to_owned()]].concat())?;
    ensure!(said.status.success(), "{path:?} has no help: {}", text_of(&said.stderr));
    let text = text_of(&said.stdout);
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '-');
    known.extend(words.filter(|word| word.starts_with('-')).map(str::to_owned));
    let below =
        text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for verb in below.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help") {
        path.push(verb.to_owned());
        helps(run, path, known)?;
        path.pop();
    }
    Ok(())
}

/// Runs a command in a node that it harms least, with what it needs.
fn in_node(lab: &Lab, words: &[String]) -> Result<Output> {
    let rest: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let node = lab.node(if turn(words).0 == 0 { "n1" } else { "n3" })?;
    match (words[0].as_str(), rest.first()) {
        ("ringbeat", Some(&"keygen")) => {
            // It never overwrites a key.
            let (key, aside) = (node.etc().join("authkey"), node.etc().join("authkey.aside"));
            fs::rename(&key, &aside)?;
            let said = node.output(&words[0], &rest);
            fs::rename(&aside, &key)?;
            said
        }
        ("ringbeatd", Some(&"--clear-pins")) => {
            dead(&node)?;
            node.output(&words[0], &rest)
        }
        _ => node.output(&words[0], &rest),
    }
}

fn dead(node: &Node<'_>) -> Result<()> {
    node.kill()?;
    let dead = node.daemon()?.is_none_or(|daemon| daemon.wait_dead(TIMEOUT));
    ensure!(dead, "the daemon of {} still lives", node.name());
    Ok(())
}

/// The order of running: what only asks, then what needs a node of its own.
fn turn(words: &[String]) -> (u8, String) {
    let turn = match (words[0].as_str(), words.get(1).map(String::as_str)) {
        ("ringbeat", Some("handover" | "keygen")) => 1,
        ("ringbeatd", _) => 2,
        _ => 0,
    };
    (turn, words.join(" "))
}

/// The lab's own program.
fn tool(words: &[String]) -> Result<Output> {
    Ok(Command::new(program("ringbeat-lab")?).args(words).stdin(Stdio::null()).output()?)
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The pages by name.
fn pages() -> Result<Vec<(String, String)>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "packaging/README.md"].map(PathBuf::from).into();
    for entry in fs::read_dir(top.join("docs"))? {
        paths.push(Path::new("docs").join(entry?.file_name()));
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(top.join(&path)).with_context(|| format!("no {}", path.display()))?;
        Ok((path.display().to_string(), text))
    };
    paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "md")).map(read).collect()
}

/// What a page shows.
fn shown(page: &str, text: &str) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    // The first command of the block that was read last: a sample would be its answer.
    let mut owner: Option<usize> = None;
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        let mut block = vec![(number, line)];
        let kind = line.strip_prefix("```");
        if let Some(kind) = kind {
            block.clear();
            block.extend(lines.by_ref().take_while(|(_, line)| *line != "```"));
            if kind == "text" {
                let sample: Vec<&str> = block.iter().map(|(_, line)| *line).collect();
                if let Some(owner) = owner.take() {
                    found[owner].sample = Some(sample.join("\n"));
                }
                continue;
            }
        } else if line.trim().is_empty() {
            continue;
        } else {
            while let Some(next) =
                lines.next_if(|(_, line)| !line.trim().is_empty() && !line.starts_with("```"))
            {
                block.push(next);
            }
        }
        let known = |line: &str| commands_of(line).iter().any(|line| way(line).is_ok());
        let is_script = match kind {
            Some(kind) => kind == "sh",
            None => line.starts_with("    ") && block.iter().any(|(_, line)| known(line)),
        };
        let first = found.len();
        for (number, line) in block {
            let commands =
                if is_script { commands_of(line) } else { spans(line).filter(is_command).collect() };
            found.extend(commands.into_iter().map(|command| Shown {
                place: format!("{page}:{number}"),
                line: command.to_owned(),
                sample: None,
            }));
        }
        let runs = |shown: &Shown| matches!(way(&shown.line), Ok(Way::Run(_)));
        owner = found[first..].iter().position(runs).map(|at| first + at);
    }
    found
}

/// The commands of a line of a script, without comments and without the files that they write.
fn commands_of(line: &str) -> Vec<&str> {
    let line = line.split(" #").next().unwrap_or_default();
    let parts = line.split("&&").map(|part| part.split(" > ").next().unwrap_or_default().trim());
    parts.filter(|part| !part.is_empty() && !part.starts_with('#')).collect()
}

/// The spans of code in a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_command(span: &&str) -> bool {
    let ours = ["ringbeat ", "ringbeatd ", "target/release/ringbeat-lab ", "cargo xtask "];
    ours.iter().any(|ours| span.starts_with(ours)) && !NO_COMMANDS.contains(span)
}

/// What to do about a command.
fn way(line: &str) -> Result<Way> {
    let is_setting = |word: &&str| word.split_once('=').is_some_and(|(name, _)| !name.starts_with('-'));
    let words: Vec<&str> = line.split_whitespace().skip_while(is_setting).collect();
    let own = |words: &[&str]| words.iter().map(|word| in_place(word)).collect::<Result<Vec<String>>>();
    let is_left = || {
        let line = words.join(" ");
        LEFT.iter().any(|(left, _why)| line == *left || line.starts_with(&format!("{left} ")))
    };
    match words.as_slice() {
        ["ringbeat" | "ringbeatd", _, ..] => own(&words).map(Way::Run),
        ["target/release/ringbeat-lab", rest @ ..] => own(rest).map(Way::Parse),
        ["cargo", "xtask", "lab" | "demo" | "bench", ..] => own(&words[2..]).map(Way::Parse),
        ["cargo", "xtask", ..] => Ok(Way::Xtask),
        _ if is_left() => Ok(Way::Left),
        _ => bail!("no test runs `{line}`, and it is not among those that are left"),
    }
}

/// A word that stands for another is that one.
fn in_place(word: &str) -> Result<String> {
    let stands = word.len() > 1 && word.chars().all(|char| char.is_ascii_uppercase());
    match PLACES.iter().find(|(place, _)| *place == word) {
        Some((_, own)) => Ok((*own).to_owned()),
        None if stands => bail!("nothing is known to put in the place of {word}"),
        None => Ok(word.to_owned()),
    }
}

/// What an answer has that can be named: the keys of `key: value` lines, the headers of tables, the keys of `key=value`.
#[derive(Debug, Default)]
struct Fields {
    keys: BTreeSet<String>,
    headers: BTreeSet<String>,
    pairs: BTreeSet<String>,
}

impl Fields {
    fn of(text: &str) -> Self {
        let mut fields = Self::default();
        for line in text.lines() {
            let is_key = |word: &str| {
                !word.is_empty()
                    && word.chars().all(|char| char.is_ascii_lowercase() || "_0123456789".contains(char))
            };
            let is_header = |word: &str| {
                word.chars().all(|char| char.is_ascii_uppercase() || "_0123456789".contains(char))
                    && word.starts_with(|char: char| char.is_ascii_uppercase())
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.len() > 1 && words.iter().all(|word| is_header(word)) {
                fields.headers.extend(words.iter().map(|word| (*word).to_owned()));
            }
            fields
                .keys
                .extend(line.split_once(": ").filter(|(key, _)| is_key(key)).map(|(key, _)| key.to_owned()));
            let pairs = words.iter().filter_map(|word| word.split_once('=')).filter(|(key, _)| is_key(key));
            fields.pairs.extend(pairs.map(|(key, _)| key.to_owned()));
        }
        fields
    }
}

/// What a sample shows that the answer has not, and which of the answer's lines it does not show.
fn against(sample: &str, answer: &str) -> Vec<String> {
    let (shown, real) = (Fields::of(sample), Fields::of(answer));
    if shown.keys.is_empty() && shown.headers.is_empty() && shown.pairs.is_empty() {
        let strange = sample.lines().filter(|line| !answer.lines().any(|real| real == *line));
        return strange.map(|line| format!("it does not answer {line:?}")).collect();
    }
    let mut objections = Vec::new();
    for (shown, real) in
        [(&shown.keys, &real.keys), (&shown.headers, &real.headers), (&shown.pairs, &real.pairs)]
    {
        objections.extend(shown.difference(real).map(|field| format!("its answer has no {field}")));
    }
    if !shown.keys.is_empty() {
        let unshown = real.keys.difference(&shown.keys).filter(|key| !SOMETIMES.contains(&key.as_str()));
        objections.extend(unshown.map(|key| format!("the sample lacks the line {key}")));
    }
    objections
}

/// The results of the benches have the fields that the page has of them, and no others.
fn benches(ctx: &mut Ctx) -> Result<()> {
    let name = ctx.name("bench");
    let page = pages()?.into_iter().find(|(name, _)| name == "docs/testing.md").context("no such page")?.1;
    for line in [
        "detect --scenario kill --runs 1",
        "failover --scenario kill --runs 1",
        "calm --seconds 1",
        "datapath --seconds 1",
        "ring --seconds 0.3 --runs 1 --cuts 1",
    ] {
        ctx.step(line);
        let mut words: Vec<String> = ["bench", "--name", &name, "-o", "json"].map(str::to_owned).into();
        words.extend(line.split(' ').map(str::to_owned));
        let said = tool(&words)?;
        ensure!(said.status.success(), "{line}: {}", text_of(&said.stderr));
        let result: BTreeMap<String, Value> = serde_json::from_slice(&said.stdout)?;
        let real: BTreeSet<&str> = result.keys().map(String::as_str).collect();
        let shown = fields_of(&page, line.split(' ').next().unwrap_or_default());
        let difference: Vec<_> = shown.symmetric_difference(&real).collect();
        ensure!(difference.is_empty(), "{line}: only in the page, or only in the result: {difference:?}");
    }
    Ok(())
}

/// The fields in the first table of fields after the paragraph that begins with this name.
fn fields_of<'a>(page: &'a str, name: &str) -> BTreeSet<&'a str> {
    let after = page.lines().skip_while(|line| {
        !line.starts_with(&format!("`{name}`:")) && !line.starts_with(&format!("`{name}`,"))
    });
    let table =
        after.skip_while(|line| !line.starts_with("| field ")).take_while(|line| line.starts_with('|'));
    table.filter_map(|row| row.split('|').nth(1)).flat_map(spans).collect()
}

/// The demo comes to its end, and names every moment of both moves.
fn demo(ctx: &mut Ctx) -> Result<()> {
    let name = ctx.name("demo");
    let line = ["demo", "--profile", "lan", "--name", &name].map(str::to_owned);
    let said = tool(&line)?;
    let text = text_of(&said.stdout);
    text.lines().for_each(|line| ctx.step(line));
    ensure!(said.status.success(), "{}: {}", said.status, text_of(&said.stderr));
    for moment in MOMENTS {
        let count = text.lines().filter(|line| line.contains(&format!(" ms  {moment}  "))).count();
        ensure!(count == 2, "{moment} is shown {count} times");
    }
    ensure!(!remove(&name)?, "the demo left its lab");
    Ok(())
}

/// `-o json` of the verbs that pass on what others say.
fn lab_speaks_json(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(ctx.spec())?;
    let name = lab.spec().name.clone();
    let line = |words: &[&str]| -> Vec<String> {
        let words = [&["lab", "--name", &name, "-o", "json"], words].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    ctx.step("exec");
    let said = tool(&line(&["exec", "n2", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]))?;
    ensure!(said.status.code() == Some(42), "exec ends with {}", said.status);
    let value: Value = serde_json::from_slice(&said.stdout)?;
    let want = serde_json::json!({"node": "n2", "code": 42, "stdout": "out\n", "stderr": "err\n"});
    ensure!(value == want, "exec says {value}");
    ctx.step("logs, as they come");
    let mut follower = Command::new(program("ringbeat-lab")?)
        .args(line(&["logs", "n2", "-f"]))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(follower.stdout.take().context("piped")?).lines();
    let mut next = || -> Result<String> {
        let line = lines.next().context("the log has ended")??;
        let value: Value = serde_json::from_str(&line)?;
        ensure!(value["node"] == "n2", "{line}");
        Ok(value["line"].as_str().context("no line")?.to_owned())
    };
    ensure!(next()?.contains("INFO"), "the log does not begin with what the daemon said");
    writeln!(fs::File::options().append(true).open(lab.node("n2")?.log_path())?, "one more")?;
    while next()? != "one more" {}
    ctx.step("and the end of the lab is their end");
    lab.down()?;
    ensure!(follower.wait()?.success(), "the follower failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
Run `ringbeat status`, and never `ringbeat`, or `ringbeat link 0`:

```text
node: n1
state: running
```

```sh
cargo xtask lab up --name x   # a comment, `ringbeat nonsense`
RINGBEAT_SEED=1 cargo test -p x
ringbeat config check && systemctl enable ringbeatd > /dev/null
```

Not a sample of anything:

```text
node: n2
```

    cargo xtask bench --help
    ringbeat completions SHELL

    a formula >= 1
";

    fn lines(page: &str) -> Vec<String> {
        shown("page", page).into_iter().map(|shown| shown.line).collect()
    }

    #[test]
    fn everything_that_looks_like_a_command_is_found() {
        let want = [
            "ringbeat status",
            "ringbeat link 0",
            "cargo xtask lab up --name x",
            "RINGBEAT_SEED=1 cargo test -p x",
            "ringbeat config check",
            "systemctl enable ringbeatd",
            "cargo xtask bench --help",
            "ringbeat completions SHELL",
        ];
        assert_eq!(lines(PAGE), want);
        let shown = shown("page", PAGE);
        assert!(shown.iter().all(|shown| way(&shown.line).is_ok()), "{shown:?}");
        assert_eq!(shown[0].sample.as_deref(), Some("node: n1\nstate: running"));
        assert_eq!(shown.iter().filter(|shown| shown.sample.is_some()).count(), 1);
        assert_eq!(
            way("ringbeat completions SHELL").expect("known"),
            Way::Run(["ringbeat", "completions", "bash"].map(str::to_owned).into())
        );
    }

    /// A page with a slip in any of its commands has one that no test runs, or that a program refuses.
    #[test]
    fn a_slip_in_a_command_is_noticed() {
        for (right, wrong) in [
            ("cargo xtask lab", "crgo xtask lab"),
            ("cargo test", "cargo tset"),
            ("systemctl enable", "systemctrl enable"),
            ("ringbeat completions SHELL", "ringbeat completions SHELLS"),
            ("ringbeat config", "ringbaet config"),
        ] {
            let page = PAGE.replace(right, wrong);
            assert_ne!(page, PAGE);
            let unknown = lines(&page).iter().filter(|line| way(line).is_err()).count();
            assert_eq!(unknown, 1, "{wrong}");
        }
        // The verb is the program's to refuse: the span is still one to run.
        let page = PAGE.replace("ringbeat status", "ringbeat statsu");
        assert!(matches!(way(&lines(&page)[0]), Ok(Way::Run(words)) if words[1] == "statsu"));
        let page = PAGE.replace("lab up", "lab pu");
        assert!(
            lines(&page).iter().any(|line| matches!(way(line), Ok(Way::Parse(words)) if words[1] == "pu"))
        );
    }

    #[test]
    fn a_table_is_found_by_the_paragraph_before_it() {
        let page =
            "`calm`\n\n`calm`: `x`.\n\n| field | meaning |\n|---|---|\n| `a`, `b` | not `c` |\n\n| `d` | |\n";
        assert_eq!(fields_of(page, "calm").into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert!(fields_of(page, "kalm").is_empty());
    }

    #[test]
    fn a_sample_with_another_field_is_noticed() {
        let answer = "node: n1\nstate: running\nwarning: x\n\nNAME  VALUE_US\na  1\nx link=0 by=timer\n";
        for good in ["node: n9\nstate: alone", "NAME  VALUE_US", "VALUE_US  NAME\nb  2", "y by=frame link=3"]
        {
            assert_eq!(against(good, answer), [""; 0], "{good}");
        }
        for bad in
            ["node: n9", "node: n1\nstate: x\nsince: 3", "NAME  VALUE_MS", "y via=frame", "another line"]
        {
            assert_eq!(against(bad, answer).len(), 1, "{bad}: {:?}", against(bad, answer));
        }
    }
}
