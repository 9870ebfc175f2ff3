//! The text of an error with its causes.
//!
//! *Used by* every layer that logs an error or keeps its text.

use std::error::Error;

/// Returns an error and its causes on one line. A cause that the text already ends with is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Example {
        #[error("cannot write it")]
        Write(#[source] std::io::Error),
        #[error("{0}")]
        Wrapped(#[source] Box<Self>),
    }

    #[test]
    fn repeated_causes_are_left_out() {
        let inner = Example::Write(std::io::Error::other("no space"));
        assert_eq!(chain(&Example::Wrapped(Box::new(inner))), "cannot write it: no space");
    }
}
