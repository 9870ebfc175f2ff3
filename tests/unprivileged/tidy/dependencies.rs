//! Checks licences, banned crates and sources of all dependencies by the tables of `deny.toml`.
//!
//! The keys have the same meaning as in `cargo deny check licenses bans sources`, so that either can be used. This check needs
//! neither an installation nor a network: cargo lists the packages that it has already fetched. It is stricter in three points.
//! Every level has to be set, a package without a licence expression is an error (cargo-deny would read the licence's text),
//! and so is every key in `deny.toml` that is not implemented here.
//!
//! *Not here*: advisories and yanked versions, which need a network (`SECURITY.md`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use spdx::{Expression, Licensee, ParseMode};

/// The address of crates.io in `deny.toml` and in lock files, and that of its newer protocol.
const CRATES_IO: [&str; 2] = ["https://github.com/rust-lang/crates.io-index", "https://index.crates.io"];

#[test]
fn dependencies_obey_deny_toml() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(package.join("deny.toml")).expect("it is committed");
    let rules = Rules::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let packages = Metadata::read(package, &rules.graph.targets);
    assert!(packages.packages.len() > 100, "cargo lists only {} packages", packages.packages.len());
    let report = check(&rules, &packages);
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    assert!(report.errors.is_empty(), "{} findings:\n{}", report.errors.len(), report.errors.join("\n"));
}

// ------------------------------------------------------------------------------------------------------- deny.toml

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    graph: Graph,
    licenses: LicenceRules,
    bans: BanRules,
    sources: SourceRules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    /// The packages that one of these platforms needs are checked.
    targets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LicenceRules {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<LicenceException>,
    /// Whether packages that only tests need are checked.
    include_dev: bool,
    unused_allowed_license: Level,
    /// The certainty that cargo-deny needs to recognise a licence by its text; this check does not read texts.
    #[serde(rename = "confidence-threshold")]
    _confidence_threshold: Option<IgnoredAny>,
}

/// Licences that are allowed for one crate only.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenceException {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BanRules {
    multiple_versions: Level,
    wildcards: Level,
    #[serde(default)]
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SourceRules {
    unknown_registry: Level,
    unknown_git: Level,
    allow_registry: Vec<String>,
    #[serde(default)]
    allow_git: Vec<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Allow,
    Warn,
    Deny,
}

impl Rules {
    fn parse(text: &str) -> Result<Self, String> {
        let rules: Self = toml::from_str(text).map_err(|error| format!("deny.toml: {error}"))?;
        let names = rules.bans.deny.iter().map(|ban| &ban.name);
        for name in names.chain(rules.licenses.exceptions.iter().map(|exception| &exception.name)) {
            if name.contains(['@', ':', '*']) {
                return Err(format!("deny.toml: `{name}`: only whole crates are implemented here, no versions"));
            }
        }
        Ok(rules)
    }
}

// -------------------------------------------------------------------------------------- what `cargo metadata` prints

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `registry+URL`, `sparse+URL` or `git+URL?rev=…#commit`; absent for a directory of this machine.
    source: Option<String>,
    dependencies: Vec<Requirement>,
}

/// One line of a package's `[dependencies]`.
#[derive(Deserialize)]
struct Requirement {
    name: String,
    req: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    /// Absent for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

impl Metadata {
    /// Runs `cargo metadata`, offline: the packages that this test program was compiled from have been fetched.
    fn read(package: &Path, targets: &[String]) -> Self {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(package).args(["metadata", "--locked", "--offline", "--format-version", "1"]);
        for target in targets {
            command.args(["--filter-platform", target]);
        }
        let output = command.output().expect("cargo runs this test");
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("format version 1")
    }

    /// Returns the packages that are needed by something else than tests.
    fn without_dev(&self) -> BTreeSet<&str> {
        let nodes: BTreeMap<&str, &Node> = self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut found = BTreeSet::new();
        let mut pending: Vec<&str> = self.workspace_members.iter().map(String::as_str).collect();
        while let Some(id) = pending.pop() {
            if found.insert(id) {
                let edges = nodes.get(id).into_iter().flat_map(|node| &node.deps);
                let needed = edges.filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev")));
                pending.extend(needed.map(|edge| edge.pkg.as_str()));
            }
        }
        found
    }
}

// ------------------------------------------------------------------------------------------------------- the rules

#[derive(Default)]
struct Report {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Report {
    fn add(&mut self, level: Level, finding: String) {
        match level {
            Level::Allow => {}
            Level::Warn => self.warnings.push(finding),
            Level::Deny => self.errors.push(finding),
        }
    }
}

fn check(rules: &Rules, metadata: &Metadata) -> Report {
    let mut report = Report::default();
    check_licences(&rules.licenses, metadata, &mut report);
    check_bans(&rules.bans, metadata, &mut report);
    for package in &metadata.packages {
        check_source(&rules.sources, package, &mut report);
    }
    report
}

fn check_licences(rules: &LicenceRules, metadata: &Metadata, report: &mut Report) {
    let allowed = licensees(&rules.allow, report);
    let used = RefCell::new(BTreeSet::new());
    let without_dev = metadata.without_dev();
    for package in &metadata.packages {
        if !rules.include_dev && !without_dev.contains(package.id.as_str()) {
            continue;
        }
        let exceptions = rules.exceptions.iter().filter(|exception| exception.name == package.name);
        let names: Vec<String> = exceptions.flat_map(|exception| exception.allow.iter().cloned()).collect();
        let exceptions = licensees(&names, report);
        let name = format!("{} {}", package.name, package.version);
        let Some(licence) = &package.license else {
            report.errors.push(format!("{name}: has no licence expression"));
            continue;
        };
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Ok(expression) => {
                let is_allowed = expression.evaluate(|required| {
                    let place = allowed.iter().position(|licensee| licensee.satisfies(required));
                    used.borrow_mut().extend(place);
                    place.is_some() || exceptions.iter().any(|licensee| licensee.satisfies(required))
                });
                if !is_allowed {
                    report.errors.push(format!("{name}: licence `{licence}` is not allowed"));
                }
            }
            Err(error) => report.errors.push(format!("{name}: licence `{licence}`: {}", error.reason)),
        }
    }
    for (place, licensee) in allowed.iter().enumerate() {
        if !used.borrow().contains(&place) {
            report.add(rules.unused_allowed_license, format!("deny.toml: no package has the allowed `{licensee}`"));
        }
    }
}

fn licensees(names: &[String], report: &mut Report) -> Vec<Licensee> {
    let mut licensees = Vec::new();
    for name in names {
        match Licensee::parse(name) {
            Ok(licensee) => licensees.push(licensee),
            Err(error) => report.errors.push(format!("deny.toml: licence `{name}`: {}", error.reason)),
        }
    }
    licensees
}

fn check_bans(rules: &BanRules, metadata: &Metadata, report: &mut Report) {
    let without_dev = metadata.without_dev();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &metadata.packages {
        let name = format!("{} {}", package.name, package.version);
        for ban in rules.deny.iter().filter(|ban| ban.name == package.name) {
            report.errors.push(format!("{name}: banned: {}", ban.reason));
        }
        let is_from_git = package.source.as_ref().is_some_and(|source| source.starts_with("git+"));
        for wildcard in package.dependencies.iter().filter(|requirement| requirement.req == "*" && !is_from_git) {
            report.add(rules.wildcards, format!("{name}: requires any version of {}", wildcard.name));
        }
        if without_dev.contains(package.id.as_str()) {
            versions.entry(&package.name).or_default().insert(&package.version);
        }
    }
    for (name, versions) in versions.into_iter().filter(|(_, versions)| versions.len() > 1) {
        let versions: Vec<&str> = versions.into_iter().collect();
        report.add(rules.multiple_versions, format!("{name}: several versions: {}", versions.join(", ")));
    }
}

fn check_source(rules: &SourceRules, package: &Package, report: &mut Report) {
    let Some(source) = &package.source else { return };
    let (level, url, allowed) = match source.split_once('+') {
        Some(("git", url)) => (rules.unknown_git, url, &rules.allow_git),
        // A kind of source that is not known here counts as an unknown registry.
        Some((_, url)) => (rules.unknown_registry, url, &rules.allow_registry),
        None => (rules.unknown_registry, source.as_str(), &rules.allow_registry),
    };
    if !allowed.iter().any(|allowed| repository(allowed) == repository(url)) {
        report.add(level, format!("{} {}: source `{source}` is not allowed", package.name, package.version));
    }
}

/// Returns the address that is compared: without revision and ending, and one for crates.io.
fn repository(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let url = url.strip_suffix(".git").unwrap_or(url);
    if CRATES_IO.contains(&url) { CRATES_IO[0] } else { url }
}

// --------------------------------------------------------------------------------------------- each rule can fail

const RULES: &str = r#"
[graph]
targets = ["x86_64-unknown-linux-gnu"]
[licenses]
allow = ["Apache-2.0", "MIT", "ISC"]
exceptions = [{ crate = "odd", allow = ["MPL-2.0"] }]
confidence-threshold = 0.9
include-dev = true
unused-allowed-license = "allow"
[bans]
multiple-versions = "deny"
wildcards = "deny"
deny = [{ crate = "openssl-sys", reason = "links a system library" }]
[sources]
unknown-registry = "deny"
unknown-git = "deny"
allow-registry = ["https://github.com/rust-lang/crates.io-index"]
allow-git = ["https://example.org/allowed"]
"#;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Returns a package as `cargo metadata` describes one.
fn package(name: &str, version: &str, license: Option<&str>, source: Option<&str>) -> Value {
    let dependencies = [json!({ "name": "any", "req": "^1.0", "kind": null })];
    json!({
        "id": format!("{name}@{version}"), "name": name, "version": version, "license": license, "source": source,
        "dependencies": dependencies,
    })
}

/// Returns what cargo prints for a program `root` that depends on `normal`, and for its tests on `dev`.
fn metadata(normal: &[Value], dev: &[Value]) -> Metadata {
    let edge = |package: &Value, kind: Value| json!({ "pkg": package["id"], "dep_kinds": [{ "kind": kind }] });
    let edges: Vec<Value> = normal
        .iter()
        .map(|package| edge(package, Value::Null))
        .chain(dev.iter().map(|package| edge(package, json!("dev"))))
        .collect();
    let root = package("root", "0.1.0", Some("MIT OR Apache-2.0"), None);
    let packages: Vec<&Value> = [&root].into_iter().chain(normal).chain(dev).collect();
    let nodes = json!([{ "id": root["id"], "deps": edges }]);
    let whole = json!({ "packages": packages, "workspace_members": [root["id"]], "resolve": { "nodes": nodes } });
    serde_json::from_value(whole).expect("as cargo prints it")
}

fn errors(rules: &str, metadata: &Metadata) -> Vec<String> {
    match Rules::parse(rules) {
        Ok(rules) => check(&rules, metadata).errors,
        Err(error) => vec![error],
    }
}

#[test]
fn allowed_dependencies_have_no_findings() {
    let git = Some("git+https://example.org/allowed.git?rev=12#1234");
    let normal = [
        package("one", "1.0.0", Some("MIT/Apache-2.0"), Some(REGISTRY)),
        package("two", "1.0.0", Some("GPL-2.0 OR (MIT AND ISC)"), Some("sparse+https://index.crates.io/")),
        package("odd", "1.0.0", Some("MPL-2.0"), git),
    ];
    // Another version that only tests need does not count.
    let dev = [package("one", "2.0.0", Some("ISC"), Some(REGISTRY))];
    assert_eq!(errors(RULES, &metadata(&normal, &dev)), Vec::<String>::new());
}

#[test]
fn each_rule_of_deny_toml_reports_a_violation() {
    let with_licence = |name: &str, licence| package(name, "1.0.0", licence, Some(REGISTRY));
    let from = |source| package("bad", "1.0.0", Some("MIT"), Some(source));
    let mut wildcard = with_licence("bad", Some("MIT"));
    wildcard["dependencies"][0]["req"] = json!("*");
    let cases: &[(&[Value], &str)] = &[
        (&[with_licence("bad", Some("GPL-3.0-only"))], "licence `GPL-3.0-only` is not allowed"),
        (&[with_licence("bad", Some("MIT AND MPL-2.0"))], "licence `MIT AND MPL-2.0` is not allowed"),
        (&[with_licence("bad", Some("Apache-2.0 WITH LLVM-exception"))], "LLVM-exception` is not allowed"),
        (&[with_licence("bad", Some("Mine, all mine"))], "licence `Mine, all mine`: "),
        (&[with_licence("bad", None)], "has no licence expression"),
        (&[with_licence("openssl-sys", Some("MIT"))], "banned: links a system library"),
        (&[wildcard], "requires any version of any"),
        (
            &[with_licence("bad", Some("MIT")), package("bad", "2.0.0", Some("MIT"), Some(REGISTRY))],
            "several versions: 1.0.0, 2.0.0",
        ),
        (&[from("registry+https://example.org/index")], "index` is not allowed"),
        (&[from("sparse+https://example.org/index/")], "index/` is not allowed"),
        (&[from("git+https://github.com/rust-lang/crates.io-index#1234")], "index#1234` is not allowed"),
        (&[from("git+https://example.org/allowed-not?rev=12#1234")], "#1234` is not allowed"),
        (&[from("invented")], "`invented` is not allowed"),
    ];
    for (packages, expected) in cases {
        let findings = errors(RULES, &metadata(packages, &[]));
        assert!(
            findings.len() == 1 && findings[0].contains(expected) && !findings[0].starts_with("root"),
            "{packages:?} gave {findings:?}, not {expected:?}"
        );
    }
    let dev = [with_licence("bad", Some("GPL-3.0-only"))];
    assert!(errors(RULES, &metadata(&[], &dev))[0].contains("is not allowed"), "tests' dependencies count");
}

#[test]
fn levels_decide_what_is_an_error() {
    let doubled = [
        package("one", "1.0.0", Some("MIT"), Some("git+https://example.org/other#1")),
        package("one", "2.0.0", Some("MIT"), Some("registry+https://example.org/index")),
    ];
    let metadata = metadata(&doubled, &[package("tested", "1.0.0", Some("GPL-3.0-only"), Some(REGISTRY))]);
    for (level, warnings) in [("warn", 3), ("allow", 0)] {
        let rules =
            RULES.replace("\"deny\"", &format!("\"{level}\"")).replace("include-dev = true", "include-dev = false");
        let report = check(&Rules::parse(&rules).expect("legal"), &metadata);
        assert_eq!((report.errors, report.warnings.len()), (Vec::new(), warnings), "{:?}", report.warnings);
    }
    let unused = RULES.replace("unused-allowed-license = \"allow\"", "unused-allowed-license = \"deny\"");
    let findings = errors(&unused, &metadata);
    assert!(findings.iter().any(|finding| finding.contains("no package has the allowed `ISC`")), "{findings:?}");
}

#[test]
fn unsupported_keys_in_deny_toml_are_errors() {
    let metadata = metadata(&[], &[]);
    assert_eq!(errors(RULES, &metadata), Vec::<String>::new());
    let cases = [
        ("[graph]", "[advisories]\nyanked = \"deny\"\n[graph]", "unknown field `advisories`"),
        ("[licenses]", "exclude-dev = true\n[licenses]", "unknown field `exclude-dev`"),
        ("[bans]", "private = { ignore = true }\n[bans]", "unknown field `private`"),
        ("[sources]", "skip = [\"one\"]\n[sources]", "unknown field `skip`"),
        ("reason = ", "wrappers = [\"one\"], reason = ", "unknown field `wrappers`"),
        ("allow-git", "required-git-spec = \"rev\"\nallow-git", "unknown field `required-git-spec`"),
        ("wildcards = \"deny\"\n", "", "missing field `wildcards`"),
        ("wildcards = \"deny\"", "wildcards = \"never\"", "unknown variant `never`"),
        ("openssl-sys", "openssl-sys@0.9", "`openssl-sys@0.9`: only whole crates"),
        ("crate = \"odd\"", "crate = \"odd:<2\"", "`odd:<2`: only whole crates"),
        ("\"ISC\"", "\"ICS\"", "licence `ICS`: "),
        ("[\"x86_64-unknown-linux-gnu\"]", "[{ triple = \"x\", features = [] }]", "invalid type"),
    ];
    for (from, to, expected) in cases {
        let findings = errors(&RULES.replacen(from, to, 1), &metadata);
        assert!(findings.len() == 1 && findings[0].contains(expected), "{to:?} gave {findings:?}, not {expected:?}");
    }
}
