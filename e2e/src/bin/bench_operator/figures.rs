//! A figure, as a line of JSON.

use serde_json::json;

use super::Cli;

/// The operator that is not the peer.
pub const OURS: &str = "aistack-operator";

/// Prints figures.
#[derive(Clone, Debug)]
pub struct Figures {
    commit: String,
    machine: String,
    date: String,
    who: String,
}

impl Figures {
    /// Of a subject.
    pub fn of(cli: &Cli, who: &str) -> Self {
        let (commit, machine, date) = (cli.commit.clone(), cli.machine.clone(), cli.date.clone());
        Self { commit, machine, date, who: who.to_owned() }
    }

    /// Prints one, rounded to four digits.
    pub fn tell(&self, id: &str, what: &str, unit: &str, value: f64) {
        let mut line = json!({"id": id, "what": what, "unit": unit, "machine": self.machine, "commit": self.commit,
            "date": self.date, "runs": 1});
        let is_ours = self.who == OURS;
        line[if is_ours { "ours" } else { "peer" }] = json!(rounded(value));
        if !is_ours {
            line["peer_version"] = json!(self.who);
        }
        println!("{line}");
        eprintln!("  {id:<4} {what}: {} {unit}", rounded(value));
    }
}

fn rounded(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}
