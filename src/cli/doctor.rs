//! `fastvsr doctor`: what upscaling needs and what of it is here; for what is missing, the command that installs it.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, anyhow, bail};
use gstfastvsr::{
    engine::{self, Adapter, Cpu, Engine, Key, Provider, Runtime},
    model::{self, Source},
};

use crate::{
    models,
    upscaler::{self, Upscaler},
};

/// Say what is here, what is missing, and how to install it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Elements that upscaling needs, and Debian's packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("decodebin", "gstreamer1.0-plugins-base"),
    ("videoconvert", "gstreamer1.0-plugins-base"),
    ("deinterlace", "gstreamer1.0-plugins-good"),
    ("videoflip", "gstreamer1.0-plugins-good"),
    ("qtdemux", "gstreamer1.0-plugins-good"),
    ("matroskademux", "gstreamer1.0-plugins-good"),
    ("mp4mux", "gstreamer1.0-plugins-good"),
    ("matroskamux", "gstreamer1.0-plugins-good"),
    ("h264parse", "gstreamer1.0-plugins-bad"),
    ("x264enc", "gstreamer1.0-plugins-ugly"),
    ("avdec_h264", "gstreamer1.0-libav"),
];

/// Elements that some files and options need.
const WELCOME: &[(&str, &str, &str)] = &[
    ("avdec_h265", "gstreamer1.0-libav", "H.265 input"),
    ("x265enc", "gstreamer1.0-plugins-bad", "--codec h265"),
    ("av1enc", "gstreamer1.0-plugins-bad", "--codec av1"),
    ("ivtc", "gstreamer1.0-plugins-bad", "--deinterlace film"),
    ("vp9enc", "gstreamer1.0-plugins-good", ".webm output"),
    ("avenc_aac", "gstreamer1.0-libav", "audio that .mp4 cannot hold"),
    ("opusenc", "gstreamer1.0-plugins-base", "audio that .webm cannot hold"),
    ("pngenc", "gstreamer1.0-plugins-good", "fastvsr compare"),
    ("textoverlay", "gstreamer1.0-x", "fastvsr compare"),
];

/// Size of the frame that is upscaled to see whether it works.
const FRAME: (u32, u32) = (320, 180);

/// CPU features that decide the speed, as Linux names them.
const FEATURES: &[&str] = &["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16"];

/// Runs the command; succeeds if upscaling works.
pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    let mut fixes = Vec::new();
    println!("fastvsr      {}", env!("CARGO_PKG_VERSION"));
    println!("GStreamer    {}", gst::version_string().trim_start_matches("GStreamer "));
    elements(&mut fixes);
    cpu();
    gpus();
    let works = match upscaler::runtime() {
        Ok(runtime) => {
            println!("runtime      ONNX Runtime {}", version(runtime));
            println!("             {}", runtime.library.display());
            providers(runtime)
        }
        Err(err) => {
            println!("runtime      missing: {err:#}");
            false
        }
    };
    if !works {
        fixes.push("pip install onnxruntime-openvino, in an active Python environment".into());
    }
    for package in models::all() {
        match package.manifest {
            Ok(manifest) => println!("model        {} {} ({})", package.name, manifest.version, package.place),
            Err(err) => println!("model        {}: unusable: {err:#}", package.name),
        }
    }
    if fixes.is_empty() {
        println!("\nUpscaling works.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nUpscaling does not work. What mends it:");
    fixes.iter().for_each(|fix| println!("    {fix}"));
    Ok(ExitCode::FAILURE)
}

fn elements(fixes: &mut Vec<String>) {
    let missing = |name: &str| gst::ElementFactory::find(name).is_none();
    let mut packages = Vec::new();
    for (name, package) in NEEDED.iter().filter(|(name, _)| missing(name)) {
        println!("element      {name} is missing ({package})");
        packages.push(*package);
    }
    if packages.is_empty() {
        println!("elements     all {} that upscaling needs", NEEDED.len());
    } else {
        packages.sort_unstable();
        packages.dedup();
        fixes.push(format!("apt install {}", packages.join(" ")));
    }
    for (name, package, purpose) in WELCOME.iter().filter(|(name, ..)| missing(name)) {
        println!("optional     {name} is missing, for {purpose}: apt install {package}");
    }
}

fn cpu() {
    let cpu = Cpu::here();
    let found: Vec<&str> = FEATURES.iter().copied().filter(|feature| cpu.has(feature)).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("CPU          {cores} x {}", cpu.model);
    println!("             {}", if found.is_empty() { "no wide vectors".into() } else { found.join(", ") });
}

fn gpus() {
    let models = engine::gpu_models();
    if models.is_empty() {
        println!("GPU          no NVIDIA driver");
    }
    models.iter().for_each(|model| println!("GPU          {model}"));
    match engine::adapters() {
        Ok(adapters) => {
            for Adapter { name, is_software } in adapters {
                println!("Vulkan       {name}{}", if is_software { ", a program on the CPU" } else { "" });
            }
        }
        Err(reason) => println!("Vulkan       {reason}"),
    }
}

/// Lets the embedded model upscale with each provider; whether any does.
fn providers(runtime: &'static Runtime) -> bool {
    let mut works = false;
    for provider in Provider::ALL {
        let key = Key { source: Source::Embedded, provider: Some(provider), device_id: 0, precision: None };
        let tried = Engine::open(runtime, &key).map_err(|err| anyhow!("{err}"));
        match tried.and_then(|engine| Ok((engine.device().precision.name(), frame(provider)?))) {
            Ok((precision, time)) => {
                let milliseconds = time.as_secs_f64() * 1e3;
                println!(
                    "provider     {:<12} works, in {precision}: {}x{} in {milliseconds:.0} ms a frame",
                    provider.name(),
                    FRAME.0,
                    FRAME.1
                );
                works = true;
            }
            Err(err) => println!("provider     {:<12} no: {err:#}", provider.name()),
        }
    }
    works
}

/// How long one frame takes, after one that waits for the provider to set itself up.
fn frame(provider: Provider) -> Result<Duration> {
    let upscaler = Upscaler::new(model::DEFAULT, provider.name(), 1);
    let times = upscaler::measure(&upscaler, FRAME, 2, Duration::MAX)?;
    match times[..] {
        [first, second] => Ok(second - first),
        _ => bail!("the model gave {} frames: expected 2", times.len()),
    }
}

/// The version in the name of the library, where there is one.
fn version(runtime: &Runtime) -> String {
    let real = runtime.library.canonicalize().unwrap_or_else(|_| runtime.library.clone());
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("libonnxruntime.so.").unwrap_or("of unknown version").to_string()
}
