//! The package that lies inside the plugin file, so that the element works without any property.

use anyhow::{Result, bail};

/// Its name, the default of the element's `model` property.
pub(super) const NAME: &str = "compact-s";

/// Its `model.toml`.
pub(super) const MANIFEST: &str = include_str!("../../models/compact-s/model.toml");

/// One of its files.
pub(super) fn file(name: &str) -> Result<&'static [u8]> {
    Ok(match name {
        "encoder.onnx" => include_bytes!("../../models/compact-s/encoder.onnx"),
        "unet.onnx" => include_bytes!("../../models/compact-s/unet.onnx"),
        "decoder.onnx" => include_bytes!("../../models/compact-s/decoder.onnx"),
        "decoder-int8.onnx" => include_bytes!("../../models/compact-s/decoder-int8.onnx"),
        _ => bail!("the embedded model has no file `{name}`"),
    })
}
