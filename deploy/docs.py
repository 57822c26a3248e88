"""Writes the pages of docs/ that follow from the code: `python -m deploy.docs`. A test fails where they are stale."""

import json
from pathlib import Path
from typing import Any

from api.metrics.names import METRICS
from deploy.environment import variables
from shared.contract import Contract
from shared.contracts import KINDS
from shared.queues import DEVICE, INTAKE, queue_name
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


def metrics_page() -> str:
    """Every metric."""
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels) or '–'} | {each.help} |"
        for each in METRICS.values()
    ]
    return "\n".join([METRICS_HEAD, *rows, ""])


def _section(contract: type[Contract]) -> str:
    device = contract.lane == DEVICE
    lane = "device.<id>" if device else contract.lane
    queue = INTAKE if device else queue_name(Priority(contract.priority), contract.lane)
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

METRICS_HEAD = """# Metrics

`GET /metrics` tells them in Prometheus' text format. With a key set, the scrape sends it:

```yaml
scrape_configs:
  - job_name: modelyard
    authorization: {credentials_file: /etc/prometheus/modelyard.key} # modelyard key add prometheus --role viewer
    static_configs: [{targets: ["127.0.0.1:8000"]}]
rule_files: [rules/*.yml] # those of deploy/prometheus/rules
```

Alerts are in `deploy/prometheus/rules/modelyard.yml`; `deploy/grafana/dashboards/` has three dashboards, overview,
jobs and devices. With `docker-compose.yml` all of it is there from the start.

- A scrape asks the database some twenty questions, however many models and jobs there are, and Redis three; all who
  scrape within a second get one answer. Only the API tells: workers and runners leave what they do in the database.
- What the API itself does (`modelyard_gateway_…`, `modelyard_event…`) is of the process that was scraped: sum it over
  several. All else is of the whole service, and each API process tells the same: take `max without (instance)`.
- Counters begin at zero with the API process. Jobs are counted when they end, wherever they ran, by what the ledger has
  of them at the next scrape. One that failed and was retried ends twice; where it was retried before the next scrape,
  only its last end is counted. What ends while no API process runs is not counted.
- No series is made for each model of the registry, nor for each job. `model` is a label of what lies in a device's
  memory alone, at most 100. Kinds that nobody knows are `unknown`.
- Where the database or Redis is away the answer is 200 all the same, with `modelyard_database_up` or
  `modelyard_redis_up` at 0, and without what they would have told. Beside these there are Python's `process_…` and
  `python_gc_…`.

| metric | type | labels | meaning |
|---|---|---|---|"""


def main() -> None:
    (DOCS / "contracts.md").write_text(contracts_page(), encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration_page(), encoding="utf-8")
    (DOCS / "metrics.md").write_text(metrics_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
