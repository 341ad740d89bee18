"""Line charts: where their points and ticks are."""

import re

import numpy as np
import pytest

from eln_jax.evaluation.line_charts import Line, Span, line_chart


def test_a_chart_puts_points_where_they_belong():
    line = Line("loss", "blue", np.array([0.0, 10.0]), np.array([2.0, 4.0]))
    html = line_chart("Loss", [line], x_name="step", spans=[Span("only", 0, 10)])
    (points,) = re.findall(r'<path d="M([\d. L]+)" fill="none"', html)
    (x0, y0), (x1, y1) = (map(float, point.split()) for point in points.split("L"))
    ticks = re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', html)
    heights = {float(value): float(y) - 4 for y, value in ticks}
    assert (y0, y1) == pytest.approx((heights[2.0], heights[4.0]), abs=0.11)
    assert x1 > x0
    steps = dict(re.findall(r'text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d]+)<', html))
    assert {value: float(x) for x, value in steps.items()}.items() >= {"0": x0, "10": x1}.items()


def test_values_far_apart_have_a_logarithmic_scale():
    line = Line("loss", "blue", np.arange(3.0), np.array([0.01, 0.1, 1.0]))
    html = line_chart("Loss", [line], x_name="step", log_if_wide=True)
    (points,) = re.findall(r'<path d="M([\d. L]+)" fill="none"', html)
    low, middle, high = (float(point.split()[1]) for point in points.split("L"))
    assert low - middle == pytest.approx(middle - high, abs=0.2)
