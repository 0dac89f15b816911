//! `:person_profiles`: which events make a person profile. The property `$process_person_profile` states it.

use crate::event::json;

/// The property.
pub const PROPERTY: &str = "$process_person_profile";

/// Events that identify a person.
const IDENTIFYING: [&[u8]; 3] = [
    b"\"$identify\"",
    b"\"$create_alias\"",
    b"\"$groupidentify\"",
];
/// Properties that identify the person in any event.
const PERSON_KEYS: [&str; 3] = ["$set", "$set_once", "$groups"];

/// Which events make a person profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersonProfiles {
    /// All of them.
    Always,
    /// None.
    Never,
    /// Events that identify the person.
    IdentifiedOnly,
}

impl PersonProfiles {
    /// Whether an event makes a person profile, by its name and properties in JSON.
    pub fn process(self, name: &[u8], properties: &[u8]) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::IdentifiedOnly => {
                IDENTIFYING.contains(&name)
                    || PERSON_KEYS
                        .iter()
                        .any(|property| json::has_member(properties, property))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PersonProfiles::{Always, IdentifiedOnly, Never};

    #[test]
    fn only_what_says_who_a_person_is_identifies() {
        let named = |name: &str| IdentifiedOnly.process(name.as_bytes(), b"{}");
        assert!(
            named("\"$identify\"") && named("\"$create_alias\"") && named("\"$groupidentify\"")
        );
        assert!(!named("\"identify\"") && !named("\"$pageview\""));
        let with = |properties: &str| IdentifiedOnly.process(b"\"a\"", properties.as_bytes());
        assert!(with(r#"{"$set":{}}"#) && with(r#"{"a":1,"$groups":{}}"#));
        assert!(!with(r#"{"a":{"$set":1}}"#) && !with("7"));
    }

    #[test]
    fn always_and_never_look_at_nothing() {
        assert!(Always.process(b"\"a\"", b"{}"));
        assert!(!Never.process(b"\"$identify\"", b"{}"));
    }
}
