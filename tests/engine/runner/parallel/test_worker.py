"""A rank's own process, without torch."""

from __future__ import annotations

import threading
from pathlib import Path

import zmq
from tests.engine.runner.parallel.test_group import TWO, configuration

from octavo_engine.runner.parallel.wire import Beat, WorkerSpec
from octavo_engine.runner.parallel.worker import Mail


def test_a_rank_that_beats_when_the_core_listens_no_longer_ends_all_the_same(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as core:
        core.bind("tcp://127.0.0.1:*")
        address = core.getsockopt_string(zmq.LAST_ENDPOINT)
        mail = Mail(
            WorkerSpec(
                config=configuration(tmp_path, TWO),
                rank=1,
                device=0,
                neighbours=1,
                commands=address,
                reports=address,
                results=address,
            )
        )
        core.close(linger=0)
        beating = threading.Thread(target=lambda: mail.beats()(Beat(1, 0, 0, "working")))
        beating.start()
        beating.join()
        closing = threading.Thread(target=mail.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
