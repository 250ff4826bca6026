"""Is what is desired a part of what the API server stored, with its defaults and spelling of quantities?"""

from decimal import Decimal
from typing import Any

_QUANTITY_PARENTS = frozenset({"requests", "limits"})
_QUANTITY_FIELDS = frozenset({"averageValue", "sizeLimit", "divisor", "storage"})
_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def is_part(desired: Any, observed: Any, field: str = "", parent: str = "") -> bool:
    """True when `observed` holds all that `desired` says; `field` and `parent` are the names on the way.

    Maps may have more keys. Lists of named items may have more items (an injected sidecar), other lists are
    equal in length and order. Nothing (None, "", {}, []) is the same as being absent.
    """
    if desired == observed:  # most parts are, and this is quick
        return True
    if is_nothing(desired):
        return observed is None or is_nothing(observed) or isinstance(observed, (dict, list))
    if isinstance(desired, dict):
        return isinstance(observed, dict) and all(
            is_part(value, observed.get(name), name, field) for name, value in desired.items()
        )
    if isinstance(desired, list):
        return isinstance(observed, list) and _list_is_part(desired, observed, field)
    if parent in _QUANTITY_PARENTS or field in _QUANTITY_FIELDS:
        return observed is not None and same_quantity(str(desired), str(observed))
    return False


def is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (str, dict, list)) and not value)


def _list_is_part(desired: list[Any], observed: list[Any], field: str) -> bool:
    by = "mountPath" if field == "volumeMounts" else "name"
    if all(isinstance(item, dict) and by in item for item in desired):
        found = {item.get(by): item for item in observed if isinstance(item, dict)}
        return all(is_part(item, found.get(item[by])) for item in desired)
    return len(desired) == len(observed) and all(map(is_part, desired, observed))


def same_quantity(one: str, other: str) -> bool:
    """True for two spellings of one amount, such as 1000m and 1."""
    return one == other or amount(one) == amount(other)


def amount(text: str) -> Decimal:
    """The number that a Kubernetes quantity stands for; 1e3 and 1k are both 1000.

    Raises:
        ValueError: the text is no quantity.
    """
    digits = text.rstrip("numkMGTPEi")
    try:
        return Decimal(digits) * _SUFFIXES[text[len(digits) :]]
    except (ArithmeticError, KeyError):
        raise ValueError(f"{text!r} is not a quantity") from None
