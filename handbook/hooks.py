"""Events of mkdocs (`hooks` in mkdocs.yml). They add pages of other folders, and pages generated from the code."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from handbook.commands import commands_page
from handbook.links import DOWNLOADS, GENERATED, PAGES, for_site
from handbook.settings import settings_page

WRITERS = {"settings.md": settings_page, "commands.md": commands_page}
"""Name on the site of each page in GENERATED -> function that returns the page as Markdown."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent
    for path, name in (PAGES | DOWNLOADS).items():
        files.append(File.generated(config, name, abs_src_path=str(root / path)))
    for name in GENERATED:
        files.append(File.generated(config, name, content=WRITERS[name]()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return for_site(markdown, page.file.src_uri)
