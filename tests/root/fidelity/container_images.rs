//! Container images: what is imported is what umoci unpacks, whatever program wrote the image and in whatever form.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::sandbox::{Repository, Run, Sandbox, run};
use crate::common::trees;

/// Makes a layout `DIR` with the tag `t` of layers that are written by hand. Each is a function that adds members.
const BY_HAND: &str = r#"
import gzip, hashlib, io, json, os, sys, tarfile
def blob(at, data):
    digest = hashlib.sha256(data).hexdigest()
    open(f"{at}/blobs/sha256/{digest}", "wb").write(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
class Layer:
    def __init__(self):
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=tarfile.PAX_FORMAT)
    def add(self, name, kind=tarfile.REGTYPE, data=b"", link="", mode=0o644, uid=0, gid=0, mtime=1_000_000_000, xattrs={}):
        member = tarfile.TarInfo(name)
        member.type, member.size, member.linkname, member.mode = kind, len(data), link, mode
        member.uid, member.gid, member.mtime = uid, gid, mtime
        member.pax_headers = {f"SCHILY.xattr.{k}": v for k, v in xattrs.items()}
        self.tar.addfile(member, io.BytesIO(data))
    def file(self, name, data=b"x", **more): self.add(name, data=data, **more)
    def dir(self, name, **more): self.add(name, tarfile.DIRTYPE, **{"mode": 0o755, **more})
    def link(self, name, to): self.add(name, tarfile.SYMTYPE, link=to, mode=0o777)
    def hard(self, name, to): self.add(name, tarfile.LNKTYPE, link=to)
    def bytes(self):
        self.tar.close()
        return self.out.getvalue()
def image(at, layers, architecture="amd64", compress=True, diff_ids=None, kind="application/vnd.oci.image.layer.v1.tar"):
    os.makedirs(f"{at}/blobs/sha256", exist_ok=True)
    json.dump({"imageLayoutVersion": "1.0.0"}, open(f"{at}/oci-layout", "w"))
    ids = diff_ids or [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
              "rootfs": {"type": "layers", "diff_ids": ids}}
    config = blob(at, json.dumps(config).encode()) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    packed = [gzip.compress(layer, mtime=0) if compress else layer for layer in layers]
    blobs = [blob(at, layer) | {"mediaType": kind + ("+gzip" if compress else "")} for layer in packed]
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                "layers": blobs, "annotations": {"a": "b"}}
    return blob(at, json.dumps(manifest).encode()) | {"mediaType": "application/vnd.oci.image.manifest.v1+json"}
def index(at, manifests):
    json.dump({"schemaVersion": 2, "manifests": manifests}, open(f"{at}/index.json", "w"))
def tagged(descriptor, name="t"):
    return descriptor | {"annotations": {"org.opencontainers.image.ref.name": name}}
"#;

/// Two layers with everything that is special about layers.
const TRAPS: &str = r#"
low, high = Layer(), Layer()
low.dir("usr/"); low.dir("usr/lib"); low.link("lib", "usr/lib"); low.link("abs", "/usr/lib"); low.link("up", "../../usr")
low.file("usr/lib/kept"); low.file("usr/lib/removed"); low.file("usr/lib/replaced", b"old", mode=0o4755, uid=7, gid=8)
low.dir("gone"); low.file("gone/a"); low.dir("gone/b"); low.file("gone/b/c")
low.dir("opaque", mode=0o700); low.file("opaque/old"); low.dir("opaque/sub"); low.file("opaque/sub/old")
low.dir("late"); low.file("late/old")
low.dir("zone"); low.file("zone/one"); low.file("zone/two"); low.dir("doc"); low.file("doc/keep")
low.file("file-to-dir"); low.dir("dir-to-file"); low.file("dir-to-file/x"); low.dir("dir-to-link"); low.file("dir-to-link/x")
low.file("hard", b"hard", xattrs={"user.a": "b"}); low.hard("hard2", "hard"); low.hard("hard3", "hard")
low.file("remade", b"old"); low.file("remade2", b"old"); low.dir("made/again"); low.file("made/again/old")
low.file("implied/without/directories"); low.file("cap")
# A removed entry, and one that was never there.
high.add("usr/lib/.wh.removed"); high.add("usr/lib/.wh.never"); high.add("nowhere/at/.wh.all")
high.file("usr/lib/replaced", b"new", mode=0o755)
high.add(".wh.gone")
# What the layer has itself stays, before and after.
high.dir("opaque", mode=0o711); high.file("opaque/before"); high.add("opaque/.wh..wh..opq"); high.file("opaque/after")
high.dir("late"); high.file("late/before"); high.dir("late/sub"); high.file("late/sub/x"); high.add("late/.wh..wh..opq")
# A directory that becomes a link, with the whiteouts that umoci writes for what was in it.
high.link("zone", "doc"); high.add("zone/.wh.one"); high.add("zone/.wh.two"); high.add("zone/.wh.keep")
high.dir("file-to-dir"); high.file("file-to-dir/x"); high.file("dir-to-file"); high.link("dir-to-link", "usr")
# Paths through links, also out of the root.
high.file("lib/through"); high.file("abs/through2"); high.file("up/through3"); high.hard("lib/hard4", "hard")
high.add("lib/.wh.kept")
high.file("fresh/implied/file"); high.add("pipe", tarfile.FIFOTYPE); high.add("hard2", data=b"other")
high.dir("dev"); high.file("setgid", mode=0o2755, uid=1000, gid=50, mtime=1.5)
# Notes of a storage driver.
high.file(".wh..wh.plnk/1.2")
index(sys.argv[1], [tagged(image(sys.argv[1], [low.bytes(), high.bytes()]))])
"#;

fn python(script: &str, arguments: &[&Path]) -> Run {
    let script = format!("{BY_HAND}{script}");
    let fixed = ["-c".as_ref(), script.as_ref()].into_iter();
    run("/usr/bin/python3", fixed.chain(arguments.iter().map(|path| path.as_os_str())))
}

fn import(repository: &Repository, name: &str, source: &str, more: &[&str]) -> Run {
    repository.run(["commit", "--ref", name, "--timestamp", "0", "--oci", source].iter().chain(more))
}

/// Returns the id of the image of a ref.
fn image_id(repository: &Repository, name: &str) -> String {
    let shown = repository.run(["show", "--json", name]).success();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    shown["commit"]["image"].as_str().or(shown["image"].as_str()).expect("an id").to_owned()
}

/// Returns what rsync finds different between the tree of a ref and what umoci unpacks of `layout:t`.
fn differences(sandbox: &Sandbox, repository: &Repository, name: &str, layout: &Path) -> String {
    let (bundle, ours) = (sandbox.join(&format!("{name}.bundle")), sandbox.join(&format!("{name}.ours")));
    let tag = format!("{}:t", layout.display());
    run("umoci", ["unpack".as_ref(), "--image".as_ref(), tag.as_ref(), bundle.as_os_str()]).success();
    repository.run(["export".as_ref(), name.as_ref(), ours.as_os_str()]).success();
    let slashed = |path: PathBuf| format!("{}/", path.display());
    let from = slashed(bundle.join("rootfs"));
    run("rsync", ["-nc", "-aHAX", "--delete", "-i", &from, &slashed(ours)]).success()
}

#[test]
fn layers_with_traps_are_what_umoci_unpacks() {
    let sandbox = Sandbox::new("oci-traps");
    let repository = sandbox.repository("repo");
    let layout = sandbox.join("layout");
    python(TRAPS, &[&layout]).success();
    import(&repository, "traps", &format!("{}:t", layout.display()), &[]).success();
    let listed = repository.run(["ls", "-R", "traps"]).success();
    assert!(!listed.contains(".wh."), "{listed}");
    // umoci keeps those notes, gives directories without an entry the time of unpacking, and follows the link `zone` of the same
    // layer to a file that no whiteout is of.
    let expected = "\
.d..t...... ./
*deleting   doc/keep
cd+++++++++ .wh..wh.plnk/
>f+++++++++ .wh..wh.plnk/1.2
.d..t...... fresh/
.d..t...... fresh/implied/
.d..t...... implied/
.d..t...... implied/without/
.d..t...... made/";
    assert_eq!(differences(&sandbox, &repository, "traps", &layout), expected);
    repository.assert_clean();
}

/// A tree with everything that a file can have, in two layers that umoci writes, and in the forms that skopeo makes of it.
#[test]
fn image_is_the_same_in_every_form() {
    let sandbox = Sandbox::new("oci-forms");
    let repository = sandbox.repository("repo");
    let (tree, layout, bundle) = (sandbox.join("tree"), sandbox.join("layout"), sandbox.join("bundle"));
    trees::medium(&tree, 300);
    let attribute = ["-n", "user.comment", "-v", "kept"];
    let some = tree.read_dir().expect("made").next().expect("it has entries").expect("readable").path();
    run("setfattr", attribute.iter().map(AsRef::as_ref).chain([some.as_os_str()])).success();
    let ping = tree.join("ping");
    fs::copy("/bin/true", &ping).expect("readable");
    run("setcap", ["cap_net_raw+ep".as_ref(), ping.as_os_str()]).success();
    let umoci = |words: &[&str]| run("umoci", words).success();
    let (layout_text, tag) = (layout.display().to_string(), format!("{}:t", layout.display()));
    umoci(&["init", "--layout", &layout_text]);
    umoci(&["new", "--image", &tag]);
    let bundle_text = bundle.display().to_string();
    umoci(&["unpack", "--image", &tag, &bundle_text]);
    let (from, to) = (format!("{}/", tree.display()), format!("{}/rootfs/", bundle.display()));
    run("rsync", ["-aHAX", &from, &to]).success();
    umoci(&["repack", "--image", &tag, &bundle_text]);
    // The second layer has whiteouts, also of a directory that becomes a link.
    let rootfs = bundle.join("rootfs");
    let mut directories: Vec<PathBuf> =
        rootfs.read_dir().expect("unpacked").map(|it| it.expect("entry").path()).collect();
    directories.retain(|path| path.is_dir());
    directories.sort();
    fs::remove_dir_all(&directories[0]).expect("owned by the test");
    std::os::unix::fs::symlink(directories[1].file_name().expect("named"), &directories[0]).expect("free");
    fs::write(rootfs.join("new file"), "new").expect("writable");
    umoci(&["repack", "--refresh-bundle", "--image", &tag, &bundle_text]);
    fs::remove_dir_all(&bundle).expect("owned by the test");

    import(&repository, "layout", &tag, &[]).success();
    let differs = differences(&sandbox, &repository, "layout", &layout);
    assert!(differs.is_empty() || differs == ".d..t...... ./", "{differs}");
    let id = image_id(&repository, "layout");
    let forms = [
        ("oci-archive", vec![]),
        ("docker-archive", vec![]),
        ("oci", vec!["--dest-compress-format", "zstd", "--dest-compress"]),
        ("oci", vec!["--dest-oci-accept-uncompressed-layers", "--dest-decompress"]),
    ];
    for (number, (form, options)) in forms.iter().enumerate() {
        let at = sandbox.join(&format!("form-{number}"));
        let (from, to) = (format!("oci:{tag}"), format!("{form}:{}:t", at.display()));
        let words =
            ["copy", "--insecure-policy", "-q"].into_iter().chain(options.iter().copied()).chain([&*from, &*to]);
        let copied = run("skopeo", words);
        assert!(copied.status.success(), "{form} {options:?}: {}", copied.text());
        let name = format!("form-{number}");
        import(&repository, &name, &format!("{form}:{}", at.display()), &[]).success();
        assert_eq!(image_id(&repository, &name), id, "{form} {options:?}");
    }
    // Without a name where there is one image, over another tree, and with facts about running it.
    let words =
        ["commit", "--ref", "over", "--tree", "ref=layout", "--tree", &format!("oci={layout_text}")].map(str::to_owned);
    repository.run(words).success();
    assert_eq!(image_id(&repository, "over"), id);
    let shown = repository.run(["show", "--json", "layout"]).success();
    assert!(shown.contains("oci.manifest") && shown.contains("oci.architecture"), "{shown}");
    repository.assert_clean();
}

/// Images for several machines, several names, and everything that can be wrong with one.
#[test]
fn wrong_images_are_refused_with_the_reason() {
    let sandbox = Sandbox::new("oci-wrong");
    let repository = sandbox.repository("repo");
    let script = r#"
def layer(content):
    it = Layer(); it.file("machine", content.encode()); return it.bytes()
at = sys.argv[1]
os.makedirs(at)
for case in ["several", "damaged", "damaged-manifest", "wrong-content", "short", "encrypted", "machines", "deep", "count", "other-digest"]:
    here = f"{at}/{case}"
    one, two = image(here, [layer("one")]), image(here, [layer("two")], architecture="arm64")
    index(here, [tagged(one)])
    files = lambda: [f"{here}/blobs/sha256/{name}" for name in os.listdir(f"{here}/blobs/sha256")]
    layers = lambda: [file for file in files() if open(file, "rb").read(2) == bytes([31, 139])]
    if case == "several": index(here, [tagged(one, "a"), tagged(two, "b")])
    if case == "damaged":
        for file in layers():
            data = bytearray(open(file, "rb").read()); data[4] ^= 1; open(file, "wb").write(data)
    if case == "damaged-manifest":
        for file in files():
            data = open(file, "rb").read()
            if b'"layers"' in data: open(file, "wb").write(data.replace(b'"a": "b"', b'"a": "c"'))
    if case == "wrong-content": index(here, [image(here, [layer("x")], diff_ids=["sha256:" + "0" * 64])])
    if case == "short":
        for file in layers(): os.unlink(file)
    if case == "encrypted": index(here, [image(here, [layer("x")], kind="application/vnd.oci.image.layer.v1.tar+encrypted", compress=False)])
    if case == "machines":
        both = [one | {"platform": {"architecture": "amd64", "os": "linux"}},
                two | {"platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}},
                blob(here, b"{}") | {"mediaType": one["mediaType"], "platform": {"architecture": "unknown", "os": "unknown"}}]
        data = json.dumps({"schemaVersion": 2, "manifests": both}).encode()
        index(here, [tagged(blob(here, data) | {"mediaType": "application/vnd.oci.image.index.v1+json"})])
    if case == "deep":
        for _ in range(9):
            data = json.dumps({"schemaVersion": 2, "manifests": [one]}).encode()
            one = blob(here, data) | {"mediaType": "application/vnd.oci.image.index.v1+json"}
        index(here, [one])
    if case == "count": index(here, [image(here, [layer("x"), layer("y")], diff_ids=["sha256:" + "0" * 64])])
    if case == "other-digest": index(here, [one | {"digest": "sha512:" + "0" * 128}])
"#;
    let at = sandbox.join("images");
    python(script, &[&at]).success();
    let source = |case: &str| at.join(case).display().to_string();
    let cases = [
        ("several", "there are several images: a, b"),
        ("several:c", "there is no image 'c', but a, b"),
        ("damaged", "layer sha256:"),
        ("damaged-manifest", "manifest sha256:"),
        ("wrong-content", "the content of layer sha256:000"),
        ("short", "is missing"),
        ("encrypted", "is encrypted"),
        ("deep", "nested too deeply"),
        ("count", "has 2 layers, and its configuration 1"),
        ("other-digest", "'sha512:00"),
        ("nowhere", "No such file"),
        ("", "neither index.json nor manifest.json"),
    ];
    for (case, expected) in cases {
        let said = import(&repository, "wrong", &source(case), &[]).failure(1);
        assert!(said.contains(expected), "{case}: {said}");
        assert!(!case.starts_with("damaged") || said.contains("is damaged"), "{said}");
    }
    let said = import(&repository, "wrong", "docker://example.org/os:1", &[]).failure(1);
    assert!(said.contains("skopeo copy docker://example.org/os:1 oci:DIR"), "{said}");
    assert_eq!(repository.run(["refs"]).success(), "", "nothing was committed");

    for (name, more, content) in
        [("native", &[][..], "one"), ("arm", &["--arch", "arm64"], "two"), ("v8", &["--arch", "arm64/v8"], "two")]
    {
        import(&repository, name, &source("machines"), more).success();
        assert_eq!(repository.run(["cat", &format!("{name}:/machine")]).success(), content);
    }
    let said = import(&repository, "wrong", &source("machines"), &["--arch", "s390x"]).failure(1);
    assert!(said.contains("for s390x, but for amd64, arm64/v8"), "{said}");
    let one = import(&repository, "named", &source("several:b"), &[]);
    one.success();
    assert_eq!(repository.run(["cat", "named:/machine"]).success(), "two");
}
