//! What good files mean, and that no text at all makes the parser panic.

use std::net::IpAddr;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme, NarratableReportHandler};
use proptest::prelude::*;
use ringbeat_config::{Config, ConfigError, Datapath, Profile};

const SMALL: &str = r#"
[cluster]
name = "demo"
[[link]]
id = 3
interface = "hb3"
network = "fd77:0:0:3::/64"
[[link]]
id = 1
interface = "hb1"
network = "10.77.1.0/24"
port = 6000
profile = "wan"
interval_us = 250000
[[node]]
id = 64
name = "b"
addresses = ["10.77.1.2", "fd77:0:0:3::2"]
votes = 0
[[node]]
id = 2
name = "A.example"
addresses = ["10.77.1.1", "fd77:0:0:3::1"]
witness = true
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "test.toml", Some("a.EXAMPLE"))
}

#[test]
fn the_example_parses_on_its_nodes_and_shows_the_defaults() {
    for (me, host) in ["n1", "n2", "n3"].into_iter().enumerate() {
        let config = Config::parse(Config::example(), "example.toml", Some(host)).expect("a good example");
        assert_eq!(config.me(), me);
        assert_eq!(config.own().name(), host);
    }
    // What is commented out, put in: the same configuration, so the comments tell the truth about defaults.
    let active = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest.to_owned(),
        _ => line.to_owned(),
    };
    let spelled: String = Config::example().lines().map(|line| active(line) + "\n").collect();
    assert_ne!(spelled, Config::example());
    let spelled = Config::parse(&spelled, "example.toml", Some("n2")).expect("a good example, spelled out");
    assert_eq!(spelled, Config::parse(Config::example(), "example.toml", Some("n1")).expect("good"));
}

#[test]
fn defaults_order_and_overrides() {
    let config = parse(SMALL).expect("a good file");
    let cluster = config.cluster();
    assert_eq!((cluster.name(), cluster.version(), cluster.daemon_stall_ms()), ("demo", 1, 1000));
    assert_eq!(cluster.authkey(), Path::new("/etc/ringbeat/authkey"));
    assert_eq!(cluster.state(), Path::new("/var/lib/ringbeat"));
    assert_eq!(cluster.control(), Path::new("/run/ringbeat/control.sock"));
    assert_eq!(cluster.datapath(), Datapath::Auto);
    assert!(cluster.realtime());

    let links = config.links();
    assert_eq!(links.iter().map(|link| (link.id(), link.port())).collect::<Vec<_>>(), [(1, 6000), (3, 5408)]);
    assert_eq!((links[0].interval_ns(), links[0].deadline_ns()), (250_000_000, 1_250_000_000));
    assert_eq!(links[1].profile(), Profile::Lan);
    assert_eq!((links[1].interval_ns(), links[1].deadline_ns()), (5_000_000, 20_000_000));

    let nodes = config.nodes();
    assert_eq!(nodes.iter().map(|node| (node.id(), node.slot())).collect::<Vec<_>>(), [(2, 1), (64, 63)]);
    assert_eq!((nodes[0].votes(), nodes[0].witness(), nodes[1].votes()), (1, true, 0));
    assert_eq!(config.own().name(), "A.example");
    assert_eq!(config.own().address_on(1), "fd77:0:0:3::1".parse::<IpAddr>().expect("an address"));
}

#[test]
fn the_largest_numbers_fit() {
    let text = SMALL
        .replace("name = \"demo\"", "name = \"demo\"\nversion = 4294967295\ndaemon_stall_ms = 60000")
        .replace("interval_us = 250000", "interval_us = 40_000\ncount = 100")
        .replace("votes = 0", "votes = 255");
    let config = parse(&text).expect("a good file");
    assert_eq!(config.cluster().version(), u64::from(u32::MAX));
    assert_eq!(config.links()[0].deadline_ns(), 4_000_000_000);
    assert_eq!(config.nodes()[1].votes(), 255);
}

#[test]
fn the_file_says_which_node_this_is_before_the_hostname_does() {
    let text = SMALL.replace("name = \"demo\"", "name = \"demo\"\nnode = \"b\"");
    assert_eq!(parse(&text).expect("a good file").own().id(), 64);
}

#[test]
fn point_to_point_networks_and_link_local_ones_are_good() {
    let text = SMALL.replace("10.77.1.0/24", "10.77.1.2/31").replace("10.77.1.1", "10.77.1.3");
    parse(&text).expect("both addresses of a /31");
    let text = SMALL.replace("10.77.1.0/24", "fe80::/64").replace("fd77:0:0:3::/64", "fe80::/10");
    let text = text.replace("fd77:0:0:3::", "fe80::").replace("10.77.1.", "fe80::");
    parse(&text).expect("link-local networks overlap without harm");
}

#[test]
fn a_full_house_is_good_and_one_more_is_not() {
    let house = |links: usize, nodes: usize| {
        let mut text = "[cluster]\nname = \"full\"\n".to_owned();
        for id in 0..links {
            text += &format!("[[link]]\nid = {id}\ninterface = \"hb{id}\"\nnetwork = \"10.77.{id}.0/24\"\n");
        }
        for id in 1..=nodes {
            let addresses: Vec<_> = (0..links).map(|link| format!("\"10.77.{link}.{id}\"")).collect();
            text +=
                &format!("[[node]]\nid = {id}\nname = \"n{id}\"\naddresses = [{}]\n", addresses.join(", "));
        }
        Config::parse(&text, "full.toml", Some("n2"))
    };
    let config = house(8, 64).expect("a full house");
    assert_eq!((config.links().len(), config.nodes().len(), config.me()), (8, 64, 1));
    assert_eq!(house(8, 65).map_err(|error| error.code()), Err("config.out_of_range"));
    assert_eq!(house(9, 64).map_err(|error| error.code()), Err("config.out_of_range"));
}

#[test]
fn a_place_tells_file_line_and_column() {
    let error = parse(&SMALL.replace("\"wan\"", "\"wam\"")).expect_err("no such profile");
    assert_eq!(error.place().map(ToString::to_string).as_deref(), Some("test.toml:13:11"));
}

#[test]
fn the_resolved_view_has_all_values() {
    let view = serde_json::to_value(parse(SMALL).expect("a good file")).expect("JSON");
    let wanted = serde_json::json!({
        "cluster": {
            "name": "demo", "version": 1, "authkey": "/etc/ringbeat/authkey", "state": "/var/lib/ringbeat",
            "control": "/run/ringbeat/control.sock", "datapath": "auto", "daemon_stall_ms": 1000,
            "gate_slack_us": 50, "realtime": true,
        },
        "ring": { "cipher": "aes256gcm", "link_mode": "passive", "port": 5421 },
        "own": "A.example",
        "links": [
            { "id": 1, "interface": "hb1", "network": "10.77.1.0/24", "port": 6000, "profile": "wan",
              "interval_us": 250_000, "count": 5, "deadline_us": 1_250_000 },
            { "id": 3, "interface": "hb3", "network": "fd77:0:0:3::/64", "port": 5408, "profile": "lan",
              "interval_us": 5_000, "count": 4, "deadline_us": 20_000 },
        ],
        "nodes": [
            { "id": 2, "name": "A.example", "addresses": ["10.77.1.1", "fd77:0:0:3::1"], "votes": 1, "witness": true },
            { "id": 64, "name": "b", "addresses": ["10.77.1.2", "fd77:0:0:3::2"], "votes": 0, "witness": false },
        ],
        "addresses": [],
    });
    assert_eq!(view, wanted);
}

/// Parses, and where the text is refused, looks at all that an error can be asked.
fn try_text(text: &str, host: Option<&str>) {
    if let Err(error) = Config::parse(text, "any.toml", host) {
        assert!(!error.help().is_empty());
        if let Some(place) = error.place() {
            let span = place.span();
            assert!(span.offset() + span.len() <= text.len(), "{span:?} in {} bytes", text.len());
        }
        let mut out = String::new();
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
            .render_report(&mut out, &error)
            .expect("a report that renders");
        NarratableReportHandler::new().render_report(&mut out, &error).expect("a report that renders");
        assert!(!out.contains("Failed to read contents"), "{out}");
    }
}

/// The example with some stretch of it put elsewhere, doubled, cut, or overwritten with other text.
fn spoiled() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..40_usize, "\\PC{0,6}|[\\[\\]{}=\"'#\\n,.0-9-]{0,4}");
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut chars: Vec<char> = SMALL.chars().collect();
        for (at, length, text) in edits {
            let start = at.index(chars.len() + 1);
            let end = (start + length).min(chars.len());
            chars.splice(start..end, text.chars());
        }
        chars.into_iter().collect()
    })
}

/// The example with one value put in another's place: it gets past the form, into the meaning.
fn misplaced() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (-1..70_i64).prop_map(|number| number.to_string()),
        "\\PC{0,8}".prop_map(|text| format!("{text:?}")),
        any::<IpAddr>().prop_map(|address| format!("[\"{address}\", \"{address}\"]")),
        (any::<IpAddr>(), 0..129).prop_map(|(address, prefix)| format!("\"{address}/{prefix}\"")),
        prop::sample::select(SMALL.lines().filter_map(|line| line.split_once(" = ")).collect::<Vec<_>>())
            .prop_map(|(_, value)| value.to_owned()),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), value), 1..3).prop_map(|edits| {
        let mut lines: Vec<String> = SMALL.lines().map(str::to_owned).collect();
        for (at, value) in edits {
            let line = at.get_mut(&mut lines);
            if let Some((key, _)) = line.split_once(" = ") {
                *line = format!("{key} = {value}");
            }
        }
        lines.join("\n")
    })
}

#[test]
fn hostile_files_are_refused_in_peace() {
    let nested =
        |open: &str, close: &str, depth| format!("link = {}{}", open.repeat(depth), close.repeat(depth));
    for text in [
        nested("[", "]", 500_000),
        nested("[", "", 1_000_000),
        nested("{a=", "}", 250_000),
        format!("{}a = 1", "a.".repeat(500_000)),
        format!("[{}a]", "a.".repeat(500_000)),
        format!("[cluster]\nname = \"{}\"", "x".repeat(1_000_000)),
        "[[node]]\n".repeat(100_000),
        "\u{feff}[cluster]\nnam = 1".to_owned(),
        "[cluster]\r\nname = 1\r\n".to_owned(),
        "[cluster]\nname = \"\\u001b[2J\"".to_owned(),
        "#".repeat(2_000_000),
    ] {
        assert!(parse(&text).is_err(), "{:.40}", text);
        try_text(&text, None);
    }
}

#[test]
fn control_characters_of_the_file_do_not_reach_the_terminal() {
    let error = parse("[cluster]\nname = \"\\u001b[2J\"\n[[link]]\n").expect_err("refused");
    let error = format!("{error} {}", error.help());
    assert!(!error.contains('\u{1b}'), "{error:?}");
    let error = parse(&SMALL.replace("demo", "\\u001b[2J")).expect_err("refused");
    assert!(!error.to_string().contains('\u{1b}') && error.code() == "config.bad_name", "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), host in any::<Option<String>>()) {
        try_text(&text, host.as_deref());
    }

    #[test]
    fn no_spoiled_file_makes_it_panic(text in spoiled()) {
        try_text(&text, Some("b"));
    }

    #[test]
    fn no_misplaced_value_makes_it_panic(text in misplaced()) {
        try_text(&text, Some("b"));
    }
}
