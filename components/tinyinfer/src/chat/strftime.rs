//! The date and time formats of C's `strftime` that templates use, in UTC and in English.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

struct Civil {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    day_of_year: i64,
    second_of_day: i64,
}

/// The calendar day of a moment, by Howard Hinnant's `civil_from_days`.
fn civil(now: SystemTime) -> Civil {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let days = seconds.div_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
    Civil {
        year,
        month: month as usize,
        day,
        weekday: (days + 4).rem_euclid(7) as usize,
        day_of_year: before + day + i64::from(leap && month > 2),
        second_of_day: seconds.rem_euclid(86_400),
    }
}

/// Formats `now`. Unknown directives stay as they are, as glibc leaves them.
pub(super) fn strftime(format: &str, now: SystemTime) -> String {
    let at = civil(now);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next();
        let bare = directive == Some('-');
        if bare {
            directive = rest.next();
        }
        match directive {
            Some(letter) if write_directive(&mut out, letter, bare, &at) => {}
            other => {
                out.push('%');
                if bare {
                    out.push('-');
                }
                out.extend(other);
            }
        }
    }
    out
}

/// `bare` leaves padding out (`%-d`). False when the letter is unknown.
fn write_directive(out: &mut String, letter: char, bare: bool, at: &Civil) -> bool {
    let (hour, minute, second) = (at.second_of_day / 3600, at.second_of_day / 60 % 60, at.second_of_day % 60);
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let (month, weekday) = (MONTHS[at.month - 1], DAYS[at.weekday]);
    let mut number = |value: i64, width: usize, pad: char| {
        let digits = value.to_string();
        let missing = if bare { 0 } else { width.saturating_sub(digits.len()) };
        out.extend(std::iter::repeat_n(pad, missing));
        out.push_str(&digits);
    };
    match letter {
        'Y' => number(at.year, 4, '0'),
        'y' => number(at.year % 100, 2, '0'),
        'm' => number(at.month as i64, 2, '0'),
        'd' => number(at.day, 2, '0'),
        'e' => number(at.day, 2, ' '),
        'j' => number(at.day_of_year, 3, '0'),
        'H' => number(hour, 2, '0'),
        'I' => number(twelve, 2, '0'),
        'M' => number(minute, 2, '0'),
        'S' => number(second, 2, '0'),
        'w' => number(at.weekday as i64, 1, '0'),
        'u' => number(if at.weekday == 0 { 7 } else { at.weekday as i64 }, 1, '0'),
        'B' => out.push_str(month),
        'b' | 'h' => out.push_str(&month[..3]),
        'A' => out.push_str(weekday),
        'a' => out.push_str(&weekday[..3]),
        'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
        'F' => write!(out, "{}-{:02}-{:02}", at.year, at.month, at.day).expect("a String grows"),
        'D' => write!(out, "{:02}/{:02}/{:02}", at.month, at.day, at.year % 100).expect("a String grows"),
        'T' => write!(out, "{hour:02}:{minute:02}:{second:02}").expect("a String grows"),
        'R' => write!(out, "{hour:02}:{minute:02}").expect("a String grows"),
        'n' => out.push('\n'),
        't' => out.push('\t'),
        '%' => out.push('%'),
        _ => return false,
    }
    true
}
