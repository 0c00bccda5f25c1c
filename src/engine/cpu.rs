//! Owns what Linux tells of the CPU.

use std::fs;

/// The CPU, empty where Linux does not tell.
#[derive(Debug, Default)]
pub struct Cpu {
    /// Its name.
    pub model: String,
    vendor: String,
    flags: Vec<String>,
}

impl Cpu {
    /// The one that this runs on.
    pub fn here() -> Self {
        Self::parse(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Self {
        let field = |names: &[&str]| {
            let mut fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(name, _)| names.contains(&name.trim())).map_or("", |(_, value)| value.trim())
        };
        Self {
            model: field(&["model name", "Hardware"]).into(),
            vendor: field(&["vendor_id"]).into(),
            flags: field(&["flags", "Features"]).split(' ').map(String::from).collect(),
        }
    }

    /// Whether it has a feature, by Linux' name.
    pub fn has(&self, feature: &str) -> bool {
        self.flags.iter().any(|flag| flag == feature)
    }

    /// Whether AMD made it.
    pub(super) fn is_of_amd(&self) -> bool {
        self.vendor == "AuthenticAMD"
    }
}
