//! Frames into packs, packs to the destination, while the next one is being filled.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::error::PublishError;
use super::frames::{FrameContents, FrameCutter, Section};
use super::options::PublishOptions;
use super::places::Places;
use super::progress::PublishProgress;
use super::upload::put_immutable_file;
use crate::disk::TemporaryFile;
use crate::model::PackId;
use crate::remote::format::{Frame, PackRef, PackWriter, compress_frames};
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::ObjectSource;

/// Packs the objects of `sections` in their order and uploads the packs that are not there. Packs that wait are in the directory
/// `scratch`. `progress` counts bytes of content.
pub(in crate::remote) fn pack_and_upload(
    source: &dyn ObjectSource,
    scratch: &Path,
    transport: &Transport,
    sections: &[Section<'_>],
    options: &PublishOptions,
    progress: &PublishProgress,
) -> Result<Places, PublishError> {
    if sections.iter().all(|section| section.objects.is_empty()) {
        return Ok(Places::default());
    }
    let mut cutter = FrameCutter::new(source, sections, options.frames);
    thread::scope(|scope| {
        // One pack waits while another is sent: disk and memory stay bounded.
        let (sender, receiver) = sync_channel::<(File, PackRef)>(1);
        let uploader = scope.spawn(move || upload_all(transport, &receiver, progress));
        let mut filling = Filling::new(scratch.to_owned());
        let packed = compress_frames(
            options.threads,
            || cutter.next(),
            |contents, raw, frame| {
                let full = filling.close_if(|pack| !pack.has_room(frame.len(), options.pack_size));
                filling.add(contents, raw.len(), &frame)?;
                progress.add(raw.len() as u64);
                let Some(pack) = full else { return Ok(()) };
                // The uploader is gone only after an error, which is reported below.
                sender.send(pack).map_err(|_| PublishError::Pack(std::io::Error::other("the upload has stopped")))
            },
        );
        if packed.is_ok()
            && let Some(pack) = filling.close_if(|_| true)
        {
            let _ = sender.send(pack);
        }
        drop(sender);
        uploader.join().expect("uploading does not panic")?;
        packed?;
        Ok(filling.done)
    })
}

fn upload_all(
    transport: &Transport,
    packs: &Receiver<(File, PackRef)>,
    progress: &PublishProgress,
) -> Result<(), PublishError> {
    for (file, pack) in packs {
        put_immutable_file(transport, &layout::pack(pack.id), &file, pack.length, progress)?;
    }
    Ok(())
}

/// The pack that is being filled.
struct Filling {
    directory: PathBuf,
    current: Option<PackWriter<File>>,
    done: Places,
}

impl Filling {
    fn new(directory: PathBuf) -> Self {
        Self { directory, current: None, done: Places::default() }
    }

    fn add(&mut self, contents: FrameContents, raw_length: usize, frame: &[u8]) -> Result<(), PublishError> {
        let pack = match &mut self.current {
            Some(pack) => pack,
            None => self.current.insert(PackWriter::new(unnamed(&self.directory)?)?),
        };
        let offset = pack.add(frame)?;
        let narrow = |length: u64| u32::try_from(length).map_err(|_| std::io::Error::other("a pack of 4 GiB"));
        let number = u32::try_from(self.done.frames.len()).expect("fewer frames than objects and blocks");
        self.done.frames.push(Frame {
            pack: u32::try_from(self.done.packs.len()).expect("fewer packs than frames"),
            offset: narrow(offset)?,
            length: narrow(frame.len() as u64)?,
            raw_length: narrow(raw_length as u64)?,
        });
        match contents {
            FrameContents::Whole(objects) => {
                self.done.objects.extend(objects.into_iter().map(|(id, offset)| (id, (number, offset))));
            }
            FrameContents::Block(id, 0) => {
                self.done.objects.insert(id, (number, 0));
            }
            FrameContents::Block(..) => {}
        }
        Ok(())
    }

    /// Closes the pack if it is one that `ends`.
    fn close_if(&mut self, ends: impl Fn(&PackWriter<File>) -> bool) -> Option<(File, PackRef)> {
        let pack = self.current.take_if(|pack| ends(pack))?;
        let (file, id, length): (File, PackId, u64) = pack.finish();
        let pack = PackRef { id, length };
        self.done.packs.push(pack);
        Some((file, pack))
    }
}

/// A file without a name, so that nothing of it stays when this process dies.
fn unnamed(directory: &Path) -> std::io::Result<File> {
    TemporaryFile::create(directory)?.file().try_clone()
}
