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

    fn parse(text: &str) -> Self {
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

    /// Whether bfloat16 is its fastest: in its matrix units (AMX), and in AMD's vector units. In those of Intel's server CPUs
    /// without AMX it took 1.65 times as long as single precision.
    pub(super) fn has_fast_bf16(&self) -> bool {
        self.has("amx_bf16") || (self.has("avx512_bf16") && self.vendor == "AuthenticAMD")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_is_fast_in_matrix_units_and_in_those_of_amd() {
        let fast = |vendor: &str, flags: &str| {
            Cpu::parse(&format!("processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n")).has_fast_bf16()
        };
        assert!(fast("GenuineIntel", "fpu avx512_bf16 amx_bf16 amx_tile"));
        assert!(fast("AuthenticAMD", "fpu avx512_bf16 avx512_vnni"));
        assert!(!fast("GenuineIntel", "fpu avx512_bf16 avx512_vnni"));
        assert!(!fast("AuthenticAMD", "fpu avx2"));
        assert!(!Cpu::parse("").has_fast_bf16());
    }
}
