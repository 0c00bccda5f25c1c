//! One-step video super-resolution as a GStreamer filter.
//!
//! |[
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! videoconvert ! fastvsr ! videoconvert ! x264enc ! mp4mux ! filesink location=out.mp4
//! ]|
//!
//! Arrows between the modules go one way: `fastvsr` (the element) -> `window`, `frames`, `scene`, `tiling`,
//! `color_fix`, `depth`, `engine` -> `model`. Public is what the command, the tests and the fuzz targets use.

mod color_fix;
mod depth;
pub mod engine;
mod fastvsr;
mod folders;
pub mod frames;
pub mod model;
mod scene;
pub mod sync;
pub mod tiling;
pub mod window;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    fastvsr::register(plugin)
}

pub use fastvsr::{ExecutionProvider, FORMATS, Precision};
pub use plugin::*;

#[allow(missing_docs, reason = "the macro makes items that cannot be documented")]
mod plugin {
    use super::plugin_init;

    gst::plugin_define!(
        fastvsr,
        env!("CARGO_PKG_DESCRIPTION"),
        plugin_init,
        concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
        "MIT/X11",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        "https://arxiv.org/abs/2509.24142",
        env!("BUILD_REL_DATE")
    );
}
