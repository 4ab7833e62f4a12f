//! Which fields typha forwards, held by a list beside this file: whoever reads another field is told to renew it, which
//! raises the revision by which programs know a typha that would leave the field out.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use kube::runtime::watcher;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess};
use serde::forward_to_deserialize_any;

use super::Kind;
use super::kinds::{Visitor, Watched, visit};
use super::tracker::Item;
use crate::convert::Problems;
use crate::objects::{ANNOTATIONS, FIELDS};

const HELD: &str = include_str!("fields.txt");

#[test]
fn the_revision_is_raised_with_every_change_of_the_fields() {
    let mut fields: Vec<String> =
        ANNOTATIONS.iter().map(|part| format!("metadata.annotations with {part}")).collect();
    for (kind, name) in Kind::SHARED {
        fields.extend(visit(Fields, kind, &"n".into()).into_iter().map(|field| format!("{name}{field}")));
    }
    let seen = fields.join("\n");

    let (revision, held) = HELD.split_once('\n').expect("the first line is the revision");
    assert_eq!(revision.trim().parse(), Ok(FIELDS));
    if seen == held.trim_end() {
        return;
    }
    assert!(
        std::env::var_os("UPDATE").is_some(),
        "other fields are read than typha of revision {FIELDS} forwards: UPDATE=1 cargo test -p datastore renews \
         the list and raises the revision"
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/watch/fields.txt");
    std::fs::write(path, format!("{}\n{seen}\n", FIELDS + 1)).expect("the list can be written");
}

/// Paths of all fields that are read of a kind.
struct Fields;

impl Visitor for Fields {
    type Output = BTreeSet<String>;

    fn visit<K: Watched>(
        self,
        kind: Kind,
        _: watcher::Config,
        _: impl Fn(&K, &mut Problems) -> Option<Item> + Send + 'static,
    ) -> BTreeSet<String> {
        let seen = RefCell::new(BTreeSet::new());
        let read = K::deserialize(Tracer { path: String::new(), seen: &seen });
        if let Err(error) = read {
            panic!("{kind:?}: {error}");
        }
        seen.into_inner()
    }
}

/// Offers every field that is asked for, and notes it.
struct Tracer<'a> {
    path: String,
    seen: &'a RefCell<BTreeSet<String>>,
}

impl Tracer<'_> {
    fn at(&self, step: &str) -> Self {
        Self { path: format!("{}{step}", self.path), seen: self.seen }
    }

    fn note(&self) {
        self.seen.borrow_mut().insert(self.path.clone());
    }
}

/// Accepted wherever a text is, times included.
const TEXT: &str = "2026-01-01T00:00:00Z";

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Refused;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note();
        visitor.visit_i64(1)
    }

    fn deserialize_bool<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note();
        visitor.visit_bool(true)
    }

    fn deserialize_str<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note();
        visitor.visit_str(TEXT)
    }

    fn deserialize_string<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_seq(One(Some(self.at("[]"))))
    }

    fn deserialize_map<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_map(Members { of: self.at(""), left: vec!["*"] })
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_map(Members { of: self.at(""), left: fields.to_vec() })
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier ignored_any
    }
}

struct One<'a>(Option<Tracer<'a>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        self.0.take().map(|tracer| seed.deserialize(tracer)).transpose()
    }
}

struct Members<'a> {
    of: Tracer<'a>,
    /// The last one is next.
    left: Vec<&'static str>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        let Some(name) = self.left.last() else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let name = self.left.pop().unwrap_or_default();
        seed.deserialize(self.of.at(&format!(".{name}")))
    }
}

/// What a type asked for that no field of ours has.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}
