//! How to talk to a remote.

/// Choices for a connection. All have defaults that suit a public web server.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TransportOptions {}
