"""Control groups in either version's layout, on a tree of plain files."""

from pathlib import Path

import pytest
from e2e.cluster import cgroups


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    for controller in ("cpuset", "memory"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "cgroup.procs").touch()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-1")
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0")
    (tmp_path / "cpu").symlink_to("memory")
    (tmp_path / "unrelated").mkdir()
    return tmp_path


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "cgroup.controllers").write_text("cpu memory hugetlb")
    (tmp_path / "cgroup.subtree_control").touch()
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice" / "cgroup.procs").touch()
    return tmp_path


def test_version_1_has_a_hierarchy_for_each_controller(version_1: Path) -> None:
    assert [path.name for path in cgroups.hierarchies(version_1)] == ["cpuset", "memory"]


def test_version_2_has_one_hierarchy_whatever_slices_it_holds(version_2: Path) -> None:
    assert cgroups.hierarchies(version_2) == [version_2]


def test_a_node_gets_a_group_in_every_hierarchy(version_1: Path) -> None:
    assert cgroups.create("octavo-demo", "n1", version_1) == "/octavo-demo/n1"
    assert (version_1 / "cpuset/octavo-demo/n1").is_dir()
    assert (version_1 / "memory/octavo-demo/n1").is_dir()
    assert not (version_1 / "unrelated/octavo-demo").exists()


def test_the_cpus_of_the_root_are_given_to_each_group(version_1: Path) -> None:
    cgroups.create("octavo-demo", "n1", version_1)
    for group in ("octavo-demo", "octavo-demo/n1"):
        assert (version_1 / "cpuset" / group / "cpuset.cpus").read_text() == "0-1"
        assert (version_1 / "cpuset" / group / "cpuset.mems").read_text() == "0"


def test_version_2_delegates_all_controllers_that_the_machine_has(version_2: Path) -> None:
    cgroups.create("octavo-demo", "n1", version_2)
    assert (version_2 / "cgroup.subtree_control").read_text() == "+hugetlb"  # each write is one request
    assert (version_2 / "octavo-demo/n1").is_dir()


def test_groups_are_removed_from_the_leaves_up(version_2: Path) -> None:
    (version_2 / "octavo-demo/n1/kubepods/besteffort").mkdir(parents=True)
    cgroups.remove("octavo-demo", version_2)
    assert not (version_2 / "octavo-demo").exists()
    assert (version_2 / "system.slice").exists()


def test_removing_what_is_not_there_is_no_error(version_2: Path) -> None:
    cgroups.remove("octavo-demo", version_2)
    assert (version_2 / "cgroup.procs").exists()
