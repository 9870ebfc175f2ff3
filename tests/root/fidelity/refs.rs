//! Refs are made, moved and undone as asked, and a change leaves nothing behind that it did not say.
use std::fs;

use crate::common::sandbox::{Repository, Sandbox};

fn commit(repository: &Repository, sandbox: &Sandbox, name: &str, content: &str) -> String {
    let tree = sandbox.directory("tree");
    fs::write(tree.join("file"), content).expect("writable");
    repository.commit(name, &tree)
}

fn names(repository: &Repository, prefix: &[&str]) -> Vec<String> {
    let listed = repository.run([&["refs", "--json"], prefix].concat()).success();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
    rows.iter()
        .map(|row| format!("{}={}", row["ref"].as_str().expect("text"), row["commit"].as_str().expect("text")))
        .collect()
}

fn sequence(repository: &Repository, source: &str) -> u64 {
    let shown = repository.run(["show", "--json", source]).success();
    serde_json::from_str::<serde_json::Value>(&shown).expect("JSON")["commit"]["sequence"].as_u64().expect("a number")
}

#[test]
fn refs_are_made_moved_and_undone_as_often_as_asked() {
    let sandbox = Sandbox::new("refs-change");
    let repository = sandbox.repository("repo");
    let first = commit(&repository, &sandbox, "main", "1");
    let second = commit(&repository, &sandbox, "main", "2");
    let id = |source: &str| repository.run(["show", "--json", source]).success();

    repository.run(["refs", "--create", "stable", "main^"]).success();
    assert_eq!(names(&repository, &["stable"]), [format!("stable={first}")]);
    assert!(repository.run(["refs", "--create", "stable", "main"]).failure(1).contains("hint: 'sapwood refs --move"));
    assert!(repository.run(["refs", "--move", "other", "main"]).failure(1).contains("hint: 'sapwood refs --create"));
    // Only from where the caller saw it.
    repository.run(["refs", "--move", "stable", "main", "--expect", "main"]).failure(1);
    assert_eq!(names(&repository, &["stable"]), [format!("stable={first}")]);
    repository.run(["refs", "--move", "stable", "main", "--expect", "main^"]).success();
    assert_eq!(id("stable"), id(&second));

    // Undo, undo of the undo; of a commit, a deletion and a creation.
    for expected in [&first, &second, &first] {
        repository.run(["refs", "--undo", "stable"]).success();
        assert_eq!(names(&repository, &["stable"]), [format!("stable={expected}")]);
    }
    repository.run(["refs", "--delete", "stable"]).success();
    assert!(names(&repository, &["stable"]).is_empty());
    repository.run(["refs", "--undo", "stable"]).success();
    assert_eq!(names(&repository, &["stable"]), [format!("stable={first}")]);
    repository.run(["refs", "--create", "short", "main"]).success();
    repository.run(["refs", "--undo", "short"]).success();
    assert!(names(&repository, &["short"]).is_empty());
    repository.run(["refs", "--undo", "main"]).success();
    assert_eq!(names(&repository, &["main"]), [format!("main={first}")]);

    let logged = repository.run(["refs", "--log", "stable", "--json"]).success();
    let changes: Vec<serde_json::Value> = serde_json::from_str(&logged).expect("JSON");
    let by: Vec<&str> = changes.iter().map(|change| change["by"].as_str().expect("text")).collect();
    let undone = "refs --undo";
    assert_eq!(by, [undone, "refs --delete", undone, undone, undone, "refs --move", "refs --create"]);
    assert!(changes.windows(2).all(|pair| pair[0]["from"] == pair[1]["to"]), "{logged}");

    // A commit after moving back has a sequence of its own, since the other may have been published.
    let old = sequence(&repository, &second);
    let third = commit(&repository, &sandbox, "main", "3");
    assert_eq!([sequence(&repository, &first), old, sequence(&repository, &third)], [1, 2, 3]);
    repository.run(["refs", "--undo", "main"]).success();
    repository.run(["gc"]).success();
    let said = repository.run(["refs", "--undo", "main"]).failure(1);
    assert!(said.contains("cannot undo") && said.contains(&third), "{said}");
    assert_eq!(names(&repository, &["main"]), [format!("main={first}")]);
    repository.assert_clean();
}

#[test]
fn refs_with_a_prefix_end_at_a_slash() {
    let sandbox = Sandbox::new("refs-prefix");
    let repository = sandbox.repository("repo");
    commit(&repository, &sandbox, "debian/12/x", "1");
    for name in ["debian/12/y", "debian/1", "debiant", "a"] {
        repository.run(["refs", "--create", name, "debian/12/x"]).success();
    }
    let listed = |prefix: &[&str]| -> Vec<String> {
        names(&repository, prefix).iter().map(|row| row.split('=').next().expect("a name").to_owned()).collect()
    };
    assert_eq!(listed(&["debian"]), ["debian/1", "debian/12/x", "debian/12/y"]);
    assert_eq!(listed(&["debian/1"]), ["debian/1"]);
    assert_eq!(listed(&["debian/12/"]), ["debian/12/x", "debian/12/y"]);
    assert_eq!(listed(&[]).len(), 5);
    // What other verbs move is theirs.
    for name in ["remotes/os/main", "deployments/os.0"] {
        let said = repository.run(["refs", "--create", name, "a"]).failure(1);
        assert!(said.contains("cannot be made or moved by hand"), "{said}");
    }
    repository.run(["refs", "--create", "a/b", "a"]).failure(1);
    assert_eq!(listed(&[]).len(), 5);
}

#[test]
fn verbs_of_other_programs_lead_to_ours() {
    let sandbox = Sandbox::new("refs-foreign");
    let repository = sandbox.repository("repo");
    for (verb, words) in [
        ("checkout", "'sapwood export SOURCE DIR'"),
        ("prune", "'sapwood gc'"),
        ("rev-parse", "'sapwood show SOURCE'"),
        ("reset", "'sapwood refs --move REF SOURCE'"),
    ] {
        let said = repository.run([verb, "main"]).failure(2);
        assert!(said.contains(words), "{said}");
    }
    // A misspelt verb still finds the similar one.
    assert!(repository.run(["comitt"]).failure(2).contains("commit"));
}
