//! Removes secrets from URLs that are shown.
//!
//! *Not here*: what a URL means.
//!
//! *Invariants*: no URL is printed, logged or sent to another process with its secret part; only requests contain it.
//!
//! *Used by* all code that shows a URL.

/// Returns `url` without its password. A text that is no URL is treated in the same way.
pub(crate) fn without_secret(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((user, host)) = authority.rsplit_once('@') else { return url.to_owned() };
    match user.split_once(':') {
        Some((name, _)) => format!("{scheme}{name}:***@{host}{path}"),
        // A single word may be a token.
        None => format!("{scheme}***@{host}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens_are_left_out() {
        let cases = [
            ("http://me:word@proxy:3128/x", "http://me:***@proxy:3128/x"),
            ("http://me:w:o@rd@proxy", "http://me:***@proxy"),
            ("https://token@host/a@b", "https://***@host/a@b"),
            ("me:word@proxy:3128", "me:***@proxy:3128"),
            ("http://proxy:3128", "http://proxy:3128"),
            ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ];
        for (url, shown) in cases {
            assert_eq!(without_secret(url), shown);
        }
    }
}
