"""Hooks of the site (mkdocs.yml): equations as MathML, and links to files outside docs/.

The pages are written for GitHub, too, which renders $...$ and follows links to any file of the
repository. The site has the equations as MathML, which browsers render without a script, and copies
of the linked files.
"""

import html
import re
import unicodedata
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
FOLDER = "repository"  # of the site: files of the repository that pages link to
_LINK = re.compile(r"(?<=\]\()((?:\.\./)+)([^)#\s]+)(?:#[^)\s]*)?(?=\))")
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def outside_links(markdown, page):
    """Returns the repository files outside docs/ that a page, a path in docs/, links to."""
    found = {}
    for match in _LINK.finditer(markdown):
        path = ((ROOT / "docs" / page).parent / match[1] / match[2]).resolve()
        if not path.is_relative_to(ROOT / "docs"):
            found[match[0]] = path
    return found


def _copy_of(path):
    """Returns where the site has a file; Markdown as text, since it is no page of the site."""
    return f"{FOLDER}/{path.relative_to(ROOT)}{'.txt' if path.suffix == '.md' else ''}"


def on_files(files, config):
    """Adds the files outside docs/ that pages link to."""
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for path in outside_links(page.content_string, page.src_uri).values():
            uri = _copy_of(path)
            if path.is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links to files outside docs/ to their copies."""
    for link, path in outside_links(markdown, page.file.src_uri).items():
        up = "../" * page.file.src_uri.count("/")
        copy = f"{up}{_copy_of(path)}"
        markdown = re.sub(rf"(?<=\]\(){re.escape(link)}(?=\))", copy, markdown)
    return markdown


def on_page_content(content, page, config, files):
    """Replaces LaTeX by MathML; raises an error if LaTeX is invalid."""

    def mathml(match):
        display = "block" if match[1] == "div" else "inline"
        return _for_browsers(convert(html.unescape(match[2]), display=display))

    return _EQUATION.sub(mathml, content)


def _for_browsers(mathml):
    """Replaces attributes that browsers ignore by letters, and spaces the names of functions."""

    def letter(match):
        style = match[1].upper()
        return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {style} CAPITAL {match[2]}')}</mi>"

    mathml = re.sub(r'<mi mathvariant="(script|double-struck)">([A-Z])</mi>', letter, mathml)
    mathml = re.sub(r"<mo>([a-z]{2,})</mo>", r"<mi>\1</mi>", mathml)
    names = r"(<mi>(?:log|tan|arctan)</mi>)(?!<mo)"
    return re.sub(names, r'\1<mspace width="0.17em"/>', mathml)
