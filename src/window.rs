//! Owns the cutting of a frame sequence into temporal windows: which frames the model sees together, and which of
//! its outputs are kept. Generic over the frame; knows neither pixels nor GStreamer nor ONNX Runtime.
//!
//! Every pushed frame is kept in exactly one window, in order. Context frames (look-back, look-ahead, padding) are
//! shown to the model and their output is discarded: averaging two generative predictions ghosts, cutting does not.

use std::ops::Range;

use crate::model::Time;

/// Frames for one run of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window<F> {
    /// Context, new frames, context, padding: in order of time.
    pub frames: Vec<F>,
    /// The new frames among them, whose output is kept.
    pub keep: Range<usize>,
    /// Whether a sequence begins with them: recurrent state starts blank.
    pub first: bool,
}

/// Cuts a sequence of frames into windows.
#[derive(Debug)]
pub struct Windower<F> {
    time: Time,
    /// `context` frames that were kept before, then frames that were not.
    frames: Vec<F>,
    context: usize,
    first: bool,
}

impl<F: Clone> Windower<F> {
    /// Cuts as `time` says, into windows of `frames` new frames (0 = as many as the model prefers), or the next number that
    /// the model can take.
    pub fn new(time: Time, frames: usize) -> Self {
        let wanted = if frames == 0 { time.window } else { frames };
        let window = wanted.clamp(time.minimum, time.maximum).next_multiple_of(time.multiple);
        Self { time: Time { window, ..time }, frames: Vec::new(), context: 0, first: true }
    }

    /// Frames that go in before the first comes out: the delay of the first frame of a window, in frames.
    pub fn delay(&self) -> usize {
        self.time.window + self.time.first_extra + self.time.look_ahead - 1
    }

    /// Adds a frame; gives a window when one is full.
    pub fn push(&mut self, frame: F) -> Option<Window<F>> {
        self.frames.push(frame);
        (self.waiting() >= self.new_frames() + self.time.look_ahead).then(|| self.cut(self.new_frames()))
    }

    /// Gives the windows of all frames that wait, padded by repeating the last frame. The sequence goes on.
    pub fn close(&mut self) -> Vec<Window<F>> {
        let mut windows = Vec::new();
        while self.waiting() > 0 {
            windows.push(self.cut(self.waiting().min(self.new_frames())));
        }
        windows
    }

    /// Drops all frames that wait. The next frame begins a new sequence.
    pub fn flush(&mut self) {
        self.frames.clear();
        self.context = 0;
        self.first = true;
    }

    fn waiting(&self) -> usize {
        self.frames.len() - self.context
    }

    fn extra(&self) -> usize {
        if self.first { self.time.first_extra } else { 0 }
    }

    fn new_frames(&self) -> usize {
        self.time.window + self.extra()
    }

    fn cut(&mut self, new: usize) -> Window<F> {
        let keep = self.context..self.context + new;
        let end = (keep.end + self.time.look_ahead).min(self.frames.len());
        let mut frames = self.frames[..end].to_vec();

        let wanted = (new + self.time.look_ahead).max(self.time.minimum);
        let wanted = (wanted.saturating_sub(self.extra())).next_multiple_of(self.time.multiple) + self.extra();
        let last = frames[end - 1].clone();
        frames.resize(end.max(self.context + wanted), last);

        let context = keep.end.min(self.time.look_back);
        self.frames.drain(..keep.end - context);
        self.context = context;
        Window { frames, keep, first: std::mem::take(&mut self.first) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAUSAL: Time =
        Time { window: 4, minimum: 1, maximum: 1024, multiple: 1, first_extra: 0, look_back: 0, look_ahead: 0 };

    fn kept(windows: &[Window<usize>]) -> Vec<usize> {
        windows.iter().flat_map(|window| window.frames[window.keep.clone()].to_vec()).collect()
    }

    #[test]
    fn a_causal_window_holds_its_frames_and_nothing_else() {
        let mut windower = Windower::new(CAUSAL, 0);
        let full: Vec<_> = (0..6).filter_map(|n| windower.push(n)).collect();
        assert_eq!(full, [Window { frames: vec![0, 1, 2, 3], keep: 0..4, first: true }]);
        assert_eq!(windower.close(), [Window { frames: vec![4, 5], keep: 0..2, first: false }]);
        assert_eq!(windower.close(), []);
    }

    #[test]
    fn a_window_of_one_frame_does_not_delay() {
        let mut windower = Windower::new(CAUSAL, 1);
        assert_eq!(windower.delay(), 0);
        assert_eq!(windower.push(7), Some(Window { frames: vec![7], keep: 0..1, first: true }));
        let alone = Windower::<usize>::new(Time { window: 1, maximum: 1, ..CAUSAL }, 8);
        assert_eq!(alone.delay(), 0);
    }

    #[test]
    fn context_is_shown_and_not_kept() {
        let mut windower = Windower::new(Time { look_back: 1, look_ahead: 1, ..CAUSAL }, 2);
        let full: Vec<_> = (0..6).filter_map(|n| windower.push(n)).collect();
        assert_eq!(
            full,
            [
                Window { frames: vec![0, 1, 2], keep: 0..2, first: true },
                Window { frames: vec![1, 2, 3, 4], keep: 1..3, first: false },
            ]
        );
        assert_eq!(windower.close(), [Window { frames: vec![3, 4, 5, 5], keep: 1..3, first: false }]);
        assert_eq!(windower.push(6), None);
        assert_eq!(windower.close(), [Window { frames: vec![5, 6, 6], keep: 1..2, first: false }]);
    }

    #[test]
    fn four_n_plus_one_models_get_their_extra_first_frame() {
        let time = Time { multiple: 4, minimum: 5, first_extra: 1, ..CAUSAL };
        let mut windower = Windower::new(time, 4);
        let full: Vec<_> = (0..9).filter_map(|n| windower.push(n)).map(|window| window.frames.len()).collect();
        assert_eq!(full, [9]);
    }

    proptest! {
        #[test]
        fn every_frame_is_kept_once_in_order(
            window in 1usize..9, minimum in 1usize..9, multiple in 1usize..5, first_extra in 0usize..2,
            look_back in 0usize..4, look_ahead in 0usize..4, asked in 0usize..9, lengths in prop::collection::vec(0usize..40, 1..4),
        ) {
            let maximum = window.max(minimum).next_multiple_of(multiple);
            let time = Time { window, minimum, maximum, multiple, first_extra, look_back, look_ahead };
            let mut windower = Windower::new(time, asked);
            for length in lengths {
                let mut windows = Vec::new();
                for n in 0..length {
                    windows.extend(windower.push(n));
                    prop_assert!(kept(&windows).len() + windower.delay() > n);
                }
                windows.extend(windower.close());
                windower.flush();
                prop_assert_eq!(kept(&windows), (0..length).collect::<Vec<_>>());
                for (index, Window { frames, keep, first }) in windows.iter().enumerate() {
                    prop_assert_eq!(*first, index == 0);
                    let extra = if index == 0 { first_extra } else { 0 };
                    let fresh = frames.len() - keep.start;
                    prop_assert!(fresh >= minimum && keep.start <= look_back && keep.len() <= maximum + extra);
                    prop_assert!(fresh < extra || (fresh - extra).is_multiple_of(multiple));
                    prop_assert!(frames.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", frames);
                }
            }
        }

        #[test]
        fn a_flush_forgets_everything(before in 0usize..20, after in 0usize..20) {
            let mut windower = Windower::new(Time { look_back: 2, ..CAUSAL }, 0);
            (0..before).for_each(|n| drop(windower.push(n)));
            windower.flush();
            let mut windows: Vec<_> = (100..100 + after).filter_map(|n| windower.push(n)).collect();
            windows.extend(windower.close());
            prop_assert!(windows.iter().flat_map(|window| &window.frames).all(|frame| *frame >= 100));
            prop_assert_eq!(kept(&windows).len(), after);
        }
    }
}
