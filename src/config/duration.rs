//! Durations as people write them.

use std::time::Duration;

/// Reads `90s`, `15m`, `1h` or `2d`; `None` for anything else, and for nothing at all.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
    let total = number.checked_mul(seconds).filter(|total| (1..=u64::from(u32::MAX)).contains(total))?;
    Some(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        assert_eq!(parse_duration("15m"), Some(Duration::from_mins(15)));
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("2d"), Some(Duration::from_hours(48)));
        for text in ["", "15", "m", "1.5h", "-1s", "0s", "15 m", "99999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
