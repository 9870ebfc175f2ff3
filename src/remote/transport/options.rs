//! How to talk to a remote.

/// Choices for a connection. All have defaults that suit a public web server.
#[derive(Debug, Clone, Default)]
pub struct TransportOptions {}
