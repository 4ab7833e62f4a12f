//! What a DEL leaves for an agent that is away: one file a container, holding one framed request.
//!
//! The agent takes them when it comes back, before it gives the same container addresses again; from then on they
//! are its own (`proto::node::DEL_QUEUE`).

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use proto::encode_frame;
use proto::node::request::{Call, EndpointDown};
use proto::node::{DEL_QUEUE, Request};

/// Stores the call beside `socket`. The file is complete or absent, whatever happens meanwhile.
pub fn put(socket: &Path, call: &EndpointDown) -> io::Result<()> {
    let directory = socket.parent().unwrap_or(Path::new("/")).join(DEL_QUEUE);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let name = file_name(call);
    // The agent leaves names with a dot in front alone.
    let temporary = directory.join(format!(".{name}"));
    let bytes = encode_frame(&Request { call: Some(Call::EndpointDown(call.clone())) });
    let written = write_new(&temporary, &bytes).and_then(|()| fs::rename(&temporary, directory.join(&name)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The container ID; a second interface of a container has its name behind.
fn file_name(call: &EndpointDown) -> String {
    let attachment = call.attachment.clone().unwrap_or_default();
    match attachment.interface.as_str() {
        "" | "eth0" => attachment.container_id,
        interface => format!("{}@{interface}", attachment.container_id),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proto::decode_frame;
    use proto::node::request::Attachment;

    use super::*;

    fn down(container_id: &str, interface: &str) -> EndpointDown {
        let (container_id, interface) = (container_id.to_owned(), interface.to_owned());
        let attachment = Attachment { container_id, interface, ..Attachment::default() };
        EndpointDown { attachment: Some(attachment), addresses_only: false }
    }

    #[test]
    fn a_call_waits_in_a_private_file_of_its_own() {
        let directory = std::env::temp_dir().join(format!("cni-queue-{}", std::process::id()));
        let socket = directory.join("felix.sock");

        for call in [down("c1", "eth0"), down("c1", "net1"), down("c1", "eth0")] {
            put(&socket, &call).unwrap();
        }

        let queue = directory.join("cni-del");
        let mut names: Vec<_> =
            fs::read_dir(&queue).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["c1", "c1@net1"], "and no temporary file stays behind");
        for (name, interface) in [("c1", "eth0"), ("c1@net1", "net1")] {
            assert_eq!(fs::metadata(queue.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
            let bytes = fs::read(queue.join(name)).unwrap();
            let (request, _) = decode_frame::<Request>(&bytes).unwrap().unwrap();
            assert_eq!(request.call, Some(Call::EndpointDown(down("c1", interface))));
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
