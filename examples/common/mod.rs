//! What examples with a window share.

use gst::prelude::*;

/// Whether an error is the sink's way to say that its window was closed.
pub(crate) fn is_closed_window(err: &gst::message::Error) -> bool {
    let from_sink = err
        .src()
        .and_then(|src| src.downcast_ref::<gst::Element>())
        .is_some_and(|element| element.element_flags().contains(gst::ElementFlags::SINK));
    from_sink && err.error().matches(gst::ResourceError::NotFound)
}
