//! What came instead of what was asked for, in words.
//!
//! Purpose: telling a login page, an old copy of a cache or an empty file from damage. Not here: what makes an answer wrong.
//! Invariant: what a stranger sent is cut and cleaned before it is shown. Used by `read`.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::reason::{clean, title};

/// So much of an answer's beginning is kept to describe it by.
pub(super) const BEGINNING: usize = 1 << 10;

/// What is known of an answer besides its bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrived {
    /// Bytes of it that are to be used, if it says so.
    pub length: Option<u64>,
    /// Whether a whole file came where a part was asked for.
    pub is_whole: bool,
    /// The host that answered, when requests were sent on to another.
    pub redirected: Option<String>,
    /// Seconds that a cache has had it.
    pub age: Option<u64>,
    /// How its body begins, filled as it arrives.
    pub beginning: Arc<Mutex<Vec<u8>>>,
}

/// What an answer that is refused looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appearance(Box<str>);

impl Appearance {
    /// Describes an answer by what is known of it; of a file of this machine there is nothing to say.
    pub(super) fn new(arrived: Option<&Arrived>) -> Self {
        let Some(arrived) = arrived else { return Self::default() };
        let mut words = Vec::new();
        let beginning = arrived.beginning.lock();
        let text = String::from_utf8_lossy(&beginning);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('<') {
            words.push(match title(text) {
                Some(title) => format!("it is a web page, '{}': is there a login page on this network?", clean(title)),
                None => "it is a web page: is there a login page on this network?".to_owned(),
            });
        } else if beginning.is_empty() {
            words.push("it is empty".to_owned());
        }
        if let Some(host) = &arrived.redirected {
            words.push(format!("requests are sent on to {}", clean(host)));
        }
        if let Some(age) = arrived.age.filter(|age| *age > 0) {
            words.push(format!("a cache on the way has had it for {age} s"));
        }
        Self(words.join("; ").into())
    }

    /// Whether an answer begins like a web page.
    pub(super) fn is_page(arrived: &Arrived) -> bool {
        let beginning = arrived.beginning.lock();
        let text = String::from_utf8_lossy(&beginning).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
        ["<!doctype", "<html", "<head", "<?xml", "<!--", "<meta"].iter().any(|begin| text.starts_with(begin))
    }

    /// Whether there is anything to say.
    pub(super) fn is_plain(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Appearance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}
