"""`/admin/alerts/rules/` and `/admin/alerts/silences/`: when somebody is to be notified of what, and when nobody is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from dts.errors import InvalidInput
from dts.model import AlertRule, Silence, check_record_id
from dts.server.alerts.kinds import KINDS
from dts.server.consts import ErrorCode
from dts.server.handlers.admin._base import AdminHandler, AdminListHandler, Resource
from dts.server.handlers.admin.fields import Text, Time, changes, filters, initial, view
from dts.server.handlers.errors import ApiError
from dts.server.notify.recipients import check_recipient
from dts.wire.numbers import Seconds

RuleKind: Any = Literal[tuple(KINDS)]
Number = Annotated[float, Meta(ge=0, le=1e12)]
Duration = Annotated[float, Meta(ge=0, le=366 * 86400)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Names = Annotated[tuple[Name, ...], Meta(max_length=1000)]


class AlertRuleFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What can be written and read of an alert rule but for its kind."""

    threshold: Number | None = None
    clear: Number | None = None
    lasting: Duration | None = None
    repeat: Duration | None = None
    hosts: Names = ()
    groups: Names = ()
    functions: Names = ()
    level: Annotated[int, Meta(ge=0, le=1000)] = 40
    pattern: Annotated[str, Meta(max_length=1000)] = ""
    target: Annotated[str, Meta(max_length=1000)] = ""
    notify: Annotated[tuple[Name, ...], Meta(max_length=50)] = ()
    severity: Literal["info", "warning", "critical"] = "warning"
    enabled: bool = True
    description: Text = ""


AlertRuleView = view("AlertRuleView", AlertRuleFields, {"kind": RuleKind}, "An alert rule as answered.")


class AlertRules(Resource[AlertRule]):
    """Alert rules."""

    name = "alerts.rules"
    kind = AlertRule
    fields = AlertRuleFields
    initial = initial("AlertRuleInitial", AlertRuleFields, {"id": str, "kind": RuleKind}, {})
    changes = changes("AlertRuleChanges", AlertRuleFields, {})
    view = AlertRuleView
    filters = filters("AlertRuleFilters", AlertRuleView)

    def check_id(self, record_id: object) -> str:
        return check_record_id(record_id, "an alert rule")

    async def check_allowed(self, record: AlertRule, before: AlertRule | None) -> None:
        kind = KINDS[record.kind]
        try:
            for name in record.notify:
                check_recipient(name)
            re.compile(record.pattern)
        except InvalidInput as error:
            raise ApiError(ErrorCode.ARGUMENT_INVALID, f"notify: {error}") from error
        except (re.error, RecursionError) as error:
            message = f"pattern: it is not a regular expression: {error}"
            raise ApiError(ErrorCode.ARGUMENT_INVALID, message) from error
        if kind.about == "target" and not record.target:
            what = "the file or the host:port of a certificate" if record.kind == "certificate" else "a folder"
            raise ApiError(ErrorCode.ARGUMENT_MISSING, f"target: a rule of the kind {record.kind} needs {what}")
        if record.target and kind.about != "target":
            raise ApiError(ErrorCode.ARGUMENT_INVALID, f"target: a rule of the kind {record.kind} takes none")


class SilenceFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """What can be written and read of a silence."""

    starts: Time = 0.0
    ends: Time = 0.0
    every: Seconds | None = None
    hosts: Names = ()
    groups: Names = ()
    functions: Names = ()
    rules: Names = ()
    description: Text = ""


SilenceView = view("SilenceView", SilenceFields, {}, "A silence as answered.")


class Silences(Resource[Silence]):
    """Silences."""

    name = "alerts.silences"
    kind = Silence
    fields = SilenceFields
    initial = initial("SilenceInitial", SilenceFields, {"id": str}, {})
    changes = changes("SilenceChanges", SilenceFields, {})
    view = SilenceView
    filters = filters("SilenceFilters", SilenceView)

    def check_id(self, record_id: object) -> str:
        return check_record_id(record_id, "a silence")

    async def check_allowed(self, record: Silence, before: Silence | None) -> None:
        length = record.ends - record.starts
        if length <= 0:
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "ends: a silence must end after it starts")
        if record.every is not None and record.every <= length:
            raise ApiError(ErrorCode.ARGUMENT_INVALID, "every: the next silence must begin after this one has ended")


class AlertRuleAdminHandler(AdminHandler[AlertRule]):
    """`/admin/alerts/rules/ID`: one rule."""

    resource = AlertRules


class AlertRulesAdminHandler(AdminListHandler[AlertRule]):
    """`/admin/alerts/rules/`: all rules of administrators."""

    resource = AlertRules


class SilenceAdminHandler(AdminHandler[Silence]):
    """`/admin/alerts/silences/ID`: one silence."""

    resource = Silences


class SilencesAdminHandler(AdminListHandler[Silence]):
    """`/admin/alerts/silences/`: all silences."""

    resource = Silences
