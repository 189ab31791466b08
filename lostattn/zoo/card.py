"""The model card of a tiny model, written from its evaluation and training log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lostattn.files import write_text
from lostattn.zoo.evaluate import EVALUATION
from lostattn.zoo.recipe import check_name

_ABOUT = {
    "tiny-llava": "A `LlavaForConditionalGeneration`: a CLIP tower (features of its second-to-last layer), a "
    "projector of two layers and a Llama decoder. Every picture is scaled to 48 x 48 and becomes 36 "
    "visual tokens.",
    "tiny-qwen2_5-vl": "A `Qwen2_5_VLForConditionalGeneration`: a windowed vision tower, 2 x 2 patches "
    "merged, "
    "multimodal rotary positions and grouped-query attention. Pictures keep their size; each 12 x 12 "
    "pixels become "
    "one visual token.",
}


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of the training log; the first holds the course."""
    text = (Path(folder) / "train_log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def model_card(name: str, folder: str | Path) -> str:
    """The text of the card, every number of it from the files in the folder."""
    folder = Path(folder)
    results = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    settings, *log = read_log(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, vision = config["text_config"], config["vision_config"]
    depth = vision.get("depth", vision.get("num_hidden_layers"))
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\nlicense: mit\ntags: "
        "[interpretability]\n---",
        f"# {name}",
        _ABOUT[check_name(name)] + f" {text['num_hidden_layers']} decoder layers of width {text['hidden_size']} with "
        f"{text['num_attention_heads']} heads ({text['num_key_value_heads']} for keys and values), "
        f"{depth} vision "
        f"layers of width {vision['hidden_size']}, {text['vocab_size']} tokens; "
        f"{_parameters(folder) / 1e6:.2f} million parameters in float32.",
        "It answers questions about `shapes`, pictures of two to four coloured shapes on a 3 x 3 grid, "
        "drawn by "
        "`lostattn.data`, and knows nothing else. It is meant as a subject for experiments on attention: "
        "small enough "
        "for a laptop, and truly trained.",
        "## Accuracy",
        "Greedy generation through the real processor and chat template; an answer is right when it is the right "
        "word and nothing else. The scenes of the test split are held out: none was trained on.",
        _table(results),
        "## Training",
        f"From random weights by `lostattn train-tiny {name} --seed {settings['seed']}`: "
        f"{log[-1]['questions']:,} questions about scenes of the training split, "
        f"in {log[-1]['seconds'] / 60:.0f} minutes on one shared processor core. "
        "The loss is that on the answer's token, with a little on stopping after it and a "
        "fading one on what stands at each visual token's place, by a linear head that is thrown away. The questions "
        "about one scene share a sequence but do not see each other (`lostattn.zoo.packing`). "
        "The parts of the course (`lostattn.zoo.course`):",
        _course(settings["parts"], log),
        "Lessons on the row and column of an object and on finding a word among options (`lostattn.zoo.lessons`) are "
        "part of the training and of no test. The whole log is `train_log.jsonl`.",
    ]
    return "\n\n".join(parts) + "\n"


def write_card(name: str, folder: str | Path) -> Path:
    """Write the card as the folder's `README.md`, whole or not at all."""
    return write_text(Path(folder) / "README.md", model_card(name, folder))


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as f:
        count = 0
        for key in f.keys():  # noqa: SIM118  (no mapping)
            size = 1
            for edge in f.get_slice(key).get_shape():
                size *= edge
            count += size
    return count


def _course(parts: list[dict[str, Any]], log: list[dict[str, Any]]) -> str:
    lines = ["| part | steps | scenes a step | questions a scene | optimiser and settings | validation at the end |"]
    lines.append("|---|---|---|---|---|---|")
    for number, part in enumerate(parts, start=1):
        mine = [entry for entry in log if entry["part"] == number]
        optimiser = f"AdamW at {part['lr']:g}"
        if part["muon_lr"]:
            optimiser = f"Muon at {part['muon_lr']:g} inside the layers, {optimiser} elsewhere"
        if part["rotary"]:
            axes = ", ".join(str(n) for n in part["rotary"]["mrope_section"])
            optimiser += f"; rotary base {part['rotary']['rope_theta']:g}, sections {axes}"
        steps = f"{part['stop']} of a schedule of {part['steps']}" if part["stop"] else f"{part['steps']}"
        mix = ", ".join(f"{n} {kind}" for kind, n in part["mix"].items())
        end = f"{100 * mine[-1]['val']['all']:.1f} %"
        lines.append(f"| {number} | {steps} | {part['scenes']} | {mix} | {optimiser} | {end} |")
    return "\n".join(lines)


def _table(results: list[dict[str, Any]]) -> str:
    heads = [f"{r['data']}, seed {r['seed']} ({r['n']} questions)" for r in results]
    lines = ["| kind | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for kind in results[0]["accuracy"]:
        cells = [f"{100 * r['accuracy'][kind]['accuracy']:.1f} %" for r in results]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
