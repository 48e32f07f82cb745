//! Splits Rust text into its code and its comments, both with the line breaks of the original, so that a
//! rule can look at either and still tell the line.
//!
//! Deliberately not here: tokens and syntax. What is inside strings and characters belongs to neither half.

/// The two halves of a file. Whatever belongs to the other half, or to a literal, is blank.
#[derive(Debug)]
pub(crate) struct Halves {
    pub(crate) code: String,
    pub(crate) comments: String,
}

/// Splits a file. It never fails: text that is not Rust just splits somehow.
pub(crate) fn split(text: &str) -> Halves {
    let chars: Vec<char> = text.chars().collect();
    let mut splitter = Splitter {
        chars: &chars,
        at: 0,
        halves: Halves { code: String::with_capacity(text.len()), comments: String::new() },
    };
    splitter.run();
    splitter.halves
}

/// Which half takes the next characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Code,
    Comments,
    Neither,
}

struct Splitter<'a> {
    chars: &'a [char],
    at: usize,
    halves: Halves,
}

impl Splitter<'_> {
    fn run(&mut self) {
        while let Some(char) = self.peek(0) {
            match (char, self.peek(1)) {
                ('/', Some('/')) => self.take_while(Half::Comments, |char| char != '\n'),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.string(),
                ('r', Some('"' | '#')) if !self.inside_word() => self.raw_string(),
                ('\'', _) => self.quote(),
                _ => self.take(Half::Code),
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    /// The character here continues a name, so that an `r` is no prefix. `br` and `cr` are prefixes too.
    fn inside_word(&self) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map(|at| self.chars[at]);
        let is_word = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || char == '_');
        match before(1) {
            Some('b' | 'c') => is_word(before(2)),
            other => is_word(other),
        }
    }

    /// Moves one character to its half; line breaks go to both.
    fn take(&mut self, half: Half) {
        let Some(char) = self.peek(0) else { return };
        let blank = if char == '\n' { '\n' } else { ' ' };
        self.halves.code.push(if half == Half::Code { char } else { blank });
        self.halves.comments.push(if half == Half::Comments { char } else { blank });
        self.at += 1;
    }

    fn take_n(&mut self, half: Half, count: usize) {
        (0..count).for_each(|_| self.take(half));
    }

    fn take_while(&mut self, half: Half, matches: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&matches) {
            self.take(half);
        }
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.take_n(Half::Comments, 2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.take_n(Half::Comments, 2);
                    if depth == 0 {
                        return;
                    }
                }
                (Some(_), _) => self.take(Half::Comments),
                (None, _) => return,
            }
        }
    }

    /// The quotes stay in the code, the text between them does not.
    fn string(&mut self) {
        self.take(Half::Code);
        loop {
            match self.peek(0) {
                Some('\\') => self.take_n(Half::Neither, 2),
                Some('"') => return self.take(Half::Code),
                Some(_) => self.take(Half::Neither),
                None => return,
            }
        }
    }

    fn raw_string(&mut self) {
        let hashes = self.chars[self.at + 1..].iter().take_while(|char| **char == '#').count();
        if self.peek(1 + hashes) != Some('"') {
            // A raw name such as `r#type`.
            return self.take(Half::Code);
        }
        self.take_n(Half::Code, hashes + 2);
        while let Some(char) = self.peek(0) {
            let closes = char == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
            if closes {
                return self.take_n(Half::Code, 1 + hashes);
            }
            self.take(Half::Neither);
        }
    }

    /// A character literal, or a lifetime.
    fn quote(&mut self) {
        self.take(Half::Code);
        match (self.peek(0), self.peek(1)) {
            (Some('\\'), _) => {
                self.take_n(Half::Neither, 2);
                // `'\u{1F600}'` goes on after its escape.
                while self.peek(0).is_some_and(|char| char != '\'' && char != '\n') {
                    self.take(Half::Neither);
                }
                self.take(Half::Code);
            }
            (Some(_), Some('\'')) => {
                self.take(Half::Neither);
                self.take(Half::Code);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        split(text).code
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code(r#"f("a \" // b") // c"#).trim_end(), r#"f("         ")"#);
        assert_eq!(code("r\"\\\" x"), "r\" \" x");
        assert_eq!(code("br##\"a\"# b\"## c"), "br##\"     \"## c");
    }

    #[test]
    fn lifetimes_are_code_and_characters_are_not() {
        assert_eq!(code("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
        assert_eq!(code("'\"' 'x' '\\'' '\\u{41}' b'z'"), "' ' ' ' '  ' '      ' b' '");
        assert_eq!(code("r#type for"), "r#type for");
        assert_eq!(code("bar\"x\""), "bar\" \"");
    }

    #[test]
    fn comments_keep_their_lines() {
        let halves = split("a // b\n\"c\"\n/* d\ne */");
        assert_eq!(halves.comments, "  // b\n   \n/* d\ne */");
        assert_eq!(halves.code.lines().count(), 4);
    }
}
