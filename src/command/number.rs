//! Numbers as Redis 7.0 reads and writes them, byte for byte.
//!
//! Guarantees: [`parse_i64`] accepts exactly the texts that an integer is written as. [`parse_f64`] accepts the texts
//! that `strtod` accepts, except NaN, blanks, and numbers that overflow or underflow to zero. [`format_double`] equals
//! `%.17g`. No text causes a panic. Redis' INCRBYFLOAT computes in 80-bit floats; this module does not, see
//! [`format_incrbyfloat`].

use super::errors;
use std::io::Write;

/// Reads an integer as Redis' `string2ll` does: an optional `-`, no `+`, no leading zero, no blank, in the range of
/// i64.
#[must_use]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    const DIGITS_MAX: usize = 19;
    let (negative, digits) = match text {
        b"0" => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) || digits.len() > DIGITS_MAX {
        return None;
    }
    let mut magnitude = 0_u64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Reads the argument of a command that says how many elements it is about; returns the error text if the argument is
/// negative or no integer.
pub fn count(text: &[u8]) -> Result<u64, &'static str> {
    parse_i64(text).and_then(|count| u64::try_from(count).ok()).ok_or(errors::NOT_POSITIVE)
}

/// Reads an integer argument as [`parse_i64`] does; returns the error text if the argument is none.
pub fn integer(text: &[u8]) -> Result<i64, &'static str> {
    parse_i64(text).ok_or(errors::NOT_AN_INTEGER)
}

/// Reads a floating point number as Redis' `string2d` does: decimal or hexadecimal (`0x1p-2`), `inf` and `infinity` in
/// any case, with an optional sign. Returns `None` for NaN, for blanks, and for a number that is too large for a double
/// or too small to differ from zero.
#[must_use]
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let magnitude = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(hex) = magnitude.strip_prefix("0x").or_else(|| magnitude.strip_prefix("0X")) {
        let value = parse_hex(hex)?;
        return Some(if text.starts_with('-') { -value } else { value });
    }
    let value: f64 = text.parse().ok()?;
    let accepted = if value.is_infinite() {
        magnitude.starts_with(['i', 'I'])
    } else if value == 0.0 {
        let significand = magnitude.split(['e', 'E']).next().unwrap_or_default();
        !significand.contains(|c: char| ('1'..='9').contains(&c))
    } else {
        !value.is_nan()
    };
    accepted.then_some(value)
}

/// Reads the text behind `0x`: hexadecimal digits with at most one point, then an optional binary exponent.
fn parse_hex(text: &str) -> Option<f64> {
    let (digits, exponent) = match text.split_once(['p', 'P']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let mut significand = 0_u64;
    let mut scale = i64::from(exponent);
    let mut in_fraction = false;
    let mut digits_seen = false;
    for c in digits.chars() {
        if c == '.' && !in_fraction {
            in_fraction = true;
            continue;
        }
        let digit = u64::from(c.to_digit(16)?);
        digits_seen = true;
        if significand >> 60 == 0 {
            significand = significand << 4 | digit;
            scale -= if in_fraction { 4 } else { 0 };
        } else {
            // Digits beyond the 64th bit only decide the rounding, for which it matters only whether any of them is not
            // zero.
            significand |= u64::from(digit != 0);
            scale += if in_fraction { 0 } else { 4 };
        }
    }
    if digits_seen { scale_to_f64(significand, scale) } else { None }
}

/// Returns `significand * 2^scale`, rounded half to even. Returns `None` if the result overflows, or if it underflows
/// to zero although the significand is not zero.
fn scale_to_f64(significand: u64, scale: i64) -> Option<f64> {
    const EXPONENT_MIN: i64 = -1022;
    const EXPONENT_MAX: i64 = 1023;
    const MANTISSA_BITS: u32 = 52;
    if significand == 0 {
        return Some(0.0);
    }
    let leading = significand.leading_zeros();
    let bits = u128::from(significand << leading);
    let exponent = scale + 63 - i64::from(leading);
    let dropped = 11 + (EXPONENT_MIN - exponent).max(0);
    if exponent > EXPONENT_MAX || dropped > 64 {
        return None;
    }
    let (kept, rest, half) = (bits >> dropped, bits & ((1 << dropped) - 1), 1_u128 << (dropped - 1));
    let rounded = (kept + u128::from(rest > half || (rest == half && kept & 1 == 1))) as u64;
    // The leading bit of a normal significand adds one to the exponent field, and so does a carry of the rounding.
    let biased = (exponent.max(EXPONENT_MIN) - EXPONENT_MIN) as u64;
    let value = f64::from_bits((biased << MANTISSA_BITS) + rounded);
    (value.is_finite() && value != 0.0).then_some(value)
}

/// Buffer for the text of one double, for [`format_double`].
pub struct DoubleText {
    integer: itoa::Buffer,
    bytes: [u8; DOUBLE_TEXT_BYTES_MAX],
}

/// Bytes of the buffer. The longest text is `-4.9406564584124654e-324`; the rest is slack.
const DOUBLE_TEXT_BYTES_MAX: usize = 32;
/// Significant digits that Redis prints.
const DIGITS: i32 = 17;
/// An integer below this has at most [`DIGITS`] digits and needs no exponent.
const PLAIN_INTEGER_END: f64 = 1e17;

impl Default for DoubleText {
    fn default() -> Self {
        Self { integer: itoa::Buffer::new(), bytes: [0; DOUBLE_TEXT_BYTES_MAX] }
    }
}

/// Returns the text of `value` as Redis 7.0 replies it (`%.17g`): 17 significant digits without trailing zeros, with an
/// exponent below 1e-4 and from 1e17 on; `inf`, `-inf`, `nan`.
pub fn format_double(value: f64, text: &mut DoubleText) -> &str {
    if value.is_nan() {
        return "nan";
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" };
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" };
    }
    if value.abs() < PLAIN_INTEGER_END && value.trunc() == value {
        return text.integer.format(value as i64);
    }
    let mut rest = &mut text.bytes[..];
    write_general(value, &mut rest).expect("a double's text fits its buffer");
    let len = DOUBLE_TEXT_BYTES_MAX - rest.len();
    std::str::from_utf8(&text.bytes[..len]).expect("digits are ASCII")
}

/// Writes `value`, which is finite and not zero, as C's `%.17g` does.
fn write_general(value: f64, to: &mut impl Write) -> std::io::Result<()> {
    let mut scientific = [0_u8; DOUBLE_TEXT_BYTES_MAX];
    let mut rest = &mut scientific[..];
    write!(rest, "{:.*e}", (DIGITS - 1) as usize, value.abs())?;
    let len = DOUBLE_TEXT_BYTES_MAX - rest.len();
    let scientific = std::str::from_utf8(&scientific[..len]).expect("digits are ASCII");
    let (significand, exponent) = scientific.split_once('e').expect("scientific form has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is an integer");
    let (first, others) = significand.split_once('.').expect("a significand has a point");
    let others = others.trim_end_matches('0');

    if value < 0.0 {
        to.write_all(b"-")?;
    }
    if !(-4..DIGITS).contains(&exponent) {
        let point = if others.is_empty() { "" } else { "." };
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(to, "{first}{point}{others}e{sign}{:02}", exponent.unsigned_abs());
    }
    if exponent < 0 {
        let zeros = (-1 - exponent) as usize;
        return write!(to, "0.{:0<zeros$}{first}{others}", "");
    }
    let whole = exponent as usize;
    if others.len() <= whole {
        return write!(to, "{first}{others:0<whole$}");
    }
    let (whole, fraction) = others.split_at(whole);
    write!(to, "{first}{whole}.{fraction}")
}

/// Returns the text that INCRBYFLOAT and HINCRBYFLOAT store and reply for a finite `value` that decimal addition cannot
/// give: no exponent, at most 17 decimals, no trailing zeros, no negative zero.
///
/// Redis computes in 80-bit floats and prints 17 decimals; this function writes a double with the fewest digits that
/// identify it. The texts agree for small sums of few decimals (10.5 + 0.1 is 10.6) and differ from about the 16th
/// digit on: for 0.1 + 0.2 Redis writes 0.3, and it writes 46570.55000000000000071 where this function writes 46570.55.
#[must_use]
pub fn format_incrbyfloat(value: f64) -> String {
    const DECIMALS_MAX: usize = 17;
    let mut text = value.to_string();
    if text.split_once('.').is_some_and(|(_, decimals)| decimals.len() > DECIMALS_MAX) {
        text = format!("{value:.DECIMALS_MAX$}");
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    if text == "-0" { "0".to_owned() } else { text }
}

#[cfg(test)]
#[path = "number_tests.rs"]
mod tests;
