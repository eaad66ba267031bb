"""How many primes there are up to a number: work for the processor."""


def main(limit: int) -> int:
    """`10` gives `4`, for 2, 3, 5 and 7. Takes about 0.1 s and as many bytes as `limit` for 10 million."""
    if limit < 2:
        return 0
    sieve = bytearray([1]) * (limit + 1)
    sieve[0:2] = b"\0\0"
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit + 1, number)))
    return sum(sieve)
