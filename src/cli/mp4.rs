//! Owns what MP4 and QuickTime files say that GStreamer 1.22 neither reads nor writes: when, where and with what a film was
//! recorded, and tracks of other kinds than it knows.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
};

use anyhow::Result;

/// Largest box that describes a film, in bytes: hours have a tenth of that.
const LARGEST: u64 = 64 << 20;

/// Seconds from 1904, where these files begin to count, to 1970.
const EPOCH: i64 = 2_082_844_800;

/// Boxes with the place of the recording: as Android's phones write it, `+52.5+013.4/` (ISO 6709), and as 3GPP has it. Apple's
/// write it as one of several keys (QuickTime File Format, "Metadata").
const PLACES: [&[u8; 4]; 2] = [b"\xa9xyz", b"loci"];

/// Kinds of tracks that GStreamer knows, or that belong to others.
const KNOWN: [&[u8]; 9] = [b"vide", b"soun", b"text", b"sbtl", b"subt", b"subp", b"clcp", b"hint", b"alis"];

/// What a file says beside its streams.
#[derive(Debug, Default)]
pub(crate) struct About {
    /// The boxes with the place, as they are.
    pub(crate) place: Vec<u8>,
    /// The box with Apple's keys: place, date with its time zone, maker and model of the camera.
    pub(crate) keys: Vec<u8>,
    /// Tracks of other kinds, in words.
    pub(crate) tracks: Vec<String>,
}

impl About {
    /// Whether there is nothing in it that another file could have.
    pub(crate) fn is_mute(&self) -> bool {
        self.place.is_empty() && self.keys.is_empty()
    }
}

/// What a file says beside its streams; nothing if it is of another kind.
pub(crate) fn about(path: &Path) -> About {
    let movie = File::open(path).map_err(anyhow::Error::from).and_then(|file| movie(&file)).ok().flatten();
    let Some((_, movie)) = movie else { return About::default() };
    let whole = 0..movie.len();
    let users = find(&movie, whole.clone(), b"udta");
    let inner = users.iter().flat_map(|user| boxes(&movie, user.clone()));
    let places = inner.filter(|inner| PLACES.contains(&&inner.kind));
    let place = places.flat_map(|place| movie[place.all].to_vec()).collect();
    let metas = users.iter().chain([&whole]).flat_map(|part| find(&movie, part.clone(), b"meta"));
    // MP4 has a version before the boxes in it, QuickTime has not; MP4's form is read by both.
    let keys = metas.filter_map(|meta| {
        let inner = if movie.get(meta.start + 4..meta.start + 8)? == b"hdlr" { meta } else { meta.start + 4..meta.end };
        let handler = find(&movie, inner.clone(), b"hdlr").pop()?;
        (movie.get(handler)?.get(8..12)? == b"mdta").then(|| with_head(b"meta", &[&[0; 4], &movie[inner]].concat()))
    });
    let keys = keys.take(1).flatten().collect();
    let kinds = find(&movie, whole, b"trak").into_iter().filter_map(|track| {
        let media = find(&movie, track, b"mdia").pop()?;
        let handler = find(&movie, media, b"hdlr").pop()?;
        movie[handler].get(8..12)
    });
    let tracks = kinds.filter(|kind| !KNOWN.contains(kind)).map(|kind| match kind {
        b"tmcd" => "timecode".to_string(),
        b"meta" => "the camera's metadata".to_string(),
        _ => format!("a track of kind {}", kind.escape_ascii()),
    });
    About { place, keys, tracks: tracks.collect() }
}

/// Tells in a finished file when its film was recorded, in seconds since 1970, and what another file says about it. Gives
/// whether that could be done.
pub(crate) fn complete(mut file: &File, created: Option<i64>, about: &About) -> Result<bool> {
    if created.is_none() && about.is_mute() {
        return Ok(true);
    }
    let Some((start, mut movie)) = movie(file)? else { return Ok(false) };
    // Behind it nothing may move that is found by its place in the file.
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(start + 8 + movie.len() as u64))?;
    file.take(LARGEST).read_to_end(&mut rest)?;
    let moves = |rest: &Atom| matches!(&rest.kind, b"uuid" | b"free" | b"skip");
    let behind = boxes(&rest, 0..rest.len());
    let is_last = behind.iter().all(moves) && behind.last().map_or(0, |last| last.all.end) == rest.len();
    if let Some(created) = created {
        for head in heads(&movie) {
            stamp(&mut movie[head], created + EPOCH);
        }
    }
    if is_last && !about.is_mute() {
        let whole = 0..movie.len();
        let user: Vec<u8> =
            find(&movie, whole.clone(), b"udta").into_iter().flat_map(|user| movie[user].to_vec()).collect();
        let others = boxes(&movie, whole)
            .into_iter()
            .filter(|other| other.kind != *b"udta")
            .flat_map(|other| movie[other.all].to_vec());
        let user = with_head(b"udta", &[user, about.place.clone()].concat());
        movie = others.chain(user).chain(about.keys.iter().copied()).collect();
    }
    file.seek(SeekFrom::Start(start))?;
    file.write_all(&with_head(b"moov", &movie))?;
    if is_last {
        file.write_all(&rest)?;
    }
    Ok(is_last || about.is_mute())
}

/// A box in bytes.
#[derive(Debug)]
struct Atom {
    kind: [u8; 4],
    all: Range<usize>,
    body: Range<usize>,
}

/// The boxes in a part of the bytes, up to one that is broken.
fn boxes(bytes: &[u8], part: Range<usize>) -> Vec<Atom> {
    let mut found = Vec::new();
    let mut start = part.start;
    while let Some(head) = bytes[..part.end].get(start..start + 8) {
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = start.saturating_add(size);
        if size < 8 || end > part.end {
            break;
        }
        found.push(Atom { kind: [head[4], head[5], head[6], head[7]], all: start..end, body: start + 8..end });
        start = end;
    }
    found
}

/// What is in the boxes of a kind in a part of the bytes.
fn find(bytes: &[u8], part: Range<usize>, kind: &[u8; 4]) -> Vec<Range<usize>> {
    boxes(bytes, part).into_iter().filter(|inner| inner.kind == *kind).map(|inner| inner.body).collect()
}

/// The contents of the boxes that have a date: of the film, of its tracks, and of what is in them.
fn heads(movie: &[u8]) -> Vec<Range<usize>> {
    let whole = 0..movie.len();
    let mut heads = find(movie, whole.clone(), b"mvhd");
    for track in find(movie, whole, b"trak") {
        heads.extend(find(movie, track.clone(), b"tkhd"));
        for media in find(movie, track, b"mdia") {
            heads.extend(find(movie, media, b"mdhd"));
        }
    }
    heads
}

/// Writes both dates of a box: of creation and of the last change.
fn stamp(head: &mut [u8], date: i64) {
    match (head.first(), u32::try_from(date)) {
        (Some(0), Ok(date)) if head.len() >= 12 => {
            head[4..8].copy_from_slice(&date.to_be_bytes());
            head[8..12].copy_from_slice(&date.to_be_bytes());
        }
        (Some(1), _) if head.len() >= 20 => {
            head[4..12].copy_from_slice(&date.to_be_bytes());
            head[12..20].copy_from_slice(&date.to_be_bytes());
        }
        _ => {}
    }
}

fn with_head(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(8 + body.len()).expect("it is smaller than the largest");
    [&size.to_be_bytes()[..], kind, body].concat()
}

/// Where the box that describes the film begins, and what is in it; `None` if there is none.
fn movie(mut file: &File) -> Result<Option<(u64, Vec<u8>)>> {
    let mut start = 0;
    loop {
        file.seek(SeekFrom::Start(start))?;
        let mut head = [0; 16];
        if file.read_exact(&mut head).is_err() {
            return Ok(None);
        }
        let size = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        let is_long = size == 1;
        let size = if is_long { u64::from_be_bytes(head[8..].try_into()?) } else { size };
        if &head[4..8] == b"moov" && !is_long && (16..LARGEST).contains(&size) {
            let mut movie = vec![0; size as usize - 8];
            file.seek(SeekFrom::Start(start + 8))?;
            file.read_exact(&mut movie)?;
            return Ok(Some((start, movie)));
        }
        if size < 8 {
            return Ok(None);
        }
        start = start.saturating_add(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn film(last: &[u8]) -> File {
        let head = [&[0; 12][..], &[7; 20]].concat();
        let handler = with_head(b"hdlr", b"\0\0\0\0\0\0\0\0tmcd\0\0\0\0");
        let media = with_head(b"mdia", &[with_head(b"mdhd", &head), handler].concat());
        let track = with_head(b"trak", &[with_head(b"tkhd", &head), media].concat());
        let user = with_head(b"udta", &with_head(b"name", b"a"));
        let movie = with_head(b"moov", &[with_head(b"mvhd", &head), user, track].concat());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[with_head(b"ftyp", b"isom"), with_head(b"mdat", &[9; 99]), movie, last.to_vec()].concat())
            .unwrap();
        file
    }

    #[test]
    fn time_and_place_are_told() {
        let place = with_head(PLACES[0], b"\0\x0c\0\0+52.5+013.4/");
        let keys = with_head(b"meta", b"keys");
        let file = film(&with_head(b"uuid", b"xmp"));
        let length = file.metadata().unwrap().len();
        let about = About { place, keys, tracks: Vec::new() };
        assert!(complete(&file, Some(0), &about).unwrap());
        let more = about.place.len() + about.keys.len();
        assert_eq!(file.metadata().unwrap().len(), length + more as u64);
        let (_, movie) = movie(&file).unwrap().unwrap();
        assert_eq!(heads(&movie).len(), 3);
        assert!(
            heads(&movie)
                .into_iter()
                .all(|head| movie[head][4..12] == [0x7c, 0x25, 0xb0, 0x80, 0x7c, 0x25, 0xb0, 0x80])
        );
        let user = find(&movie, 0..movie.len(), b"udta").pop().unwrap();
        assert_eq!(boxes(&movie, user).iter().map(|inner| inner.kind).collect::<Vec<_>>(), [*b"name", *PLACES[0]]);
        assert_eq!(boxes(&movie, 0..movie.len()).pop().unwrap().kind, *b"meta");
    }

    #[test]
    fn what_would_move_the_rest_is_not_done() {
        let file = film(&with_head(b"mdat", &[]));
        let length = file.metadata().unwrap().len();
        let about = About { place: with_head(PLACES[0], b""), ..About::default() };
        assert!(!complete(&file, Some(0), &about).unwrap());
        assert_eq!(file.metadata().unwrap().len(), length);
    }

    #[test]
    fn apples_keys_are_read_in_each_form() {
        let inner = [with_head(b"hdlr", b"\0\0\0\0\0\0\0\0mdta"), with_head(b"keys", b"com.apple")].concat();
        let versioned = with_head(b"meta", &[&[0; 4], &inner[..]].concat());
        for meta in [with_head(b"meta", &inner), versioned.clone(), with_head(b"udta", &versioned)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), with_head(b"moov", &meta)).unwrap();
            assert_eq!(about(file.path()).keys, versioned);
        }
    }

    #[test]
    fn whatever_is_broken_is_not_read() {
        let handler = with_head(b"hdlr", b"\0\0\0\0\0\0\0\0mdta");
        let track = with_head(b"trak", &with_head(b"mdia", &handler));
        let whole = with_head(b"moov", &[track, with_head(b"meta", &handler)].concat());
        for at in 0..whole.len() {
            for value in [0, 1, 8, 0xff] {
                let mut broken = whole.clone();
                broken[at] = value;
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), broken).unwrap();
                about(file.path());
            }
        }
    }
}
