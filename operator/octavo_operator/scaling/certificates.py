"""The metrics API's own authority and serving certificate. Pure but for the random keys."""

import datetime
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
RENEWED_BEFORE = datetime.timedelta(days=60)
_SKEW = datetime.timedelta(hours=1)


class Bundle(msgspec.Struct, frozen=True):
    """PEM: the authority that the API server trusts, and what the server shows. Its key is not kept."""

    authority: bytes
    certificate: bytes
    key: bytes


def issue(names: Sequence[str], now: datetime.datetime) -> Bundle:
    """A new authority and a certificate by it for these DNS names."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name("octavo-metrics-ca")
    authority = _builder(issuer, issuer, authority_key, now).add_extension(
        x509.BasicConstraints(True, 0), critical=True
    )
    leaf = (
        _builder(_name(names[0][:64]), issuer, key, now)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    )
    pem = serialization.Encoding.PEM
    return Bundle(
        authority=authority.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        certificate=leaf.sign(authority_key, hashes.SHA256()).public_bytes(pem),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def is_usable(bundle: Bundle, names: Sequence[str], now: datetime.datetime) -> bool:
    """True while the certificate is for these names, by that authority, and not soon to expire."""
    try:
        found = x509.load_pem_x509_certificate(bundle.certificate)
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(bundle.authority))
        own = serialization.load_pem_private_key(bundle.key, None).public_key()
        known = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # whatever is wrong with it, a new one is the answer
        return False
    fits = own == found.public_key() and set(names) <= set(known.get_values_for_type(x509.DNSName))
    return fits and now + RENEWED_BEFORE < found.not_valid_after_utc


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
