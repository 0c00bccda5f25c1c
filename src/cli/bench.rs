//! `fastvsr bench`: how fast each model runs on this machine, and up to which size that is real time.

use std::time::Duration;

use anyhow::Result;

use crate::{models, prewarm, upscaler, upscaler::Upscaler};

/// Measure this machine: milliseconds a frame for every model at several sizes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this model
    #[arg(long)]
    model: Option<String>,
    /// What runs the model
    #[arg(long, default_value = "auto", value_parser = upscaler::providers())]
    provider: String,
    /// A property of the element, as in --property precision=int8; may be given again
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = upscaler::property)]
    properties: Vec<(String, String)>,
    /// Input sizes
    #[arg(long, value_delimiter = ',', value_parser = prewarm::size, default_value = "160x90,320x180,480x270,640x360")]
    sizes: Vec<(u32, u32)>,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let found = models::all().into_iter().filter(|package| package.manifest.is_ok()).map(|package| package.name);
    let models: Vec<String> = args.model.clone().map_or_else(|| found.collect(), |model| vec![model]);
    println!("{:<20} {:<14} {:>10} {:>11} {:>9} {:>8}  real time", "model", "on", "input", "output", "ms/frame", "fps");
    for model in models {
        let properties = args.properties.clone();
        let upscaler = Upscaler { properties, ..Upscaler::new(&model, &args.provider, 0) };
        let scale = upscaler.scale()?;
        let engine = upscaler.engine()?;
        let device = format!("{} {}", engine.device().provider, engine.device().precision.name());
        for (width, height) in &args.sizes {
            let frame =
                mean(&upscaler::measure(&upscaler, (*width, *height), 100_000, Duration::from_secs(args.seconds))?);
            let fps = 1.0 / frame.as_secs_f64();
            let real_time = [60, 50, 30, 25, 24].into_iter().find(|rate| fps >= f64::from(*rate));
            println!(
                "{:<20} {device:<14} {:>10} {:>11} {:>9.1} {:>8.1}  {}",
                upscaler.model,
                format!("{width}x{height}"),
                format!("{}x{}", width * scale, height * scale),
                frame.as_secs_f64() * 1e3,
                fps,
                real_time.map_or_else(|| "no".into(), |rate| format!("at {rate} frames a second")),
            );
        }
    }
    Ok(())
}

/// Mean time between frames, without the first quarter, which comes while caches and clocks settle.
fn mean(times: &[Duration]) -> Duration {
    let times = &times[(times.len() / 4).min(times.len().saturating_sub(2))..];
    match times {
        [first, .., last] => (*last - *first) / (times.len() as u32 - 1),
        _ => Duration::MAX,
    }
}
