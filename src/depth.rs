//! Owns the bits that samples have beyond the 8 of a tensor: they pass beside the model. Sees rows of little-endian
//! 16-bit samples; no GStreamer, no ONNX Runtime.

/// Puts each sample of `decoded`, which came out of 8-bit tensors, where the interpolated input has it, if it is not
/// more than a `level` of 8 bits away: the model's input was rounded by up to half a level and its output by another,
/// so that a smaller difference says nothing. From two levels on the difference is detail and stays; between, it fades
/// in (firm shrinkage, Gao and Bruce 1997), so that no new edge appears.
pub(crate) fn deepen(decoded: &mut [u8], interpolated: &[u8], level: i32) {
    for (sample, interpolated) in decoded.chunks_exact_mut(2).zip(interpolated.chunks_exact(2)) {
        let before = i32::from(u16::from_le_bytes([interpolated[0], interpolated[1]]));
        let difference = i32::from(u16::from_le_bytes([sample[0], sample[1]])) - before;
        let size = difference.abs();
        let kept = (2 * (size - level)).clamp(0, size) * difference.signum();
        sample.copy_from_slice(&((before + kept) as u16).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deepened(decoded: u16, interpolated: u16) -> u16 {
        let mut sample = decoded.to_le_bytes();
        deepen(&mut sample, &interpolated.to_le_bytes(), 4);
        u16::from_le_bytes(sample)
    }

    #[test]
    fn rounding_goes_and_detail_stays() {
        for (difference, kept) in [(0, 0), (3, 0), (4, 0), (5, 2), (7, 6), (8, 8), (300, 300)] {
            assert_eq!(deepened(500 + difference, 500), 500 + kept);
            assert_eq!(deepened(500 - difference, 500), 500 - kept);
        }
    }

    proptest! {
        #[test]
        fn what_is_brighter_stays_brighter(one in 0u16..=1023, other in 0u16..=1023, interpolated in 0u16..=1023) {
            let (low, high) = (one.min(other), one.max(other));
            prop_assert!(deepened(low, interpolated) <= deepened(high, interpolated));
            let (least, most) = (low.min(interpolated), low.max(interpolated));
            prop_assert!((least..=most).contains(&deepened(low, interpolated)));
        }
    }
}
