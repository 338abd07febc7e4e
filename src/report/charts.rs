//! Charts as SVG: points, lines and bars over time, and bars by class. Each has a title and a sentence for who can't see it;
//! what tells series apart is also their shape and their name.

use std::fmt::Write;

use super::escape::html;
use crate::model::Timestamp;

/// The drawing's size in its own units; on the page it is as wide as its card.
const WIDTH: f64 = 460.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 20.0;

/// More marks than this are drawn as one shape without a word on each: the tables have them.
const MARKS: usize = 400;

/// A value at a time, and what is said of it.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) at: Timestamp,
    pub(super) value: f64,
    pub(super) said: String,
}

/// How points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A mark each, of the shape that belongs to the class.
    Marks,
    /// A line through them.
    Line,
    /// A bar each, this many seconds wide.
    Bars(u32),
}

/// What values are, which decides what round numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Seconds,
    Count,
}

impl Unit {
    /// A round number that is at least as large, and of which the half is round as well.
    fn at_least(self, most: f64) -> f64 {
        const SECONDS: [f64; 20] = [
            1.0, 2.0, 4.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 600.0, 1200.0, 2400.0, 3600.0, 7200.0,
            14_400.0, 28_800.0, 43_200.0, 86_400.0, 172_800.0, 345_600.0,
        ];
        const BYTES: [f64; 13] =
            [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0, 200.0, 400.0, 600.0, 800.0, 1024.0];
        if self == Self::Seconds {
            return SECONDS.into_iter().find(|step| *step >= most).unwrap_or(most);
        }
        let (base, steps): (f64, &[f64]) = match self {
            Self::Bytes => (1024.0, &BYTES),
            Self::Seconds | Self::Count => (10.0, &[1.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        };
        let mut unit = 1.0;
        while most >= unit * base {
            unit *= base;
        }
        steps.iter().map(|step| step * unit).find(|step| *step >= most).unwrap_or(unit * base)
    }
}

/// A chart over time.
pub(super) struct Chart<'a> {
    /// What it shows.
    pub(super) title: &'a str,
    /// The class that gives it its colour.
    pub(super) class: &'a str,
    /// Its height in the drawing's units.
    pub(super) height: f64,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    pub(super) form: Form,
    pub(super) points: &'a [Point],
    /// Where it would be full.
    pub(super) full: Option<f64>,
    /// What round numbers of the axis are.
    pub(super) unit: Unit,
    /// How values of the axis are written.
    pub(super) shown: &'a dyn Fn(f64) -> String,
}

impl Chart<'_> {
    /// Draws it.
    pub(super) fn draw(&self) -> String {
        let most = self.points.iter().map(|point| point.value).fold(0.0, f64::max);
        // Something that is far away would press everything else onto the ground.
        let full = self.full.filter(|full| *full <= most * 4.0);
        let top = self.unit.at_least(most.max(full.unwrap_or(0.0)).max(f64::MIN_POSITIVE));
        let mut out = self.head(most);
        self.axes(&mut out, top);
        if let Some(full) = full {
            let y = self.y(full, top);
            let _ = write!(
                out,
                "<path class=\"full\" d=\"M{LEFT} {y:.1}H{:.0}\"/><text x=\"{:.0}\" y=\"{:.1}\" \
                 text-anchor=\"end\">full at {}</text>",
                WIDTH - RIGHT,
                WIDTH - RIGHT,
                y + 12.0,
                html(&(self.shown)(full))
            );
        }
        match self.form {
            Form::Line => self.line(&mut out, top),
            Form::Marks => self.marks(&mut out, top),
            Form::Bars(seconds) => self.bars(&mut out, top, f64::from(seconds)),
        }
        out.push_str("</svg></figure>\n");
        out
    }

    fn head(&self, most: f64) -> String {
        let sentence = match self.points {
            [] => "No values.".to_owned(),
            [.., last] => format!(
                "{} values, at most {}; the last one: {}.",
                self.points.len(),
                (self.shown)(most),
                last.said
            ),
        };
        format!(
            "<figure><svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}: {}\">",
            self.height,
            html(self.title),
            html(&sentence)
        )
    }

    fn axes(&self, out: &mut String, top: f64) {
        let bottom = self.height - BOTTOM;
        for step in 0..=2 {
            let value = top * f64::from(step) / 2.0;
            let y = self.y(value, top);
            let class = if step == 0 { "axis" } else { "rule" };
            let _ = write!(
                out,
                "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{:.0}\"/><text x=\"{:.0}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                html(&(self.shown)(value))
            );
        }
        for part in 0..=3 {
            let span = (self.until - self.from).num_seconds();
            let at = self.from + chrono::TimeDelta::seconds(span * i64::from(part) / 3);
            let anchor = match part {
                0 => "start",
                3 => "end",
                _ => "middle",
            };
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{}</text>",
                self.x(at),
                bottom + 15.0,
                at.format("%-d %b")
            );
        }
    }

    fn line(&self, out: &mut String, top: f64) {
        let mut path = String::new();
        for (index, point) in self.points.iter().enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", self.x(point.at), self.y(point.value, top));
        }
        let _ = write!(out, "<path class=\"way {}\" d=\"{path}\"/>", self.class);
        if let Some(last) = self.points.last() {
            let (x, y) = (self.x(last.at), self.y(last.value, top));
            let _ = write!(
                out,
                "<path class=\"mark way {}\" d=\"{}\"/>",
                self.class,
                shape(self.class, x, y, 2.5)
            );
        }
    }

    fn marks(&self, out: &mut String, top: f64) {
        let place = |point: &Point| (self.x(point.at), self.y(point.value, top));
        if self.points.len() > MARKS {
            let mut path = String::new();
            for point in self.points {
                let (x, y) = place(point);
                path.push_str(&shape(self.class, x, y, 2.0));
            }
            let _ = write!(out, "<path class=\"mark {}\" d=\"{path}\"/>", self.class);
            return;
        }
        for point in self.points {
            let (x, y) = place(point);
            let _ = write!(
                out,
                "<path class=\"mark {}\" d=\"{}\"><title>{}</title></path>",
                self.class,
                shape(self.class, x, y, 3.2),
                html(&point.said)
            );
        }
    }

    fn bars(&self, out: &mut String, top: f64, seconds: f64) {
        let span = (self.until - self.from).num_seconds().max(1) as f64;
        let width = (seconds / span * (WIDTH - LEFT - RIGHT) * 0.92).max(0.6);
        let ground = self.height - BOTTOM;
        for point in self.points {
            let (x, y) = (self.x(point.at), self.y(point.value, top));
            let _ = write!(
                out,
                "<path class=\"bar\" d=\"M{x:.2} {ground:.1}V{y:.1}h{width:.2}V{ground:.1}z\"><title>{}</title></path>",
                html(&point.said)
            );
        }
    }

    fn x(&self, at: Timestamp) -> f64 {
        let span = (self.until - self.from).num_milliseconds().max(1) as f64;
        let part = (at - self.from).num_milliseconds() as f64 / span;
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64, top: f64) -> f64 {
        let part = if top > 0.0 { (value / top).clamp(0.0, 1.0) } else { 0.0 };
        self.height - BOTTOM - part * (self.height - BOTTOM - TOP)
    }
}

/// The shape that belongs to a class, around a point: a circle, a square, a triangle, a diamond.
fn shape(class: &str, x: f64, y: f64, r: f64) -> String {
    match class {
        "cluster" | "r2" => format!("M{:.1} {:.1}h{d:.1}v{d:.1}h-{d:.1}z", x - r, y - r, d = 2.0 * r),
        "tenant" | "b2" => {
            format!("M{x:.1} {:.1}l{:.1} {h:.1}h-{:.1}z", y - r * 1.15, r * 1.1, r * 2.2, h = r * 2.0)
        }
        "config" => {
            format!("M{x:.1} {:.1}l{s:.1} {s:.1}l-{s:.1} {s:.1}l-{s:.1} -{s:.1}z", y - r * 1.2, s = r * 1.2)
        }
        _ => format!(
            "M{:.1} {y:.1}a{r:.1} {r:.1} 0 1 0 {d:.1} 0a{r:.1} {r:.1} 0 1 0 -{d:.1} 0z",
            x - r,
            d = 2.0 * r
        ),
    }
}

/// Bars by class, a group for each: names of the groups, and for each series its class and a value per group.
pub(super) fn groups(title: &str, names: &[&str], series: &[(&str, Vec<u64>)]) -> String {
    let row = 13.0;
    let group = row * series.len() as f64 + 9.0;
    let height = group * names.len() as f64 + 4.0;
    let most = series.iter().flat_map(|(_, values)| values).copied().max().unwrap_or(0).max(1) as f64;
    let left = 84.0;
    let room = WIDTH - left - 64.0;
    let said: Vec<String> = series
        .iter()
        .map(|(name, values)| {
            let each: Vec<String> =
                names.iter().zip(values).map(|(name, value)| format!("{name} {value}")).collect();
            format!("{name}: {}", each.join(", "))
        })
        .collect();
    let mut out = format!(
        "<figure><svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}. {}\">",
        html(title),
        html(&said.join("; "))
    );
    for (index, name) in names.iter().enumerate() {
        let top = index as f64 * group + 4.0;
        let middle = top + (group - 9.0) / 2.0 + 4.0;
        let _ = write!(
            out,
            "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            html(name)
        );
        for (place, (class, values)) in series.iter().enumerate() {
            let value = values.get(index).copied().unwrap_or(0);
            let width = (value as f64 / most * room).max(if value > 0 { 1.0 } else { 0.0 });
            let y = top + place as f64 * row;
            let _ = write!(
                out,
                "<path class=\"bar {class}\" d=\"M{left} {y:.1}h{width:.1}v10h-{width:.1}z\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{class} {value}</text>",
                left + width + 5.0,
                y + 9.5
            );
        }
    }
    out.push_str("</svg></figure>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let end = |unit: Unit, most: f64| unit.at_least(most).to_string();
        assert_eq!(end(Unit::Bytes, 3.0 * 1024.0 * 1024.0), "4194304");
        assert_eq!(end(Unit::Bytes, 900.0), "1024");
        assert_eq!(
            (end(Unit::Seconds, 2900.0), end(Unit::Seconds, 1e9)),
            ("3600".into(), "1000000000".into())
        );
        assert_eq!((end(Unit::Count, 13.0), end(Unit::Count, 0.5)), ("20".into(), "1".into()));
    }
}
