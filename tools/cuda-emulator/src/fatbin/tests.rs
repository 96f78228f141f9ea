//! Containers built by hand, a real one, and damaged ones.

use proptest::prelude::*;

use super::*;

/// PTX for sm_80 and sm_90a without machine code: `nvcc -fatbin --no-compress`, 13.0.
const REAL: &[u8] = include_bytes!("../../tests/fixtures/twice.fatbin");

fn ptx(target: &str) -> String {
    format!(".version 9.0\n.target {target}\n.address_size 64\n")
}

/// An entry with a header of 64 bytes, or of 72 with options after it.
fn entry(kind: u16, architecture: u32, flags: u64, data: &[u8], header: u32) -> Vec<u8> {
    let size = data.len().next_multiple_of(8);
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0x101_u16.to_le_bytes());
    bytes.extend(header.to_le_bytes());
    bytes.extend((size as u64).to_le_bytes());
    bytes.resize(28, 0);
    bytes.extend(architecture.to_le_bytes());
    bytes.resize(40, 0);
    bytes.extend(flags.to_le_bytes());
    bytes.resize(header as usize, 0);
    bytes.extend(data);
    bytes.resize(header as usize + size, 0);
    bytes
}

fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
    let payload = entries.concat();
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(16_u16.to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn the_newest_text_that_runs_is_chosen() {
    let texts = ["sm_75", "sm_90a", "sm_80", "sm_90", "sm_120"].map(ptx);
    let entries: Vec<_> = texts.iter().map(|text| entry(KIND_PTX, 0, 0x11, text.as_bytes(), 72)).collect();
    let chosen =
        |image: &[u8], capability| ptx_texts(image).map(|_| ptx_for(image, capability).map(str::to_string)).unwrap();
    let all = fatbin(&entries);
    assert_eq!(chosen(&all, (8, 0)), Ok(texts[2].clone()));
    assert_eq!(chosen(&all, (9, 0)), Ok(texts[1].clone()));
    assert_eq!(chosen(&all, (8, 9)), Ok(texts[2].clone()));
    let without_accelerated = fatbin(&[entries[0].clone(), entries[2].clone(), entries[3].clone()]);
    assert_eq!(chosen(&without_accelerated, (9, 0)), Ok(texts[3].clone()));
    // Architecture-specific code runs only on its own architecture.
    let error = chosen(&fatbin(&entries[1..2]), (10, 0)).unwrap_err().to_string();
    assert!(error.contains("10.0") && error.contains("sm_90a"), "{error}");
}

#[test]
fn plain_text_is_an_image_too() {
    let text = ptx("sm_80");
    assert_eq!(ptx_for(text.as_bytes(), (9, 0)), Ok(text.as_str()));
    let terminated = format!("{text}\0 what comes after the end");
    assert_eq!(ptx_for(terminated.as_bytes(), (8, 0)), Ok(text.as_str()));
    assert!(matches!(ptx_for(b"\xff\xfe", (8, 0)), Err(FatbinError::Damaged(_))));
}

#[test]
fn images_without_readable_ptx_are_refused() {
    let machine_code = entry(2, 80, 0x11, b"\x7fELF", 64);
    assert_eq!(ptx_for(&fatbin(std::slice::from_ref(&machine_code)), (8, 0)), Err(FatbinError::NoPtx));
    let compressed = entry(KIND_PTX, 80, 0x8011, b"(\xb5/\xfd", 104);
    let image = fatbin(&[machine_code, compressed]);
    assert_eq!(ptx_for(&image, (8, 0)), Err(FatbinError::Compressed(80)));
    assert!(ptx_for(&image, (8, 0)).unwrap_err().to_string().contains("--no-compress"));
}

#[test]
fn damage_is_reported() {
    let image = fatbin(&[entry(KIND_PTX, 80, 0x11, ptx("sm_80").as_bytes(), 64)]);
    for (what, end) in [("the header", 10), ("an entry's header", 40), ("the text", image.len() - 1)] {
        assert!(matches!(ptx_for(&image[..end], (8, 0)), Err(FatbinError::Damaged(_))), "cut in {what}");
    }
    let mut endless = image.clone();
    endless[16 + 4..16 + 8].fill(0);
    assert!(matches!(ptx_for(&endless, (8, 0)), Err(FatbinError::Damaged(_))), "an entry of no length");
    let mut huge = image;
    huge[16 + 8..16 + 16].fill(0xff);
    assert!(matches!(ptx_for(&huge, (8, 0)), Err(FatbinError::Damaged(_))), "an entry longer than memory");
}

#[test]
fn a_real_fat_binary() {
    let targets: Vec<_> = ptx_texts(REAL).unwrap().iter().map(|text| text.target.to_string()).collect();
    assert_eq!(targets, ["sm_80", "sm_90a"]);
    for (capability, target) in [((8, 0), "sm_80"), ((9, 0), "sm_90a")] {
        let text = ptx_for(REAL, capability).unwrap();
        assert!(text.contains(&format!(".target {target}")) && text.contains("twice"), "{text}");
        let program = crate::ir::Program::load(text).unwrap();
        assert_eq!(program.kernels.len(), 1);
    }
}

proptest! {
    /// Any change of bytes yields a text or an error.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((0..REAL.len(), any::<u8>()), 1..20), end in 0..REAL.len()) {
        let mut image = REAL.to_vec();
        for (at, byte) in changes {
            image[at] = byte;
        }
        let _ = ptx_texts(&image);
        let _ = ptx_for(&image[..end], (9, 0));
    }
}
