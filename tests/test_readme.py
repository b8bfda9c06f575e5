"""README.md: its examples run, its links exist, and its tables and citation agree with others."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import vdm
from vdm.metrics.weights.files import load_weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "checkpoints").glob("*.md")),
]


def _section(name):
    return README.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def _examples(section):
    return re.findall(r"```python\n(.*?)```", _section(section), re.DOTALL)


def _rows(section):
    lines = [line for line in _section(section).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.usefixtures("quick_compilation_once")
def test_the_examples_from_python_run(monkeypatch, tmp_path):
    load = vdm.load

    def load_with_few_steps(path):
        model = load(path)
        model.config.sample.update(num_steps=2, batch_size=4)
        return model

    monkeypatch.setattr(vdm, "load", load_with_few_steps, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real_videos").mkdir()
    for index, side in enumerate((12, 12, 14)):
        video = np.random.default_rng(index).integers(256, size=(16, side, side, 3), dtype=np.uint8)
        np.savez(tmp_path / "real_videos" / f"{index}.npz", video=video)
    names = {"__name__": "readme"}
    first, second, metrics = _examples("From Python")
    exec(first, names)
    assert names["videos"].shape == (4, 16, 12, 12, 1) and names["videos"].dtype == np.uint8
    exec(second, names)
    np.testing.assert_array_equal(names["predicted"][:, :4], names["videos"][:, :4])
    np.testing.assert_array_equal(names["longer"][:, :16], names["videos"])
    np.testing.assert_array_equal(names["between"][:, ::2], names["videos"][:, ::2])
    assert names["longer"].shape == (4, 24, 12, 12, 1)
    try:
        load_weights("i3d")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with pytest.warns(UserWarning, match="too few for the covariance"):
        exec(metrics, names)
    assert names["distance"] > 0


def test_the_example_of_the_mathematics_runs():
    names = {}
    (example,) = _examples("The mathematics alone")
    exec(example, names)
    assert names["x"].shape == (4, 16, 1, 1, 1)


def test_links_lead_to_files():
    actions = "../../actions/workflows/"  # from the README of a repository on GitHub
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            path = page.parent / target
            if target.startswith(actions):
                name = target.removeprefix(actions).removesuffix("/badge.svg")
                path = ROOT / ".github/workflows" / name
            if "://" not in target:
                assert path.exists(), f"{page.name} links to {target}"


def test_the_citations_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vdm.__version__ and f"Version {vdm.__version__}}}" in README
    assert f"title  = {{{citation['title']}}}" in README
    (paper,) = citation["references"]
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert authors in re.sub(r"\s+", " ", README) and f"{{{paper['title']}}}" in README


def test_predicted_memory_and_hours_are_those_of_the_configurations():
    found, name = [], ""
    for model, hardware, _, memory, hours in _rows("Hardware, memory and hours"):
        name = model.strip("`") or name
        if "predicted" not in memory:
            continue
        page = (ROOT / "configs" / f"{name}.py").read_text()
        row = f"{hardware} {memory} {hours} hours".replace("predicted: ", "")
        assert row in re.sub(r" +", " ", page), row
        found.append(name)
    models = ["ucf101", "bair", "kinetics600", "text_small", "text_large", "text_9x128"]
    assert found == [model for model in models for _ in range(2)]


def test_each_row_of_the_comparison_has_a_file_for_each_project():
    page = (ROOT / "docs" / "comparison.md").read_text()
    for project in page.split("\n## ")[1:]:
        for name, *_ in _rows("Compared with other code"):
            assert name in project, f"{project.splitlines()[0]} has no file for {name}"
