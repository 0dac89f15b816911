//! `:person_profiles`: which events make a person profile. The property `$process_person_profile` states it.

/// The property's name.
pub const PROPERTY: &str = "$process_person_profile";

/// Events that identify a person.
const IDENTIFYING: [&[u8]; 3] = [
    b"\"$identify\"",
    b"\"$create_alias\"",
    b"\"$groupidentify\"",
];

/// The properties of an event that decide which others it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// It has an `$insert_id`.
    pub insert_id: bool,
    /// It has a [`PROPERTY`].
    pub profile: bool,
    /// It has a property that identifies a person: `$set`, `$set_once` or `$groups`.
    pub identifies: bool,
}

impl Noted {
    /// Notes the key at the start of a member as it is written: `"name":` and the rest.
    pub fn key(&mut self, member: &[u8]) {
        if let Some([b'"', b'$', ..]) = member.get(..2) {
            let name = member[1..].split(|byte| *byte == b'"').next();
            self.name(name.unwrap_or_default());
        }
    }

    /// Notes a property's name.
    pub fn name(&mut self, name: &[u8]) {
        match name {
            b"$insert_id" => self.insert_id = true,
            b"$set" | b"$set_once" | b"$groups" => self.identifies = true,
            _ if name == PROPERTY.as_bytes() => self.profile = true,
            _ => {}
        }
    }
}

/// Which events make a profile.
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
    /// Returns whether an event makes a profile, by its name in JSON and its properties.
    pub fn process(self, name: &[u8], properties: Noted) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::IdentifiedOnly => IDENTIFYING.contains(&name) || properties.identifies,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Noted;
    use super::PersonProfiles::{Always, IdentifiedOnly, Never};

    fn noted(keys: &[&str]) -> Noted {
        let mut noted = Noted::default();
        for key in keys {
            noted.key(format!("\"{key}\":7,\"$set\":1}}").as_bytes());
        }
        noted
    }

    #[test]
    fn identified_only_processes_events_that_identify_a_person() {
        let named = |name: &str| IdentifiedOnly.process(name.as_bytes(), Noted::default());
        assert!(
            named("\"$identify\"") && named("\"$create_alias\"") && named("\"$groupidentify\"")
        );
        assert!(!named("\"identify\"") && !named("\"$pageview\""));
        let with = |key| IdentifiedOnly.process(b"\"a\"", noted(&["a", key, "b"]));
        assert!(with("$set") && with("$set_once") && with("$groups"));
        assert!(!with("set") && !with("$set_") && !with("") && !with("$"));
    }

    #[test]
    fn always_and_never_depend_on_no_property() {
        assert!(Always.process(b"\"a\"", Noted::default()));
        assert!(!Never.process(b"\"$identify\"", noted(&["$set"])));
    }

    #[test]
    fn a_member_that_an_event_may_get_is_noted_by_its_exact_name() {
        let both = noted(&["$insert_id", "$process_person_profile"]);
        assert!(both.insert_id && both.profile && !both.identifies);
        assert_eq!(
            noted(&["$insert_ids", "insert_id", "$process"]),
            Noted::default()
        );
    }
}
