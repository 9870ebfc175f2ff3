//! Renders a bill of materials: SPDX 2.3 as JSON, one element per package. Source of the fields: the SPDX 2.3 specification.

use serde_json::{Value, json};

use super::super::packages::{Package, PackageFormat, PackageList};

/// The path of the bill of materials in an image.
pub(crate) const SBOM_FILE: &str = "/usr/share/sapwood/sbom.spdx.json";

/// The image that the bill of materials describes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SbomSubject<'a> {
    /// The ref of the commit.
    pub(crate) name: &'a str,
    pub(crate) version: Option<&'a str>,
    /// The distribution of the packages, as in package URLs: `debian`, `fedora`.
    pub(crate) distribution: &'a str,
    /// The distribution's release, if the treefile names one.
    pub(crate) release: Option<&'a str>,
    /// The time of the commit in seconds since 1970.
    pub(crate) time: i64,
    /// The digest of the commit's inputs, which makes the document's namespace unique.
    pub(crate) inputs: &'a str,
}

/// Returns the bill of materials as the bytes of a file.
pub(crate) fn render_sbom(subject: SbomSubject<'_>, list: &PackageList) -> Vec<u8> {
    let created =
        jiff::Timestamp::from_second(subject.time).map_or_else(|_| subject.time.to_string(), |time| time.to_string());
    let root = json!({
        "SPDXID": "SPDXRef-OperatingSystem",
        "name": subject.name,
        "versionInfo": subject.version.unwrap_or_default(),
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    });
    let packages: Vec<Value> = list
        .packages
        .iter()
        .enumerate()
        .map(|(index, package)| element(subject, list.format, index, package))
        .collect();
    let relationship = |from: &str, kind: &str, to: &str| json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to });
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-OperatingSystem")];
    for package in &packages {
        let id = package["SPDXID"].as_str().unwrap_or_default();
        relationships.push(relationship("SPDXRef-OperatingSystem", "CONTAINS", id));
    }
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/{}-{}", subject.name.replace('/', "-"), subject.inputs),
        "creationInfo": { "created": created, "creators": ["Tool: sapwood"] },
        "packages": std::iter::once(root).chain(packages).collect::<Vec<_>>(),
        "relationships": relationships,
    });
    let mut bytes = serde_json::to_vec_pretty(&document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn element(subject: SbomSubject<'_>, format: PackageFormat, index: usize, package: &Package) -> Value {
    let mut element = json!({
        "SPDXID": format!("SPDXRef-Package-{index}-{}", spdx_id(&package.name)),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "sourceInfo": format!("built from the source package {}", package.source),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package_url(subject, format, package),
        }],
    });
    if let Some(digest) = &package.sha256 {
        element["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": digest }]);
    }
    element
}

/// Returns a name as part of an SPDX identifier, which may contain letters, digits, dots and hyphens.
fn spdx_id(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// Returns the package URL.
fn package_url(subject: SbomSubject<'_>, format: PackageFormat, package: &Package) -> String {
    let escape = |text: &str| {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect::<String>()
    };
    let (epoch, version) = package.version.split_once(':').unwrap_or(("", &package.version));
    let mut qualifiers = vec![format!("arch={}", escape(&package.arch))];
    if let Some(release) = subject.release {
        qualifiers.push(format!("distro={}-{}", escape(subject.distribution), escape(release)));
    }
    // In URLs of rpm packages the epoch is a qualifier, in those of Debian packages a part of the version.
    let version = match format {
        PackageFormat::Deb => escape(&package.version),
        PackageFormat::Rpm => {
            qualifiers.extend((!epoch.is_empty() && epoch != "0").then(|| format!("epoch={epoch}")));
            escape(version)
        }
    };
    let (kind, name) = (format.word(), escape(&package.name));
    format!("pkg:{kind}/{}/{name}@{version}?{}", escape(subject.distribution), qualifiers.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_an_element_with_a_url() {
        let package = Package {
            name: "libstdc++6".into(),
            version: "1:12.2.0-14".into(),
            arch: "amd64".into(),
            source: "gcc-12".into(),
            sha256: Some("ab".into()),
        };
        let list = PackageList::new(PackageFormat::Deb, vec![package]);
        let subject = SbomSubject {
            name: "os/stable",
            version: Some("12.1"),
            distribution: "debian",
            release: Some("12"),
            time: 0,
            inputs: "ff",
        };
        let value: Value = serde_json::from_slice(&render_sbom(subject, &list)).expect("JSON");
        assert_eq!(value["creationInfo"]["created"], "1970-01-01T00:00:00Z");
        assert_eq!(value["packages"][1]["SPDXID"], "SPDXRef-Package-0-libstdc--6");
        assert_eq!(
            value["packages"][1]["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14?arch=amd64&distro=debian-12"
        );
        assert_eq!(value["relationships"][1]["relatedSpdxElement"], "SPDXRef-Package-0-libstdc--6");
        assert_eq!(
            package_url(subject, PackageFormat::Rpm, &list.packages[0]),
            "pkg:rpm/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12&epoch=1"
        );
    }
}
