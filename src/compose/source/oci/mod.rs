//! Imports container images: their layers, over each other, into one tree.
//!
//! It reads layouts of the OCI in a directory or an archive (skopeo, podman, buildah, umoci, buildx), and what `docker save` writes.
//! Nothing is unpacked to disk. Every document and every layer is compared with its digest, and a layer's content with the one of
//! before compression: equal images give equal trees whatever their compression.
//!
//! *Not here*: how a layer is laid over others (`tar::layer`); fetching images from registries.
//!
//! *Invariants*: a tree is returned only if all digests were right. Contents that were stored until then stay unreferenced.
//!
//! *Used by* `cli::commit` for `commit --oci`.

mod blobs;
mod digest;
mod manifest;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use self::blobs::Blobs;
use self::digest::{Digest, HashingReader};
use self::manifest::{Config, Descriptor, Index, Manifest, Platform, SavedImage};
use super::ImportProgress;
use super::tar::{TarError, TarOptions, Whiteouts, decompress, read_tar};
use crate::image::Tree;
use crate::store::StoreWriter;

/// Largest document in bytes. Registries refuse manifests of more than 4 MiB.
const DOCUMENT_MAX: u64 = 8 << 20;

/// Most lists that are followed to an image.
const INDEX_DEPTH_MAX: usize = 4;

/// The key of the manifest's digest among the facts of a commit.
const MANIFEST_KEY: &str = "oci.manifest";

/// The key of what a program that runs the image reads, as JSON.
const CONFIG_KEY: &str = "oci.config";

/// The key of the annotations of the manifest, as JSON.
const ANNOTATIONS_KEY: &str = "oci.annotations";

/// Why an image could not be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// A system call failed.
    #[error("cannot read {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It is at a registry.
    #[error(
        "images are not fetched from registries: 'skopeo copy {0} oci:DIR' does that, and then --oci DIR imports it"
    )]
    Registry(String),
    /// An archive of an image has to be read in places.
    #[error("{} is neither a directory nor a file, and the layers of an image are not read in their order", .0.display())]
    NotAFile(PathBuf),
    /// An archive of an image has to be read in places.
    #[error("{} is compressed as a whole; decompress it first (its layers may be compressed)", .0.display())]
    Compressed(PathBuf),
    /// It is no archive.
    #[error("cannot read the archive {}", .path.display())]
    Archive { path: PathBuf, source: Box<TarError> },
    /// It is no image.
    #[error("{} has neither index.json nor manifest.json, so it is no container image", .0.display())]
    NoImage(PathBuf),
    /// A document is larger than any should be.
    #[error("'{name}' has {size} bytes, and {max} are the most that is read")]
    TooLarge { name: String, size: u64, max: u64 },
    /// A blob is not there.
    #[error("{what} {name} is missing")]
    Missing { what: &'static str, name: String },
    /// The bytes are not those that the image names.
    #[error("{what} {expected} is damaged: its digest is {found}")]
    Damaged { what: &'static str, expected: Digest, found: Digest },
    /// A document is not what it should be.
    #[error("the {what} is not understood")]
    Document { what: &'static str, source: serde_json::Error },
    /// There are several images.
    #[error("there are several images: {}; name one: SOURCE:NAME", .0.join(", "))]
    Several(Vec<String>),
    /// There is no image of the name.
    #[error("there is no image '{name}', but {}", .known.join(", "))]
    NoSuchImage { name: String, known: Vec<String> },
    /// There is no image for the machine.
    #[error("there is no image for {wanted}, but for {}; --arch chooses", .known.join(", "))]
    NoSuchArchitecture { wanted: String, known: Vec<String> },
    /// A list of images leads to lists without end.
    #[error("the list of images is nested too deeply")]
    Nested,
    /// The image has another number of layers than its configuration.
    #[error("the image has {layers} layers, and its configuration {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
    /// A layer cannot be read by anybody without a key.
    #[error("layer {0} is encrypted")]
    Encrypted(Digest),
    /// A layer cannot be read.
    #[error("cannot read layer {number} of {count}")]
    Layer { number: usize, count: usize, source: Box<TarError> },
}

/// A container image on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OciSource {
    /// A layout's directory, or an archive.
    path: PathBuf,
    /// The name of the image, if there are several.
    name: Option<String>,
}

impl OciSource {
    /// Reads the text of a source: `DIR`, `FILE`, either with `:NAME`, and in front `oci:`, `oci-archive:` or `docker-archive:`, as
    /// skopeo writes it; the form is seen from the files.
    pub(crate) fn parse(text: &str) -> Self {
        let kinds = ["oci:", "oci-archive:", "docker-archive:"];
        let text = kinds.iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
        let whole = || Self { path: text.into(), name: None };
        if Path::new(text).exists() {
            return whole();
        }
        // Paths and names may have colons.
        let mut splits = text.match_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
        splits
            .find(|(path, name)| !name.is_empty() && Path::new(path).exists())
            .map_or_else(whole, |(path, name)| Self { path: path.into(), name: Some(name.to_owned()) })
    }
}

/// An imported image.
#[derive(Debug)]
pub(crate) struct ImportedImage {
    /// The tree.
    pub(crate) tree: Tree,
    /// The facts about the image for its commit: the digest of its manifest, its configuration, its annotations.
    pub(crate) facts: BTreeMap<String, String>,
}

/// What is known of an image before its layers are read.
struct FoundImage {
    /// The layers' files, the lowest first, with the digest and the size if they are known.
    layers: Vec<(String, Option<(Digest, u64)>)>,
    config: Config,
    facts: BTreeMap<String, String>,
}

/// Imports the image of a source for `architecture`, in the word of Go (`amd64`, `arm64/v8`); that of this machine when `None`.
/// The layers are laid over `options.lower`.
///
/// # Errors
/// [`OciError`].
pub(crate) fn read_oci(
    source: &OciSource,
    architecture: Option<&str>,
    writer: &StoreWriter,
    options: &TarOptions,
    progress: &ImportProgress,
) -> Result<ImportedImage, OciError> {
    if let Some(text) = source.path.to_str().filter(|text| text.starts_with("docker://")) {
        return Err(OciError::Registry(text.to_owned()));
    }
    let blobs = Blobs::open(&source.path)?;
    let image = match blobs.read("index.json", DOCUMENT_MAX)? {
        Some(bytes) => {
            let name = source.name.as_deref();
            let wanted = architecture.unwrap_or_else(|| native_architecture());
            find_image(&blobs, parse("index", &bytes)?, name, wanted)?
        }
        None => match blobs.read("manifest.json", DOCUMENT_MAX)? {
            Some(bytes) => saved_image(&blobs, parse("manifest.json", &bytes)?, source.name.as_deref())?,
            None => return Err(OciError::NoImage(source.path.clone())),
        },
    };
    let FoundImage { layers, config, facts } = image;
    let diff_ids = config.rootfs.diff_ids;
    if layers.len() != diff_ids.len() {
        return Err(OciError::LayerCount { layers: layers.len(), diff_ids: diff_ids.len() });
    }
    let count = layers.len();
    let mut tree = options.lower.clone();
    for (number, ((file, blob), diff_id)) in layers.into_iter().zip(diff_ids).enumerate() {
        let Some((reader, _)) = blobs.file(&file)? else { return Err(OciError::Missing { what: "layer", name: file }) };
        let layer = TarOptions { lower: tree, whiteouts: Whiteouts::Apply, ..options.clone() };
        let mut outer = HashingReader::new(reader);
        let layer_error = |source| OciError::Layer { number: number + 1, count, source: Box::new(source) };
        let mut inner = HashingReader::new(decompress(&mut outer).map_err(|error| layer_error(TarError::Open(error)))?);
        let read = read_tar(&mut inner, writer, layer, progress);
        let io_error = |source| OciError::Io { path: file.clone().into(), source };
        // A damaged layer is called damaged, whatever was made of it.
        let finished = inner.finish();
        if let Some((expected, size)) = blob {
            let (found, length) = outer.finish().map_err(io_error)?;
            if (found, length) != (expected, size) {
                return Err(OciError::Damaged { what: "layer", expected, found });
            }
        }
        tree = Some(read.map_err(layer_error)?);
        let (found, _) = finished.map_err(io_error)?;
        if found != diff_id {
            return Err(OciError::Damaged { what: "the content of layer", expected: diff_id, found });
        }
    }
    let tree = tree.unwrap_or_else(|| Tree::new(super::tar::default_directory(options.owner)));
    Ok(ImportedImage { tree, facts })
}

/// Finds one image in the lists of a layout.
fn find_image(blobs: &Blobs, index: Index, name: Option<&str>, wanted: &str) -> Result<FoundImage, OciError> {
    let mut images: Vec<Descriptor> = index.manifests.into_iter().filter(Descriptor::is_image).collect();
    let known = |images: &[Descriptor]| -> Vec<String> {
        images.iter().map(|image| image.name().map_or_else(|| image.digest.to_string(), str::to_owned)).collect()
    };
    if let Some(name) = name {
        let all = known(&images);
        images.retain(|image| image.name() == Some(name) || image.digest.to_string() == name);
        if images.is_empty() {
            return Err(OciError::NoSuchImage { name: name.to_owned(), known: all });
        }
    }
    // Images for several machines have one name, or none.
    let names = known(&images);
    if images.len() > 1 && images.iter().any(|image| image.platform.is_none()) {
        return Err(OciError::Several(names));
    }
    for _ in 0..INDEX_DEPTH_MAX {
        let descriptor = choose(images, wanted)?;
        let bytes = read_blob(blobs, "manifest", &descriptor)?;
        if descriptor.is_index() {
            let index: Index = parse("index", &bytes)?;
            images = index.manifests.into_iter().filter(Descriptor::is_image).collect();
            continue;
        }
        let manifest: Manifest = parse("manifest", &bytes)?;
        let config: Config = parse("configuration", &read_blob(blobs, "configuration", &manifest.config)?)?;
        let mut facts = facts_of(&config);
        facts.insert(MANIFEST_KEY.to_owned(), descriptor.digest.to_string());
        if let Some(annotations) = manifest.annotations.filter(|annotations| !annotations.is_empty()) {
            facts.insert(ANNOTATIONS_KEY.to_owned(), serde_json::json!(annotations).to_string());
        }
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.media_type.ends_with("+encrypted")) {
            return Err(OciError::Encrypted(layer.digest));
        }
        let layers = manifest.layers.iter().map(|layer| (layer.digest.path(), Some((layer.digest, layer.size))));
        return Ok(FoundImage { layers: layers.collect(), config, facts });
    }
    Err(OciError::Nested)
}

/// Returns the image for a machine. One that says for no machine is for all.
fn choose(images: Vec<Descriptor>, wanted: &str) -> Result<Descriptor, OciError> {
    let known: Vec<String> =
        images.iter().filter_map(|image| image.platform.as_ref()).map(Platform::to_string).collect();
    let fits = |image: &Descriptor| {
        image.platform.as_ref().is_none_or(|platform| {
            platform.os == "linux" && (platform.to_string() == wanted || platform.architecture == wanted)
        })
    };
    images.into_iter().find(fits).ok_or_else(|| OciError::NoSuchArchitecture { wanted: wanted.to_owned(), known })
}

/// Finds one image in what `docker save` wrote.
fn saved_image(blobs: &Blobs, mut images: Vec<SavedImage>, name: Option<&str>) -> Result<FoundImage, OciError> {
    let tags = |image: &SavedImage| image.repo_tags.clone().unwrap_or_default();
    let known: Vec<String> = images.iter().flat_map(tags).collect();
    if let Some(name) = name {
        images.retain(|image| tags(image).iter().any(|tag| tag == name));
    }
    let image = match (images.pop(), images.len()) {
        (Some(image), 0) => image,
        (Some(_), _) => return Err(OciError::Several(known)),
        (None, _) => return Err(OciError::NoSuchImage { name: name.unwrap_or_default().to_owned(), known }),
    };
    let missing = || OciError::Missing { what: "configuration", name: image.config.clone() };
    let bytes = blobs.read(&image.config, DOCUMENT_MAX)?.ok_or_else(missing)?;
    let config: Config = parse("configuration", &bytes)?;
    let facts = facts_of(&config);
    Ok(FoundImage { layers: image.layers.into_iter().map(|file| (file, None)).collect(), config, facts })
}

fn facts_of(config: &Config) -> BTreeMap<String, String> {
    let platform = config.variant.as_ref().map(|variant| format!("{}/{variant}", config.architecture));
    let mut facts = BTreeMap::new();
    facts.insert("oci.architecture".to_owned(), platform.unwrap_or_else(|| config.architecture.clone()));
    if let Some(config) = config.config.as_ref().filter(|config| !config.is_null()) {
        facts.insert(CONFIG_KEY.to_owned(), config.to_string());
    }
    facts
}

/// Reads a document, and compares it with its digest.
fn read_blob(blobs: &Blobs, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
    let expected = descriptor.digest;
    let missing = || OciError::Missing { what, name: expected.to_string() };
    let bytes = blobs.read(&expected.path(), DOCUMENT_MAX)?.ok_or_else(missing)?;
    let found = Digest::of(&bytes);
    if found == expected { Ok(bytes) } else { Err(OciError::Damaged { what, expected, found }) }
}

fn parse<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Document { what, source })
}

/// Returns the word of Go for the architecture of this program.
fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
