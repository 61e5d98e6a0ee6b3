# SPDX-License-Identifier: Apache-2.0
"""Who may see the page: requests made to this server by its own page, and no other.

A page of another site that is open in the same browser can send requests to this machine. It
cannot forge the headers Host and Origin (RFC 9110, 7.2; RFC 6454, 7): a foreign Origin is a
cross-site WebSocket, a foreign name in Host is DNS rebinding.
"""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

HOST_HEADER = re.compile(r'(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?', re.I)


def is_own_host(header: str, names: frozenset[str]) -> bool:
    """Tell whether a Host header names this machine: by an address, as localhost, or by a name.

    Addresses are safe from DNS rebinding, which needs a name. names: in small letters.
    """
    if not HOST_HEADER.fullmatch(header):
        return False
    try:
        name = urlsplit(f'//{header}').hostname or ''
    except ValueError:  # a bad address in brackets
        return False
    return _is_address(name) or name == 'localhost' or name in names


def is_own_origin(origin: str, host: str) -> bool:
    """Tell whether an Origin header is that of a page that came from the host of Host."""
    return origin.lower() in {f'http://{host.lower()}', f'https://{host.lower()}'}


def own_names(host: str) -> frozenset[str]:
    """Return the names, in small letters, of a server that is bound to a host."""
    machine = socket.gethostname().lower()
    return frozenset({host.lower(), machine, f'{machine}.local'})


def is_loopback(host: str) -> bool:
    """Tell whether a server bound to a host is reached from this machine only."""
    return host.lower() == 'localhost' or (
        _is_address(host) and ipaddress.ip_address(host).is_loopback
    )


def page_address(host: str, port: int) -> str:
    """Return the address of the page of a server bound to a host and port."""
    if _is_address(host):
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
        elif ':' in host:
            host = f'[{host}]'
    return f'http://{host}:{port}/'


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
