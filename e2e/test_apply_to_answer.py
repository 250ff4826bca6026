"""From `kubectl apply` to an answer through the router, whole and streamed."""

from collections.abc import Callable

import openai

QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]


def test_an_applied_model_answers_through_the_router(
    deploy: Callable[..., str], openai_client: openai.OpenAI
) -> None:
    model = deploy("smollm2")
    answer = openai_client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=32, temperature=0
    )
    text = answer.choices[0].message.content or ""
    assert "Paris" in text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert _streamed(openai_client, model) == text
    assert "smollm2" in [each.id for each in openai_client.models.list()]


def _streamed(client: openai.OpenAI, model: str) -> str:
    """The text of a stream, which must come in many pieces and end with a reason and the usage."""
    stream = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=32,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert len(pieces) > 1
    assert len(reasons) == 1
    assert chunks[-1].usage is not None
    return "".join(pieces)
