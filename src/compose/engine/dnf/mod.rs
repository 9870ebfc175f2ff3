//! dnf: Fedora and its relatives.

use std::path::Path;

use super::{Bound, Engine, EngineError, Ownership, Resolution, Surroundings};
use crate::compose::packages::Package;
use crate::compose::treefile::Treefile;

/// dnf with rpm.
pub struct Dnf<'a> {
    #[allow(dead_code)]
    surroundings: Surroundings<'a>,
}

impl<'a> Dnf<'a> {
    /// x
    pub fn new(surroundings: Surroundings<'a>) -> Result<Self, EngineError> {
        Ok(Self { surroundings })
    }
}
impl Engine for Dnf<'_> {
    fn resolve(&self, _: &Treefile, _: Option<&Bound>) -> Result<Resolution, EngineError> { unreachable!() }
    fn fetch(&self, _: &Treefile, _: &Resolution) -> Result<i64, EngineError> { unreachable!() }
    fn install(&self, _: &Treefile, _: &Resolution, _: &Path, _: i64) -> Result<(), EngineError> { unreachable!() }
    fn installed(&self, _: &Path) -> Result<Vec<Package>, EngineError> { unreachable!() }
    fn ownership(&self, _: &Path) -> Result<Ownership, EngineError> { unreachable!() }
}
