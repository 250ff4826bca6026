"""The model's name is found wherever it stands in a body; prompts that begin alike have blocks alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_router.errors import InvalidRequestError, MissingModelError
from octavo_router.prompt import Features, Prompt, chained, read_body, renamed

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.text(), st.booleans())
def test_the_name_is_what_json_reads(fields: dict[str, Any], name: str, first: bool) -> None:
    body = {"model": name} | fields | {"model": name} if first else fields | {"model": name}
    for ascii_only in (True, False):
        assert read_body(json.dumps(body, ensure_ascii=ascii_only).encode()).model == name


def test_of_two_names_the_last_counts_as_for_the_engine() -> None:
    assert (
        read_body(b'{"model": "a", "model": "b"}').model
        == json.loads('{"model": "a", "model": "b"}')["model"]
        == "b"
    )


@pytest.mark.parametrize("body", [b"", b"{", b"x", b'{"model": "m"} x', b'{"model": "m', b"\xff"])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not valid JSON"):
        read_body(body)


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}', b'{"model": ["m"]}', b'"m"', b'{"Model": "m"}'])
def test_what_names_no_model_is_refused(body: bytes) -> None:
    with pytest.raises(MissingModelError, match="`model`"):
        read_body(body)


@pytest.mark.parametrize("messages", [None, "x", [1], {"a": 1}, [None]])
def test_messages_of_another_shape_are_left_to_the_engine(messages: Any) -> None:
    assert read_body(json.dumps({"model": "m", "messages": messages}).encode()).messages == []


def test_a_body_is_renamed_and_else_stays_as_it_was() -> None:
    body = b'{"a": 1.50, "model": "m", "b": "\\u00e9", "c": [ 1 ]}'
    assert renamed(body, 'n/"x"') == b'{"a":1.50,"model":"n/\\"x\\"","b":"\\u00e9","c":[ 1 ]}'


def features(body: dict[str, Any], **options: Any) -> Features:
    return Features(read_body(json.dumps({"model": "m", **body}, **options).encode()))


def chat(*contents: Any, **more: Any) -> dict[str, Any]:
    roles = ["system", *["user", "assistant"] * len(contents)]
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)], **more}


@given(st.binary(max_size=9000), st.binary(max_size=3000), st.integers(0, 2**64 - 1))
def test_a_text_that_goes_on_keeps_its_blocks(text: bytes, more: bytes, seed: int) -> None:
    before, after = chained(text, seed), chained(text + more, seed)
    assert after[: len(before)] == before


@given(st.binary(min_size=256, max_size=9000), st.data())
def test_a_changed_byte_changes_its_block_and_all_after_it(text: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
    same = [a == b for a, b in zip(chained(text, 0), chained(changed, 0), strict=True)]
    assert same == sorted(same, reverse=True)
    ends = [256 * n for n in range(1, 17)] + [4096 + 1024 * n for n in range(1, 5)]
    assert sum(same) == sum(end <= place for end in ends if end <= len(text))


@pytest.mark.parametrize(("size", "most"), [(255, 1), (256, 1), (1024, 3), (2048, 7), (65536, 69)])
def test_most_of_a_prompt_is_counted_in_bytes(size: int, most: int) -> None:
    assert Prompt(chained(bytes(size), 0), 0, 0).most == most


def test_the_anchor_ends_with_the_first_words_of_the_user() -> None:
    prompt = features(chat("x" * 1000, "y" * 1000, "z" * 1000)).prompt
    assert len(prompt.blocks) == 11
    assert prompt.anchor_blocks == 8
    assert features(chat("x", "y" * 20_000)).prompt.anchor_blocks == 21


LONG = "word " * 800
GROWN = chat("be brief", LONG, "yes", LONG + "?")
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a conversation that goes on": (chat("be brief", LONG), GROWN),
    "another temperature": (GROWN, {"temperature": 2, **GROWN}),
    "keys in another order": (GROWN, {"messages": [dict(reversed(m.items())) for m in GROWN["messages"]]}),
    "a prompt that goes on": ({"prompt": LONG}, {"prompt": LONG + LONG}),
}
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 999}}]
OTHER_IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "B" * 999}}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another first word": (chat("a" + LONG), chat("b" + LONG)),
    "another image": (chat(IMAGE), chat(OTHER_IMAGE)),
    "tools": (GROWN, {"tools": TOOLS, **GROWN}),
    "another salt": ({"cache_salt": "a", **GROWN}, {"cache_salt": "b", **GROWN}),
    "another role": (chat(LONG), {"messages": [{"role": "user", "content": LONG}]}),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
@pytest.mark.parametrize("compact", [True, False])
def test_blocks_are_the_same_with(one: dict[str, Any], other: dict[str, Any], compact: bool) -> None:
    blocks = features(one).prompt.blocks
    assert blocks
    separators = (",", ":") if compact else (", ", ": ")
    assert features(other, separators=separators).prompt.blocks[: len(blocks)] == blocks


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_not_even_the_first_block_is_the_same_with(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert features(one).prompt.blocks[0] != features(other).prompt.blocks[0]


def test_a_conversation_has_one_anchor_in_all_its_turns_and_others_have_others() -> None:
    def anchor(body: dict[str, Any]) -> int:
        return features(body).prompt.anchor

    turns = [anchor(chat("be brief", LONG * 3 + end, *rest)) for end, *rest in ("a", "bcd", "efghi")]
    assert len(set(turns)) == 1
    assert anchor(chat("be brief", "hello")) != anchor(chat("be brief", "hallo"))
    assert anchor(chat("be brief", "hello")) != anchor(chat("be long", "hello"))
    assert anchor({"prompt": "a"}) != anchor({"prompt": "b"})
    assert anchor({"prompt": LONG}) == anchor({"prompt": LONG + "b"})


def test_a_session_is_named_by_the_header_or_by_the_user() -> None:
    def session(headers: list[tuple[bytes, bytes]], **body: Any) -> int | None:
        asked = read_body(json.dumps({"model": "m", **body}).encode())
        return Features(asked, headers, b"x-session-id").session

    assert (
        session([])
        is session([(b"X-Session-Id", b"")])
        is session([], user=None)
        is session([], user="")
        is None
    )
    assert session([(b"X-Session-Id", b"7")]) == session([(b"x-session-id", b"7")], user="ada")
    assert session([], user="ada") != session([], user="bob")
