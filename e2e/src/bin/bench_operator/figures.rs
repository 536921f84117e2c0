//! A figure, as a line of JSON.

use serde_json::json;

use super::Cli;

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
        let line = json!({"commit": self.commit, "date": self.date, "id": id, "machine": self.machine, "of": self.who,
            "what": what, "unit": unit, "value": rounded(value)});
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
