//! Installs boot loaders onto a boot partition and a disk, as their own installers do.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::common::sandbox::run;
use crate::system::Loader;

/// Modules that GRUB needs to find its configuration; it loads the others itself.
const GRUB_MODULES: [&str; 4] = ["part_gpt", "fat", "normal", "configfile"];

/// Sector of GRUB's core image on a disk that a BIOS starts: between the partition table and the first partition.
const CORE_SECTOR: u64 = 64;

/// Installs a loader onto a boot partition.
pub fn add(loader: Loader, boot: &Path) {
    match loader {
        Loader::SystemdBoot => add_systemd_boot(boot),
        Loader::GrubEfi => {
            let modules = add_grub(boot, "x86_64-efi");
            let image = boot.join("EFI/BOOT/BOOTX64.EFI");
            fs::create_dir_all(boot.join("EFI/BOOT")).expect("writable");
            make_grub(&modules, "x86_64-efi", "/grub", &[], &image);
        }
        Loader::GrubBios => {
            let modules = add_grub(boot, "i386-pc");
            make_grub(&modules, "i386-pc", "(hd0,gpt1)/grub", &["biosdisk"], &boot.join("grub/core.img"));
        }
    }
}

/// Installs systemd-boot as `bootctl install` does.
fn add_systemd_boot(boot: &Path) {
    let loader = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
    for (directory, name) in [("EFI/BOOT", "BOOTX64.EFI"), ("EFI/systemd", "systemd-bootx64.efi")] {
        fs::create_dir_all(boot.join(directory)).expect("writable");
        fs::copy(loader, boot.join(directory).join(name)).expect("tests/boot/tools installs systemd-boot-efi");
    }
    fs::create_dir_all(boot.join("loader/entries")).expect("writable");
    fs::write(boot.join("loader/loader.conf"), "timeout 0\n").expect("writable");
}

/// Copies GRUB's modules, and sets its terminal to the serial console and its timeout to 0. Returns the modules' directory.
fn add_grub(boot: &Path, platform: &str) -> std::path::PathBuf {
    let to = boot.join("grub").join(platform);
    fs::create_dir_all(&to).expect("writable");
    for entry in fs::read_dir(Path::new("/usr/lib/grub").join(platform)).expect("tests/boot/tools installs GRUB") {
        let path = entry.expect("listed").path();
        if path.extension().is_some_and(|kind| kind == "mod" || kind == "lst" || kind == "img") {
            fs::copy(&path, to.join(path.file_name().expect("a file"))).expect("there is room");
        }
    }
    fs::write(boot.join("grub/custom.cfg"), "serial\nterminal_output serial\nset timeout=0\n").expect("writable");
    to
}

fn make_grub(modules: &Path, platform: &str, prefix: &str, more: &[&str], image: &Path) {
    let (modules, image) = (modules.display().to_string(), image.display().to_string());
    let words = ["-d", &modules, "-O", platform, "-p", prefix, "-o", &image];
    run("grub-mkimage", words.iter().chain(&GRUB_MODULES).chain(more)).success();
}

/// Makes the disk bootable by a BIOS with the GRUB on its boot partition. Writes what `grub-bios-setup` writes, which works
/// only on disks that the kernel knows. The boot sector holds the position of GRUB's first sector at 0x5c; the end of that
/// sector lists the positions of the others, and the first entry of the list begins at 0x1f4.
pub fn embed(disk: &Path) {
    let name = disk.display().to_string();
    let place = tempfile::tempdir().expect("a temporary directory");
    let (core, boot) = (place.path().join("core.img"), place.path().join("boot.img"));
    for (from, to) in [("::/grub/core.img", &core), ("::/grub/i386-pc/boot.img", &boot)] {
        run("mcopy", ["-i", &format!("{name}@@1M"), from, &to.display().to_string()]).success();
    }
    let (mut core, mut boot) = (fs::read(core).expect("copied"), fs::read(boot).expect("copied"));
    assert!(core.len() as u64 + CORE_SECTOR * 512 < 1 << 20, "the first partition is in the way");
    boot[0x5c..0x64].copy_from_slice(&CORE_SECTOR.to_le_bytes());
    core[0x1f4..0x1fc].copy_from_slice(&(CORE_SECTOR + 1).to_le_bytes());
    let disk = fs::File::options().write(true).open(disk).expect("owned by the test");
    disk.write_all_at(&boot[..440], 0).expect("there is room");
    disk.write_all_at(&core, CORE_SECTOR * 512).expect("there is room");
}
