//! Owns what scales beside the pixels: metadata on buffers, and pointer positions on the way upstream.

use gst_video::{VideoInfo, VideoOverlayComposition, VideoOverlayCompositionMeta, video_meta};

/// What the base class shall do with a meta of the input buffer.
pub(super) enum Verdict {
    /// It was put on the output buffer, or must not be.
    Done,
    /// The base class decides.
    Default,
}

/// Carries one meta from an input buffer to its output buffer, scaling what is measured in pixels.
pub(super) fn transform(
    meta: gst::MetaRef<'_, gst::Meta>,
    out: &mut gst::BufferRef,
    input: &VideoInfo,
    output: &VideoInfo,
) -> Verdict {
    if let Some(overlay) = meta.downcast_ref::<VideoOverlayCompositionMeta>() {
        // Carries no tag that says it is measured in pixels: the base class would copy it unscaled.
        if let Some(scaled) = scale_overlay(overlay.overlay(), input, output) {
            VideoOverlayCompositionMeta::add(out, &scaled);
        }
        return Verdict::Done;
    }
    if meta.has_tag::<gst::meta::tags::Memory>() {
        return Verdict::Done;
    }
    if meta.has_tag::<video_meta::tags::Size>() {
        // A meta that cannot be scaled would lie on the output.
        let _ = meta.transform(out, &video_meta::VideoMetaTransformScale::new(input, output));
        return Verdict::Done;
    }
    Verdict::Default
}

fn scale_overlay(
    overlay: &gst_video::VideoOverlayCompositionRef,
    input: &VideoInfo,
    output: &VideoInfo,
) -> Option<VideoOverlayComposition> {
    let scaled = |at: i32, output: u32, input: u32| (i64::from(at) * i64::from(output) / i64::from(input)) as i32;
    let across = |at: i32| scaled(at, output.width(), input.width());
    let down = |at: i32| scaled(at, output.height(), input.height());
    let rectangles: Vec<_> = overlay
        .iter()
        .map(|rectangle| {
            let mut rectangle = rectangle.copy();
            let (x, y, width, height) = rectangle.render_rectangle();
            rectangle.make_mut().set_render_rectangle(
                across(x),
                down(y),
                across(width as i32) as u32,
                down(height as i32) as u32,
            );
            rectangle
        })
        .collect();
    VideoOverlayComposition::new(&rectangles).ok()
}

/// A navigation event with its pointer where it is in the input frame, which is smaller by `scale` along each axis.
pub(super) fn scale_navigation(event: gst::Event, scale: (f64, f64)) -> gst::Event {
    let mut event = event;
    let structure = event.make_mut().structure_mut();
    for (field, scale) in [("pointer_x", scale.0), ("pointer_y", scale.1)] {
        if let Ok(position) = structure.get::<f64>(field) {
            structure.set(field, position / scale);
        }
    }
    event
}
