//! The outside: a first line that says what it is, and hexadecimal digits in lines of 80.
//!
//! Inside of those digits are three fields, each in hexadecimal digits again: salt, HMAC and the encrypted bytes. That is
//! format 1.1; 1.2 has a fourth word in the first line, the vault id (docs.ansible.com, "Encrypting content").

/// What the first line begins with.
const MARK: &str = "$ANSIBLE_VAULT;";
const WIDTH: usize = 80;

/// Is this something that ansible-vault encrypted?
pub fn is_vaulted(content: &[u8]) -> bool {
    content.starts_with(b"$ANSIBLE_VAULT")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub id: Option<String>,
    pub salt: Vec<u8>,
    pub hmac: Vec<u8>,
    pub bytes: Vec<u8>,
}

impl Envelope {
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &[u8]) -> Result<Envelope, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it holds bytes that are no text".to_string())?;
        let text = text.trim_start();
        let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let words: Vec<&str> =
            first.strip_prefix(MARK).ok_or("its first line is not that of a vault")?.split(';').collect();
        let id = match words.as_slice() {
            ["1.1", "AES256"] => None,
            ["1.2", "AES256", id] if !id.is_empty() => Some((*id).to_string()),
            ["1.1" | "1.2", cipher, ..] if *cipher != "AES256" => {
                return Err(format!("the cipher `{cipher}` is not AES256"));
            }
            [version, ..] if *version != "1.1" && *version != "1.2" => {
                return Err(format!("the format `{version}` is none of 1.1 and 1.2"));
            }
            _ => return Err("its first line is cut".into()),
        };
        let digits: Vec<u8> = rest.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let inner = unhex(&digits)?;
        let mut fields = inner.split(|byte| *byte == b'\n');
        let mut field = |what: &str| {
            unhex(fields.next().filter(|field| !field.is_empty()).ok_or_else(|| format!("{what} is missing"))?)
        };
        let envelope =
            Envelope { id, salt: field("its salt")?, hmac: field("its HMAC")?, bytes: field("its content")? };
        if fields.next().is_some() {
            return Err("something follows its content".into());
        }
        Ok(envelope)
    }

    pub fn write(&self) -> String {
        let inner = [&self.salt, &self.hmac, &self.bytes].map(|field| hex(field)).join("\n");
        let digits = hex(inner.as_bytes());
        let mut text = match &self.id {
            Some(id) => format!("{MARK}1.2;AES256;{id}\n"),
            None => format!("{MARK}1.1;AES256\n"),
        };
        let mut rest = digits.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(WIDTH));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(digits: &[u8]) -> Result<Vec<u8>, String> {
    let value = |digit: u8| {
        let value = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        value.ok_or_else(|| format!("`{}` is not a hexadecimal digit", char::from(digit).escape_debug()))
    };
    let mut pairs = digits.chunks_exact(2);
    let bytes = (&mut pairs).map(|pair| match pair {
        [high, low] => Ok(value(*high)? << 4 | value(*low)?),
        _ => Err(String::new()),
    });
    let bytes = bytes.collect::<Result<Vec<u8>, String>>()?;
    if pairs.remainder().is_empty() { Ok(bytes) } else { Err("a digit is missing: it is cut".into()) }
}
