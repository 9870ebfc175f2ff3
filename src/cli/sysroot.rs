//! The verb `sapwood sysroot`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};

use super::sysroot_args::SysrootArgs;
use super::{deploying, output};
use crate::cli::context::{Context, Run};
use crate::deploy::boot::LoaderKind;
use crate::deploy::config::SysrootConfig;
use crate::deploy::id::StaterootName;
use crate::deploy::sysroot::Sysroot;

/// Make a root filesystem ready for deployments
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood sysroot init /mnt
      a new disk, with its boot partition mounted in it
  sapwood sysroot init /mnt --bootloader grub --stateroot server
  sapwood --repo /mnt/sapwood/repo remote add \\
    os https://os.example.org/repo --key release.pub
  sapwood deploy --sysroot /mnt --karg root=LABEL=root --karg rw os:debian/12

  sapwood sysroot write-menu --sysroot /mnt
      after the boot partition was made anew
  sapwood sysroot write-menu --prefer
      when 'sapwood status' says that another entry boots next

Everything is below DIR/sapwood and, on the boot partition, in entries and directories named \
sapwood; what else is there is left alone. The boot loader itself is installed by its own tools: \
bootctl install, grub-install, extlinux --install.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make DIR a sysroot
    Init {
        /// The root of the mounted filesystems
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Name of the operating system that verbs mean when none is given
        #[arg(long, value_name = "NAME", default_value = "main")]
        stateroot: StaterootName,
        /// The boot loader that reads the entries
        #[arg(long, value_name = "LOADER", default_value = "auto")]
        bootloader: Bootloader,
        /// The mount point of its partition, relative to DIR [default: looked for]
        #[arg(long, value_name = "DIR")]
        boot: Option<PathBuf>,
        /// How often a new deployment is tried before the loader goes back (0: no counting)
        #[arg(long, value_name = "N")]
        boot_tries: Option<u32>,
        /// Tell it from others on the same boot partition by these 8 hex digits [default: random]
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// Write the boot menu and its kernels anew, from the deployments there are
    WriteMenu {
        /// Have systemd-boot prefer deployments to entries of other systems, by 'default' in loader.conf
        #[arg(long)]
        prefer: bool,
        #[command(flatten)]
        sysroot: SysrootArgs,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Bootloader {
    Auto,
    SystemdBoot,
    Grub,
    Extlinux,
    None,
}

impl From<Bootloader> for LoaderKind {
    fn from(loader: Bootloader) -> Self {
        match loader {
            Bootloader::Auto => Self::Auto,
            Bootloader::SystemdBoot => Self::SystemdBoot,
            Bootloader::Grub => Self::Grub,
            Bootloader::Extlinux => Self::Extlinux,
            Bootloader::None => Self::None,
        }
    }
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        match &self.action {
            Action::Init { directory, stateroot, bootloader, boot, boot_tries, id } => {
                let mut random = [0; 4];
                getrandom::fill(&mut random).context("cannot get random bytes")?;
                let mut config = SysrootConfig::new(stateroot.clone(), random);
                config.bootloader = (*bootloader).into();
                config.boot.clone_from(boot);
                config.boot_tries = boot_tries.unwrap_or(config.boot_tries);
                config.id = id.clone().unwrap_or(config.id);
                let sysroot = Sysroot::init(directory, &config)?;
                let loader = sysroot.loader();
                output::note(format_args!(
                    "made {} a sysroot: stateroot {stateroot}, boot loader {} in {}",
                    directory.display(),
                    loader.kind.name(),
                    loader.directory.display()
                ));
                if loader.kind == LoaderKind::None {
                    output::note("no boot loader was found: entries will be written, but no boot loader reads them");
                }
            }
            Action::WriteMenu { prefer, sysroot } => {
                let opened = sysroot.open()?;
                let lock = opened.lock()?;
                let changer = opened.transaction(&lock);
                let entries = changer.write_menu()?;
                if *prefer {
                    changer.prefer_own_entries()?;
                }
                output::note(format_args!("wrote {entries} entries"));
                deploying::note_menu_problems(&opened)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
