//! Frames: four bytes of length, big-endian, then that much JSON.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// No frame may be longer: a broken pipe must not make us ask for all memory.
const LONGEST: u32 = 1 << 30;

/// Writes one frame and flushes.
pub fn write<T: Serialize>(output: &mut impl Write, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= LONGEST).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "a frame of more than 1 GiB: large files go another way")
    })?;
    output.write_all(&length.to_be_bytes())?;
    output.write_all(&bytes)?;
    output.flush()
}

/// Reads one frame; `None` when the other end closed between two.
pub fn read<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match input.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what came back is not a frame of this program"));
    }
    let mut bytes = Vec::new();
    if input.take(u64::from(length)).read_to_end(&mut bytes)? < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_a_cut_one_is_an_error() {
        let mut pipe = Vec::new();
        write(&mut pipe, &vec!["a", "b"]).unwrap();
        write(&mut pipe, &vec!["c"]).unwrap();
        let mut input = pipe.as_slice();
        assert_eq!(read::<Vec<String>>(&mut input).unwrap(), Some(vec!["a".to_string(), "b".into()]));
        assert_eq!(read::<Vec<String>>(&mut input).unwrap(), Some(vec!["c".to_string()]));
        assert_eq!(read::<Vec<String>>(&mut input).unwrap(), None);
        assert!(read::<Vec<String>>(&mut &pipe[..pipe.len() - 1]).unwrap().is_some());
        assert!(read::<Vec<String>>(&mut &pipe[..6]).is_err());
        assert!(read::<Vec<String>>(&mut &b"HTTP/1.1 200 OK"[..]).is_err());
    }
}
