//! Writes frames to packs and uploads each pack while the next one is being filled.
//!
//! *Used by* `apply` and by `prune::regroup`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::error::PublishError;
use super::frames::{FrameContents, FrameCutter, PackSection};
use super::locations::ObjectLocations;
use super::options::PublishOptions;
use super::progress::PublishProgress;
use super::upload::put_immutable_file;
use crate::disk::TemporaryFile;
use crate::model::PackId;
use crate::remote::format::{PackFrame, PackRef, PackWriter, compress_frames};
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::ObjectSource;

/// Packs the objects of `sections` in their order and uploads the packs that are not published yet. Waiting packs are
/// in the directory `scratch`. `progress` counts bytes of content.
pub(in crate::remote) fn pack_and_upload(
    source: &dyn ObjectSource,
    scratch: &Path,
    transport: &Transport,
    sections: &[PackSection<'_>],
    options: &PublishOptions,
    progress: &PublishProgress,
) -> Result<ObjectLocations, PublishError> {
    if sections.iter().all(|section| section.objects.is_empty()) {
        return Ok(ObjectLocations::default());
    }
    let mut cutter = FrameCutter::new(source, sections, options.frames);
    thread::scope(|scope| {
        // At most one pack waits while another is sent, so disk and memory stay bounded.
        let (sender, receiver) = sync_channel::<(File, PackRef)>(1);
        let uploader = scope.spawn(move || upload_all(transport, &receiver, progress));
        let mut builder = PackBuilder::new(scratch.to_owned());
        let packed = compress_frames(
            options.threads,
            || cutter.next(),
            |contents, raw, frame| {
                let full = builder.close_if(|pack| !pack.has_room(frame.len(), options.pack_size));
                builder.add(contents, raw.len(), &frame)?;
                progress.add(raw.len() as u64);
                let Some(pack) = full else { return Ok(()) };
                // The upload thread has ended only after an error, which is reported below.
                sender.send(pack).map_err(|_| PublishError::Pack(std::io::Error::other("the upload has stopped")))
            },
        );
        if packed.is_ok()
            && let Some(pack) = builder.close_if(|_| true)
        {
            let _ = sender.send(pack);
        }
        drop(sender);
        uploader.join().expect("the upload thread does not panic")?;
        packed?;
        Ok(builder.locations)
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

/// The pack that is being filled, and the positions of all packed objects.
struct PackBuilder {
    directory: PathBuf,
    current: Option<PackWriter<File>>,
    locations: ObjectLocations,
}

impl PackBuilder {
    fn new(directory: PathBuf) -> Self {
        Self { directory, current: None, locations: ObjectLocations::default() }
    }

    fn add(&mut self, contents: FrameContents, raw_length: usize, frame: &[u8]) -> Result<(), PublishError> {
        let pack = match &mut self.current {
            Some(pack) => pack,
            None => self.current.insert(PackWriter::new(create_unnamed_file(&self.directory)?)?),
        };
        let offset = pack.add(frame)?;
        let narrow = |length: u64| u32::try_from(length).map_err(|_| std::io::Error::other("a pack of 4 GiB"));
        let number = u32::try_from(self.locations.frames.len()).expect("fewer frames than objects and blocks");
        self.locations.frames.push(PackFrame {
            pack: u32::try_from(self.locations.packs.len()).expect("fewer packs than frames"),
            offset: narrow(offset)?,
            length: narrow(frame.len() as u64)?,
            raw_length: narrow(raw_length as u64)?,
        });
        match contents {
            FrameContents::Whole(objects) => {
                self.locations.objects.extend(objects.into_iter().map(|(id, offset)| (id, (number, offset))));
            }
            FrameContents::Block(id, 0) => {
                self.locations.objects.insert(id, (number, 0));
            }
            FrameContents::Block(..) => {}
        }
        Ok(())
    }

    /// Finishes the current pack and returns it if `ends` returns true for it.
    fn close_if(&mut self, ends: impl Fn(&PackWriter<File>) -> bool) -> Option<(File, PackRef)> {
        let pack = self.current.take_if(|pack| ends(pack))?;
        let (file, id, length): (File, PackId, u64) = pack.finish();
        let pack = PackRef { id, length };
        self.locations.packs.push(pack);
        Some((file, pack))
    }
}

/// Creates a file without a name, so that it disappears when this process dies.
fn create_unnamed_file(directory: &Path) -> std::io::Result<File> {
    TemporaryFile::create(directory)?.file().try_clone()
}
