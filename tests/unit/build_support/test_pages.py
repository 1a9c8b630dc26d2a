"""What the pages for people point at is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[3]
PAGES = sorted(path for path in (*TREE.glob("*.md"), *TREE.glob("docs/*.md")))
ROOMS = {path.name for path in TREE.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"build", "dist"}


def name(page: Path) -> str:
    return str(page.relative_to(TREE))


def paths(page: Path) -> Iterator[str]:
    """Files and folders of the tree that stand between backticks, by their whole path."""
    for word in re.findall(r"`([\w./-]+/[\w./-]*)`", page.read_text()):
        if word.partition("/")[0] in ROOMS:
            yield word


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_path_that_a_page_names_exists(page: Path) -> None:
    """A table of what to edit is worth nothing once a file has moved."""
    assert [path for path in paths(page) if not (TREE / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_somewhere(page: Path) -> None:
    """To a file of the tree, and to a heading that it has."""
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_table_of_what_to_edit_names_whole_paths() -> None:
    """A bare file name could be any room's."""
    table = [line for line in (TREE / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")][2:]
    words = [word for line in table for word in re.findall(r"`([\w./-]+\.(?:py|yaml|md))`", line)]
    assert words
    assert [word for word in words if "/" not in word] == []
