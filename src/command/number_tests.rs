//! The tables hold the answers of redis-server 7.0.15.

use super::*;
use proptest::prelude::*;

/// Scores given to ZADD, and the replies of ZSCORE (for a sorted set too large for Redis' compact encoding).
const SCORES: &[(&str, &str)] = &[
    ("0", "0"),
    ("-0", "-0"),
    ("1", "1"),
    ("3", "3"),
    ("-3", "-3"),
    ("3.1", "3.1000000000000001"),
    ("0.1", "0.10000000000000001"),
    ("0.2", "0.20000000000000001"),
    ("0.3", "0.29999999999999999"),
    ("-1.5", "-1.5"),
    ("2.5", "2.5"),
    ("100.5", "100.5"),
    ("0.5", "0.5"),
    ("0.3333333333333333", "0.33333333333333331"),
    ("0.6666666666666666", "0.66666666666666663"),
    ("1e-3", "0.001"),
    ("1e-4", "0.0001"),
    ("1e-5", "1.0000000000000001e-05"),
    ("1e-7", "9.9999999999999995e-08"),
    ("0.000123456", "0.00012345600000000001"),
    ("0.00009999999999999999", "9.9999999999999991e-05"),
    ("1e15", "1000000000000000"),
    ("1e16", "10000000000000000"),
    ("1e17", "1e+17"),
    ("-1e17", "-1e+17"),
    ("1e18", "1e+18"),
    ("1e20", "1e+20"),
    ("1e21", "1e+21"),
    ("1e22", "1e+22"),
    ("1e23", "9.9999999999999992e+22"),
    ("1e100", "1e+100"),
    ("1e300", "1.0000000000000001e+300"),
    ("12345678901234567", "12345678901234568"),
    ("99999999999999984", "99999999999999984"),
    ("99999999999999999", "1e+17"),
    ("123456789012345680", "1.2345678901234568e+17"),
    ("9007199254740993", "9007199254740992"),
    ("1125899906842624.25", "1125899906842624.2"),
    ("1125899906842624.75", "1125899906842624.8"),
    ("4.35", "4.3499999999999996"),
    ("1234567.891", "1234567.8910000001"),
    ("3.141592653589793", "3.1415926535897931"),
    ("5e-324", "4.9406564584124654e-324"),
    ("2.2250738585072014e-308", "2.2250738585072014e-308"),
    ("2.2250738585072011e-308", "2.2250738585072009e-308"),
    ("1.7976931348623157e308", "1.7976931348623157e+308"),
    ("-1.7976931348623157e308", "-1.7976931348623157e+308"),
    ("1e-320", "9.9998886718268301e-321"),
    ("inf", "inf"),
    ("-inf", "-inf"),
    ("+inf", "inf"),
    ("Infinity", "inf"),
    ("-INFINITY", "-inf"),
    ("0x10", "16"),
    ("0x1p-2", "0.25"),
    ("-0x1P+4", "-16"),
    ("0x.8", "0.5"),
    ("0x1p-1074", "4.9406564584124654e-324"),
    ("0x1.8p-1075", "4.9406564584124654e-324"),
    ("0x1.fffffffffffffp1023", "1.7976931348623157e+308"),
    ("0e-400", "0"),
    ("1.", "1"),
    (".5", "0.5"),
    ("+1", "1"),
    ("01", "1"),
    ("1E5", "100000"),
];

/// Scores that ZADD refused with "value is not a valid float".
const NOT_SCORES: &[&str] = &[
    "",
    " 1",
    "1 ",
    "+",
    "-",
    ".",
    "1e",
    "1e+",
    "++1",
    "1_0",
    "in",
    "infi",
    "nan",
    "NaN",
    "-nan",
    "nan(1)",
    "1d",
    "1f",
    "0x",
    "0x1p",
    "0x.",
    "0xg",
    "0x1p-1075",
    "0x1p1024",
    "0x1.fffffffffffff8p1023",
    "1e400",
    "-1e400",
    "1e-400",
    "-1e-400",
];

fn text_of(value: f64) -> String {
    format_double(value, &mut DoubleText::default()).to_owned()
}

#[test]
fn doubles_are_read_and_written_as_redis_does() {
    for (given, replied) in SCORES {
        let value = parse_f64(given.as_bytes()).unwrap_or_else(|| panic!("{given} was refused"));
        assert_eq!(text_of(value), *replied, "{given}");
    }
    for given in NOT_SCORES {
        assert_eq!(parse_f64(given.as_bytes()), None, "{given}");
    }
    assert_eq!(text_of(f64::NAN), "nan");
}

#[test]
fn doubles_from_bytes_that_are_no_text_are_refused() {
    for given in [&b"1\0"[..], b"\0", b"1\xff", b"0x\xff", b"0x1p99999999999", b"1\n"] {
        assert_eq!(parse_f64(given), None, "{given:?}");
    }
}

/// Goal: hexadecimal digits beyond the 64th bit round as the exact number does.
#[test]
fn long_hexadecimal_numbers_round_half_to_even() {
    assert_eq!(parse_f64(b"0x10000000000000800000"), Some(f64::from_bits(0x44b0_0000_0000_0000)));
    assert_eq!(parse_f64(b"0x10000000000000800001"), Some(f64::from_bits(0x44b0_0000_0000_0001)));
    assert_eq!(parse_f64(b"0x1.00000000000008"), Some(1.0));
    assert_eq!(parse_f64(b"0x1.000000000000080000000000001"), Some(1.0 + f64::EPSILON));
    assert_eq!(parse_f64(b"0x1.fffffffffffff8"), Some(2.0));
    assert_eq!(parse_f64(b"0x0.fffffffffffff8p-1022"), Some(f64::MIN_POSITIVE));
}

/// Goal: the text that INCRBYFLOAT stores for a value has no exponent.
#[test]
fn incrbyfloat_texts_have_no_exponent() {
    let table: &[(f64, &str)] = &[
        (3.0, "3"),
        (10.6, "10.6"),
        (5.0e3, "5000"),
        (0.0, "0"),
        (-0.0, "0"),
        (-1e-20, "0"),
        (1e-16, "0.0000000000000001"),
        (1e-17, "0.00000000000000001"),
        (1e-18, "0"),
        (4e-18, "0"),
        (6e-18, "0.00000000000000001"),
        (1.2345678901234567e-5, "0.00001234567890123"),
        (1e17, "100000000000000000"),
        (1e20, "100000000000000000000"),
        (123_456_789_012_345_680.0, "123456789012345680"),
        (0.1, "0.1"),
        (3.1, "3.1"),
        (100.5, "100.5"),
        (2.675, "2.675"),
        (-1.5, "-1.5"),
    ];
    for (value, stored) in table {
        assert_eq!(format_incrbyfloat(*value), *stored);
    }
}

#[test]
fn integers_are_read_as_strictly_as_redis_does() {
    let accepted: &[(&str, i64)] = &[
        ("0", 0),
        ("-1", -1),
        ("10", 10),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("1000000000000000000", 1_000_000_000_000_000_000),
    ];
    for (text, value) in accepted {
        assert_eq!(parse_i64(text.as_bytes()), Some(*value), "{text}");
    }
    let refused = [
        "",
        "-",
        "-0",
        "+1",
        "01",
        "-01",
        "00",
        " 1",
        "1 ",
        "1a",
        "1.0",
        "0x1",
        "--1",
        "9223372036854775808",
        "-9223372036854775809",
        "9999999999999999999",
        "18446744073709551616",
        "123456789012345678901",
        "1\u{0}",
    ];
    for text in refused {
        assert_eq!(parse_i64(text.as_bytes()), None, "{text}");
    }
}

proptest! {
    #[test]
    fn integers_survive_their_text(value: i64) {
        prop_assert_eq!(parse_i64(value.to_string().as_bytes()), Some(value));
    }

    #[test]
    fn doubles_survive_their_text(bits: u64) {
        let value = f64::from_bits(bits);
        prop_assume!(!value.is_nan());
        prop_assert_eq!(parse_f64(text_of(value).as_bytes()).map(f64::to_bits), Some(bits));
        if value.is_finite() {
            let stored = format_incrbyfloat(value);
            prop_assert!(!stored.contains('e'));
            let near = parse_f64(stored.as_bytes()).expect("a number was written");
            prop_assert!((near - value).abs() <= 1e-17 + value.abs() * f64::EPSILON);
        }
    }

    #[test]
    fn doubles_survive_hexadecimal(significand in 0_u64..1 << 53, shift in -1074_i32..971) {
        let value = significand as f64 * 2_f64.powi(shift.max(-537)) * 2_f64.powi((shift + 537).min(0));
        prop_assume!(shift >= -1022 || significand == 0 || value != 0.0);
        prop_assert_eq!(parse_f64(format!("0x{significand:x}p{shift}").as_bytes()), Some(value));
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(text: Vec<u8>, numeric in "[-+]?(0x)?[0-9a-fA-F.]{0,40}([pPeE][-+]?[0-9]{0,6})?") {
        for text in [&text[..], numeric.as_bytes()] {
            if let Some(value) = parse_i64(text) {
                prop_assert_eq!(value.to_string().into_bytes(), text);
            }
            if let Some(value) = parse_f64(text) {
                prop_assert!(!value.is_nan());
            }
        }
    }
}
