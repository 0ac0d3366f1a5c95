"""What help shows of commands, how they are completed, and what is said when they are stopped."""

import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer

from camseg.cli import app, commands, main
from camseg.cli.help import EXAMPLES
from camseg.data.images import write_image


def found(words):
    """A command as typer runs it."""
    command = typer.main.get_command(app)
    for word in words.split():
        command = command.get_command(None, word)
    return command


def sections(text):
    return [line.removesuffix(":") for line in text.splitlines() if line[:1].isalpha() and line.endswith(":")]


def test_every_command_has_an_example_that_can_be_called_so(call):
    assert set(EXAMPLES) == {words for words, _ in commands()}
    for words, example in EXAMPLES.items():
        name, *arguments = shlex.split(example)
        assert name == "camseg"
        assert arguments[: len(words.split())] == words.split()
        # Options and arguments are there, and none that is needed is missing.
        found(words).make_context(words, arguments[len(words.split()) :])
        assert call(*words.split(), "--help")[1].endswith(f"Example:\n  {example}\n")


def test_options_stand_in_the_groups_of_their_settings(call):
    text = call("label", "--help")[1]
    groups = ["Arguments", "Options", "Classifier", "Maps", "Propagation", "Masks", "Trimap", "Refinement"]
    assert sections(text) == [*groups, "Masks, cleaned", "Output", "Several calls or devices", "Example"]
    parts = text.split("\nRefinement:\n")
    assert "--refiner" in parts[1].split("\nMasks, cleaned:\n")[0]
    assert "--scales" in parts[0].split("\nMaps:\n")[1].split("\nPropagation:\n")[0]


def test_a_group_of_commands_says_what_each_does(call):
    for words in (("--help",), ("prepare", "--help")):
        text = " ".join(call(*words)[1].split())
        assert "Make image folders with a labels.csv out of masked images, volumes, DICOM files and videos" in text
    assert "Cut NIfTI volumes, and label volumes, into slices and masks (needs camseg[nifti])." in text
    assert "..." not in text.replace("[ARGS]...", "")


def complete(monkeypatch, capsys, line):
    monkeypatch.setenv("_CAMSEG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    monkeypatch.setattr(sys, "argv", ["camseg"])
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr().out.split()


def test_commands_and_options_are_completed(monkeypatch, capsys):
    assert complete(monkeypatch, capsys, "camseg pr") == ["propagate", "prepare"]
    assert complete(monkeypatch, capsys, "camseg prepare d") == ["dicom"]
    assert complete(monkeypatch, capsys, "camseg label --ref") == ["--refiner"]


def test_the_script_that_completes_is_shown(call, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "")
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    code, out, _ = call("--show-completion")
    assert (code, "complete -o default -F _camseg_completion camseg" in out) == (0, True)


def test_overwriting_is_explained_alike_everywhere():
    said = {
        option.help
        for words, _ in commands()
        for option in found(words).params
        if option.name in ("overwrite", "dry_run")
    }
    assert len(said) == 2


# Stopped


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("masks", "{0}", "--out", "{1}"), "what is finished is kept, and the same command continues it"),
        (("masks", "{0}", "--out", "{1}", "--overwrite"), "the same command without --overwrite continues it"),
        (("methods",), "camseg: interrupted\n"),
    ],
)
def test_an_interrupt_says_how_to_go_on(call, tmp_path, monkeypatch, arguments, words):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    write_image(tmp_path / "maps/a.png", np.zeros((4, 4), np.uint8))
    monkeypatch.setattr("camseg.runs.executors.local.run_local", interrupt)
    monkeypatch.setattr("camseg.cli.console.print_table", interrupt)
    code, _, err = call(*(word.format(tmp_path / "maps", tmp_path / "out") for word in arguments))
    assert code == 130
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_terminated_command_ends_in_order(tmp_path):
    script = (
        "import time; import camseg.cli as c; c.app = lambda **_: print('on', flush=True) or time.sleep(60); c.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "label"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "on\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err == "camseg: terminated; what is finished is kept, and the same command continues it\n"
