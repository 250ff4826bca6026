"""Who owns a model's name, and which pod is picked."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.routing import Deployment, Features, LeastLoaded, claim_names, listed_names, name_some


def made(key: str, served: str, *aliases: str, day: int = 1) -> Deployment:
    return Deployment(key, served, aliases, f"2026-01-{day:02}T00:00:00Z", key.split("/", maxsplit=1)[0])


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


@dataclass(eq=False)
class Pod:
    address: str
    in_flight: int


FEATURES = Features("m", b"/v1/completions", b"{}")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=70), st.integers(0, 99))
def test_the_pick_has_the_fewest_requests(loads: list[int], turns: int) -> None:
    policy, pods = LeastLoaded(), [Pod(str(n), load) for n, load in enumerate(loads)]
    for _ in range(turns % 5):
        policy.choose(pods, FEATURES)
    assert policy.choose(pods, FEATURES).in_flight == min(loads)


@pytest.mark.parametrize("load", [0, 3])
def test_equals_take_turns(load: int) -> None:
    policy, pods = LeastLoaded(), [Pod(str(n), load) for n in range(4)]
    picks = [policy.choose(pods, FEATURES).address for _ in range(8)]
    assert sorted(picks) == sorted("0123" * 2)


def test_a_long_list_of_names_is_cut_in_messages() -> None:
    assert name_some([f"m{n}" for n in range(5)], limit=3) == "m0, m1, m2 and 2 more"
    assert name_some([]) == "none is deployed yet"
