//! The package that lies inside the plugin file, so that the element works without any property.

use super::StageKind;

/// Its name, the default of the element's `model` property.
pub(super) const NAME: &str = "compact-s";

/// Its `model.toml`.
pub(super) const MANIFEST: &str = include_str!("../../models/compact-s/model.toml");

/// The graph of one stage.
pub(super) fn graph(kind: StageKind) -> &'static [u8] {
    match kind {
        StageKind::Encoder => include_bytes!("../../models/compact-s/encoder.onnx"),
        StageKind::Unet => include_bytes!("../../models/compact-s/unet.onnx"),
        StageKind::Decoder => include_bytes!("../../models/compact-s/decoder.onnx"),
    }
}
