//! Values such as a daemon hands out, for the golden files.

use std::collections::BTreeMap;

use ringbeat_control::{
    AddressReport, Bpf, DaemonState, EdgeReport, EdgeState, EventRecord, Evidence, GateStats, LeaseReport,
    LinkReport, LinkState, LinkStats, Mode, PeerLink, PeerReport, Quantiles, Realtime, RingReport, Stats,
    Status, ViewReport, Votes,
};

pub(super) fn status() -> Status {
    Status {
        cluster: "demo".to_owned(),
        node_id: 1,
        node_name: "n1".to_owned(),
        version: "0.1.0".to_owned(),
        state: DaemonState::Running,
        uptime_ms: 7_384_123,
        incarnation: "7-0badcafe".to_owned(),
        config_version: 1,
        config_path: "/etc/ringbeat/ringbeat.toml".to_owned(),
        bpf: Bpf { compiled: true, reason: None },
        realtime: Realtime { probe: "fifo 50".to_owned(), memory: "locked 12 MiB".to_owned(), granted: true },
        links_up: 2,
        links_total: 2,
        peers_up: 2,
        peers_total: 2,
        view: Some(view(7)),
        announced: None,
        quorate: true,
        votes: Votes { present: 3, quorum: 2, total: 3 },
        lease: LeaseReport {
            valid: true,
            length_us: 5000,
            margin_us: Some(4210),
            lapses: 0,
            lapse_max_us: 0,
            lapse_age_us: None,
            lapse_ended_ns: None,
        },
        addresses: vec![
            address(0, "10.78.0.100/24", Some("n1"), "open"),
            address(1, "fd78::100/64", Some("n2"), "closed"),
        ],
        ring: ring("operational", 7),
        warnings: Vec::new(),
        pins: Some("/sys/fs/bpf/ringbeat/demo/1".to_owned()),
        adopted: Some("planned restart, incarnation kept".to_owned()),
    }
}

fn view(epoch: u64) -> ViewReport {
    let members = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
    ViewReport { epoch, proposer: "n1".to_owned(), members, config: 1 }
}

fn ring(state: &str, epoch: u64) -> RingReport {
    RingReport {
        state: state.to_owned(),
        epoch,
        cipher: "aes256gcm".to_owned(),
        link_mode: "passive".to_owned(),
        payload: 1380,
        delivered: 1200,
        delivered_bytes: 93_000,
        lost: u64::from(epoch == 0),
        frames_sent: 4000,
        frames_received: 4001,
        ..RingReport::default()
    }
}

fn address(index: u8, address: &str, holder: Option<&str>, here: &str) -> AddressReport {
    AddressReport {
        index,
        address: address.to_owned(),
        interface: "svc0".to_owned(),
        holder: holder.map(str::to_owned),
        here: here.to_owned(),
        conflict: None,
        error: None,
    }
}

pub(super) fn status_degraded() -> Status {
    Status {
        state: DaemonState::Alone,
        uptime_ms: 4_250,
        bpf: Bpf { compiled: false, reason: Some("no bpf-linker at build time".to_owned()) },
        realtime: Realtime {
            probe: "normal: not permitted (CAP_SYS_NICE)".to_owned(),
            memory: "not locked: over budget".to_owned(),
            granted: false,
        },
        links_up: 0,
        peers_up: 0,
        announced: Some(view(8)),
        quorate: false,
        votes: Votes { present: 1, quorum: 2, total: 3 },
        lease: LeaseReport {
            valid: false,
            length_us: 5000,
            margin_us: Some(-812_500),
            lapses: 2,
            lapse_max_us: 17_250,
            lapse_age_us: Some(912_500),
            lapse_ended_ns: Some(8_411_087_500_000),
        },
        addresses: vec![AddressReport {
            conflict: Some("02:00:00:00:00:07".to_owned()),
            error: Some("svc0: no carrier".to_owned()),
            ..address(0, "10.78.0.100/24", None, "closed")
        }],
        ring: ring("gather", 0),
        warnings: vec![
            "the probe thread runs without real-time scheduling".to_owned(),
            "link 1:\nno carrier".to_owned(),
        ],
        pins: None,
        adopted: None,
        ..status()
    }
}

fn quantiles(p50: f64, p99: f64, max: f64) -> Quantiles {
    Quantiles { p50, p99, max, count: 81_234 }
}

fn edge(id: u8, state: EdgeState) -> EdgeReport {
    EdgeReport {
        id,
        name: format!("n{id}"),
        state,
        round_trip_us: quantiles(12.3, 41.0, 812.55),
        jitter_us: quantiles(1.5, 9.25, 300.0),
        sent: 81_240,
        answered: 81_234,
        lost: 5,
        loss_permille: 0.0615,
        heard_ms: Some(0.412),
    }
}

pub(super) fn links() -> Vec<LinkReport> {
    let unknown = EdgeReport {
        round_trip_us: Quantiles::default(),
        jitter_us: Quantiles::default(),
        sent: 0,
        answered: 0,
        lost: 0,
        loss_permille: 0.0,
        heard_ms: None,
        ..edge(3, EdgeState::Unknown)
    };
    let first = LinkReport {
        id: 0,
        interface: "hb0".to_owned(),
        ifindex: 4,
        port: 5405,
        profile: "fast".to_owned(),
        interval_us: 1000,
        count: 5,
        deadline_us: 5000,
        address: "10.77.0.1".to_owned(),
        mode: Mode::Native,
        forced: false,
        fallback: None,
        state: LinkState::Up,
        reason: None,
        send_errors: 0,
        drops: BTreeMap::from([
            ("forged".to_owned(), 12),
            ("replayed".to_owned(), 3),
            ("foreign".to_owned(), 0),
        ]),
        probe_lateness_us: quantiles(3.2, 60.125, 1200.0),
        beats_skipped: 2,
        peers: vec![edge(2, EdgeState::Up), unknown],
    };
    let second = LinkReport {
        id: 1,
        interface: "enp0s31f6".to_owned(),
        ifindex: 0,
        port: 5406,
        profile: "custom".to_owned(),
        interval_us: 100_000,
        address: "fd77:0:0:1::1".to_owned(),
        count: 5,
        deadline_us: 500_000,
        mode: Mode::Socket,
        forced: true,
        fallback: Some("native: Operation not supported (95)".to_owned()),
        state: LinkState::Down,
        reason: Some("no such interface".to_owned()),
        send_errors: 17,
        drops: BTreeMap::new(),
        probe_lateness_us: Quantiles::default(),
        beats_skipped: 0,
        peers: vec![edge(2, EdgeState::OwnDown)],
    };
    vec![first, second]
}

pub(super) fn peers() -> Vec<PeerReport> {
    let own = PeerReport {
        id: 1,
        name: "n1".to_owned(),
        state: "up".to_owned(),
        incarnation: Some("7-0badcafe".to_owned()),
        daemon_age_ms: Some(0.25),
        config_version: Some(1),
        view: "none".to_owned(),
        links: Vec::new(),
        hears: vec![1, 2],
        row_age_ms: Some(0.0),
        own: true,
    };
    let stalled = PeerReport {
        id: 2,
        name: "n2".to_owned(),
        state: "stalled".to_owned(),
        incarnation: Some("12-000000ff".to_owned()),
        daemon_age_ms: Some(312.75),
        links: vec![PeerLink { id: 0, state: EdgeState::Up }, PeerLink { id: 1, state: EdgeState::OwnDown }],
        row_age_ms: Some(0.875),
        view: "epoch 4 of n1: 1,2".to_owned(),
        own: false,
        ..own.clone()
    };
    let unknown = PeerReport {
        id: 3,
        name: "database-west".to_owned(),
        state: "unknown".to_owned(),
        incarnation: None,
        daemon_age_ms: None,
        config_version: None,
        view: "none".to_owned(),
        links: vec![PeerLink { id: 0, state: EdgeState::Unknown }],
        hears: Vec::new(),
        row_age_ms: None,
        own: false,
    };
    vec![own, stalled, unknown]
}

pub(super) fn events() -> Vec<EventRecord> {
    let down = EventRecord {
        seq: 41,
        stamp_ns: 123_456_789_012,
        told_ns: 123_457_101_345,
        wall: "2026-07-14T09:26:53.589793Z".to_owned(),
        kind: "peer_down".to_owned(),
        node: Some("n3".to_owned()),
        node_id: Some(3),
        link: Some(0),
        incarnation: Some("3-00c0ffee".to_owned()),
        view: None,
        address: None,
        evidence: Evidence {
            heard_ns: 123_451_776_912,
            unanswered_ns: 123_452_700_000,
            credit_ns: 0,
            daemon_age_us: 180,
            by_timer: true,
        },
        text: Some("silent on all links".to_owned()),
    };
    let alone = EventRecord {
        seq: 42,
        kind: "alone".to_owned(),
        told_ns: 0,
        node: None,
        node_id: None,
        link: None,
        incarnation: None,
        view: None,
        address: None,
        evidence: Evidence { credit_ns: 3_250_000, ..Evidence::default() },
        text: None,
        ..down.clone()
    };
    let opened = EventRecord {
        seq: 43,
        kind: "gate_opened".to_owned(),
        node: Some("n1".to_owned()),
        node_id: Some(1),
        link: None,
        incarnation: None,
        view: Some("8.n1{n1,n2}".to_owned()),
        address: Some("10.78.0.100/24".to_owned()),
        evidence: Evidence::default(),
        text: None,
        ..down.clone()
    };
    vec![down, alone, opened]
}

pub(super) fn stats() -> Stats {
    let link = LinkStats {
        id: 0,
        probes_sent: 162_480,
        answers: 162_471,
        probes_answered: 162_400,
        unproven: 1,
        dropped: 15,
        send_errors: 0,
        beats_skipped: 2,
    };
    Stats {
        ticks: 90_001,
        tick_stalls: 3,
        tick_late_max_us: 9400.0,
        stalled_ms: 21.0625,
        credit_ms: 0.0,
        scan_us: 1.74,
        events_lost: 0,
        events_told: 42,
        rss_kib: 14_336,
        loop_age_max_ms: 44.5,
        probes_sent: 324_960,
        answers: 324_942,
        probes_answered: 324_800,
        unproven: 1,
        dropped: 15,
        links: vec![link, LinkStats { id: 1, dropped: 0, unproven: 0, ..link }],
        gates: vec![GateStats {
            index: 0,
            passed: 1_204,
            dropped: 7,
            first_pass_ns: 5,
            last_pass_ns: 9,
            opened_ns: 4,
            closed_ns: 0,
        }],
        extra: BTreeMap::from([("handshakes".to_owned(), 4)]),
    }
}
