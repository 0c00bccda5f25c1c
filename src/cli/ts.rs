//! Owns the tables of MPEG transport streams, as far as they say which streams there are: GStreamer 1.22 tells nobody of those
//! that it does not know. Of some it would know if their tables told, which [`Mute`] makes them do.

use std::collections::BTreeMap;

/// Bytes of a packet, and what each begins with.
const PACKET: usize = 188;
const SYNC: u8 = 0x47;

/// How the packets of a stream lie in its file: where the first begins, and how far apart they are.
#[derive(Clone, Copy, Debug)]
struct Grid {
    first: usize,
    step: usize,
}

impl Grid {
    /// That of a file that begins with `data`; on discs and in cameras a time of four bytes stands before each packet.
    fn of(data: &[u8]) -> Option<Self> {
        [(0, PACKET), (4, PACKET + 4)].map(|(first, step)| Self { first, step }).into_iter().find(|grid| {
            let mut starts = data.iter().skip(grid.first).step_by(grid.step).take(8);
            data.len() > grid.first && starts.all(|byte| *byte == SYNC)
        })
    }

    fn packets(self, data: &[u8]) -> impl Iterator<Item = &[u8]> {
        data[self.first..].chunks(self.step).map(|packet| &packet[..packet.len().min(PACKET)])
    }
}

/// One programme, as its table has it.
struct Program<'a> {
    table: &'a [u8],
    streams: Vec<Stream>,
}

/// A line of that table.
struct Stream {
    pid: u16,
    kind: u8,
    /// Where in the table its type stands.
    place: usize,
    /// Whether descriptors may tell its format: others than that of its language.
    is_described: bool,
}

/// The streams of each programme that is described in `data`, by PID and type.
pub(crate) fn programs(data: &[u8]) -> Vec<Vec<(u16, u8)>> {
    let Some(grid) = Grid::of(data) else { return Vec::new() };
    let streams = |program: Program| program.streams.into_iter().map(|stream| (stream.pid, stream.kind)).collect();
    described(grid, data).into_iter().map(streams).collect()
}

/// The programmes that are described in `data`, each by its first table.
fn described(grid: Grid, data: &[u8]) -> Vec<Program<'_>> {
    let mut tables = BTreeMap::new();
    let mut programs = BTreeMap::new();
    for packet in grid.packets(data) {
        let Some((pid, section)) = section(packet) else { continue };
        match section {
            // Which programmes there are: their numbers, and the PIDs of their tables.
            [0x00, ..] if pid == 0 => {
                for entry in body(section, 8).chunks_exact(4).filter(|entry| entry[..2] != [0, 0]) {
                    tables.entry(number(&entry[2..])).or_insert(());
                }
            }
            // What a programme has: types, PIDs, and descriptors of any length.
            [0x02, ..] if tables.contains_key(&pid) && section.len() > 12 => {
                let mut streams = Vec::new();
                let mut place = 12 + length(&section[10..]);
                while let [kind, high, low, length_high, length_low, ..] = *body(section, place) {
                    let end = place + 5 + length(&[length_high, length_low]);
                    let mut descriptors = section.get(place + 5..end).unwrap_or_default();
                    let mut is_described = false;
                    while let [tag, length, rest @ ..] = descriptors {
                        is_described |= *tag != LANGUAGE;
                        descriptors = rest.get(usize::from(*length)..).unwrap_or_default();
                    }
                    streams.push(Stream { pid: number(&[high, low]), kind, place, is_described });
                    place = end;
                }
                programs.entry(pid).or_insert(Program { table: section, streams });
            }
            _ => {}
        }
    }
    programs.into_values().collect()
}

/// Tables that do not tell what is in their private streams, though the streams show it: ffmpeg writes sound so where discs have
/// no type for it. GStreamer leaves out what nobody describes, so it is shown tables that do.
#[derive(Debug)]
pub(crate) struct Mute {
    grid: Grid,
    /// What stands in the file, and what should: of one length.
    tables: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Mute {
    /// The mute tables of a file that begins with `data`; `None` if there are none.
    pub(crate) fn of(data: &[u8]) -> Option<Self> {
        let grid = Grid::of(data)?;
        let answer = |program: Program| {
            let table = program.table.get(..3 + length(&program.table[1..]))?;
            let mut told = table.to_vec();
            for stream in program.streams.iter().filter(|stream| stream.kind == PRIVATE && !stream.is_described) {
                if let Some(kind) = grid.packets(data).find_map(|packet| shown(packet, stream.pid)) {
                    told[stream.place] = kind;
                }
            }
            if told == table {
                return None;
            }
            let end = told.len() - 4;
            let sum = checksum(&told[..end]).to_be_bytes();
            told[end..].copy_from_slice(&sum);
            Some((table.to_vec(), told))
        };
        let tables: Vec<_> = described(grid, data).into_iter().filter_map(answer).collect();
        (!tables.is_empty()).then_some(Self { grid, tables })
    }

    /// Makes the tables tell in `data`, which begins at byte `offset` of the file. `read` reads the file at an offset, for packets
    /// of which `data` has a part.
    pub(crate) fn tell(&self, data: &mut [u8], offset: usize, read: impl Fn(&mut [u8], usize)) {
        let Grid { first, step } = self.grid;
        let end = offset + data.len();
        let before = first + offset.saturating_sub(first) / step * step;
        for start in (before..end).step_by(step) {
            let seen = start.max(offset)..end.min(start + PACKET);
            if seen.is_empty() {
                continue; // between packets
            }
            let (in_data, in_packet) = (seen.start - offset..seen.end - offset, seen.start - start..seen.end - start);
            let mut packet = [0; PACKET];
            if seen.len() == PACKET {
                packet.copy_from_slice(&data[in_data.clone()]);
            } else {
                read(&mut packet, start);
            }
            if let Some((_, table)) = section(&packet)
                && let Some((_, told)) = self.tables.iter().find(|(mute, _)| table.starts_with(mute))
            {
                let place = PACKET - table.len();
                packet[place..place + told.len()].copy_from_slice(told);
                data[in_data].copy_from_slice(&packet[in_packet]);
            }
        }
    }
}

/// The type of private streams, and the descriptor of a language.
const PRIVATE: u8 = 0x06;
const LANGUAGE: u8 = 0x0a;

/// The type of what a packet of the stream `pid` begins with, if it shows.
fn shown(packet: &[u8], pid: u16) -> Option<u8> {
    let (_, [0, 0, 1, _, _, _, _, _, header, rest @ ..]) = payload(packet).filter(|(got, _)| *got == pid)? else {
        return None;
    };
    match *rest.get(usize::from(*header)..)? {
        [0xff, second, ..] if second & 0xf6 == 0xf0 => Some(0x0f), // AAC in ADTS
        [0xff, second, third, ..] if second & 0xe0 == 0xe0 && third < 0xf0 => Some(0x03), // MPEG audio
        [0x56, second, ..] if second & 0xe0 == 0xe0 => Some(0x11), // AAC in LATM
        [0x0b, 0x77, _, _, _, version, ..] => Some(if version >> 3 > 10 { 0x87 } else { 0x81 }), // E-AC-3, AC-3
        _ => None,
    }
}

/// The CRC-32 of tables (ISO 13818-1, Annex A).
fn checksum(table: &[u8]) -> u32 {
    table.iter().fold(u32::MAX, |sum, byte| {
        let shifted = |sum: u32, _| (sum << 1) ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 };
        (0..8).fold(sum ^ (u32::from(*byte) << 24), shifted)
    })
}

/// The PID of a packet in which something begins, and what.
fn payload(packet: &[u8]) -> Option<(u16, &[u8])> {
    let [SYNC, high, low, control, ..] = *packet else { return None };
    let begins = high & 0x40 != 0;
    let adaptation = if control & 0x20 != 0 { 1 + usize::from(*packet.get(4)?) } else { 0 };
    begins.then_some((number(&[high, low]), packet.get(4 + adaptation..PACKET)?))
}

/// The PID of a packet in which a table begins, and the table.
fn section(packet: &[u8]) -> Option<(u16, &[u8])> {
    let (pid, payload) = payload(packet)?;
    Some((pid, payload.get(1 + usize::from(*payload.first()?)..)?))
}

/// A table from `start` on, without its checksum.
fn body(section: &[u8], start: usize) -> &[u8] {
    let end = 3 + section.get(1..3).map_or(0, length);
    section.get(start..end.saturating_sub(4).min(section.len())).unwrap_or_default()
}

fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]]) & 0x1fff
}

fn length(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]) & 0x0fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of one programme, whose own has the PID 256.
    const PROGRAMS: [u8; 16] = [0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0, 1, 2, 3, 4];

    fn packet(pid: u16, table: &[u8]) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut packet = vec![SYNC, 0x40 | high, low, 0x10, 0];
        packet.extend(table);
        packet.resize(PACKET, 0xff);
        packet
    }

    #[test]
    fn tables_tell_what_is_in_a_stream() {
        let pmt = [
            2, 0xb0, 26, 0, 1, 0xc1, 0, 0, 0xe1, 1, 0xf0, 0, 0x1b, 0xe1, 1, 0xf0, 0, 6, 0xe1, 2, 0xf0, 3, 1, 2, 3, 9,
            9, 9, 9,
        ];
        let mut stream: Vec<u8> = [packet(0, &PROGRAMS), packet(256, &pmt)].concat();
        stream.extend(packet(8191, &[]).repeat(8));
        let expected = vec![vec![(257, 0x1b), (258, 6)]];
        assert_eq!(programs(&stream), expected);
        let disc: Vec<u8> = stream.chunks(PACKET).flat_map(|packet| [&[0; 4], packet].concat()).collect();
        assert_eq!(programs(&disc), expected);
    }

    /// A stream whose table calls `pid` 258 private, and whose packets of it begin with `sound`.
    fn private(sound: &[u8]) -> Vec<u8> {
        let mut pmt =
            vec![2, 0xb0, 23, 0, 1, 0xc1, 0, 0, 0xe1, 1, 0xf0, 0, 0x1b, 0xe1, 1, 0xf0, 0, PRIVATE, 0xe1, 2, 0xf0, 0];
        pmt.extend(checksum(&pmt).to_be_bytes());
        let mut pes = packet(258, &[0, 1, 0xbd, 0, 0, 0x80, 0, 0]);
        pes[13..13 + sound.len()].copy_from_slice(sound);
        [packet(0, &PROGRAMS), packet(256, &pmt), pes, packet(256, &pmt), packet(8191, &[]).repeat(8)].concat()
    }

    #[test]
    fn sound_without_a_type_gets_that_which_it_shows() {
        for (sound, kind) in [
            (&[0xff, 0xf1][..], 0x0f),
            (&[0xff, 0xf9], 0x0f),
            (&[0xff, 0xfd, 0xc4], 0x03),
            (&[0x56, 0xe0], 0x11),
            (&[0x0b, 0x77, 0, 0, 0x14, 0x40], 0x81),
            (&[0x0b, 0x77, 0, 0, 0x3f, 0x80], 0x87),
        ] {
            let stream = private(sound);
            let disc: Vec<u8> = stream.chunks(PACKET).flat_map(|packet| [&[0; 4], packet].concat()).collect();
            for file in [stream, disc] {
                let mute = Mute::of(&file).expect("it is mute");
                let read = |packet: &mut [u8], offset: usize| packet.copy_from_slice(&file[offset..][..PACKET]);
                for size in [1, 7, 100, 188, 192, 1000, file.len()] {
                    let mut told = file.clone();
                    for (index, part) in told.chunks_mut(size).enumerate() {
                        mute.tell(part, index * size, read);
                    }
                    assert_eq!(programs(&told), [[(257, 0x1b), (258, kind)]], "in parts of {size} bytes");
                    assert!(Mute::of(&told).is_none());
                    let changed = file.iter().zip(&told).filter(|(before, after)| before != after).count();
                    assert!((4..=10).contains(&changed), "the type and the checksum of two tables");
                    let tables = Grid::of(&told).expect("it is a stream");
                    for program in described(tables, &told) {
                        assert_eq!(checksum(&program.table[..26]), 0, "a table and its checksum");
                    }
                }
            }
        }
    }

    #[test]
    fn what_shows_nothing_or_is_described_stays_as_it_is() {
        assert!(Mute::of(&private(&[0x20, 0x00])).is_none());
        assert!(Mute::of(b"no transport stream").is_none());
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        for length in 0..64 {
            let table = vec![2; length];
            // A table that says how short it is.
            let short = [&[2, 0xb0, length as u8][..], &[0; 13]].concat();
            Mute::of(&[packet(0, &PROGRAMS), packet(256, &short)].concat().repeat(4));
            let stream = [packet(0, &[0, 0xbf, 0xff]), packet(2, &table)].concat();
            programs(&stream.repeat(4));
            Mute::of(&stream.repeat(4));
            programs(&stream[..length]);
            programs(&vec![SYNC; 188 * 8 + length]);
        }
    }
}
