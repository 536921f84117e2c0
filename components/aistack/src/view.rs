//! What people see: the table of pods, redrawn in place on a terminal and one line a step elsewhere.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use console::{Color, Style, Term};

use crate::local::state::{Phase, PodStatus, StackStatus};

/// Colours of pods, in turn; none that a light or a dark background swallows, and not red.
const POD_COLORS: [Color; 5] = [Color::Cyan, Color::Magenta, Color::Blue, Color::Yellow, Color::Green];

/// The colour of the n-th pod.
pub fn pod_style(index: usize) -> Style {
    Style::new().fg(POD_COLORS[index % POD_COLORS.len()])
}

/// A phase in its colour.
pub fn phase(phase: Phase, width: usize) -> String {
    let style = match phase {
        Phase::Ready => Style::new().green(),
        Phase::CrashLoopBackOff | Phase::NotReady => Style::new().red(),
        Phase::Starting | Phase::Terminating => Style::new().yellow(),
        Phase::Pending | Phase::Stopped => Style::new().dim(),
    };
    style.apply_to(format!("{:<width$}", phase.name())).to_string()
}

/// A time as people say it: `0.3 s`, `14 m`, `2 h 5 m`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} m", seconds / 60),
        7200..172_800 => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A number with thousands set apart: `1,204`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size as people say it: `3.1 MiB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn head(status: &StackStatus) -> String {
    format!("  up      stack {}   {}", console::style(&status.stack).bold(), status.url)
}

fn row(pod: &PodStatus, width: usize) -> String {
    let mut parts = vec![format!("            {:<width$}  {}", pod.name, phase(pod.phase, 8))];
    if pod.phase == Phase::Ready {
        parts.push(format!("{:>5}", span(Duration::from_millis(pod.ready_after_ms))));
    }
    parts.extend([&pod.serves, &pod.message].into_iter().filter(|note| !note.is_empty()).cloned());
    if pod.restarts > 0 {
        parts.push(format!("{} restart{}", pod.restarts, if pod.restarts == 1 { "" } else { "s" }));
    }
    parts.join("   ")
}

/// Shows a stack as it comes up, and only what has changed.
pub struct Progress {
    screen: Screen,
    last: StackStatus,
}

enum Screen {
    /// Redrawn in place.
    Live { term: Term, drawn: usize },
    /// One line a step.
    Steps { said: BTreeMap<String, (Phase, u32)> },
}

impl Progress {
    /// A live table when stderr is a terminal.
    pub fn new() -> Self {
        let term = Term::stderr();
        let screen = if term.is_term() {
            Screen::Live { term, drawn: 0 }
        } else {
            Screen::Steps { said: BTreeMap::new() }
        };
        Self { screen, last: StackStatus::default() }
    }

    /// Shows how the stack is now. What cannot be shown is not worth ending for.
    pub fn show(&mut self, status: &StackStatus) {
        if self.last == *status {
            return;
        }
        self.last = status.clone();
        let width = status.pods.iter().map(|pod| pod.name.len()).max().unwrap_or(0);
        match &mut self.screen {
            Screen::Live { term, drawn } => {
                let columns = usize::from(term.size().1).max(40);
                let _ = term.clear_last_lines(*drawn);
                let mut lines = vec![head(status)];
                lines.extend(status.pods.iter().map(|pod| row(pod, width)));
                *drawn = lines.len();
                for line in lines {
                    let _ = term.write_line(&console::truncate_str(&line, columns - 1, "…"));
                }
                let _ = term.flush();
            }
            Screen::Steps { said } => {
                let mut out = std::io::stderr().lock();
                if said.is_empty() {
                    let _ = writeln!(out, "{}", head(status));
                }
                for pod in &status.pods {
                    let now = (pod.phase, pod.restarts);
                    let worth = matches!(pod.phase, Phase::Ready | Phase::CrashLoopBackOff | Phase::NotReady);
                    if said.insert(pod.name.clone(), now) != Some(now) && worth {
                        let _ = writeln!(out, "{}", row(pod, width));
                    }
                }
            }
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let spans =
            [(300, "0.3 s"), (9_900, "9.9 s"), (14_000, "14 s"), (840_000, "14 m"), (7_500_000, "2 h 5 m")];
        for (milliseconds, text) in spans {
            assert_eq!(span(Duration::from_millis(milliseconds)), text);
        }
        for (number, text) in [(0, "0"), (999, "999"), (1_204, "1,204"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        for (bytes, text) in [(12, "12 B"), (3_250_585, "3.1 MiB"), (8 << 30, "8.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
