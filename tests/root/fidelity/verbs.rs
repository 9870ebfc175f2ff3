//! Single verbs of the command line do what their help says, also with unusual arguments and outputs.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::common::sandbox::{Sandbox, run};
use crate::common::trees;

/// The program is static, and must not load code of the C library for names.
#[test]
fn commit_owner_is_looked_up_in_the_files_of_accounts() {
    let sandbox = Sandbox::new("commit-owner");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    let commit = |owner: &str| {
        repository.run([
            OsStr::new("commit"),
            "--ref".as_ref(),
            "a".as_ref(),
            "--owner".as_ref(),
            owner.as_ref(),
            tree.as_os_str(),
        ])
    };
    commit("daemon:nogroup").success();
    for (owner, words) in [("nosuch:0", "no user 'nosuch'"), ("0:nosuch", "no group 'nosuch'")] {
        let said = commit(owner).any_failure();
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_repository_is_refused_as_a_publication() {
    let sandbox = Sandbox::new("publish-repository");
    let (repository, other) = (sandbox.repository("repo"), sandbox.repository("other"));
    repository.commit("main", &sandbox.directory("tree"));
    let url = format!("file://{}", other.path().display());
    let said = repository.run(["publish", &url, "main"]).any_failure();
    assert!(said.contains("it is a repository"), "{said}");
    let said = repository.run(["pull", "--insecure-unsigned", &format!("{url}#main")]).any_failure();
    assert!(said.contains("it is a repository"), "{said}");
    other.assert_clean();
}

#[test]
fn show_and_ls_print_every_kind_of_entry_safely() {
    let sandbox = Sandbox::new("show-kinds");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    fs::create_dir(tree.join("directory")).expect("writable");
    fs::write(tree.join("empty"), "").expect("writable");
    std::os::unix::fs::symlink("empty", tree.join("link")).expect("writable");
    for (name, kind, device) in [("fifo", SFlag::S_IFIFO, 0), ("null", SFlag::S_IFCHR, makedev(1, 3))] {
        mknod(&tree.join(name), kind, Mode::S_IRUSR, device).expect("the tests run as root");
    }
    fs::write(tree.join("esc\u{1b}[31m\n"), "").expect("writable");
    repository.commit("main", &tree);
    for (name, kind) in
        [("directory", "directory"), ("empty", "file"), ("link", "symlink"), ("fifo", "fifo"), ("null", "device")]
    {
        let text = repository.run(["show", &format!("main:/{name}")]).success();
        assert!(text.contains(kind), "{text}");
        repository.run(["show", "--json", &format!("main:/{name}")]).success();
    }
    let listed = repository.run(["ls", "main:/"]).success();
    assert!(!listed.contains('\u{1b}') && listed.lines().count() == 6, "{listed:?}");
}

#[test]
fn archive_whose_reader_ends_early_is_no_error() {
    let sandbox = Sandbox::new("export-pipe");
    let repository = sandbox.repository("repo");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 300);
    repository.commit("main", &tree);
    let command = repository.command(["export", "main", "--tar", "-"]);
    let words: Vec<&OsStr> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let line = words.iter().map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect::<Vec<_>>().join(" ");
    run("bash", ["-c", &format!("set -o pipefail; {line} | head -c 10 > /dev/null")]).success();
}

#[test]
fn paths_in_a_source_follow_links_inside_the_commit() {
    let sandbox = Sandbox::new("source-links");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    for directory in ["usr/bin", "usr/lib/deep", "usr/etc", "etc"] {
        fs::create_dir_all(tree.join(directory)).expect("writable");
    }
    fs::write(tree.join("usr/lib/tool"), "tool\n").expect("writable");
    fs::write(tree.join("usr/lib/os-release"), "ID=demo\n").expect("writable");
    let links = [
        ("bin", "usr/bin"),
        ("usr/bin/tool", "../lib/tool"),
        ("usr/bin/absolute", "/usr/lib/tool"),
        ("usr/lib/deep/up", "../../bin/tool"),
        ("usr/lib/outside", "../../../../../../usr/lib/tool"),
        ("usr/etc/os-release", "../usr/lib/os-release"),
        ("loop", "loop"),
        ("nowhere", "usr/none"),
    ];
    for (link, target) in links {
        std::os::unix::fs::symlink(target, tree.join(link)).expect("writable");
    }
    repository.commit("main", &tree);
    // The kernel resolves the same paths in the tree as a root.
    for path in ["/bin/tool", "/usr/bin/absolute", "/usr/lib/deep/up", "/usr/lib/outside"] {
        let expected = rustix::fs::openat2(
            fs::File::open(&tree).expect("it exists"),
            path,
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
            rustix::fs::ResolveFlags::IN_ROOT,
        );
        let printed = repository.run(["cat", &format!("main:{path}")]);
        let expected = std::io::read_to_string(fs::File::from(expected.expect("the kernel finds it"))).expect("text");
        assert_eq!(printed.success() + "\n", expected, "{path}");
    }
    // Defaults of /etc are found where a deployed machine has them.
    for path in ["/etc/os-release", "/usr/etc/os-release"] {
        assert_eq!(repository.run(["cat", &format!("main:{path}")]).success(), "ID=demo");
    }
    assert_eq!(repository.run(["ls", "main:/bin"]).success(), "absolute\ntool");
    assert!(repository.run(["ls", "-l", "main:/bin"]).success().contains("bin -> usr/bin"));
    assert!(repository.run(["show", "main:/bin"]).success().contains("symlink"));
    for path in ["/loop", "/nowhere"] {
        assert!(repository.run(["cat", &format!("main:{path}")]).failure(1).contains("there is no"));
    }
}

#[test]
fn paths_in_a_source_have_any_bytes_and_several_forms() {
    let sandbox = Sandbox::new("source-forms");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    fs::create_dir(tree.join("d")).expect("writable");
    let names: [&[u8]; 5] = [b"caf\xe9", b"new\nline", b"quo\"te", b"\\x41", b"A"];
    for name in names {
        fs::write(tree.join("d").join(OsStr::from_bytes(name)), name).expect("writable");
    }
    repository.commit("main", &tree);
    let cat = |arguments: &[&[u8]]| {
        let command = repository.command(
            [&[OsStr::new("cat")], &arguments.iter().map(|a| OsStr::from_bytes(a)).collect::<Vec<_>>()[..]].concat(),
        );
        let output = { command }.output().expect("it can be started");
        (output.status.success(), output.stdout)
    };
    for name in names {
        let forms = [[b"main:/d/", name].concat(), [b"main:d/", name].concat()];
        forms.iter().for_each(|form| assert_eq!(cat(&[form]), (true, name.to_vec()), "{}", form.escape_ascii()));
        for path in [[b"/d/", name].concat(), [b"d/", name].concat()] {
            assert_eq!(cat(&[b"main", &path]), (true, name.to_vec()), "{}", path.escape_ascii());
        }
        // As `ls` prints it, unless that is the name of another file.
        let printed = [b"main:/d/", name.escape_ascii().to_string().as_bytes()].concat();
        assert_eq!(cat(&[&printed]), (true, name.to_vec()), "{}", printed.escape_ascii());
    }
    assert_eq!(cat(&[b"main:/d/A", b"main:/d/\\x41"]), (true, b"A\\x41".to_vec()));
    assert_eq!(cat(&[b"main", b"/d/A", b"/d/A"]), (true, b"AA".to_vec()));
    assert_eq!(repository.run(["ls", "main:d"]).success(), repository.run(["ls", "main", "/d"]).success());
    for wrong in ["nothing:d", "main:/d:x", "main:", "main:/d/caf\\xe", "main:d/none"] {
        assert!(!cat(&[wrong.as_bytes()]).0, "{wrong}");
    }
}
