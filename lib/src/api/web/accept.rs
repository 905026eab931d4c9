//! The lists in `Accept` and `Accept-Encoding`: what a client accepts, with weights (RFC 9110, 12.4.2 and 12.5).

/// One element of the list.
pub struct AcceptElement<'h> {
    /// A media range or a content coding, as sent.
    pub name: &'h str,
    /// The weight, `q`, as sent.
    pub weight: Option<&'h str>,
}

impl AcceptElement<'_> {
    /// Returns `true` if its weight is zero: the client does not accept it.
    pub fn is_refused(&self) -> bool {
        self.weight.is_some_and(|weight| weight.parse() == Ok(0.0))
    }
}

/// The elements of a header's value, without empty ones.
pub fn elements(value: &str) -> impl Iterator<Item = AcceptElement<'_>> {
    let elements = value.split(',').map(str::trim);
    elements
        .filter(|element| !element.is_empty())
        .map(|element| {
            let mut parts = element.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
            });
            AcceptElement { name, weight }
        })
}
