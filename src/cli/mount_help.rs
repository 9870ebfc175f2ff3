//! The text at the end of `sapwood mount --help`: examples, and the mount options from their table.
//!
//! *Not here*: the options themselves (`fuse::OPTION_GROUPS`). *Used by* the arguments of `cli::mount`.

use crate::fuse::OPTION_GROUPS;

const EXAMPLES: &str = "\
Examples:
  sapwood mount debian/12 /mnt
  sapwood mount debian/12^:/usr /mnt
      the /usr of the commit before
  sapwood mount -o allow_other,suid debian/12 /mnt
  sapwood mount --key deb.pub https://host/repo#debian/12 /mnt
      fetched as it is read

What comes is compared with its name before it is kept. The worker of a mount is supervised, and replaced when it fails.";

/// Returns the text at the end of `-h`.
pub(crate) fn short() -> String {
    format!("{EXAMPLES}\n\n'sapwood mount --help' lists the mount options.")
}

/// Returns the text at the end of `--help`. The lines about an option are indented, and clap keeps the indentation where it wraps
/// them.
pub(crate) fn long() -> String {
    let mut text = format!(
        "{EXAMPLES}\n\nMount options, behind -o or in the fourth field of /etc/fstab, separated by commas. What stands in brackets \
         holds without the option. Of two opposites, the last one counts."
    );
    for group in OPTION_GROUPS {
        text.push_str(&format!("\n\n{}:", group.title));
        if !group.note.is_empty() {
            text.push_str(&format!("\n      {}", plain(group.note)));
        }
        for option in group.options.iter().filter(|option| !option.is_ignored()) {
            let default = option.default.replace('`', "");
            let default = if default.is_empty() { default } else { format!("  [{default}]") };
            text.push_str(&format!("\n  {}{default}\n      {}", option.form(), plain(option.help)));
        }
        let ignored: Vec<&str> =
            group.options.iter().filter(|option| option.is_ignored()).map(|option| option.name).collect();
        if !ignored.is_empty() {
            text.push_str(&format!("\n\n      {}", ignored.join(", ")));
        }
    }
    text
}

/// Returns Markdown as it is shown on a terminal.
fn plain(markdown: &str) -> String {
    markdown.replace('`', "'")
}
