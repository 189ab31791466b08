"""Hook points as a pass has settled them, as data: which of them stay, in which order, and why the others do not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lostattn.architecture.logit_path import LogitPath
from lostattn.points.sites import Sites, Slot


def describe_sites(sites: Sites) -> dict[str, Any]:
    """What sets these points apart from those that the architecture alone gives, as JSON-ready data."""
    return {
        "slots": [[*_place(slot), sorted(slot.views)] for slot in sites.slots],
        "absent": dict(sites.absent),
        "no_maps": dict(sites.no_maps),
        "logit_path": asdict(sites.logit_path),
    }


def restore_sites(sites: Sites, told: Any) -> Sites | None:
    """The points that :func:`describe_sites` told of, from those of the same architecture.

    ``None`` where they do not come out the same, or what is told is something else.
    """
    try:
        views = {tuple(place): set(names) for *place, names in told["slots"]}
        order = {place: i for i, place in enumerate(views)}
        absent = {str(name): str(why) for name, why in told["absent"].items()}

        def left_out(slot: Slot) -> str:
            return "" if _place(slot) in views else absent.get(next(iter(slot.views), ""), "it was not seen in a pass")

        without = {
            name: absent.get(name, "it was not seen in a pass")
            for slot in sites.slots
            for name in slot.views
            if _place(slot) in views and name not in views[_place(slot)]
        }
        found = sites.settled(left_out, lambda slot: order[_place(slot)], without)
        found.absent = absent
        found.logit_path = LogitPath(**told["logit_path"])
        found = found.without_maps({str(path): str(why) for path, why in told["no_maps"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if describe_sites(found) == told else None


def _place(slot: Slot) -> tuple[str, ...]:
    return (slot.kind, slot.path, slot.port, slot.stream, slot.behind)
