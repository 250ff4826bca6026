"""README.md's table of figures: the few that tell most, those that peers do better among them."""

from __future__ import annotations

from bench.figures import Aim, Measured, number, split_peers

_DISRUPTIONS = (
    "requests failed in upgrades, drains, scaling, restarts, kills; an engine's own death cuts its streams"
)
ROWS = (
    ("engine-h100", "tpot_ms.b1", "8B, bf16, H100: time per token, 1 request"),
    ("engine-h100", "tpot_ms.b128", "the same, 128 requests at once"),
    ("engine-h100", "http_tok_s.c32", "the same over HTTP, 32 clients"),
    ("engine-h100", "offline_tok_s.1000x512x128", "the same offline, 1,000 requests of 512 + 128 tokens"),
    ("engine-h100", "prefill_tok_s", "the same, prompts alone"),
    ("engine-h100", "start_s.8b", "a new process to its first token"),
    ("router", "cpu_us_per_short_request", "router: CPU time of a short request"),
    ("router", "cpu_us_per_chunk.24000_a_second", "router: CPU time of a streamed chunk"),
    ("router", "kb_per_open_stream", "router: memory of an open stream"),
    ("operator", "children_p50_ms", "operator: a new resource to its five children"),
    ("operator", "rss_mib.4000", "operator: memory with 4,000 resources"),
    ("operator", "restart_s.4000", "operator: restart with 4,000 resources"),
    ("operator", "failover_s", "operator: the leader killed, until the other has worked"),
    ("operator", "failed_requests.all_disruptions", _DISRUPTIONS),
)


def readme_table(aims: list[Aim], results: dict[str, list[Measured]]) -> str:
    """One row for each of ``ROWS`` that is measured, with the peer of the same run where there is one."""
    lines = ["| figure | Octavo | peer |", "|---|---|---|"]
    known = {(aim.group, aim.figure): aim.peer for aim in aims}
    for group, figure, meaning in ROWS:
        others = [each for each in results.get(group, []) if not each.figure.startswith("octavo")]
        own, peers = split_peers(others)
        found = next((each for each in own if each.figure == figure), None)
        if found is not None:
            peer = peers.get(figure) or known.get((group, figure)) or "-"
            lines.append(f"| {meaning} | {number(found.value)} {found.unit} | {peer} |")
    return "\n".join(lines)
