//! Sizes as people write them.

/// Reads a number of bytes: a whole number, followed by `K`, `M`, `G` or `T` (powers of 1024; `KB` and `KiB`
/// mean the same, in either case). `None` when it is none, or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit = text[end..].trim_start().to_ascii_uppercase();
    let power = match unit.as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 1,
        "M" | "MB" | "MIB" => 2,
        "G" | "GB" | "GIB" => 3,
        "T" | "TB" | "TIB" => 4,
        _ => return None,
    };
    number.checked_mul(1024_u64.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        assert_eq!(parse_size("0"), Some(0));
        assert_eq!(parse_size("1048576"), Some(1 << 20));
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size(" 512 mib "), Some(512 << 20));
        assert_eq!(parse_size("3TB"), Some(3 << 40));
        for text in ["", "G", "-1G", "1.5G", "2X", "99999999999T", "2G1"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
