"""Certificates and kubeconfigs."""

import base64
import json

from cryptography import x509
from cryptography.x509.oid import NameOID
from e2e.cluster.pki import authority, issue, kubeconfig


def test_an_issued_certificate_is_signed_by_its_authority() -> None:
    ca = authority("ca")
    issue(ca, "someone").certificate.verify_directly_issued_by(ca.certificate)


def test_a_certificate_says_who_and_of_which_group() -> None:
    subject = issue(authority("ca"), "system:node:n1", "system:nodes").certificate.subject
    names = {each.oid: each.value for each in subject}
    assert names == {NameOID.COMMON_NAME: "system:node:n1", NameOID.ORGANIZATION_NAME: "system:nodes"}


def test_a_server_is_known_by_names_and_addresses() -> None:
    certificate = issue(authority("ca"), "server", hosts=["n1", "10.200.0.11", "localhost"]).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1", "localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.200.0.11"]


def test_only_an_authority_may_issue() -> None:
    ca = authority("ca")
    for pair, may in ((ca, True), (issue(ca, "client"), False)):
        limits = pair.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert limits.ca is may


def test_a_kubeconfig_stands_alone() -> None:
    ca = authority("ca")
    admin = issue(ca, "admin", "system:masters")
    config = json.loads(kubeconfig("https://10.200.0.1:16443", ca, admin))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    assert cluster["server"] == "https://10.200.0.1:16443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == ca.certificate_pem
    assert base64.b64decode(user["client-certificate-data"]) == admin.certificate_pem
    assert base64.b64decode(user["client-key-data"]) == admin.key_pem
