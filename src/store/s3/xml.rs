//! S3's documents as trees. Half a document, or another one than was expected, is an error: an empty page of a proxy
//! must never read as an empty list.

use quick_xml::events::Event;
use quick_xml::{Reader, escape};

/// Levels of elements; S3's documents have four.
const DEPTH: usize = 16;

/// An element: its text or its children.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a document whose root has this name.
    pub(super) fn parse(bytes: &[u8], root: &str) -> Result<Self, String> {
        let element = Self::parse_any(bytes)?;
        if element.name == root {
            Ok(element)
        } else {
            Err(format!("the answer is a <{}>, not a <{root}>", element.name))
        }
    }

    /// Reads a document.
    pub(super) fn parse_any(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the answer is no text".to_owned())?;
        let mut reader = Reader::from_str(text);
        // The outermost collects the root.
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().map_err(|error| format!("the answer is no XML: {error}"))? {
                Event::Start(tag) => open.push(Self::named(tag.local_name().as_ref())),
                Event::Empty(tag) => close(&mut open, Self::named(tag.local_name().as_ref())),
                Event::End(_) => {
                    // The reader has checked that it ends what was begun.
                    if let Some(element) = open.pop() {
                        close(&mut open, element);
                    }
                }
                Event::Text(piece) => append(&mut open, &piece.decode().map_err(|error| error.to_string())?),
                Event::CData(piece) => append(&mut open, &piece.decode().map_err(|error| error.to_string())?),
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|error| error.to_string())?;
                    match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                        Some(letter) => append(&mut open, letter.encode_utf8(&mut [0; 4])),
                        None => append(
                            &mut open,
                            escape::resolve_predefined_entity(&name)
                                .ok_or_else(|| format!("the answer holds the unknown entity {name}"))?,
                        ),
                    }
                }
                Event::Eof => break,
                _ => {}
            }
            if open.len() > DEPTH {
                return Err("the answer is nested too deep".to_owned());
            }
        }
        match <[Self; 1]>::try_from(open) {
            Ok([mut document]) if document.children.len() == 1 => Ok(document.children.remove(0)),
            Ok(_) => Err("the answer is empty".to_owned()),
            Err(_) => Err("the answer is cut off".to_owned()),
        }
    }

    fn named(name: &[u8]) -> Self {
        Self { name: String::from_utf8_lossy(name).into_owned(), ..Self::default() }
    }

    /// The root's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The children.
    pub(super) fn children(&self) -> &[Self] {
        &self.children
    }

    /// The text of the first child of this name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| child.text.as_str())
    }

    /// The text of a child that must be there.
    pub(super) fn need(&self, name: &str) -> Result<&str, String> {
        self.text(name).ok_or_else(|| format!("the answer lacks <{name}>"))
    }

    /// The truth value of a child that must be there.
    pub(super) fn need_bool(&self, name: &str) -> Result<bool, String> {
        match self.need(name)?.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("the answer's <{name}> is {other:?}")),
        }
    }
}

fn close(open: &mut [Element], element: Element) {
    if let Some(parent) = open.last_mut() {
        parent.children.push(element);
    }
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// Text as it may stand in an element.
pub(super) fn escaped(text: &str) -> String {
    escape::escape(text).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_is_read_with_its_entities_and_its_name_space() {
        let text = "<?xml version=\"1.0\"?>\n<List xmlns=\"http://s3/\">\n <Key>a &amp;&#x20;b</Key><Empty/>\n</List>\n";
        let list = Element::parse(text.as_bytes(), "List").unwrap();
        assert_eq!(list.text("Key"), Some("a & b"));
        assert_eq!(list.text("Empty"), Some(""));
        assert_eq!(list.need("Other").unwrap_err(), "the answer lacks <Other>");
    }

    #[test]
    fn no_beginning_of_a_document_passes_for_the_whole() {
        let text = "<List><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></List>";
        for end in 0..text.len() {
            assert!(Element::parse(&text.as_bytes()[..end], "List").is_err(), "{}", &text[..end]);
        }
        assert!(Element::parse(text.as_bytes(), "List").is_ok());
    }

    #[test]
    fn another_document_is_not_the_one_expected() {
        let error = Element::parse(b"<html><body>Welcome</body></html>", "ListBucketResult").unwrap_err();
        assert_eq!(error, "the answer is a <html>, not a <ListBucketResult>");
    }
}
