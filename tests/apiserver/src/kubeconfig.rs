//! The file that makes `kubectl` talk to the server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Text of a kubeconfig for the server at `url` with its CA and a bearer token in it. The context's namespace is
/// `default`.
pub fn kubeconfig(url: &str, ca_pem: &str, token: &str) -> String {
    let user = format!("    token: {token}\n");
    render(url, ca_pem, &user)
}

/// The same with a client certificate instead of the token.
pub(crate) fn with_certificate(url: &str, ca_pem: &str, client_pem: &str, key_pem: &str) -> String {
    let user = format!(
        "    client-certificate-data: {}\n    client-key-data: {}\n",
        STANDARD.encode(client_pem),
        STANDARD.encode(key_pem)
    );
    render(url, ca_pem, &user)
}

fn render(url: &str, ca_pem: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: ocicat\n  cluster:\n    server: {url}\n    \
         certificate-authority-data: {}\nusers:\n- name: admin\n  user:\n{user}contexts:\n- name: ocicat\n  \
         context:\n    cluster: ocicat\n    user: admin\n    namespace: default\ncurrent-context: ocicat\n",
        STANDARD.encode(ca_pem)
    )
}
