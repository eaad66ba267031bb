"""What to do when a back end does not answer, by what it or its driver says."""

from __future__ import annotations

import re

_STORE_URL = "[store] url, or DTS_STORE_URL"
_BROKER_URL = "[broker] url, or DTS_BROKER_URL"

_CERTIFICATE = (
    r"certificate|CERTIFICATE_VERIFY_FAILED|SSL|TLS",
    "the certificate is not trusted, or is for another name: name the authority's file in the URL ({option}), and the "
    "host as the certificate has it",
)
_UNKNOWN_HOST = (
    r"Name or service not known|nodename nor servname|getaddrinfo|No address associated",
    "the name is unknown here: correct the host in {url}, or its entry in DNS",
)

_STORE = (
    (
        r"key file|key of users/",
        "start the server with the key file that this store was first used with: [server] key_file",
    ),
    (r"has no primary", "wait for the election; if it lasts, see rs.status(): a majority of the members must be up"),
    (r"replicaSet right", "correct ?replicaSet= in {url}: rs.conf()._id is the name"),
    (r"refuses the user|Authentication", "correct user and password in {url}; authSource names where the user is kept"),
    (r"does not let the user", "give the user readWrite and dbAdmin on the database: db.grantRolesToUser(…)"),
    (
        r"disk is full|No space|OutOfDiskSpace|database or disk",
        "make room on the disk of the store: nothing is accepted meanwhile",
    ),
    (
        r"is locked|read-?only|permission|cannot be (used|opened)",
        "see who owns the store's file and folder, and which process holds it",
    ),
    _CERTIFICATE,
    _UNKNOWN_HOST,
    (r"", "start the store; {url}, says where the server looks. It accepts nothing meanwhile"),
)
_BROKER = (
    (r"another installation", "name a virtual host of its own in {url}: rabbitmqctl add_vhost NAME, set_permissions"),
    (r"Login was refused", "correct user and password in {url}; or rabbitmqctl change_password USER"),
    (r"vhost .* not found", "correct the vhost in {url}, or make it: rabbitmqctl add_vhost NAME, then set_permissions"),
    (
        r"access to vhost|vhost .* refused",
        r"rabbitmqctl set_permissions -p VHOST USER '^dts\.' '^(dts\.|amq\.default$)' '^dts\.'",
    ),
    (r"ACCESS_REFUSED", "give the user the rights that docs/security.md lists: rabbitmqctl set_permissions"),
    (r"blocks publishers.*disk", "make room on the broker's disk; jobs wait in the store meanwhile"),
    (r"blocks publishers", "the broker has an alarm (rabbitmqctl status): free its memory, or raise the watermark"),
    (
        r"disk is full|No space|database or disk",
        "make room on the disk of the broker's file: jobs wait in the store meanwhile",
    ),
    _CERTIFICATE,
    _UNKNOWN_HOST,
    (r"", "start the broker; {url}, says where the server looks. Jobs wait in the store"),
)


def store_advice(detail: str) -> str:
    """What to do about a store that does not answer."""
    return _advice(_STORE, detail, url=_STORE_URL, option="tlsCAFile=")


def broker_advice(detail: str) -> str:
    """What to do about a broker that does not answer."""
    return _advice(_BROKER, detail, url=_BROKER_URL, option="cacertfile=")


def _advice(table: tuple[tuple[str, str], ...], detail: str, **places: str) -> str:
    """The advice of the first pattern that is found; the last one of a table always is."""
    found = next(advice for pattern, advice in table if re.search(pattern, detail, re.IGNORECASE))
    return found.format(**places)
