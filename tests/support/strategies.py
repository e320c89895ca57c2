"""What Hypothesis draws for more than one test module."""

import ipaddress

from hypothesis import strategies as st


def _is_ordinary(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.version == 4 or address.ipv4_mapped is None


addresses = st.ip_addresses().filter(_is_ordinary).map(str)
"""Canonical text of every IP address that qmesh takes."""
