import pytest
from multidict import CIMultiDict

from octavo_operator.scaling.access import Caller, forwarded
from octavo_operator.scaling.registration import FrontProxy

PROXY = FrontProxy(authority="PEM", allowed_names=["front-proxy-client"])
HEADERS = CIMultiDict(
    [
        ("x-remote-user", "hpa"),
        ("X-Remote-Group", "system:serviceaccounts"),
        ("X-Remote-Group", "system:authenticated"),
        ("X-Remote-Extra-Scopes%2fx", "a"),
    ]
)


def test_the_front_proxy_speaks_for_others() -> None:
    expected = Caller("hpa", ("system:serviceaccounts", "system:authenticated"), (("scopes/x", ("a",)),))
    assert forwarded(PROXY, ["front-proxy-client"], HEADERS) == expected


@pytest.mark.parametrize("names", [[], ["kubelet-client"]], ids=["no certificate", "another's"])
def test_nobody_else_does(names: list[str]) -> None:
    assert forwarded(PROXY, names, HEADERS) is None


def test_a_proxy_that_names_nobody_is_nobody() -> None:
    assert forwarded(PROXY, ["front-proxy-client"], CIMultiDict()) is None
