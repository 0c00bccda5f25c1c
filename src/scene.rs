//! Owns the detection of scene cuts: whether a frame shows another scene than the frame before, so that what the model
//! remembers of one does not bleed into the other. Sees RGB tensors; no GStreamer, no ONNX Runtime.

use crate::frames::{RGB, Size};

/// Cells of a thumbnail along each axis.
const COLUMNS: usize = 32;
const ROWS: usize = 18;

/// A frame is a cut if mean brightness change x (1 - correlation) of the thumbnails, in 8-bit levels, is more than this.
///
/// Chosen on 4842 pairs of consecutive frames of 159 clips (largest: 9.5, a camera flying fast through a dark scene) and
/// on 941 pairs of last and first frames of different clips (all but 3 above 12). Neither factor is enough alone:
/// flashes and fades change the brightness and keep the correlation, dark scenes lose the correlation to noise.
const THRESHOLD: f32 = 12.0;

/// Finds the first frame of each scene.
#[derive(Debug, Default)]
pub(crate) struct CutDetector {
    previous: Option<Vec<f32>>,
}

impl CutDetector {
    /// Looks at the next frame, an RGB tensor of `size`; whether a new scene begins with it. The first frame after
    /// [`Self::reset`] begins none.
    pub(crate) fn is_cut(&mut self, frame: &[u8], size: Size) -> bool {
        let thumbnail = thumbnail(frame, size);
        let previous = self.previous.replace(thumbnail);
        let thumbnail = self.previous.as_deref().expect("it was just put there");
        previous
            .is_some_and(|previous| previous.len() == thumbnail.len() && difference(&previous, thumbnail) > THRESHOLD)
    }

    /// Forgets the frame before.
    pub(crate) fn reset(&mut self) {
        self.previous = None;
    }
}

/// Mean brightness of each cell, in 8-bit levels; frames smaller than the thumbnail have a cell per pixel.
fn thumbnail(frame: &[u8], size: Size) -> Vec<f32> {
    let (columns, rows) = (COLUMNS.min(size.width), ROWS.min(size.height));
    // Where cells begin and end in a row, in bytes; divided once, not for every pixel.
    let edges: Vec<_> = (0..=columns).map(|cell| RGB * (cell * size.width).div_ceil(columns)).collect();
    let mut cells = vec![(0u32, 0u32); columns * rows];
    for (y, row) in frame.chunks_exact(size.rgb_stride()).enumerate() {
        let cells = &mut cells[y * rows / size.height * columns..][..columns];
        for ((sum, count), edges) in cells.iter_mut().zip(edges.windows(2)) {
            let pixels = row[edges[0]..edges[1]].chunks_exact(RGB);
            *count += 4 * pixels.len() as u32;
            // Green counts twice: near enough to luma, in whichever primaries.
            *sum += pixels.map(|rgb| u32::from(rgb[0]) + 2 * u32::from(rgb[1]) + u32::from(rgb[2])).sum::<u32>();
        }
    }
    cells.iter().map(|(sum, count)| *sum as f32 / *count as f32).collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    let count = a.len() as f32;
    let change = a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / count;
    let (mean_a, mean_b) = (a.iter().sum::<f32>() / count, b.iter().sum::<f32>() / count);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    // Two frames without any structure differ in brightness alone.
    let correlation = if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 1.0 };
    change * (1.0 - correlation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 160, height: 96 };

    fn frame(brightness: impl Fn(f32, f32) -> f32) -> Vec<u8> {
        let pixels = (0..SIZE.height).flat_map(|y| (0..SIZE.width).map(move |x| (x as f32, y as f32)));
        pixels.flat_map(|(x, y)| [brightness(x, y).clamp(0.0, 255.0) as u8; RGB]).collect()
    }

    fn hills(shift: f32) -> Vec<u8> {
        frame(|x, y| 120.0 + 80.0 * ((x + shift) / 19.0).sin() + 40.0 * (y / 11.0).cos())
    }

    fn street() -> Vec<u8> {
        frame(|x, y| if x > y { 40.0 } else { 150.0 + x })
    }

    fn cuts(frames: &[Vec<u8>]) -> Vec<bool> {
        let mut detector = CutDetector::default();
        frames.iter().map(|frame| detector.is_cut(frame, SIZE)).collect()
    }

    #[test]
    fn another_scene_is_a_cut_and_its_next_frame_is_none() {
        assert_eq!(cuts(&[hills(0.0), hills(1.0), street(), street()]), [false, false, true, false]);
    }

    #[test]
    fn motion_is_no_cut() {
        let pan: Vec<_> = (0..20).map(|n| hills(3.0 * n as f32)).collect();
        assert!(cuts(&pan).iter().all(|cut| !cut));
    }

    #[test]
    fn a_flash_and_a_fade_are_no_cuts() {
        let bright = |gain: f32, lift: f32| frame(|x, y| lift + gain * (60.0 + 40.0 * (x / 19.0).sin() + y / 4.0));
        assert_eq!(cuts(&[bright(1.0, 0.0), bright(1.0, 110.0), bright(1.0, 0.0)]), [false; 3]);
        let fade: Vec<_> = (0..=10).map(|n| bright(n as f32 / 10.0, 0.0)).collect();
        assert!(cuts(&fade).iter().all(|cut| !cut));
    }

    #[test]
    fn flat_frames_are_no_cut() {
        assert_eq!(cuts(&[frame(|_, _| 0.0), frame(|_, _| 255.0)]), [false, false]);
    }

    #[test]
    fn after_a_reset_nothing_is_compared() {
        let mut detector = CutDetector::default();
        assert!(!detector.is_cut(&hills(0.0), SIZE));
        detector.reset();
        assert!(!detector.is_cut(&street(), SIZE));
    }

    #[test]
    fn frames_of_one_pixel_and_of_other_sizes_do_not_panic() {
        let mut detector = CutDetector::default();
        for (width, height) in [(1, 1), (1, 40), (50, 1), (31, 17), (33, 19)] {
            let size = Size { width, height };
            detector.is_cut(&vec![9; size.rgb_bytes()], size);
        }
    }
}
