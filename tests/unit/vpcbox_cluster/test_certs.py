"""The laws of a cluster's certificates."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from vpcbox.cluster import certs, files

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ADDRESS = IPv4Address("10.0.0.4")


def test_the_common_name_is_the_user_and_the_organizations_are_its_groups() -> None:
    """What Kubernetes reads out of a certificate is what was asked for, and the key belongs to it."""
    pair = certs.authority("ca", now=NOW).issue("system:node:node-1", groups=("system:nodes",))
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    assert _values(certificate, NameOID.COMMON_NAME) == ["system:node:node-1"]
    assert _values(certificate, NameOID.ORGANIZATION_NAME) == ["system:nodes"]
    assert load_pem_private_key(pair.key, None).public_key() == certificate.public_key()


def test_only_a_certificate_with_names_is_a_servers() -> None:
    """A client's certificate cannot be used to serve."""
    ca = certs.authority("ca", now=NOW)
    assert ExtendedKeyUsageOID.SERVER_AUTH not in _purposes(ca.issue("someone"))
    assert ExtendedKeyUsageOID.SERVER_AUTH in _purposes(ca.issue("someone", names=("a",)))


@pytest.mark.parametrize("name", ["127.0.0.1", "10.0.0.4", "172.21.0.1"])
def test_the_api_server_is_believed_at_each_of_its_addresses(name: str) -> None:
    """From the machine, from the nodes and from pods by the Service, the same certificate holds."""
    _verify(files.control_plane(ca := certs.authority("ca", now=NOW), ADDRESS), ca, x509.IPAddress(IPv4Address(name)))


@pytest.mark.parametrize("name", ["localhost", "kubernetes.default.svc"])
def test_the_api_server_is_believed_at_each_of_its_names(name: str) -> None:
    """In pods it is known by its Service's name."""
    _verify(files.control_plane(ca := certs.authority("ca", now=NOW), ADDRESS), ca, x509.DNSName(name))


def test_the_api_server_is_not_believed_elsewhere() -> None:
    """An address that is not the API server's is refused, and so is another authority."""
    ca = certs.authority("ca", now=NOW)
    content = files.control_plane(ca, ADDRESS)
    with pytest.raises(VerificationError):
        _verify(content, ca, x509.IPAddress(IPv4Address("10.0.0.5")))
    with pytest.raises(VerificationError):
        _verify(content, certs.authority("ca", now=NOW), x509.IPAddress(ADDRESS))


def test_a_certificate_holds_from_a_little_before_its_making() -> None:
    """A clock that is behind by some minutes does not refuse it."""
    certificate = x509.load_pem_x509_certificate(certs.authority("ca", now=NOW).pair.certificate)
    assert certificate.not_valid_before_utc <= NOW - timedelta(minutes=30)
    assert certificate.not_valid_after_utc >= NOW + timedelta(days=30)


def _verify(content: Mapping[str, bytes], ca: certs.Authority, subject: x509.DNSName | x509.IPAddress) -> None:
    verifier = PolicyBuilder().store(Store([ca.certificate])).time(NOW).build_server_verifier(subject)
    verifier.verify(x509.load_pem_x509_certificate(content["apiserver.crt"]), [])


def _values(certificate: x509.Certificate, kind: x509.ObjectIdentifier) -> list[str | bytes]:
    return [attribute.value for attribute in certificate.subject.get_attributes_for_oid(kind)]


def _purposes(pair: certs.KeyPair) -> list[x509.ObjectIdentifier]:
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
