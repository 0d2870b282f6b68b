"""No network: this folder stands on PYTHONPATH, so every Python that a test starts loads this file.

An audit hook sees each connection and each name lookup of the process, whichever library makes it,
and refuses what is not on this machine. Loopback and Unix sockets stay free: kernels need them.
"""

import sys

WHY = "tests and notebooks run without a network"
CONNECTS = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def refuse(event, args):
    """Raise OSError where `event` would reach another machine."""
    # Hooks run on every import and open: leave at once, and import nothing before it is needed.
    if not event.startswith("socket."):
        return
    if event in CONNECTS:
        where = args[1]  # (host, port, ...) for AF_INET and AF_INET6; a path for AF_UNIX
        if isinstance(where, tuple) and len(where) >= 2 and isinstance(where[0], str | bytes):
            host = _text(where[0])
            if not _on_this_machine(host):
                raise OSError(f"connection to {host}:{where[1]} refused: {WHY}")
    elif event in LOOKUPS:
        host = _text(args[0])
        if _address(host) is None and not _on_this_machine(host):
            import socket

            raise socket.gaierror(socket.EAI_NONAME, f"lookup of {host!r} refused: {WHY}")


def _text(host):
    return host.decode("ascii", "replace") if isinstance(host, bytes) else (host or "")


def _address(host):
    import ipaddress

    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _on_this_machine(host):
    import socket

    address = _address(host)
    if address is not None:
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return host in ("", "localhost", socket.gethostname()) or host.endswith(".localhost")


sys.addaudithook(refuse)
