//! The forms that values of keys have.
//!
//! *Not here*: which key has which form (`keys`), and the check (`forms`).
//!
//! *Used by* `keys` and `forms`.

/// The form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One text, number or boolean, taken as a text.
    Text,
    Bool,
    /// A list of texts.
    List,
    /// A text or a list of texts.
    TextOrList,
    /// A list of `[source, destination]`.
    Pairs,
    /// A list of lists of texts.
    Lists,
    /// A mapping from names to any values.
    Mapping,
    /// A mapping from names to texts, whole numbers and booleans.
    Variables,
    /// `check-passwd` and `check-groups`.
    Check,
    /// A file, keys of a treefile, or a list of these.
    Include,
    /// A mapping from architectures to [`Form::Include`].
    ArchInclude,
    /// A list of `{if: …, include: …}`.
    Conditional,
    /// A list of `{repo: …, packages: […]}`.
    RepoPackages,
    /// Anything; the value is not used.
    Any,
}

impl Form {
    /// Returns what is expected, with an example.
    pub(super) const fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Bool => "true or false",
            Self::List => "a list, as in [a, b]",
            Self::TextOrList => "a text or a list, as in [a, b]",
            Self::Pairs => "a list of [source, destination]",
            Self::Lists => "a list of [package, expression]",
            Self::Mapping => "a mapping, as in {name: value}",
            Self::Variables => "a mapping from names to texts, whole numbers or booleans, as in {stream: stable}",
            Self::Check => {
                "{type: none}, {type: previous}, {type: file, filename: FILE} or {type: data, entries: {NAME: NUMBER}}"
            }
            Self::Include => "a file, a list of files, or keys of a treefile",
            Self::ArchInclude => "a mapping from architectures to files, as in {x86_64: file.yaml}",
            Self::Conditional => "a list of {if: CONDITION, include: FILES}",
            Self::RepoPackages => "a list of {repo: NAME, packages: [a, b]}",
            Self::Any => "anything",
        }
    }
}
