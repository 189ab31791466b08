"""Write into docs/weights.md how far off quantised and adapted models are: ``python tests/weights``.

Needs the libraries that `make test-weights` installs, and sees them in this process alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER, PAGE = ROOT / ".weights", ROOT / "docs" / "weights.md"
if not FOLDER.is_dir():
    sys.exit("the libraries are not here; `make test-weights` installs them.")
# What packages there are is looked up when transformers is first imported, so the folder comes before anything else.
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
sys.path.append(str(FOLDER))

import brought  # noqa: E402
from weight_reference import ADAPTERS, Pair, gap, noise_pairs, pairs, wrapped  # noqa: E402

import lostattn as la  # noqa: E402

NAME = "tiny-llava"
BEGIN, END = "<!-- errors -->\n", "<!-- end of errors -->"
COLUMNS = ("heads", "sums of heads", "unembedding", "logit_attrs", "image_attribution", "NoiseWeights")


def largest(found: Iterable[Pair]) -> dict[str, float]:
    """The largest relative error under each heading."""
    errors: dict[str, float] = {}
    for of, value, expected in found:
        errors[of] = max(errors.get(of, 0.0), gap(value, expected))
    return errors


def rows() -> Iterator[tuple[str, dict[str, float]]]:
    """What was tried, and its errors."""
    for how, config in brought.QUANTISED.items():
        model = la.load(NAME, quantization_config=config())
        weights = brought.written_out(brought.quantised(NAME, how))
        noise = noise_pairs(model, wrapped(NAME, weights, proved=False), how in brought.ROUNDS)
        yield how, largest((*pairs(model, weights), *noise))
    for kind, config in ADAPTERS.items():
        adapted, again = (brought.adapted(brought.plain(NAME), config()) for _ in range(2))
        model, merged = wrapped(NAME, adapted), again.merge_and_unload()
        yield f"adapter: {kind}", largest((*pairs(model, merged), *noise_pairs(model, wrapped(NAME, merged, False))))


def table() -> Iterator[str]:
    """The lines of the table, as they are found."""
    yield f"| | {' | '.join(COLUMNS)} |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for what, errors in rows():
        yield f"| {what} | {' | '.join(f'{errors[column]:.1e}' for column in COLUMNS)} |"


def main() -> None:
    """Measure, print, and write the page."""
    lines = []
    for line in table():
        print(line, flush=True)
        lines.append(line)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after, encoding="utf-8")


main()
