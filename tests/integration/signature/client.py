"""A client of DTS in nothing but Python's standard library, made from docs/signature.md alone.

    python client.py METHOD URL USER SECRET [--base-path P] [--body TEXT] [--header NAME=VALUE …] [--ts T] [--nonce N]

With `--ts` and `--nonce` it prints the Authorization header; else it makes the request, and prints status and answer.
"""

import argparse
import hashlib
import http.client
import secrets
import sys
import time
from urllib.parse import urlsplit

LANES = [(x, y) for x in range(5) for y in range(5)]
ROUNDS = 24
MASK = (1 << 64) - 1
RATE = 136
SIGNED = ("If-Match", "Idempotency-Key", "Content-Type", "Content-Encoding")


def rotate(value, by):
    by %= 64
    return ((value << by) | (value >> (64 - by))) & MASK


def permute(state):
    """Keccak-f[1600]."""
    constant = 1
    for _ in range(ROUNDS):
        columns = [state[x][0] ^ state[x][1] ^ state[x][2] ^ state[x][3] ^ state[x][4] for x in range(5)]
        mixed = [columns[(x + 4) % 5] ^ rotate(columns[(x + 1) % 5], 1) for x in range(5)]
        state = [[state[x][y] ^ mixed[x] for y in range(5)] for x in range(5)]
        x, y, current = 1, 0, state[1][0]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            current, state[x][y] = state[x][y], rotate(current, (step + 1) * (step + 2) // 2)
        for y in range(5):
            row = [state[x][y] for x in range(5)]
            for x in range(5):
                state[x][y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5])
        for power in range(7):
            constant = ((constant << 1) ^ ((constant >> 7) * 0x71)) % 256
            if constant & 2:
                state[0][0] ^= 1 << ((1 << power) - 1)
    return state


def keccak_256(data):
    state = [[0] * 5 for _ in range(5)]
    padded = bytearray(data + b"\x01" + bytes(-len(data + b"\x01") % RATE))
    padded[-1] |= 0x80
    for start in range(0, len(padded), RATE):
        for lane in range(RATE // 8):
            at = start + 8 * lane
            state[lane % 5][lane // 5] ^= int.from_bytes(padded[at : at + 8], "little")
        state = permute(state)
    return b"".join(state[lane][0].to_bytes(8, "little") for lane in range(4))


def hmac_keccak(key, data):
    key = keccak_256(key) if len(key) > RATE else key
    key = key.ljust(RATE, b"\0")
    inner = keccak_256(bytes(byte ^ 0x36 for byte in key) + data)
    return keccak_256(bytes(byte ^ 0x5C for byte in key) + inner)


def framed(*fields):
    return b"".join(len(field).to_bytes(8, "big") + field for field in (text.encode() for text in fields))


def host_header(netloc):
    return netloc.encode("idna").decode() if "[" not in netloc else netloc


def signed_host(host):
    host = host.lower()
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    name = name.removesuffix(".")
    return name if port in ("", "80", "443") else name + ":" + port


def authorization(method, url, user, secret, *, base_path, headers, body, ts, nonce):
    parts = urlsplit(url)
    digest = hashlib.sha256(body).hexdigest()
    key = hmac_keccak(secret.encode(), framed("dts-key", "1", user))
    values = [f"{name.lower()}:{headers[name]}" if name in headers else "" for name in SIGNED]
    path = parts.path.removeprefix(base_path)
    host = signed_host(host_header(parts.netloc))
    text = framed("2", user, method, host, path, parts.query, ts, nonce, *values, digest)
    signature = hmac_keccak(key, text).hex()
    return f"DTS-KECCAK-256 v=2, uid={user}, ts={ts}, nonce={nonce}, digest={digest}, sig={signature}"


def main():
    parser = argparse.ArgumentParser()
    for name in ("method", "url", "user", "secret"):
        parser.add_argument(name)
    parser.add_argument("--base-path", default="")
    parser.add_argument("--body", default="")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--ts")
    parser.add_argument("--nonce")
    args = parser.parse_args()
    headers = dict(header.split("=", 1) for header in args.header)
    body = args.body.encode()
    ts, nonce = args.ts or str(int(time.time())), args.nonce or secrets.token_hex(16)
    how = {"base_path": args.base_path, "headers": headers, "body": body, "ts": ts, "nonce": nonce}
    header = authorization(args.method, args.url, args.user, args.secret, **how)
    if args.ts:
        sys.stdout.write(header + "\n")
        return
    parts = urlsplit(args.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    target = parts.path + ("?" + parts.query if parts.query else "")
    connection.request(args.method, target, body or None, {**headers, "Authorization": header})
    answer = connection.getresponse()
    sys.stdout.write(f"{answer.status} {answer.read().decode()}\n")


if __name__ == "__main__":
    sys.exit(main())
