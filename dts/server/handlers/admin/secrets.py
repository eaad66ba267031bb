"""`/admin/secrets/`: secrets of namespaces, which their functions get; nobody reads them back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta, Struct

from dts.errors import InvalidName
from dts.model import ANY_NAMESPACE, Namespace, User, check_namespace
from dts.model.secrets import MAX_OF_NAMESPACE, Secret
from dts.server.access.secret_sets import check_size, place_of, refresh
from dts.server.consts import ErrorCode
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import Text, changes, filters, initial, view
from dts.server.handlers.errors import ApiError
from dts.store.contract.records import Scalar

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

SecretText = Annotated[str, Meta(min_length=4, max_length=MAX_OF_NAMESPACE)]
"""Shorter ones could not be masked in what functions print without masking half of it."""


class SecretFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What can be written and read of a secret."""

    description: Text = ""


SecretView = view("SecretView", SecretFields, {"namespace": str}, "A secret as answered: all but itself.")


class Secrets(Resource[Secret]):
    """Secrets."""

    name = "secrets"
    kind = Secret
    fields = SecretFields
    initial = initial("SecretInitial", SecretFields, {"id": str, "secret": SecretText}, {})
    changes = changes("SecretChanges", SecretFields, {"secret": SecretText})
    view = SecretView
    filters = filters("SecretFilters", SecretView)
    write_only = frozenset({"secret"})

    def check_id(self, record_id: object) -> str:
        namespace, _, name = str(record_id).partition("/")
        check_namespace(namespace)
        if not _NAME.fullmatch(name):
            raise InvalidName(
                f"{str(record_id)[:80]!r} is not the name of a secret: write namespace/NAME, where NAME is a letter "
                "or _, then at most 63 letters, digits and _, such as crm/TOKEN"
            )
        return str(record_id)

    def namespace_of(self, record_id: str) -> str | None:
        return record_id.partition("/")[0]

    def visible(self, user: User) -> dict[str, tuple[Scalar, ...]]:
        return {} if ANY_NAMESPACE in user.namespaces else {"namespace": user.namespaces}

    def _overlaid(self, base: dict[str, Any], plain: dict[str, Any], secrets: Mapping[str, Any]) -> Secret:
        return super()._overlaid({**base, "namespace": base["id"].partition("/")[0]}, plain, secrets)

    def write_secrets(self, record: Secret, secrets: Mapping[str, Any]) -> Secret:
        if not secrets:
            return record
        sealed = self.context.accounts.keys.seal(secrets["secret"].encode(), place_of(record.id))
        return replace(record, secret=sealed)

    async def check_allowed(self, record: Secret, before: Secret | None) -> None:
        if await self.context.store.get_record(Namespace, record.namespace) is None:
            raise ApiError(ErrorCode.NAMESPACE_NOT_FOUND, f"there is no namespace {record.namespace}")
        await check_size(self.context.store, self.context.accounts.keys, record)

    async def written(self, record_id: str) -> None:
        """Have workers get the secrets of a namespace as they are now."""
        namespace = record_id.partition("/")[0]
        await refresh(self.context.store, self.context.accounts.keys, self.context.seal, namespace)
        self.context.catalogue.forget_secrets(namespace)


class SecretAdminHandler(AdminHandler[Secret]):
    """`/admin/secrets/NS/NAME`: one secret."""

    resource = Secrets


class SecretsAdminHandler(AdminListHandler[Secret]):
    """`/admin/secrets/`: the secrets of all namespaces, or of one's own."""

    resource = Secrets
