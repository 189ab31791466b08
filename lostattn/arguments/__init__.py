"""The public boundary: what a caller passes is held to what the signature says, before anything runs.

:func:`checked_call` stands on every public function and class. It reads the annotations once, at the first call; from
then on it costs a few microseconds a call. What a signature cannot say (a layer that the model lacks, a NaN in a state)
is for the function itself to refuse.
"""

from lostattn.arguments.checked import check_fields, check_handed_on, checked_call

__all__ = ["check_fields", "check_handed_on", "checked_call"]
