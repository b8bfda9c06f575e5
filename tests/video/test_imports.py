"""The rule of CONTRIBUTING.md: one package opens videos and pictures."""

import ast
from pathlib import Path

import vdm


def test_vdm_video_alone_imports_pyav_and_pillow():
    package = Path(vdm.__file__).parent
    importing = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if {name.split(".")[0] for name in names} & {"av", "PIL"}:
                importing.add(path.relative_to(package).parts[0])
    assert importing == {"video"}
