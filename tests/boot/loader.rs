//! Boot loaders, put onto a boot partition and a disk as their own installers do.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::common::sandbox::run;
use crate::system::Loader;

/// What GRUB needs to find its configuration; the rest it loads itself.
const MODULES: [&str; 4] = ["part_gpt", "fat", "normal", "configfile"];

/// Where GRUB is kept on a disk that a BIOS starts: between the partition table and the first partition.
const CORE_SECTOR: u64 = 64;

/// Puts a loader onto a boot partition.
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

/// As `bootctl install` does.
fn add_systemd_boot(boot: &Path) {
    let loader = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
    for (directory, name) in [("EFI/BOOT", "BOOTX64.EFI"), ("EFI/systemd", "systemd-bootx64.efi")] {
        fs::create_dir_all(boot.join(directory)).expect("writable");
        fs::copy(loader, boot.join(directory).join(name)).expect("tests/boot/tools installs systemd-boot-efi");
    }
    fs::create_dir_all(boot.join("loader/entries")).expect("writable");
    fs::write(boot.join("loader/loader.conf"), "timeout 0\n").expect("writable");
}

/// Copies GRUB's modules, and has it show its menu on the console of the tests and not wait.
fn add_grub(boot: &Path, platform: &str) -> std::path::PathBuf {
    let to = boot.join("grub").join(platform);
    fs::create_dir_all(&to).expect("writable");
    for entry in fs::read_dir(Path::new("/usr/lib/grub").join(platform)).expect("tests/boot/tools installs GRUB") {
        let path = entry.expect("listed").path();
        if path.extension().is_some_and(|kind| kind == "mod" || kind == "lst" || kind == "img") {
            fs::copy(&path, to.join(path.file_name().expect("a file"))).expect("room");
        }
    }
    fs::write(boot.join("grub/custom.cfg"), "serial\nterminal_output serial\nset timeout=0\n").expect("writable");
    to
}

fn make_grub(modules: &Path, platform: &str, prefix: &str, more: &[&str], image: &Path) {
    let (modules, image) = (modules.display().to_string(), image.display().to_string());
    let words = ["-d", &modules, "-O", platform, "-p", prefix, "-o", &image];
    run("grub-mkimage", words.iter().chain(&MODULES).chain(more)).success();
}

/// Has a BIOS start the GRUB that lies on the boot partition of this disk: what `grub-bios-setup` writes, which can only do so
/// on a disk that the kernel knows. In the boot sector the place of the first sector of GRUB is at 0x5c; at the end of that
/// sector is a list of where the others are, of which the first entry begins at 0x1f4.
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
    let disk = fs::File::options().write(true).open(disk).expect("ours");
    disk.write_all_at(&boot[..440], 0).expect("room");
    disk.write_all_at(&core, CORE_SECTOR * 512).expect("room");
}
