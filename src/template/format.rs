//! Python's `%` formatting: `'%03d' % 5`, `'%s-%s' | format(a, b)`.

use serde_json::Value;

use super::error::TemplateError;
use super::value::{Num, fail, num, repr, room, text};

#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// Fills the places of a format string with the values, in order; each must be used.
pub(super) fn percent(format: &str, values: &[Value]) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        if chars.peek() == Some(&'(') {
            return fail("named places such as `%(name)s` are not supported");
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => spec.left = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                '0' => spec.zero = true,
                _ => spec.alternate = true,
            }
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut number = 0usize;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                number = number.saturating_mul(10).saturating_add(digit.to_digit(10).unwrap_or(0) as usize);
            }
            number
        };
        spec.width = digits(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(digits(&mut chars));
        }
        if spec.width > 10_000 || spec.precision.is_some_and(|p| p > 300) {
            return fail("the width or precision in the format is too large");
        }
        let Some(conversion) = chars.next() else {
            return fail("the format ends in the middle of a place");
        };
        let Some(value) = values.next() else {
            return fail(format!("the format `{format}` has more places than there are values"));
        };
        out.push_str(&one(&spec, conversion, value)?);
        room(out.len())?;
    }
    if values.next().is_some() {
        return fail(format!("the format `{format}` has fewer places than there are values"));
    }
    Ok(out)
}

fn one(spec: &Spec, conversion: char, value: &Value) -> Result<String, TemplateError> {
    let number = || {
        num(value).ok_or_else(|| TemplateError::failed(format!("`%{conversion}` needs a number, not {}", repr(value))))
    };
    let precision = spec.precision;
    let (negative, prefix, body) = match conversion {
        's' | 'r' => {
            let all = match (conversion, value) {
                ('s', Value::Null) => "None".to_string(),
                ('s', value) => text(value),
                _ => repr(value),
            };
            let cut: String = all.chars().take(precision.unwrap_or(usize::MAX)).collect();
            return Ok(padded(spec, &cut));
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let whole = match number()? {
                Num::Int(i) => i,
                #[allow(clippy::cast_possible_truncation)]
                Num::Float(f) if matches!(conversion, 'd' | 'i' | 'u') => f.trunc() as i128,
                Num::Float(_) => return fail(format!("`%{conversion}` needs a whole number")),
            };
            let size = whole.unsigned_abs();
            let digits = match conversion {
                'x' => format!("{size:x}"),
                'X' => format!("{size:X}"),
                'o' => format!("{size:o}"),
                _ => size.to_string(),
            };
            let prefix = match conversion {
                'x' if spec.alternate => "0x",
                'X' if spec.alternate => "0X",
                'o' if spec.alternate => "0o",
                _ => "",
            };
            (whole < 0, prefix, format!("{digits:0>width$}", width = precision.unwrap_or(0)))
        }
        'f' | 'F' => {
            let f = number()?.float();
            (f < 0.0, "", format!("{:.*}", precision.unwrap_or(6), f.abs()))
        }
        'e' | 'E' => {
            let f = number()?.float();
            let shown = format!("{:.*e}", precision.unwrap_or(6), f.abs());
            let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            let shown = format!("{digits}e{sign}{:02}", exponent.abs());
            (f < 0.0, "", if conversion == 'E' { shown.to_uppercase() } else { shown })
        }
        other => return fail(format!("`%{other}` is not supported in a format")),
    };
    let sign = if negative {
        "-"
    } else if spec.plus {
        "+"
    } else if spec.space {
        " "
    } else {
        ""
    };
    if spec.zero && !spec.left {
        let width = spec.width.saturating_sub(sign.len() + prefix.len());
        return Ok(format!("{sign}{prefix}{body:0>width$}"));
    }
    Ok(padded(spec, &format!("{sign}{prefix}{body}")))
}

fn padded(spec: &Spec, body: &str) -> String {
    let width = spec.width;
    if spec.left { format!("{body:<width$}") } else { format!("{body:>width$}") }
}
