//! Medians, ratios, and how they are shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use crate::program::Figures;
use crate::rows::{Figure, Lunatic, Row};

/// The medians of some runs, or why there are none.
pub(crate) type Measured = Result<Figures, String>;

/// One size of one row.
pub(crate) struct Line {
    pub(crate) row: &'static Row,
    pub(crate) size: &'static str,
    pub(crate) ours: Measured,
    pub(crate) erlang: Measured,
}

/// The median of each figure. One run that failed fails them all: its work was not done.
pub(crate) fn medians(runs: Vec<Result<Figures>>) -> Measured {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in runs {
        for (key, value) in run.map_err(|error| format!("{error:#}"))? {
            all.entry(key).or_default().push(value);
        }
    }
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        }
    };
    Ok(all
        .into_iter()
        .map(|(key, values)| (key, middle(values)))
        .collect())
}

/// One figure of one line, with all it is compared with.
struct Cell<'a> {
    line: &'a Line,
    figure: Figure,
    ours: Option<f64>,
    erlang: Option<f64>,
    /// What Lunatic would do today.
    lunatic: Option<f64>,
    /// Ours to Lunatic's: above 1 is better.
    lead: Option<f64>,
    verdict: String,
}

fn cells(lines: &[Line]) -> Vec<Cell<'_>> {
    let erlang_today = |row: &str, figure: Figure| {
        let line = lines.iter().find(|line| line.size == row)?;
        line.erlang.as_ref().ok()?.get(figure.key).copied()
    };
    let mut cells = Vec::new();
    for line in lines {
        for (figure, lunatic) in line.row.figures {
            let get = |from: &Measured| {
                from.as_ref()
                    .ok()
                    .and_then(|all| all.get(figure.key).copied())
            };
            let (ours, erlang) = (get(&line.ours), get(&line.erlang));
            let today = match *lunatic {
                Lunatic::Did {
                    then,
                    erlang_then,
                    row,
                } => erlang_today(row, *figure).map(|today| then * today / erlang_then),
                Lunatic::Unscaled(then) => Some(then),
                Lunatic::Cannot(_) | Lunatic::Unknown => None,
            };
            let lead = ours.zip(today).map(|(ours, theirs)| {
                if figure.more_is_better {
                    ours / theirs
                } else {
                    theirs / ours
                }
            });
            let verdict = match (lead, lunatic) {
                (Some(lead), _) if lead >= 1.0 => format!("ahead {lead:.1}x"),
                (Some(lead), _) => format!("BEHIND {:.1}x", 1.0 / lead),
                (None, Lunatic::Cannot(why)) if ours.is_some() => format!("ahead: it {why}"),
                _ => "-".into(),
            };
            cells.push(Cell {
                line,
                figure: *figure,
                ours,
                erlang,
                lunatic: today,
                lead,
                verdict,
            });
        }
    }
    cells
}

/// For people; columns are as wide as they need to be.
pub(crate) fn text(lines: &[Line]) -> String {
    let mut rows = vec![
        [
            "row", "", "tidelock", "erlang", "ratio", "lunatic*", "verdict",
        ]
        .map(String::from),
    ];
    for cell in cells(lines) {
        let shown = |value: Option<f64>, or: &str| {
            value.map_or(or.to_owned(), |value| {
                format!("{} {}", number(value), cell.figure.unit)
            })
        };
        rows.push([
            cell.line.size.to_owned(),
            cell.figure.key.to_owned(),
            shown(cell.ours, "not measured"),
            shown(cell.erlang, "not measured"),
            cell.ours
                .zip(cell.erlang)
                .map_or("-".into(), |(ours, erlang)| format!("{:.2}", ours / erlang)),
            shown(cell.lunatic, "-"),
            cell.verdict,
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (column, (part, width)) in row.iter().zip(widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match column {
                2..=5 => write!(text, "{part:>width$}  "),
                _ => write!(text, "{part:<width$}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str("* as recorded once, moved by what Erlang did then and today\n");
    for line in lines {
        for (who, measured) in [("tidelock", &line.ours), ("erlang", &line.erlang)] {
            if let Err(why) = measured {
                let _ = writeln!(text, "not measured: {} by {who}: {why}", line.size);
            }
        }
    }
    text
}

/// Three digits are all that is known.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.digits$}");
    let (whole, rest) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0
            && (whole.len() - at).is_multiple_of(3)
            && digit.is_ascii_digit()
            && whole.len() > 4
        {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    if rest.is_empty() {
        grouped
    } else {
        format!("{grouped}.{rest}")
    }
}

/// For programs.
pub(crate) fn json(lines: &[Line]) -> String {
    let all: Vec<_> = cells(lines)
        .into_iter()
        .map(|cell| {
            json!({
                "row": cell.line.size,
                "title": cell.line.row.title,
                "figure": cell.figure.key,
                "unit": cell.figure.unit,
                "more_is_better": cell.figure.more_is_better,
                "tidelock": cell.ours,
                "erlang": cell.erlang,
                "lunatic_scaled": cell.lunatic,
                "lead_over_lunatic": cell.lead,
                "verdict": cell.verdict,
                "why_not": [cell.line.ours.as_ref().err(), cell.line.erlang.as_ref().err()],
            })
        })
        .collect();
    json!(all).to_string()
}
