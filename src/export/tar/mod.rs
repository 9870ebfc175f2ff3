//! An image as a tar archive in the PAX format, which GNU tar unpacks exactly with
//! `--xattrs --xattrs-include='*' --acls --numeric-owner`.
//!
//! Entries come in the order of the tree, each directory before what is in it, and nothing depends on the time, the
//! machine or the process, so one image always gives one archive. Sockets, which tar has no type for, are left out and
//! counted.

mod header;
mod map;

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};

use self::header::{BLOCK, EntryType, Header};
use self::map::Map;
use super::report::{Loss, Progress, Report, words};
use crate::image::{Attributes, Image, ImageError, Ino};
use crate::model::{FileKind, ObjectId};
use crate::store::{ObjectSource, ReadError};

/// Bytes of content read and written at a time, and gathered of headers.
const BUFFER: usize = 256 << 10;

/// Why an archive was not written, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ExportTarError {
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
    /// The content cannot be read.
    #[error("cannot read the content of '{path}'")]
    Content {
        /// The path of the image.
        path: String,
        /// Why not.
        source: ReadError,
    },
    /// The object is shorter than the image says.
    #[error("the object of '{path}' has fewer bytes than the file")]
    ShortObject {
        /// The path of the image.
        path: String,
    },
    /// The image is damaged.
    #[error("the image is damaged at '{path}'")]
    Image {
        /// The path of the image.
        path: String,
        /// What is wrong.
        source: ImageError,
    },
}

/// Writes the tree from `root` on to `out`; paths in the archive begin with `./`, which is `root` itself. A `root` that is not a directory is
/// the only entry, under its own name.
///
/// # Errors
/// [`ExportTarError`]; what was written until then lacks the end mark, by which every reader sees that it is cut short.
pub fn export_tar(
    image: &Image,
    root: Ino,
    objects: &dyn ObjectSource,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<Report, ExportTarError> {
    let mut export = Export {
        image,
        objects,
        out: BufWriter::with_capacity(BUFFER, out),
        progress,
        report: Report::default(),
        path: b".".to_vec(),
        links: HashMap::new(),
        buffer: vec![0; BUFFER],
    };
    export.walk(root)?;
    // The end mark.
    export.out.write_all(&[0; 2 * BLOCK])?;
    export.out.flush()?;
    Ok(export.report)
}

struct Export<'a> {
    image: &'a Image,
    objects: &'a dyn ObjectSource,
    out: BufWriter<&'a mut dyn Write>,
    progress: &'a Progress,
    report: Report,
    /// Of the entry at hand, beginning with `.`; directories without the slash at the end.
    path: Vec<u8>,
    /// First names of what has several.
    links: HashMap<Ino, Box<[u8]>>,
    buffer: Vec<u8>,
}

impl Export<'_> {
    fn walk(&mut self, root: Ino) -> Result<(), ExportTarError> {
        let image = self.image;
        if image.kind(root).map_err(|source| self.damaged(source))? != FileKind::Directory {
            let path = image.path(root).map_err(|source| self.damaged(source))?;
            self.path.push(b'/');
            self.path.extend_from_slice(path.name().map_or(b"", |name| name.as_bytes()));
            return self.entry(root);
        }
        self.entry(root)?;
        // Directories on the way down: where each goes on, and how long its path is.
        let mut stack = vec![(root, 0_u32, self.path.len())];
        'directories: while let Some((directory, next, length)) = stack.last_mut() {
            self.path.truncate(*length);
            let children = image.children(*directory, *next).map_err(|source| self.damaged(source))?;
            for child in children {
                let child = child.map_err(|source| self.damaged(source))?;
                self.path.truncate(*length);
                self.path.push(b'/');
                self.path.extend_from_slice(child.name);
                self.entry(child.ino)?;
                if child.kind == FileKind::Directory {
                    *next = child.index + 1;
                    stack.push((child.ino, 0, self.path.len()));
                    continue 'directories;
                }
            }
            stack.pop();
        }
        Ok(())
    }

    fn entry(&mut self, ino: Ino) -> Result<(), ExportTarError> {
        let attributes = self.image.attributes(ino).map_err(|source| self.damaged(source))?;
        let is_directory = attributes.kind == FileKind::Directory;
        self.progress.entry();
        if attributes.kind == FileKind::Socket {
            let path = &self.path;
            self.report.lose(Loss::Socket, || format!("'{}' is a socket, which tar cannot hold", words(path)));
            return Ok(());
        }
        self.report.entries += 1;
        if attributes.nlink > 1 && !is_directory {
            if let Some(first) = self.links.get(&ino) {
                let mut header = Header::new(EntryType::HardLink, &self.path);
                header.link(first);
                header.metadata(&attributes);
                return Ok(header.write(&mut self.out)?);
            }
            self.links.insert(ino, self.path.as_slice().into());
        }
        match attributes.kind {
            FileKind::Regular => self.file(&attributes),
            _ => {
                let mut header = self.header(&attributes)?;
                self.describe(&mut header, &attributes)?;
                Ok(header.write(&mut self.out)?)
            }
        }
    }

    /// The header of anything but a regular file.
    fn header(&self, attributes: &Attributes) -> Result<Header, ExportTarError> {
        let kind = match attributes.kind {
            FileKind::Directory => return Ok(Header::new(EntryType::Directory, &[&self.path, &b"/"[..]].concat())),
            FileKind::Symlink => {
                let mut header = Header::new(EntryType::Symlink, &self.path);
                header.link(self.image.symlink(attributes.ino).map_err(|source| self.damaged(source))?);
                return Ok(header);
            }
            FileKind::CharDevice => EntryType::CharDevice,
            FileKind::BlockDevice => EntryType::BlockDevice,
            FileKind::Fifo => EntryType::Fifo,
            FileKind::Regular | FileKind::Socket => EntryType::Regular,
        };
        let mut header = Header::new(kind, &self.path);
        if let Some(device) = attributes.device {
            header.device(device);
        }
        Ok(header)
    }

    fn describe(&self, header: &mut Header, attributes: &Attributes) -> Result<(), ExportTarError> {
        header.metadata(attributes);
        header.xattrs(&self.image.xattrs(attributes.ino).map_err(|source| self.damaged(source))?);
        Ok(())
    }

    fn file(&mut self, attributes: &Attributes) -> Result<(), ExportTarError> {
        let size = attributes.size;
        let object = self.image.object(attributes.ino).map_err(|source| self.damaged(source))?;
        let (mut header, map) = match self.image.extents(attributes.ino).map_err(|source| self.damaged(source))? {
            Some(extents) => (Header::sparse(&self.path, size), Map::sparse(size, &extents)),
            None => (Header::new(EntryType::Regular, &self.path), Map::dense(size)),
        };
        self.describe(&mut header, attributes)?;
        let text = map.text().unwrap_or_default();
        let data = map.data_length();
        header.size(text.len() as u64 + data);
        header.write(&mut self.out)?;
        self.out.write_all(&text)?;
        if let Some(object) = object {
            for run in map.runs() {
                self.copy(object, run.offset, run.length)?;
            }
        }
        self.report.content_bytes += data;
        Ok(header::pad(&mut self.out, data)?)
    }

    fn copy(&mut self, object: ObjectId, offset: u64, length: u64) -> Result<(), ExportTarError> {
        let mut position = offset;
        let end = offset + length;
        while position < end {
            let room = usize::try_from(end - position).map_or(BUFFER, |room| room.min(BUFFER));
            let count = self
                .objects
                .read_at(object, position, &mut self.buffer[..room])
                .map_err(|source| ExportTarError::Content { path: words(&self.path), source })?;
            if count == 0 {
                return Err(ExportTarError::ShortObject { path: words(&self.path) });
            }
            self.out.write_all(&self.buffer[..count])?;
            self.progress.written(count as u64);
            position += count as u64;
        }
        Ok(())
    }

    fn damaged(&self, source: ImageError) -> ExportTarError {
        ExportTarError::Image { path: words(&self.path), source }
    }
}
