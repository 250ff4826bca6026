"""Certificates of a cluster, and kubeconfigs made of them."""

import base64
import datetime
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as unencrypted PKCS #8 PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, folder: Path, name: str) -> None:
        """Write `name.crt` and `name.key` into `folder`."""
        (folder / f"{name}.crt").write_bytes(self.certificate_pem)
        (folder / f"{name}.key").write_bytes(self.key_pem)


def authority(common_name: str) -> KeyPair:
    """A new certificate authority, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(common_name, None)
    return KeyPair(_builder(subject, subject, key, is_authority=True).sign(key, hashes.SHA256()), key)


def issue(
    issuer: KeyPair, common_name: str, organization: str | None = None, hosts: Iterable[str] = ()
) -> KeyPair:
    """A certificate for servers and clients; Kubernetes reads user and group from its two names.

    `hosts` are the DNS names and IP addresses that the certificate's holder may be reached by.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(common_name, organization)
    builder = _builder(subject, issuer.certificate.subject, key, is_authority=False).add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        critical=False,
    )
    if names := [_general_name(host) for host in hosts]:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return KeyPair(builder.sign(issuer.key, hashes.SHA256()), key)


def kubeconfig(url: str, ca: KeyPair, client: KeyPair) -> str:
    """A kubeconfig that stands alone: the certificates are inside it."""

    def data(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    cluster = {"server": url, "certificate-authority-data": data(ca.certificate_pem)}
    user = {
        "client-certificate-data": data(client.certificate_pem),
        "client-key-data": data(client.key_pem),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "octavo",
        "clusters": [{"name": "octavo", "cluster": cluster}],
        "users": [{"name": "octavo", "user": user}],
        "contexts": [{"name": "octavo", "context": {"cluster": "octavo", "user": "octavo"}}],
    }
    return json.dumps(config, indent=1)


def _subject(common_name: str, organization: str | None) -> x509.Name:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        names.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(names)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
