//! The nodes' configuration files and their common key.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context, Result};

use super::{
    LabSpec,
    topology::{SERVICE, addresses, interface, networks, node_name},
};

/// The size of the authkey.
const KEY_BYTES: usize = 256;

/// Writes `ringbeat.toml` and `authkey` into every node's `/etc/ringbeat`.
pub(super) fn write(dir: &Path, spec: &LabSpec) -> Result<()> {
    let text = spec.config.clone().unwrap_or_else(|| text(spec));
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).context("the kernel gives no random bytes")?;
    for id in 1..=spec.nodes {
        let etc = dir.join(node_name(id)).join("etc");
        let written = fs::write(etc.join("ringbeat.toml"), &text).and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o400)
                .open(etc.join("authkey"))?
                .write_all(&key)
        });
        written.with_context(|| format!("cannot write the configuration in {}", etc.display()))?;
        // A daemon that finds nothing waits for the longest lease that there can be, 2.5 s. These nodes are new, and the lab
        // knows that they have promised nothing to anybody.
        let var = dir.join(node_name(id)).join("var");
        fs::write(var.join("views"), "0 1\n")
            .with_context(|| format!("cannot write what was promised in {}", var.display()))?;
    }
    Ok(())
}

fn text(spec: &LabSpec) -> String {
    let mut toml = String::from("# Written by ringbeat-lab.\n");
    _ = writeln!(toml, "[cluster]\nname = \"lab\"\nversion = 1");
    if let Some(datapath) = &spec.datapath {
        _ = writeln!(toml, "datapath = \"{datapath}\"");
    }
    push(&mut toml, &spec.cluster_extra);
    if !spec.ring.is_empty() {
        toml.push_str("\n[ring]\n");
        push(&mut toml, &spec.ring);
    }
    for link in 0..spec.links {
        let (v4, v6) = networks(link);
        let network = if spec.ipv6 { v6 } else { v4 };
        let interface = interface(link);
        _ = writeln!(toml, "\n[[link]]\nid = {link}\ninterface = \"{interface}\"\nnetwork = \"{network}\"");
        _ = writeln!(toml, "profile = \"{}\"", spec.profile);
        push(&mut toml, &spec.link_extra);
    }
    for id in 1..=spec.nodes {
        let own =
            (0..spec.links).map(|link| addresses(link, id)).map(|(v4, v6)| if spec.ipv6 { v6 } else { v4 });
        let own: Vec<String> = own.map(|address| format!("\"{address}\"")).collect();
        let (name, own) = (node_name(id), own.join(", "));
        _ = writeln!(toml, "\n[[node]]\nid = {id}\nname = \"{name}\"\naddresses = [{own}]\nvotes = 1");
    }
    for address in &spec.addresses {
        let interface = interface(SERVICE);
        _ = writeln!(toml, "\n[[address]]\naddress = \"{address}\"\ninterface = \"{interface}\"");
        if spec.failback {
            toml.push_str("failback = true\n");
        }
    }
    toml
}

fn push(toml: &mut String, extra: &BTreeMap<String, String>) {
    for (key, value) in extra {
        _ = writeln!(toml, "{key} = {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_land_in_their_tables() {
        let extra = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let spec = LabSpec {
            nodes: 2,
            links: 1,
            ipv6: true,
            datapath: Some("generic".to_owned()),
            cluster_extra: extra("daemon_stall_ms", "500"),
            link_extra: extra("interval_us", "2000"),
            ..LabSpec::default()
        };
        let want = "# Written by ringbeat-lab.\n[cluster]\nname = \"lab\"\nversion = 1\n\
            datapath = \"generic\"\n\
            daemon_stall_ms = 500\n\n[[link]]\nid = 0\ninterface = \"hb0\"\nnetwork = \"fd77:0:0:0::/64\"\n\
            profile = \"fast\"\ninterval_us = 2000\n\n[[node]]\nid = 1\nname = \"n1\"\n\
            addresses = [\"fd77:0:0:0::1\"]\nvotes = 1\n\n[[node]]\nid = 2\nname = \"n2\"\n\
            addresses = [\"fd77:0:0:0::2\"]\nvotes = 1\n\n[[address]]\naddress = \"10.78.0.100/24\"\n\
            interface = \"svc0\"\n";
        assert_eq!(text(&spec), want);
    }
}
