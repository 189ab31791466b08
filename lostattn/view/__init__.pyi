"""What `lostattn.view` exports, for checkers of types and editors; see the note in `lostattn/__init__.py`."""

from lostattn.view.colored_tokens import tokens as tokens
from lostattn.view.curves import accuracy_bars as accuracy_bars
from lostattn.view.curves import layer_curves as layer_curves
from lostattn.view.heads import attention as attention
from lostattn.view.image import attention_on_image as attention_on_image
from lostattn.view.image import overlay as overlay
from lostattn.view.image import overlays as overlays
from lostattn.view.page import Page as Page

__all__: list[str]
