//! Enumerations that are words in the catalog, in JSON and on the screen.

/// Defines an enumeration whose variants are words in the catalog, in JSON and on the screen.
macro_rules! words {
    (
        $(#[$about:meta])*
        pub enum $name:ident { $( $(#[$meaning:meta])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $( $(#[$meaning])* #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &[Self] = &[$( Self::$variant, )+];

            /// The word in the catalog.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::model::Fault;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    let message = format!("\"{text}\" is not one of the words of {}", stringify!($name));
                    crate::model::Fault::new(crate::model::Kind::Damaged, message)
                })
            }
        }
    };
}

pub(crate) use words;
