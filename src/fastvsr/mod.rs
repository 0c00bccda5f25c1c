//! The element: everything that knows GStreamer.
//!
//! `imp` has the properties and virtual methods, `opening` the way to the engine, `caps` the negotiation, `streaming` the way of
//! a frame, `accounts` what other threads ask for, `convert` and `colour` the pixel formats, `threads` those that do it, `failure`
//! the errors.

mod accounts;
mod bands;
mod caps;
mod colour;
mod convert;
mod failure;
mod imp;
mod metas;
mod opening;
mod overload;
mod settings;
mod stats;
mod streaming;
mod threads;

use gst::prelude::*;
use once_cell::sync::Lazy;

pub use caps::FORMATS;
use overload::OnOverload;
pub use settings::{ExecutionProvider, Precision};

use crate::color_fix::ColorFix;

/// What `GST_DEBUG=fastvsr:LEVEL` shows.
static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new("fastvsr", gst::DebugColorFlags::empty(), Some("One-step video super-resolution"))
});

glib::wrapper! {
    /// The `fastvsr` element: W x H video in, `scale` W x `scale` H video out, frame for frame.
    pub struct FastVsr(ObjectSubclass<imp::FastVsr>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element with a plugin.
///
/// # Errors
/// If GStreamer refuses the type.
pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    ExecutionProvider::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    Precision::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    ColorFix::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    OnOverload::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(Some(plugin), "fastvsr", gst::Rank::NONE, FastVsr::static_type())
}
