"""Which handler serves which path."""

from __future__ import annotations

import re
from typing import NamedTuple

from dts.model.ranges import BLOCK_DIGITS
from dts.server.handlers import docs, fleet_versions, health, jobs, run_blocks, runs, whoami
from dts.server.handlers._base import DtsHandler
from dts.server.handlers.admin import (
    alert_rules,
    alerts,
    backup,
    dead,
    diagnosis,
    fleet,
    function_versions,
    functions,
    history,
    namespaces,
    operations,
    rollouts,
    routes,
    schedules,
    secrets,
    ssh,
    users,
    vhosts,
    work,
)


class Route(NamedTuple):
    """A path with its variable parts in braces, and who serves it."""

    template: str
    handler: type[DtsHandler]

    @property
    def pattern(self) -> str:
        """The regular expression of its paths. The slash at the end of a list may be left out."""
        text = re.sub(r"\{(\w+)\}", lambda match: _PARTS.get(match[1], r"([^/]+)"), self.template)
        return text + "?" if text.endswith("/") else text


_PARTS = {
    "number": rf"([0-9]{{1,{BLOCK_DIGITS}}})",
    "seq": r"([0-9]{1,15})",
    "function": r"([^/]+(?:/[^/]+)?)",  # with the slash of ns/func written as %2F, or as it is
    "namespaced": r"([^/]+/[^/]+|[^/]+%2[Ff][^/]+)",  # the same, where something follows
}

ROUTES: list[Route] = [
    Route("/jobs/", jobs.JobsHandler),
    Route("/jobs/collected", jobs.CollectedJobsHandler),
    Route("/jobs/{id}", jobs.JobHandler),
    Route("/runs/", runs.RunsHandler),
    Route("/runs/{id}", runs.RunHandler),
    Route("/runs/{id}/blocks", run_blocks.RunBlocksHandler),
    Route("/runs/{id}/blocks/{number}", runs.BlockHandler),
    Route("/runs/{id}/blocks/{number}/results", run_blocks.BlockResultsHandler),
    Route("/runs/{id}/results", runs.ResultsHandler),
    Route("/runs/{id}/collected", runs.CollectedHandler),
    Route("/whoami", whoami.WhoamiHandler),
    Route("/admin/users/", users.UsersAdminHandler),
    Route("/admin/users/{id}", users.UserAdminHandler),
    Route("/admin/namespaces/", namespaces.NamespacesAdminHandler),
    Route("/admin/namespaces/{id}", namespaces.NamespaceAdminHandler),
    Route("/admin/functions/", functions.FunctionsAdminHandler),
    Route("/admin/functions/{namespaced}/versions/", function_versions.FunctionVersionsHandler),
    Route("/admin/functions/{namespaced}/versions/{id}", function_versions.FunctionVersionHandler),
    Route("/admin/functions/{namespaced}/versions/{id}/source", function_versions.FunctionSourceHandler),
    Route("/admin/functions/{namespaced}/rollout", rollouts.RolloutHandler),
    Route("/admin/functions/{function}", functions.FunctionAdminHandler),
    Route("/admin/routes/", routes.RoutesAdminHandler),
    Route("/admin/routes/{id}", routes.RouteAdminHandler),
    Route("/admin/vhosts/", vhosts.VirtualHostsAdminHandler),
    Route("/admin/vhosts/{id}", vhosts.VirtualHostAdminHandler),
    Route("/admin/schedules/", schedules.SchedulesAdminHandler),
    Route("/admin/schedules/{id}", schedules.ScheduleAdminHandler),
    Route("/admin/schedules/{id}/fire", schedules.FireAdminHandler),
    Route("/admin/schedules/{id}/firings", schedules.FiringsAdminHandler),
    Route("/admin/ssh/host-key", ssh.HostKeyHandler),
    Route("/admin/ssh/run", ssh.SshRunHandler),
    Route("/admin/ssh/init", ssh.InitHandler),
    Route("/admin/ssh/upgrade", ssh.UpgradeHandler),
    Route("/admin/ssh/status", ssh.HostStatusHandler),
    Route("/admin/ssh/drain", ssh.DrainHandler),
    Route("/admin/ssh/remove", ssh.RemoveHandler),
    Route("/admin/secrets/", secrets.SecretsAdminHandler),
    Route("/admin/secrets/{function}", secrets.SecretAdminHandler),
    Route("/admin/operations/", operations.OperationsAdminHandler),
    Route("/admin/operations/verify", operations.VerifyAdminHandler),
    Route("/admin/operations/{seq}", operations.OperationAdminHandler),
    Route("/admin/runs/", work.RunsAdminHandler),
    Route("/admin/runs/{id}", work.RunAdminHandler),
    Route("/admin/runs/{id}/requeue", work.RequeueAdminHandler),
    Route("/admin/runs/{id}/retry", work.RetryAdminHandler),
    Route("/admin/jobs/", work.JobsAdminHandler),
    Route("/admin/jobs/{id}", work.JobAdminHandler),
    Route("/admin/dead/", dead.DeadAdminHandler),
    Route("/admin/dead/replay", dead.ReplayAdminHandler),
    Route("/admin/diagnosis", diagnosis.DiagnosisAdminHandler),
    Route("/admin/backup", backup.BackupAdminHandler),
    Route("/admin/restore", backup.RestoreAdminHandler),
    Route("/admin/restore/{number}", backup.RestorePageAdminHandler),
    Route("/admin/hosts/{id}/history", history.HostHistoryAdminHandler),
    Route("/admin/statistics/", history.StatisticsAdminHandler),
    Route("/admin/hosts/", fleet.HostsAdminHandler),
    Route("/admin/logs/", fleet.LogsAdminHandler),
    Route("/admin/alerts/", alerts.AlertsAdminHandler),
    Route("/admin/alerts/rules/", alert_rules.AlertRulesAdminHandler),
    Route("/admin/alerts/rules/{id}", alert_rules.AlertRuleAdminHandler),
    Route("/admin/alerts/silences/", alert_rules.SilencesAdminHandler),
    Route("/admin/alerts/silences/{id}", alert_rules.SilenceAdminHandler),
    Route("/admin/alerts/notices/", alerts.NoticesAdminHandler),
    Route("/admin/alerts/test", alerts.AlertTestAdminHandler),
    Route("/admin/alerts/secret", alerts.WebhookSecretAdminHandler),
    Route("/webhooks/secret", alerts.WebhookSecretHandler),
    Route("/fleet/versions/{namespace}/{name}/{id}", fleet_versions.FleetVersionHandler),
    Route("/openapi.json", docs.OpenApiHandler),
    Route("/docs", docs.DocsHandler),
    Route("/docs/{file}", docs.AssetHandler),
    Route("/health/live", health.LiveHandler),
    Route("/health/ready", health.ReadyHandler),
    Route("/metrics", health.MetricsHandler),
]
