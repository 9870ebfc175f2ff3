//! Disks made without mounting anything: a GPT with a boot partition (FAT) and a root (ext4).

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::sandbox::run;
use crate::machine::SHELL_UNIT;
use crate::system::sparse;

/// Adds the unit that starts the test's shell to the `/etc` of a deployment.
pub fn add_shell(etc: &Path) {
    let units = etc.join("systemd/system");
    fs::create_dir_all(units.join("multi-user.target.wants")).expect("writable");
    fs::write(units.join("test-shell.service"), SHELL_UNIT).expect("writable");
    let wanted = units.join("multi-user.target.wants/test-shell.service");
    symlink("../test-shell.service", wanted).expect("writable");
}

/// Masks a unit of a deployment.
pub fn mask(etc: &Path, unit: &str) {
    symlink("/dev/null", etc.join("systemd/system").join(unit)).expect("writable");
}

/// Makes the disk. The numbers are the offset of the first partition and the sizes of both, in bytes.
pub fn make(disk: &Path, boot: &Path, root: &Path, (first, boot_size, root_size): (u64, u64, u64)) {
    let second = first + boot_size;
    sparse(disk, second + root_size + (1 << 20));
    let (name, sector) = (disk.display().to_string(), |bytes: u64| bytes / 512);
    let range = |number, from: u64, size: u64| format!("-n{number}:{}:{}", sector(from), sector(from + size) - 1);
    let (one, two) = (range(1, first, boot_size), range(2, second, root_size));
    run("sgdisk", ["-o", &one, "-t1:ef00", &two, "-t2:8304", &name]).success();
    let (offset, blocks) = (sector(first).to_string(), (boot_size / 1024).to_string());
    run("mkfs.vfat", ["-F32", "-n", "BOOT", "--offset", &offset, &name, &blocks]).success();
    let image = format!("{name}@@{first}");
    for entry in fs::read_dir(boot).expect("listable") {
        let path = entry.expect("listed").path();
        run("mcopy", ["-s", "-i", &image, &path.display().to_string(), "::/"]).success();
    }
    let (offset, size) = (format!("offset={second}"), format!("{}k", root_size / 1024));
    let root = root.display().to_string();
    run("mke2fs", ["-q", "-t", "ext4", "-L", "root", "-d", &root, "-E", &offset, &name, &size]).success();
}

/// Returns the first byte of a partition and its length in bytes.
fn partition(disk: &Path, number: usize) -> (u64, u64) {
    let table = run("sfdisk", ["-J", &disk.display().to_string()]).success();
    let table: serde_json::Value = serde_json::from_str(&table).expect("JSON");
    let found = &table["partitiontable"]["partitions"][number];
    let bytes = |key: &str| found[key].as_u64().expect("a number") * 512;
    (bytes("start"), bytes("size"))
}

/// Copies the files of the boot partition to a new directory.
pub fn copy_boot(disk: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    let image = format!("{}@@{}", disk.display(), partition(disk, 0).0);
    run("mcopy", ["-s", "-n", "-i", &image, "::/*", &to.display().to_string()]).success();
}

/// A loop device with the root partition of a disk.
pub struct Loop(PathBuf);

impl Loop {
    /// Attaches the root partition of `image`.
    pub fn new(image: &Path) -> Self {
        // By offset and size, so that the kernel need not read the partition table.
        let (offset, size) = partition(image, 1);
        let (offset, size) = (offset.to_string(), size.to_string());
        let image = image.display().to_string();
        let device = run("losetup", ["-f", "--show", "-o", &offset, "--sizelimit", &size, &image]).success();
        Self(device.into())
    }

    /// Returns the path of the device.
    pub fn device(&self) -> &Path {
        &self.0
    }

    /// Returns the device numbers, as `MAJOR MINOR`.
    pub fn numbers(&self) -> String {
        let metadata = fs::metadata(&self.0).expect("a device");
        assert!(metadata.file_type().is_block_device());
        let number = metadata.rdev();
        format!("{} {}", rustix::fs::major(number), rustix::fs::minor(number))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel detaches it when its last mount ends.
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}
