//! The manifest of a model package: what `model.toml` may say, with every rule checked at parse time.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::StageKind;
use crate::frames::Size;

/// Version of the manifest's format that this build reads.
pub(super) const FORMAT: u32 = 1;

/// Largest window, context or padding that a manifest may ask for, in frames or pixels: a typo must not allocate the
/// machine's memory.
const MAX: usize = 1024;

/// A parsed and validated `model.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// Short name, as in the element's `model` property.
    pub name: String,
    /// Version of the weights.
    pub version: String,
    /// SPDX expression.
    pub license: String,
    /// One line for people.
    pub description: String,
    /// Sizes in space.
    pub geometry: Geometry,
    /// Sizes in time.
    pub time: Time,
    stages: Stages,
}

/// Sizes in space, in pixels of the input frame.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Geometry {
    /// Output pixels per input pixel along each axis.
    pub scale: usize,
    /// Stride of the encoder on the pre-upscaled frame; for information.
    #[serde(default = "one")]
    pub encoder_stride: usize,
    /// Stride of the decoder; for information.
    #[serde(default = "one")]
    pub decoder_stride: usize,
    /// Width and height are padded to a multiple of this before the first stage and cropped after the last.
    #[serde(default = "one")]
    pub multiple: usize,
    /// Shortest side that the graphs take; smaller frames are padded to it.
    #[serde(default)]
    pub minimum: usize,
    /// Width and height of the only frames that the graph takes. Larger ones are cut into tiles of that size, which overlap.
    pub size: Option<[usize; 2]>,
    /// Working memory of the hungriest stage, in bytes per pixel of the padded input; 0 = unknown, and the model cannot
    /// be kept within a limit.
    #[serde(default)]
    pub memory: usize,
}

/// Sizes in time, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Time {
    /// Frames per window that the model prefers.
    #[serde(default = "one")]
    pub window: usize,
    /// Fewest frames that a window may have; shorter ones are padded by repeating the last frame.
    #[serde(default = "one")]
    pub minimum: usize,
    /// Most frames that a window may have, but for `first_extra`: 1 where the model upscales every frame alone, so that no
    /// frame waits for others.
    #[serde(default = "most")]
    pub maximum: usize,
    /// A window's length, less `first_extra` in the first, is a multiple of this.
    #[serde(default = "one")]
    pub multiple: usize,
    /// Additional frames in the first window after a reset (1 for models of 4n+1 frames).
    #[serde(default)]
    pub first_extra: usize,
    /// Earlier frames shown to the model again as context, their output discarded.
    #[serde(default)]
    pub look_back: usize,
    /// Later frames needed before a frame can be upscaled.
    #[serde(default)]
    pub look_ahead: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stages {
    encoder: Option<StageManifest>,
    unet: Option<StageManifest>,
    decoder: StageManifest,
}

/// One stage's files and state.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageManifest {
    /// The ONNX graph, relative to the package's folder.
    pub file: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// The same stage in 8-bit integers, where that is faster and looks the same.
    pub int8: Option<FileManifest>,
    /// External data files of the graphs.
    #[serde(default)]
    pub data: Vec<FileManifest>,
    /// How far the stage sees around a pixel, in input pixels: what a tile needs around its core.
    pub halo: Option<usize>,
    /// White in a plain network's frames, 1 or 255: floats `[1, 3, H, W]`, RGB, that go in and come out.
    pub range: Option<u8>,
    /// Recurrent state: the stage then runs once per frame instead of once per window.
    #[serde(default)]
    pub state: Vec<StateManifest>,
}

/// A further file of a stage.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileManifest {
    /// Relative to the package's folder; external data with the name that the graph refers to.
    pub file: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// One recurrent state tensor, float32 `[1, height / stride, width / stride, channels]` of the padded input frame;
/// zeros at the start. Channels come last because that is how matrix units want them: planes are turned at every frame.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateManifest {
    /// Graph input that takes the state after the previous frame.
    pub input: String,
    /// Graph output that gives the state after this frame.
    pub output: String,
    /// Channels.
    pub channels: usize,
    /// Input pixels per state cell along each axis.
    pub stride: usize,
}

fn one() -> usize {
    1
}

fn most() -> usize {
    MAX
}

impl Manifest {
    /// Parses and validates the text of a `model.toml`.
    ///
    /// # Errors
    /// Says which field is wrong, what was expected and what is there.
    pub fn parse(text: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text).context("the manifest is not valid")?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The stages that the package has, in running order.
    pub fn stages(&self) -> impl Iterator<Item = (StageKind, &StageManifest)> {
        let Stages { encoder, unet, decoder } = &self.stages;
        [
            encoder.as_ref().map(|stage| (StageKind::Encoder, stage)),
            unet.as_ref().map(|stage| (StageKind::Unet, stage)),
            Some((StageKind::Decoder, decoder)),
        ]
        .into_iter()
        .flatten()
    }

    /// The size to which frames of `size` must be padded.
    pub fn padded(&self, size: Size) -> Size {
        let Geometry { multiple, minimum, .. } = self.geometry;
        let fixed = self.fixed().unwrap_or(Size { width: minimum, height: minimum });
        let (width, height) = (size.width.max(fixed.width), size.height.max(fixed.height));
        Size { width, height }.padded(multiple)
    }

    /// The only size of frames that the graph takes; `None` if it takes any.
    pub fn fixed(&self) -> Option<Size> {
        self.geometry.size.map(|[width, height]| Size { width, height })
    }

    /// Whether the model is a plain network: one graph, floats in and out, that makes one frame at a time out of
    /// [`Self::frames_seen`].
    pub fn is_plain(&self) -> bool {
        self.stages.decoder.range.is_some()
    }

    /// Frames in a run of a window of `window` frames: one where there is recurrent state or the model is a plain network.
    pub fn frames_a_run(&self, window: usize) -> usize {
        let is_recurrent = self.stages().any(|(_, stage)| !stage.state.is_empty());
        if is_recurrent || self.is_plain() { 1 } else { window }
    }

    /// Frames that a plain network sees for each that it makes.
    pub fn frames_seen(&self) -> usize {
        self.time.look_back + 1 + self.time.look_ahead
    }

    fn validate(&self) -> Result<()> {
        ensure!(self.format == FORMAT, "format: expected {FORMAT}, got {}", self.format);
        let Geometry { scale, multiple, minimum, size, .. } = self.geometry;
        range("geometry.scale", scale, 1, 16)?;
        range("geometry.multiple", multiple, 1, MAX)?;
        range("geometry.minimum", minimum, 0, MAX)?;
        ensure!(
            minimum.is_multiple_of(multiple),
            "geometry.minimum: expected a multiple of geometry.multiple ({multiple}), got {minimum}"
        );
        for side in size.into_iter().flatten() {
            // Tiles that overlap by a quarter must move on.
            range("geometry.size", side, 4, 1 << 14)?;
            ensure!(
                self.is_plain() && multiple == 1 && minimum == 0,
                "geometry.size: expected a plain network (stages.decoder.range), and no multiple or minimum beside it"
            );
        }

        let Time { window, minimum: minimum_frames, maximum, multiple: step, first_extra, look_back, look_ahead } =
            self.time;
        range("time.window", window, 1, MAX)?;
        range("time.minimum", minimum_frames, 1, MAX)?;
        range("time.multiple", step, 1, MAX)?;
        range("time.maximum", maximum, window.max(minimum_frames).next_multiple_of(step), MAX)?;
        ensure!(
            maximum.is_multiple_of(step) || maximum == MAX,
            "time.maximum: expected a multiple of time.multiple ({step}), got {maximum}"
        );
        range("time.first-extra", first_extra, 0, MAX)?;
        range("time.look-back", look_back, 0, MAX)?;
        range("time.look-ahead", look_ahead, 0, MAX)?;

        ensure!(
            self.stages.unet.is_none() || self.stages.encoder.is_some(),
            "stages: expected an encoder where there is a unet, got a unet alone"
        );
        range("geometry.memory", self.geometry.memory, 0, 1 << 20)?;
        for (kind, stage) in self.stages() {
            range(&format!("stages.{kind}.halo"), stage.halo.unwrap_or(0), 0, MAX)?;
            if let Some(white) = stage.range {
                ensure!(matches!(white, 1 | 255), "stages.{kind}.range: expected 1 or 255, got {white}");
                ensure!(
                    self.stages().count() == 1 && stage.state.is_empty() && stage.int8.is_none(),
                    "stages.{kind}.range: expected a decoder alone, without state or int8"
                );
                ensure!(
                    window == 1 && minimum_frames == 1 && step == 1 && first_extra == 0,
                    "time: expected look-back and look-ahead alone in a model with stages.{kind}.range"
                );
            }
            ensure!(
                self.geometry.memory == 0 || stage.halo.is_some() || size.is_some(),
                "stages.{kind}: expected a halo, as geometry.memory is given"
            );
            for state in &stage.state {
                range(&format!("stages.{kind}.state `{}` channels", state.input), state.channels, 1, 1 << 16)?;
                range(&format!("stages.{kind}.state `{}` stride", state.input), state.stride, 1, MAX)?;
                ensure!(
                    multiple % state.stride == 0,
                    "stages.{kind}.state `{}` stride: expected a divisor of geometry.multiple ({multiple}), got {}",
                    state.input,
                    state.stride
                );
                ensure!(
                    look_back == 0 && look_ahead == 0 && first_extra == 0 && minimum_frames == 1 && step == 1,
                    "time: expected no look-back, look-ahead, first-extra, minimum or multiple in a model with \
                     recurrent state (stages.{kind} has `{}`)",
                    state.input
                );
            }
        }
        Ok(())
    }
}

fn range(field: &str, got: usize, low: usize, high: usize) -> Result<()> {
    ensure!((low..=high).contains(&got), "{field}: expected {low} to {high}, got {got}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        format = 1
        name = "good"
        version = "1.0.0"
        license = "MIT"
        description = "a good one"
        [geometry]
        scale = 4
        multiple = 8
        [time]
        window = 4
        [stages.encoder]
        file = "encoder.onnx"
        sha256 = "00"
        [stages.unet]
        file = "unet.onnx"
        sha256 = "00"
        [[stages.unet.state]]
        input = "s"
        output = "t"
        channels = 64
        stride = 4
        [stages.decoder]
        file = "decoder.onnx"
        sha256 = "00"
    "#;

    #[track_caller]
    fn refuses(manifest: &str, from: &str, to: &str, expected: &str) {
        assert!(manifest.contains(from));
        let message = format!("{:#}", Manifest::parse(&manifest.replace(from, to)).unwrap_err());
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn a_good_manifest_parses() {
        let manifest = Manifest::parse(GOOD).unwrap();
        assert_eq!(manifest.stages().count(), 3);
        assert_eq!(manifest.time.minimum, 1);
        assert_eq!(manifest.geometry.encoder_stride, 1);
    }

    #[test]
    fn mistakes_say_expected_and_got() {
        let refused = |from, to, expected| refuses(GOOD, from, to, expected);
        refused("format = 1", "format = 2", "format: expected 1, got 2");
        refused("scale = 4", "scale = 0", "geometry.scale: expected 1 to 16, got 0");
        refused("multiple = 8", "multiple = 8\nminimum = 12", "expected a multiple of geometry.multiple (8), got 12");
        refused("multiple = 8", "multiple = 8\nsize = [64, 64]", "geometry.size: expected a plain network");
        refused("window = 4", "window = 5000", "time.window: expected 1 to 1024, got 5000");
        refused("stride = 4", "stride = 3", "expected a divisor of geometry.multiple (8), got 3");
        refused("window = 4", "window = 4\nmaximum = 3", "time.maximum: expected 4 to 1024, got 3");
        refused(
            "window = 4",
            "window = 4\nmaximum = 7\nmultiple = 2",
            "expected a multiple of time.multiple (2), got 7",
        );
        refused("window = 4", "window = 4\nlook-ahead = 2", "expected no look-back");
        refused("window = 4", "windows = 4", "unknown field `windows`");
        refused("[stages.decoder]", "[stages.decoders]", "unknown field `decoders`");
        refused("multiple = 8", "multiple = 8\nmemory = 2000", "stages.encoder: expected a halo");
    }

    const PLAIN: &str = r#"
        format = 1
        name = "plain"
        version = "1.0.0"
        license = "MIT"
        description = "a plain network"
        [geometry]
        scale = 1
        [time]
        look-back = 2
        [stages.decoder]
        file = "decoder.onnx"
        sha256 = "00"
        range = 255
    "#;

    #[test]
    fn a_plain_network_stands_alone() {
        assert_eq!(Manifest::parse(PLAIN).unwrap().frames_seen(), 3);
        assert!(!Manifest::parse(GOOD).unwrap().is_plain());
        let refused = |from, to, expected| refuses(PLAIN, from, to, expected);
        refused("range = 255", "range = 2", "expected 1 or 255, got 2");
        refused("look-back = 2", "window = 2", "time: expected look-back and look-ahead alone");
        refused("scale = 1", "scale = 1\nsize = [64, 2]", "geometry.size: expected 4 to 16384, got 2");
        refused("scale = 1", "scale = 1\nmultiple = 2\nsize = [64, 64]", "no multiple or minimum beside it");
        refused("range = 255", "range = 1\n[stages.encoder]\nfile = \"e\"\nsha256 = \"\"", "a decoder alone");
    }

    #[test]
    fn frames_are_padded_to_what_the_graphs_take() {
        let padded = |geometry: &str, width: usize, height: usize| {
            let text = PLAIN.replace("scale = 1", &format!("scale = 1\n{geometry}"));
            let Size { width, height } = Manifest::parse(&text).unwrap().padded(Size { width, height });
            (width, height)
        };
        assert_eq!(padded("", 1, 7), (1, 7));
        assert_eq!(padded("multiple = 3\nminimum = 6", 1, 7), (6, 9));
        assert_eq!(padded("size = [64, 48]", 1, 100), (64, 100));
    }

    #[test]
    fn a_unet_needs_an_encoder() {
        let text = GOOD.replace("[stages.encoder]\n        file = \"encoder.onnx\"\n        sha256 = \"00\"", "");
        let message = format!("{:#}", Manifest::parse(&text).unwrap_err());
        assert!(message.contains("got a unet alone"), "{message}");
    }
}
