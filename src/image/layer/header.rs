//! The 512 bytes of a ustar header, and the records of a PAX header.

/// Everything in a tar comes in blocks of so many bytes.
pub(super) const BLOCK: usize = 512;

/// Where the fields of a ustar header lie.
pub(super) mod field {
    use std::ops::Range;

    pub(in super::super) const NAME: Range<usize> = 0..100;
    pub(in super::super) const MODE: Range<usize> = 100..108;
    pub(in super::super) const UID: Range<usize> = 108..116;
    pub(in super::super) const GID: Range<usize> = 116..124;
    pub(in super::super) const SIZE: Range<usize> = 124..136;
    pub(in super::super) const MTIME: Range<usize> = 136..148;
    pub(in super::super) const CHECKSUM: Range<usize> = 148..156;
    pub(in super::super) const TYPE: usize = 156;
    pub(in super::super) const LINK: Range<usize> = 157..257;
    pub(in super::super) const MAGIC: Range<usize> = 257..265;
    pub(in super::super) const MAJOR: Range<usize> = 329..337;
    pub(in super::super) const MINOR: Range<usize> = 337..345;
    pub(in super::super) const PREFIX: Range<usize> = 345..500;
}

/// The sum over a header in which the checksum field counts as spaces: as unsigned bytes, and as old tars have it, signed.
pub(super) fn checksums(header: &[u8; BLOCK]) -> (u64, i64) {
    let spaces = field::CHECKSUM.len() as u64 * 32;
    let others = || {
        header[..field::CHECKSUM.start]
            .iter()
            .chain(&header[field::CHECKSUM.end..])
    };
    let unsigned = others().map(|&byte| u64::from(byte)).sum::<u64>() + spaces;
    let signed = others()
        .map(|&byte| i64::from(byte.cast_signed()))
        .sum::<i64>()
        + spaces.cast_signed();
    (unsigned, signed)
}

/// Writes a number in octal, zero-padded, with a NUL after it. It must fit.
pub(super) fn put_octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    field[digits] = 0;
    for place in field[..digits].iter_mut().rev() {
        *place = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    debug_assert_eq!(value, 0, "the caller checks that the number fits");
}

/// Reads a number: octal between spaces and NULs, or base-256 where the first bit is set. `None` if it is neither, is
/// negative or has more than 63 bits.
pub(super) fn get_number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        if field[0] != 0x80 {
            return None;
        }
        let value = field[1..].iter().try_fold(0_u64, |value, &byte| {
            (value >> 55 == 0).then_some(value << 8 | u64::from(byte))
        });
        return value;
    }
    let text = field.trim_ascii_start();
    let end = text
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &digit| match digit {
        b'0'..=b'7' if value >> 60 == 0 => Some(value << 3 | u64::from(digit - b'0')),
        _ => None,
    })
}

/// Text up to the first NUL.
pub(super) fn get_text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

/// Appends `length key=value\n`, where the length counts its own digits.
pub(super) fn put_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let without_length = key.len() + value.len() + 3;
    let mut length = without_length + 1;
    while length.to_string().len() + without_length != length {
        length = length.to_string().len() + without_length;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Takes one record from the front: key, value and what comes after it.
pub(super) fn take_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|&byte| byte == b' ')?;
    let digits = std::str::from_utf8(&records[..space]).ok()?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: usize = digits.parse().ok()?;
    if length > records.len() || length < space + 3 {
        return None;
    }
    let (record, rest) = records.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    (equals > 0).then_some((&body[..equals], &body[equals + 1..], rest))
}
