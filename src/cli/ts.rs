//! Owns the tables of MPEG transport streams, as far as they say which streams there are: GStreamer 1.22 tells nobody of those
//! that it does not know.

use std::collections::BTreeMap;

/// Bytes of a packet, and what each begins with.
const PACKET: usize = 188;
const SYNC: u8 = 0x47;

/// The streams of each programme that is described in `data`, by PID and type.
pub(crate) fn programs(data: &[u8]) -> Vec<Vec<(u16, u8)>> {
    // On discs and in cameras a time of four bytes stands before each packet.
    let Some((first, step)) = [(0, PACKET), (4, PACKET + 4)].into_iter().find(|(first, step)| {
        let mut starts = data.iter().skip(*first).step_by(*step).take(8);
        data.len() > *first && starts.all(|byte| *byte == SYNC)
    }) else {
        return Vec::new();
    };
    let mut tables = BTreeMap::new();
    let mut programs = BTreeMap::new();
    for packet in data[first..].chunks(step) {
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
                let mut rest = body(section, 12 + usize::from(number(&section[10..]) & 0x0fff));
                while let [kind, high, low, length_high, length_low, ..] = *rest {
                    streams.push((number(&[high, low]), kind));
                    let length = usize::from(u16::from_be_bytes([length_high, length_low]) & 0x0fff);
                    rest = rest.get(5 + length..).unwrap_or_default();
                }
                programs.entry(pid).or_insert(streams);
            }
            _ => {}
        }
    }
    programs.into_values().collect()
}

/// The PID of a packet in which a table begins, and the table.
fn section(packet: &[u8]) -> Option<(u16, &[u8])> {
    let [SYNC, high, low, control, ..] = *packet else { return None };
    let begins = high & 0x40 != 0;
    let adaptation = if control & 0x20 != 0 { 1 + usize::from(*packet.get(4)?) } else { 0 };
    let payload = packet.get(4 + adaptation..PACKET)?;
    let table = payload.get(1 + usize::from(*payload.first()?)..)?;
    begins.then_some((number(&[high, low]), table))
}

/// A table from `start` on, without its checksum.
fn body(section: &[u8], start: usize) -> &[u8] {
    let end = 3 + usize::from(u16::from_be_bytes([section[1], section.get(2).copied().unwrap_or(0)]) & 0x0fff);
    section.get(start..end.saturating_sub(4).min(section.len())).unwrap_or_default()
}

fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]]) & 0x1fff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pid: u16, table: &[u8]) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut packet = vec![SYNC, 0x40 | high, low, 0x10, 0];
        packet.extend(table);
        packet.resize(PACKET, 0xff);
        packet
    }

    #[test]
    fn tables_tell_what_is_in_a_stream() {
        let pat = [0, 0xb0, 13, 0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0, 1, 2, 3, 4];
        let pmt = [
            2, 0xb0, 26, 0, 1, 0xc1, 0, 0, 0xe1, 1, 0xf0, 0, 0x1b, 0xe1, 1, 0xf0, 0, 6, 0xe1, 2, 0xf0, 3, 1, 2, 3, 9,
            9, 9, 9,
        ];
        let mut stream: Vec<u8> = [packet(0, &pat), packet(256, &pmt)].concat();
        stream.extend(packet(8191, &[]).repeat(8));
        let expected = vec![vec![(257, 0x1b), (258, 6)]];
        assert_eq!(programs(&stream), expected);
        let disc: Vec<u8> = stream.chunks(PACKET).flat_map(|packet| [&[0; 4], packet].concat()).collect();
        assert_eq!(programs(&disc), expected);
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        for length in 0..64 {
            let table = vec![2; length];
            let stream = [packet(0, &[0, 0xbf, 0xff]), packet(2, &table)].concat();
            programs(&stream.repeat(4));
            programs(&stream[..length]);
            programs(&vec![SYNC; 188 * 8 + length]);
        }
    }
}
