"""The documentation says what the code does: tables, commands, options, names and links are checked against it."""

import ast
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from typer.main import get_command

import camseg
from camseg.cams.methods.registry import METHODS as CAM_METHODS
from camseg.cli import app, fields
from camseg.exchange.registry import EXPORTERS, IMPORTERS
from camseg.masks.settings import CleaningSettings, MaskSettings, parse_threshold
from camseg.masks.threshold import RULES
from camseg.models.heads import HEADS, POOLINGS
from camseg.models.names import ARCHITECTURES, split_name
from camseg.propagation.registry import METHODS as PROPAGATORS
from camseg.propagation.settings import PropagateSettings
from camseg.refinement.registry import AUTO
from camseg.refinement.registry import METHODS as REFINERS
from camseg.refinement.settings import TrimapSettings

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
WRITTEN = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/tutorial.md", "docs/howto.md"]
WRITTEN += [name for name in PAGES if name == "docs/results.md"]


def leaves(group, words=()):
    """The commands of a group by the words that call them, as in ``prepare rois``."""
    found = {}
    for name in group.list_commands(None):
        command, called = group.get_command(None, name), (*words, name)
        found |= leaves(command, called) if hasattr(command, "list_commands") else {" ".join(called): command}
    return found


COMMANDS = leaves(get_command(app))
GROUPS = {name.rpartition(" ")[0] for name in COMMANDS} - {""}
FORBIDDEN = re.compile(
    r"/work/|/tmp/|/home/|/root/|\bissue #?\d|\bTODO\b"
    r"|powerful|seamless|effortless|cutting.edge|state.of.the.art|blazing|revolutionary",
    re.IGNORECASE,
)


def blocks(name: str, *languages: str) -> list[str]:
    """The fenced code blocks of a page in these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXTS[name], re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def prose(name: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[str]:
    """The lines of a page's shell blocks that call camseg."""
    lines = "".join(blocks(name, "sh", "console", "bash")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.search(r"(^|-m )camseg ", line.strip())]


def table(name: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is called ``first``."""
    lines = TEXTS[name].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def anchors(text: str) -> set[str]:
    """The names that GitHub and MkDocs give to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def several(value: object) -> list[str]:
    """The values of an option that may be repeated, be given once, or be left out."""
    return [value] if isinstance(value, str) else list(value or ())


def split_call(words: list[str]) -> tuple[str, list[str]]:
    """What follows ``camseg``: the command's name, of a group's command two words, and its arguments."""
    length = 2 if words[0] in GROUPS else 1
    return " ".join(words[:length]), words[length:]


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_what_the_code_says():
    pages = load_generator().pages()
    assert {path.name for path in pages} == {"commands.md", "python.md", "manifest.md", "models.md", "architecture.md"}
    old = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert not old, f"run make docs: {', '.join(old)} no longer say what the code does"


def test_the_reference_has_every_command_and_option():
    page = TEXTS["docs/commands.md"]
    for name, command in COMMANDS.items():
        section = page.partition(f"## camseg {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            for flag in (*parameter.opts, *parameter.secondary_opts):
                if flag.startswith("-") and flag not in ("--help", "--show-completion", "--install-completion"):
                    assert re.search(rf"{re.escape(flag)}[ ,\n]", section), f"camseg {name} {flag}"
    assert "\x1b" not in page


def test_the_table_of_cam_methods_is_the_registry():
    expected = [[name, method.needs, method.passes, method.paper] for name, method in CAM_METHODS.items()]
    assert table("README.md", "CAM method") == expected


@pytest.mark.parametrize(("first", "registry"), [("propagator", PROPAGATORS), ("refiner", REFINERS)])
def test_the_tables_of_propagators_and_refiners_are_the_registries(first, registry):
    rows = table("README.md", first)
    assert [(row[0], row[3]) for row in rows] == [(name, method.paper) for name, method in registry.items()]
    assert all(len(row) == 4 and all(row) for row in rows)


def test_the_tables_of_formats_are_the_registry():
    rows = table("docs/formats.md", "format")
    expected = [
        [name, one.tools, ", ".join(f"{kind}s" for kind in one.holds), one.paper] for name, one in EXPORTERS.items()
    ]
    assert rows == expected
    facts = TEXTS["docs/formats.md"].rpartition("| format | files | facts |")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", facts, re.MULTILINE) == [*EXPORTERS]


def test_the_table_of_imports_is_the_registry():
    expected = [[name, one.tools, one.takes, one.shapes, one.paper] for name, one in IMPORTERS.items()]
    assert table("docs/formats.md", "import") == expected


def test_the_table_of_thresholds_covers_every_rule():
    texts = [row[0] for row in table("README.md", "threshold")]
    kinds = ["level" if text == "FILE" else parse_threshold(text).kind for text in texts]
    assert sorted(kinds) == sorted(RULES)


def test_every_method_has_a_formula():
    text = TEXTS["docs/methods.md"]
    for name in (*CAM_METHODS, *PROPAGATORS, *REFINERS, AUTO):
        assert f"**{name}.**" in text, name
    for name in RULES:
        assert name in ("absolute", "level") or re.search(rf"^{name}", text, re.MULTILINE), name


CALLS = [(name, line) for name in WRITTEN for line in commands(name)]


def test_there_are_commands_to_check():
    assert {"README.md", "docs/tutorial.md", "docs/howto.md"} <= {name for name, _ in CALLS}
    called = {split_call(shlex.split(line.partition("camseg ")[2]))[0] for _, line in CALLS}
    assert called >= COMMANDS.keys() - {"demo"}


@pytest.mark.parametrize(("name", "line"), CALLS)
def test_a_command_in_a_code_block_can_be_called(name, line):
    words = shlex.split(line, comments=True)
    command, arguments = split_call(words[words.index("camseg") + 1 :])
    assert command in COMMANDS, f"{name}: camseg has no command {command}"
    parsed = COMMANDS[command].make_context(command, arguments).params  # raises a usage error
    refiners = {*REFINERS, AUTO}
    rules = {"soft", "logistic", "svm"}
    registries = {"propagate": PROPAGATORS, "refine": refiners, "ensemble": rules}
    for method in several(parsed.get("method")):
        assert method in registries.get(command, {*CAM_METHODS, "all"}), line
    if command == "label":
        assert parsed["propagation"] in {None, *PROPAGATORS, "none"}, line
        assert parsed["refiner"] in {None, *refiners, "none"}, line
    for key, method in (("arg", "method"), ("propagation_arg", "propagation")):
        if parsed.get(key):
            PropagateSettings(method=parsed[method] or PropagateSettings.method, args=fields.pairs(parsed[key]))
    for settings in (CleaningSettings, TrimapSettings) if {"sure", "fill_holes"} & parsed.keys() else ():
        given = {key: parsed.get(f"trimap_{key}", parsed.get(key)) for key in settings.__pydantic_fields__}
        settings(**{key: value for key, value in given.items() if value is not None})  # raises InputError
    if command == "train-cls" and parsed["model"]:
        backbone, heads = split_name(parsed["model"])
        assert backbone in ARCHITECTURES or timm.is_model(backbone), line
        assert set(heads) <= {*HEADS, *POOLINGS}, line
    for threshold in several(parsed.get("threshold")):
        if not threshold.endswith(".json"):
            MaskSettings(threshold=threshold)


@pytest.mark.parametrize("name", [*WRITTEN, "docs/index.md", "docs/methods.md", "docs/architecture.md"])
def test_a_command_or_option_in_the_text_exists(name):
    known = [option for command in COMMANDS.values() for option in command.params]
    flags = {flag for option in known for flag in (*option.opts, *option.secondary_opts)} | {"--help", "--version"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for span in re.findall(r"`([^`]+)`", prose(name)):
        if span.startswith("make "):
            assert span.split()[1] in targets, span
        if span.startswith("camseg "):
            command, _ = split_call(span.split()[1:])
            assert command in {*COMMANDS, *GROUPS, "COMMAND"} or command.startswith("-"), span
            own = COMMANDS.get(command)
            for flag in re.findall(r"(?<!\S)--[a-z-]+", span):
                assert own is None or flag == "--help" or any(flag in option.opts for option in own.params), span
        elif not span.startswith(("accelerate", "python", "pip")):
            for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", span):
                assert flag in flags, f"{name}: {span}"


@pytest.mark.parametrize("name", WRITTEN)
def test_python_in_code_blocks_names_what_exists(name):
    for block in blocks(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "camseg":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "camseg":
                assert node.attr in camseg.__all__, ast.unparse(node)


@pytest.mark.parametrize("name", [name for name in PAGES if name == "README.md" or name.startswith("docs/")])
def test_python_in_code_blocks_needs_nothing_below_camseg_itself(name):
    if name == "docs/python.md":
        assert "from camseg." not in TEXTS[name]  # its blocks are signatures, not programs
        return
    for block in blocks(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "camseg":
                assert node.module == "camseg", ast.unparse(node)
                assert {alias.name for alias in node.names} <= set(camseg.__all__), ast.unparse(node)
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("camseg.") for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "camseg":
                assert node.attr in camseg.__all__, ast.unparse(node)


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_resolve(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (PAGES[name].parent / path).resolve() if path else PAGES[name]
        assert file.exists(), f"{name}: {target}"
        # The site is made of docs/ alone.
        assert not name.startswith("docs/") or (ROOT / "docs") in file.parents, f"{name}: {target} is not in docs/"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}"


@pytest.mark.parametrize("name", PAGES)
def test_no_forbidden_words_or_paths(name):
    assert not FORBIDDEN.search(TEXTS[name]), FORBIDDEN.search(TEXTS[name])


def test_the_site_shows_every_page():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r": (\w+\.md)$", nav, re.MULTILINE)) == {
        path.name for name, path in PAGES.items() if name.startswith("docs/")
    } | {"results.md"}


@pytest.mark.slow
def test_tutorial_and_readme_run_as_they_stand(tmp_path):
    """Every command and every Python block, in order, on the sample data; but no training from ImageNet weights."""
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    shutil.copytree(ROOT / "sample_data/images/test", tmp_path / "photos/new")
    shutil.copytree(ROOT / "sample_data/masks/test", tmp_path / "photos/masks")
    shutil.copy(ROOT / "sample_data/images/test/rust/test01_b.jpg", tmp_path / "photos/new/panel.jpg")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(*call: str) -> None:
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{call[-1]}\n{done.stdout}{done.stderr}"

    for block in blocks("docs/tutorial.md", "sh"):
        run("bash", "-e", "-c", block)
    for block in blocks("docs/tutorial.md", "python"):
        run(sys.executable, "-c", block)
    third, fourth = tmp_path / "out/third/masks", tmp_path / "out/fourth/masks"
    files = sorted(path.relative_to(third) for path in third.rglob("*.png"))
    assert len(files) == 60
    assert all((third / file).read_bytes() == (fourth / file).read_bytes() for file in files)
    shutil.rmtree(tmp_path / "out")
    for line in commands("README.md"):
        if not line.startswith("camseg train-cls"):
            run("bash", "-e", "-c", line)
    run(sys.executable, "-c", "\n".join(blocks("README.md", "python")))
