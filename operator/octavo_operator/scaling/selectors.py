"""Label selectors as they stand in a query. Pure."""

import re
from collections.abc import Callable, Mapping

Matches = Callable[[Mapping[str, str]], bool]

_REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<no>[^\s,!=()]+)"
    r"|(?P<key>[^\s,!=()]+)\s*(?:(?P<operator>==|=|!=)\s*(?P<value>[^\s,!=()]*)"
    r"|\s(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|$)"
)


def parse(selector: str) -> Matches:
    """Return the predicate over labels that a selector stands for.

    Raises:
        ValueError: the text is no selector.
    """
    requirements: list[Matches] = []
    position = 0
    while position < len(selector.rstrip()):
        found = _REQUIREMENT.match(selector, position)
        if found is None:
            raise ValueError(f"{selector!r} is not a label selector")
        requirements.append(_requirement(found))
        position = found.end()
    return lambda labels: all(matches(labels) for matches in requirements)


def _requirement(found: re.Match[str]) -> Matches:
    if found["absent"]:
        return lambda labels: found["no"] not in labels
    key = found["key"]
    if found["operator"] is None and found["set"] is None:
        return lambda labels: key in labels
    wanted = {found["value"]} if found["operator"] else {v.strip() for v in found["values"].split(",")}
    if found["operator"] == "!=" or found["set"] == "notin":
        return lambda labels: labels.get(key) not in wanted
    return lambda labels: labels.get(key) in wanted
