//! Rules of texts that Kubernetes takes later on or not at all: names, keys, sizes, places, schedules. Each is a CEL rule of the field
//! alone, so that an object that breaks one, made before there was the rule, can still be edited elsewhere.

use kube::core::Rule;

/// Part of a DNS name.
macro_rules! label {
    () => {
        "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    };
}
/// What RFC 1123 calls a subdomain: names of most objects.
macro_rules! subdomain {
    () => {
        concat!(label!(), "([.]", label!(), ")*")
    };
}
/// What Kubernetes calls a qualified name: a label's, an annotation's, a taint's.
macro_rules! qualified {
    () => {
        concat!("([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?", word!())
    };
}
/// A word of at most 63 characters, as labels have it.
macro_rules! word {
    () => {
        "[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
    };
}
/// A field of cron: `*`, numbers and ranges, with steps, and commas between.
macro_rules! cron {
    ($number:literal) => {
        concat!(cron!(item $number), "(,", cron!(item $number), ")*")
    };
    (item $number:literal) => {
        concat!("([*?]|", $number, "(-", $number, ")?)(/[1-9][0-9]*)?")
    };
}
/// Ranges within ten that go backwards.
macro_rules! within {
    ($ten:literal) => {
        concat!(
            $ten, "(1-", $ten, "0|2-", $ten, "[01]|3-", $ten, "[0-2]|4-", $ten, "[0-3]|5-", $ten, "[0-4]|6-",
            $ten, "[0-5]|7-", $ten, "[0-6]|8-", $ten, "[0-7]|9-", $ten, "[0-8])"
        )
    };
}
/// Ranges of names that go backwards.
macro_rules! after {
    ($first:literal, $second:literal $(, $later:literal)*) => {
        after!(@ [$second, "-", $first] [$first, "|", $second] $($later),*)
    };
    (@ [$($found:tt)*] [$($seen:tt)*] $next:literal $(, $later:literal)*) => {
        after!(@ [$($found)*, "|", $next, "-(", $($seen)*, ")"] [$($seen)*, "|", $next] $($later),*)
    };
    (@ [$($found:tt)*] [$($seen:tt)*]) => {
        concat!($($found)*)
    };
}
/// Days that no month of the list has, on any day of the week.
macro_rules! never {
    ($day:literal, $month:literal) => {
        concat!(
            "!self.matches('^[^ ]+ [^ ]+ ",
            $day,
            "([,-]",
            $day,
            ")* ",
            $month,
            "([,-]",
            $month,
            ")* [*?](/1)?$')"
        )
    };
}

/// The name of an object that Services and pods are named after. Before Kubernetes 1.34 a Service's begins with a letter.
pub(crate) fn service_name() -> Rule {
    Rule::new("self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message(
        "metadata.name has a dot, or begins with a digit; Services and pods are named after it, so write lower-case letters, digits and '-', beginning with a letter",
    )
}

/// The name of an object that pods are named after.
pub(crate) fn label() -> Rule {
    Rule::new("!self.metadata.name.contains('.')").message(
        "metadata.name has a dot; pods are named after it, so write lower-case letters, digits and '-'",
    )
}

const NO_NAME: &str = "is no name that Kubernetes gives to an object; write lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit";

/// The name of a Secret, a claim or a class.
pub(crate) fn object_name() -> Rule {
    Rule::new(concat!("self.matches('^", subdomain!(), "$')")).message(NO_NAME)
}

/// A list of such names.
pub(crate) fn object_names() -> Rule {
    Rule::new(concat!("self.all(name, name.matches('^", subdomain!(), "$'))")).message(NO_NAME)
}

/// The key of a Secret.
pub(crate) fn secret_key() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9._-]+$') && self != '.' && !self.startsWith('..')").message(
        "is no key that a Secret can have; write letters, digits, '-', '_' and '.', for example api-key",
    )
}

/// A size that is something.
pub(crate) fn size() -> Rule {
    Rule::new("quantity(self).compareTo(quantity('0')) > 0 && quantity(self).compareTo(quantity('1Ei')) <= 0")
        .message("is nothing, or more than there is; write a size above 0 and up to 1Ei, for example 8Gi")
}

/// Registry and path in front of a component's name.
pub(crate) fn repository() -> Rule {
    Rule::new(
        "self.matches('^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*$')",
    )
    .message(
        "is no registry and path; write them without a scheme and with single slashes, for example registry.example.com:5000/aistack",
    )
}

/// A version in the registry.
pub(crate) fn version() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*$')")
        .message("is no version; write its number, as modelhub models list shows it, for example 3")
}

/// Names of HTTP headers.
pub(crate) fn header_names() -> Rule {
    Rule::new("self.all(name, name.matches('^[A-Za-z0-9!#$%&*+.^_|~-]+$'))")
        .message("has a name that no header can have; write letters, digits and '-', for example x-team")
}

/// Names of annotations.
pub(crate) fn annotations() -> Rule {
    Rule::new(concat!("self.all(name, name.matches('^", qualified!(), "$'))")).message(
        "has a name that Kubernetes takes for no annotation; write letters, digits, '-', '_' and '.', after a prefix such as example.com/ if you like",
    )
}

/// Labels that a node may have.
pub(crate) fn labels() -> Rule {
    Rule::new(concat!(
        "self.all(name, name.matches('^", qualified!(), "$') && self[name].matches('^(", word!(), ")?$'))"
    ))
    .message(
        "has a name or value that no label can have; write letters, digits, '-', '_' and '.', a name after a prefix such as example.com/ if you like",
    )
}

/// Taints are what they say.
pub(crate) fn taints() -> Rule {
    Rule::new(concat!(
        "self.all(t, (!has(t.key) || t.key == '' || t.key.matches('^", qualified!(),
        "$')) && (!has(t.value) || t.value.matches('^(", word!(), ")?$')))"
    ))
    .message("has a key or value that no taint can have; write letters, digits, '-', '_' and '.', a key after a prefix such as example.com/ if you like")
}

/// `Exists` has no value.
pub(crate) fn exists_alone() -> Rule {
    Rule::new("self.all(t, !has(t.operator) || t.operator != 'Exists' || !has(t.value) || t.value == '')")
        .message("has a value beside operator Exists, which takes every value; remove value, or write operator: Equal")
}

/// Only `Exists` may leave the key out.
pub(crate) fn keyed() -> Rule {
    Rule::new("self.all(t, (has(t.key) && t.key != '') || (has(t.operator) && t.operator == 'Exists'))")
        .message("has no key, and only operator Exists means every taint; name the taint's key, or write operator: Exists")
}

/// Seconds are of evictions.
pub(crate) fn seconds_of_evictions() -> Rule {
    Rule::new("self.all(t, !has(t.tolerationSeconds) || (has(t.effect) && t.effect == 'NoExecute'))")
        .message("has tolerationSeconds without effect: NoExecute, which alone evicts; add it, or remove tolerationSeconds")
}

/// A volume is named, and its path stays within it.
pub(crate) fn place() -> Rule {
    Rule::new(concat!(
        "!self.startsWith('pvc:') || (self.matches('^pvc://", subdomain!(),
        "(/.*)?$') && !self.contains('/../') && !self.endsWith('/..'))"
    ))
    .message("names no claim, or leaves it; write pvc://CLAIM/path, with the name of a PersistentVolumeClaim of this namespace and without ..")
}

/// Addresses become arguments of containers, and are told when nobody answers there.
pub(crate) fn no_password() -> Rule {
    Rule::new("!self.matches('^(s3|gs|az|https?)://[^/]*@')").message(
        "has a user or a password before an '@', which everybody would see who sees the pods; take them out, and put them into the Secret that secretName names",
    )
}

/// The same where no Secret goes with it.
pub(crate) fn no_password_here() -> Rule {
    Rule::new("!self.matches('^[a-z0-9]+://[^/]*@')").message(
        "has a user or a password before an '@', which everybody would see who sees the object; take them out",
    )
}

/// The password of a database is a Secret's.
pub(crate) fn no_sql_password() -> Rule {
    Rule::new("!self.matches('^[a-z]+://[^/@]*:[^/]*@')").message(
        "has a password before the '@', which everybody would see who sees the object; take it out, and name a Secret: secretRef",
    )
}

/// What a CronJob takes as its schedule.
pub(crate) fn schedule() -> Rule {
    Rule::new(concat!(
        "self.matches('^",
        cron!("[0-5]?[0-9]"),
        " ",
        cron!("([01]?[0-9]|2[0-3])"),
        " ",
        cron!("(0?[1-9]|[12][0-9]|3[01])"),
        " ",
        cron!("(0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))"),
        " ",
        cron!("([0-6]|(?i:sun|mon|tue|wed|thu|fri|sat))"),
        "$')"
    ))
    .message("is no schedule; write five fields: minute (0-59), hour (0-23), day (1-31), month (1-12), day of the week (0-6, Sunday is 0), for example 0 3 * * *")
}

/// Ranges of a schedule go upwards. Spelled out: the API server takes a split into fields and items for too costly.
pub(crate) fn upwards() -> Rule {
    Rule::new(concat!(
        "!self.matches('(^|[ ,])([1-5][0-9]-0?[0-9]|[2-5][0-9]-1[0-9]|[3-5][0-9]-2[0-9]|[45][0-9]-3[0-9]|5[0-9]-4[0-9]|",
        within!("0?"), "|", within!("1"), "|", within!("2"), "|", within!("3"), "|", within!("4"), "|", within!("5"),
        "|(?i:", after!("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
        "|", after!("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
        "))([ ,/]|$)')"
    ))
    .message("has a range that goes backwards; write the lower number first, or both parts with a comma: 30-59,0-5 for 30-5")
}

/// A schedule comes at some time.
pub(crate) fn comes() -> Rule {
    Rule::new(concat!(
        never!("(30|31)", "(0?2|(?i:feb))"),
        " && ",
        never!("31", "(0?[2469]|11|(?i:feb|apr|jun|sep|nov))")
    ))
    .message("never comes, for no such month has that day; write a day that it has, for example 28")
}
