//! How results look: tables for people, JSON for programs.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Serialize;

/// Form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Output {
    /// Prints a value as JSON, or as whatever `table` makes of it.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) {
        match self {
            Self::Json => println!("{}", serde_json::to_string_pretty(value).unwrap_or_default()),
            Self::Table => println!("{}", table(value).trim_end()),
        }
    }
}

/// Columns that line up, two spaces apart; the header in capitals.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut out = line(&mut header.iter().map(|h| h.to_uppercase()));
    for row in rows {
        out.push('\n');
        out.push_str(&line(&mut row.iter().cloned()));
    }
    out
}

/// A count of bytes for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration in milliseconds for people.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 1_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms if ms >= 10.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

/// A number with commas between thousands.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && i % 3 == first {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// So many things: “1 file”, “1,204 files”.
pub fn counted(count: u64, thing: &str) -> String {
    format!("{} {thing}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// Age of something made at a time in Unix milliseconds.
pub fn age(created_ms: u64) -> String {
    let seconds = crate::now_ms().saturating_sub(created_ms) / 1_000;
    match seconds {
        s if s < 120 => format!("{s} s"),
        s if s < 7_200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// Whether marks may be coloured.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Text in a terminal style (an SGR code), when colours are wanted.
pub fn styled(text: &str, code: &str) -> String {
    if colours() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            ["1", "12", "123", "1,234", "1,234,567"],
            [1, 12, 123, 1_234, 1_234_567].map(thousands).each_ref().map(String::as_str)
        );
        assert_eq!([0, 1, 1_204].map(|n| counted(n, "file")), ["0 files", "1 file", "1,204 files"]);
        assert_eq!([bytes(5), bytes(2_048), bytes(98 << 20)], ["5 B", "2.0 KiB", "98.0 MiB"]);
        assert_eq!([millis(0.62), millis(812.3), millis(1_400.0)], ["0.6 ms", "812 ms", "1.4 s"]);
    }

    #[test]
    fn columns_line_up() {
        let got = table(&["name", "v"], &[vec!["a".into(), "10".into()], vec!["longer".into(), "2".into()]]);
        assert_eq!(got, "NAME    V\na       10\nlonger  2");
    }
}
