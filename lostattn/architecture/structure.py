"""The parts of a vision-language model and where they are: what :mod:`lostattn.architecture` finds.

All paths are relative to the Hugging Face model (``"model.language_model.layers.3"``).
"""

from __future__ import annotations

from dataclasses import dataclass

from lostattn.architecture.logit_path import LogitPath


@dataclass(frozen=True)
class Attention:
    """One attention module: its path, its operation, and the modules around it (``None`` where absent)."""

    path: str
    operation: str  # nnsight's name for the call of the attention interface
    windows: bool  # the call is made once per window of the sequence
    q: str | None
    k: str | None
    v: str | None
    qkv: str | None
    order: tuple[str, ...]  # paths of the input projections, in the order in which they run
    o: str | None
    n_heads: int
    n_key_value_heads: int
    d_head: int = 0  # of what each head gives: its part of z
    z_is_kernels: bool = True  # what the output projection gets is the kernel's output, without a gate or a norm
    gives_o: bool = True  # what the module gives is what the output projection gives
    v_is_values: bool = True  # what the value projection gives is what the kernel gets, without a norm
    keeps_keys: bool = False  # where it looks at another sequence, a cache keeps its keys, made at the prompt's pass


@dataclass(frozen=True)
class Update:
    """What a layer adds to the stream: the output of the module at ``path``, times ``factor`` (``None``: a gate).

    Where that is a norm, ``source`` is the module whose output (times ``inner``) it is given; ``None`` where what it is
    given is no module's output. Elsewhere ``source`` is ``path``.
    """

    path: str
    factor: float | None
    source: str | None = None
    inner: float = 1.0
    joins: bool = False  # the module is given the stream too, and what it gives is the stream with the update in it


@dataclass(frozen=True)
class Cross:
    """Attention to another sequence, that of an encoder or a picture, beside a layer's self-attention.

    It comes after self-attention, or, in a list of layers of its own, before the layer (``ahead``).
    """

    attn: Attention
    out: str  # the module that gives what it adds
    mid: str | None = None  # the module whose input is the stream with that in it
    ln: str | None = None  # where that module is a norm
    update: Update | None = None
    added_to: str = ""  # the point of the layer that holds the stream to which it is added
    ahead: bool = False


@dataclass(frozen=True)
class Block:
    """One layer of a stack: the norms, the attention, the FFN and its linear maps, as paths (``None`` where absent)."""

    path: str
    ln1: str | None
    attn: Attention | None
    attn_out: str | None  # the child that mixes positions: attention, or what a layer without it has in its place
    mid: str | None  # the module whose input is the stream between the two updates
    ln2: str | None
    mlp: str | None
    mlp_order: tuple[tuple[str, str], ...]  # ("pre" | "pre_linear", path) in running order
    mlp_post: str | None  # the last linear map of a plain FFN
    mlp_out: str | None
    attn_update: Update | None
    mlp_update: Update | None
    cross: Cross | None = None

    @property
    def crosses(self) -> bool:
        """Whether the layer's one attention looks at another sequence (Llama 3.2 Vision)."""
        return self.attn is not None and "cross_attn" in self.attn.path.removeprefix(self.path)

    @property
    def attentions(self) -> dict[str, Attention]:
        """Every attention of the layer, by the name that its hook points begin with."""
        beside = {} if self.cross is None else {"cross_attn": self.cross.attn}
        return ({} if self.attn is None else {"attn": self.attn}) | beside

    @property
    def kind(self) -> str:
        """The layout in a word or two, for tables and messages."""
        if self.attn is None:
            return "no attention"
        if self.attn_update is None or self.mlp_update is None:
            return "differences only" if self.mid else "one update" if self.attn_update else "other"
        if self.mid is None:
            return "parallel"
        if self.attn_update.factor != 1.0 or self.mlp_update.factor != 1.0:
            return "scaled"
        plain = self.attn_update.path == self.attn_out and self.mlp_update.path in (self.mlp, self.mlp_out)
        return "plain" if plain else "post-norm"


@dataclass(frozen=True)
class Stack:
    """A tower of blocks and its sizes."""

    prefix: str  # of the hook names: "blocks", "vision_encoder.encoder_layers", …
    blocks: tuple[Block, ...]
    d_model: int
    d_mlp: int  # of the config: layers may differ in it

    @property
    def n_heads(self) -> int:
        """The heads of the layer that has the most; layers may differ (`heads_by_layer`)."""
        return max(self.heads_by_layer, default=0)

    @property
    def n_key_value_heads(self) -> int:
        """The key/value heads of the layer that has the most."""
        return max(self.key_value_heads_by_layer, default=0)

    @property
    def d_head(self) -> int:
        """The size of a head in the layer where it is the largest."""
        return max(self.d_head_by_layer, default=0)

    @property
    def heads_by_layer(self) -> tuple[int, ...]:
        """How many heads the attention of each layer has; 0 where a layer has none."""
        return tuple(0 if attn is None else attn.n_heads for attn in self._attentions)

    @property
    def key_value_heads_by_layer(self) -> tuple[int, ...]:
        """How many heads of keys and values each layer has; 0 where it has no attention."""
        return tuple(0 if attn is None else attn.n_key_value_heads for attn in self._attentions)

    @property
    def d_head_by_layer(self) -> tuple[int, ...]:
        """The size of a head in each layer; 0 where it has no attention."""
        return tuple(0 if attn is None else attn.d_head for attn in self._attentions)

    @property
    def said_heads(self) -> str:
        """How many heads layers have, in words: ``"4 or 8 heads"``."""
        return " or ".join(map(str, sorted(set(self.heads_by_layer) - {0}))) + " heads"

    @property
    def _attentions(self) -> list[Attention | None]:
        return [next(iter(block.attentions.values()), None) for block in self.blocks]


@dataclass(frozen=True)
class Vision:
    """The vision tower with its embedding and the projector into the decoder's space."""

    path: str
    embed: str | None
    stack: Stack
    projector: str | None
    projector_inside: bool  # the projector runs inside the tower's forward (Qwen's merger)
    before_embed: bool  # the tower runs before the token embedding does
    n_read: int  # how many of its layers the decoder's input depends on


@dataclass(frozen=True)
class Architecture:
    """Everything that hook points are made from."""

    decoder: str
    stack: Stack
    embed: str
    final_norm: str | None
    unembed: str
    vision: Vision | None
    logit_path: LogitPath = LogitPath()  # from the normed final stream to the logits
    between: tuple[int, ...] = ()  # layers after which something may be added before the next, or the final norm
    no_vision: str = ""  # why there is no vision tower to look into, where the model has one
