from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pandas as pd
import pytest
from passes import counted

from lostattn import cli, commands
from lostattn.conformance.judge import Verdict
from lostattn.errors import InputError
from lostattn.experiments.answering import SCORINGS
from lostattn.files.journal import unfinished

COMMANDS = ("demo", "decouple", "probe", "flow", "agreement", "train-tiny", "conformance", "data", "rescore")


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
    assert "'magic' is none of gaussian, dirichlet" in refusal(capsys, "probe", "tiny-llava", "--sources", "magic")
    assert "'gpt' is none of tiny-llava" in refusal(capsys, "train-tiny", "gpt", "--out", "x")


def test_no_command_is_refused_with_what_is_missing(capsys):
    assert "required: COMMAND (see lostattn --help)" in refusal(capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["prob", "tiny-llava"], "Did you mean 'probe'?"),
        (["probe", "tiny-llava", "--lyers", "3"], "probe takes no argument '--lyers'. Did you mean '--layers'"),
        (["probe", "tiny-llava", "--sources", "gausian"], "Did you mean 'gaussian'"),
        (["probe", "tiny-llava", "--queries", "lst"], "Did you mean 'last'?"),
        (["train-tiny", "tiny-lava", "--out", "x"], "Did you mean 'tiny-llava'"),
        (["probe", "tiny-llava", "--layers", "0-3000000000"], "names a layer beyond 9999"),
        (["probe", "tiny-llava", "--layers", "9" * 5000], "names a layer beyond 9999"),
        (["demo", "--n", "99999999999"], "is not a count; pass a whole number of at least 1 and at most 10000000"),
        (["demo", "--n", "9" * 5000], "is not a count"),
        (["demo", "--seed", "9" * 30], "is not a seed"),
        (["demo", "--no-such-option"], "demo takes no argument '--no-such-option'."),
        (["decouple"], "required: MODEL"),
        (["decouple", "a", "b"], "decouple takes no argument 'b'."),
        (["probe", "m", "--out", "x" * 300], "must end with .parquet or .csv"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_the_nearest_name(argv, said, capsys):
    message = refusal(capsys, *argv)
    assert said in message and message.count("\n") == 1 and len(message) < 400


@pytest.mark.parametrize("command", ["decouple", "probe", "agreement"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "shaps"], "Did you mean 'shapes'"),
        (["--split", "tset"], "Did you mean 'test'"),
        (["--out", "{tmp}/a-file/below/table.csv"], "Cannot write to the folder"),
        (["--out", "{tmp}/a-folder.csv"], "is a folder"),
        (["--out", "{tmp}/" + "n" * 250 + ".csv"], "name is too long"),
    ],
)
def test_everything_is_looked_at_before_a_model_is_loaded(command, options, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "load", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a-folder.csv").mkdir()
    given = [one.replace("{tmp}", str(tmp_path)) for one in options]
    out = [] if "--out" in given else ["--out", str(tmp_path / "t.csv")]
    assert cli.main([command, "tiny-llava", *given, *out]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_layers_that_the_model_lacks_are_refused_by_its_config(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "load", lambda *_: pytest.fail("the model was loaded"))
    out = ["--out", str(tmp_path / "t.csv")]
    assert cli.main(["probe", "tiny-llava", "--layers", "2-77", *out]) == 2
    assert "layer 77 is out of range: tiny-llava has 6 layers (0 to 5)" in capsys.readouterr().err


def test_every_model_of_a_demo_is_looked_for_before_the_first_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands.demo, "load", lambda *_: pytest.fail("the model was loaded"))
    assert cli.main(["demo", "--models", "tiny-llava", "tiny-qwen", "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "no model is called 'tiny-qwen'" in message and "'tiny-qwen2_5-vl'" in message


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


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path, capsys, monkeypatch):
    def ended(args):
        assert unfinished(args.out).mkdir() is None
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(commands.COMMANDS, "probe", ended)
    assert cli.main(["probe", "tiny-llava", "--out", str(tmp_path / "t.csv")]) == 143
    said = capsys.readouterr().err
    assert f"what is done is kept in {tmp_path / 't.unfinished'}, and --resume goes on with it" in said
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("command", ["decouple", "probe", "flow"])
def test_a_command_goes_on_where_it_was_broken_off(command, tmp_path, monkeypatch, tiny_llava, capsys):
    """The same tables, byte for byte, and no pass made twice."""
    monkeypatch.setattr(commands, "load", lambda name: tiny_llava)
    options = {"decouple": [], "probe": ["--sources", "uniform", "--max-new-tokens", "2"], "flow": ["--windows", "4"]}
    said = [command, "tiny-llava", "--n", "6", *options[command]]
    assert cli.main([*said, "--out", str(tmp_path / "whole" / "t.csv")]) == 0
    monkeypatch.chdir(tmp_path)
    with counted(tiny_llava.hf) as whole:
        assert cli.main([*said, "--out", "t.csv"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.json", "t.parquet", "whole"]
    tables = [(tmp_path / f"t.{ending}").read_bytes() for ending in ("csv", "parquet")]
    for ending in ("csv", "json", "parquet"):
        (tmp_path / f"t.{ending}").unlink()
    with counted(tiny_llava.hf, last=whole.n * 4 // 5):
        assert cli.main([*said, "--out", "t.csv"]) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir() if p.name != "whole"] == ["t.unfinished"]
    assert cli.main([*said, "--out", "t.csv", "--seed", "5", "--resume"]) == 2
    assert "questions.first was" in capsys.readouterr().err
    with counted(tiny_llava.hf) as rest:
        assert cli.main([*said, "--out", "t.csv", "--resume"]) == 0
    assert rest.n <= 0.25 * whole.n + 2
    assert tables == [(tmp_path / f"t.{ending}").read_bytes() for ending in ("csv", "parquet")]
    assert not (tmp_path / "t.unfinished").exists()


def test_conformance_goes_on_with_the_families_that_are_left(tmp_path, monkeypatch, capsys):
    made = []

    def worked(todo, limit, packages):
        for family, kernel, _ in todo:
            if len(made) == 2:
                made.append(None)
                raise KeyboardInterrupt
            made.append((family, kernel))
            yield Verdict(family, kernel, "refused", remarks=str(len(made)))
        return len(todo)

    monkeypatch.setattr(sys.modules["lostattn.conformance.scan"], "_worked", worked)
    said = ["conformance", "llava", "gemma3", "--kernels", "sdpa", "--out", str(tmp_path / "c")]
    assert cli.main(said) == 130
    assert made == [("llava", "sdpa"), ("gemma3", "sdpa"), None] and not (tmp_path / "c").exists()
    assert cli.main([*said[:2], *said[3:], "--resume"]) == 2 and "families" in capsys.readouterr().err
    assert cli.main([*said, "--resume"]) == 0
    assert made[3:] == [("llava", "default config"), ("gemma3", "default config")]
    table = json.loads((tmp_path / "c" / "conformance.json").read_text())
    assert [row["remarks"] for row in table] == ["1", "2", "4", "5"]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert cli.main(["conformance", "llava", "--resume"]) == 2 and "--out" in capsys.readouterr().err
