//! The lines of `tmpfiles.d` that make something in `/var`.
//!
//! Purpose: reads the lines that `layout::var` writes, and those of packages that make directories and links.
//!
//! Not here: making what a line describes (`undo`).
//!
//! Invariants: a path begins with `/var/` and has no `..`.
//!
//! Used by: `undo`.

/// What a line makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Made {
    Directory,
    EmptyFile,
    Fifo,
    Link(Vec<u8>),
    /// The file or directory of the same path below the factory directory.
    FactoryFile,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) path: Vec<u8>,
    pub(super) made: Made,
    pub(super) mode: Option<u32>,
    pub(super) user: String,
    pub(super) group: String,
}

/// Returns the lines of a file that make something in `/var` by themselves. Lines with specifiers or an `!` are left out, since
/// what they make belongs to a running machine.
pub(super) fn parse(text: &str) -> Vec<Line> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    let (kind, rest) = line.trim_start().split_once(char::is_whitespace)?;
    let (path, rest) = split_path(rest.trim_start())?;
    let rest: Vec<&str> = rest.split_whitespace().collect();
    let field = |index: usize| rest.get(index).copied().filter(|field| *field != "-");
    let made = match kind {
        "d" | "D" | "v" | "q" | "Q" => Made::Directory,
        "f" if field(4).is_none() => Made::EmptyFile,
        "p" => Made::Fifo,
        "L" => Made::Link(unescape(field(4)?)?),
        "C" if unescape(field(4)?)? == [b"/usr/share/factory".as_slice(), &path].concat() => Made::FactoryFile,
        _ => return None,
    };
    let is_plain = path.starts_with(b"/var/") && !path.split(|byte| *byte == b'/').any(|part| part == b"..");
    is_plain.then(|| Line {
        path: path.strip_suffix(b"/").unwrap_or(&path).to_vec(),
        made,
        mode: field(0).and_then(|mode| u32::from_str_radix(mode, 8).ok()),
        user: field(1).unwrap_or("root").to_owned(),
        group: field(2).unwrap_or("root").to_owned(),
    })
}

/// Splits off the path at the beginning of a text, which may be between quotation marks, as `layout::var` writes it.
fn split_path(text: &str) -> Option<(Vec<u8>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (path, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return Some((unescape(path)?, rest));
    };
    let (mut path, mut bytes) = (Vec::new(), quoted.bytes().enumerate());
    loop {
        match bytes.next()? {
            (at, b'"') => return Some((path, &quoted[at + 1..])),
            (_, b'\\') => path.push(bytes.next()?.1),
            (_, b'%') => path.push(bytes.next().map(|(_, byte)| byte).filter(|byte| *byte == b'%')?),
            (_, byte) => path.push(byte),
        }
    }
}

/// Undoes the escapes of a field; `None` for a specifier or a quotation mark.
fn unescape(field: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        (bytes, rest) = match (first, after) {
            (b'%', [b'%', after @ ..]) => ([&bytes[..], b"%"].concat(), after),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let byte = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
                bytes.push(byte);
                (bytes, after)
            }
            (b'%' | b'\\' | b'"' | b'\'', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                (bytes, after)
            }
        };
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_layout_writes_them() {
        let text = "# comment\nd /var/cache/man 2755 man 12 - -\nL /var/run - - - - /run\n\
            C \"/var/lib/x/a \\\"b%%\" - - - - /usr/share/factory/var/lib/x/a\\x20\\x22b%%\nf /var/lib/e 0640 root root - -\n\
            d /run/x 0755\nd /var/%m 0755\nC /var/x - - - - /etc/x\nd /var/../etc 0755\nd! /var/boot 0755\nd /var/log/ - -\n";
        let lines = parse(text);
        let shown: Vec<String> = lines
            .iter()
            .map(|line| {
                format!("{} {:?} {:?} {}", String::from_utf8_lossy(&line.path), line.made, line.mode, line.group)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "/var/cache/man Directory Some(1517) 12",
                "/var/run Link([47, 114, 117, 110]) None root",
                "/var/lib/x/a \"b% FactoryFile None root",
                "/var/lib/e EmptyFile Some(416) root",
                "/var/log Directory None root",
            ]
        );
    }
}
