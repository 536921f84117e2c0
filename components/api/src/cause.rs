//! What people read of an error.

use std::error::Error;

/// The innermost cause of an error, in the words that people use: "connection refused" rather than "transport error" or
/// "Connection refused (os error 111)".
///
/// ```
/// let error = std::io::Error::from_raw_os_error(111);
/// # #[cfg(target_os = "linux")]
/// assert_eq!(aistack_api::cause::innermost(&error), "connection refused");
/// ```
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    without_number(&cause.to_string())
}

/// An operating system's error without its number, as a part of a sentence.
fn without_number(said: &str) -> String {
    let numbered = said.strip_suffix(')').and_then(|said| said.rsplit_once(" (os error "));
    let Some((words, number)) = numbered else { return said.to_owned() };
    if number.parse::<i32>().is_err() {
        return said.to_owned();
    }
    // What stands before a colon is a name of something, such as a path.
    let at = words.rfind(": ").map_or(0, |colon| colon + 2);
    let (before, sentence) = words.split_at(at);
    let mut letters = sentence.chars();
    let first = letters.next().map(char::to_lowercase).into_iter().flatten();
    before.chars().chain(first).chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_operating_system_are_left_out() {
        let cases = [
            ("Connection refused (os error 111)", "connection refused"),
            ("open /A/b: No such file or directory (os error 2)", "open /A/b: no such file or directory"),
            ("invalid peer certificate: UnknownIssuer", "invalid peer certificate: UnknownIssuer"),
            ("Odd (os error x)", "Odd (os error x)"),
            ("", ""),
        ];
        for (said, want) in cases {
            assert_eq!(without_number(said), want);
        }
    }
}
