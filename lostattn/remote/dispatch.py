"""Here or there: a call is carried out in this process or on a server, and what it gives is read the same way."""

from __future__ import annotations

from typing import Any

from lostattn.points.hooked_model import HookedModel
from lostattn.remote.session import run_there
from lostattn.run.calls import Call, Remote
from lostattn.run.local import check_weights, run_here
from lostattn.run.reading import read


def carry_out(model: HookedModel, call: Call, remote: Remote = False) -> Any:
    """Run a call here or on a server, and read what it gives.

    Raises:
        InputError: ``remote`` is nothing of the kind, or the model has no weights here and was to run here.
    """
    if remote is False:
        check_weights(model)
        return read(call.reading, model, run_here(model.nn, call.plain()), call.prompt)
    return read(call.reading, model, run_there(model, [call], remote)[0], call.prompt)
