//! Owns the measuring of plain ONNX files: what their manifests would say is found by running them on small frames of noise. It
//! takes some seconds once; what was found is kept in the user's cache folder, by the file's hash.
//!
//! - The multiple is the smallest of which frames of several sizes run, and become as many times as large.
//! - The halo is how far a change in the middle of a frame is seen. That misses what these frames do not bring about: a part of
//!   the network that stays silent on noise. So the promise itself is tried, too: a tile must make what the whole frame made
//!   there. A network that sees the whole frame, or is too slow for all this, has no halo, and cannot be kept within `max-memory`.
//! - The memory is what the process has more of after a run on the CPU; what another provider takes is not known.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use ort::environment::Environment;

use super::{cache, device::Device, error::Error, plain::Plain, provider::Provider, stage::Stage, worker::Ticket};
use crate::{
    frames::{RGB, Size},
    model::{Graph, MANIFEST, Manifest, PlainFile},
    tiling::{Layout, Rect},
};

/// Multiples that are tried, in this order: those of what the smallest takes are taken too.
const MULTIPLES: [usize; 19] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48, 64, 128];

/// What a tile's place may have to be a multiple of, by the frame's: networks that pad frames to windows of their own take any
/// frame, and lay their windows from its corner.
const STEPS: [usize; 10] = [1, 2, 3, 4, 6, 7, 8, 16, 32, 64];

/// Sides of the frames in which a change is followed.
const SIDES: [usize; 4] = [64, 128, 256, 512];

/// A change that is seen, where white is 1: a smaller part of a level moves no pixel but one at the brink.
const SEEN: f32 = 1.0 / 256.0 / 255.0;

/// How much a tile may differ from the whole frame: half a level.
const SAME: f32 = 0.5 / 255.0;

/// Frames of noise in which a change is followed.
const SEEDS: u64 = 3;

/// The longest run, and the longest search for the halo: a network that is slower is used without one.
const LONGEST_RUN: Duration = Duration::from_secs(8);
const LONGEST_SEARCH: Duration = Duration::from_secs(40);

/// What a plain file does not say, and nobody can see from outside.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// White in its frames, 1 or 255.
    pub range: u8,
    /// Frames before and after the one that it makes larger, of those that it sees at once; `None`: it is to be found out.
    pub context: Option<[usize; 2]>,
}

impl Default for Known {
    /// White is 1, as nearly everywhere.
    fn default() -> Self {
        Self { range: 1, context: None }
    }
}

/// The manifest of a plain file, as text.
///
/// # Errors
/// If the file is no plain network; [`Error::Cancelled`] if `ticket` was.
pub(super) fn manifest(
    environment: &Environment,
    file: &PlainFile,
    known: Known,
    ticket: &Ticket,
) -> Result<String, Error> {
    let key = format!("fastvsr {}\n{}\n{known:?}\n", env!("CARGO_PKG_VERSION"), file.fingerprint());
    cache::compiled(cache::root("measured").as_deref(), &key, |folder| {
        let kept = folder.map(|folder| folder.join(MANIFEST));
        if let Some(text) = kept.as_ref().and_then(|kept| fs::read_to_string(kept).ok())
            && Manifest::parse(&text).is_ok()
        {
            return Ok(text);
        }
        let text = measure(environment, file, known, ticket).map_err(|err| match err {
            _ if ticket.is_cancelled() => Error::Cancelled,
            Refusal::Words(words) => Error::Model(anyhow!("`{}` cannot be used as it is: {words}", file.name())),
            Refusal::Error(err) => err,
        })?;
        if ticket.is_cancelled() {
            // Runs that were interrupted look like sizes that it does not take.
            return Err(Error::Cancelled);
        }
        if let Some(kept) = kept {
            // What cannot be kept is measured again.
            let _ = fs::write(kept, &text);
        }
        Ok(text)
    })
}

/// Why a file is not used.
enum Refusal {
    Words(String),
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        match err {
            Error::Signature { detail, .. } => Self::Words(detail),
            Error::Graph { reason, .. } => Self::Words(format!(
                "expected an ONNX network, got a file that ONNX Runtime cannot load: {reason}; is it whole, and does data \
                 that it names lie beside it as FILE.onnx.data?"
            )),
            err => Self::Error(err),
        }
    }
}

fn measure(environment: &Environment, file: &PlainFile, known: Known, ticket: &Ticket) -> Result<String, Refusal> {
    let draft = file.manifest("scale = 1\n", "", &format!("range = {}\n", known.range));
    let package = file.clone().package(&draft).map_err(Error::Model)?;
    let [graph] = &package.graphs[..] else { unreachable!("a plain network is one graph") };
    let mut network = Network::load(environment, graph, known, ticket)?;
    let size = network.plain.size;
    let (scale, multiple, minimum) = match size {
        Some(size) => (network.scale(size).map_err(Refusal::Words)?, 1, 0),
        None => network.grid().map_err(Refusal::Words)?,
    };
    network.scale = scale;
    let [back, ahead] = network.context(known, multiple.max(minimum)).map_err(Refusal::Words)?;
    let (multiple, halo) = match size {
        Some(size) => (1, network.reach(size, 1)),
        None => network.halo(multiple, minimum).map_or((multiple, None), |(multiple, halo)| (multiple, Some(halo))),
    };
    let minimum = minimum.next_multiple_of(multiple);
    let memory =
        network.memory(environment, graph, known, multiple.max(minimum))?.filter(|_| halo.is_some() || size.is_some());

    let line = |name: &str, value: usize, default: usize| {
        if value == default { String::new() } else { format!("{name} = {value}\n") }
    };
    let size = size.map_or(String::new(), |size| format!("size = [{}, {}]\n", size.width, size.height));
    Ok(file.manifest(
        &(line("scale", scale, 0)
            + &line("multiple", multiple, 1)
            + &line("minimum", minimum, 0)
            + &size
            + &line("memory", memory.unwrap_or(0), 0)),
        &(line("look-back", back, 0) + &line("look-ahead", ahead, 0)),
        &(line("range", known.range.into(), 0) + &halo.map_or(String::new(), |halo| format!("halo = {halo}\n"))),
    ))
}

/// A plain network on the CPU.
struct Network<'a> {
    stage: Stage,
    plain: Plain,
    ticket: &'a Ticket,
    scale: usize,
    white: f32,
    /// How long the last run took for each pixel of its frame.
    pace: Duration,
}

impl<'a> Network<'a> {
    fn load(environment: &Environment, graph: &Graph, known: Known, ticket: &'a Ticket) -> Result<Self, Refusal> {
        let device = Device::new(Provider::Cpu, None, 0, false)?;
        let stage = Stage::load(environment, device, graph, None, &Default::default(), None, ticket)?;
        let mut plain = stage.plain.clone().expect("the manifest says that it is one");
        let count = known.context.map(|[before, after]| before + 1 + after);
        match (plain.frames, count) {
            (0, None) => return Err(Refusal::Words(by_manifest("a graph that takes any number of them", 3))),
            (0, Some(count)) => plain.frames = count,
            (frames, Some(count)) if frames != count => {
                let words = format!(
                    "expected {frames} frames, which it takes at once, as look-back + 1 + look-ahead, got {count}"
                );
                return Err(Refusal::Words(words));
            }
            _ => {}
        }
        let white = f32::from(known.range);
        Ok(Self { stage, plain, ticket, scale: 1, white, pace: Duration::ZERO })
    }

    /// Runs planes of floats, of all frames that it takes at once, of `size`; gives the planes of the frame that it makes, and its
    /// size.
    fn run(&mut self, size: Size, planes: Vec<f32>) -> ort::Result<(Vec<f32>, Size)> {
        let begin = Instant::now();
        let input = self.plain.tensor(self.plain.frames, size, planes)?;
        let made = self.stage.infer(&input, self.ticket)?;
        let pixels = size.width * size.height;
        // What a small frame takes has little to do with its pixels.
        if pixels >= 1 << 10 {
            self.pace = begin.elapsed() / pixels as u32;
        }
        Ok((self.plain.floats(&made)?, self.plain.size_of(made.shape())?))
    }

    fn noise(&self, size: Size, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            // SplitMix64 (Steele, Lea and Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32 * self.white
        };
        (0..self.plain.frames * size.rgb_bytes()).map(|_| next()).collect()
    }

    /// Noise that becomes brighter to the right and below, so that no part of it is like the whole.
    fn slope(&self, size: Size, seed: u64) -> Vec<f32> {
        let mut planes = self.noise(size, seed);
        for (n, value) in planes.iter_mut().enumerate() {
            let (x, y) = (n % size.width, n / size.width % size.height);
            *value *= (x + y + 1) as f32 / (size.width + size.height) as f32;
        }
        planes
    }

    /// How many times as large frames of `size` become.
    fn scale(&mut self, size: Size) -> Result<usize, String> {
        let noise = self.noise(size, 0);
        let (width, height) = (size.width, size.height);
        let (_, made) =
            self.run(size, noise).map_err(|err| format!("expected it to run on {width}x{height}, got: {err}"))?;
        let scale = made.width / width;
        if !(1..=16).contains(&scale) || made != size.scaled(scale) {
            return Err(format!(
                "expected frames that become 1 to 16 times as large along both axes, whatever their size, got {}x{} out of \
                 {width}x{height}",
                made.width, made.height
            ));
        }
        Ok(scale)
    }

    /// The scale, of what the sides must be a multiple, and the shortest side where that is longer.
    fn grid(&mut self) -> Result<(usize, usize, usize), String> {
        let mut refused = None;
        for multiple in MULTIPLES {
            // Four multiples in a row leave every rest, divided by four; some networks reflect more than a small frame has.
            let sides = [1, 2, 3, 4].map(|n| (32 / multiple + n) * multiple);
            let scales =
                [(0, 1), (2, 3)].map(|(width, height)| self.scale(Size { width: sides[width], height: sides[height] }));
            match scales {
                [Ok(one), Ok(other)] if one == other => {
                    let mut side = multiple;
                    while side < sides[0] && self.scale(Size { width: side, height: side }) != Ok(one) {
                        side *= 2;
                    }
                    return Ok((one, multiple, if side == multiple { 0 } else { side }));
                }
                [one, other] => {
                    let differ = || {
                        "expected frames that become as many times as large whatever their size, got a scale that \
                         changes with it"
                            .into()
                    };
                    refused.get_or_insert_with(|| one.err().or(other.err()).unwrap_or_else(differ));
                }
            }
        }
        Err(refused.expect("multiples were tried"))
    }

    /// The frames before and after the one that it makes larger, of those that it takes at once: the only one that the output is
    /// like.
    fn context(&mut self, known: Known, multiple: usize) -> Result<[usize; 2], String> {
        let count = self.plain.frames;
        if let Some(context) = known.context.or((count == 1).then_some([0, 0])) {
            return Ok(context);
        }
        let side = 64usize.next_multiple_of(multiple);
        let size = self.plain.size.unwrap_or(Size { width: side, height: side });
        // Noise would be taken for noise: squares of several pixels are a picture.
        let mut planes = self.noise(size, 0);
        for plane in planes.chunks_exact_mut(size.width * size.height) {
            for n in 0..plane.len() {
                let (x, y) = (n % size.width, n / size.width);
                plane[n] = plane[y / 8 * 8 * size.width + x / 8 * 8];
            }
        }
        let (made, size_hr) = self.run(size, planes.clone()).map_err(|err| err.to_string())?;
        let centre = |n: usize| {
            let (plane, rest) = (n / (size.width * size.height), n % (size.width * size.height));
            let (x, y) = (rest % size.width * self.scale, rest / size.width * self.scale);
            made[(plane * size_hr.height + y + self.scale / 2) * size_hr.width + x + self.scale / 2]
        };
        let small: Vec<f32> = (0..size.rgb_bytes()).map(centre).collect();
        let likeness: Vec<f32> =
            planes.chunks_exact(size.rgb_bytes()).map(|frame| correlation(frame, &small)).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|a, b| likeness[*b].total_cmp(&likeness[*a]));
        if likeness[order[0]] < 0.5 || likeness[order[1]] > 0.7 * likeness[order[0]] {
            let got = format!("a graph that takes {count}, and it cannot be seen which of them it makes larger");
            return Err(by_manifest(&got, count));
        }
        Ok([order[0], count - 1 - order[0]])
    }

    /// How far the network sees around a block of `step` pixels; `None` if to the frame's edge.
    fn reach(&mut self, size: Size, step: usize) -> Option<usize> {
        let middle = |side: usize| side / 2 / step * step;
        let block = Rect { x: middle(size.width), y: middle(size.height), size: Size { width: step, height: step } };
        let (white, mut most) = (self.white, 0);
        for seed in 0..SEEDS {
            let mut planes = self.slope(size, seed);
            let (before, _) = self.run(size, planes.clone()).ok()?;
            for plane in planes.chunks_exact_mut(size.width * size.height) {
                // All of one level, so that no mean stays what it was.
                let level = if plane[block.y * size.width + block.x] < white / 2.0 { white } else { 0.0 };
                for row in plane.chunks_exact_mut(size.width).skip(block.y).take(step) {
                    row[block.x..block.x + step].fill(level);
                }
            }
            let (after, size_hr) = self.run(size, planes).ok()?;
            let away = |at: usize, from: usize| from.saturating_sub(at).max((at + 1).saturating_sub(from + step));
            for n in (0..after.len()).filter(|n| (after[*n] - before[*n]).abs() > SEEN * white) {
                let (x, y) = (n % size_hr.width / self.scale, n / size_hr.width % size_hr.height / self.scale);
                if x == 0 || y == 0 || x + 1 == size.width || y + 1 == size.height {
                    return None;
                }
                most = most.max(away(x, block.x)).max(away(y, block.y));
            }
        }
        Some(most)
    }

    /// The multiple at which tiles make what the whole frame makes, and the halo that they need for that; `None` if none do.
    fn halo(&mut self, multiple: usize, minimum: usize) -> Option<(usize, usize)> {
        let begin = Instant::now();
        for step in STEPS.map(|step| step * multiple) {
            let mut found = None;
            for side in SIDES.map(|side| side.max(minimum).max(4 * step).next_multiple_of(step)) {
                if self.pace * (side * side) as u32 > LONGEST_RUN || begin.elapsed() > LONGEST_SEARCH {
                    return None;
                }
                found = self.reach(Size { width: side, height: side }, step);
                if found.is_some() {
                    break;
                }
            }
            let halo = found?;
            if self.is_seamless(step, halo, minimum) {
                return Some((step, halo));
            }
        }
        None
    }

    /// Whether a tile whose edges lie at multiples of `step` makes, `halo` pixels from them, what the whole frame makes there.
    fn is_seamless(&mut self, step: usize, halo: usize, minimum: usize) -> bool {
        // The tile lacks more of the frame on the dark side.
        let before = 3 * step;
        let side = (2 * halo + 2 * before + 16).max(minimum + before + step).next_multiple_of(step);
        let size = Size { width: side, height: side };
        let square =
            |from: usize, to: usize| Rect { x: from, y: from, size: Size { width: to - from, height: to - from } };
        let tile = square(before, side - step);
        let core = square(before + halo, side - step - halo);
        let inside = Rect { x: halo, y: halo, size: core.size };
        let planes = |count: usize, scale: usize| Layout { outer: count, inner: 1, stride: 1, scale };
        let noise = self.slope(size, SEEDS);
        let compare = |network: &mut Self| {
            let part = planes(RGB * network.plain.frames, 1).crop(&noise, size, tile).map_err(ort::Error::wrap)?;
            let (whole, _) = network.run(size, noise.clone())?;
            let (part, _) = network.run(tile.size, part)?;
            let layout = planes(RGB, network.scale);
            let whole = layout.crop(&whole, size, core).map_err(ort::Error::wrap)?;
            let part = layout.crop(&part, tile.size, inside).map_err(ort::Error::wrap)?;
            Ok::<_, ort::Error>(whole.iter().zip(&part).all(|(a, b)| (a - b).abs() <= SAME * network.white))
        };
        compare(self).unwrap_or(false)
    }

    /// Bytes that a run takes for each pixel of its frame; `None` if the system does not tell.
    fn memory(
        &self,
        environment: &Environment,
        graph: &Graph,
        known: Known,
        multiple: usize,
    ) -> Result<Option<usize>, Refusal> {
        // What the runs before have taken is kept by their session: one that is new has nothing yet.
        let mut fresh = Self::load(environment, graph, known, self.ticket)?;
        let affordable =
            SIDES.into_iter().rev().skip(1).find(|side| self.pace * (2 * side * side) as u32 <= LONGEST_RUN);
        let side = affordable.unwrap_or(SIDES[0]).next_multiple_of(multiple);
        let size = self.plain.size.unwrap_or(Size { width: side, height: side });
        let noise = self.noise(size, 0);
        let Some(before) = resident() else { return Ok(None) };
        let mut after = 0;
        // From the second run on ONNX Runtime knows what frames of this size need, and takes that in one piece.
        for _ in 0..2 {
            let Ok(input) = self.plain.tensor(self.plain.frames, size, noise.clone()) else { return Ok(None) };
            let Ok(made) = fresh.stage.infer(&input, self.ticket) else { return Ok(None) };
            after = resident().unwrap_or(0);
            drop(made);
        }
        let frames = size_of::<f32>() * RGB * (self.plain.frames + self.scale * self.scale);
        let needed = after.saturating_sub(before).div_ceil(size.width * size.height);
        // Where other threads give memory back meanwhile, less than that is seen.
        Ok(Some(needed.max(frames)))
    }
}

/// What the process has of the machine's memory, in bytes, without what it has freed.
fn resident() -> Option<usize> {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
}

/// How like two pictures are, -1 to 1 (Pearson).
fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let product = |a: &[f32], mean_a: f32, b: &[f32], mean_b: f32| {
        a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f32>()
    };
    let spread = product(a, mean_a, a, mean_a) * product(b, mean_b, b, mean_b);
    if spread > 0.0 { product(a, mean_a, b, mean_b) / spread.sqrt() } else { 0.0 }
}

/// What to write where a graph of `count` frames does not show which of them it makes larger.
fn by_manifest(got: &str, count: usize) -> String {
    let (before, after) = ((count - 1) / 2, count / 2);
    format!(
        "expected one frame at once, got {got}; where it is the middle one, make a package with `fastvsr models add FILE \
         --look-back {before} --look-ahead {after}`, whose manifest says\n[time]\nlook-back = {before}\nlook-ahead = {after}"
    )
}
