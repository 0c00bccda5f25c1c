//! Owns the plan that keeps a stream within a limit of memory: made before the first frame, from the model's manifest.

use super::{error::Error, tiles::Tiling};
use crate::{
    frames::{RGB, Size},
    model::Manifest,
};

/// What ONNX Runtime and a model take before the first frame (measured: 48 MB with the CPU provider, 103 MB with
/// OpenVINO, for the whole process).
const BASE: usize = 128 << 20;

/// One part in so many of the limit is left for what allocators keep.
const SPARE: usize = 32;

/// Smallest core of a tile that is worth its halo, in input pixels along a side.
const SMALLEST_CORE: usize = 32;

/// How frames of the padded size `size` are cut where nothing limits the memory: only if the graph takes no frames as large.
pub(super) fn unlimited(manifest: &Manifest, size: Size) -> Option<Tiling> {
    manifest.fixed().filter(|fixed| *fixed != size).map(Tiling::Fixed)
}

/// Cuts frames of the padded size `size` into tiles if windows of `window` frames would need more than `limit` bytes, with
/// `callers` bytes that the caller needs.
///
/// # Errors
/// If no tile is small enough, or the model does not say what it needs.
pub(super) fn plan(
    manifest: &Manifest,
    size: Size,
    window: usize,
    limit: u64,
    callers: usize,
) -> Result<Option<Tiling>, Error> {
    let too_little = |needed: usize, reason: &'static str| Error::Memory {
        size: format!("{}x{}", size.width, size.height),
        needed: (needed + needed / (SPARE - 1)).div_ceil(1 << 20),
        limit: limit >> 20,
        reason,
    };
    let limit_bytes = usize::try_from(limit).unwrap_or(usize::MAX);
    let usable = limit_bytes - limit_bytes / SPARE;
    let pixels = size.width * size.height;
    let count = manifest.frames_a_run(window);
    let working = manifest.geometry.memory * count;
    // A plain network's frames wait as long as others still see them.
    let waiting = if manifest.is_plain() { window + manifest.time.look_back } else { count };
    let (state, latent) = (state_per_pixel(manifest), latent_per_pixel(manifest));
    let held = BASE + callers + pixels * frames_per_pixel(manifest, waiting);
    if working == 0 {
        return Err(too_little(
            held,
            "the model's manifest has no `geometry.memory`, so it cannot be kept within a limit",
        ));
    }
    let reason = "raise `max-memory`, or make the frames smaller";
    if let Some(fixed) = manifest.fixed() {
        let needed = held + fixed.width * fixed.height * working;
        return if needed <= usable { Ok(unlimited(manifest, size)) } else { Err(too_little(needed, reason)) };
    }
    if held + pixels * (latent + 2 * state + working) <= usable {
        return Ok(None);
    }
    let multiple = manifest.geometry.multiple;
    let halo =
        manifest.stages().map(|(_, stage)| stage.halo.unwrap_or(0)).max().unwrap_or(0).next_multiple_of(multiple);
    // In half precision and in place, but for the new state of tiles whose old one is still to be read.
    let held = held + pixels * (latent + state) / 2;
    let needed = |side: usize| {
        let rows = halo.div_ceil(side);
        let waiting = rows * size.width * side + (rows + 1) * side * side;
        held + waiting.min(pixels) * state / 2 + (side + 2 * halo).pow(2) * working
    };
    let smallest = SMALLEST_CORE.max(manifest.geometry.minimum).next_multiple_of(multiple);
    let largest = size.width.max(size.height);
    let side = (smallest..=largest).step_by(multiple).take_while(|side| needed(*side) <= usable).last();
    let side = side.ok_or_else(|| too_little(needed(smallest), reason))?;
    Ok(Some(Tiling::Limited { side, multiple }))
}

/// Bytes per input pixel of recurrent state in single precision.
fn state_per_pixel(manifest: &Manifest) -> usize {
    let states = manifest.stages().flat_map(|(_, stage)| &stage.state);
    states.map(|state| 4 * state.channels / (state.stride * state.stride)).sum()
}

/// Bytes per input pixel of the latents between stages, in single precision: as large as the state beside them, or smaller
/// than the frames.
fn latent_per_pixel(manifest: &Manifest) -> usize {
    let states = manifest.stages().flat_map(|(_, stage)| &stage.state).filter(|state| state.stride > 1);
    states.map(|state| 2 * 4 * state.channels / (state.stride * state.stride)).sum()
}

/// Bytes per input pixel of frames: those that come in, in the stream's format, in what lies between it and RGB, and as
/// tensors, and the one that goes out.
fn frames_per_pixel(manifest: &Manifest, count: usize) -> usize {
    let scale = manifest.geometry.scale;
    2 * RGB * (count + 1) + RGB * scale * scale
}

/// The next smaller tiles after the device ran out of memory; none if there are no smaller ones, or the model does not
/// say how far it sees.
pub(super) fn step_down(manifest: &Manifest, size: Size, tiling: Option<Tiling>) -> Option<Tiling> {
    let multiple = manifest.geometry.multiple;
    let tileable = manifest.fixed().is_none() && manifest.stages().all(|(_, stage)| stage.halo.is_some());
    let side = tiling.map_or(size.width.max(size.height), Tiling::side);
    let next = (side / 2).next_multiple_of(multiple);
    let smallest = SMALLEST_CORE.max(manifest.geometry.minimum);
    (tileable && next >= smallest && next < side).then_some(Tiling::Limited { side: next, multiple })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Source;

    const HD: Size = Size { width: 1920, height: 1080 };

    fn compact_s() -> Manifest {
        Source::Embedded.manifest().unwrap()
    }

    #[test]
    fn what_fits_is_not_cut() {
        let small = Size { width: 320, height: 184 };
        assert_eq!(plan(&compact_s(), small, 1, 2 << 30, 0).unwrap(), None);
    }

    #[test]
    fn tiles_get_smaller_with_the_limit() {
        let side = |limit| plan(&compact_s(), HD, 1, limit, 0).unwrap().unwrap().side();
        assert!(side(2 << 30) > side(3 << 29));
        assert!(side(3 << 29).is_multiple_of(8));
    }

    #[test]
    fn what_the_caller_needs_makes_tiles_smaller() {
        let side = |callers| plan(&compact_s(), HD, 1, 2 << 30, callers).unwrap().unwrap().side();
        assert!(side(200 << 20) < side(0));
    }

    #[test]
    fn ultra_high_definition_fits_two_gigabytes() {
        let size = Size { width: 3840, height: 2160 };
        let frame = size.scaled(4).rgb_bytes();
        let side = plan(&compact_s(), size, 1, 2_000_000_000, frame).unwrap().unwrap().side();
        assert!((192..480).contains(&side), "{side}");
    }

    #[test]
    fn a_limit_that_is_too_low_says_what_is_needed() {
        let message = plan(&compact_s(), HD, 1, 200 << 20, 0).unwrap_err().to_string();
        assert!(message.contains("1920x1080") && message.contains("200 MiB"), "{message}");
    }
}
