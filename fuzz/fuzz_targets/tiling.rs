//! Any frame in any tiles: every value is written once, where it came from, and nothing outside is touched.

#![no_main]

use arbitrary::Arbitrary;
use gstfastvsr::{
    frames::Size,
    tiling::{Layout, split},
};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    columns: u8,
    rows: u8,
    multiple: u8,
    side: u16,
    halo: u8,
    outer: u8,
    inner: u8,
    stride: u8,
    scale: u8,
}

fuzz_target!(|input: Input| {
    let multiple = usize::from(input.multiple % 16) + 1;
    let size = Size {
        width: (usize::from(input.columns % 32) + 1) * multiple,
        height: (usize::from(input.rows % 32) + 1) * multiple,
    };
    let strides: Vec<usize> = (1..=multiple).filter(|stride| multiple.is_multiple_of(*stride)).collect();
    let stride = strides[usize::from(input.stride) % strides.len()];
    let scale = if stride == 1 { usize::from(input.scale % 4) + 1 } else { 1 };
    let layout =
        Layout { outer: usize::from(input.outer % 3) + 1, inner: usize::from(input.inner % 4) + 1, stride, scale };
    let side = usize::from(input.side).max(multiple);
    let tensor: Vec<usize> = (0..layout.values(size)).collect();
    let mut merged = vec![usize::MAX; tensor.len()];
    let tiles = split(size, side, usize::from(input.halo), multiple);
    let mut written = 0;
    for tile in &tiles {
        written += tile.core.size.width * tile.core.size.height;
        layout.paste(&layout.crop(&tensor, size, tile.input).unwrap(), *tile, &mut merged, size);
    }
    assert_eq!(written, size.width * size.height);
    assert_eq!(merged, tensor);
});
