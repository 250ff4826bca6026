import datetime

import msgspec
import pytest

from octavo_operator.scaling.certificates import LIFETIME, RENEWED_BEFORE, Bundle, is_usable, issue
from octavo_operator.scaling.registration import front_proxy

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
NAMES = ["octavo-operator.octavo-system.svc", "octavo-operator"]
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return issue(NAMES, NOW)


def test_a_fresh_certificate_is_usable(bundle: Bundle) -> None:
    assert is_usable(bundle, NAMES, NOW)


@pytest.mark.parametrize(("days", "usable"), [(-1, True), (1, False)])
def test_it_is_renewed_before_it_expires(bundle: Bundle, days: int, usable: bool) -> None:
    assert is_usable(bundle, NAMES, NOW + LIFETIME - RENEWED_BEFORE + days * DAY) is usable


def test_it_is_renewed_for_another_name(bundle: Bundle) -> None:
    assert not is_usable(bundle, ["other.svc"], NOW)


@pytest.mark.parametrize("part", ["authority", "certificate", "key"])
def test_it_is_renewed_when_a_part_is_foreign_or_broken(bundle: Bundle, part: str) -> None:
    other = issue(NAMES, NOW)
    assert not is_usable(msgspec.structs.replace(bundle, **{part: getattr(other, part)}), NAMES, NOW)
    assert not is_usable(msgspec.structs.replace(bundle, **{part: b""}), NAMES, NOW)


def test_front_proxy_is_read_as_the_api_server_writes_it() -> None:
    found = front_proxy(
        {
            "requestheader-client-ca-file": "PEM",
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-User"]',
        }
    )
    assert (found.authority, list(found.allowed_names)) == ("PEM", ["front-proxy-client"])
    assert (list(found.user_headers), list(found.group_headers)) == (["X-User"], ["X-Remote-Group"])
