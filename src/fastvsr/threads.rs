//! Owns the threads that convert large frames: one pool for all elements of the process, as many as there are cores.

use std::{sync::OnceLock, thread::available_parallelism};

use crate::frames::Size;

/// Frames from this size on, in pixels, are worth a thread for every core.
const LARGE: usize = 1 << 18;

/// The threads beside the one that asks; none where there is one core, or where the system gives no more threads.
fn pool() -> Option<&'static rayon::ThreadPool> {
    static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    let start = || {
        let others = available_parallelism().map_or(0, |cores| cores.get() - 1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(others).thread_name(|_| "fastvsr-convert".into());
        // Zero threads would be rayon's word for its own choice.
        (others > 0).then(|| pool.build().ok()).flatten()
    };
    POOL.get_or_init(start).as_ref()
}

/// Into how many parts a frame is cut to be converted.
pub(super) fn parts(size: Size) -> usize {
    let large = size.width * size.height >= LARGE;
    large.then(pool).flatten().map_or(1, |pool| pool.current_num_threads() + 1)
}

/// Calls `convert` with every part, the last of them on this thread: the engine stands still meanwhile.
pub(super) fn each<T: Send, E: Send>(parts: Vec<T>, convert: impl Fn(T) -> Result<(), E> + Sync) -> Result<(), E> {
    let Some(pool) = (parts.len() > 1).then(pool).flatten() else { return parts.into_iter().try_for_each(convert) };
    let mut results: Vec<_> = parts.iter().map(|_| Ok(())).collect();
    pool.in_place_scope(|scope| {
        let mut work = results.iter_mut().zip(parts).peekable();
        while let Some((result, part)) = work.next() {
            let convert = &convert;
            let run = move || *result = convert(part);
            if work.peek().is_some() { scope.spawn(move |_| run()) } else { run() }
        }
    });
    results.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_converted_and_an_error_of_any_is_told() {
        for count in [0, 1, 2, 33] {
            let mut pixels = vec![0; count];
            let convert = |pixel: &mut u8| {
                *pixel += 1;
                Ok::<_, ()>(())
            };
            each(pixels.iter_mut().collect(), convert).unwrap();
            assert_eq!(pixels, vec![1; count]);
            for bad in 0..count {
                let convert = |n| if n == bad { Err(n) } else { Ok(()) };
                assert_eq!(each((0..count).collect(), convert), Err(bad));
            }
        }
    }
}
