//! The versions of the CNI specification that the plugins speak.

use crate::error::CniError;

/// A version of the specification; later ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl CniVersion {
    /// Oldest first, as VERSION prints them.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// What an answer carries when the caller's version is unknown.
    pub const LATEST: Self = Self::V1_1_0;

    /// Parses `cniVersion`; one that is absent or empty means 0.2.0, as in libcni.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        if text.is_empty() {
            return Ok(Self::V0_2_0);
        }
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|version| version.as_str()).collect();
            CniError::incompatible_version(format!(
                "cniVersion {text:?} is not supported: use one of {}",
                known.join(", ")
            ))
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back() {
        for version in CniVersion::ALL {
            assert_eq!(CniVersion::parse(version.as_str()).unwrap(), version);
        }
    }

    #[test]
    fn an_empty_version_is_the_oldest_that_had_none() {
        assert_eq!(CniVersion::parse("").unwrap(), CniVersion::V0_2_0);
    }

    #[test]
    fn an_unknown_version_is_code_1_and_names_what_works() {
        for text in ["1.2.0", "2", "0.3", "1.0.0 "] {
            let error = CniVersion::parse(text).unwrap_err();

            assert_eq!(error.code, 1, "{text}");
            assert!(error.msg.contains("1.0.0"), "{}", error.msg);
        }
    }
}
