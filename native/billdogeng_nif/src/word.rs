//! A hash for terms that are one word, such as atoms and local pids: the word itself, mixed.

use rustler::sys::ErlNifTerm;
use std::hash::{Hash, Hasher};

/// Hashes one word, and nothing else well. Input cannot choose the word of an atom or a pid, so the hash need not
/// withstand chosen ones.
#[derive(Default)]
pub struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0.rotate_left(8));
        }
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        // 2^64 over the golden ratio spreads words that are close to each other. The low bits of a product depend only on
        // the low bits of its factors, and the lowest bits of a word are its type: hence the rotation.
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
    }
}

/// Returns the hash of one word.
pub fn hash(word: ErlNifTerm) -> u64 {
    hasher(word).finish()
}

/// Returns the low bits of a term, which contain its type. They are the same for all atoms.
pub fn tag(word: ErlNifTerm) -> u64 {
    hasher(word).0 & 0x3F
}

fn hasher(word: ErlNifTerm) -> WordHasher {
    let mut hasher = WordHasher::default();
    word.hash(&mut hasher);
    hasher
}
