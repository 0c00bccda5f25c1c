//! Owns the cutting of frames that are too large for the memory into tiles, and their seamless merge. Plain slices; no
//! GStreamer, no ONNX Runtime.
//!
//! Each stage of the model is tiled by itself: a tile reads the stage's inputs with a halo as wide as the stage can see,
//! and writes its core. Every pixel is written once, with the value that the whole frame would have given it, so there
//! is nothing to blend. Recurrent state belongs to the frame: tiles read the state of the frame before and write that
//! of the next, one time step at a time; a tile that ran alone through time would need a halo that grows every frame.

use std::collections::TryReserveError;

use crate::frames::{Size, with_room};

/// A rectangle in pixels of the padded input frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: usize,
    /// Upper edge.
    pub y: usize,
    /// Width and height.
    pub size: Size,
}

impl Rect {
    /// Whether any pixel is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.x < other.x + other.size.width
            && other.x < self.x + self.size.width
            && self.y < other.y + other.size.height
            && other.y < self.y + self.size.height
    }
}

/// One tile of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// What the stage sees.
    pub input: Rect,
    /// What is kept of its output.
    pub core: Rect,
}

/// Cuts a frame of `size` into tiles whose cores are at most `side` pixels wide and high, each with at least `halo` pixels
/// around it where the frame has them. What the tiles read is of one size, so that a graph that is compiled for it serves
/// them all: at the frame's edges they read farther inwards instead. All edges are multiples of `multiple`, as `size` must
/// be.
///
/// # Panics
/// If `side` is less than `multiple`.
pub fn split(size: Size, side: usize, halo: usize, multiple: usize) -> Vec<Tile> {
    let halo = halo.next_multiple_of(multiple);
    tiles(&spans(size.width, side, halo, multiple), &spans(size.height, side, halo, multiple))
}

/// Cuts a frame of `size` into tiles of the size `tile`, the last ones shifted inwards, of which each keeps what is at least
/// `halo` pixels away from edges that are not the frame's. A halo that leaves a tile less than half of its width or height
/// is cut to a quarter of that.
///
/// # Panics
/// If the frame is smaller than a tile, or a side of the tile less than 4.
pub fn split_fixed(size: Size, tile: Size, halo: usize) -> Vec<Tile> {
    tiles(&fixed_spans(size.width, tile.width, halo), &fixed_spans(size.height, tile.height, halo))
}

fn tiles(columns: &[Span], rows: &[Span]) -> Vec<Tile> {
    let tile = |row: &Span, column: &Span| Tile {
        input: Rect {
            x: column.from,
            y: row.from,
            size: Size { width: column.to - column.from, height: row.to - row.from },
        },
        core: Rect {
            x: column.start,
            y: row.start,
            size: Size { width: column.end - column.start, height: row.end - row.start },
        },
    };
    rows.iter().flat_map(|row| columns.iter().map(move |column| tile(row, column))).collect()
}

/// A tile along one axis: the core and what is read around it.
struct Span {
    from: usize,
    start: usize,
    end: usize,
    to: usize,
}

fn spans(length: usize, side: usize, halo: usize, multiple: usize) -> Vec<Span> {
    let largest = side / multiple * multiple;
    assert!(largest > 0, "a tile holds at least one multiple");
    // Cores of equal length, so that no sliver is left at the end.
    let count = length.div_ceil(largest);
    let core = length.div_ceil(count).next_multiple_of(multiple);
    let read = (core + 2 * halo).min(length);
    (0..length)
        .step_by(core)
        .map(|start| {
            let from = start.saturating_sub(halo).min(length - read);
            Span { from, start, end: (start + core).min(length), to: from + read }
        })
        .collect()
}

fn fixed_spans(length: usize, read: usize, halo: usize) -> Vec<Span> {
    assert!(read >= 4 && length >= read, "a frame holds a tile");
    let halo = halo.min(read / 4);
    let mut spans = Vec::new();
    let mut start = 0;
    while start < length {
        let from = start.saturating_sub(halo).min(length - read);
        let end = if from + read == length { length } else { from + read - halo };
        spans.push(Span { from, start, end, to: from + read });
        start = end;
    }
    spans
}

/// How a tensor lies in memory: `[outer, height, width, inner]`, where planes have an `inner` of 1 and packed pixels an
/// `outer` of the frames. A cell covers `stride` input pixels along each axis, or `scale` cells cover one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Planes.
    pub outer: usize,
    /// Values per cell.
    pub inner: usize,
    /// Input pixels per cell along each axis.
    pub stride: usize,
    /// Cells per input pixel along each axis.
    pub scale: usize,
}

impl Layout {
    /// Values in a tensor that covers `size` input pixels.
    pub fn values(&self, size: Size) -> usize {
        self.outer * self.cells(size.height) * self.cells(size.width) * self.inner
    }

    fn cells(&self, pixels: usize) -> usize {
        pixels * self.scale / self.stride
    }

    /// Copies the part of `tensor`, which covers `size`, that covers `rect`.
    ///
    /// # Errors
    /// If there is no memory for it.
    ///
    /// # Panics
    /// If the tensor is smaller than it should be, or `rect` is not inside.
    pub fn crop<T: Copy>(&self, tensor: &[T], size: Size, rect: Rect) -> Result<Vec<T>, TryReserveError> {
        let mut part = with_room(self.values(rect.size))?;
        self.rows(size, rect, |row| part.extend_from_slice(&tensor[row]));
        Ok(part)
    }

    /// Copies the core of a tile's output, `part`, which covers `tile.input`, into `tensor`, which covers `size`.
    ///
    /// # Panics
    /// If a tensor is smaller than it should be, or the tile is not inside.
    pub fn paste<T: Copy>(&self, part: &[T], tile: Tile, tensor: &mut [T], size: Size) {
        let inside = Rect { x: tile.core.x - tile.input.x, y: tile.core.y - tile.input.y, size: tile.core.size };
        let mut sources = Vec::new();
        self.rows(tile.input.size, inside, |row| sources.push(row));
        let mut sources = sources.into_iter();
        self.rows(size, tile.core, |row| {
            let source = sources.next().expect("both have the core's rows");
            tensor[row].copy_from_slice(&part[source]);
        });
    }

    /// Calls `visit` with where each row of `rect` lies in a tensor that covers `size`.
    fn rows(&self, size: Size, rect: Rect, mut visit: impl FnMut(std::ops::Range<usize>)) {
        let (width, height) = (self.cells(size.width), self.cells(size.height));
        let length = self.cells(rect.size.width) * self.inner;
        for plane in 0..self.outer {
            for y in self.cells(rect.y)..self.cells(rect.y + rect.size.height) {
                let start = ((plane * height + y) * width + self.cells(rect.x)) * self.inner;
                visit(start..start + length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_that_fits_is_one_tile() {
        let size = Size { width: 64, height: 32 };
        let whole = Rect { x: 0, y: 0, size };
        assert_eq!(split(size, 64, 24, 8), [Tile { input: whole, core: whole }]);
    }

    #[test]
    fn cores_are_even_and_tiles_of_one_size() {
        let tiles = split(Size { width: 168, height: 8 }, 64, 10, 8);
        let columns: Vec<_> = tiles.iter().map(|tile| (tile.input.x, tile.core.x, tile.core.size.width)).collect();
        assert_eq!(columns, [(0, 0, 56), (40, 56, 56), (80, 112, 56)]);
        assert!(tiles.iter().all(|tile| tile.input.size.width == 88));
    }

    /// What a stage that sees `reach` pixels makes of a pixel: here, the sum of what it sees.
    fn stage(input: &[u32], size: Size, reach: usize) -> Vec<u32> {
        let pixels = (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y)));
        pixels
            .map(|(x, y)| {
                let rows = y.saturating_sub(reach)..(y + reach + 1).min(size.height);
                let columns = x.saturating_sub(reach)..(x + reach + 1).min(size.width);
                rows.flat_map(|y| columns.clone().map(move |x| input[y * size.width + x])).sum()
            })
            .collect()
    }

    proptest! {
        #[test]
        fn tiled_is_untiled(
            width in 1usize..12, height in 1usize..12, multiple in 1usize..5, side in 1usize..6, reach in 0usize..6,
        ) {
            let size = Size { width: width * multiple, height: height * multiple };
            let input: Vec<u32> = (0..size.width * size.height).map(|n| (n * 2654435761) as u32 >> 20).collect();
            let layout = Layout { outer: 1, inner: 1, stride: 1, scale: 1 };
            let mut output = vec![u32::MAX; input.len()];
            let tiles = split(size, side * multiple, reach, multiple);
            for tile in tiles.iter().copied() {
                prop_assert!(tile.core.size.width <= (side * multiple).max(multiple));
                let part = stage(&layout.crop(&input, size, tile.input).unwrap(), tile.input.size, reach);
                prop_assert_eq!(tile.input.size, tiles[0].input.size);
                layout.paste(&part, tile, &mut output, size);
            }
            prop_assert_eq!(output, stage(&input, size, reach));
        }

        #[test]
        fn tiles_of_a_fixed_size_make_the_whole(
            width in 4usize..60, height in 4usize..40, tile in (4usize..24, 4usize..24), reach in 0usize..5,
        ) {
            let tile = Size { width: tile.0.min(width), height: tile.1.min(height) };
            let size = Size { width, height };
            let reach = reach.min(tile.width / 4).min(tile.height / 4);
            let input: Vec<u32> = (0..width * height).map(|n| (n * 2654435761) as u32 >> 20).collect();
            let layout = Layout { outer: 1, inner: 1, stride: 1, scale: 1 };
            let mut output = vec![u32::MAX; input.len()];
            for part in split_fixed(size, tile, reach) {
                prop_assert_eq!(part.input.size, tile);
                let made = stage(&layout.crop(&input, size, part.input).unwrap(), tile, reach);
                layout.paste(&made, part, &mut output, size);
            }
            prop_assert_eq!(output, stage(&input, size, reach));
        }

        #[test]
        fn every_layout_is_cut_and_merged_again(
            width in 1usize..6, height in 1usize..6, side in 1usize..4, halo in 0usize..20,
            outer in 1usize..4, inner in 1usize..4, stride in prop::sample::select(vec![1usize, 2, 4]), scale in 1usize..4,
        ) {
            let multiple = 4;
            let size = Size { width: width * multiple, height: height * multiple };
            let layout = Layout { outer, inner, stride, scale: if stride == 1 { scale } else { 1 } };
            let tensor: Vec<usize> = (0..layout.values(size)).collect();
            let mut merged = vec![usize::MAX; tensor.len()];
            for tile in split(size, side * multiple, halo, multiple) {
                layout.paste(&layout.crop(&tensor, size, tile.input).unwrap(), tile, &mut merged, size);
            }
            prop_assert_eq!(merged, tensor);
        }
    }
}
