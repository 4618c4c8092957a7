"""Every command and setting that the README and the help show is one that the program takes."""

from __future__ import annotations

import dataclasses
import io
import re
import shlex
import tomllib
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from sccagn_scale import Config
from sccagn_scale.cli._parser import build_parser

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
VERBS = ("cluster", "assign", "recluster", "plan", "evaluate", "simulate", "info")


def shown(text: str) -> list[str]:
    """Commands on lines of their own, which a backslash may continue, as they come after the program's name."""
    return re.findall(r"^ +(?:\S*/)?sccagn-scale (.+)$", re.sub(r"\\\n\s*", "", text), re.MULTILINE)


def help_of(*verb: str) -> str:
    with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        build_parser().parse_args([*verb, "--help"])
    return printed.getvalue()


BY_PLACE = {"README": shown(README), "--help": shown(help_of()), **{verb: shown(help_of(verb)) for verb in VERBS}}


def test_examples_are_found() -> None:
    for place in ("README", "--help"):
        assert {command.split()[0] for command in BY_PLACE[place]} == set(VERBS)
    assert {place for place, commands in BY_PLACE.items() if not commands} == {"info"}
    assert "--key-added fine" in BY_PLACE["recluster"][-1]  # from the line below


@pytest.mark.parametrize(
    ("place", "command"), [(place, command) for place, commands in BY_PLACE.items() for command in commands]
)
def test_an_example_is_taken(place: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    assert build_parser().parse_args(words).verb == words[0]


def test_the_rule_is_taken() -> None:
    """Snakemake's: its strings follow one another, and hold names in braces."""
    [shell] = re.findall(r"^    shell:\n((?: +\".+\".*\n)+)", README, re.MULTILINE)
    values = {"{input}": "a.h5ad", "{output.cells}": "b.h5ad", "{output.facts}": "c.json", "{threads}": "8"}
    command = "".join(re.findall(r'"(.+)"', shell))
    for name, value in values.items():
        assert command.count(name) == 1
        command = command.replace(name, value)
    program, *words = shlex.split(command)
    assert program == "sccagn-scale"
    arguments = build_parser().parse_args(words)
    assert (arguments.verb, arguments.output, arguments.threads) == ("cluster", Path("b.h5ad"), 8)
    assert (arguments.memory, arguments.quiet) == (12 * 10**9, True)


def test_settings_of_the_readme_are_taken(tmp_path: Path) -> None:
    [block] = re.findall(r"^```toml\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "my.toml").write_text(block)
    config = dataclasses.asdict(Config.from_toml(tmp_path / "my.toml"))
    assert tomllib.loads(block).items() <= config.items()
    assignments = re.findall(r"--set (\w+=\w+)", README)
    assert len(assignments) > 2
    Config.from_assignments(assignments)
