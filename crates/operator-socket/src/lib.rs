//! A unix socket on which an operator looks into a program: framed prost for `ocicat`, gRPC for everything else.
//!
//! Owns the file, who may open it, how many clients there are, and the two languages as such. Never knows a call:
//! what is asked and answered is a [`Service`] of the program.

mod authority;
mod framed;
pub mod grpc;
mod socket;

pub use framed::Framed;
pub use socket::{ControlSocket, Service};
