//! Owns what Linux tells of the CPU.

use std::{collections::HashSet, fs, thread};

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

/// Threads that arithmetic is worth: one for each core on which this process may run, no more than its share of time pays for.
///
/// Two threads of one core share its arithmetic. Of a share, as containers have it, neither ONNX Runtime nor OpenVINO knows: what runs
/// on more cores than it pays for stands still for the rest of every tenth of a second.
pub(super) fn threads() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let siblings =
        |cpu: usize| fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok();
    // It knows both shares of time and the CPUs that are allowed.
    let available = thread::available_parallelism().map_or(1, usize::from);
    match cores(allowed, siblings) {
        0 => available,
        cores => cores.min(available),
    }
}

/// Cores of the CPUs in a list as `0-3,8`; `siblings` names the CPUs of the same core.
fn cores(allowed: &str, siblings: impl Fn(usize) -> Option<String>) -> usize {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let cpus = allowed.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(number(first)?..=number(last)?)
    });
    cpus.flatten().map(|cpu| siblings(cpu).unwrap_or_else(|| cpu.to_string())).collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_of_a_core_are_one_core() {
        let pairs = |cpu: usize| Some(format!("{},{}", cpu % 4, cpu % 4 + 4));
        assert_eq!(cores("\t0-7", pairs), 4);
        assert_eq!(cores("0-1,4", pairs), 2);
        assert_eq!(cores("0,4", pairs), 1);
        assert_eq!(cores("0-1,4", |_| None), 3);
        assert_eq!(cores("", pairs), 0);
    }

    #[test]
    fn there_is_a_thread_and_no_more_than_may_run() {
        let available = thread::available_parallelism().unwrap().get();
        assert!((1..=available).contains(&threads()));
    }
}
