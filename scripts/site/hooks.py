"""What the site needs beside docs/: pages that lie elsewhere in the repository, and links to them.

The pages of docs/ are read on a code host too, so their links lead to where files are in the
repository. Here such links lead to the page of the site, and words that lead to a file without a
page stay words.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

SITE = Path(__file__).parent
ROOT = SITE.parents[1]
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{
        f"examples/{name}/README.md": f"examples/{name}.md"
        for name in ("plugin", "python", "table")
    },
    **{
        f"scripts/bench/{name}.md": f"bench/{name}.md"
        for name in ("sharing", "weightings", "balancing", "copies", "speed")
    },
}
"""File in the repository -> page of the site."""
PAGES = ELSEWHERE | {
    "README.md": "index.md",
    **{f"examples/{name}": f"examples/{name}.md" for name in ("plugin", "python", "table")},
}
SOURCES = {page: file for file, page in ELSEWHERE.items()}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of docs/."""
    for file, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    files.append(File.generated(config, "site.css", abs_src_path=str(SITE / "site.css")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page with links that lead to pages of the site."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def led(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        there = PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(there) is None:
            # A misspelt link stays, so that mkdocs complains of it.
            return text if (ROOT / target).exists() else match[0]
        here = posixpath.dirname(page.file.src_uri) or "."
        return f"[{text}]({posixpath.relpath(there, here)}{anchor})"

    # Links have code in them ([`hard`](...)), so that only blocks are left out.
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(led, part) for part in parts)
