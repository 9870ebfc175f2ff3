//! Describes a wrong answer for people: a login page, an old copy of a cache, or an empty file is told apart from
//! damage.
//!
//! *Not here*: what makes an answer wrong.
//!
//! *Invariants*: text from a server is shortened and cleaned before it is shown.
//!
//! *Used by* `read` and `http::response`.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::reason::{clean, title};

/// Bytes of an answer's beginning that are recorded for the description.
pub(super) const BEGINNING_SIZE: usize = 1 << 10;

/// The properties of an answer besides its bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct AnswerInfo {
    /// Number of bytes that are to be used, if the answer says so.
    pub(crate) length: Option<u64>,
    /// Whether the server sent a whole file instead of the requested part.
    pub(crate) is_whole: bool,
    /// The host that answered, if requests were redirected to another host.
    pub(crate) redirected: Option<String>,
    /// The age in seconds of a cached answer.
    pub(crate) age: Option<u64>,
    /// The beginning of the body, filled as it arrives.
    pub(crate) beginning: Arc<Mutex<Vec<u8>>>,
}

/// The description of an answer that was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appearance(Box<str>);

impl Appearance {
    /// Describes an answer by its properties. The description of a local file is empty.
    pub(super) fn new(arrived: Option<&AnswerInfo>) -> Self {
        let Some(arrived) = arrived else { return Self::default() };
        let mut remarks = Vec::new();
        let beginning = arrived.beginning.lock();
        let text = String::from_utf8_lossy(&beginning);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('<') {
            remarks.push(match title(text) {
                Some(title) => format!("it is a web page, '{}': is there a login page on this network?", clean(title)),
                None => "it is a web page: is there a login page on this network?".to_owned(),
            });
        } else if beginning.is_empty() {
            remarks.push("it is empty".to_owned());
        }
        if let Some(host) = &arrived.redirected {
            remarks.push(format!("requests are sent on to {}", clean(host)));
        }
        if let Some(age) = arrived.age.filter(|age| *age > 0) {
            remarks.push(format!("a cache on the way has had it for {age} s"));
        }
        Self(remarks.join("; ").into())
    }

    /// Returns whether an answer begins like a web page.
    pub(super) fn is_page(arrived: &AnswerInfo) -> bool {
        let beginning = arrived.beginning.lock();
        let text = String::from_utf8_lossy(&beginning).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
        ["<!doctype", "<html", "<head", "<?xml", "<!--", "<meta"].iter().any(|begin| text.starts_with(begin))
    }

    /// Returns whether the description is empty.
    pub(super) fn is_plain(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Appearance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}
