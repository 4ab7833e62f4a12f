//! Container runtimes as Debian packages them, each inside a lab node's network namespace with a mount namespace of
//! its own: they run the real CNI plugin as they would on a machine.

mod containerd;
mod cri;
mod image;
mod node_pod;
mod podman;
mod room;

pub use containerd::{Containerd, PodSpec};
pub use cri::Cri;
pub use image::IMAGE;
pub use node_pod::NodePod;
pub use podman::Podman;
