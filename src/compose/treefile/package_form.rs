//! The forms in which an entry of `packages` may name a package.
//!
//! Purpose: turns `name = version` into what apt takes, and refuses what a package manager would read as something else than a
//! package to install.
//!
//! Not here: whether there is such a package (`engine`).
//!
//! Invariants: a form that is accepted is given to the package manager with the meaning that the treefile reference tells.
//!
//! Used by: `decide`.

use super::EngineKind;

/// The comparisons that dnf knows in a name.
const COMPARISONS: [&str; 6] = ["=", "==", ">=", "<=", ">", "<"];

/// Returns the name as an argument for the engine, or what is wrong with it. `arch` is the architecture as Debian and as rpm
/// name it.
pub(super) fn package_argument(name: &str, engine: EngineKind, arch: [&str; 2]) -> Result<String, String> {
    if name.is_empty() || name.starts_with('-') || name.contains(char::is_control) {
        return Err(format!("'{}' is not the name of a package: it would be an option", name.escape_debug()));
    }
    if COMPARISONS.contains(&name) {
        return Err(format!("'{name}' is not the name of a package; quote the whole of it: \"'name {name} version'\""));
    }
    match engine {
        EngineKind::Dnf => Ok(name.to_owned()),
        EngineKind::Apt => apt_argument(name, arch),
    }
}

fn apt_argument(name: &str, arch: [&str; 2]) -> Result<String, String> {
    // Patterns of apt have a grammar of their own, which apt checks.
    if name.starts_with(['?', '~']) {
        return Ok(name.to_owned());
    }
    let words: Vec<&str> = name.split_whitespace().collect();
    let joined = match words[..] {
        [one] if !one.contains(['<', '>']) => one.replace("==", "="),
        [package, "=" | "==", version] => format!("{package}={version}"),
        _ => {
            return Err(format!(
                "'{name}' is not understood: apt takes one version, as 'name=version' or 'name=1.2*', and no comparison"
            ));
        }
    };
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "+-.:=/*?[]^_~".contains(character);
    if let Some(other) = joined.chars().find(|character| !is_plain(*character)) {
        return Err(format!("'{joined}' is not the name of a package: '{other}' is not allowed in one"));
    }
    if joined.ends_with('-') {
        return Err(format!("'{joined}' would remove a package; put its name into 'exclude-packages'"));
    }
    let before_version = joined.split(['=', '/']).next().unwrap_or_default();
    match before_version.split_once(':') {
        Some((_, found)) if !["any", "all", "native"].contains(&found) && !arch.contains(&found) => Err(format!(
            "'{joined}' is for another architecture than the commit ({}); packages of several architectures cannot be mixed",
            arch[0]
        )),
        _ => Ok(joined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_become_arguments_of_apt_or_are_refused() {
        let apt = |name| package_argument(name, EngineKind::Apt, ["amd64", "x86_64"]);
        for (form, argument) in [
            ("g++", "g++"),
            ("nano = 7.2-1", "nano=7.2-1"),
            ("nano == 1:7.2~rc1-1", "nano=1:7.2~rc1-1"),
            ("nano/bookworm-backports", "nano/bookworm-backports"),
            ("nano:amd64=7.2*", "nano:amd64=7.2*"),
            ("python3:any", "python3:any"),
            ("web-server^", "web-server^"),
            ("lib[ab]?-dev", "lib[ab]?-dev"),
            ("?and(?name(^nano$), ?version(7))", "?and(?name(^nano$), ?version(7))"),
        ] {
            assert_eq!(apt(form).as_deref(), Ok(argument), "{form}");
        }
        for (form, reason) in [
            ("z >= 4", "no comparison"),
            ("z>=4", "no comparison"),
            ("a b", "no comparison"),
            (">=", "quote the whole"),
            ("cron-", "'exclude-packages'"),
            ("libc6:i386", "another architecture"),
            ("a;b", "';' is not allowed"),
            ("-o", "an option"),
            ("", "an option"),
        ] {
            assert!(apt(form).is_err_and(|what| what.contains(reason)), "{form}");
        }
        let dnf = |name| package_argument(name, EngineKind::Dnf, ["amd64", "x86_64"]);
        assert_eq!(dnf("z >= 4").as_deref(), Ok("z >= 4"));
        assert_eq!(dnf("/usr/bin/(x)").as_deref(), Ok("/usr/bin/(x)"));
        assert!(dnf(">=").is_err());
    }
}
