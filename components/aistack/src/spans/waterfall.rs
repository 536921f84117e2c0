//! A trace for people: who did what, when, for how long.

use std::collections::BTreeMap;

use console::{Style, measure_text_width, style};

use super::{Span, Trace};

/// Attributes that say what the name and the columns say already.
const SAID: [&str; 5] = ["method", "path", "trace_id", "status", "choice"];
/// Columns of the bars at most.
const WIDEST_BAR: usize = 48;

/// One line a span, each below its parent and set in by one step; `columns` is the width of the terminal.
pub fn waterfall(trace: &Trace, columns: usize) -> Vec<String> {
    let rows = rows(trace);
    let (begin, total) = (trace.start_ns(), trace.end_ns().saturating_sub(trace.start_ns()).max(1));
    let component = rows.iter().map(|(_, span)| span.component.len()).max().unwrap_or(0);
    let name = rows.iter().map(|(depth, span)| depth * 2 + span.name.chars().count()).max().unwrap_or(0);
    let bar = columns.saturating_sub(component + name + 28).clamp(10, WIDEST_BAR);
    let mut lines = vec![
        style(format!("  {:<component$}  {:<name$}  {:>8}  {:>8}", "component", "span", "at", "took"))
            .dim()
            .to_string(),
    ];
    for (depth, span) in rows {
        let named = format!("{}{}", "  ".repeat(depth), span.name);
        let text = format!(
            "  {:<component$}  {named:<name$}  {:>8}  {:>8}  ",
            span.component,
            milliseconds(span.start_ns.saturating_sub(begin)),
            milliseconds(span.duration_ns()),
        );
        let colour = if span.failed { Style::new().red() } else { Style::new().cyan() };
        let bar = colour.apply_to(drawn(span, begin, total, bar));
        let line = format!("{text}{bar}  {}", style(notes(span)).dim());
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// Depth first, children in the order in which they began.
fn rows(trace: &Trace) -> Vec<(usize, &Span)> {
    let known: BTreeMap<&str, &Span> = trace.spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &trace.spans {
        // A span whose parent is not there stands at the left, as a root does.
        let parent = if known.contains_key(span.parent.as_str()) { span.parent.as_str() } else { "" };
        children.entry(parent).or_default().push(span);
    }
    let mut rows = Vec::with_capacity(trace.spans.len());
    let mut open: Vec<(usize, &Span)> =
        children.remove("").into_iter().flatten().rev().map(|span| (0, span)).collect();
    while let Some((depth, span)) = open.pop() {
        rows.push((depth, span));
        let below = children.remove(span.id.as_str()).into_iter().flatten().rev();
        open.extend(below.map(|child| (depth + 1, child)));
    }
    rows
}

fn milliseconds(nanoseconds: u64) -> String {
    let value = nanoseconds as f64 / 1e6;
    match value {
        0.0..10.0 => format!("{value:.1} ms"),
        10.0..10_000.0 => format!("{value:.0} ms"),
        _ => format!("{:.1} s", value / 1e3),
    }
}

fn drawn(span: &Span, begin: u64, total: u64, width: usize) -> String {
    let place = |ns: u64| (ns as f64 / total as f64 * width as f64).round() as usize;
    let from = place(span.start_ns.saturating_sub(begin)).min(width - 1);
    let to = place(span.end_ns.saturating_sub(begin)).clamp(from + 1, width);
    let bar = format!("{}{}{}", " ".repeat(from), "━".repeat(to - from), " ".repeat(width - to));
    debug_assert_eq!(measure_text_width(&bar), width);
    bar
}

fn notes(span: &Span) -> String {
    let mut notes: Vec<String> = span
        .attributes
        .iter()
        .filter(|(name, _)| !SAID.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    notes.extend(
        span.attributes
            .get("status")
            .filter(|code| !code.starts_with('2'))
            .map(|code| format!("status={code}")),
    );
    notes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::one;
    use super::*;

    #[test]
    fn children_stand_below_their_parents() {
        console::set_colors_enabled(false);
        let trace = one();
        assert_eq!(
            waterfall(&trace, 77),
            [
                "  component   span                             at      took",
                "  modelhub-0  POST /q                      0.0 ms    500 ms  ━━━━━━━━━━━━━━  prompt_tokens=177",
                "  modelhub-0    retrieve                    10 ms     20 ms  ━               prompt_tokens=177",
                "  tinykv-0        etcdserverpb.KV/Range     11 ms    1.0 ms  ━               prompt_tokens=177",
            ]
        );
        let orphan = Trace { spans: trace.spans[2..].to_vec(), ..trace };
        assert_eq!(waterfall(&orphan, 77).len(), 2, "a span without its parent is shown all the same");
    }
}
