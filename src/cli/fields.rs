//! Owns the judgement whether the two fields of frames show two moments, as discs, tapes and recordings do that were filmed
//! so, or one, as films do that are only stored so.

/// Frames that are looked at: two seconds, about.
pub(crate) const LOOKED_AT: usize = 50;

/// How many of them must show it: one may be a cut.
pub(crate) const ENOUGH: usize = 3;

/// Levels of 255 by which rows must differ. Noise does not, and a line in a drawing has no second one two rows away.
const STEP: i32 = 24;

/// One pixel of so many is enough: most of a picture stands still.
const PART: usize = 500;

/// Whether rows of a frame alternate where something moves: each is like those two rows away, and unlike its neighbours.
/// `luma` gives the pixel in a column and row.
pub(crate) fn is_combed(width: usize, height: usize, luma: impl Fn(usize, usize) -> i32) -> bool {
    let combed = |x: usize, y: usize| {
        let own = luma(x, y);
        let (above, below) = (luma(x, y - 1) - own, luma(x, y + 1) - own);
        let alike = |y: usize| (luma(x, y) - own).abs() < STEP / 2;
        above.abs() > STEP && below.abs() > STEP && (above > 0) == (below > 0) && alike(y - 2) && alike(y + 2)
    };
    let rows = 2..height.saturating_sub(2);
    let all = rows.len() * width;
    let combed: usize = rows.map(|y| (0..width).filter(|x| combed(*x, y)).count()).sum();
    combed * PART > all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bright square in a frame whose odd rows are seen so many pixels later.
    fn moved(by: usize) -> bool {
        let bright = |x: usize, y: usize| (20..40).contains(&(x + by * (y % 2))) && (20..40).contains(&y);
        is_combed(64, 64, |x, y| if bright(x, y) { 200 } else { 30 })
    }

    #[test]
    fn movement_between_fields_is_seen() {
        assert!(moved(3) && moved(8));
        assert!(!moved(0));
    }

    #[test]
    fn what_one_moment_can_show_is_none() {
        assert!(!is_combed(64, 64, |_, y| if y == 30 { 255 } else { 0 }), "a line");
        assert!(!is_combed(64, 64, |x, y| (4 * (x + y) % 256) as i32), "a ramp");
        assert!(!is_combed(64, 64, |x, y| ((x * 31 + y * 17) % 20) as i32), "noise");
        assert!(!is_combed(1, 1, |_, _| 0) && !is_combed(64, 3, |_, _| 0));
    }
}
