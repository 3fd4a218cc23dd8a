//! Values of metric labels, in snake_case.

/// Declares the values of a label with their texts.
macro_rules! label_values {
    (
        $(#[$doc:meta])*
        pub enum $label:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $label {
            $($(#[$value_doc])* $value,)+
        }

        impl $label {
            /// Every value.
            pub const ALL: [Self; [$(Self::$value),+].len()] = [$(Self::$value),+];
        }

        impl prometheus_client::encoding::EncodeLabelValue for $label {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                let text = match self {
                    $(Self::$value => $text,)+
                };
                std::fmt::Write::write_str(encoder, text)
            }
        }
    };
}

pub(super) use label_values;
