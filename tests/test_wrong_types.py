"""Arguments of a wrong type, as a user without the type checks of these tests would pass them."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import lostattn as la

model = la.load("tiny-llava", selftest=False)
questions = la.data.load("shapes", n=2)
prompt = model.prompt(questions[0])
edit = la.KnockOut("last", "image")
calls = {
    "dtype is 'float33'; expected a torch dtype": lambda: la.load("tiny-llava", dtype="float33"),
    "Did you mean 'sdpa'": lambda: la.load("tiny-llava", attn_implementation="sdap"),
    "names_filter is 3; expected a str or a list of str": lambda: model.run_with_cache(prompt, 3),
    "max_new_tokens is '3'; expected a whole number from 1": lambda: model.generate(prompt, max_new_tokens="3"),
    "interventions is a list; expected an intervention": lambda: model.run_with_cache(prompt, interventions=[edit]),
    "conditions is a list; expected a dict": lambda: la.experiments.probe(model, questions, [edit]),
    "no metric is called 'rid'; there are logit_difference": lambda: model.measure(prompt, "rid"),
    "metrics is 3; expected names": lambda: model.measure(prompt, 3),
    "the data set is int; expected questions": lambda: model.measure(3, "probability"),
    "fwd_hooks is 'resid_pre1'; expected a list": lambda: model.run_with_hooks(prompt, "resid_pre1"),
    "fps is '2'; expected a finite number": lambda: la.Video([questions[0].images[0]], fps="2"),
    "seconds is 0.5; expected a list of finite numbers": lambda: la.Video([questions[0].images[0]], seconds=0.5),
    "backward is 'logit'; expected a function": lambda: model.run_with_cache(prompt, backward="logit"),
}
for expected, call in calls.items():
    try:
        call()
    except la.errors.InputError as error:
        print("said" if expected in str(error) else f"WRONG {expected!r}: {error}")
    except Exception as error:
        print(f"DEEP {expected!r}: {error!r}")
    else:
        print(f"SILENT {expected!r}")
"""


def test_each_is_refused_with_what_was_expected():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.fail(run.stderr)
    assert run.stdout.split("\n")[:-1] == ["said"] * 13
