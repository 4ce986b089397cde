//! The sum of two decimal texts, as INCRBYFLOAT and HINCRBYFLOAT store and reply it.
//!
//! Redis adds in 80-bit floats and prints 17 decimals, which gives 46489 + 81.55 = 46570.55000000000000071. This module
//! adds the texts as decimals, so that the sum is 46570.55.
//!
//! Guarantees: the sum is exact if both texts have at most [`DECIMALS_MAX`] decimals and the digits fit an `i128` (21
//! digits before the point always do); otherwise the sum is that of two doubles. The text has no exponent, no trailing
//! zeros and no negative zero.

use super::number::{format_incrbyfloat, parse_f64};

/// Largest number of decimals of a sum, as in Redis.
const DECIMALS_MAX: u32 = 17;

/// `units` divided by 10^`decimals`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Decimal {
    units: i128,
    /// Number of decimals, at most [`DECIMALS_MAX`].
    decimals: u32,
}

/// Returns the text of the sum of two numbers in the form that `parse_f64` reads; `None` if the sum is not finite.
#[must_use]
pub(super) fn sum(left: &[u8], right: &[u8]) -> Option<String> {
    if let (Some(left), Some(right)) = (parse(left), parse(right))
        && let Some(sum) = add(left, right)
    {
        return Some(format(sum));
    }
    let sum = parse_f64(left)? + parse_f64(right)?;
    sum.is_finite().then(|| format_incrbyfloat(sum))
}

/// Reads an optional sign, digits with at most one point, and an optional exponent. Returns `None` for any other text,
/// or if the number cannot be held exactly.
fn parse(text: &[u8]) -> Option<Decimal> {
    let (is_negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mut units, mut scale, mut has_point) = (0_i128, 0_i32, false);
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        match byte {
            b'0'..=b'9' => {
                units = units.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                scale += i32::from(has_point);
            }
            b'.' if !has_point => has_point = true,
            b'e' | b'E' => break,
            _ => return None,
        }
        rest = after;
    }
    if let [_, exponent @ ..] = rest {
        scale = scale.checked_sub(std::str::from_utf8(exponent).ok()?.parse().ok()?)?;
    }
    while scale > 0 && units % 10 == 0 {
        (units, scale) = if units == 0 { (0, 0) } else { (units / 10, scale - 1) };
    }
    if scale < 0 {
        units = units.checked_mul(10_i128.checked_pow(scale.unsigned_abs())?)?;
    }
    let decimals = scale.max(0).unsigned_abs();
    let units = if is_negative { -units } else { units };
    (decimals <= DECIMALS_MAX).then_some(Decimal { units, decimals })
}

fn add(left: Decimal, right: Decimal) -> Option<Decimal> {
    let decimals = left.decimals.max(right.decimals);
    let widen = |number: Decimal| number.units.checked_mul(10_i128.pow(decimals - number.decimals));
    Some(Decimal { units: widen(left)?.checked_add(widen(right)?)?, decimals })
}

fn format(Decimal { units, decimals }: Decimal) -> String {
    let sign = if units < 0 { "-" } else { "" };
    let magnitude = units.unsigned_abs();
    let one = 10_u128.pow(decimals);
    let (whole, fraction) = (magnitude / one, magnitude % one);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{fraction:0width$}", width = decimals as usize);
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn added(left: &str, right: &str) -> Option<String> {
        sum(left.as_bytes(), right.as_bytes())
    }

    #[test]
    fn sums_are_those_of_the_decimals() {
        for (left, right, expected) in [
            ("0.1", "0.2", "0.3"),
            ("46489", "81.55", "46570.55"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0e3", "200", "3200"),
            ("0", "-0", "0"),
            ("-1.5", "1.5", "0"),
            ("1", "-1.25", "-0.25"),
            ("1e-17", "2E-17", "0.00000000000000003"),
            ("999999999999999999999", "1", "1000000000000000000000"),
            (".5", "5.", "5.5"),
            ("0e99999", "1", "1"),
            ("1.000000000000000000000000", "1", "2"),
            ("+1", "1e0", "2"),
        ] {
            assert_eq!(added(left, right).as_deref(), Some(expected), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_no_short_decimal_is_added_as_doubles() {
        assert_eq!(added("0x10", "1").as_deref(), Some("17"));
        assert_eq!(added("1e300", "0").map(|text| text.len()), Some(301));
        assert_eq!(added("1e-20", "1e-20").as_deref(), Some("0"));
        assert_eq!(added("inf", "1"), None);
        assert_eq!(added("1.7e308", "1.7e308"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(left: Vec<u8>, right in "[0-9+.eE-]{0,60}") {
            let _ = sum(&left, right.as_bytes());
            let _ = sum(right.as_bytes(), right.as_bytes());
        }

        #[test]
        fn whole_numbers_add_as_integers(left: i64, right: i64) {
            let expected = (i128::from(left) + i128::from(right)).to_string();
            prop_assert_eq!(added(&left.to_string(), &right.to_string()), Some(expected));
        }
    }
}
