"""Prose in the repository uses standard terms: none of the phrases below, and no such names."""

import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Regular expressions, and what to write instead. A space matches any line break between words.
PHRASES = {
    r"turned around": "transposed, flipped or rotated",
    r"(of|by) chance": "random",
    r"rooms?": "capacity, memory or space",
    r"(go|goes|going|gone|went) on": "resumes or continues",
    r"(is|are|was|were|be|were) not (here|there)": "unattached, missing or unavailable",
    r"need not be (here|there)": "unattached",
    r"at hand": "available",
    r"at a time": "per call, per step, or a maximum",
    r"in turns?": "alternately or interleaved",
    r"for the sake of": "for",
    r"(is|are|was|were|be) said": "reports, logs, raises or prints",
    r"says? so": "reports, logs, raises or prints",
    r"what (is|are|was|were|there is|there was)( not)? (given|observed|wanted|wrong|missing)": (
        "the observed frames, the missing frames, or the error"
    ),
    r"what there (is|was)": "name the thing",
    r"given frames": "observed frames",
    r"wanted back": "preempted",
    r"(is|are|was|were|be|being) made": "created, built, computed or drawn",
    r"(maker|makers)('s|')?": "vendor",
    r"a row a video|a column a frame": "one row per video, one column per frame",
    r"to the letter": "exactly",
    r"before it is past|as (it is|they are) (read|derived)": "rewrite the sentence",
    r"the derived gradients?": "autodiff's gradient",
    r"both ends of the version ranges?": "the oldest and newest supported versions",
    r"(is|are|was|were|be) of another model": "was trained with a different model",
    r"the place (of|in|where)|its place in": "index, position or slot",
    r"without a word|last words?": "error message",
    r"gives? way to": "is replaced by",
}
# Parts of identifiers, and what to write instead.
NAMES = {
    r"_?most_(?!common)\w*": "max_",
    r"_?least_(?!squares)\w*": "min_",
    r"towards_\w*": "grad_",
    r"nothing": "zeros",
    r"(is|was)_said|says_so": "reports",
    r"places": "indices or positions",
}

ROOMS = {
    room: sorted(path for path in (ROOT / room).rglob("*") if path.is_file())
    for room in ("configs", "benchmarks", "checkpoints", "launch", "docs")
}
ROOMS |= {
    str(folder.relative_to(ROOT)): sorted(folder.rglob("*"))
    for folder in (ROOT / "vdm").iterdir()
    if folder.is_dir() and folder.name != "__pycache__"
}
ROOMS |= {"vdm": sorted((ROOT / "vdm").glob("*.py"))}
ROOMS |= {"pages": [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]}
SUFFIXES = {".py", ".md", ".sh", ".yaml", ".sbatch", ""}


def _pattern(phrases):
    """Returns one pattern for all phrases; words may be on two lines of a comment or string."""
    joined = "|".join(f"(?:{phrase})" for phrase in phrases)
    return re.compile(rf"\b(?:{joined})\b".replace(" ", r"(?:[\s#]|\"\s+f?\")+"), re.IGNORECASE)


def _masked(source, kinds):
    """Returns Python source with all tokens blanked but those of some kinds; same line numbers."""
    lines = [list(line) for line in source.splitlines()]
    kept = [[" "] * len(line) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in kinds:
            continue
        (first, start), (last, end) = token.start, token.end
        for row in range(first, last + 1):
            begin = start if row == first else 0
            stop = end if row == last else len(lines[row - 1])
            kept[row - 1][begin:stop] = lines[row - 1][begin:stop]
    return "\n".join("".join(line) for line in kept)


STRINGS = {tokenize.COMMENT, tokenize.STRING}
STRINGS |= {getattr(tokenize, name) for name in ("FSTRING_MIDDLE",) if hasattr(tokenize, name)}


def find(source, *, is_python):
    """Yields (line, phrase) of each phrase or name that style excludes."""
    texts = [(_masked(source, STRINGS) if is_python else source, _pattern(PHRASES))]
    if is_python:
        names = "|".join(NAMES)
        texts.append((_masked(source, {tokenize.NAME}), re.compile(rf"\b(?:{names})\b", re.I)))
    for text, pattern in texts:
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_prose_uses_standard_terms(room):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase}"
        for path in ROOMS[room]
        if path.suffix in SUFFIXES and path.is_file() and "__pycache__" not in path.parts
        for line, phrase in find(path.read_text(), is_python=path.suffix == ".py")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_file_has_a_conflict_marker_of_a_merge(room):
    marker = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)
    files = [path for path in ROOMS[room] if path.suffix in SUFFIXES and path.is_file()]
    assert not [path for path in files if marker.search(path.read_text())]


def test_finds_phrases_across_lines_and_names_in_code():
    source = '''"""Nothing is drawn in an order of
chance."""
# The machines are wanted
# back.
_MOST_GROUPS = print("a row"
                     " a video")
at_least = "nothing is at_hand"
'''
    assert list(find(source, is_python=True)) == [
        (1, "of chance"),
        (3, "wanted # back"),
        (5, 'a row" " a video'),
        (5, "_MOST_GROUPS"),
    ]
