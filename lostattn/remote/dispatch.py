"""Here or there: a call is carried out in this process or on a server, and what it gives is read the same way."""

from __future__ import annotations

import logging
from typing import Any

from lostattn.plan.touch_record import said_nowhere
from lostattn.points.hooked_model import HookedModel
from lostattn.remote.session import run_there
from lostattn.run.calls import Call, Raw, Remote
from lostattn.run.local import run_here, running
from lostattn.run.reading import read, touched_in

log = logging.getLogger("lostattn")


def raw_of(model: HookedModel, call: Call, remote: Remote = False) -> Raw:
    """Run a call here or on a server; what it gives, unread.

    Raises:
        InputError: ``remote`` is nothing of the kind, or the model has no weights here and was to run here.
    """
    if remote is False:
        with running(model, looks=bool(call.program)):
            return run_here(model.nn, call.plain())
    return run_there(model, [call], remote)[0]


def carry_out(model: HookedModel, call: Call, remote: Remote = False) -> Any:
    """Run a call here or on a server, and read what it gives.

    A cache and a generation know where the edits of their pass acted; of logits and numbers the log tells which acted
    nowhere.

    Raises:
        InputError: ``remote`` is nothing of the kind, or the model has no weights here and was to run here.
    """
    raw = raw_of(model, call, remote)
    if call.reading.kind in ("logits", "numbers", "measures"):
        touched = touched_in(call.reading, raw)
        if touched is not None and touched.nowhere:
            log.warning("%s", said_nowhere(touched.nowhere))
    return read(call.reading, model, raw, call.prompt)
