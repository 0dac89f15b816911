//! `:person_profiles`: whose events make a profile of their person, said in `$process_person_profile`.

use crate::event::json;

/// The property.
pub const PROPERTY: &str = "$process_person_profile";

/// Events that are about who a person is.
const IDENTIFYING: [&[u8]; 3] = [
    b"\"$identify\"",
    b"\"$create_alias\"",
    b"\"$groupidentify\"",
];
/// Properties that are so in any event.
const TELLING: [&str; 3] = ["$set", "$set_once", "$groups"];

/// Which events do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersonProfiles {
    /// All of them.
    Always,
    /// None.
    Never,
    /// Those that say something of who the person is.
    IdentifiedOnly,
}

impl PersonProfiles {
    /// Whether the event of this name and these properties does, both in JSON.
    pub fn process(self, name: &[u8], properties: &[u8]) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::IdentifiedOnly => {
                IDENTIFYING.contains(&name)
                    || TELLING
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
