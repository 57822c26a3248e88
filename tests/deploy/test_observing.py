"""Dashboards and alerts ask for what /metrics tells, and for nothing else."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from api.metrics.names import METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus" / "rules" / "modelyard.yml"
SERIES = {series for each in METRICS.values() for series in each.series()}
OTHERS = {"up"}
"""Prometheus' own."""
LABELS = {series: {*each.labels} for each in METRICS.values() for series in each.series()}
BY_PROMETHEUS = {"instance", "job", "le"}


def boards() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in BOARDS:
        yield path.stem, cast(dict[str, Any], json.loads(path.read_text()))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for name, board in boards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"].replace("$__rate_interval", "5m")
    for rule in rules():
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_name_what_is_told(where: str, expression: str) -> None:
    named = set(re.findall(r"\bmodelyard_\w+|\bup\b", expression))
    assert named, where
    assert named <= SERIES | OTHERS
    known = set().union(*(LABELS.get(each, set()) for each in named)) | BY_PROMETHEUS
    for selector in re.findall(r"\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= known
    for grouped in re.findall(r"(?:by|without|ignoring) \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= known
    for name in named & METRICS.keys():
        if METRICS[name].kind == "counter":
            assert re.search(rf"(rate|increase)\({name}", expression), "of a counter only its growth says something"


def test_every_metric_is_looked_at() -> None:
    asked = " ".join(expression for _, expression in expressions())
    unseen = {name for name, each in METRICS.items() if not any(re.search(rf"\b{s}\b", asked) for s in each.series())}
    assert unseen <= {"modelyard_store_measured_timestamp_seconds", "modelyard_models_enabled"}


def test_alerts_say_what_to_do() -> None:
    for rule in rules():
        assert rule["annotations"].keys() == {"summary", "hint"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_prometheus_and_grafana_are_pointed_at_them() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert RULES in [path for each in config["rule_files"] for path in (DEPLOY / "prometheus").glob(each)]
    assert "modelyard" in [each["job_name"] for each in config["scrape_configs"]], "an alert names it"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/modelyard.yml").read_text())["providers"]
    assert Path(provider["options"]["path"]).name == BOARDS[0].parent.name


def test_boards_are_whole() -> None:
    assert {name for name, _ in boards()} == {"overview", "jobs", "devices"}
    for name, board in boards():
        assert board["uid"] == f"modelyard-{name}"
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in board["panels"]]
        cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
        assert len(cells) == len(set(cells)), "panels lie on each other"
        assert max(x for x, _ in cells) < 24


def test_prometheus_own_tool_reads_them(tmp_path: Path) -> None:
    if (tool := shutil.which("promtool")) is None:
        pytest.skip("promtool is missing: `apt install prometheus`")
    recorded = [{"record": f"x{number}", "expr": each} for number, (_, each) in enumerate(expressions())]
    both = tmp_path / "boards.yml"
    both.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": recorded}]}))
    for path in (RULES, both):
        told = subprocess.run([tool, "check", "rules", path], capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
