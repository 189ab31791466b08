"""What travels to a server: plain functions of tensors, and the errors that they promise."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import bounds
import metric_definitions as definitions
import pytest
import torch

from lostattn.kernels import metrics as _kernels

TREE = ast.parse(inspect.getsource(_kernels))


def test_imports_are_at_the_top_and_few() -> None:
    modules = set()
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            modules |= {name.name.split(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").split(".")[0])
    assert modules <= {"__future__", "math", "torch", "einops"}
    inside = [n for f in TREE.body if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
    assert not [n for n in inside if isinstance(n, ast.Import | ast.ImportFrom)]


def test_functions_are_plain() -> None:
    kinds = (ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    assert all(isinstance(node, kinds) for node in TREE.body)
    for function in (node for node in TREE.body if isinstance(node, ast.FunctionDef)):
        assert not function.decorator_list, function.name
        below = list(ast.walk(function))[1:]
        forbidden = (
            ast.FunctionDef,
            ast.Lambda,
            ast.ClassDef,
            ast.AnnAssign,
            ast.Raise,
            ast.Nonlocal,
            ast.Global,
        )
        assert not [n for n in below if isinstance(n, forbidden)], function.name


def test_they_run_from_source_without_this_package() -> None:
    script = inspect.getsource(_kernels) + (
        "\nimport sys\n"
        "states = [torch.eye(3, 5) * (i + 1) + i * torch.ones(3, 5) for i in range(3)]\n"
        "found = stream_metrics(states, None, None, False, 1.0, False, False)\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('lostattn', 'jaxtyping', 'beartype')]\n"
        "print(found['rid'].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/")
    states = [torch.eye(3, 5) * (i + 1) + i * torch.ones(3, 5) for i in range(3)]
    found = _kernels.stream_metrics(states, None, None, False, 1.0, False, False)
    assert ast.literal_eval(done.stdout) == pytest.approx(found["rid"].tolist(), rel=bounds.SPECTRAL)


@pytest.mark.parametrize("far", [17, _kernels.PART, 2 * _kernels.PART + 3])
@pytest.mark.parametrize("n", [3, 127, 128, 131])
def test_gram(n: int, far: int) -> None:
    """In parts and blocks as in one go; of either side, and with padding of any content."""
    x = definitions.random(2, n, far).double()
    share = bounds.sums(max(n, far), torch.float64)  # of the largest: the sum of a row's squares
    bounds.close(_kernels.gram(x, None, True), x @ x.mT, share)
    bounds.close(_kernels.gram(x[0].mT, None, False), x[0] @ x[0].mT, share)
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[0, 0] = False
    holes = x.clone()
    holes[0, 0] = float("nan")
    x[0, 0] = 0.0
    bounds.close(_kernels.gram(holes, mask, True), x @ x.mT, share)
    bounds.close(_kernels.gram(holes[0], mask[0], False), x[0].mT @ x[0], share)


@pytest.mark.parametrize("shape", [(2, 41, 2 * _kernels.PART + 3), (2, 2 * _kernels.PART + 3, 41)])
def test_the_change_of_an_update_is_gathered_part_by_part(shape: tuple[int, int, int]) -> None:
    x, y = definitions.random(*shape, seed=1), definitions.random(*shape, seed=2)
    mask = torch.ones(shape[:2], dtype=torch.bool)
    mask[1, :2] = False
    holes = x.clone()
    holes[1, :2] = float("nan")
    cross, size2 = _kernels.change(holes, y, mask)
    rows, delta = (torch.where(mask.unsqueeze(-1), state.double(), 0) for state in (x, y.double() - x.double()))
    wanted = delta @ rows.mT if shape[1] < shape[2] else delta.mT @ rows
    size = delta.abs() @ rows.abs().mT if shape[1] < shape[2] else delta.abs().mT @ rows.abs()
    bounds.close(cross, wanted, bounds.sums(max(shape), torch.float64), size=size)
    bounds.close(size2, delta.square().sum((-2, -1)), bounds.sums(delta[0].numel(), torch.float64))


@pytest.mark.parametrize("decades", [1, 3, 5, 7])
def test_the_error_estimates_hold(decades: int) -> None:
    # Against an SVD of the same matrix: no singular value and no effective rank is further off than promised.
    sigma = torch.logspace(0, -decades, 67, dtype=torch.float64)
    for seed in range(5):
        x = definitions.with_spectrum(67, 101, sigma, seed=seed)
        exact = torch.linalg.svdvals(x)
        rough = torch.linalg.eigvalsh(_kernels.gram(x, None, True)).flip(-1).clamp_min(0).sqrt()
        promised = _kernels.sigma_error(rough)
        assert bool(((rough - exact).abs() <= promised).all())
        found = float(_kernels.effective_rank(rough))
        wanted = definitions.effective_rank(x)
        assert abs(found - wanted) / wanted <= float(_kernels.rank_error(rough, promised))


@pytest.mark.parametrize("decades", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rank", [53, 31])
def test_the_error_estimates_of_residuals_hold(decades: int, rank: int) -> None:
    sigma = torch.logspace(0, -decades, 53, dtype=torch.float64)
    cut = float(sigma[rank - 1] * 0.9) if rank == 53 else float((sigma[rank] * sigma[rank - 1]) ** 0.5)
    for seed in range(5):
        x = definitions.with_spectrum(53, 83, sigma, seed=seed)
        y = x + 0.01 * definitions.random(53, 83, seed=seed).double()
        before, after = _kernels.decompose(x, None, cut), _kernels.decompose(y, None, cut)
        assert int(before["rank"]) == rank
        near2, far2, (near_error, far_error) = _kernels.residuals(before, _kernels.support(before), after)
        column, row = definitions.innovations(x, y, cut)
        size = float(y.norm()) ** 2
        rounding = bounds.spectra(53)  # the definition's own, which has a whole decomposition behind it
        assert abs(float(near2) - column**2 * size) <= float(near_error) + rounding * size
        assert abs(float(far2) - row**2 * size) <= float(far_error) + rounding * size
        assert float(far_error) < 1e-4 * float(far2)


@pytest.mark.parametrize("shape", [(19, 31), (31, 19)])
def test_the_svd_gives_what_the_fast_path_gives(shape: tuple[int, int]) -> None:
    for seed, tol in ((1, 1e-6), (2, 0.3)):
        x, y = definitions.random(*shape, seed=seed).double(), definitions.random(*shape, seed=9).double()
        before, after = _kernels.decompose(x, None, tol), _kernels.decompose(y, None, tol)
        near2, far2, _ = _kernels.residuals(before, _kernels.support(before), after)
        zero, chosen = torch.zeros_like(near2), torch.ones_like(near2, dtype=torch.bool)
        near, far = _kernels.project_by_svd(before, after, zero, zero, chosen)
        rounding = bounds.spectra(31) * float(y.norm())
        assert float(near) == pytest.approx(float(near2) ** 0.5, rel=bounds.SPECTRAL, abs=rounding)
        assert float(far) == pytest.approx(float(far2) ** 0.5, rel=bounds.SPECTRAL)
