//! Text that greps well: aligned columns under a header, one record a line.
//!
//! Whatever stands in a cell, a record stays on its line and no control character reaches the terminal.

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
            "up" | "running" => Self::Good,
            "down" | "gone" | "duplicate" | "alone" | "failed" => Self::Bad,
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
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
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
    pub(crate) fn render(&self, paint: Paint) -> String {
        let header = self.columns.iter().map(|column| Cell::from(column.header())).collect::<Vec<_>>();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let mut text = String::new();
        let widths = (0..self.columns.len())
            .map(|at| lines().filter_map(|row| row.get(at)).map(Cell::width).max().unwrap_or_default())
            .collect::<Vec<_>>();
        for row in lines() {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                let blank = " ".repeat(width - cell.width());
                let painted = paint.apply(cell.tone, &cell.text);
                match column {
                    Column::Left(_) => line.extend([&painted, &blank, "  "]),
                    Column::Right(_) => line.extend([&blank, &painted, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
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
        assert_eq!(table.render(Paint::Plain), "NAME      US  STATE\nn1      12.3  up\näöüäöü     -  what\n");
        let coloured = table.render(Paint::Colour);
        assert!(coloured.contains("12.3  \x1b[32mup\x1b[0m\n"), "{coloured:?}");
    }

    #[test]
    fn a_record_stays_on_its_line() {
        let mut table = Table::new([Column::Left("A"), Column::Left("B")]);
        table.push([Cell::from("a\n\x1b[31m"), Cell::from("")]);
        assert_eq!(table.render(Paint::Plain), "A        B\na  [31m  -\n");
    }
}
