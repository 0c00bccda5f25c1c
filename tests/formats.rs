//! Pixel formats: the format that comes in goes out, and with the model `nearest` a colour stays that colour.

mod common;

use common::{
    samples::{FORMATS, Sample, each_sample, get, put},
    *,
};
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo, prelude::*};

fn video_info(format: VideoFormat, width: u32, height: u32) -> VideoInfo {
    init();
    VideoInfo::builder(format, width, height).fps(gst::Fraction::new(25, 1)).build().unwrap()
}

/// Levels of the components of a colour that every format can hold: in the middle, not grey.
fn colour(info: &VideoInfo) -> [u16; 4] {
    let deep = if info.comp_depth(0) == 10 { 4 } else { 1 };
    if info.is_rgb() { [180, 90, 60, 200] } else { [120 * deep, 100 * deep, 160 * deep, 0] }
}

/// A frame of one colour, in memory laid out as `strides`, `offsets` and `size` say, the gaps filled with noise.
fn coloured(info: &VideoInfo, strides: &[i32], offsets: &[usize], size: usize) -> gst::Buffer {
    let mut data = vec![0xa5; size];
    let colour = colour(info);
    each_sample(info, strides, offsets, |sample| put(&mut data, info, sample.at, colour[sample.component]));
    gst::Buffer::from_mut_slice(data)
}

#[track_caller]
fn has_colour(buffer: &gst::Buffer, info: &VideoInfo) {
    let colour = colour(info);
    // RGB of 8 bits lies between.
    let tolerance = if info.comp_depth(0) == 10 { 4 } else { 1 };
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let map = buffer.map_readable().unwrap();
    each_sample(info, frame.plane_stride(), frame.plane_offset(), |Sample { component, at, .. }| {
        let got = get(&map, info, at);
        assert!(
            got.abs_diff(colour[component]) <= tolerance,
            "{} {}x{}, component {component}: expected {}, got {got}",
            info.format(),
            info.width(),
            info.height(),
            colour[component]
        );
    });
}

#[track_caller]
fn keeps_its_colour(format: VideoFormat, width: u32, height: u32) {
    let input = video_info(format, width, height);
    let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &input.to_caps().unwrap());
    rig.push(coloured(&input, input.stride(), input.offset(), input.size())).unwrap();
    let output = info(&rig.output_caps());
    assert_eq!((output.format(), output.width(), output.height()), (format, width * 4, height * 4));
    assert_eq!(output.colorimetry(), input.colorimetry());
    let frames = rig.frames();
    assert_eq!(frames.len(), 1);
    has_colour(&frames[0], &output);
}

#[test]
fn every_format_goes_out_as_it_came_in() {
    FORMATS.into_iter().for_each(|format| keeps_its_colour(format, 32, 16));
}

#[test]
fn the_templates_have_these_formats_and_no_others() {
    init();
    for name in ["sink", "src"] {
        let caps = fastvsr("nearest", 1).pad_template(name).unwrap().caps().clone();
        let formats = caps.structure(0).unwrap().get::<gst::List>("format").unwrap();
        let mut names: Vec<_> = formats.iter().map(|name| name.get::<String>().unwrap()).collect();
        let mut expected: Vec<_> = FORMATS.iter().map(|format| format.to_str().to_string()).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
    }
}

#[test]
fn one_pixel_is_a_frame() {
    FORMATS.into_iter().for_each(|format| keeps_its_colour(format, 1, 1));
}

#[test]
fn odd_sizes_are_exact() {
    for format in FORMATS {
        for (width, height) in [(3, 5), (17, 9), (33, 31)] {
            keeps_its_colour(format, width, height);
        }
    }
}

#[test]
fn frames_of_one_row_or_column_are_frames() {
    for format in FORMATS {
        keeps_its_colour(format, 19, 1);
        keeps_its_colour(format, 1, 19);
    }
}

#[test]
fn the_embedded_model_takes_every_size() {
    for (width, height) in [(1, 1), (3, 5), (17, 9), (33, 31)] {
        let caps = rgb(width, height);
        let mut rig = Rig::with_caps(&fastvsr("compact-s", 2), &caps);
        for n in 0..3 {
            rig.push(flat(&caps, n, 128)).unwrap();
        }
        rig.eos();
        assert_eq!(rig.output_caps(), rgb(width * 4, height * 4));
        assert_eq!(rig.frames().len(), 3);
    }
}

#[test]
fn rows_with_gaps_between_them_are_read_where_they_are() {
    for format in FORMATS {
        let input = video_info(format, 17, 9);
        // Each plane's rows 32 bytes further apart, and the planes behind one another with a gap.
        let strides: Vec<i32> = input.stride().iter().map(|stride| stride + 32).collect();
        let mut offsets = Vec::new();
        let mut size = 64;
        for (plane, stride) in strides.iter().enumerate() {
            offsets.push(size);
            let component = (0..4).find(|component| input.comp_plane(*component) as usize == plane).unwrap();
            size += *stride as usize * input.comp_height(component) as usize + 48;
        }
        let mut buffer = coloured(&input, &strides, &offsets, size);
        gst_video::VideoMeta::add_full(
            buffer.get_mut().unwrap(),
            gst_video::VideoFrameFlags::empty(),
            format,
            17,
            9,
            &offsets,
            &strides,
        )
        .unwrap();
        let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &input.to_caps().unwrap());
        rig.push(buffer).unwrap();
        has_colour(&rig.frames()[0], &info(&rig.output_caps()));
    }
}

#[test]
fn alpha_is_scaled_beside_the_model() {
    for format in [VideoFormat::Rgba, VideoFormat::Bgra] {
        let input = video_info(format, 16, 8);
        let mut buffer = gst::Buffer::with_size(input.size()).unwrap();
        {
            let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
            // Clear on the left half, solid on the right.
            for (n, pixel) in map.chunks_exact_mut(4).enumerate() {
                pixel.copy_from_slice(&[50, 100, 150, if n % 16 < 8 { 0 } else { 255 }]);
            }
        }
        let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &input.to_caps().unwrap());
        rig.push(buffer).unwrap();
        let pixels = plane(&rig.frames()[0], &info(&rig.output_caps()), 0);
        for (n, pixel) in pixels.chunks_exact(4).enumerate() {
            let x = n % 64;
            assert_eq!(pixel[..3], [50, 100, 150], "{format}: colour does not depend on alpha");
            match x {
                0..=23 => assert_eq!(pixel[3], 0, "{format}, column {x}"),
                40..=63 => assert_eq!(pixel[3], 255, "{format}, column {x}"),
                _ => {}
            }
        }
    }
}

#[test]
fn the_range_of_luma_is_kept() {
    init();
    for (colorimetry, black, white) in [("bt709", 16, 235), ("1:3:5:1", 0, 255)] {
        for level in [black, white] {
            let caps = gst::Caps::builder("video/x-raw")
                .field("format", "I420")
                .field("width", 16)
                .field("height", 16)
                .field("framerate", gst::Fraction::new(25, 1))
                .field("colorimetry", colorimetry)
                .build();
            let mut data = vec![level; 256];
            data.resize(384, 128);
            let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &caps);
            rig.push(gst::Buffer::from_mut_slice(data)).unwrap();
            let luma = plane(&rig.frames()[0], &info(&rig.output_caps()), 0);
            assert!(luma.iter().all(|got| got.abs_diff(level) <= 1), "{colorimetry}: {level} became {}", luma[0]);
        }
    }
}

#[test]
fn without_colorimetry_colours_survive_the_step_to_the_matrix_of_large_video() {
    init();
    // GStreamer takes video without colorimetry for BT.601 up to 576 lines, for BT.709 above.
    let caps = gst::Caps::builder("video/x-raw")
        .field("format", "Y444")
        .field("width", 8)
        .field("height", 160)
        .field("framerate", gst::Fraction::new(25, 1))
        .build();
    // Red in BT.601.
    let data: Vec<u8> = [81u8, 90, 240].into_iter().flat_map(|level| [level; 8 * 160]).collect();
    let mut rig = Rig::with_caps(&fastvsr("nearest", 1), &caps);
    rig.push(gst::Buffer::from_mut_slice(data)).unwrap();
    let output = info(&rig.output_caps());
    let frame = rig.frames().remove(0);
    // Red in BT.709.
    for (number, expected) in [63u8, 102, 240].into_iter().enumerate() {
        let got = plane(&frame, &output, number as u32);
        assert!(got.iter().all(|level| level.abs_diff(expected) <= 1), "plane {number}: {}", got[0]);
    }
}

#[test]
fn a_frame_that_is_too_short_is_an_error() {
    let mut rig = Rig::new("nearest", 1);
    assert_eq!(rig.push(gst::Buffer::with_size(10).unwrap()), Err(gst::FlowError::Error));
    let error = rig.error().unwrap();
    assert!(error.contains("does not hold the frame"), "{error}");
}

#[test]
fn rows_with_gaps_between_them_are_written_where_downstream_wants_them() {
    for format in FORMATS {
        let input = video_info(format, 17, 9);
        let element = fastvsr("nearest", 1);
        let pool = gst_video::VideoBufferPool::new();
        element.static_pad("src").unwrap().add_probe(
            gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PUSH,
            move |_, probe| {
                if let Some(gst::PadProbeData::Query(query)) = &mut probe.data
                    && let gst::QueryViewMut::Allocation(query) = query.view_mut()
                {
                    let caps = query.get_owned().0.unwrap();
                    let mut config = pool.config();
                    config.set_params(Some(&caps), info(&caps).size() as u32, 0, 0);
                    config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META.as_ref());
                    config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_ALIGNMENT.as_ref());
                    config.set_video_alignment(&gst_video::VideoAlignment::new(4, 6, 10, 22, &[15; 4]));
                    pool.set_config(config).unwrap();
                    query.add_allocation_meta::<gst_video::VideoMeta>(None);
                    query.add_allocation_pool(Some(&pool), info(&caps).size() as u32, 0, 0);
                    return gst::PadProbeReturn::Handled;
                }
                gst::PadProbeReturn::Ok
            },
        );
        let mut rig = Rig::with_caps(&element, &input.to_caps().unwrap());
        rig.push(coloured(&input, input.stride(), input.offset(), input.size())).unwrap();
        let output = info(&rig.output_caps());
        let frames = rig.frames();
        let meta = frames[0].meta::<gst_video::VideoMeta>().unwrap();
        assert_ne!(meta.stride()[0], output.stride()[0], "{format}: the pool was not used");
        has_colour(&frames[0], &output);
    }
}
