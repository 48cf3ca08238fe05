//! The one place that prints. Data goes to stdout, talk goes to stderr.

use std::{
    borrow::Cow,
    fmt,
    io::{self, IsTerminal, Write},
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use super::failure::{Letter, Outcome};

/// Columns that a narrow terminal goes without, the first of them first. The other forms have them.
const DISPENSABLE: [&str; 7] = [
    "VERSION", "JOINED", "DEPLOYED", "STARTED", "LINKS", "ADMIN", "SEEN",
];

/// Columns of names. They are cut where there is no room for them; an id, an address or a state never is.
const NAMES: [&str; 2] = ["NAME", "MODULE"];

/// So many characters of a name are shown before a column is left out for it, and so many at the least.
const NAME_CHARS: std::ops::RangeInclusive<usize> = 8..=32;

/// Columns of sentences, which go on in the next line.
const SENTENCES: [&str; 3] = ["MEANS", "VALUE", "FROM"];

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON document; of `logs`, `events` and `kill` one per line.
    Json,
    /// One JSON document per line.
    Ndjson,
    /// A table for programs; of `bench` alone.
    Csv,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless the environment says no.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a command's words go.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// Form of the data.
    pub(crate) format: Format,
    /// Ids only, and no talk.
    pub(crate) quiet: bool,
    color_out: bool,
    color_err: bool,
}

/// What a word wants to say besides itself; never its only carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Bad,
    Warn,
    Dim,
    Strong,
}

impl Output {
    pub(crate) fn new(format: Format, quiet: bool, color: Color) -> Self {
        Self {
            format,
            quiet,
            color_out: coloured(color, io::stdout().is_terminal()),
            color_err: coloured(color, io::stderr().is_terminal()),
        }
    }

    /// Whether the data is read by a program.
    pub(crate) fn machine(&self) -> bool {
        self.format != Format::Text
    }

    /// Whether stderr is a terminal whose line may be rewritten.
    pub(crate) fn animated(&self) -> bool {
        !self.quiet && io::stderr().is_terminal() && !dumb()
    }

    /// Tells people that there is nothing to list.
    pub(crate) fn nothing(&self, what: &str) {
        if !self.machine() {
            self.say(format_args!("no {what}"));
        }
    }

    /// A list: an array, one document per row, a table, or with `-q` the ids.
    pub(crate) fn list<T: Serialize>(
        &self,
        rows: &[T],
        id: impl Fn(&T) -> String,
        header: &[&str],
        columns: impl Fn(&T) -> Vec<String>,
    ) -> Outcome {
        if self.quiet {
            return rows.iter().try_for_each(|row| self.id(&id(row)));
        }
        match self.format {
            Format::Json => self.print(&json(rows, true)),
            Format::Ndjson => rows
                .iter()
                .try_for_each(|row| self.print(&json(row, false))),
            Format::Text | Format::Csv if rows.is_empty() => Ok(()),
            Format::Text | Format::Csv => self.print(&self.table(header, rows.iter().map(columns))),
        }
    }

    /// One thing: its document, its text, or with `-q` its id.
    pub(crate) fn one<T: Serialize>(&self, value: &T, id: &str, text: &str) -> Outcome {
        if self.quiet {
            return self.id(id);
        }
        match self.format {
            Format::Json => self.print(&json(value, true)),
            Format::Ndjson => self.print(&json(value, false)),
            Format::Text | Format::Csv => self.print(text.trim_end()),
        }
    }

    /// One of several things, whose number is not known before the last one; in JSON always one document per
    /// line.
    pub(crate) fn item<T: Serialize>(&self, value: &T, id: &str, text: &str) -> Outcome {
        if self.quiet {
            self.id(id)
        } else if self.machine() {
            self.print(&json(value, false))
        } else {
            self.print(text)
        }
    }

    /// Ids, each on a line. Other machines have given them.
    fn id(&self, ids: &str) -> Outcome {
        self.print(&printable_lines(ids))
    }

    /// Data that is text by nature: a template, a script, a page.
    pub(crate) fn print(&self, text: &str) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    /// Bytes of a guest, unchanged.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Bytes a guest wrote to its stderr, unchanged. A closed stderr is nobody's fault.
    pub(crate) fn raw_err(&self, bytes: &[u8]) {
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// Talk: what is going on, for whoever watches. Never on stdout, never with `-q`.
    pub(crate) fn say(&self, text: impl fmt::Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// A story is data for people and talk for programs.
    pub(crate) fn tell(&self, text: impl fmt::Display) -> Outcome {
        if self.machine() {
            self.say(text);
            Ok(())
        } else if self.quiet {
            Ok(())
        } else {
            self.print(&text.to_string())
        }
    }

    /// The error letter, on stderr, as text or as one document.
    pub(crate) fn letter(&self, letter: &Letter) {
        let mut err = io::stderr().lock();
        let _ = match self.format {
            Format::Json => writeln!(err, "{}", json(letter, true)),
            Format::Ndjson => writeln!(err, "{}", json(letter, false)),
            Format::Text | Format::Csv => write!(err, "{}", self.letter_text(letter)),
        };
    }

    fn letter_text(&self, letter: &Letter) -> String {
        let mut text = format!(
            "{} {} [{}]\n",
            paint(self.color_err, Tone::Bad, "error:"),
            printable_lines(&letter.message),
            printable(&letter.code)
        );
        for line in letter.detail.iter().flat_map(|detail| detail.lines()) {
            text.push_str(&format!("  {}\n", printable(line)));
        }
        let explain = format!("tidelock explain {}", letter.code);
        let known = letter.next.iter().any(|next| next.command == explain);
        let mut rows: Vec<(Cow<'_, str>, &str)> = letter
            .next
            .iter()
            .map(|next| (printable(&next.command), next.why.as_str()))
            .collect();
        if !known && rows.len() < 2 {
            rows.push((printable(&explain), "what this means"));
        }
        let wide = rows
            .iter()
            .map(|(command, _)| command.chars().count())
            .max()
            .unwrap_or(0);
        for (at, (command, why)) in rows.iter().enumerate() {
            let lead = if at == 0 { "next: " } else { "      " };
            let line = format!("  {lead}{command:wide$}  {why}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// A word in its tone, for [`Output::tell`] and tables.
    pub(crate) fn tone(&self, tone: Tone, text: &str) -> String {
        let on = if self.machine() {
            self.color_err
        } else {
            self.color_out
        };
        paint(on, tone, text)
    }

    /// A word in its tone, for [`Output::say`].
    pub(crate) fn tone_err(&self, tone: Tone, text: &str) -> String {
        paint(self.color_err, tone, text)
    }

    fn table(&self, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
        let mut all: Vec<Vec<String>> =
            vec![header.iter().map(|&title| title.to_owned()).collect()];
        all.extend(rows.map(|row| {
            row.iter()
                .map(|cell| printable(cell).into_owned())
                .collect()
        }));
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // A terminal that does not know its width says 0.
        if io::stdout().is_terminal()
            && let Some(room @ 1..) = table.width()
        {
            fit(&mut all, usize::from(room));
            if header.iter().any(|title| SENTENCES.contains(title)) {
                table.set_content_arrangement(ContentArrangement::Dynamic);
            }
        }
        let mut all = all.into_iter();
        table.set_header(all.next().unwrap_or_default());
        for row in all {
            table.add_row(row);
        }
        let mut text = String::new();
        for (at, line) in table.to_string().lines().enumerate() {
            let line = line.strip_prefix(' ').unwrap_or(line).trim_end();
            let line = if at == 0 {
                self.tone(Tone::Dim, line)
            } else {
                line.to_owned()
            };
            text.push_str(&line);
            text.push('\n');
        }
        text.trim_end().to_owned()
    }
}

/// Text of a guest or of another machine, fit to stand in a line of ours: whatever would move a terminal's cursor,
/// give it a command, or turn the direction of what follows becomes `\u{fffd}`. A tab stays.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let acts = |letter: char| match letter {
        '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        other => other.is_control(),
    };
    match text.contains(acts) {
        true => Cow::Owned(text.replace(acts, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// As [`printable`], for text of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// Makes a table, whose first row is its header, so narrow that it has room: leaves columns out, then cuts names.
fn fit(table: &mut [Vec<String>], room: usize) {
    let excess = |table: &[Vec<String>]| {
        let columns = table.first().map_or(0, Vec::len);
        let wide: usize = (0..columns).map(|at| wide(table, at)).sum();
        // Two blanks stand between two columns.
        (wide + 2 * columns.saturating_sub(1)).saturating_sub(room)
    };
    let find = |table: &[Vec<String>], title: &str| {
        let header = table.first()?;
        header.iter().position(|one| one == title)
    };
    if excess(table) == 0 {
        return;
    }
    for title in NAMES {
        if let Some(at) = find(table, title) {
            cut(table, at, *NAME_CHARS.end());
        }
    }
    for title in DISPENSABLE {
        if excess(table) == 0 {
            return;
        }
        if let Some(at) = find(table, title) {
            for row in table.iter_mut() {
                row.remove(at);
            }
        }
    }
    for title in NAMES {
        if let Some(at) = find(table, title) {
            let chars = wide(table, at).saturating_sub(excess(table));
            cut(table, at, chars.max(*NAME_CHARS.start()));
        }
    }
}

/// How many characters a column is wide.
fn wide(table: &[Vec<String>], at: usize) -> usize {
    let cells = table.iter().filter_map(|row| row.get(at));
    cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
}

/// Shortens the texts of a column to so many characters, below its header.
fn cut(table: &mut [Vec<String>], at: usize, chars: usize) {
    let cells = table.iter_mut().skip(1).filter_map(|row| row.get_mut(at));
    for cell in cells.filter(|cell| cell.chars().count() > chars) {
        *cell = cell.chars().take(chars - 1).chain(['…']).collect();
    }
}

/// A JSON document of something whose serialisation cannot fail.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> String {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    text.expect("plain data with string keys serialises")
}

/// How long ago, for people.
pub(crate) fn ago(time: Timestamp) -> String {
    let seconds = (Timestamp::now().as_millisecond() - time.as_millisecond()).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Clock time of an API time in the local zone, for streams of lines.
pub(crate) fn clock(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%H:%M:%S%.3f")
            .to_string(),
        Err(_) => time.to_owned(),
    }
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A count with thin gaps between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// State has a word and a shape.
pub(crate) fn shaped(state: &str) -> String {
    let shape = match state {
        "running" | "alive" | "ready" => "●",
        "waiting" | "hibernating" | "parked" | "draining" => "○",
        _ => "✕",
    };
    format!("{shape} {state}")
}

fn paint(on: bool, tone: Tone, text: &str) -> String {
    if !on {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Bad => "1;31",
        Tone::Warn => "33",
        Tone::Dim => "2",
        Tone::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn coloured(color: Color, terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if set("NO_COLOR") => false,
        Color::Auto if set("CLICOLOR_FORCE") => true,
        Color::Auto => terminal && !dumb(),
    }
}

fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(12), "12");
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
    }

    #[test]
    fn a_guest_gives_the_terminal_no_command() {
        for (told, shown) in [
            ("plain\tword, größer €", "plain\tword, größer €"),
            (
                "\u{1b}[2J\u{1b}]0;title\u{7}",
                "\u{fffd}[2J\u{fffd}]0;title\u{fffd}",
            ),
            (
                "\u{9b}31mred\u{7f}\r\n",
                "\u{fffd}31mred\u{fffd}\u{fffd}\u{fffd}",
            ),
            ("a\u{202e}b\u{2066}c\u{200f}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
        ] {
            assert_eq!(printable(told), shown);
        }
        let out = Output::new(Format::Text, false, Color::Never);
        let rows = [vec!["n1.1".to_owned(), "\u{1b}[2Jx".to_owned()]];
        let table = out.table(&["PID", "NAME"], rows.into_iter());
        assert!(
            table.contains("\u{fffd}[2Jx") && !table.contains('\u{1b}'),
            "{table:?}"
        );
        let super::super::failure::Failure::Letter(letter) =
            super::super::failure::Failure::new("E00\u{1b}", "a\u{1b}b")
                .detail("c\u{1b}d\ne")
                .next("f\u{1b}g", "")
        else {
            panic!("not a letter");
        };
        let text = out.letter_text(&letter);
        assert!(
            text.contains("a\u{fffd}b") && text.contains("  c\u{fffd}d\n  e\n"),
            "{text:?}"
        );
        assert!(
            text.contains("[E00\u{fffd}]") && text.contains("next: f\u{fffd}g"),
            "{text:?}"
        );
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn a_narrow_table_is_whole() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let nodes = || -> Vec<Vec<String>> {
            vec![
                row(&[
                    "NODE", "NAME", "STATE", "ADDRESS", "ADMIN", "VERSION", "SEEN",
                ]),
                row(&[
                    "n1000",
                    "a-machine-with-a-name",
                    "● draining",
                    "10.200.100.100:7717",
                    "10.200.100.100:7718",
                    "0.1.0",
                    "12s ago",
                ]),
            ]
        };
        let mut wide = nodes();
        fit(&mut wide, 200);
        assert_eq!(wide, nodes());
        let mut narrow = nodes();
        fit(&mut narrow, 80);
        assert_eq!(narrow[0], ["NODE", "NAME", "STATE", "ADDRESS", "SEEN"]);
        assert_eq!(narrow[1][1], "a-machine-with-a-name");
        let mut modules: Vec<Vec<String>> = vec![
            row(&["HASH", "NAME", "SIZE", "DEPLOYED"]),
            row(&["b3:12345678", "app", "1.5 KiB", "12s ago"]),
        ];
        fit(&mut modules, 30);
        assert_eq!(modules[0], ["HASH", "NAME", "SIZE"]);
        let mut narrower = nodes();
        fit(&mut narrower, 55);
        assert_eq!(narrower[0], ["NODE", "NAME", "STATE", "ADDRESS"]);
        assert_eq!(
            narrower[1],
            [
                "n1000",
                "a-machine-with…",
                "● draining",
                "10.200.100.100:7717"
            ]
        );
        let mut narrowest = nodes();
        fit(&mut narrowest, 10);
        assert_eq!(
            narrowest[1][1..],
            ["a-machi…", "● draining", "10.200.100.100:7717"]
        );
    }

    #[test]
    fn a_letter_names_code_and_next_step() {
        let out = Output::new(Format::Text, false, Color::Never);
        let super::super::failure::Failure::Letter(letter) =
            super::super::failure::Failure::new("E0020", "n3.42: there is no such process")
                .detail("n3 is alive; the process has ended.")
                .next("tidelock ps", "see what runs")
        else {
            panic!("not a letter");
        };
        let text = out.letter_text(&letter);
        assert_eq!(
            text,
            "error: n3.42: there is no such process [E0020]\n  \
             n3 is alive; the process has ended.\n  \
             next: tidelock ps             see what runs\n        \
             tidelock explain E0020  what this means\n"
        );
    }
}
