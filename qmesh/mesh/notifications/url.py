"""URLs of receivers, taken apart in one place: who connects gets the host that was judged here.

What is not plainly a URL with a host is refused; each kind of parser reads the rest in its own way.
Source: RFC 3986.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.values import SecretStruct, parse_ip_address, quote_text

MOST_URL: Final = 2048
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:(?P<user>[a-z0-9._~!$&'()*+,;=:%-]*)@)?"
    r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>/[a-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?(?P<query>[a-z0-9._~!$&'()*+,;=:@%/?-]*))?",
    re.IGNORECASE | re.ASCII,
)
_ESCAPED: Final = re.compile(rb"%([0-9a-fA-F]{2})")
_SEPARATORS: Final = re.compile(r"[/?&=;:@,+]")
_PRIVATE: Final = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
_LEAST_SECRET: Final = 4
"""Characters of a part of a URL that is hidden where it turns up again."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class WebUrl(SecretStruct, frozen=True):
    """A URL of http or https. host: in lower case, an IPv6 address without brackets.

    user: user and password, as in the URL. path, query: as in the URL, the former `/` at least.
    """

    scheme: str
    host: str
    port: int
    user: str
    path: str
    query: str

    @property
    def origin(self) -> str:
        """All of it that may be shown: scheme, host, and a port that is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    def parse_query(self) -> dict[str, str]:
        """The query's fields."""
        fields = (each.partition("=") for each in self.query.split("&") if each)
        return {unquote_text(name): unquote_text(value.replace("+", " ")) for name, _, value in fields}

    def remove_secrets(self, text: str) -> str:
        """What a receiver said, without what of this URL turns up in it."""
        found = {self.path, self.query, self.user}
        found |= {part for each in (self.path, self.query, self.user) for part in _SEPARATORS.split(each)}
        found |= {unquote_text(each) for each in found}
        for part in sorted(found, key=lambda each: (-len(each), each)):
            if len(part) >= _LEAST_SECRET:
                text = text.replace(part, "...")
        return text


def parse_web_url(text: str) -> WebUrl:
    """A URL as it was typed. Raises BadInput, without repeating it: it may be a secret."""
    if len(text) > MOST_URL:
        raise _build_url_error(f"it is longer than {MOST_URL} characters")
    found = _URL.fullmatch(text)
    if found is None:
        raise _build_url_error("it is not understood")
    host = found["host"].lower().strip("[]")
    scheme = found["scheme"].lower()
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    if port > 65535 or ".." in host or not _is_host(host, has_brackets="[" in found["host"]):
        raise _build_url_error("its host is neither a DNS name nor an IP address, or its port is none")
    if scheme == "http" and not is_near(host):
        raise BadInput(
            f"http:// to {quote_text(host)} would show the message, and the URL's secret, to every network"
            " on the way",
            hint="use https://; http:// is for loopback and private IP addresses",
        )
    return WebUrl(scheme, host, port, found["user"] or "", found["path"] or "/", found["query"] or "")


def _is_host(host: str, *, has_brackets: bool) -> bool:
    """Whether every program takes it for the same host: what ends in a number is an address for some."""
    address = parse_ip_address(host)
    if address is not None:
        return (address.version == 6) == has_brackets and "%" not in host
    return not has_brackets and not host.rpartition(".")[2].isdecimal() and not re.search("(^|\\.)0x", host)


def _build_url_error(why: str) -> BadInput:
    return BadInput(
        f"this is not a URL for notifications: {why}",
        hint="write it as https://HOST/PATH; in a path, blanks and characters that are not ASCII are"
        " written as %XX",
    )


def is_near(host: str) -> bool:
    """Whether what is sent there without encryption stays on this machine or in a private network.

    A DNS name but `localhost` is none: it may lead anywhere tomorrow.
    """
    address = parse_ip_address(host)
    if address is None:
        return host == "localhost"
    return address.is_loopback or any(address in each for each in _PRIVATE if each.version == address.version)


def unquote_text(text: str) -> str:
    """What `%XX` stands for; octets that are no UTF-8 become question marks."""
    octets = _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), text.encode())
    return octets.decode("utf-8", "replace")
