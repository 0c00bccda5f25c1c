//! `fastvsr pipe`: Y4M in, Y4M out, as programs beside GStreamer speak it.
#![cfg(feature = "cli")]

mod common;

use std::{
    io::{Read, Write},
    process::{Command, Output, Stdio},
};

use common::model;

fn pipe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastvsr"));
    command.args(["pipe", "--provider", "cpu", "--model", model("nearest").to_str().unwrap()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = pipe(arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // What is refused is not read to its end.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Bytes of a frame's planes.
fn size(colours: &str, width: usize, height: usize) -> usize {
    let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
    let samples = match &colours[..3] {
        "420" => width * height + 2 * half_width * half_height,
        "422" => width * height + 2 * half_width * height,
        "444" => 3 * width * height,
        _ => width * height,
    };
    samples * if colours.ends_with("p10") { 2 } else { 1 }
}

/// Flat frames, each a little brighter.
fn film(colours: &str, width: usize, height: usize, frames: usize, parameters: &str) -> Vec<u8> {
    let mut film = format!("YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C{colours}{parameters}\n").into_bytes();
    for n in 0..frames {
        film.extend(format!("FRAME Xn={n}\n").into_bytes());
        // Grey, whatever the matrix is.
        let deep = colours.ends_with("p10");
        let (luma, all) = (width * height, size(colours, width, height) / if deep { 2 } else { 1 });
        for (level, samples) in [(60 + 10 * n as u16, luma), (128, all - luma)] {
            let bytes = if deep { (4 * level).to_le_bytes().to_vec() } else { vec![level as u8] };
            film.extend(bytes.iter().cycle().take(samples * bytes.len()));
        }
    }
    film
}

/// A film's header, and its frames with their parameters.
fn take_apart(film: &[u8], size: usize) -> (String, Vec<(String, Vec<u8>)>) {
    let line = |film: &[u8]| film.iter().position(|byte| *byte == b'\n').expect("the end of a line");
    let (header, mut rest) = film.split_at(line(film));
    let mut frames = Vec::new();
    while rest.len() > 1 {
        let (parameters, data) = rest[1..].split_at(line(&rest[1..]));
        frames.push((String::from_utf8(parameters.to_vec()).unwrap(), data[1..][..size].to_vec()));
        rest = &data[size..];
    }
    (String::from_utf8(header.to_vec()).unwrap(), frames)
}

#[test]
fn frames_come_out_larger_in_the_format_that_they_came_in() {
    for colours in ["420jpeg", "420mpeg2", "420paldv", "422", "444", "mono", "420p10", "422p10", "444p10"] {
        for (arguments, width, height) in [(&[][..], 52, 28), (&["--scale", "3"], 39, 21), (&["--scale", "1"], 13, 7)] {
            let output = run(arguments, &film(colours, 13, 7, 3, " XCOLORRANGE=FULL"));
            assert!(output.status.success(), "{colours}: {}", String::from_utf8_lossy(&output.stderr));
            let (header, frames) = take_apart(&output.stdout, size(colours, width, height));
            assert_eq!(header, format!("YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C{colours} XCOLORRANGE=FULL"));
            assert_eq!(frames.len(), 3, "{colours}");
            for (n, (parameters, data)) in frames.iter().enumerate() {
                assert_eq!(*parameters, format!("FRAME Xn={n}"));
                let deep = colours.ends_with("p10");
                let first =
                    if deep { f32::from(u16::from_le_bytes([data[0], data[1]])) / 4.0 } else { f32::from(data[0]) };
                assert!((first - (60 + 10 * n) as f32).abs() <= 1.5, "{colours}, frame {n}: {first}");
            }
        }
    }
}

#[test]
fn targets_are_those_of_films() {
    let anamorphic = String::from_utf8_lossy(&film("420jpeg", 72, 48, 1, "")).replace("A1:1", "A8:9");
    for (arguments, header) in [
        (&["--fit", "1000x96"][..], "W144 H96 F25:1 Ip A8:9"),
        (&["--height", "96", "--square"], "W128 H96 F25:1 Ip C420jpeg A1:1"),
        (&["--width", "576"], "W576 H384 F25:1 Ip A8:9"),
    ] {
        let output = run(arguments, anamorphic.as_bytes());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout.starts_with(format!("YUV4MPEG2 {header}").as_bytes()), "{arguments:?}: {said}");
        let first = output.stdout.split(|byte| *byte == b'\n').next().unwrap().len();
        let (_, frames) = {
            let words = String::from_utf8_lossy(&output.stdout[..first]).to_string();
            let side = |name| words.split(' ').find_map(|word| word.strip_prefix(name)?.parse().ok()).unwrap();
            take_apart(&output.stdout, size("420", side("W"), side("H")))
        };
        assert_eq!(frames.len(), 1);
    }
}

#[test]
fn a_film_without_frames_is_one() {
    let output = run(&[], &film("420jpeg", 16, 16, 0, ""));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"YUV4MPEG2 W64 H64 F25:1 Ip A1:1 C420jpeg\n");
}

#[test]
fn what_is_cut_off_gives_the_whole_frames_and_an_error() {
    let whole = film("420jpeg", 16, 16, 3, "");
    for cut in [1, 100, size("420", 16, 16), size("420", 16, 16) + 3] {
        let output = run(&[], &whole[..whole.len() - cut]);
        assert_eq!(output.status.code(), Some(1), "{cut}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("in the middle of frame 2"), "{cut}: {said}");
        assert_eq!(take_apart(&output.stdout, size("420", 64, 64)).1.len(), 2, "{cut}");
    }
    let mut damaged = film("420jpeg", 16, 16, 1, "");
    damaged.extend(b"FRAMES\n");
    let output = run(&[], &damaged);
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected FRAME before frame 1"), "{output:?}");
}

#[test]
fn what_cannot_be_served_is_refused_and_nothing_written() {
    let interlaced = String::from_utf8_lossy(&film("420jpeg", 16, 16, 1, "")).replace("Ip", "It");
    for (input, arguments, expected) in [
        (&b""[..], &[][..], "got nothing"),
        (b"RIFF....AVI ", &[], "expected the end of a line"),
        (b"no film\n", &[], "begins with YUV4MPEG2"),
        (interlaced.as_bytes(), &[], "deinterlace"),
        (&film("411", 16, 16, 1, ""), &[], "expected 420, 422, 444"),
        (&film("420jpeg", 16, 16, 1, ""), &["--scale", "5"], "expected 1 to 4"),
        (&film("420jpeg", 16, 16, 1, ""), &["--model", "none"], "cannot be used multiple times"),
    ] {
        let output = run(arguments, input);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected) && !said.contains("panicked"), "{said}");
        assert_eq!(output.stdout, b"", "{said}");
    }
}

#[test]
fn nobody_who_reads_is_an_error_in_words() {
    let mut child = pipe(&[]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut start = [0; 9];
    let mut stdout = child.stdout.take().unwrap();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&film("420jpeg", 64, 64, 200, ""))));
    stdout.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"YUV4MPEG2");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output was closed after"), "{output:?}");
}
