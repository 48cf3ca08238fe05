//! What guests find nodes by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Tags of one node.
const TAGS_MAX: usize = 32;
/// Bytes of a tag's name, and of its value.
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 256;
/// Bytes of all names and values of one node together: everybody is told of everybody's tags.
const ALL_BYTES_MAX: usize = 4 * 1024;

/// Names and values that a node says of itself, such as `region=eu&gpu=yes`.
///
/// They are for finding a node, not for trusting it: a node may call itself what it likes. As text they have the
/// form of a URL's query (`application/x-www-form-urlencoded`, WHATWG URL §5), which is also what guests ask with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Tags(BTreeMap<String, String>);

/// Why tags cannot be used. Whoever wrote them has to mend them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    /// More than a node may have.
    #[error("a node has at most {TAGS_MAX} tags, not {0}")]
    TooMany(usize),
    /// A name or a value out of bounds.
    #[error(
        "tag {0:?}: its name must have 1 to {NAME_BYTES_MAX} bytes and its value at most {VALUE_BYTES_MAX}, \
         none of them control characters"
    )]
    Tag(String),
    /// Each within its bounds, and all together too long.
    #[error("the tags of a node have at most {ALL_BYTES_MAX} bytes together, not {0}")]
    TooLong(usize),
    /// The same name with two values.
    #[error("tag {0:?} is given twice")]
    Twice(String),
}

impl Tags {
    /// Whether a node with these tags has all that are asked for, by name and value.
    pub fn have(&self, wanted: &[(String, String)]) -> bool {
        let has = |(name, value): &(String, String)| self.0.get(name) == Some(value);
        wanted.iter().all(has)
    }

    /// Refuses what a node may not say of itself. Apart from reading: books may hold longer ones.
    pub(crate) fn check(&self) -> Result<(), TagsError> {
        let length = |(name, value): (&String, &String)| name.len() + value.len();
        let bytes: usize = self.0.iter().map(length).sum();
        if bytes > ALL_BYTES_MAX {
            return Err(TagsError::TooLong(bytes));
        }
        Ok(())
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = TagsError;

    fn try_from(tags: BTreeMap<String, String>) -> Result<Self, TagsError> {
        if tags.len() > TAGS_MAX {
            return Err(TagsError::TooMany(tags.len()));
        }
        let good = |text: &str, max| text.len() <= max && !text.chars().any(char::is_control);
        for (name, value) in &tags {
            if name.is_empty() || !good(name, NAME_BYTES_MAX) || !good(value, VALUE_BYTES_MAX) {
                return Err(TagsError::Tag(name.chars().take(NAME_BYTES_MAX).collect()));
            }
        }
        Ok(Tags(tags))
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.0
    }
}

impl FromStr for Tags {
    type Err = TagsError;

    fn from_str(text: &str) -> Result<Self, TagsError> {
        let mut tags = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if tags.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(TagsError::Twice(
                    name.chars().take(NAME_BYTES_MAX).collect(),
                ));
            }
        }
        let tags = Tags::try_from(tags)?;
        tags.check().map(|()| tags)
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = form_urlencoded::Serializer::new(String::new());
        f.write_str(&text.extend_pairs(&self.0).finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        form_urlencoded::parse(text.as_bytes())
            .into_owned()
            .collect()
    }

    #[test]
    fn all_that_is_asked_for_must_be_there() {
        let tags: Tags = "region=eu+west&gpu=&a%3Db=c%26d".parse().unwrap();
        for asked in ["", "gpu", "gpu=", "region=eu%20west&a%3Db=c%26d"] {
            assert!(tags.have(&pairs(asked)), "{asked}");
        }
        for asked in [
            "gpu=yes",
            "region=eu",
            "region=eu+west&cpu=",
            "REGION=eu+west",
        ] {
            assert!(!tags.have(&pairs(asked)), "{asked}");
        }
        assert_eq!(tags.to_string().parse(), Ok(tags));
    }

    #[test]
    fn tags_are_bounded() {
        let many = |count: usize| {
            let tags: Vec<String> = (0..count).map(|number| format!("t{number}=")).collect();
            tags.join("&").parse::<Tags>()
        };
        assert!(many(TAGS_MAX).is_ok());
        assert_eq!(many(TAGS_MAX + 1), Err(TagsError::TooMany(TAGS_MAX + 1)));
        let (name, value) = ("n".repeat(NAME_BYTES_MAX), "v".repeat(VALUE_BYTES_MAX));
        assert!(format!("{name}={value}").parse::<Tags>().is_ok());
        let values = |bytes: usize| {
            let tags: Vec<String> = (0..16)
                .map(|number| format!("{number:x}={}", "v".repeat(bytes)))
                .collect();
            tags.join("&").parse::<Tags>()
        };
        assert!(values(255).is_ok());
        assert_eq!(values(256), Err(TagsError::TooLong(16 * 257)));
        for wrong in [
            format!("{name}n=v"),
            format!("n={value}v"),
            "=v".to_owned(),
            "n=%0A".to_owned(),
            "%00=v".to_owned(),
        ] {
            assert!(
                matches!(wrong.parse::<Tags>(), Err(TagsError::Tag(_))),
                "{wrong}"
            );
        }
        assert_eq!(
            "a=1&b=&a=2".parse::<Tags>(),
            Err(TagsError::Twice("a".into()))
        );
        // Also what comes as JSON.
        assert!(serde_json::from_str::<Tags>(r#"{"":"v"}"#).is_err());
    }
}
