"""Lays out charts and heat maps, which the templates draw as SVG and tables."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

Point = tuple[float, float]

# The picture in the units of its SVG, which a browser scales.
_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 468, 8, 210
_NUM_TICKS = 5
_NUM_COLORS = 8
# More points than this cannot be told apart.
_MOST_POINTS = 300
# Color of the fullest cell, in percent; text stays readable on it.
_FULLEST_CELL = 60


class Curve(NamedTuple):
  """Points of a chart.

  Attributes:
    name: Name in the legend.
    points: (x, y) pairs.
    is_line: Whether to connect the points.
    has_dots: Whether to draw each point.
  """

  name: str
  points: Sequence[Point]
  is_line: bool = True
  has_dots: bool = False


class Cell(NamedTuple):
  """A cell of a heat map.

  Attributes:
    text: Its text.
    value: Its color, from 0 to 1.
    facets: The filters that a click sets; None if it sets none.
    link: Address that it leads to, or None.
  """

  text: str
  value: float
  facets: dict[str, str] | None = None
  link: str | None = None


class _Axis(NamedTuple):
  """Maps values to places in the picture."""

  low: float
  high: float
  begin: float
  end: float

  def place(self, value: float) -> float:
    share = (value - self.low) / (self.high - self.low)
    return round(self.begin + share * (self.end - self.begin), 1)


def format_number(value: float) -> str:
  """Returns a number for readers, with four significant digits."""
  if math.isfinite(value) and float(value).is_integer() and abs(value) < 1e9:
    return f"{value:.0f}"
  return f"{value:.4g}"


def line_chart(
  title: str, x_label: str, curves: Sequence[Curve], from_zero: bool = False
) -> dict[str, Any] | None:
  """Returns a chart for the macro `line_chart`, or None without any point.

  Args:
    title: Title of the chart.
    x_label: Name of the horizontal axis.
    curves: Its curves. Long ones are thinned out.
    from_zero: Whether the vertical axis begins at 0.
  """
  colors = {curve.name: i % _NUM_COLORS for i, curve in enumerate(curves)}
  curves = [_thin_out(curve) for curve in curves if curve.points]
  if not curves:
    return None
  points = [point for curve in curves for point in curve.points]
  xs, ys = zip(*points)
  x_axis = _Axis(*_widen(min(xs), max(xs)), _LEFT, _RIGHT)
  lowest = min(0.0, *ys) if from_zero else min(ys)
  y_axis = _Axis(*_widen(lowest, max(ys)), _BOTTOM, _TOP)
  drawn, hover = [], []
  for curve in curves:
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in curve.points]
    drawn.append(
      {
        "name": curve.name,
        "color": f"c{colors[curve.name]}",
        "is_line": curve.is_line,
        "path": " ".join(f"{x},{y}" for x, y in places),
        "dots": places if curve.has_dots or len(places) == 1 else [],
      }
    )
    values = [
      [place[0], format_number(x), format_number(y)]
      for place, (x, y) in zip(places, curve.points)
    ]
    hover.append({"name": curve.name, "points": values})
  return {
    "title": title,
    "description": _describe(title, curves),
    "x_label": x_label,
    "width": _WIDTH,
    "height": _HEIGHT,
    "left": _LEFT,
    "right": _RIGHT,
    "top": _TOP,
    "bottom": _BOTTOM,
    "x_ticks": _make_ticks(x_axis),
    "y_ticks": _make_ticks(y_axis),
    "curves": drawn,
    "hover": hover,
  }


def _describe(title: str, curves: Sequence[Curve]) -> str:
  """Returns the description of a chart for those who cannot see it."""
  parts = []
  for curve in curves:
    first, last = curve.points[0][1], curve.points[-1][1]
    parts.append(
      f"{curve.name} from {format_number(first)} to {format_number(last)}"
    )
  return f"{title}: {'; '.join(parts)}. The arrow keys show values."


def _thin_out(curve: Curve) -> Curve:
  """Returns a curve with at most `_MOST_POINTS` points, evenly chosen."""
  num_points = len(curve.points)
  if num_points <= _MOST_POINTS:
    return curve
  step = (num_points - 1) / (_MOST_POINTS - 1)
  chosen = [curve.points[round(i * step)] for i in range(_MOST_POINTS)]
  return curve._replace(points=chosen)


def _widen(low: float, high: float) -> tuple[float, float]:
  """Returns limits of an axis that are not equal."""
  if high > low:
    return low, high
  margin = abs(low) / 2 or 1.0
  return low - margin, high + margin


def _make_ticks(axis: _Axis) -> list[dict[str, Any]]:
  """Returns places and labels of round numbers on an axis."""
  rough = (axis.high - axis.low) / _NUM_TICKS
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
  first = math.ceil(axis.low / step - 1e-9)
  last = math.floor(axis.high / step + 1e-9)
  return [
    {"place": axis.place(n * step), "label": f"{n * step:.6g}"}
    for n in range(first, last + 1)
  ]


def heat_map(
  caption: str,
  corner: str,
  columns: Sequence[str],
  rows: Sequence[tuple[str, Sequence[Cell]]],
  list_id: str = "",
) -> dict[str, Any]:
  """Returns a table for the macro `heat_map`.

  Args:
    caption: Title of the table.
    corner: Names of rows and columns, in the corner.
    columns: Headings of the columns.
    rows: Name and cells of each row.
    list_id: Id of the list whose filters a click on a cell sets.
  """
  shown = []
  for name, cells in rows:
    shown.append(
      {
        "name": name,
        "cells": [
          {
            "text": cell.text,
            "percent": round(_FULLEST_CELL * min(max(cell.value, 0.0), 1.0)),
            "facets": cell.facets,
            "link": cell.link,
          }
          for cell in cells
        ],
      }
    )
  return {
    "caption": caption,
    "corner": corner,
    "columns": columns,
    "rows": shown,
    "list_id": list_id,
  }
