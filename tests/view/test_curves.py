from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lostattn.errors import InputError
from lostattn.view.curves import accuracy_bars, layer_curves
from lostattn.view.figures import PALETTE

LAYERS = 5


def curves(models=("tiny-llava",)) -> pd.DataFrame:
    rows = []
    for m, model in enumerate(models):
        for layer in range(LAYERS):
            for u, update in enumerate(("attn", "mlp", "noise_update")):
                rid = 0.1 * u + 0.01 * layer + 0.001 * m
                rows.append(
                    {
                        **{"model": model, "layer": layer, "update": update, "n": 37},
                        **{"rid": rid, "rid_low": rid - 0.02, "rid_high": rid + 0.03, "mixig": -rid},
                    }
                )
    return pd.DataFrame(rows).sample(frac=1.0, random_state=0)


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()}


def test_layer_curves_draw_a_line_for_each_update():
    figure = layer_curves(curves(), labels={"attn": "attention", "noise_update": "Noise Δ"})
    (axes,) = figure.axes
    drawn = lines(axes)
    assert set(drawn) == {"attention", "mlp", "Noise Δ"}
    np.testing.assert_allclose(drawn["mlp"], 0.1 + 0.01 * np.arange(LAYERS))
    assert axes.get_title() == "tiny-llava, n = 37"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer (0 is the first)", "RID (0 to 2)")
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(drawn)


def test_layer_curves_draw_the_band_of_the_interval():
    (axes,) = layer_curves(curves()[lambda df: df["update"] == "mlp"]).axes
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (low, high) == pytest.approx((0.1 - 0.02, 0.1 + 0.01 * (LAYERS - 1) + 0.03))
    (plain,) = layer_curves(curves(), y="mixig").axes
    assert not plain.collections


def test_layer_curves_take_the_interval_by_name():
    df = curves().rename(columns={"rid_low": "lo", "rid_high": "hi"})
    assert len(layer_curves(df, low="lo", high="hi").axes[0].collections) == 3
    assert not layer_curves(df).axes[0].collections
    assert len(layer_curves(df.rename(columns={"lo": "low", "hi": "high"})).axes[0].collections) == 3
    with pytest.raises(InputError, match=r"low='lo', high=None: an interval has two ends. Pass both"):
        layer_curves(df, low="lo")


def test_layer_curves_of_several_values_and_models():
    marks = {"rid": {"ε RoPE": {"tiny-llava": 0.062, "tiny-qwen2_5-vl": 0.04}, "half": 0.5}}
    figure = layer_curves(curves(("tiny-llava", "tiny-qwen2_5-vl")), y=["rid", "mixig"], lines=marks, title="Both")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["tiny-llava, n = 37", "tiny-qwen2_5-vl, n = 37"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["RID (0 to 2)", "", "MixIG (nats)", ""]
    upper = [lines(axes) for axes in figure.axes[:2]]
    assert [set(drawn["ε RoPE"]) for drawn in upper] == [{0.062}, {0.04}]
    assert [set(drawn["half"]) for drawn in upper] == [{0.5}, {0.5}]
    assert "half" not in lines(figure.axes[2])
    assert upper[1]["attn"][0] == pytest.approx(0.001)
    assert figure.get_suptitle() == "Both"


def test_layer_curves_leave_out_rows_of_the_whole_model():
    whole = pd.DataFrame({"layer": [None, "all"], "update": ["attn", "mlp"], "rid": [9.0, 9.0]})
    drawn = lines(layer_curves(pd.concat([curves(), whole.assign(model="tiny-llava")])).axes[0])
    assert max(values.max() for values in drawn.values()) < 1
    with pytest.raises(InputError, match=r"No row has a number in 'layer'"):
        layer_curves(whole)


def test_one_layer_still_shows_its_interval():
    (axes,) = layer_curves(curves()[lambda df: df["layer"] == 2]).axes
    assert sum(type(c).__name__ == "LineCollection" for c in axes.collections) == 3


def test_layer_curves_refuse_a_column_that_is_not_there():
    with pytest.raises(InputError, match=r"The table has no column 'tme', only "):
        layer_curves(curves(), y="tme")


def test_colours_keep_apart_for_every_kind_of_colour_vision():
    # Lightness alone already tells most of them apart; the markers do the rest.
    assert len(set(PALETTE)) == len(PALETTE) == 7


# Bars ----------------------------------------------------------------------------------------------

BARS = pd.DataFrame(
    [
        {"condition": "gaussian", "kind": "all", "n": 41, "accuracy": 0.5, "low": 0.4, "high": 0.65}
        | {"difference": -0.25, "difference_low": -0.4, "difference_high": -0.0004, "p": 0.0003},
        {"condition": "untouched", "kind": "all", "n": 41, "accuracy": 0.75, "low": 0.6, "high": 0.85}
        | {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "p": 1.0},
        {"condition": "gaussian", "kind": "counting", "n": 7, "accuracy": 0.25, "low": 0.1, "high": 0.5}
        | {"difference": 0.125, "difference_low": math.nan, "difference_high": math.nan, "p": 0.25},
        {"condition": "untouched", "kind": "counting", "n": 7, "accuracy": 0.125, "low": 0.05, "high": 0.3}
        | {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "p": 1.0},
    ]
)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def test_bars_stand_for_conditions_with_the_untouched_first():
    first, second = panels(accuracy_bars(BARS))
    assert [label.get_text() for label in first.get_yticklabels()] == ["untouched", "gaussian"]
    assert [bar.get_width() for bar in first.patches] == [75.0, 50.0]
    assert [bar.get_width() for bar in second.patches] == [12.5, 25.0]
    whiskers = [c.get_segments()[0][:, 0].tolist() for c in first.collections]
    assert whiskers == [pytest.approx([60.0, 85.0]), pytest.approx([40.0, 65.0])]
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("all, n = 41", "counting, n = 7")
    assert second.get_xlabel() == "accuracy (%)"


def test_bars_say_the_paired_difference():
    first, second = panels(accuracy_bars(BARS))
    assert [text.get_text() for text in first.texts] == ["", "−25.0 [−40.0, 0.0], p < 0.001"]
    assert [text.get_text() for text in second.texts] == ["", "+12.5, p = 0.25"]


def test_bars_of_chosen_kinds_with_chance_and_names():
    figure = accuracy_bars(BARS, kinds=["counting"], chance={"counting": 0.2}, labels={"gaussian": "Gaussian noise"})
    (axes,) = panels(figure)
    assert axes.get_title(loc="left") == "counting, n = 7 (dotted: chance, 20 %)"
    assert [set(line.get_xdata()) for line in axes.get_lines()] == [{20.0}]
    assert axes.get_yticklabels()[1].get_text() == "Gaussian noise"
    assert panels(accuracy_bars(BARS, chance=0.5))[1].get_title(loc="left").endswith("(dotted: chance, 50 %)")


def test_bars_of_several_models_stand_side_by_side():
    both = pd.concat([BARS.assign(model="tiny-llava"), BARS.assign(model="tiny-qwen2_5-vl", accuracy=1.0)])
    figure = accuracy_bars(both)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == [
        "tiny-llava, all, n = 41",
        "tiny-qwen2_5-vl, all, n = 41",
        "tiny-llava, counting, n = 7",
        "tiny-qwen2_5-vl, counting, n = 7",
    ]
    assert [bar.get_width() for bar in panels(figure)[3].patches] == [100.0, 100.0]
    assert accuracy_bars(BARS.assign(model="tiny-llava")).get_suptitle().startswith("Accuracy by condition: tiny-llava")


def test_bars_need_no_kind_and_no_difference():
    plain = BARS[BARS["kind"] == "all"][["condition", "accuracy", "low", "high"]]
    (axes,) = panels(accuracy_bars(plain))
    assert [text.get_text() for text in axes.texts] == ["", ""]


def test_bars_refuse():
    with pytest.raises(InputError, match=r"no questions of kind 'relation', only 'all', 'counting'"):
        accuracy_bars(BARS, kinds=["relation"])
    with pytest.raises(InputError, match=r"no column 'low'"):
        accuracy_bars(BARS.drop(columns="low"))
    with pytest.raises(InputError, match=r"The table has no row"):
        accuracy_bars(BARS.iloc[:0])
