//! Makes the checked-in manifests out of their sources: the CRDs without their descriptions, the one file that
//! `kubectl apply -f` takes, and the Helm chart. Pure text: reads no file, talks to no cluster.

pub mod chart;
pub mod documents;
pub mod slim;
pub mod template;
