//! Views across configurations: nodes that run with other votes, nodes or addresses never serve beside one another.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    ALL, Ctx, TIMEOUT, Test,
    expect::{Ear, all_up, quiet, status, wait},
};
use crate::{Lab, Node, ProcessState, StartOptions};

pub(super) const TESTS: &[Test] = &[
    Test { name: "views/votes_change", needs: ALL, timeout: TIMEOUT, run: votes_change },
    Test { name: "views/other_content", needs: ALL, timeout: TIMEOUT, run: other_content },
];

/// Writes another configuration for a node; it takes effect at its next start.
fn configure(node: &Node<'_>, change: impl Fn(&str) -> String) -> Result<()> {
    let path = node.etc().join("ringbeat.toml");
    let old = fs::read_to_string(&path)?;
    let new = change(&old);
    ensure!(old != new, "the configuration is as it was");
    Ok(fs::write(&path, new)?)
}

fn restart(node: &Node<'_>) -> Result<()> {
    node.kill()?;
    wait("the daemon is dead", || Ok(node.daemon_state()? == ProcessState::Dead))?;
    node.start(&StartOptions::default())?;
    node.wait_ready(Duration::from_secs(10))
}

fn all_quorate(lab: &Lab) -> Result<()> {
    wait("all are quorate", || {
        let all = lab.nodes().map(|node| status(&node)).collect::<Result<Vec<_>>>()?;
        Ok(all.iter().all(|status| status.quorate && status.view == all[0].view))
    })
}

/// The third node gets three votes, by one restart after the other. It alone would have a quorum of the new votes while the
/// others still have one of the old.
fn votes_change(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(ctx.spec())?;
    all_up(&lab)?;
    all_quorate(&lab)?;
    let more = |text: &str| {
        let at = text.rfind("votes = 1").unwrap_or(text.len());
        let (before, after) = text.split_at(at);
        let after = after.replacen("votes = 1", "votes = 3", 1);
        format!("{before}{after}").replacen("version = 1", "version = 2", 1)
    };
    for node in lab.nodes() {
        configure(&node, more)?;
    }
    let n3 = lab.node("n3")?;
    restart(&n3)?;
    quiet();
    let said = status(&n3)?;
    ensure!(!said.quorate, "two quorums: {said:?}");
    let warned = said.warnings.iter().any(|text| text.contains("not seen yet: n1, n2"));
    ensure!(warned, "it does not say what it waits for: {:?}", said.warnings);
    ensure!(status(&lab.node("n1")?)?.quorate, "the old quorum is gone before it has to");
    restart(&lab.node("n1")?)?;
    quiet();
    for node in lab.nodes() {
        ensure!(!status(&node)?.quorate, "{} is quorate while votes change", node.name());
    }
    restart(&lab.node("n2")?)?;
    all_quorate(&lab)?;
    ensure!(status(&n3)?.votes.total == 5, "{:?}", status(&n3)?.votes);
    ctx.step("a configuration without a node that has a quorum by itself is refused");
    let n1 = lab.node("n1")?;
    n1.kill()?;
    configure(&n1, |text| {
        let at = text.rfind("[[node]]").unwrap_or(text.len());
        let end = text[at..].find("[[address]]").map_or(text.len(), |end| at + end);
        format!("{}{}", &text[..at], &text[end..]).replacen("version = 2", "version = 3", 1)
    })?;
    n1.start(&StartOptions::default())?;
    wait("the start is refused", || Ok(n1.daemon_state()? == ProcessState::Dead))?;
    let log = n1.log_tail(3)?;
    ensure!(log.contains("changed too much"), "{log}");
    lab.down()
}

/// Under one version two nodes have other lists of addresses: that is told, and they share no view.
fn other_content(ctx: &mut Ctx) -> Result<()> {
    let lab = ctx.running(ctx.spec())?;
    all_up(&lab)?;
    all_quorate(&lab)?;
    let n1 = lab.node("n1")?;
    let mut ear = Ear::on(&lab.node("n2")?)?;
    configure(&n1, |text| {
        let first = "[[address]]\naddress = \"10.78.0.101/24\"\ninterface = \"svc0\"\n\n[[address]]";
        text.replacen("[[address]]", first, 1)
    })?;
    restart(&n1)?;
    let told = ear.hears("config_differs n1")?;
    let text = told.text.context("no text")?;
    ensure!(text.contains("version 1") && text.contains("differ"), "{text}");
    all_up(&lab)?;
    quiet();
    ensure!(!status(&n1)?.quorate, "{:?}", status(&n1)?);
    for name in ["n2", "n3"] {
        let said = status(&lab.node(name)?)?;
        ensure!(said.quorate && said.view.is_some_and(|view| view.members.len() == 2), "{name}");
    }
    lab.down()
}
