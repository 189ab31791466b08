from __future__ import annotations

import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from lostattn import cli, commands
from lostattn.errors import InputError
from lostattn.experiments.answering import SCORINGS

COMMANDS = ("demo", "decouple", "probe", "agreement", "train-tiny", "conformance", "data")


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What argparse prints when it refuses ``argv``."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_its_options_and_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: lostattn {command}" in text
    assert "--out" in text and "--seed" in text and "--debug" in text
    assert f"examples:\n  lostattn {command}" in text
    assert "(default: 0)" in text and "default: None" not in text


def test_the_module_runs_and_lists_every_command():
    done = subprocess.run([sys.executable, "-m", "lostattn.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if re.match("    [a-z]", line)]
    assert listed == list(COMMANDS)


def test_the_commands_own_examples_are_accepted():
    parser = cli._parser()
    for command in COMMANDS:
        epilog = parser._subparsers._group_actions[0].choices[command].epilog
        examples = [line.split()[1:] for line in epilog.splitlines() if line.startswith("  lostattn ")]
        assert examples, command
        for example in examples:
            assert parser.parse_args(example).command == command


def test_how_answers_are_scored_and_cut_off_is_said(capsys):
    parse = cli._parser().parse_args
    assert parse(["probe", "m", "--scoring", "log_probability", "--max-new-tokens", "3"]).scoring == "log_probability"
    assert parse(["probe", "m"]).scoring == "strict" and parse(["demo", "--max-new-tokens", "9"]).max_new_tokens == 9
    assert cli.SCORINGS == SCORINGS
    with pytest.raises(SystemExit):
        parse(["probe", "m", "--scoring", "loglik"])
    assert "'loglik' is none of strict" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = "import sys, lostattn.cli as c\ntry: c.main(['probe', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'transformers', 'pandas', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_layers_are_numbers_and_ranges():
    assert cli._layers("2-4,7") == [2, 3, 4, 7]
    assert cli._layers("3, 3,1") == [1, 3]


@pytest.mark.parametrize("text", ["5-2", "x", "", "1,,2", "-1", "1.5"])
def test_what_names_no_layers_is_refused(text, capsys):
    message = refusal(capsys, "probe", "tiny-llava", f"--layers={text}")
    assert f"{text!r} does not name layers; pass numbers and ranges counted from 0, such as 2-5" in message


@pytest.mark.parametrize("n", ["0", "-3", "2.5", "many"])
def test_a_count_is_a_positive_whole_number(n, capsys):
    assert f"{n!r} is not a count; pass a whole number of at least 1" in refusal(capsys, "demo", f"--n={n}")


def test_a_seed_is_a_whole_number(capsys):
    assert "'-1' is not a seed; pass a whole number of at least 0" in refusal(capsys, "demo", "--seed=-1")


def test_a_table_is_parquet_or_csv(capsys):
    message = refusal(capsys, "decouple", "tiny-llava", "--out", "table.xlsx")
    assert "'table.xlsx' must end with .parquet or .csv" in message


def test_an_unknown_source_and_an_unknown_tiny_model_are_refused(capsys):
    assert "invalid choice: 'magic'" in refusal(capsys, "probe", "tiny-llava", "--sources", "magic")
    assert "invalid choice: 'gpt'" in refusal(capsys, "train-tiny", "gpt", "--out", "x")


def test_no_command_is_refused_with_the_usage(capsys):
    assert "usage: lostattn" in refusal(capsys)


@pytest.mark.parametrize("command", ["decouple", "probe"])
def test_an_unknown_model_is_one_line_and_status_2(command, tmp_path, capsys):
    out = tmp_path / "table.csv"
    assert cli.main([command, "tiny-lava", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"lostattn {command}: ") and message.count("\n") == 1
    assert "'tiny-lava'" in message and "'tiny-llava'" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv",
    [["demo"], ["train-tiny", "tiny-llava"], ["decouple", "tiny-llava"], ["probe", "tiny-llava"]],
    ids=("demo", "train-tiny", "decouple", "probe"),
)
def test_a_folder_that_cannot_be_written_to_is_said_first(argv, tmp_path, capsys, monkeypatch):
    # A file where a folder should be: the one kind of unwritable folder that root meets too.
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(commands, "load", None)  # a model is never reached
    out = tmp_path / "file" / "folder" / "table.csv"
    assert cli.main([*argv, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "Cannot write to the folder" in message and "Not a directory" in message


def _fail(args):
    raise InputError("one thing\n  is wrong")


def _interrupt(args):
    raise KeyboardInterrupt


def test_an_error_is_one_line_unless_debug(capsys, monkeypatch):
    monkeypatch.setitem(commands.COMMANDS, "demo", _fail)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == "lostattn demo: one thing is wrong\n"
    with pytest.raises(InputError, match="one thing"):
        cli.main(["demo", "--debug"])


def test_an_interrupt_is_status_130(capsys, monkeypatch):
    monkeypatch.setitem(commands.COMMANDS, "demo", _interrupt)
    assert cli.main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", cli.TABLES)
def test_a_table_is_written_with_what_was_asked(suffix, tmp_path, capsys):
    table = pd.DataFrame({"layer": [0, 1, 2], "rid": [0.5, 0.25, 0.125]})
    table.attrs["revision"] = "abc"
    path = tmp_path / f"table{suffix}"
    commands.write(table, cli._parser().parse_args(["probe", "tiny-llava", "--layers=1-2", f"--out={path}"]))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table, check_flags=False)
    meta = json.loads((tmp_path / "table.json").read_text())
    assert meta["revision"] == "abc" and meta["environment"]["lostattn"]
    assert meta["arguments"]["model"] == "tiny-llava" and meta["arguments"]["layers"] == [1, 2]
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "table.json", "table.parquet"}
    assert "0.125" in capsys.readouterr().out
