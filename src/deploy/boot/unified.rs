//! Reads the section `.osrel` of a unified kernel image, which names the operating system that it starts.
//!
//! *Not here*: what the names mean for the menu (`forecast`). *Invariants*: a malformed file is an image without names.
//!
//! *Used by* `problems`.

use std::io::{self, Read, Seek, SeekFrom};

/// Bytes at the start of a file in which its headers must be.
const HEADERS_BYTES: usize = 4096;

/// The largest `.osrel` that is read.
const OS_RELEASE_BYTES_MAX: u32 = 64 << 10;

/// The length of a row of the table of sections.
const SECTION_BYTES: usize = 40;

/// Returns the text of the section; `None` if the file is no unified kernel image.
///
/// # Errors
/// Those of reading the file.
pub fn os_release(file: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let mut headers = Vec::new();
    file.by_ref().take(HEADERS_BYTES as u64).read_to_end(&mut headers)?;
    let Some((offset, length)) = find_section(&headers) else { return Ok(None) };
    file.seek(SeekFrom::Start(offset.into()))?;
    let mut text = Vec::new();
    file.by_ref().take(length.min(OS_RELEASE_BYTES_MAX).into()).read_to_end(&mut text)?;
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    Ok(Some(String::from_utf8_lossy(&text[..end]).into_owned()))
}

/// Returns the offset and the length of the section in the file.
fn find_section(headers: &[u8]) -> Option<(u32, u32)> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(headers.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(headers.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let pe = usize::try_from(u32_at(0x3c)?).ok()?;
    let is_pe = headers.starts_with(b"MZ") && headers.get(pe..pe.checked_add(4)?)? == b"PE\0\0";
    let sections = u16_at(pe + 6).filter(|_| is_pe)?;
    let table = pe + 24 + usize::from(u16_at(pe + 20)?);
    let rows = (0..usize::from(sections)).map(|index| table + index * SECTION_BYTES);
    let row = rows.into_iter().find(|row| headers.get(*row..row + 8) == Some(b".osrel\0\0"))?;
    // A section is padded in the file; its size in memory is that of the text.
    Some((u32_at(row + 20)?, u32_at(row + 8)?.min(u32_at(row + 16)?)))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Returns a file with one section of this name.
    fn image(section: &[u8; 8], text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x40;
        bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
        bytes[0x46] = 1;
        let row = 0x40 + 24;
        bytes[row..row + 8].copy_from_slice(section);
        bytes[row + 8..row + 12].copy_from_slice(&(text.len() as u32).to_le_bytes());
        bytes[row + 16..row + 20].copy_from_slice(&512_u32.to_le_bytes());
        bytes[row + 20..row + 24].copy_from_slice(&512_u32.to_le_bytes());
        bytes.extend_from_slice(text);
        bytes.resize(1024, 0);
        bytes
    }

    #[test]
    fn section_is_read_and_damage_is_no_image() {
        let text = b"ID=debian\n";
        let whole = image(b".osrel\0\0", text);
        let read = |bytes: &[u8]| os_release(&mut Cursor::new(bytes)).expect("memory is readable");
        assert_eq!(read(&whole).as_deref(), Some("ID=debian\n"));
        assert_eq!(read(&image(b".linux\0\0", text)), None);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_none_or(|found| "ID=debian\n".starts_with(&found)), "{length} bytes");
        }
        for at in 0..0x80 {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            read(&damaged);
        }
    }
}
