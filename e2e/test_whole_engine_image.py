"""The engine's image as users get it, with its libraries inside."""

from collections.abc import Callable

import openai
from e2e.cluster.cluster import Cluster
from images.build import build
from images.parts import ENGINE


def test_the_image_with_all_libraries_inside_serves(
    cluster: Cluster, deploy: Callable[..., str], openai_client: openai.OpenAI
) -> None:
    first = cluster.nodes[0]
    cluster.load([build(ENGINE)], [first])
    model = deploy(
        "whole",
        image=ENGINE.image,
        imagePullPolicy="Never",
        scheduling={"nodeSelector": {"kubernetes.io/hostname": first.name}},
    )
    answer = openai_client.completions.create(model=model, prompt="The capital of France is", max_tokens=8)
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
