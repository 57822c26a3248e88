"""Writes the pages of docs/ that follow from the code: `python -m deploy.docs`. A test fails where they are stale."""

import json
from pathlib import Path
from typing import Any

from deploy.environment import variables
from shared.contract import Contract
from shared.contracts import KINDS
from shared.queues import DEVICE, INTAKE, lane_queues
from shared.states import Priority

LINE = 120
DOCS = Path(__file__).resolve().parent.parent / "docs"


def contracts_page() -> str:
    """Every kind of job, its queue, its arguments, and a message that a test sends."""
    sections = [_section(contract) for _, contract in sorted(KINDS.items())]
    return "\n".join([CONTRACTS_HEAD, *sections])


def configuration_page() -> str:
    """Every setting by group."""
    rows = [
        f"| `{each.name}` | {f'`{each.default}`' if each.default else '–'} | {each.description} |"
        for each in variables()
    ]
    return "\n".join([CONFIGURATION_HEAD, *rows, ""])


def _section(contract: type[Contract]) -> str:
    device = contract.lane == DEVICE
    lane = "device.<id>" if device else contract.lane
    queue = INTAKE if device else lane_queues(contract.lane)[Priority(contract.priority)]
    text = " ".join((contract.__doc__ or "").split())
    schema = contract.model_json_schema(by_alias=False)
    fields = [
        f"| `{name}` | `{_type(schema['properties'][name], schema.get('$defs', {}))}` "
        f"| {'required' if field.is_required() else f'`{json.dumps(field.default)}`'} |"
        for name, field in contract.model_fields.items()
    ]
    return "\n".join(
        [
            f"## `{contract.kind}`",
            "",
            text,
            "",
            f"Lane `{lane}`, {contract.priority.name} unless the queue or `priority` says otherwise.",
            "",
            "| argument | type | default |",
            "|---|---|---|",
            *fields,
            "",
            "```python",
            _message(contract, queue),
            "```",
            "",
        ]
    )


def _type(schema: dict[str, Any], named: dict[str, Any]) -> str:
    """What a sender writes there, in JSON's words; that it may be left out, its default tells."""
    if "$ref" in schema:
        schema = named[schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        return " or ".join(_type(one, named) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if schema["type"] == "array":
        return f"array of {_type(schema['items'], named)}"
    return str(schema["type"])


def _message(contract: type[Contract], queue: str) -> str:
    """The call that sends it, in lines of no more than 120 characters."""
    parts = [
        f'"{contract.kind}"', f"kwargs={json.dumps(contract.example)}", f'queue="{queue}"', "ignore_result=True",
    ]  # fmt: skip
    line = f"app.send_task({', '.join(parts)})"
    return line if len(line) <= LINE else "\n".join(["app.send_task(", *(f"    {part}," for part in parts), ")"])


CONTRACTS_HEAD = """# Kinds of jobs

What another service sends with a plain Celery client: JSON, named arguments, no import of ours. The task's id becomes
the job's id, so `GET /api/v1/jobs/{task_id}` tells what became of it; a message that does not fit becomes a `rejected`
job with the reason. The same id sent twice is one job.

| queue | what happens |
|---|---|
| `modelyard.p0.io` … `modelyard.p3.io` | runs there; 0 is CRITICAL, 1 HIGH, 2 MEDIUM, 3 LOW |
| `modelyard.p0.device.<id>` … `p3` | runs on that device |
| `modelyard.intake`, or Celery's default `celery` | filed to the right lane at the kind's default priority |

An argument `priority` (`CRITICAL`, `HIGH`, `MEDIUM`, `LOW`) overrides the queue's. Celery's own priority field has no
effect. A message is safe once its row exists: until `GET /api/v1/jobs/{task_id}` answers 200 you may send it again with
the same id, or use `POST /api/v1/…`, which answers only after the row is committed.
"""

CONFIGURATION_HEAD = """# Configuration

Environment variables, read once when a process starts. `.env.example` has them all with their defaults.

| variable | default | meaning |
|---|---|---|"""


def main() -> None:
    (DOCS / "contracts.md").write_text(contracts_page(), encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
