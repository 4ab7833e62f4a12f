//! Medians, ratios, and what they are to be.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::node::Cost;

/// Costs of many calls of one kind.
#[derive(Default)]
pub struct Samples(Vec<Cost>);

impl Samples {
    pub fn push(&mut self, cost: Cost) {
        self.0.push(cost);
    }

    /// Milliseconds at a place in the order, from 0 to 1.
    fn wall(&self, place: f64) -> f64 {
        quantile(self.0.iter().map(|cost| cost.wall), place)
    }

    /// Mean milliseconds of CPU.
    fn cpu(&self) -> f64 {
        mean(self.0.iter().map(|cost| cost.cpu))
    }

    fn agent(&self) -> f64 {
        mean(self.0.iter().map(|cost| cost.agent))
    }
}

pub fn binary(path: &Path) -> Outcome<()> {
    let output = Command::new("ldd").arg(path).output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let is_static = text.contains("not a dynamic executable") || text.contains("statically linked");
    let bytes = fs::metadata(path)?.len();
    let kind = if is_static { "static" } else { "dynamic (make cni-static links it statically)" };
    println!("calico: {bytes} bytes, {kind}; {}", verdict(bytes as f64, 2e6));
    Ok(())
}

pub fn in_turn(how: &str, names: &[&str], adds: &[Samples], dels: &[Samples]) {
    println!("\n{how}, milliseconds");
    println!(
        "                         {:>8} {:>8} {:>8} {:>8} {:>8}",
        "median", "p99", "fastest", "CPU", "agent"
    );
    for (verb, samples) in [("ADD", adds), ("DEL", dels)] {
        for (name, samples) in names.iter().zip(samples) {
            let [median, late, fastest] = [0.5, 0.99, 0.0].map(|place| samples.wall(place));
            let (cpu, agent) = (samples.cpu(), samples.agent());
            println!("{verb} {name:<20} {median:>8.2} {late:>8.2} {fastest:>8.2} {cpu:>8.2} {agent:>8.2}");
        }
    }
    let [ours, ptp, ..] = adds else { return };
    let wall = ours.wall(0.5) / ptp.wall(0.5);
    println!("ADD to ptp: wall {wall:.3}, {}", verdict(wall, 0.25));
    let (alone, cpu) = (ours.cpu() / ptp.cpu(), (ours.cpu() + ours.agent()) / ptp.cpu());
    println!("ADD to ptp: CPU {alone:.3}, {}; with the agent's {cpu:.3}", verdict(alone, 0.25));
    let wall = dels[0].wall(0.5) / dels[1].wall(0.5);
    println!("DEL to ptp: wall {wall:.3}, {}", verdict(wall, 0.06));
}

pub fn burst(rates: &mut [Vec<f64>]) {
    let medians: Vec<f64> = rates
        .iter_mut()
        .map(|rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        })
        .collect();
    let ratio = medians[0] / medians[1];
    let verdict = if ratio >= 3.0 { "reached" } else { "missed" };
    println!(
        "\n30 pods, 8 at a time: {:.0} pods/s, ptp {:.0}: {ratio:.2} times (at least 3: {verdict})",
        medians[0], medians[1]
    );
}

pub fn crowd(name: &str, samples: &Samples) {
    let [median, late, last] = [0.5, 0.99, 1.0].map(|place| samples.wall(place));
    let ratio = late / median;
    println!(
        "{name}: median {median:.2} ms, p99 {late:.2} ms, slowest {last:.2} ms: {ratio:.2}, {}",
        verdict(ratio, 2.0)
    );
}

/// What the agent's ADDs went into, of the whole run, as it says itself.
pub fn stages(metrics: &str) {
    let value = |kind: &str, stage: &str| {
        let start = format!("felix_cni_add_stage_seconds_{kind}{{stage=\"{stage}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok())
    };
    println!("\nmean of the agent's stages, milliseconds");
    for stage in ["decode", "allocate", "link", "store", "queue", "calculate", "policy", "routes", "reply"] {
        if let (Some(sum), Some(count)) = (value("sum", stage), value("count", stage)) {
            println!("{stage:<10} {:.3}", sum / count.max(1.0) * 1e3);
        }
    }
}

/// One way, microseconds: what the first packets took, those of the pod's next flow, and later ones.
pub fn first_packet(how: &str, first: &[Duration], flow: &[Duration], warm: &[Duration]) {
    let micros = |times: &[Duration]| quantile(times.iter().copied(), 0.5) * 1e3;
    let (first, flow, warm) = (micros(first), micros(flow), micros(warm));
    println!(
        "first packet of a pod {how}: {first:.1} µs, first of its next flow {flow:.1} µs, warm {warm:.1} µs: {:.1} more, {}",
        first - warm,
        verdict(first - warm, 10.0)
    );
}

fn verdict(value: f64, most: f64) -> String {
    let reached = if value <= most { "reached" } else { "missed" };
    format!("at most {most}: {reached}")
}

fn quantile(times: impl Iterator<Item = Duration>, place: f64) -> f64 {
    let mut times: Vec<_> = times.collect();
    times.sort();
    let index = ((times.len().saturating_sub(1)) as f64 * place).round() as usize;
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn mean(times: impl Iterator<Item = Duration>) -> f64 {
    let times: Vec<_> = times.collect();
    times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64
}
