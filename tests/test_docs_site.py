"""The site of the pages builds without a warning, and its examples run."""

import pathlib
import re
import subprocess
import sys

import pytest

from vdm.diffusion.samplers import SAMPLERS

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds the site with warnings as errors, among them dead links and anchors."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not built.returncode, built.stderr
    return folder


def test_every_page_is_in_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        path = site / page.relative_to(ROOT / "docs").with_suffix("")
        assert (path.parent if path.name == "index" else path).joinpath("index.html").exists(), page


def test_links_between_built_pages_lead_to_files_and_anchors(site):
    """Checks the HTML, too: mkdocs does not see the links of the API reference and of tables."""
    ids = {
        page: set(re.findall(r'\bid="([^"]+)"', page.read_text())) for page in site.rglob("*.html")
    }
    for page in ids:
        if page.name == "404.html":  # its links are absolute
            continue
        for target in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            path, _, anchor = target.partition("#")
            if "://" in path or path.startswith(("mailto:", "data:")):
                continue
            found = (page.parent / path).resolve() if path else page
            found = found / "index.html" if found.is_dir() else found
            assert found.exists(), f"{page.relative_to(site)} links to {target}"
            if anchor and found in ids:
                assert anchor in ids[found], f"{page.relative_to(site)} links to {target}"


def test_equations_are_mathml(site):
    page = (site / "mathematics" / "index.html").read_text()
    source = (ROOT / "docs" / "mathematics.md").read_text()
    assert page.count('display="block"') == len(re.findall(r"^\$\$", source, re.MULTILINE))
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "arithmatex" not in text and "$" not in text


def test_the_site_loads_nothing_from_other_servers(site):
    for page in site.rglob("*.html"):
        sources = r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"'
        loaded = re.findall(sources, page.read_text())
        assert not loaded, f"{page.relative_to(site)} loads {loaded}"


def _examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_example_of_a_sampler_is_more_accurate_than_ddim(monkeypatch):
    monkeypatch.setattr("vdm.diffusion.samplers.SAMPLERS", dict(SAMPLERS))  # the example adds to it
    names = _run(_examples("extending.md")[0])
    errors = {name: abs(deviation - 0.5) for name, deviation in names["deviations"].items()}
    assert errors["midpoint"] < 0.005 < errors["ddim"]


def test_the_example_of_a_data_set_runs():
    names = _run(_examples("extending.md")[1])
    batch = names["batch"]
    assert batch["video"].shape == (4, 8, 16, 16, 1) and batch["label"].shape == (4,)
    assert ((batch["video"] == 1).sum((2, 3, 4)) == 16).all()
    assert names["bars"].caption(0) == f"a bar that moves by {batch['label'][0]} pixels"


def test_the_example_of_an_observation_runs():
    names = _run(_examples("extending.md")[2])
    assert names["coloured"].std(-1).mean() > 0.2  # colours differ, and their mean is observed
    assert names["error"] < 0.06
    with pytest.raises(ValueError, match="do not fit"):
        names["ObservedGrey"](names["grey"]).check((8, 4, 2, 3, 3))


def test_the_example_of_a_metric_runs():
    distances = _run(_examples("extending.md")[3])["distances"]
    assert distances["itself"] == pytest.approx(0, abs=1e-9) and distances["noise"] > 1


def test_the_example_of_conditional_sampling_runs():
    (example,) = _examples("conditional_sampling.md")
    means = _run(example)["x"].mean(0).squeeze()
    assert means[:4] == pytest.approx(0.8) and 0 < means[15] < 0.8 * 0.95**12


def test_all_other_examples_are_tested():
    """Not run: quickstart.md and own_videos.md, whose calls tests/test_readme.py makes."""
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    tested = {
        "extending.md": 4,
        "conditional_sampling.md": 1,
        "quickstart.md": 1,
        "own_videos.md": 1,
    }
    assert {page: len(_examples(page)) for page in pages if _examples(page)} == tested


def _run(example):
    names = {"__name__": "page"}
    exec(compile(example, "example", "exec", dont_inherit=True), names)
    return names
