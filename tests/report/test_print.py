"""The page on paper: charts stay below their titles, and nothing that needs a screen is printed."""

import re
import shutil
import subprocess

import pytest

from tests.report.conftest import Made

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(not (CHROMIUM and shutil.which("pdftotext")), reason="needs Chromium and poppler")


@pytest.fixture(scope="module")
def sheets(made: Made, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the text of every printed sheet, blanks collapsed."""
    pdf = tmp_path_factory.mktemp("print") / "page.pdf"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={pdf}"]
    profile = f"--user-data-dir={pdf.parent / 'profile'}"
    subprocess.run([str(CHROMIUM), *options, profile, made.page.as_uri()], check=True, capture_output=True, timeout=200)
    done = subprocess.run(["pdftotext", pdf, "-"], check=True, capture_output=True, text=True)
    return [" ".join(sheet.split()) for sheet in done.stdout.split("\f")]


def test_figures_stay_with_their_titles_and_small_ones_whole(made: Made, sheets: list[str]) -> None:
    pattern = r'<figure class="figure".*?<h3>(.*?)</h3>\s*<figcaption class="caption">(.*?)</figcaption>(.*?)</figure>'
    figures = re.findall(pattern, made.text, flags=re.DOTALL)
    assert len(figures) >= 5
    for title, caption, content in figures:
        end = " ".join(re.sub(r"<[^>]+>", "", caption).replace("&nbsp;", " ").split())[-25:]
        table = f"Table: {title}" if content.count('class="panel"') <= 2 and "details" in content else ""
        assert any(title in sheet and end in sheet and table in sheet for sheet in sheets), title


def test_links_players_and_downloads_are_not_printed(sheets: list[str]) -> None:
    text = " ".join(sheets)
    for words in ("This figure as a file", "Download", "Skip to"):
        assert words not in text


def test_the_first_sheet_has_the_findings_and_their_chart(sheets: list[str]) -> None:
    assert "What was found" in sheets[0]
    assert "Accuracy of a linear probe for the technique" in sheets[0]
    assert "by sparsity, layer 3" in sheets[0]
