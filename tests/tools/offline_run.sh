#!/bin/sh
# Runs a command where there is no network but loopback: sh tests/tools/offline_run.sh make test
#
# The tests refuse connections themselves (tests/offline); this is the proof from outside, for every
# program that they start. Linux only: a network namespace of its own, made by root or, where the
# system lets everybody have one, by anybody. Exit code 77: none can be had here, nothing was run.

set -eu
[ $# -gt 0 ] || { echo "usage: sh $0 COMMAND [ARGUMENTS]" >&2; exit 2; }

# Root keeps its own names of users; others become root of the namespace alone.
alone="unshare --net"
$alone true 2>/dev/null || alone="unshare --map-root-user --net"
if ! $alone true 2>/dev/null; then
    echo "no network namespace can be made here (unshare --net): nothing was run" >&2
    exit 77
fi

# shellcheck disable=SC2016,SC2086
exec $alone sh -c '
    ${PYTHON:-python3} -I - <<END || exit 1
import errno, fcntl, socket, struct
with socket.socket() as lo:
    fcntl.ioctl(lo, 0x8914, struct.pack("16sh22x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
names = [name for _, name in socket.if_nameindex() if name != "lo"]
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), timeout=5).close()
with socket.socket() as out:
    refused = out.connect_ex(("192.0.2.1", 80))
if refused != errno.ENETUNREACH:
    raise SystemExit(f"there is a way out: {names}, {errno.errorcode.get(refused)}")
print("Loopback alone; the way out is unreachable.", flush=True)
END
    exec "$@"
' sh "$@"
