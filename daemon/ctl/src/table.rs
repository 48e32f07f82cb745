//! Text that greps well: aligned columns under a header, one record a line.
//!
//! Whatever stands in a cell, a record stays on its line and no control character reaches the terminal. What goes to a
//! file or a pipe is always whole; a terminal that is too narrow gets fewer columns, and is told so.

/// How much room the last column of a table, which is words, has at least.
const LAST_COLUMN_MIN: usize = 16;

/// What the text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Its colours.
    pub(crate) paint: Paint,
    /// How many characters a line has, if it is a terminal's.
    pub(crate) columns: Option<usize>,
}

impl Screen {
    /// A file or a pipe: no colour, as wide as it takes.
    #[cfg(test)]
    pub(crate) const PIPE: Self = Self { paint: Paint::Plain, columns: None };
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Colour,
}

/// What a cell means to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

impl Tone {
    /// The tone of a state's word.
    pub(crate) fn of_state(state: &str) -> Self {
        match state {
            "up" | "running" | "gained" | "opened" => Self::Good,
            "down" | "gone" | "duplicate" | "alone" | "failed" | "lost" | "conflict" => Self::Bad,
            "late" | "stalled" | "closed" | "leaving" | "own_down" => Self::Warning,
            _ => Self::Plain,
        }
    }
}

impl Paint {
    /// The text in the tone's colour.
    pub(crate) fn apply(self, tone: Tone, text: &str) -> String {
        let colour = match (self, tone) {
            (Self::Plain, _) | (_, Tone::Plain) => return text.to_owned(),
            (Self::Colour, Tone::Good) => 32,
            (Self::Colour, Tone::Warning) => 33,
            (Self::Colour, Tone::Bad) => 31,
        };
        format!("\x1b[{colour}m{text}\x1b[0m")
    }
}

/// A text of one line: what would break it, or command a terminal, becomes a blank; nothing at all becomes `-`.
pub(crate) fn one_line(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// One field of a record.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A state, in its colour.
    pub(crate) fn state(word: &str) -> Self {
        Self { text: one_line(word), tone: Tone::of_state(word) }
    }

    /// A value that may be unknown.
    pub(crate) fn maybe(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::from("-"), |value| Self::from(value.to_string()))
    }

    /// A number with so many digits after the point.
    pub(crate) fn decimal(value: f64, digits: usize) -> Self {
        Self::from(format!("{value:.digits$}"))
    }

    /// The same, if it is known.
    pub(crate) fn maybe_decimal(value: Option<f64>, digits: usize) -> Self {
        value.map_or_else(|| Self::from("-"), |value| Self::decimal(value, digits))
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: one_line(text.as_ref()), tone: Tone::Plain }
    }
}

/// The side that a column's cells are set at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    const fn header(self) -> &'static str {
        match self {
            Self::Left(header) | Self::Right(header) => header,
        }
    }
}

/// Records under a header.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    spare: &'static [&'static str],
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new(), spare: &[] }
    }

    /// The columns that a narrow terminal may go without, the first to go first.
    pub(crate) fn spare(mut self, headers: &'static [&'static str]) -> Self {
        debug_assert!(headers.iter().all(|spare| self.columns.iter().any(|one| one.header() == *spare)));
        self.spare = headers;
        self
    }

    /// Adds a record, a cell for each column.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let row = row.into_iter().collect::<Vec<_>>();
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The header and the records, each on a line, two blanks between columns, none at the end.
    pub(crate) fn render(&self, screen: Screen) -> String {
        let header = self.columns.iter().map(|column| Cell::from(column.header())).collect::<Vec<_>>();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let mut text = String::new();
        let widths = (0..self.columns.len())
            .map(|at| lines().filter_map(|row| row.get(at)).map(Cell::width).max().unwrap_or_default())
            .collect::<Vec<_>>();
        let left_out = screen.columns.map_or(&[][..], |columns| self.left_out(&widths, columns));
        for row in lines() {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                if left_out.contains(&column.header()) {
                    continue;
                }
                let blank = " ".repeat(width - cell.width());
                let painted = screen.paint.apply(cell.tone, &cell.text);
                match column {
                    Column::Left(_) => line.extend([&painted, &blank, "  "]),
                    Column::Right(_) => line.extend([&blank, &painted, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if !left_out.is_empty() {
            text.push_str(&format!(
                "(columns left out: {}; a wider terminal or a pipe has them)\n",
                left_out.len()
            ));
        }
        text
    }

    /// As many of the spare columns as have to go. The last column may run over: it is words.
    fn left_out(&self, widths: &[usize], columns: usize) -> &'static [&'static str] {
        let wants = |going: &[&str]| {
            let stay =
                self.columns.iter().zip(widths).filter(|(column, _)| !going.contains(&column.header()));
            let mut stay = stay.map(|(_, width)| *width).collect::<Vec<_>>();
            if let Some(last) = stay.last_mut() {
                *last = (*last).min(LAST_COLUMN_MIN);
            }
            stay.iter().sum::<usize>() + 2 * stay.len().saturating_sub(1)
        };
        let enough = (0..self.spare.len()).find(|count| wants(&self.spare[..*count]) <= columns);
        &self.spare[..enough.unwrap_or(self.spare.len())]
    }
}

/// Words on as many lines as it takes, those after the first set in by two blanks; each word with its painted form.
pub(crate) fn fold(words: &[(String, String)], columns: usize) -> String {
    let (mut text, mut used) = (String::new(), 0);
    for (word, painted) in words {
        let width = word.chars().count();
        if used == 0 {
            used = width;
        } else if used + 1 + width <= columns {
            text.push(' ');
            used += 1 + width;
        } else {
            text.push_str("\n  ");
            used = 2 + width;
        }
        text.push_str(painted);
    }
    text.push('\n');
    text
}

impl Cell {
    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_and_without_colour() {
        let mut table = Table::new([Column::Left("NAME"), Column::Right("US"), Column::Left("STATE")]);
        table.push([Cell::from("n1"), Cell::decimal(12.345, 1), Cell::state("up")]);
        table.push([Cell::from("äöüäöü"), Cell::maybe_decimal(None, 1), Cell::state("what")]);
        assert_eq!(table.render(Screen::PIPE), "NAME      US  STATE\nn1      12.3  up\näöüäöü     -  what\n");
        let coloured = table.render(Screen { paint: Paint::Colour, columns: None });
        assert!(coloured.contains("12.3  \x1b[32mup\x1b[0m\n"), "{coloured:?}");
    }

    #[test]
    fn a_record_stays_on_its_line() {
        let mut table = Table::new([Column::Left("A"), Column::Left("B")]);
        table.push([Cell::from("a\n\x1b[31m"), Cell::from("")]);
        assert_eq!(table.render(Screen::PIPE), "A        B\na  [31m  -\n");
    }
    #[test]
    fn a_narrow_terminal_gets_what_matters_and_is_told() {
        let columns = ["A", "B", "C", "NOTE"].map(Column::Left);
        let mut table = Table::new(columns).spare(&["C", "B"]);
        table.push([Cell::from("aaaa"), Cell::from("bbbb"), Cell::from("cccc"), Cell::from("n")]);
        let render = |columns| table.render(Screen { columns, ..Screen::PIPE });
        assert_eq!(render(None), "A     B     C     NOTE\naaaa  bbbb  cccc  n\n");
        assert_eq!(render(Some(22)), render(None));
        assert_eq!(
            render(Some(21)),
            "A     B     NOTE\naaaa  bbbb  n\n(columns left out: 1; a wider terminal or a pipe has them)\n"
        );
        assert!(render(Some(3)).starts_with("A     NOTE\naaaa  n\n"));
    }

    #[test]
    fn folded_words_keep_to_the_screen() {
        let words = ["one", "two", "three", "afourthword"].map(|word| (word.to_owned(), word.to_owned()));
        assert_eq!(fold(&words, 8), "one two\n  three\n  afourthword\n");
        assert_eq!(fold(&words, 80), "one two three afourthword\n");
    }
}
