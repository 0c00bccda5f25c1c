//! Owns what Vulkan knows of the machine's GPUs: WebGPU reaches them through it, and does not say which it took.

use ash::{Entry, vk};

/// A device that Vulkan can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its name, as its driver has it.
    pub name: String,
    /// Whether it is a program that runs on the CPU.
    pub is_software: bool,
}

/// The devices that Vulkan can use.
///
/// # Errors
/// If the loader is missing, or no driver: in words, with what brings it.
pub fn adapters() -> Result<Vec<Adapter>, String> {
    // SAFETY: the system's Vulkan loader, which is made to be loaded.
    let entry = unsafe { Entry::load() }
        .map_err(|err| format!("Vulkan's loader is missing: `apt install libvulkan1` brings it ({err})"))?;
    let no_driver = |err: vk::Result| {
        format!("Vulkan finds no driver: install the GPU's, or `apt install mesa-vulkan-drivers` ({err})")
    };
    // SAFETY: nothing is asked for that could be missing, and the instance is destroyed below.
    let instance = unsafe { entry.create_instance(&vk::InstanceCreateInfo::default(), None) }.map_err(no_driver)?;
    // SAFETY: the instance lives.
    let devices = unsafe { instance.enumerate_physical_devices() };
    let adapters = devices.map(|devices| {
        let adapter = |device| {
            // SAFETY: a device of this instance.
            let facts = unsafe { instance.get_physical_device_properties(device) };
            let name =
                facts.device_name_as_c_str().map_or("unnamed".into(), |name| name.to_string_lossy().into_owned());
            Adapter { name, is_software: facts.device_type == vk::PhysicalDeviceType::CPU }
        };
        devices.into_iter().map(adapter).collect::<Vec<_>>()
    });
    // SAFETY: nothing of it is used any more.
    unsafe { instance.destroy_instance(None) };
    let adapters = adapters.map_err(no_driver)?;
    if adapters.is_empty() { Err(no_driver(vk::Result::ERROR_INCOMPATIBLE_DRIVER)) } else { Ok(adapters) }
}
