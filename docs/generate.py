"""Writes or checks what the documents take from elsewhere: diagrams, events, settings, the list of decisions, links."""

import re
import sys
from pathlib import Path

import attrs

from experiment_adapters.settings import settings_markdown
from experiment_domain.artifacts import ARTIFACT
from experiment_domain.backfills import BACKFILL
from experiment_domain.captures import CAPTURE_SESSION
from experiment_domain.conversions.profiles import CONVERSION_PROFILE
from experiment_domain.events import EVENT_TYPES
from experiment_domain.experiments import EXPERIMENT
from experiment_domain.exports.jobs import EXPORT
from experiment_domain.kernel.access import GRANTS, MEMBER_ROLES, Role
from experiment_domain.runs import RUN
from experiment_domain.sensors import SENSOR
from experiment_domain.webhooks.deliveries import WEBHOOK_DELIVERY
from experiment_domain.webhooks.subscriptions import WEBHOOK_SUBSCRIPTION

ROOT = Path(__file__).parent.parent
MACHINES = (
    EXPERIMENT,
    RUN,
    CAPTURE_SESSION,
    SENSOR,
    CONVERSION_PROFILE,
    BACKFILL,
    EXPORT,
    ARTIFACT,
    WEBHOOK_SUBSCRIPTION,
    WEBHOOK_DELIVERY,
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def state_machines() -> str:
    """The page of state machines."""
    parts = [
        "# State machines",
        "",
        "Generated from the transition tables of the code by `nox -s docs -- --write`.",
        "",
    ]
    for machine in MACHINES:
        parts += [f"## {machine.noun}", "", "```mermaid", machine.mermaid(), "```", ""]
    return "\n".join(parts)


def permissions() -> str:
    """The page of permissions."""
    roles = (*MEMBER_ROLES, Role.SENSOR, Role.INTEGRATION)
    parts = ["# Permissions", "", "Generated from the table of the code by `nox -s docs -- --write`.", ""]
    parts += [f"| permission | {' | '.join(roles)} |", f"| --- |{' --- |' * len(roles)}"]
    for permission, granted in GRANTS.items():
        parts.append(f"| {permission} | {' | '.join('✓' if role in granted else '' for role in roles)} |")
    parts += ["", "Raw values are narrowed further by each project's `raw_readers` and `physical_only`.", ""]
    return "\n".join(parts)


def events() -> str:
    """The page of events."""
    parts = ["# Events", "", "Generated from the types of the code by `nox -s docs -- --write`.", ""]
    parts += [
        "CloudEvents 1.0, the same in the feed and its stream, in Redis Streams, in Kafka and at webhooks. For",
        "programs, the AsyncAPI document says it with schemas and examples: `experiment-service asyncapi`, or",
        "`/schema/asyncapi.json` of a running API.",
        "",
        "| type | about | data | what has happened |",
        "| --- | --- | --- | --- |",
    ]
    for name, kind in EVENT_TYPES.items():
        data = ", ".join(f"`{each.name.rstrip('_')}`" for each in attrs.fields(kind))
        parts.append(f"| `{name}` | `{kind.about}` | {data} | {' '.join((kind.__doc__ or '').split())} |")
    return "\n".join([*parts, ""])


def decisions() -> str:
    """The page that lists the decisions."""
    parts = [
        "# Decisions",
        "",
        "One page each: what was decided, why, and what it costs. Newer pages replace older ones by saying so.",
    ]
    parts += ["The list is made of their titles by `nox -s docs -- --write`.", ""]
    for page in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        parts.append(f"- [{page.name[:4]}]({page.name}) {title}")
    return "\n".join([*parts, ""])


def readme() -> str:
    """The README with the table of settings renewed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start, end = "<!-- settings -->", "<!-- /settings -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n\n{settings_markdown().strip()}\n\n{end}{after}"


def dead_links() -> list[str]:
    """Relative links of the documents that lead nowhere."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md"), *ROOT.glob("packages/*/*.md")]
    return [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]


def main() -> int:
    """Write the generated parts, or tell which are out of date."""
    write = "--write" in sys.argv[1:]
    problems = [f"dead link in {link}" for link in dead_links()]
    pages = {
        "docs/state-machines.md": state_machines(),
        "docs/permissions.md": permissions(),
        "docs/events.md": events(),
        "docs/decisions/README.md": decisions(),
        "README.md": readme(),
    }
    for name, text in pages.items():
        path = ROOT / name
        if write:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            problems.append(f"{name} is out of date: run `nox -s docs -- --write`")
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
