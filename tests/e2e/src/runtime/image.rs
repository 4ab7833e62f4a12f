//! An image for runtimes that may not pull one: Debian's static busybox and nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the image is called.
pub const IMAGE: &str = "docker.io/lab/busybox:1";

/// Writes an OCI archive; `scratch` is made and may be thrown away.
pub(super) fn write(archive: &Path, scratch: &Path) {
    let root = scratch.join("root");
    for directory in ["bin", "etc", "tmp", "proc", "sys", "dev", "run", "www"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.exists()).expect("Debian package busybox-static");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for applet in ["sh", "sleep", "httpd", "ip", "cat"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    fs::write(root.join("www/index.html"), "hello\n").unwrap();

    let layout = scratch.join("oci");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let layer_file = scratch.join("layer.tar");
    tar(&root, &layer_file);
    let layer = blob(&blobs, &fs::read(&layer_file).unwrap(), "application/vnd.oci.image.layer.v1.tar");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "3600"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(&blobs, config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    let mut manifest =
        blob(&blobs, manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] =
        json!({"io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string()).unwrap();
    tar(&layout, archive);
}

/// Stores a blob under its digest and describes it.
fn blob(directory: &Path, bytes: &[u8], media_type: &str) -> Value {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(directory.join(&digest), bytes).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
}

fn tar(directory: &Path, archive: &Path) {
    let status =
        Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(archive).arg(".").status().unwrap();
    assert!(status.success(), "tar of {}", directory.display());
}
