//! Writes an image as a tar archive in the PAX format, which GNU tar unpacks without loss with
//! `--xattrs --xattrs-include='*' --acls --numeric-owner`.
//!
//! *Invariants*: entries are in the order of the tree, each directory before its entries, and nothing depends on the
//! time, the machine or the process, so the same image always gives the same archive. Sockets are left out and counted,
//! because tar has no type for them.
//!
//! *Used by* `cli::export`.

mod header;
mod map;

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};

use self::header::{BLOCK, EntryHeader, EntryType};
use self::map::DataMap;
use super::error::EntryError;
use super::report::{ExportProgress, ExportReport, Loss, display_path};
use crate::image::{Attributes, Image, ImageError, Ino};
use crate::model::{FileKind, ObjectId};
use crate::store::ObjectSource;

/// Size in bytes of the buffer for contents and of the one before `out`.
const BUFFER_SIZE: usize = 256 << 10;

/// Why an archive was not written, or only in part.
#[derive(Debug, thiserror::Error)]
pub enum ExportTarError {
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
    /// An entry of the commit cannot be read.
    #[error("{0}")]
    Entry(#[from] EntryError),
}

/// Writes the tree below `root` to `out`. Paths in the archive begin with `./`, which is `root` itself. A `root` that is
/// not a directory is the only entry, under its own name.
///
/// # Errors
/// [`ExportTarError`]. The part written until then has no end mark, so readers recognise the archive as truncated.
pub fn export_tar(
    image: &Image,
    root: Ino,
    objects: &dyn ObjectSource,
    out: &mut dyn Write,
    progress: &ExportProgress,
) -> Result<ExportReport, ExportTarError> {
    let mut export = TarWriter {
        image,
        objects,
        out: BufWriter::with_capacity(BUFFER_SIZE, out),
        progress,
        report: ExportReport::default(),
        path: b".".to_vec(),
        links: HashMap::new(),
        buffer: vec![0; BUFFER_SIZE],
    };
    export.write_tree(root)?;
    // The end mark.
    export.out.write_all(&[0; 2 * BLOCK])?;
    export.out.flush()?;
    Ok(export.report)
}

struct TarWriter<'a> {
    image: &'a Image,
    objects: &'a dyn ObjectSource,
    out: BufWriter<&'a mut dyn Write>,
    progress: &'a ExportProgress,
    report: ExportReport,
    /// Path of the current entry, beginning with `.`; directories have no slash at the end.
    path: Vec<u8>,
    /// Path of the first name of each entry with several names.
    links: HashMap<Ino, Box<[u8]>>,
    buffer: Vec<u8>,
}

impl TarWriter<'_> {
    fn write_tree(&mut self, root: Ino) -> Result<(), ExportTarError> {
        let image = self.image;
        if image.kind(root).map_err(|source| self.image_error(source))? != FileKind::Directory {
            let path = image.path(root).map_err(|source| self.image_error(source))?;
            self.path.push(b'/');
            self.path.extend_from_slice(path.name().map_or(b"", |name| name.as_bytes()));
            return self.write_entry(root);
        }
        self.write_entry(root)?;
        // The directories down to the current one: each with the index of its next child and the length of its path.
        let mut stack = vec![(root, 0_u32, self.path.len())];
        'directories: while let Some((directory, next, length)) = stack.last_mut() {
            self.path.truncate(*length);
            let children = image.children(*directory, *next).map_err(|source| self.image_error(source))?;
            for child in children {
                let child = child.map_err(|source| self.image_error(source))?;
                self.path.truncate(*length);
                self.path.push(b'/');
                self.path.extend_from_slice(child.name);
                self.write_entry(child.ino)?;
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

    fn write_entry(&mut self, ino: Ino) -> Result<(), ExportTarError> {
        let attributes = self.image.attributes(ino).map_err(|source| self.image_error(source))?;
        let is_directory = attributes.kind == FileKind::Directory;
        self.progress.add_entry();
        if attributes.kind == FileKind::Socket {
            let path = &self.path;
            self.report
                .record_loss(Loss::Socket, || format!("'{}' is a socket, which tar cannot hold", display_path(path)));
            return Ok(());
        }
        self.report.entries += 1;
        if attributes.nlink > 1 && !is_directory {
            if let Some(first) = self.links.get(&ino) {
                let mut header = EntryHeader::new(EntryType::HardLink, &self.path);
                header.set_link(first);
                header.set_metadata(&attributes);
                return Ok(header.write(&mut self.out)?);
            }
            self.links.insert(ino, self.path.as_slice().into());
        }
        match attributes.kind {
            FileKind::Regular => self.write_file(&attributes),
            _ => {
                let mut header = self.build_header(&attributes)?;
                self.add_metadata(&mut header, &attributes)?;
                Ok(header.write(&mut self.out)?)
            }
        }
    }

    /// Returns the header of an entry that is not a regular file.
    fn build_header(&self, attributes: &Attributes) -> Result<EntryHeader, ExportTarError> {
        let kind = match attributes.kind {
            FileKind::Directory => {
                return Ok(EntryHeader::new(EntryType::Directory, &[&self.path, &b"/"[..]].concat()));
            }
            FileKind::Symlink => {
                let mut header = EntryHeader::new(EntryType::Symlink, &self.path);
                header.set_link(self.image.symlink(attributes.ino).map_err(|source| self.image_error(source))?);
                return Ok(header);
            }
            FileKind::CharDevice => EntryType::CharDevice,
            FileKind::BlockDevice => EntryType::BlockDevice,
            FileKind::Fifo => EntryType::Fifo,
            FileKind::Regular | FileKind::Socket => EntryType::Regular,
        };
        let mut header = EntryHeader::new(kind, &self.path);
        if let Some(device) = attributes.device {
            header.set_device(device);
        }
        Ok(header)
    }

    fn add_metadata(&self, header: &mut EntryHeader, attributes: &Attributes) -> Result<(), ExportTarError> {
        header.set_metadata(attributes);
        header.set_xattrs(&self.image.xattrs(attributes.ino).map_err(|source| self.image_error(source))?);
        Ok(())
    }

    fn write_file(&mut self, attributes: &Attributes) -> Result<(), ExportTarError> {
        let size = attributes.size;
        let object = self.image.object(attributes.ino).map_err(|source| self.image_error(source))?;
        let (mut header, map) = match self.image.extents(attributes.ino).map_err(|source| self.image_error(source))? {
            Some(extents) => (EntryHeader::sparse(&self.path, size), DataMap::sparse(size, &extents)),
            None => (EntryHeader::new(EntryType::Regular, &self.path), DataMap::dense(size)),
        };
        self.add_metadata(&mut header, attributes)?;
        let text = map.render().unwrap_or_default();
        let data = map.data_length();
        header.set_size(text.len() as u64 + data);
        header.write(&mut self.out)?;
        self.out.write_all(&text)?;
        if let Some(object) = object {
            for run in map.runs() {
                self.copy_content(object, run.offset, run.length)?;
            }
        }
        self.report.content_bytes += data;
        Ok(header::write_padding(&mut self.out, data)?)
    }

    fn copy_content(&mut self, object: ObjectId, offset: u64, length: u64) -> Result<(), ExportTarError> {
        let mut position = offset;
        let end = offset + length;
        while position < end {
            let room = usize::try_from(end - position).map_or(BUFFER_SIZE, |room| room.min(BUFFER_SIZE));
            let count = self
                .objects
                .read_at(object, position, &mut self.buffer[..room])
                .map_err(|source| EntryError::Content { path: display_path(&self.path), source })?;
            if count == 0 {
                return Err(EntryError::ShortObject { path: display_path(&self.path) }.into());
            }
            self.out.write_all(&self.buffer[..count])?;
            self.progress.add_written(count as u64);
            position += count as u64;
        }
        Ok(())
    }

    fn image_error(&self, source: ImageError) -> ExportTarError {
        EntryError::Image { path: display_path(&self.path), source }.into()
    }
}
