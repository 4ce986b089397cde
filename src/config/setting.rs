//! The trait of a type that holds the value of a configuration key.

/// A type that the value of a configuration key can have.
pub(super) trait Setting: Sized {
    /// Returns the description of accepted values, for error messages.
    fn accepted() -> String;
    /// Returns the value that a text means; `None` if the text is not accepted.
    fn parse(text: &str) -> Option<Self>;
    /// Returns the text that CONFIG GET shows.
    fn show(&self) -> String;
}
