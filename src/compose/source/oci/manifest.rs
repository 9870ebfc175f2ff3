//! The documents of a container image: indexes, manifests, configurations. Those of docker have the same fields.
//!
//! Source: the image specification of the OCI, version 1.1; `manifest.json` is described by docker's `image/spec`.
//!
//! *Used by* the other files of this folder.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::digest::Digest;

/// The annotation of an index with the name of an image.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A reference to a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// Returns whether it is one of an index.
    pub(super) fn is_index(&self) -> bool {
        self.media_type.contains("image.index") || self.media_type.contains("manifest.list")
    }

    /// Returns whether it may be one of an image or of a list of images: what is attested about an image is listed beside it.
    pub(super) fn is_image(&self) -> bool {
        let is_attestation = self.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        !is_attestation && (self.media_type.is_empty() || self.media_type.contains("manifest") || self.is_index())
    }

    /// Returns the name of the image.
    pub(super) fn name(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }
}

/// The machine that an image is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// A list of images.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// The configuration of an image.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
    /// What a program that runs the image reads.
    #[serde(default)]
    pub(super) config: Option<serde_json::Value>,
    pub(super) rootfs: RootFs,
}

/// The layers of an image before compression.
#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: Vec<Digest>,
}

/// An image in the archive that `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedImage {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}
