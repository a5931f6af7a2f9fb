"""How addresses are written, and which of them count as one."""

import pytest

from jelly.addresses import canonical, network_of


@pytest.mark.parametrize(
    ("address", "text", "network"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0:1::7", "2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::7", "2001:db8:0:2::7", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::/64"),
        ("::1", "::1", "::/64"),
        ("nowhere", "nowhere", "nowhere"),
        ("", "", ""),
    ],
)
def test_an_address_and_its_network(address: str, text: str, network: str) -> None:
    """IPv4 addresses stand for themselves, IPv6 addresses for their /64."""
    assert canonical(address) == text
    assert network_of(address) == network
