"""Hook points in nnsight: for every name, where it is read, where it is written, and in which order.

A model's hook points lie in :class:`Slot` s, the places at which the forward pass is met, listed in forward
order. Several points may share a slot (q, k, scores and pattern all live at the attention boundary). Some
points are not values of the forward pass but follow from ones that are (the pattern from q and k, a head's
result from z); they are *derived*, and are made when they are looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from lostattn.architecture.structure import Architecture, Attention, Block, Stack, Update, Vision
from lostattn.errors import InputError, UnknownName, nearest
from lostattn.kernels.program import View
from lostattn.points.names import ATTENTION, BLOCK_HOOKS, ONE_OF_SEVERAL_READERS, canonical, split_block

NamesFilter = str | Iterable[str] | Callable[[str], bool] | None


_NO_CALL = "the layer does not call transformers' attention interface"
_NO_MAPS = "the FFN was looked into for two linear maps, or three if gated, and has others (experts)"
_NO_CROSS = "the layer has no cross-attention beside self-attention (where it has that alone, its points are of `attn`)"
LOOKED_FOR = {
    **dict.fromkeys(("attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_attn_scores", "attn.hook_pattern"), _NO_CALL),
    **{f"attn.hook_{p}": f"looked for {p}_proj, {w} or a fused projection of q, k and v, one row for each head's unit"
       for p, w in (("q", "query"), ("k", "key"), ("v", "value"))},
    **dict.fromkeys(("attn.hook_z", "attn.hook_result"), "looked for a linear map after the attention operation"),
    **dict.fromkeys(("hook_cross_attn_out", "hook_resid_mid_cross"), _NO_CROSS),
    **{f"cross_attn.hook_{p}": _NO_CROSS for p in ATTENTION},
    **dict.fromkeys(("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"), _NO_MAPS),
    "hook_between": "nothing is added between this layer and what comes after it",
    "hook_resid_mid": "no sum was found between attention and FFN (parallel blocks, or one of the two alone)",
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """One place of the forward pass: a module's input or output, or a call of the attention interface."""

    kind: str  # "tensor" | "attention" | "windows" (attention called once per window)
    path: str
    port: str = "output"
    once: bool = False  # at prefill only
    views: Mapping[str, View] = field(default_factory=dict)  # hook name -> how it looks at the value
    out: str = ""  # windows: where edited rows are written
    stream: str = ""  # the point of the stream that this update is added to make: where an edit of it is written
    added_to: str = ""  # the point that holds the stream before that
    factor: float = 1.0  # what the update is multiplied by when it is added
    elsewhere: bool = False  # its positions are those of another sequence: keys and values of cross-attention
    behind: str = ""  # the block whose resid_mid is edited here, behind a gate; its output gets the same difference

    @property
    def served(self) -> str:
        """The path under which nnsight serves the module."""
        return served_path(self.path)


def served_path(path: str) -> str:
    """A module's path in nnsight, where a child called ``output`` makes way for the value of that name."""
    return ".".join(f"E_{part}" if part in ("input", "inputs", "output") else part for part in path.split("."))


@dataclass(frozen=True)
class Derived:
    """A point made from others: ``kind`` says how, ``needs`` from which, ``path`` with which module's weights."""

    kind: str
    needs: tuple[str, ...]
    path: str = ""


class Sites:
    """Every hook point of one model."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.logit_path = architecture.logit_path
        self.absent: dict[str, str] = {}  # points that were taken away, and why
        self.no_maps: dict[str, str] = {}  # paths of layers that are no linear maps, and what showed it
        slots: list[Slot] = []
        self.derived: dict[str, Derived] = {}
        vision = _vision_slots(architecture.vision, self.derived) if architecture.vision else []
        embed = [Slot("tensor", architecture.embed, views={"hook_embed": ("plain",)})]
        early = architecture.vision is not None and architecture.vision.before_embed
        slots += [*vision, *embed] if early else [*embed, *vision]
        for i, block in enumerate(architecture.stack.blocks):
            slots += _ahead_slots(f"{architecture.stack.prefix}.{i}", block, self.derived)
            slots += _after(i - 1, architecture, _block_slots(architecture.stack, i, block, False, self.derived))
        if architecture.final_norm is not None:
            last = [
                Slot("tensor", architecture.final_norm, "input", views={"ln_final.hook_in": ("plain",)}),
                Slot("tensor", architecture.final_norm, views={"ln_final.hook_out": ("plain",)}),
            ]
            slots += _after(len(architecture.stack.blocks) - 1, architecture, last)
            _derive_norm(self.derived, "ln_final", "ln_final.hook_in", architecture.final_norm)
        slots.append(Slot("tensor", architecture.unembed, views={"hook_unembed": ("plain",)}))
        self._derivable = self.derived
        self._take(slots)

    def _take(self, slots: Iterable[Slot]) -> None:
        slots = list(slots)
        known = {name for slot in slots for name in slot.views}
        self.slots: tuple[Slot, ...] = tuple(_viewing(slot, known) for slot in slots)
        self.at: dict[str, int] = {name: i for i, slot in enumerate(self.slots) for name in slot.views}
        self.derived = {
            name: how
            for name, how in self._derivable.items()
            if all(n in self.at for n in how.needs) and how.path not in self.no_maps
        }
        self.names: tuple[str, ...] = _ordered(self.at, self.derived)

    def settled(
        self, keep: Callable[[Slot], str], when: Callable[[Slot], float], without: Mapping[str, str] | None = None
    ) -> Sites:
        """These points as a pass has shown them.

        Args:
            keep: why a slot cannot be used, or ``""``.
            when: the time of a slot in the pass; the slots come in that order.
            without: points that cannot be used although their slots can, and why.
        """
        without = without or {}
        settled = Sites(self.architecture)
        settled.absent = {**self.absent, **without}
        settled.logit_path = self.logit_path
        settled.no_maps = self.no_maps
        kept = []
        for slot in self.slots:
            reason = keep(slot)
            if reason:
                settled.absent.update(dict.fromkeys(slot.views, reason))
            else:
                kept.append(replace(slot, views={n: view for n, view in slot.views.items() if n not in without}))
        settled._take(sorted(kept, key=when))
        return settled

    def without_maps(self, reasons: Mapping[str, str]) -> Sites:
        """These points without those that are made by the weights of layers which are no linear maps.

        ``reasons`` says what showed it, by the path of the layer.
        """
        other = copy.copy(self)
        other.no_maps = dict(reasons)
        other._take(self.slots)
        return other

    def find(self, name: str) -> str:
        """The canonical key of a hook name, alias or shorthand.

        Raises:
            UnknownName: nothing answers to it; the message holds the nearest names.
        """
        vision = self.architecture.vision
        stack = self.architecture.stack
        key = canonical(
            name,
            len(stack.blocks),
            len(vision.stack.blocks) if vision else 0,
            vision.stack.prefix if vision else "vision_encoder.blocks",
        )
        if key.endswith(".mlp.in.hook_out"):
            # The one input map of a plain FFN, the second one of a gated FFN.
            gated = key.replace(".in.hook_out", ".hook_pre_linear")
            key = gated if gated in self.at else key.replace(".in.hook_out", ".hook_pre")
        if ".mlp." in name and key.endswith(".ln2.hook_out"):
            behind = key.replace(".ln2.", ".ln3.")  # of cross-attention, which stands before the FFN
            key = behind if behind in self.at else key
        if key in self.at or key in self.derived:
            return key
        if vision is None and key.startswith("vision_") and self.architecture.no_vision:
            raise UnknownName(f"{name!r} does not exist here. {self.architecture.no_vision}")
        inside = split_block(key)
        if inside is not None:
            blocks = stack.blocks if inside[0] == "blocks" else (vision.stack.blocks if vision else ())
            if not 0 <= inside[1] < len(blocks):
                raise UnknownName(
                    f"{name!r}: layer {inside[1]} is out of range; {inside[0]} has {len(blocks)} layers "
                    f"(0 to {len(blocks) - 1}, or negative from the end)."
                )
            raise UnknownName(self._missing(name, key, inside[0], inside[2]))
        raise UnknownName(f"no hook point is called {name!r}.{nearest(key, self.names)}")

    def _missing(self, name: str, key: str, stack: str, point: str) -> str:
        """Why a block has no such point: what was looked for, and which blocks have it."""
        if point not in BLOCK_HOOKS:
            return f"no hook point is called {name!r}.{nearest(key, self.names)}"
        have = [int(n.split(".")[-len(point.split(".")) - 1]) for n in self.names if n.startswith(f"{stack}.")
                and n.endswith(f".{point}")]  # fmt: skip
        reason = self.absent.get(key) or self._no_map(key) or LOOKED_FOR.get(point, "it was not found in this layer")
        where = f"Layers that have it: {have}." if have else "No layer of this model has it."
        return f"{name!r} does not exist here: {reason}. {where}"

    def _no_map(self, key: str) -> str:
        """What showed that the layer which a point is made with is no linear map; empty where nothing did."""
        path = self._derivable[key].path if key in self._derivable else ""
        reason = self.no_maps.get(path, "")
        return reason and f"{path!r} is not a linear map: {reason}"

    def match(self, names_filter: NamesFilter) -> tuple[str, ...]:
        """The canonical names that a TransformerLens ``names_filter`` asks for, in forward order.

        ``None`` asks for all; a string for one; a list for those; a function ``name -> bool`` chooses.
        """
        if names_filter is None:
            return self.names
        if callable(names_filter):
            return tuple(name for name in self.names if names_filter(name))
        if not isinstance(names_filter, Iterable):
            raise InputError(f"names_filter is {names_filter!r}; expected a name, names, a function or None.")
        asked = [names_filter] if isinstance(names_filter, str) else list(names_filter)
        keys = {self.find(name) for name in asked}
        return tuple(name for name in self.names if name in keys)

    def editable(self, name: str) -> str:
        """``name`` as a canonical key, refused where a write would change nothing that the model reads."""
        key = self.find(name)
        if name.endswith(ONE_OF_SEVERAL_READERS):
            raise InputError(
                f"{name!r} is one of several readers of {key!r} and can be read but not edited by itself. "
                f"Edit {key!r}, for all of them."
            )
        if key.endswith(("hook_scale", "hook_normalized")):
            norm = key.rpartition(".")[0]
            raise InputError(
                f"{key!r} can be read but not edited: the model never holds it. Edit {norm + '.hook_out'!r} instead."
            )
        if key.endswith("attn.hook_result"):
            raise InputError(f"{key!r} can be read but not edited. Edit {key.replace('result', 'z')!r} instead.")
        if of_mid(key) and key not in self.written:
            instead = key.replace("resid_mid_cross", "cross_attn_out").replace("resid_mid", "attn_out")
            raise InputError(
                f"{key!r} can be read but not edited: no single module's output is added to the stream there. "
                f"Edit {instead!r} instead."
            )
        self._refuse_vision(key)
        return key

    def crosses(self, name: str) -> bool:
        """Whether a point is one of cross-attention, whose keys are another sequence's."""
        inside = split_block(name)
        if inside is None or inside[0] != "blocks":
            return False
        beside = inside[2].startswith("cross_attn.")
        return beside or (inside[2].startswith("attn.") and self.architecture.stack.blocks[inside[1]].crosses)

    def crosses_at(self, layer: int) -> str:
        """Which attention of a decoder layer looks at another sequence: ``"attn"``, ``"cross_attn"``, or ``""``."""
        block = self.architecture.stack.blocks[layer]
        return "cross_attn" if block.cross is not None else "attn" if block.crosses else ""

    def goes_by_key(self, name: str) -> bool:
        """Whether a point's positions are those of another sequence: keys and values of cross-attention."""
        return self.crosses(name) and name.endswith(("hook_k", "hook_v", "hook_rot_k"))

    @property
    def written(self) -> set[str]:
        """The streams between two updates that an edit can reach."""
        direct = {name for slot in self.slots if slot.port == "output" for name in slot.views if of_mid(name)}
        summed = {slot.stream for slot in self.slots if slot.stream}
        return direct | summed | {f"{slot.behind}.hook_resid_mid" for slot in self.slots if slot.behind}

    def _refuse_vision(self, key: str) -> None:
        vision = self.architecture.vision
        if vision is None:
            return
        if key == "vision_encoder.hook_vision_out":
            raise InputError(f"{key!r} can be read but not edited. Edit 'vision_projector.hook_in' instead.")
        inside = split_block(key)
        if inside is None or inside[0] == "blocks":
            return
        if inside[1] >= vision.n_read:
            raise InputError(
                f"{key!r} comes after the layer whose output this model reads: an edit there would change nothing. "
                f"The decoder sees vision layers 0 to {vision.n_read - 1}."
            )
        attn = vision.stack.blocks[inside[1]].attn
        if (
            attn is not None
            and attn.windows
            and inside[2]
            in (
                "attn.hook_rot_q",
                "attn.hook_rot_k",
            )
        ):
            raise InputError(
                f"{key!r} is handed to the kernel window by window and can be read but not edited. "
                f"Edit {key.replace('rot_', '')!r} instead."
            )


def _after(layer: int, architecture: Architecture, slots: list[Slot]) -> list[Slot]:
    """The first of the slots after a layer with what is added on the way to it: a view of the same tensor."""
    if layer not in architecture.between:
        return slots
    at = f"{architecture.stack.prefix}.{layer}"
    added: dict[str, View] = {f"{at}.hook_between": ("between", f"{at}.hook_resid_post")}
    return [replace(slots[0], views={**added, **slots[0].views}), *slots[1:]]


def of_mid(name: str) -> bool:
    """Whether a point is the stream between two updates of a layer, which is no module's output."""
    return name.endswith(("hook_resid_mid", "hook_resid_mid_cross"))


def _viewing(slot: Slot, known: set[str]) -> Slot:
    """A slot without the views that are seen as a difference from a point that is not there."""
    views = {name: view for name, view in slot.views.items() if view[0] != "between" or view[1] in known}
    return slot if len(views) == len(slot.views) else replace(slot, views=views)


def _ordered(real: Mapping[str, int], derived: Mapping[str, Derived]) -> tuple[str, ...]:
    """All names in forward order; a derived point stands with the last point that it needs."""
    place = {name: (index, 0) for name, index in real.items()}
    for name, how in derived.items():
        place[name] = (max(real[need] for need in how.needs), 1)
    return tuple(sorted(place, key=lambda name: place[name]))


def _derive_norm(derived: dict[str, Derived], norm: str, source: str, path: str) -> None:
    derived[f"{norm}.hook_scale"] = Derived("scale", (source,), path)
    derived[f"{norm}.hook_normalized"] = Derived("normalized", (source,), path)


def _block_slots(stack: Stack, i: int, block: Block, once: bool, derived: dict[str, Derived]) -> list[Slot]:
    """The slots of one block in forward order, with its derived points noted. What the block lacks is left out."""
    at = f"{stack.prefix}.{i}"
    plain: View = ("plain",)

    def tensor(path: str | None, port: str, **views: View) -> list[Slot]:
        named = {f"{at}.{name.replace('__', '.')}": view for name, view in views.items()}
        return [] if path is None else [Slot("tensor", path, port, once, named)]

    slots = tensor(block.path, "input", hook_resid_pre=plain) + tensor(block.ln1, "output", ln1__hook_out=plain)
    if block.attn is not None:
        slots += _attention_slots(f"{at}.attn", block.attn, once, derived, block.crosses)
    mid = (f"{at}.hook_resid_mid", f"{at}.hook_resid_pre") if block.mid is not None else None
    slots += _with_stream(mid, block.attn_update, tensor(block.attn_out, "output", hook_attn_out=plain), once)
    slots += _middle(at, block, tensor(block.mid, "input", hook_resid_mid=plain)) + tensor(
        block.ln2, "output", ln2__hook_out=plain
    )
    if block.cross is not None and not block.cross.ahead:
        cross = block.cross
        slots += _attention_slots(f"{at}.cross_attn", cross.attn, once, derived, True)
        summed = (f"{at}.hook_resid_mid_cross", f"{at}.{cross.added_to}") if cross.mid is not None else None
        slots += _with_stream(summed, cross.update, tensor(cross.out, "output", hook_cross_attn_out=plain), once)
        slots += tensor(cross.mid, "input", hook_resid_mid_cross=plain)
        slots += tensor(cross.ln, "output", ln3__hook_out=plain)
        if cross.ln is not None:
            _derive_norm(derived, f"{at}.ln3", f"{at}.hook_resid_mid_cross", cross.ln)
    for kind, path in block.mlp_order:
        slots += tensor(path, "output", **{f"mlp__hook_{kind}": plain})
    slots += tensor(block.mlp_post, "input", mlp__hook_post=plain)
    slots += tensor(block.mlp_out, "output", hook_mlp_out=plain)
    slots += tensor(block.path, "output", hook_resid_post=plain)
    if block.ln1 is not None:
        _derive_norm(derived, f"{at}.ln1", f"{at}.hook_resid_pre", block.ln1)
    if block.ln2 is not None:
        _derive_norm(derived, f"{at}.ln2", f"{at}.hook_resid_mid", block.ln2)
    return slots


def _ahead_slots(at: str, block: Block, derived: dict[str, Derived]) -> list[Slot]:
    """The cross-attention that stands before a layer, in a list of layers of its own."""
    if block.cross is None or not block.cross.ahead:
        return []
    inside = _attention_slots(f"{at}.cross_attn", block.cross.attn, False, derived, True)
    return [*inside, Slot("tensor", block.cross.out, views={f"{at}.hook_cross_attn_out": ("plain",)})]


def _attention_slots(
    at: str, attn: Attention, once: bool, derived: dict[str, Derived], crosses: bool = False
) -> list[Slot]:
    """The projections, the boundary, and what the heads give; ``crosses``: the keys are another sequence's."""
    kept = crosses and attn.keeps_keys
    heads: View = ("heads", attn.n_heads)
    kv_heads: View = ("heads", attn.n_key_value_heads)
    slots = []
    for path in attn.order:
        if path == attn.qkv:
            parts: dict[str, View] = {f"{at}.hook_{p}": ("fused", n, attn.n_heads) for n, p in enumerate("qkv")}
            slots.append(Slot("tensor", path, "output", once, parts))
        elif path == attn.q:
            slots.append(Slot("tensor", path, "output", once, {f"{at}.hook_q": heads}))
        else:
            view = {f"{at}.hook_{'k' if path == attn.k else 'v'}": kv_heads}
            slots.append(Slot("tensor", path, "output", once or kept, view, elsewhere=crosses))
    boundary: dict[str, View] = {f"{at}.hook_rot_q": ("plain",), f"{at}.hook_rot_k": ("plain",)}
    kind = "windows" if attn.windows else "attention"
    slots.append(Slot(kind, attn.path, once=once, views=boundary, out=attn.o or ""))
    for what in ("attn_scores", "pattern"):
        derived[f"{at}.hook_{what}"] = Derived(what, (f"{at}.hook_rot_q", f"{at}.hook_rot_k"))
    if attn.o is not None:
        slots.append(Slot("tensor", attn.o, "input", once, {f"{at}.hook_z": heads}))
        derived[f"{at}.hook_result"] = Derived("result", (f"{at}.hook_z",), attn.o)
    return slots


def _with_stream(summed: tuple[str, str] | None, update: Update | None, out: list[Slot], once: bool) -> list[Slot]:
    """The slot of an attention's output, and that of the module whose output is added where it is another.

    ``summed`` names the stream with the update in it, and the stream that it is added to.
    """
    if update is None or not update.factor or summed is None:
        return out
    stream, added_to = summed
    if out and update.path == out[0].path:
        return [replace(out[0], stream=stream, added_to=added_to, factor=update.factor)]
    added = Slot("tensor", update.path, "output", once, stream=stream, added_to=added_to, factor=update.factor)
    return [*out, added]


def _middle(at: str, block: Block, seen: list[Slot]) -> list[Slot]:
    """The slot of the stream between the updates, where attention's is added behind a gate.

    A module that is given the stream and gives it back with the update in it holds that stream itself. A gate that is a
    number of the weights does not: there the norm's input is edited, and the layer's output in the same way.
    """
    update = block.attn_update
    if update is None or update.factor is not None or not seen:
        return seen
    if update.joins:
        return [replace(seen[0], path=update.path, port="output", behind="")]
    return [replace(seen[0], behind=at)] if block.mlp_update is not None else seen


def _vision_slots(vision: Vision, derived: dict[str, Derived]) -> list[Slot]:
    plain: View = ("plain",)
    slots = []
    if vision.embed is not None:
        slots.append(Slot("tensor", vision.embed, once=True, views={"vision_encoder.hook_vision_embed": plain}))
    for i, block in enumerate(vision.stack.blocks):
        slots += _block_slots(vision.stack, i, block, True, derived)
    tower = Slot("tensor", vision.path, once=True, views={"vision_encoder.hook_vision_out": plain})
    if vision.projector is None:
        return [*slots, tower]
    projector = [
        Slot("tensor", vision.projector, "input", True, {"vision_projector.hook_in": plain}),
        Slot("tensor", vision.projector, "output", True, {"vision_projector.hook_out": plain}),
    ]
    return [*slots, *projector, tower] if vision.projector_inside else [*slots, tower, *projector]
