//! Medians, ratios, bars, and how they are shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use crate::bars::{BARS, Bar, Height};
use crate::program::Figures;
use crate::rows::{Figure, Lunatic, Peer, Row};

/// The medians of some runs, or why there are none.
pub(crate) type Measured = Result<Figures, String>;

/// One size of one row.
pub(crate) struct Line {
    pub(crate) row: &'static Row,
    pub(crate) size: &'static str,
    pub(crate) ours: Measured,
    pub(crate) peers: BTreeMap<Peer, Measured>,
}

/// The median of each figure. One run that failed fails them all: its work was not done.
pub(crate) fn medians(runs: Vec<Result<Figures>>) -> Measured {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in runs {
        for (key, value) in run.map_err(|error| format!("{error:#}"))? {
            all.entry(key).or_default().push(value);
        }
    }
    Ok(all
        .into_iter()
        .map(|(key, values)| (key, middle(values)))
        .collect())
}

/// The median of some values, of which there is one at least.
pub(crate) fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 {
        values[half]
    } else {
        f64::midpoint(values[half - 1], values[half])
    }
}

/// One figure of one line, with all it is compared with.
struct Cell<'a> {
    line: &'a Line,
    figure: Figure,
    ours: Option<f64>,
    peers: BTreeMap<Peer, f64>,
    /// What Lunatic would do today.
    lunatic: Option<f64>,
    /// Ours to Lunatic's: above 1 is better.
    lead: Option<f64>,
    verdict: String,
    /// What is to be reached in this run.
    bar: Option<f64>,
    /// How much of it was: 1 or more is all.
    reached: Option<f64>,
}

fn value(from: &Measured, figure: Figure) -> Option<f64> {
    from.as_ref().ok()?.get(figure.key).copied()
}

/// All lines of a run, to find one by another.
struct Run<'a>(&'a [Line]);

impl<'a> Run<'a> {
    fn line(&self, size: &str) -> Option<&'a Line> {
        self.0.iter().find(|line| line.size == size)
    }

    /// What Erlang did in a row.
    fn erlang(&self, size: &str, figure: Figure) -> Option<f64> {
        value(self.line(size)?.peers.get(&Peer::Erlang)?, figure)
    }

    /// What Lunatic would do today.
    fn lunatic(&self, lunatic: Lunatic, figure: Figure) -> Option<f64> {
        match lunatic {
            Lunatic::Did {
                then,
                erlang_then,
                row,
            } => Some(then * self.erlang(row, figure)? / erlang_then),
            Lunatic::Unscaled(then) => Some(then),
            Lunatic::Cannot(_) | Lunatic::Unknown => None,
        }
    }

    /// What is to be reached in this run.
    fn bar(&self, bar: &Bar, figure: Figure) -> Option<f64> {
        match bar.height {
            Height::Fixed(bar) => Some(bar),
            Height::Beside {
                bar,
                erlang_then,
                row,
            } => Some(bar * self.erlang(row, figure)? / erlang_then),
            Height::Times(times, peer) => {
                let line = self.line(bar.size)?;
                Some(times * value(line.peers.get(&peer)?, figure)?)
            }
            Height::TimesOwn(times, row) => Some(times * value(&self.line(row)?.ours, figure)?),
        }
    }

    fn cells(&self) -> Vec<Cell<'a>> {
        let figures = self.0.iter().flat_map(|line| {
            let figures = line.row.figures.iter();
            figures.map(move |(figure, lunatic)| (line, *figure, *lunatic))
        });
        figures
            .map(|(line, figure, lunatic)| self.cell(line, figure, lunatic))
            .collect()
    }

    fn cell(&self, line: &'a Line, figure: Figure, lunatic: Lunatic) -> Cell<'a> {
        let ours = value(&line.ours, figure);
        let better = |than: Option<f64>| {
            let (ours, than) = ours.zip(than)?;
            Some(if figure.more_is_better {
                ours / than
            } else {
                than / ours
            })
        };
        let today = self.lunatic(lunatic, figure);
        let lead = better(today);
        let bar = BARS
            .iter()
            .find(|bar| bar.size == line.size && bar.key == figure.key)
            .and_then(|bar| self.bar(bar, figure));
        let peers = line.peers.iter();
        Cell {
            line,
            figure,
            ours,
            peers: peers
                .filter_map(|(peer, measured)| Some((*peer, value(measured, figure)?)))
                .collect(),
            lunatic: today,
            lead,
            verdict: match (lunatic, lead) {
                (Lunatic::Cannot(why), _) if ours.is_some() => format!("ahead: it {why}"),
                (_, Some(lead)) if lead >= 1.0 => format!("ahead {lead:.1}x"),
                (_, Some(lead)) => format!("BEHIND {:.1}x", 1.0 / lead),
                _ => "-".into(),
            },
            bar,
            reached: better(bar),
        }
    }
}

/// For people; columns are as wide as they need to be. Behind each peer's figure stands ours divided by it.
pub(crate) fn text(lines: &[Line]) -> String {
    let cells = Run(lines).cells();
    let mut peers: Vec<Peer> = cells
        .iter()
        .flat_map(|cell| cell.peers.keys().copied())
        .collect();
    peers.sort_unstable();
    peers.dedup();
    let mut rows = vec![head(&peers)];
    rows.extend(cells.iter().map(|cell| shown(cell, &peers)));
    let mut text = aligned(&rows);
    text.push_str(
        "* as recorded once, moved by what Erlang did then and today. Bars that were set beside Erlang move with it, too\n",
    );
    for line in lines {
        let ours = [("tidelock", &line.ours)];
        let peers = line.peers.iter().map(|(peer, all)| (peer.name(), all));
        for (who, measured) in ours.into_iter().chain(peers) {
            if let Err(why) = measured {
                let _ = writeln!(text, "not measured: {} by {who}: {why}", line.size);
            }
        }
    }
    text
}

fn head(peers: &[Peer]) -> Vec<String> {
    let mut head = vec!["row".to_owned(), String::new(), "tidelock".to_owned()];
    for peer in peers {
        head.extend([peer.name().to_owned(), "ratio".to_owned()]);
    }
    head.extend(["lunatic*", "bar", "reached", "against lunatic"].map(String::from));
    head
}

fn shown(cell: &Cell<'_>, peers: &[Peer]) -> Vec<String> {
    let unit = cell.figure.unit;
    let or = |value: Option<f64>, or: &str| {
        value.map_or(or.to_owned(), |value| format!("{} {unit}", number(value)))
    };
    let mut row = vec![
        cell.line.size.to_owned(),
        cell.figure.key.to_owned(),
        or(cell.ours, "not measured"),
    ];
    for peer in peers {
        let asked = cell.line.peers.contains_key(peer);
        let theirs = cell.peers.get(peer).copied();
        let ratio = cell.ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
        row.push(or(theirs, if asked { "not measured" } else { "-" }));
        row.push(ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")));
    }
    row.push(or(cell.lunatic, "-"));
    row.push(or(cell.bar, "-"));
    row.push(match cell.reached {
        Some(reached) if reached >= 1.0 => "met".into(),
        Some(reached) => format!("{reached:.2} of it"),
        None => "-".into(),
    });
    row.push(cell.verdict.clone());
    row
}

/// Words stand to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (part, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = if (2..columns - 1).contains(&column) {
                write!(text, "{part:>width$}  ")
            } else {
                write!(text, "{part:<width$}  ")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
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
    let run = Run(lines);
    let all: Vec<_> = run
        .cells()
        .into_iter()
        .map(|cell| {
            let peers: BTreeMap<_, _> = cell.peers.iter().map(|(p, v)| (p.name(), v)).collect();
            let failed = cell.line.peers.iter();
            let why_not: BTreeMap<_, _> = failed
                .filter_map(|(peer, all)| Some((peer.name(), all.as_ref().err()?)))
                .chain(cell.line.ours.as_ref().err().map(|why| ("tidelock", why)))
                .collect();
            json!({
                "row": cell.line.size,
                "title": cell.line.row.title,
                "figure": cell.figure.key,
                "unit": cell.figure.unit,
                "more_is_better": cell.figure.more_is_better,
                "tidelock": cell.ours,
                "peers": peers,
                "lunatic_scaled": cell.lunatic,
                "lead_over_lunatic": cell.lead,
                "verdict": cell.verdict,
                "bar": cell.bar,
                "reached": cell.reached,
                "why_not": why_not,
            })
        })
        .collect();
    json!(all).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Place, ROWS};

    fn line(size: &'static str, ours: f64, erlang: f64) -> Line {
        let row = ROWS.iter().find(|row| row.sizes.contains(&size));
        let row = row.expect("the size is one of a row");
        let (figure, _) = row.figures[0];
        let measured = |value| Ok(Figures::from([(figure.key.to_owned(), value)]));
        Line {
            row,
            size,
            ours: measured(ours),
            peers: BTreeMap::from([(Peer::Erlang, measured(erlang))]),
        }
    }

    #[test]
    fn every_bar_is_of_a_figure_that_is_measured() {
        for bar in BARS {
            let row = ROWS.iter().find(|row| row.sizes.contains(&bar.size));
            let row = row.unwrap_or_else(|| panic!("no row has {}", bar.size));
            let named = row.figures.iter().any(|(figure, _)| figure.key == bar.key);
            assert!(named, "{} has no {}", bar.size, bar.key);
            if let Height::Beside { row, .. } | Height::TimesOwn(_, row) = bar.height {
                assert!(ROWS.iter().any(|one| one.sizes.contains(&row)), "{row}");
            }
        }
    }

    #[test]
    fn a_bar_moves_with_the_peer() {
        // Half of what Erlang did then, so half of the bar.
        let lines = [line("local_ping:500000", 600e3, 1.25e6)];
        let cell = &Run(&lines).cells()[0];
        assert_eq!((cell.bar, cell.reached), (Some(600e3), Some(1.0)));
        let lines = [line("remote_ping:64:10000", 200.0, 100.0)];
        let cell = &Run(&lines).cells()[0];
        assert_eq!((cell.bar, cell.reached), (Some(100.0), Some(0.5)));
    }

    #[test]
    fn what_failed_is_named() {
        let mut lines = [line("local_ping:500000", 1.0, 1.0)];
        lines[0].ours = Err("it ended".into());
        lines[0]
            .peers
            .insert(Peer::Kameo, Err("no such row".into()));
        let text = text(&lines);
        assert!(
            text.contains("not measured: local_ping:500000 by tidelock: it ended"),
            "{text}"
        );
        assert!(text.contains("by kameo: no such row"), "{text}");
    }

    #[test]
    fn every_row_that_is_alone_says_where_it_runs() {
        for row in ROWS.iter().filter(|row| row.place == Place::Start) {
            assert!(row.sizes.iter().all(|size| size.starts_with("start:")));
        }
    }
}
