"""What Ray's long words about a lost rank come to."""

from __future__ import annotations

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

from octavo_engine.runner.parallel.ray_loss import how_it_was_lost

NODE = (
    "The actor died because its node has died. Node Id: 5d1e8fa5\n"
    "\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"
)
WORKER = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file. There are some "
    "potential root causes. (1) The process is killed by SIGKILL by OOM killer due to high memory usage."
)
MEMORY = "The actor is dead: the node was low on memory. Memory on the node was 15.1GB / 15.6GB (0.97)."


def died(message: str) -> ActorDiedError:
    context = ActorDiedErrorContext(class_name="RankActor", actor_id=bytes(16), error_message=message)
    return ActorDiedError(context)


def task_error() -> RayTaskError:
    cause = ModuleNotFoundError("No module named 'torch'\nand more")
    return RayTaskError("RankActor.serve", "Traceback (most recent call last):\n  ...\n", cause)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (died(NODE), "was lost with its node"),
        (died(WORKER), "ended without a word: it was killed, or memory ran out"),
        (died(MEMORY), "was ended by Ray, because its node ran out of memory"),
        (ActorUnavailableError("RPC Error details: " + "x" * 900, None), "cannot be reached by Ray"),
        (task_error(), "failed: ModuleNotFoundError: No module named 'torch'"),
        (RayError("\nsomething new\nand more"), "was lost (RayError: something new)"),
        (RayError("x" * 900), f"was lost (RayError: {'x' * 200})"),
        (RayError(), "was lost (RayError)"),
    ],
)
def test_it_is_a_few_words(error: Exception, words: str) -> None:
    assert how_it_was_lost(error) == words
