"""What the documents tell to type is there: commands parse, scripts have the flags, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from anypcc_ros import cli

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(file for folder in ("docs", "sample", "runs") for file in (ROOT / folder).glob("*.md")))
)


PASSED_ON = ("--", "--train-options")
"""What follows is for another command."""


def commands(program: str) -> list[tuple[str, str]]:
    """Document and command line of every indented line that begins with the program, continued lines joined."""
    found = []
    for document in DOCUMENTS:
        text = re.sub(r"\\\n\s*", "", document.read_text())
        found += [(document.name, line) for line in re.findall(rf"^    ({program} .*)$", text, re.MULTILINE)]
    return found


@pytest.mark.parametrize(("document", "line"), commands("anypcc"))
def test_commands_parse(document: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0] in ("train", "export"):
        pytest.importorskip("torch")
    monkeypatch.chdir(ROOT)
    cli.command_parser(words[0]).parse_args(words)


@pytest.mark.parametrize(("document", "line"), commands("python") + commands("bash"))
def test_scripts_have_the_flags(document: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    text = (ROOT / words[0]).read_text()
    for flag in (word for word in words if word.startswith("--")):
        if flag in PASSED_ON:
            break
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), f"{words[0]} has no {flag}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        assert re.match(r"https?://", target) or (document.parent / target).exists(), target


def test_there_is_something_to_check() -> None:
    assert len(commands("anypcc")) > 20
    assert len(commands("python")) > 8
