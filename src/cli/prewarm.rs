//! `fastvsr prewarm`: loads model and provider at a size once, which fills the caches of what compiles for a size
//! (TensorRT, OpenVINO), so that the first stream does not wait for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gstfastvsr::frames::Size;

use crate::upscaler::{self, Upscaler};

/// Load a model at a size, so that the first stream starts at once
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Input size, as in 640x360
    #[arg(value_parser = size)]
    size: (u32, u32),
    #[command(flatten)]
    upscaler: Upscaler,
}

/// Reads a size.
pub(crate) fn size(text: &str) -> Result<(u32, u32)> {
    let expected = || format!("expected WIDTHxHEIGHT, as in 640x360, got `{text}`");
    let (width, height) = text.split_once('x').with_context(expected)?;
    let (width, height) = (width.parse().ok().with_context(expected)?, height.parse().ok().with_context(expected)?);
    ensure!((1..=8192).contains(&width) && (1..=8192).contains(&height), "expected sides of 1 to 8192, got {text}");
    Ok((width, height))
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (width, height) = args.size;
    // The element would go on without what takes long to compile, and this process would end before that is done.
    args.upscaler.engine()?.prewarm(Size { width: width as usize, height: height as usize })?;
    let times = upscaler::measure(&args.upscaler, args.size, 2, Duration::MAX)?;
    let [first, second] = times[..] else { anyhow::bail!("the model gave {} frames: expected 2", times.len()) };
    println!(
        "{} at {width}x{height}: first frame after {:.2} s, the next after {:.0} ms",
        args.upscaler.model,
        first.as_secs_f64(),
        (second - first).as_secs_f64() * 1e3
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_two_numbers() {
        assert_eq!(size("640x360").unwrap(), (640, 360));
        for text in ["640", "640x", "x360", "0x4", "640x99999", "-1x4", "axb"] {
            assert!(format!("{:#}", size(text).unwrap_err()).contains("expected"), "{text}");
        }
    }
}
