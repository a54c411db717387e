//! One file as the rules see it. Text flows in; out flow the same bytes with comments, literals
//! and test code blanked, so that a rule never trips over a sentence or a test.
//!
//! Blanking keeps every byte offset and line number.

use std::ops::Range;

use super::Finding;

/// A file and its views.
pub struct Source {
    /// From the root, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Rust only: without comments and literals.
    code: String,
    /// Rust only: without test code either.
    production: String,
    /// How many lines belong to test modules.
    test_lines: usize,
}

impl Source {
    /// Reads a file's text.
    pub fn new(path: &str, text: String) -> Self {
        let mut source = Self {
            path: path.replace('\\', "/"),
            text,
            code: String::new(),
            production: String::new(),
            test_lines: 0,
        };
        if source.is_rust() {
            source.code = without_literals(&source.text);
            let tests = test_items(&source.code);
            let lines = |range: &Range<usize>| source.code[range.clone()].lines().count();
            source.test_lines = tests.iter().map(lines).sum();
            source.production = blanked(&source.code, &tests);
        }
        source
    }

    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The code of the product itself: empty for tests, benches and fuzz targets.
    pub fn production(&self) -> &str {
        if self.is_test() { "" } else { &self.production }
    }

    /// Lines that are not test code.
    pub fn production_lines(&self) -> usize {
        self.text.lines().count() - self.test_lines
    }

    /// Whether the whole file is test code.
    pub fn is_test(&self) -> bool {
        ["tests/", "benches/", "fuzz/"].iter().any(|folder| self.path.starts_with(folder))
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
    }

    /// The top-level module of the library or binary that the file belongs to.
    pub fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        inside.split('/').next().map(|name| name.trim_end_matches(".rs"))
    }

    /// A finding at a byte offset.
    pub fn finding(&self, offset: usize, message: impl Into<String>) -> Finding {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        Finding { path: self.path.clone(), line, message: message.into() }
    }
}

/// Offsets of `word` where it is not part of a longer identifier.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(offset, _)| offset).filter(move |&offset| {
        let before = code[..offset].chars().next_back();
        let after = code[offset + word.len()..].chars().next();
        !before.is_some_and(is_identifier) && !after.is_some_and(is_identifier)
    })
}

/// Whether the character may stand inside an identifier.
pub fn is_identifier(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The code up to the bracket that closes the first one, which `code` begins with.
pub fn bracketed(code: &str) -> &str {
    let mut depth = 0_usize;
    for (offset, character) in code.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return &code[..offset + character.len_utf8()];
        }
    }
    code
}

fn without_literals(text: &str) -> String {
    let mut literals = Vec::new();
    let mut offset = 0;
    let mut before = ' ';
    while let Some(character) = text[offset..].chars().next() {
        let length = literal_length(&text[offset..], before);
        if length > 0 {
            literals.push(offset..offset + length);
            offset += length;
            before = ' ';
        } else {
            offset += character.len_utf8();
            before = character;
        }
    }
    blanked(text, &literals)
}

/// Length of the comment or literal that `rest` begins with, else 0.
fn literal_length(rest: &str, before: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return escaped_length(rest, '"');
    }
    if rest.starts_with('\'') {
        return character_length(rest);
    }
    if is_identifier(before) { 0 } else { raw_string_length(rest) }
}

/// Rust's block comments nest.
fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut offset = 0;
    while offset < rest.len() {
        let here = &rest.as_bytes()[offset..];
        if here.starts_with(b"/*") {
            depth += 1;
            offset += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            offset += 2;
            if depth == 0 {
                return offset;
            }
        } else {
            offset += 1;
        }
    }
    rest.len()
}

/// Length up to the closing `quote`, which a backslash hides.
fn escaped_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (offset, character) in rest.char_indices().skip(1) {
        if character == quote && !escaped {
            return offset + quote.len_utf8();
        }
        escaped = character == '\\' && !escaped;
    }
    rest.len()
}

/// A character literal; a lifetime is none.
fn character_length(rest: &str) -> usize {
    let mut characters = rest.chars().skip(1);
    match (characters.next(), characters.next()) {
        (Some('\\'), _) => escaped_length(rest, '\''),
        (Some(only), Some('\'')) => 2 + only.len_utf8(),
        _ => 0,
    }
}

fn raw_string_length(rest: &str) -> usize {
    let Some(start) = ["r", "br", "cr"].into_iter().find(|start| {
        let after = rest.strip_prefix(start).map(|after| after.trim_start_matches('#'));
        after.is_some_and(|after| after.starts_with('"'))
    }) else {
        return 0;
    };
    let hashes = rest[start.len()..].chars().take_while(|&it| it == '#').count();
    let body = start.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    rest[body..].find(&end).map_or(rest.len(), |offset| body + offset + end.len())
}

/// Items under `#[cfg(test)]` or `#[cfg(all(test, …))]`, attributes included.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for start in ["#[cfg(test)]", "#[cfg(all(test,"] {
        for (offset, _) in code.match_indices(start) {
            items.push(offset..offset + item_length(&code[offset..]));
        }
    }
    items.sort_by_key(|item| item.start);
    // An item inside another one was counted with it.
    let mut end = 0;
    items.retain(|item| {
        let outer = item.start >= end;
        end = end.max(item.end);
        outer
    });
    items
}

/// Length of the item that `code` begins with: up to a `;`, or the end of its first `{…}`.
fn item_length(code: &str) -> usize {
    let mut offset = 0;
    while let Some(character) = code[offset..].chars().next() {
        match character {
            ';' => return offset + 1,
            '{' => return offset + bracketed(&code[offset..]).len(),
            '(' | '[' => offset += bracketed(&code[offset..]).len(),
            other => offset += other.len_utf8(),
        }
    }
    code.len()
}

fn blanked(text: &str, ranges: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for range in ranges {
        out.push_str(&text[copied..range.start]);
        let blank = |byte: u8| if byte == b'\n' { '\n' } else { ' ' };
        out.extend(text[range.clone()].bytes().map(blank));
        copied = range.end;
    }
    out.push_str(&text[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let source = Source::new("src/x.rs", text.to_owned());
        let squeezed: Vec<&str> = source.production.split_whitespace().collect();
        assert_eq!(squeezed.join(" "), expected, "{text}");
        assert_eq!(source.production.len(), text.len(), "offsets must stay: {text}");
    }

    #[test]
    fn comments_and_literals_are_blank() {
        check("a // b\nc", "a c");
        check("a /* b /* c */ d */ e", "a e");
        check(r#"a("b \" c", 'd', '"', '\'', b"e") f"#, "a( , , , , b ) f");
        check(r##"a(r#"b " c"#, br"\", r#type) d"##, "a( , , r#type) d");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check("'ü' é", "é");
        check("a \"never closed", "a");
    }

    #[test]
    fn test_items_are_blank_and_counted() {
        check("a;\n#[cfg(test)]\nmod tests { fn b() { c } }\nd;", "a; d;");
        check("#[cfg(test)] use a::b; c", "c");
        check("#[cfg(all(test, feature))] #[x(y;z)] fn f() {} a", "a");
        check("#[cfg(test)] mod tests { #[cfg(test)] mod more {} } a", "a");
        let source = Source::new("src/x.rs", "a\n#[cfg(test)]\nmod t {\n}\nb\n".to_owned());
        assert_eq!(source.production_lines(), 2);
    }

    #[test]
    fn words_are_whole() {
        let found: Vec<usize> = words("unsafe unsafe_code not_unsafe (unsafe)", "unsafe").collect();
        assert_eq!(found, [0, 31]);
    }

    #[test]
    fn a_file_knows_its_module() {
        let module = |path: &str| Source::new(path, String::new()).module().map(str::to_owned);
        assert_eq!(module("src/probe.rs").as_deref(), Some("probe"));
        assert_eq!(module("src/sys/linux/uring.rs").as_deref(), Some("sys"));
        assert_eq!(module("xtask/src/main.rs"), None);
    }
}
