use super::*;

#[test]
fn blocks_are_whole_and_sums_right() {
    let mut archive = Writer::new(Vec::new());
    archive.directory("a", 0o755).expect("fits");
    archive.file("a/b", 0o644, &[7; 513]).expect("fits");
    let bytes = archive.finish().expect("memory");
    // Two headers, two blocks of content, two of the end.
    assert_eq!(bytes.len(), 6 * BLOCK);
    for header in [&bytes[..BLOCK], &bytes[BLOCK..2 * BLOCK]] {
        let said = std::str::from_utf8(&header[148..154]).expect("digits");
        let said = u64::from_str_radix(said, 8).expect("octal");
        let mut blanked = header.to_vec();
        blanked[148..156].fill(b' ');
        let sum: u64 = blanked.iter().map(|byte| u64::from(*byte)).sum();
        assert_eq!(said, sum);
    }
    assert_eq!(&bytes[..3], b"a/\0");
    assert_eq!(&bytes[BLOCK + 124..BLOCK + 136], b"00000001001\0");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut archive = Writer::new(Vec::new());
    let longest = "n".repeat(MAX_NAME);
    archive.file(&longest, 0o644, b"").expect("fits");
    let refused = archive.file(&format!("{longest}n"), 0o644, b"");
    assert!(refused.is_err_and(|why| why.to_string().contains("at most 100")));
    let refused = octal(&mut [0; 8], 1 << 21);
    assert!(refused.is_err_and(|why| why.to_string().contains("7 octal digits")));
}
