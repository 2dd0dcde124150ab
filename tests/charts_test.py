"""Tests of charts.py."""

import pytest

from reports import charts


def draw(points, **options):
  return charts.line_chart("t", "step", [charts.Curve("a", points)], **options)


def place_points(chart, number=0):
  path = chart["curves"][number]["path"]
  return [tuple(map(float, pair.split(","))) for pair in path.split()]


def test_points_lie_between_the_ends_of_the_axes():
  chart = draw([(0, 2.0), (5, 4.0), (10, 3.0)])
  left, right = chart["left"], chart["right"]
  top, bottom = chart["top"], chart["bottom"]
  assert place_points(chart) == [
    (left, bottom),
    ((left + right) / 2, top),
    (right, (top + bottom) / 2),
  ]
  assert draw([(0, 2.0), (1, 4.0)], from_zero=True)["y_ticks"][0] == {
    "place": bottom,
    "label": "0",
  }


def test_ticks_are_round_numbers():
  chart = draw([(0, 0.13), (343, 0.97)])
  assert [tick["label"] for tick in chart["x_ticks"]] == [
    *("0", "100", "200", "300")
  ]
  assert [tick["label"] for tick in chart["y_ticks"]] == [
    *("0.2", "0.4", "0.6", "0.8")
  ]


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-9, 1e30])
def test_a_single_point_and_a_level_curve_can_be_drawn(value):
  chart = draw([(1, value)])
  assert len(chart["curves"][0]["dots"]) == 1 and chart["y_ticks"]
  level = draw([(1, value), (2, value)])
  assert place_points(level)[0][1] == place_points(level)[1][1]


def test_a_long_curve_is_thinned_out_between_its_ends():
  chart = draw([(step, float(step)) for step in range(100_000)])
  points = chart["hover"][0]["points"]
  assert len(points) == 300
  assert points[0][1:] == ["0", "0"] and points[-1][1:] == ["99999", "99999"]


def test_a_curve_keeps_its_color_where_others_have_no_points():
  curves = [charts.Curve("a", []), charts.Curve("b", [(1, 2.0)])]
  chart = charts.line_chart("t", "step", curves)
  assert [curve["color"] for curve in chart["curves"]] == ["c1"]
  assert charts.line_chart("t", "step", curves[:1]) is None


def test_cells_get_a_color_from_0_to_1():
  cells = [charts.Cell("x", value) for value in (-1.0, 0.5, 7.0)]
  table = charts.heat_map("c", "k", ["1", "2", "3"], [("row", cells)])
  percents = [cell["percent"] for cell in table["rows"][0]["cells"]]
  assert percents == [0, 30, 60]


def test_numbers_have_four_digits():
  shown = map(charts.format_number, (3.0, 0.123456, 123456.7, float("nan")))
  assert list(shown) == ["3", "0.1235", "1.235e+05", "nan"]
