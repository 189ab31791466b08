"""A layer and a stream: the same numbers as the single metrics, each state decomposed once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import bounds
import metric_definitions as definitions
import pytest
import torch

from lostattn import metrics
from lostattn.kernels import metrics as _kernels


def stream(n: int, *shape: int) -> list[torch.Tensor]:
    states = [definitions.random(*shape)]
    for i in range(1, n):
        states.append(states[-1] + 0.4 * definitions.random(*shape, seed=i))
    return states


@pytest.mark.parametrize("shape", [(7, 13), (13, 7)])
def test_the_paper_compares_neighbours(shape: tuple[int, int]) -> None:
    states = stream(5, *shape)
    found = metrics.stream_metrics(states)
    for u in range(4):
        expected = definitions.rid(states[u], states[u + 1])
        expected["mixig"] = definitions.entropy_paper(states[u + 1]) - definitions.entropy_paper(states[u])
        for name, value in expected.items():
            assert found[name][u].item() == pytest.approx(value, rel=bounds.SPECTRAL, abs=bounds.spectra(13)), (u, name)


@pytest.mark.parametrize("shape", [(7, 13), (13, 7)])
def test_the_released_code_compares_with_the_layer_input(shape: tuple[int, int]) -> None:
    states = stream(5, *shape)
    found = metrics.stream_metrics(states, "released")
    for u, before in enumerate([0, 0, 2, 2]):
        expected = definitions.rid(states[before], states[u + 1])
        gain = definitions.entropy_released(states[u + 1]) - definitions.entropy_released(states[u])
        expected["mixig"] = gain
        for name, value in expected.items():
            assert found[name][u].item() == pytest.approx(value, rel=bounds.SPECTRAL, abs=bounds.spectra(13)), (u, name)


def test_a_layer_is_a_stream_of_three() -> None:
    pre, mid, post = stream(3, 2, 5, 11)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 0] = False
    for convention in ("paper", "released"):
        found = metrics.update_metrics(pre, mid, post, convention, 1e-3, mask, power=2)
        whole = metrics.stream_metrics([pre, mid, post], convention, 1e-3, mask, power=2)
        base = pre if convention == "released" else mid
        assert found["rid"].shape == (2, 2)
        assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in whole.items()}
        bounds.close(found["rid"][0], metrics.rid(pre, mid, tol=1e-3, mask=mask), bounds.SPECTRAL)
        bounds.close(found["rid"][1], metrics.rid(base, post, tol=1e-3, mask=mask), bounds.SPECTRAL)
        bounds.close(found["mixig"][1], metrics.mixig(mid, post, convention, mask, power=2), bounds.SPECTRAL)


@pytest.mark.parametrize(("convention", "supports"), [("paper", 4), ("released", 2)])
def test_one_decomposition_per_state(monkeypatch: pytest.MonkeyPatch, convention: str, supports: int) -> None:
    calls = {"decompose": 0, "support": 0}

    def counted(name: str):
        original = getattr(_kernels, name)

        def count(*args):
            calls[name] += 1
            return original(*args)

        return count

    for name in calls:
        monkeypatch.setattr(_kernels, name, counted(name))
    metrics.stream_metrics(stream(5, 3, 7), convention)
    assert calls == {"decompose": 5, "support": supports}


@pytest.mark.parametrize("convention", ["paper", "released"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_states_side_by_side_give_what_they_give_in_turn(convention: str, threads: int) -> None:
    """However many are under way at once; and torch keeps its threads."""
    states = [definitions.random(2, 131, 140, seed=i) for i in range(7)]
    own = torch.get_num_threads()
    released = convention == "released"
    settings = (8.0, True, True) if released else (1.0, False, False)
    one_by_one = _kernels.stream_metrics(states, None, None, released, *settings)
    try:
        torch.set_num_threads(threads)
        found = metrics.stream_metrics(states, convention)
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(own)
    assert found["rid"].shape == (len(states) - 1, 2)
    for name, values in one_by_one.items():
        bounds.close(found[name], values, bounds.SPECTRAL)
