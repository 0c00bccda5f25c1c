//! Owns the colours in an AV1 stream, which GStreamer 1.22's encoders leave out: players that look there, and not into the file
//! around it, would guess. Names are those of the AV1 Bitstream & Decoding Process Specification, section 5.

/// Primaries, transfer and matrix by their numbers in ISO/IEC 23091-4.
pub(crate) type Colours = [u8; 3];

const OBU_SEQUENCE_HEADER: u8 = 1;

/// The units of a frame with these colours in each sequence header that tells none; `None` if nothing is to be changed.
pub(crate) fn coloured(units: &[u8], colours: Colours) -> Option<Vec<u8>> {
    let (mut out, mut rest, mut changed) = (Vec::new(), units, false);
    while let Some(&head) = rest.first() {
        let (kind, is_extended, has_size) = (head >> 3 & 15, head & 4 != 0, head & 2 != 0);
        let start = 1 + usize::from(is_extended);
        let (size, digits) = if has_size { leb128(rest.get(start..)?)? } else { (rest.len().checked_sub(start)?, 0) };
        let (head, body) = (rest.get(..start)?, rest.get(start + digits..)?.get(..size)?);
        rest = &rest[start + digits + size..];
        let header = (kind == OBU_SEQUENCE_HEADER).then(|| with_colours(body, colours)).flatten();
        changed |= header.is_some();
        let body = header.as_deref().unwrap_or(body);
        out.extend(head);
        if has_size {
            write_leb128(&mut out, body.len());
        }
        out.extend(body);
    }
    changed.then_some(out)
}

/// A number and how many bytes it takes.
fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let digits = 1 + bytes.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    Some((bytes[..digits].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f)), digits))
}

fn write_leb128(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A sequence header with colours; `None` if it has some or cannot be read.
fn with_colours(header: &[u8], colours: Colours) -> Option<Vec<u8>> {
    let flag = color_description_present_flag(header)?;
    let bit = |at: usize| header[at / 8] >> (7 - at % 8) & 1;
    if bit(flag) == 1 {
        return None;
    }
    // Three bytes more: what follows keeps its places in its bytes.
    let described = colours.iter().flat_map(|colour| (0..8).rev().map(move |at| colour >> at & 1));
    let bits: Vec<u8> =
        (0..flag).map(bit).chain([1]).chain(described).chain((flag + 1..8 * header.len()).map(bit)).collect();
    Some(bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | bit)).collect())
}

/// Where in a sequence header that flag is, in bits.
fn color_description_present_flag(header: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut f = |bits: usize| {
        at += bits;
        let mut range = at - bits..at;
        range.try_fold(0u64, |value, at| Some(value << 1 | u64::from(header.get(at / 8)? >> (7 - at % 8) & 1)))
    };
    let seq_profile = f(3)?;
    let _still_picture = f(1)?;
    let reduced_still_picture_header = f(1)? == 1;
    if reduced_still_picture_header {
        let _seq_level_idx = f(5)?;
    } else {
        if f(1)? == 1 {
            return None; // timing_info: no encoder here writes it
        }
        let initial_display_delay_present_flag = f(1)? == 1;
        for _ in 0..=f(5)? {
            let _operating_point_idc = f(12)?;
            if f(5)? > 7 {
                let _seq_tier = f(1)?;
            }
            if initial_display_delay_present_flag && f(1)? == 1 {
                let _initial_display_delay_minus_1 = f(4)?;
            }
        }
    }
    let (frame_width_bits, frame_height_bits) = (f(4)? + 1, f(4)? + 1);
    f((frame_width_bits + frame_height_bits) as usize)?;
    if !reduced_still_picture_header && f(1)? == 1 {
        let _lengths_of_frame_ids = f(7)?;
    }
    let _blocks_and_intra_tools = f(3)?;
    if !reduced_still_picture_header {
        let _inter_tools = f(4)?;
        let enable_order_hint = f(1)? == 1;
        if enable_order_hint {
            let _enable_jnt_comp_and_ref_frame_mvs = f(2)?;
        }
        let may_be_screen_content = f(1)? == 1 || f(1)? == 1;
        if may_be_screen_content && f(1)? == 0 {
            let _seq_force_integer_mv = f(1)?;
        }
        if enable_order_hint {
            let _order_hint_bits_minus_1 = f(3)?;
        }
    }
    let _superres_cdef_restoration = f(3)?;
    let high_bitdepth = f(1)? == 1;
    if seq_profile == 2 && high_bitdepth {
        let _twelve_bit = f(1)?;
    }
    if seq_profile != 1 {
        let _mono_chrome = f(1)?;
    }
    f(1)?;
    Some(at - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequence headers of libaom, SVT-AV1 and rav1e, and where ffmpeg's `trace_headers` sees the flag. The last tells colours.
    const HEADERS: [(&[u8], usize); 3] = [
        (b"\0\0\0\x02\xaf\xf7\xf0\x36\xbe\x40\x10", 77),
        (b"\0\0\0\x42\xab\xbf\xc3\x73\xef\xe4\x01", 81),
        (b"\0\0\0\xfa\xab\xbf\xc3\x71\x08\x56\x40\x80\x80\x85", 81),
    ];

    #[test]
    fn colours_are_told_where_there_are_none() {
        for (header, flag) in HEADERS {
            assert_eq!(color_description_present_flag(header), Some(flag));
        }
        let [libaom, _, rav1e] = HEADERS.map(|(header, _)| header);
        let told = with_colours(libaom, [9, 16, 9]).unwrap();
        // 77 bits as before, the flag, the colours, three bits as before.
        assert_eq!(told, b"\0\0\0\x02\xaf\xf7\xf0\x36\xbe\x44\x24\x40\x24\x10");
        assert_eq!(with_colours(&told, [1, 1, 1]), None);
        assert_eq!(with_colours(rav1e, [1, 1, 1]), None);
    }

    #[test]
    fn the_other_units_stay_as_they_are() {
        let (delimiter, frame) = (b"\x12\0", b"\x32\x03\x01\x02\x03");
        let units = [&delimiter[..], b"\x0a\x0b", HEADERS[0].0, frame].concat();
        let told = with_colours(HEADERS[0].0, [1, 1, 1]).unwrap();
        assert_eq!(coloured(&units, [1, 1, 1]), Some([&delimiter[..], b"\x0a\x0e", &told, frame].concat()));
        assert_eq!(coloured(&[&delimiter[..], frame].concat(), [1, 1, 1]), None);
    }

    #[test]
    fn no_bytes_are_a_panic() {
        let whole = [b"\x12\0\x0a\x0b", HEADERS[0].0, b"\x32\x81\x01\x02"].concat();
        for (at, value) in (0..whole.len()).flat_map(|at| (0..=255).map(move |value| (at, value))) {
            let mut units = whole.clone();
            units[at] = value;
            for cut in 0..=units.len() {
                let told = coloured(&units[..cut], [9, 16, 9]);
                assert!(told.is_none_or(|told| told.len() >= cut));
            }
        }
    }
}
