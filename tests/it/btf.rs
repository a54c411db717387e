//! The kernel's own description of its types (BTF; Documentation/bpf/btf.rst): a file flows in,
//! the members of a struct flow out.

use std::collections::BTreeMap;

/// Where this kernel keeps its BTF.
pub(crate) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// A struct: its size in bytes, and each member's first bit and number of bits.
#[derive(Debug)]
pub(crate) struct Struct {
    pub(crate) bytes: u32,
    pub(crate) members: BTreeMap<String, (u32, u32)>,
}

/// Types by their number, each with its place in the section of types.
struct Types<'a> {
    words: Vec<u32>,
    places: Vec<usize>,
    strings: &'a [u8],
}

/// A struct by its name.
pub(crate) fn find(btf: &[u8], name: &str) -> Option<Struct> {
    let types = Types::new(btf)?;
    let mut places = types.places.iter().skip(1);
    let at = *places.find(|&&at| {
        kind(types.words[at + 1]) == STRUCT && types.string(types.words[at]) == Some(name)
    })?;
    let info = types.words[at + 1];
    let members = types.words[at + 3..].chunks(3).take(vlen(info));
    let members = members.map(|member| {
        let has_widths = info >> 31 == 1;
        let (bit, width) =
            if has_widths { (member[2] & 0xff_ffff, member[2] >> 24) } else { (member[2], 0) };
        let bits = if width == 0 { types.bytes(member[1])? * 8 } else { width };
        Some((types.string(member[0])?.to_owned(), (bit, bits)))
    });
    Some(Struct { bytes: types.words[at + 2], members: members.collect::<Option<_>>()? })
}

impl<'a> Types<'a> {
    fn new(btf: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at + 4)?.try_into().ok()?));
        if word(0)? & 0xffff != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let section = |at: usize| {
            let start = header + word(at)? as usize;
            btf.get(start..start + word(at + 4)? as usize)
        };
        let words = section(8)?.chunks_exact(4);
        let words: Vec<u32> =
            words.map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap())).collect();
        // Type 0 is `void`, which is not in the file.
        let mut places = vec![usize::MAX];
        let mut at = 0;
        while at < words.len() {
            places.push(at);
            at += 3 + words_behind(words[at + 1])?;
        }
        Some(Self { words, places, strings: section(16)? })
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let rest = self.strings.get(offset as usize..)?;
        std::str::from_utf8(rest.split(|&byte| byte == 0).next()?).ok()
    }

    /// Size of an integer, behind typedefs and qualifiers.
    fn bytes(&self, number: u32) -> Option<u32> {
        let at = *self.places.get(number as usize)?;
        match kind(self.words[at + 1]) {
            INT => Some(self.words[at + 2]),
            8..=11 => self.bytes(self.words[at + 2]),
            _ => None,
        }
    }
}

/// Words behind the three of every type.
fn words_behind(info: u32) -> Option<usize> {
    Some(match kind(info) {
        INT | 14 | 17 => 1,
        3 => 3,
        STRUCT | 5 | 15 | 19 => 3 * vlen(info),
        6 | 13 => 2 * vlen(info),
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

const fn vlen(info: u32) -> usize {
    (info & 0xffff) as usize
}

const MAGIC: u32 = 0xeb9f;
/// `BTF_KIND_INT`.
const INT: u32 = 1;
/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;
