//! POSIX access control lists: the extended attribute that Linux keeps and the text that tar archives carry.
//!
//! The attribute is the one of `linux/posix_acl_xattr.h`: a little-endian `u32` version 2, then entries of `u16` tag,
//! `u16` permissions, `u32` id, where the id of an entry without one is all ones. The text is that of `acl(5)`, also
//! with the fourth field of star, which repeats the id as a number.
//!
//! *Invariants*: the entries are in canonical order, which is the order that the kernel keeps.
//!
//! *Used by* `compose` (tar import reads the text), `export` (tar export writes it), and `deploy`.

use std::fmt;

/// The attribute that holds the access ACL.
pub(crate) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";

/// The attribute that holds the default ACL of a directory.
pub(crate) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// The subject of an entry; the order of the variants is the canonical order of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User(u32),
    OwnerGroup,
    Group(u32),
    Mask,
    Other,
}

impl Tag {
    const fn encode(self) -> (u16, u32) {
        match self {
            Self::Owner => (0x01, NO_ID),
            Self::User(id) => (0x02, id),
            Self::OwnerGroup => (0x04, NO_ID),
            Self::Group(id) => (0x08, id),
            Self::Mask => (0x10, NO_ID),
            Self::Other => (0x20, NO_ID),
        }
    }

    const fn decode(tag: u16, id: u32) -> Option<Self> {
        match tag {
            0x01 => Some(Self::Owner),
            0x02 => Some(Self::User(id)),
            0x04 => Some(Self::OwnerGroup),
            0x08 => Some(Self::Group(id)),
            0x10 => Some(Self::Mask),
            0x20 => Some(Self::Other),
            _ => None,
        }
    }
}

/// The kind of subject that a name in the text of an ACL stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AclSubject {
    /// A user.
    User,
    /// A group.
    Group,
}

/// What becomes of the entry of an ACL whose user or group is given by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AclName {
    /// The name stands for this number.
    Number(u32),
    /// The entry is left out.
    LeftOut,
    /// The whole text is refused.
    Unknown,
}

/// Why bytes or a text are not an ACL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// An entry of the text does not follow `acl(5)`.
    #[error("'{}' is not an entry of an ACL", .0.escape_ascii())]
    Entry(Vec<u8>),
    /// The text names a user or group whose number is not known.
    #[error("the ACL names the {subject:?} '{}', whose number is not known", .name.escape_ascii())]
    UnknownName {
        /// Whether the name is that of a user or of a group.
        subject: AclSubject,
        /// The name as written.
        name: Vec<u8>,
    },
    /// Entries are missing or repeated, or the attribute has a strange length, version or tag.
    #[error("the entries do not make up an ACL")]
    Malformed,
}

/// An access control list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PosixAcl(Vec<(Tag, u8)>);

impl PosixAcl {
    /// Decodes the value of the attribute.
    pub(crate) fn from_xattr(value: &[u8]) -> Result<Self, AclError> {
        let (version, entries) = value.split_first_chunk::<4>().ok_or(AclError::Malformed)?;
        let (entries, rest) = entries.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return Err(AclError::Malformed);
        }
        let decode = |entry: &[u8; 8]| {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let permissions = u8::try_from(u16::from_le_bytes([entry[2], entry[3]])).ok().filter(|bits| *bits <= 7);
            Some((Tag::decode(tag, id)?, permissions?))
        };
        let entries = entries.iter().map(decode).collect::<Option<Vec<_>>>().ok_or(AclError::Malformed)?;
        Self::new(entries)
    }

    /// Encodes the value of the attribute.
    pub(crate) fn to_xattr(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in &self.0 {
            let (tag, id) = tag.encode();
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&u16::from(*permissions).to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// Parses the text; `number` says what a user or group stands for that is given by name only.
    ///
    /// # Errors
    /// [`AclError`], with the entry or the name.
    pub(crate) fn parse(text: &[u8], number: &dyn Fn(AclSubject, &[u8]) -> AclName) -> Result<Self, AclError> {
        let entries = text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.split(|byte| *byte == b'#').next())
            .flat_map(|line| line.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|entry| !entry.is_empty())
            .filter_map(|entry| parse_entry(entry, number).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(entries)
    }

    /// Returns this list with each user's and group's number replaced by the one that `number` returns.
    pub(crate) fn renumbered(&self, number: &dyn Fn(AclSubject, u32) -> u32) -> Self {
        let renumber = |(tag, permissions): &(Tag, u8)| match *tag {
            Tag::User(id) => (Tag::User(number(AclSubject::User, id)), *permissions),
            Tag::Group(id) => (Tag::Group(number(AclSubject::Group, id)), *permissions),
            other => (other, *permissions),
        };
        let mut entries: Vec<_> = self.0.iter().map(renumber).collect();
        entries.sort_unstable();
        Self(entries)
    }

    /// Returns whether the list expresses no more than nine permission bits do. Linux keeps no attribute for such an access
    /// ACL.
    pub(crate) fn is_minimal(&self) -> bool {
        self.0.iter().all(|(tag, _)| matches!(tag, Tag::Owner | Tag::OwnerGroup | Tag::Other))
    }

    /// Puts the entries into canonical order and checks, as the kernel does, that the list is complete.
    fn new(mut entries: Vec<(Tag, u8)>) -> Result<Self, AclError> {
        entries.sort_unstable_by_key(|(tag, _)| *tag);
        let has = |wanted: Tag| entries.iter().any(|(tag, _)| *tag == wanted);
        let repeated = entries.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let named = entries.iter().any(|(tag, _)| matches!(tag, Tag::User(_) | Tag::Group(_)));
        let complete = has(Tag::Owner) && has(Tag::OwnerGroup) && has(Tag::Other) && (!named || has(Tag::Mask));
        if repeated || !complete {
            return Err(AclError::Malformed);
        }
        Ok(Self(entries))
    }
}

/// Parses one entry: `user:[NAME]:rwx[:ID]`, `group:…`, `mask:[:]rwx`, `other:[:]rwx`. Returns `None` for one that is left out.
fn parse_entry(entry: &[u8], number: &dyn Fn(AclSubject, &[u8]) -> AclName) -> Result<Option<(Tag, u8)>, AclError> {
    let bad = || AclError::Entry(entry.to_vec());
    let fields: Vec<&[u8]> = entry.split(|byte| *byte == b':').map(<[u8]>::trim_ascii).collect();
    let subject = match *fields.first().ok_or_else(bad)? {
        b"user" | b"u" => AclSubject::User,
        b"group" | b"g" => AclSubject::Group,
        kind @ (b"mask" | b"m" | b"other" | b"o") => {
            let tag = if kind[0] == b'm' { Tag::Mask } else { Tag::Other };
            let permissions = match fields[1..] {
                [permissions] | [b"", permissions] => permissions,
                _ => return Err(bad()),
            };
            return Ok(Some((tag, parse_permissions(permissions).ok_or_else(bad)?)));
        }
        _ => return Err(bad()),
    };
    let (name, permissions, id) = match fields[1..] {
        [name, permissions] => (name, permissions, None),
        [name, permissions, id] => (name, permissions, Some(id)),
        _ => return Err(bad()),
    };
    let permissions = parse_permissions(permissions).ok_or_else(bad)?;
    let tag = if name.is_empty() {
        match subject {
            AclSubject::User => Tag::Owner,
            AclSubject::Group => Tag::OwnerGroup,
        }
    } else {
        let stated = id.and_then(parse_id).or_else(|| parse_id(name)).map(AclName::Number);
        let id = match stated.unwrap_or_else(|| number(subject, name)) {
            AclName::Number(id) => id,
            AclName::LeftOut => return Ok(None),
            AclName::Unknown => return Err(AclError::UnknownName { subject, name: name.to_vec() }),
        };
        match subject {
            AclSubject::User => Tag::User(id),
            AclSubject::Group => Tag::Group(id),
        }
    };
    Ok(Some((tag, permissions)))
}

fn parse_id(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn parse_permissions(text: &[u8]) -> Option<u8> {
    if let [digit @ b'0'..=b'7'] = text {
        return Some(digit - b'0');
    }
    text.iter().try_fold(0, |bits, letter| match letter {
        b'r' => Some(bits | 4),
        b'w' => Some(bits | 2),
        b'x' => Some(bits | 1),
        b'-' => Some(bits),
        _ => None,
    })
}

impl fmt::Display for PosixAcl {
    /// Writes the text form with numbers, one entry on a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (tag, permissions) in &self.0 {
            match tag {
                Tag::Owner => f.write_str("user::")?,
                Tag::User(id) => write!(f, "user:{id}:")?,
                Tag::OwnerGroup => f.write_str("group::")?,
                Tag::Group(id) => write!(f, "group:{id}:")?,
                Tag::Mask => f.write_str("mask::")?,
                Tag::Other => f.write_str("other::")?,
            }
            let letter = |bit: u8, letter: char| if permissions & bit == 0 { '-' } else { letter };
            writeln!(f, "{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(_: AclSubject, _: &[u8]) -> AclName {
        AclName::Unknown
    }

    /// The attribute that Linux returned after `setfacl -m u:daemon:rwx,u:12345:r,g:adm:rx`.
    const FROM_LINUX: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x07\0\x01\0\0\0\x02\0\x04\0\x39\x30\0\0\
        \x04\0\x04\0\xff\xff\xff\xff\x08\0\x05\0\x04\0\0\0\x10\0\x07\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

    #[test]
    fn acl_converts_between_text_and_attribute() {
        let names = |subject, name: &[u8]| match (subject, name) {
            (AclSubject::User, b"daemon") => AclName::Number(1),
            (AclSubject::Group, b"adm") => AclName::Number(4),
            _ => AclName::Unknown,
        };
        let text = b"user::rw-\nuser:12345:r--\t#effective:r--\nuser:daemon:rwx\ngroup::r--\ngroup:adm:r-x\n\
            mask::rwx\nother::r--\n";
        let acl = PosixAcl::parse(text, &names).expect("legal");
        assert_eq!(acl.to_xattr(), FROM_LINUX);
        assert_eq!(PosixAcl::from_xattr(FROM_LINUX), Ok(acl.clone()));
        assert_eq!(PosixAcl::parse(acl.to_string().as_bytes(), &unknown), Ok(acl.clone()));
        assert!(!acl.is_minimal());
        let star = b"user::6,user:daemon:rwx:1,u:x:r--:12345,group::r,group:adm:r-x:4,mask:rwx,other:r--";
        assert_eq!(PosixAcl::parse(star, &unknown), Ok(acl));
    }

    #[test]
    fn acl_with_three_entries_is_minimal() {
        let acl = PosixAcl::parse(b"user::rwx\ngroup::r-x\nother::r-x\n", &unknown).expect("legal");
        assert!(acl.is_minimal());
    }

    #[test]
    fn acl_lacks_entries_that_are_left_out() {
        let text = b"user::rw-,user:who:rwx,user:7:r--,group::r--,mask::rwx,other::r--";
        let rest = b"user::rw-,user:7:r--,group::r--,mask::rwx,other::r--";
        let acl = PosixAcl::parse(text, &|_, _| AclName::LeftOut).expect("legal");
        assert_eq!(Ok(acl), PosixAcl::parse(rest, &unknown));
    }

    #[test]
    fn malformed_acls_are_refused() {
        for bad in [
            &b""[..],
            b"user::rwx",
            b"user::rwx,group::rwx,other::rwx,user:1:r",
            b"user::rwx,user::rwx,group::rwx,other::rwx",
            b"user::rwx,group::rwx,other::rwq",
            b"user::rwx,group::rwx,other:x:rwx",
            b"user,group::rwx,other::rwx",
            b"user:somebody:r,user::rwx,group::rwx,other::rwx,mask::r",
        ] {
            assert!(PosixAcl::parse(bad, &unknown).is_err(), "{}", bad.escape_ascii());
        }
        for length in 0..FROM_LINUX.len() {
            assert!(PosixAcl::from_xattr(&FROM_LINUX[..length]).is_err(), "{length}");
        }
    }
}
