"""The main job, whole: both experiments on some models, written into one folder that opens offline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lostattn.data import load as load_data
from lostattn.data.question import Questions
from lostattn.errors import InputError
from lostattn.experiments.decoupling import METRICS, decouple_questions
from lostattn.experiments.probing import attention_sources, probe_questions
from lostattn.experiments.results import Results, environment, mean_summary
from lostattn.files import Journal, writable_folder, write_folder
from lostattn.files.disk import check_room
from lostattn.files.journal import unfinished
from lostattn.interventions.attention import ReplaceAttention
from lostattn.interventions.sources import Gaussian
from lostattn.model.load import load
from lostattn.model.lvlm import LVLM
from lostattn.plan.intervention import Intervention
from lostattn.view.curves import accuracy_bars, layer_curves
from lostattn.view.heads import attention
from lostattn.view.image import attention_on_image
from lostattn.view.page import Page

if TYPE_CHECKING:
    import pandas

# The paper's Table 1, the mean over 15 models; its ε_RoPE is quoted beside every RID.
PAPER = {
    "attention": (0.06, 0.61),
    "ffn": (0.21, 0.02),
    "noise_delta": (0.61, -0.80),
    "noise_qkv": (0.44, -0.50),
    "rope": (0.062, None),
}
_REPORT = 16 << 20  # bytes of the report, its figures and tables, on the large side
NAMES = {
    "attention": "attention",
    "ffn": "FFN",
    "noise_delta": "Noise Δ",
    "noise_qkv": "Noise QKV",
    "rope": "ε RoPE",
}


def run(
    out: str | Path,
    models: Sequence[str] = ("tiny-llava", "tiny-qwen2_5-vl"),
    n: int = 200,
    seed: int = 0,
    data: str = "shapes",
    max_new_tokens: int | None = None,
    resume: bool = False,
    on_error: str = "row",
) -> Path:
    """Run both experiments and write the report.

    Args:
        out: the folder: ``report.html``, ``tables/`` (parquet, CSV and JSON), ``figures/`` (PNG and SVG), and
            ``run.json``, which seals them. It appears when all is done; what it replaces stays until then.
        models: what :func:`lostattn.load` takes.
        n: questions of the probing experiment; the decoupling one takes the first quarter of them.
        seed: of the questions and the noise.
        data: the set of questions.
        max_new_tokens: where an answer is cut off; None leaves room for each kind's longest choice and a sentence.
        resume: go on with a run that was broken off. Its rows lie beside the folder, in one whose name ends in
            ``.unfinished``, until the report is written.
        on_error: ``"row"``: a question that fails is a row that says so. ``"raise"``: it ends the run.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: before any model runs, if the folder cannot be written to or nothing is asked for.
        NoRoom: the disk is full; the message says where the folder was kept instead.
    """
    import pandas as pd

    folder = Path(out)
    writable_folder(folder if folder.exists() else folder.parent)
    if not models:
        raise InputError("models is empty; name at least one, such as 'tiny-llava'.")
    labels = distinct_names(models)
    began = time.perf_counter()
    questions = load_data(data, split="test", n=n, seed=seed)
    settings = {"models": list(models), "n": n, "seed": seed, "data": data, "max_new_tokens": max_new_tokens}
    check_room(folder, _REPORT, "the report")
    with Journal(unfinished(folder), {"experiment": "demo", **settings, "on_error": on_error}, resume) as journal:
        found = _Found()
        for k, (name, label) in enumerate(zip(models, labels, strict=True)):
            rows = journal.folder / f"{k}"
            found.add(load(name), label, questions, seed, max_new_tokens, {"on_error": on_error}, rows)
        meta = {"experiment": "demo", "seed": seed, "n": n, "data": data, "runs": found.origins}
        tables = {name: Results(pd.concat(parts, ignore_index=True), meta) for name, parts in found.tables.items()}
        page = Page("What attention and the FFN do, and whether answers need learned attention")
        page.text(_introduction(models, n, data, seed))
        _write_report(page, tables["decouple"].table, tables["decouple_released"].table, tables["probe"], found.shown)
        page.text(f"Made in {time.perf_counter() - began:.0f} seconds.")

        def fill(place: Path) -> None:
            for below in ("tables", "figures"):
                (place / below).mkdir()
            for name, table in tables.items():
                table.write(place / "tables", name)
            page.write_figures(place / "figures")
            (place / "report.html").write_text(page.to_html(), encoding="utf-8")

        write_folder(folder, fill, {**meta, "models": list(models), "environment": environment()})
        journal.remove()
    return folder / "report.html"


class _Found:
    """What was found on each model: rows of each table, where they come from, and one question to look at."""

    def __init__(self) -> None:
        self.tables: dict[str, list[pandas.DataFrame]] = {"decouple": [], "decouple_released": [], "probe": []}
        self.origins: list[dict[str, Any]] = []
        self.shown: list[tuple[str, Any, Any]] = []

    def add(
        self,
        model: LVLM,
        label: str,
        questions: Questions,
        seed: int,
        max_new_tokens: int | None,
        keep: dict[str, Any],
        rows: Path,
    ) -> None:
        """Run both experiments on a model; what their rows in ``rows`` hold already is not run again."""
        few = questions[: max(len(questions) // 4, 1)]

        def keeping(name: str) -> dict[str, Any]:
            return {**keep, "journal": rows / name, "resume": True}

        results = {}
        for name, convention in (("decouple", "paper"), ("decouple_released", "released")):
            results[name] = decouple_questions(model, few, convention=convention, seed=seed, **keeping(name))
        edits = conditions(model.cfg.n_layers, seed)
        results["probe"] = probe_questions(model, questions, edits, max_new_tokens=max_new_tokens, **keeping("probe"))
        for name, one in results.items():
            self.tables[name].append(one.table.assign(model=label))
            self.origins.append(one.meta)
        prompt = model.prompt(_one_to_show(questions))
        self.shown.append((label, prompt, model.run_with_cache(prompt)[1]))


def distinct_names(models: Sequence[str]) -> list[str]:
    """A name for each model, unlike all others, which stays so where it is part of a file's name.

    A folder is called by its last part, and by more of its path where another has the same.
    """
    paths = [Path(str(name)).expanduser() for name in models]
    parts = [path.absolute().parts if path.is_dir() else (str(name),) for path, name in zip(paths, models, strict=True)]
    found: list[str] = []
    for own in parts:
        others = [other for other in parts if other != own]
        ways = ["/".join(own[-k:]) for k in range(1, len(own) + 1)]
        clashing = {"/".join(other[-k:]) for other in others for k in range(1, len(other) + 1)}
        label = next((way for way in ways if way not in clashing), ways[-1])
        taken = {_file_name(one) for one in found}
        numbered = (label if k == 1 else f"{label} ({k})" for k in range(1, len(models) + 1))
        found.append(next(one for one in numbered if _file_name(one) not in taken))
    return found


def conditions(n_layers: int, seed: int) -> dict[str, Intervention]:
    """Every source over all layers, and Gaussian noise in the early, middle and late third of the layers."""
    found = attention_sources(seed=seed)
    edges = [round(n_layers * i / 3) for i in range(4)]
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        if first < end:
            name = f"gaussian, layers {first}-{end - 1}"
            found[name] = ReplaceAttention(Gaussian(seed=seed), layers=range(first, end))
    return found


def table_one(table: pandas.DataFrame) -> pandas.DataFrame:
    """RID and MixIG of each update over the whole model, with 95 % intervals, beside the paper's figures."""
    import pandas as pd

    rows = []
    summary = mean_summary(table, METRICS, ["model", "update"])
    for row in summary.to_dict("records"):
        rid, mixig = PAPER[row["update"]]
        rows.append(
            {
                "model": row["model"],
                "update": NAMES[row["update"]],
                "n": row["n"],
                "RID": _with_interval(row, "rid"),
                "RID, paper": rid,
                "MixIG": _with_interval(row, "mixig"),
                "MixIG, paper": mixig,
                "ΔS": _with_interval(row, "delta_s"),
                "ΔD": _with_interval(row, "delta_d"),
            }
        )
    return pd.DataFrame(rows)


def by_kind(summary: pandas.DataFrame) -> pandas.DataFrame:
    """A row a model and condition: the accuracy of each kind, and which share of its answers could not be read.

    Where every answer of a kind was read, in all conditions, its column would be zeros; ``unread`` of all kinds stays.
    """
    index = ["model", "condition"]
    accuracy = summary.pivot_table(index=index, columns="kind", values="accuracy", sort=False).drop(columns="all")
    if "unread" not in summary:
        return accuracy.reset_index()
    unread = summary.pivot_table(index=index, columns="kind", values="unread", sort=False)
    told = [kind for kind in accuracy.columns if unread[kind].any()]
    beside = unread[[*told, "all"]].rename(columns={**{kind: f"{kind}, unread" for kind in told}, "all": "unread"})
    return accuracy.join(beside).reset_index()


def found_updates(table: pandas.DataFrame) -> str:
    """What the numbers say about the paper's ordering of RIDs, for each model, in words made of the numbers."""
    lines = []
    for model, rows in table.groupby("model", sort=False):
        rid = rows.groupby("update")["rid"].mean()
        order = sorted(("attention", "ffn", "noise_qkv", "noise_delta"), key=lambda update: rid[update])
        same = order == ["attention", "ffn", "noise_qkv", "noise_delta"]
        ranked = " < ".join(f"{NAMES[update]} ({rid[update]:.3f})" for update in order)
        verdict = "the paper's order" if same else "not the paper's order (attention < FFN < Noise QKV < Noise Δ)"
        lines.append(f"- {model}: by RID, {ranked}; ε RoPE is {rid['rope']:.3f}. This is {verdict}.")
    return "\n".join(lines)


def found_answers(overall: pandas.DataFrame) -> str:
    """Which conditions cost answers and which do not, for each model, in words made of the numbers."""
    lines = []
    for model, rows in overall.groupby("model", sort=False):
        changed = rows[rows["condition"] != "untouched"]
        free = changed[changed["p"] >= 0.05]["condition"].tolist()
        worse = changed[(changed["p"] < 0.05) & (changed["difference"] < 0)]
        better = changed[(changed["p"] < 0.05) & (changed["difference"] > 0)]["condition"].tolist()
        said = [f"no difference that this many questions can show: {', '.join(free) or 'none'}"]
        said.append(f"better: {', '.join(better) or 'none'}")
        drops = [f"{c} ({100 * d:+.1f} points)" for c, d in zip(worse["condition"], worse["difference"], strict=True)]
        said.append(f"worse: {', '.join(drops) or 'none'}")
        lines.append(f"- {model}: {'; '.join(said)} (p < 0.05, paired).")
    return "\n".join(lines)


def _with_interval(row: dict[Any, Any], name: str) -> str:
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def _write_report(
    page: Page,
    paper: pandas.DataFrame,
    released: pandas.DataFrame,
    answers: Results,
    shown: list[tuple[str, Any, Any]],
) -> None:
    page.text("## Who does what\n\n" + _reading_updates())
    page.table(table_one(paper), "What each update does, mean over layers and questions (the paper's definitions)")
    page.text(found_updates(paper))
    layers = mean_summary(paper, METRICS, ["model", "layer", "update"])
    own = layers[layers["update"].isin(["attention", "ffn", "noise_delta", "noise_qkv"])]
    epsilon = {
        str(model): float(rows["rid"].mean())
        for model, rows in paper[paper["update"] == "rope"].groupby("model", sort=False)
    }
    curves = layer_curves(own, y=["rid", "mixig"], labels=NAMES, lines={"rid": {"ε RoPE": epsilon}})
    page.figure(curves, "RID and MixIG of every update, by layer, with 95 % intervals over scenes.", "updates_by_layer")
    page.table(table_one(released), "The same under the conventions of the released code")
    summary = answers.summary()
    page.text("## Do answers need learned attention?\n\n" + _reading_answers())
    columns = ["model", "condition", "n", "seeds", "accuracy", "low", "high", "unread", "difference", "p"]
    columns += [name for name in ("failed",) if summary["failed"].any()] if "failed" in summary else []
    overall = summary[summary["kind"] == "all"]
    page.table(overall[columns], "Accuracy with each source of visual attention, all kinds of question")
    page.text(found_answers(overall))
    for model, rows in summary.groupby("model", sort=False):
        page.figure(
            accuracy_bars(rows[rows["kind"] == "all"]),
            f"{model}: accuracy under each source, with 95 % intervals and the difference from the untouched run.",
            f"accuracy_{_file_name(str(model))}",
        )
    page.table(by_kind(summary), "Accuracy by kind of question, and the share of answers that could not be read")
    page.text("## One question, looked at")
    for model, prompt, cache in shown:
        layer = len([k for k in cache if k.endswith("attn.hook_pattern") and k.startswith("blocks.")]) // 2
        page.text(f"### {model}\n\nThe question: *{prompt.texts[0]}*")
        figure = attention_on_image(cache, prompt, layers=layer)
        page.figure(
            figure, f"{model}: what the last position looks at in layer {layer}.", f"overlay_{_file_name(model)}"
        )
        page.html(attention(cache, prompt, layer=layer), f"{model}: the attention heads of layer {layer}.")


def _introduction(models: Sequence[str], n: int, data: str, seed: int) -> str:
    return (
        f"Both experiments of *Large Vision-Language Models Get Lost in Attention* on {', '.join(models)}, with {n} "
        f"unseen questions of `{data}` (seed {seed}). The numbers are of these models, whatever they say; the "
        "paper's stand beside them for comparison. The tables behind this page lie in `tables/`, the figures in "
        "`figures/`, and `run.json` says what it takes to make them again."
    )


def _reading_updates() -> str:
    return (
        "RID is innovation from outside the space that a representation spans (0 to 2); MixIG is the gain in "
        "token-mixing entropy, rearrangement inside it, in nats. *Noise Δ* puts Gaussian noise of the same moments in "
        "the place of the attention update, *Noise QKV* Gaussian weights in the place of the query, key and value "
        "maps, each in one layer at a time. *ε RoPE* is how far rotary positions alone move the stream: RIDs below "
        "it say nothing. Where a prompt has fewer tokens than the stream has dimensions, the column term is exactly "
        "zero."
    )


def _reading_answers() -> str:
    return (
        "In each condition the attention weights of the last position over the image tokens are replaced in every "
        "layer and head (unless the name says otherwise), keeping their sum, at the prompt's pass and at every "
        "generated token; *released* does what the paper's public code does. Each condition answers the same questions "
        "as the untouched model. Differences are paired; intervals and p-values are clustered by scene; random "
        "sources ran under three seeds."
    )


def _one_to_show(questions: Questions) -> Any:
    """A question about one picture with a short answer that names something in it."""
    return next((q for q in questions if q.kind == "colour"), questions[0])


def _file_name(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)
