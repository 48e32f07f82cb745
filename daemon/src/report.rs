//! What the commands are told: values from the main loop's own state, nothing formatted.

use std::collections::BTreeMap;

use ringbeat_common::drops::Drop;
use ringbeat_common::limits::STALL_TOLD_US;
use ringbeat_common::slot::Slot;
use ringbeat_common::view::View;
use ringbeat_config::Datapath;
use ringbeat_control::{
    AddressReport, Bpf, DaemonState, EdgeReport, EdgeState, ErrorReply, GateStats, HandoverReport,
    LeaseReport, LinkReport, LinkState, LinkStats, Mode, PeerLink, PeerReport, Request, Stats, Status,
    ViewReport, Votes, code, incarnation_text,
};
use ringbeat_core::detector;
use ringbeat_core::membership::{NOBODY, choice::bits};

use crate::agreed::version_of;
use crate::control::Reply;
use crate::plane;
use crate::plane::reading::{SILENCES_MS, quantiles};
use crate::runtime::{GateState, Runtime};
use crate::start::STARTING;
use crate::sys::clock::boot_ns;
use crate::sys::{realtime, resident};

/// Readings of a cell that shows a loss: it has to show in each of them.
const LOSS_READINGS: usize = 3;

/// Answers a request.
pub fn answer(runtime: &mut Runtime, request: Request) -> Reply {
    match request {
        Request::Status => Reply::Status(Box::new(status(runtime))),
        Request::Link => Reply::Links(links(runtime)),
        Request::Peers => Reply::Peers(peers(runtime)),
        Request::Stats => Reply::Stats(Box::new(stats(runtime))),
        Request::Events { since, limit, .. } => Reply::Events(runtime.started.journal.kept(since, limit)),
        Request::Handover { ms } => handover(runtime, ms),
    }
}

fn handover(runtime: &mut Runtime, ms: u32) -> Reply {
    let most = runtime.started.config.cluster().daemon_stall_ms();
    if ms == 0 || ms > most {
        let text = format!("{ms} ms is not between 1 and daemon_stall_ms, {most}");
        return Reply::Error(ErrorReply::new(code::OUT_OF_RANGE, text));
    }
    if runtime.state() == DaemonState::Leaving {
        return Reply::Error(ErrorReply::new(
            code::WRONG_STATE,
            "this daemon is leaving, and has released what it held",
        ));
    }
    if runtime.started.pins.is_none() {
        let text = "nothing is pinned, so there is nothing to hand over; restart the daemon as it is";
        return Reply::Error(ErrorReply::new(code::WRONG_STATE, text));
    }
    Reply::Handover(HandoverReport { ms, until_ns: runtime.hand_over(ms) })
}

fn status(runtime: &Runtime) -> Status {
    let started = &runtime.started;
    let slots = runtime.peer_slots();
    let heard = runtime.detector.heard();
    let mut realtime = started.realtime.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    realtime.granted &= !started.loop_is_normal;
    let mut warnings = started.warnings.clone();
    if realtime::is_over_budget() {
        realtime.granted = false;
        // In SCHED_DEADLINE it has a watch of its own.
        if realtime.probe.starts_with("fifo") || realtime::is_breathless() {
            "normal: given up".clone_into(&mut realtime.probe);
        }
        warnings.push("real-time scheduling was given up: a thread ran over its budget".to_owned());
    } else if !realtime.granted && realtime.probe != STARTING && started.config.cluster().realtime() {
        warnings.push(format!("probes: {}; memory: {}", realtime.probe, realtime.memory));
    }
    if let Some(other) = runtime.duplicate.and_then(incarnation_text) {
        warnings.push(format!("another machine runs with this node's id, as incarnation {other}"));
    }
    if let Some(why) = started.others.as_ref().and_then(plane::Others::last_fault) {
        warnings.push(why.to_owned());
    }
    let membership = &runtime.views.membership;
    if !membership.is_confirmed() {
        let unmet: Vec<String> = bits(membership.unmet()).map(|slot| runtime.name_of(slot)).collect();
        let what = "no quorum until every node has been seen once with these nodes and votes";
        warnings.push(if unmet.is_empty() {
            format!("{what}: all have been, and the leases of before are waited for")
        } else {
            format!("{what}; not seen yet: {}", unmet.join(", "))
        });
    }
    let missing = ringbeat_ebpf_object::MISSING;
    Status {
        cluster: started.config.cluster().name().to_owned(),
        node_id: started.config.own().id(),
        node_name: started.config.own().name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: runtime.state(),
        uptime_ms: (boot_ns() - runtime.since_ns) / 1_000_000,
        incarnation: incarnation_text(started.incarnation).unwrap_or_default(),
        config_version: version_of(started.identity.config_version),
        config_path: started.config_path.display().to_string(),
        bpf: Bpf { compiled: ringbeat_ebpf_object::KERNEL.is_some(), reason: missing.map(str::to_owned) },
        realtime,
        links_up: runtime.faults.iter().filter(|fault| fault.is_none()).count() as u32,
        links_total: runtime.faults.len() as u32,
        peers_up: slots.iter().filter(|slot| heard & (1 << **slot) != 0).count() as u32,
        peers_total: slots.len() as u32,
        view: view_of(runtime, runtime.views.membership.installed().view),
        announced: view_of(runtime, runtime.views.membership.announced())
            .filter(|_| runtime.views.membership.announced() != runtime.views.membership.installed().view),
        quorate: runtime.views.membership.is_quorate(),
        votes: votes(runtime),
        lease: lease(runtime),
        addresses: addresses(runtime),
        ring: started.ring.report(),
        warnings,
        pins: started.pins.as_ref().map(|pins| pins.folder().display().to_string()),
        adopted: started.adopted.then(|| "planned restart, incarnation kept".to_owned()),
    }
}

fn view_of(runtime: &Runtime, view: View) -> Option<ViewReport> {
    view.is_some().then(|| runtime.view_report(&view))
}

fn votes(runtime: &Runtime) -> Votes {
    let membership = &runtime.views.membership;
    let (quorum, total) = membership.quorum();
    Votes { present: membership.votes_of(membership.installed().view.members), quorum, total }
}

fn lease(runtime: &Runtime) -> LeaseReport {
    let lease = runtime.started.plane.lease();
    let (lapses, lapse_max_us, lapse_ended_us) = lease.lapses();
    let (now_ns, until_ns) = (boot_ns(), lease.until_ns());
    let alone = lease.alone_from_ns().is_some_and(|from| now_ns >= from);
    let margin_us = (until_ns.cast_signed() - now_ns.cast_signed()) / 1000;
    LeaseReport {
        valid: alone || now_ns < until_ns,
        length_us: runtime.started.config.lease_us(),
        margin_us: (until_ns != 0 && !alone).then_some(margin_us),
        lapses,
        lapse_max_us,
        // An older build has counted and not said when.
        lapse_age_us: (lapse_ended_us != 0).then(|| (now_ns / 1000).saturating_sub(lapse_ended_us)),
        lapse_ended_ns: (lapse_ended_us != 0).then(|| lapse_ended_us * 1000),
    }
}

fn addresses(runtime: &Runtime) -> Vec<AddressReport> {
    let owners = &runtime.views.membership.installed().owners;
    let services = runtime.started.config.services().iter().zip(&runtime.views.gates);
    let one = |(index, (service, gate)): (usize, (&ringbeat_config::Service, &GateState))| AddressReport {
        index: index as u8,
        address: service.to_string(),
        interface: service.interface().to_owned(),
        holder: Some(owners[index]).filter(|owner| *owner != NOBODY).map(|owner| runtime.name_of(owner)),
        here: match (gate.owned, gate.open) {
            (true, true) => "open",
            (true, false) => "waiting",
            (false, _) => "closed",
        }
        .to_owned(),
        conflict: gate.conflict.clone(),
        error: gate.error.clone().or_else(|| gate.failing().map(str::to_owned)),
    };
    services.enumerate().map(one).collect()
}

fn gates(runtime: &Runtime) -> Vec<GateStats> {
    let one = |(index, gate): (usize, &GateState)| {
        let log = runtime.started.plane.gate_log(index);
        GateStats {
            index: index as u8,
            passed: log.passed,
            dropped: log.dropped,
            first_pass_ns: log.first_pass_ns,
            last_pass_ns: log.last_pass_ns,
            opened_ns: gate.opened_ns,
            closed_ns: gate.closed_ns,
        }
    };
    runtime.views.gates.iter().enumerate().map(one).collect()
}

fn links(runtime: &Runtime) -> Vec<LinkReport> {
    let started = &runtime.started;
    let own = started.config.own();
    let one = |(index, link): (usize, &ringbeat_config::Link)| {
        let (mode, why) = started.plane.mode(link.id());
        let (send_errors, last) = started.book.send_errors(link.id());
        let fault = runtime.faults[index];
        let standard =
            link.interval_us() == link.profile().interval_us() && link.count() == link.profile().count();
        LinkReport {
            id: link.id(),
            interface: link.interface().to_owned(),
            ifindex: started.links[index].ifindex,
            port: link.port(),
            profile: if standard { link.profile().name() } else { "custom" }.to_owned(),
            interval_us: u64::from(link.interval_us()),
            count: link.count(),
            deadline_us: link.deadline_ns() / 1000,
            address: own.address_on(index).to_string(),
            mode: match mode {
                plane::Mode::Native => Mode::Native,
                plane::Mode::Generic => Mode::Generic,
                plane::Mode::Socket => Mode::Socket,
            },
            forced: started.config.cluster().datapath() != Datapath::Auto,
            fallback: why,
            state: if fault.is_none() { LinkState::Up } else { LinkState::Down },
            reason: fault.map(str::to_owned).or_else(|| last.map(|error| format!("last refusal: {error}"))),
            send_errors,
            drops: drops(runtime, link.id()),
            probe_lateness_us: quantiles(&started.book.lateness(link.id())),
            beats_skipped: started.book.skipped(link.id()),
            peers: runtime.peer_slots().into_iter().map(|slot| edge(runtime, link.id(), slot)).collect(),
        }
    };
    started.config.links().iter().enumerate().map(one).collect()
}

fn drops(runtime: &Runtime, link: u8) -> BTreeMap<String, u64> {
    let counts = runtime.started.plane.drops(link);
    Drop::ALL.into_iter().map(|reason| (reason.name().to_owned(), counts[reason as usize])).collect()
}

fn edge(runtime: &Runtime, link: u8, slot: u8) -> EdgeReport {
    let read = || {
        let cell = runtime.started.plane.cell(link, slot);
        // The newest one may still be on its way: then it is not answered yet.
        let on_its_way = u64::from(cell.watch.unanswered_ns != 0);
        let lost = cell.counters.probes_sent.saturating_sub(cell.counters.answers).saturating_sub(on_its_way);
        (lost, cell)
    };
    let (mut lost, mut cell) = read();
    for _ in 1..LOSS_READINGS {
        if lost == 0 {
            break;
        }
        // A probe that leaves in the middle of a reading looks lost in that one.
        let (again, newer) = read();
        (lost, cell) = (lost.min(again), newer);
    }
    let (sent, answered) = (cell.counters.probes_sent, cell.counters.answers);
    EdgeReport {
        id: slot + 1,
        name: name(runtime, slot),
        state: edge_state(runtime, link, slot),
        round_trip_us: cell.round_trip,
        jitter_us: cell.jitter,
        sent,
        answered,
        lost,
        loss_permille: if sent == 0 { 0.0 } else { lost as f64 * 1000.0 / sent as f64 },
        heard_ms: ago_ms(cell.watch.heard_ns),
    }
}

fn edge_state(runtime: &Runtime, link: u8, slot: u8) -> EdgeState {
    match runtime.detector.edge_state(link, slot) {
        detector::EdgeState::Unknown => EdgeState::Unknown,
        detector::EdgeState::Up => EdgeState::Up,
        detector::EdgeState::Late => EdgeState::Late,
        detector::EdgeState::OwnDown => EdgeState::OwnDown,
        _ => EdgeState::Down,
    }
}

fn peers(runtime: &Runtime) -> Vec<PeerReport> {
    let own = runtime.started.identity.slot;
    let nodes = runtime.started.config.nodes();
    nodes
        .iter()
        .map(|node| if node.slot() == own { myself(runtime) } else { peer(runtime, node.slot()) })
        .collect()
}

fn myself(runtime: &Runtime) -> PeerReport {
    let own = runtime.started.config.own();
    PeerReport {
        id: own.id(),
        name: own.name().to_owned(),
        state: runtime.state().name().to_owned(),
        incarnation: incarnation_text(runtime.started.incarnation),
        daemon_age_ms: Some(0.0),
        config_version: Some(version_of(runtime.started.identity.config_version)),
        view: view_text(runtime, runtime.views.membership.installed().view),
        links: Vec::new(),
        hears: ids(runtime.detector.heard()),
        row_age_ms: Some(0.0),
        own: true,
    }
}

fn peer(runtime: &Runtime, slot: u8) -> PeerReport {
    // The row comes with a proof of life. Frames that prove nothing, because this node's own do not arrive, leave it as old
    // as it is.
    let proofs = runtime.started.links.iter().map(|link| {
        let plane = &runtime.started.plane;
        (plane.heard_ns(link.id, slot), plane.slot(link.id, slot))
    });
    let newest = proofs.filter(|(_, there)| there.proof != 0).max_by_key(|(heard_ns, _)| *heard_ns);
    let row = newest.map(|(heard_ns, there)| (there.heard, heard_ns));
    let newest = newest.map(|(_, there)| there);
    let links = runtime.started.links.iter();
    PeerReport {
        id: slot + 1,
        name: name(runtime, slot),
        state: runtime.detector.peer_state(slot).name().to_owned(),
        incarnation: runtime.detector.incarnation(slot).and_then(incarnation_text),
        daemon_age_ms: newest.map(|there| f64::from(there.daemon_age_us) / 1000.0),
        config_version: newest.map(|there| version_of(there.config_version)),
        view: view_text(runtime, newest.map_or(View::NONE, view_of_slot)),
        links: links
            .map(|link| PeerLink { id: link.id, state: edge_state(runtime, link.id, slot) })
            .collect(),
        hears: row.map_or_else(Vec::new, |(heard, _)| ids(heard)),
        row_age_ms: row.and_then(|(_, received)| ago_ms(received)),
        own: false,
    }
}

fn view_of_slot(there: Slot) -> View {
    View { epoch: there.view_epoch, members: there.view_members, rest: there.view_rest }
}

fn view_text(runtime: &Runtime, view: View) -> String {
    if view.is_some() { runtime.view_report(&view).to_string() } else { "none".to_owned() }
}

fn stats(runtime: &Runtime) -> Stats {
    let tick = runtime.started.plane.tick();
    let us = |ns: u64| ns as f64 / 1000.0;
    let mut stats = Stats {
        ticks: tick.runs,
        tick_stalls: tick.stalls,
        tick_late_max_us: us(tick.late_max_ns),
        stalled_ms: us(tick.stalled_ns) / 1000.0,
        credit_ms: us(tick.credit.ns) / 1000.0,
        scan_us: us(tick.scan_ns),
        events_lost: runtime.events_lost,
        events_told: runtime.started.journal.told(),
        rss_kib: resident::resident_kib(),
        loop_age_max_ms: us(runtime.round_max_ns) / 1000.0,
        ..Stats::default()
    };
    for link in &runtime.started.links {
        let mut one = LinkStats {
            id: link.id,
            dropped: runtime.started.plane.drops(link.id).iter().sum(),
            send_errors: runtime.started.book.send_errors(link.id).0,
            beats_skipped: runtime.started.book.skipped(link.id),
            ..LinkStats::default()
        };
        for slot in runtime.peer_slots() {
            let counters = runtime.started.plane.cell(link.id, slot).counters;
            one.probes_sent += counters.probes_sent;
            one.answers += counters.answers;
            one.probes_answered += counters.probes_answered;
            one.unproven += counters.unproven;
        }
        stats.probes_sent += one.probes_sent;
        stats.answers += one.answers;
        stats.probes_answered += one.probes_answered;
        stats.unproven += one.unproven;
        stats.dropped += one.dropped;
        stats.links.push(one);
    }
    let (seen, met) = (runtime.detector.counters(), runtime.handshake.counters());
    let mut silences = [0; SILENCES_MS.len()];
    for link in &runtime.started.links {
        for slot in runtime.peer_slots() {
            let cell = runtime.started.plane.cell(link.id, slot);
            silences.iter_mut().zip(cell.silences).for_each(|(sum, more)| *sum += more);
        }
    }
    stats.gates = gates(runtime);
    stats.extra = [
        ("messages_refused", runtime.views.refused),
        ("detector_flaps", seen.flaps),
        ("detector_recovered", seen.recovered),
        ("detector_stale_events", seen.stale_events),
        ("detector_overtaken_events", seen.overtaken_events),
        ("handshake_sent", met.sent),
        ("handshake_unproven", met.unproven),
        ("handshake_over_bound", met.over_bound),
        ("handshake_stray", met.stray),
        ("stall_told_us", u64::from(STALL_TOLD_US)),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .chain(SILENCES_MS.iter().zip(silences).map(|(ms, count)| (format!("silences_over_{ms}_ms"), count)))
    .collect();
    stats
}

fn name(runtime: &Runtime, slot: u8) -> String {
    let node = runtime.started.config.nodes().iter().find(|node| node.slot() == slot);
    node.map(|node| node.name().to_owned()).unwrap_or_default()
}

fn ids(slots: u64) -> Vec<u8> {
    (0..64).filter(|slot| slots & (1 << slot) != 0).map(|slot| slot + 1).collect()
}

fn ago_ms(then_ns: u64) -> Option<f64> {
    (then_ns != 0).then(|| (boot_ns().saturating_sub(then_ns) / 1000) as f64 / 1000.0)
}
