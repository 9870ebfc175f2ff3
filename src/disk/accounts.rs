//! The names of users and groups in the files of this machine.
//!
//! The C library is not asked: for other sources of names it loads code, which crashes in a static program.
//!
//! *Used by* `cli::commit` and `compose::workspace`.

use std::fs;
use std::io;

/// Returns the number of the user with this name.
pub(crate) fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(id_in(&fs::read("/etc/passwd")?, name))
}

/// Returns the number of the group with this name.
pub(crate) fn group_id(name: &str) -> io::Result<Option<u32>> {
    Ok(id_in(&fs::read("/etc/group")?, name))
}

/// Returns the name of the user with this number.
pub(crate) fn user_name(id: u32) -> io::Result<Option<String>> {
    let text = fs::read("/etc/passwd")?;
    let found =
        lines(&text).find(|(_, number)| *number == id).map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    Ok(found)
}

fn id_in(text: &[u8], name: &str) -> Option<u32> {
    lines(text).find(|(known, _)| *known == name.as_bytes()).map(|(_, id)| id)
}

/// Returns the names and numbers in lines such as `name:x:7:…`. Other lines are skipped.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        Some((name, std::str::from_utf8(number).ok()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_line_of_a_name_counts() {
        let text = b"# comment\nroot:x:0:0::/root:/bin/sh\nx:y\nroot:x:7:7::/:/bin/sh\n\xff:x:9:9\nweb:x:33";
        assert_eq!(id_in(text, "root"), Some(0));
        assert_eq!(id_in(text, "web"), Some(33));
        for absent in ["", "x", "roo", "root:x"] {
            assert_eq!(id_in(text, absent), None, "{absent}");
        }
    }
}
