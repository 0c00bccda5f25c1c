//! Owns the judgement whether the two fields of frames show two moments, as discs, tapes and recordings do that were filmed
//! so, or one, as films do that are only stored so, or now one and now two, as films do that were made 30 frames a second of 24.

/// Frames that are looked at: two seconds, about.
pub(crate) const LOOKED_AT: usize = 50;

/// How many of them must show it: one may be a cut.
const ENOUGH: usize = 3;

/// How many of them show that it is every fifth frame and the one after it, and no accident.
const SURE: usize = 10;

/// What the fields of frames show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moments {
    One,
    Two,
    /// Of five frames three show one, and two show two (3:2 pulldown).
    Film,
}

/// Judges by frames in a row, whether each [`is_combed`].
pub(crate) fn judge(combed: &[bool]) -> Moments {
    let in_phase = |phase| combed.iter().skip(phase).step_by(5).filter(|combed| **combed).count();
    let all = (0..5).map(in_phase).sum::<usize>();
    let is_film = (0..5).any(|phase| {
        in_phase(phase).min(in_phase((phase + 1) % 5)) > 0 && in_phase(phase) + in_phase((phase + 1) % 5) == all
    });
    match all {
        ..ENOUGH => Moments::One,
        SURE.. if is_film => Moments::Film,
        _ => Moments::Two,
    }
}

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
    fn a_film_shows_two_moments_in_two_of_five_frames() {
        let frames = |combed: fn(usize) -> bool| judge(&(0..LOOKED_AT).map(combed).collect::<Vec<_>>());
        assert_eq!(frames(|_| false), Moments::One);
        assert_eq!(frames(|n| n == 7 || n == 8), Moments::One, "a cut");
        assert_eq!(frames(|_| true), Moments::Two);
        assert_eq!(frames(|n| n > 30), Moments::Two);
        assert_eq!(frames(|n| n % 5 > 2), Moments::Film);
        assert_eq!(frames(|n| matches!(n % 5, 0 | 4)), Moments::Film);
        assert_eq!(frames(|n| n > 20 && n % 5 > 2), Moments::Film, "it begins with a title");
        assert_eq!(frames(|n| n > 40 && n % 5 > 2), Moments::Two, "too few to be sure");
        assert_eq!(frames(|n| n % 5 == 2), Moments::Two);
        assert_eq!(frames(|n| n % 5 > 2 || n == 12), Moments::Two);
    }

    #[test]
    fn what_one_moment_can_show_is_none() {
        assert!(!is_combed(64, 64, |_, y| if y == 30 { 255 } else { 0 }), "a line");
        assert!(!is_combed(64, 64, |x, y| (4 * (x + y) % 256) as i32), "a ramp");
        assert!(!is_combed(64, 64, |x, y| ((x * 31 + y * 17) % 20) as i32), "noise");
        assert!(!is_combed(1, 1, |_, _| 0) && !is_combed(64, 3, |_, _| 0));
    }
}
