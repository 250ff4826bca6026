"""Who owns a model's name, and who shares it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.routing import Deployment, claim_names, listed_names, name_some, shared_names


def made(key: str, served: str, *aliases: str, day: int = 1) -> Deployment:
    return Deployment(key, served, aliases, f"2026-01-{day:02}T00:00:00Z", key.split("/", maxsplit=1)[0])


def weighed(key: str, served: str, weight: int, *aliases: str) -> Deployment:
    return msgspec.structs.replace(made(key, served, *aliases), weight=weight)


OLD = made("a/llama", "llama", "gpt", day=1)
NEW = made("b/llama", "llama", "gpt", "small", day=2)

OWNERS: dict[str, tuple[list[Deployment], str, str | None]] = {
    "a served name is its deployment's": ([OLD], "llama", "a/llama"),
    "an alias too": ([OLD], "gpt", "a/llama"),
    "and the full name": ([OLD], "a/llama", "a/llama"),
    "another name is nobody's": ([OLD], "small", None),
    "the resource's name is not a name once another is served": ([made("a/x", "llama")], "x", None),
    "of two that serve a name, the older owns it": ([NEW, OLD], "llama", "a/llama"),
    "of two that share an alias, the older owns it": ([NEW, OLD], "gpt", "a/llama"),
    "the younger keeps its full name": ([NEW, OLD], "b/llama", "b/llama"),
    "and the names that are its own": ([NEW, OLD], "small", "b/llama"),
    "of two of an age, the first by full name": ([made("b/m", "m"), made("a/m", "m")], "m", "a/m"),
    "an older alias is stronger than a younger served name": (
        [OLD, made("b/g", "gpt", day=2)],
        "gpt",
        "a/llama",
    ),
    "no alias takes another's full name": ([made("a/x", "x", "b/llama"), NEW], "b/llama", "b/llama"),
}


@pytest.mark.parametrize(("deployments", "name", "owner"), OWNERS.values(), ids=OWNERS)
def test_owners(deployments: list[Deployment], name: str, owner: str | None) -> None:
    found = claim_names(deployments).get(name)
    assert (found and found.key) == owner


def test_the_list_shows_names_and_aliases_and_full_names_of_what_has_no_other() -> None:
    shadowed = made("c/llama", "llama", "gpt", day=3)
    shown = listed_names(claim_names([OLD, NEW, shadowed]))
    assert {name: d.key for name, d in shown.items()} == {
        "llama": "a/llama",
        "gpt": "a/llama",
        "small": "b/llama",
        "c/llama": "c/llama",
    }


@pytest.mark.parametrize(
    ("name", "at_pods"),
    [("llama", "llama"), ("a/big", "a/big"), ("gpt", "llama"), ("b/other", "a/big"), ("other", "a/big")],
)
def test_pods_are_asked_under_names_that_never_change(name: str, at_pods: str) -> None:
    assert made("a/big", "llama", "gpt").name_at_pods(name) == at_pods


NAMES = st.sampled_from(["m", "n", "a/m", "b/n"])
DEPLOYMENTS = st.lists(
    st.builds(
        lambda ns, name, served, aliases, day: made(f"{ns}/{name}", served, *aliases, day=day),
        st.sampled_from("ab"),
        st.sampled_from("mn"),
        NAMES,
        st.lists(NAMES, max_size=2),
        st.integers(1, 3),
    ),
    max_size=4,
    unique_by=lambda d: d.key,
)


@given(DEPLOYMENTS)
def test_every_deployment_is_reachable_and_listed(deployments: list[Deployment]) -> None:
    owners = claim_names(deployments)
    assert all(owners[d.key] is d for d in deployments)
    assert {d.key for d in listed_names(owners).values()} == {d.key for d in deployments}


@given(DEPLOYMENTS, st.builds(made, st.just("z/new"), NAMES, NAMES, day=st.just(9)))
def test_what_is_created_later_takes_no_name(deployments: list[Deployment], later: Deployment) -> None:
    before, after = claim_names(deployments), claim_names([*deployments, later])
    assert {name: after[name].key for name in before} == {name: d.key for name, d in before.items()}


SHARED: dict[str, tuple[list[Deployment], dict[str, dict[str, int]]]] = {
    "nothing without weights": ([OLD, NEW], {}),
    "the served name, with the owner's usual weight": (
        [made("a/x", "m"), weighed("a/y", "m", 10)],
        {"m": {"a/x": 100, "a/y": 10}},
    ),
    "an alias of both, and the owner's own weight": (
        [weighed("a/x", "x", 3, "m"), weighed("a/y", "y", 1, "m")],
        {"m": {"a/x": 3, "a/y": 1}},
    ),
    "nothing across namespaces": ([made("a/x", "m"), weighed("b/y", "m", 10)], {}),
    "nothing of a full name": ([made("a/x", "m"), weighed("a/y", "a/x", 10)], {}),
    "a weight of nought, which still takes part": (
        [made("a/x", "m"), weighed("a/y", "m", 0)],
        {"m": {"a/x": 100, "a/y": 0}},
    ),
}


@pytest.mark.parametrize(("deployments", "shared"), SHARED.values(), ids=SHARED)
def test_shared_is(deployments: list[Deployment], shared: dict[str, dict[str, int]]) -> None:
    assert shared_names(claim_names(deployments), deployments) == shared


def test_a_long_list_of_names_is_cut_in_messages() -> None:
    assert name_some([f"m{n}" for n in range(5)], limit=3) == "m0, m1, m2 and 2 more"
    assert name_some([]) == "none is deployed yet"
