"""What happens to a page while the site is built, piece by piece."""

from __future__ import annotations

import pytest
from docs.hooks.command_line import described
from docs.hooks.command_line import on_page_markdown as with_commands
from docs.hooks.docstrings import rewritten
from docs.hooks.mathematics import on_page_content as with_formulas
from docs.hooks.notebooks import to_markdown, to_notebook
from docs.hooks.tables import on_page_content as with_cards

PAGE = """# Title

Text.

```python
x = 1
```

<!-- not run: it needs two machines -->
```python
y = 2
```

End.
"""


def test_a_page_becomes_a_notebook_of_the_blocks_that_run() -> None:
    notebook = to_notebook(PAGE)
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"] == ["x = 1"]
    assert "y = 2" in notebook.cells[-1].source
    again = to_markdown(notebook, "page", lambda name, content: None)
    assert again == PAGE


def test_outputs_follow_their_block_and_pictures_become_files() -> None:
    notebook = to_notebook(PAGE)
    form = pytest.importorskip("nbformat.v4")
    notebook.cells[1].outputs = [
        form.new_output("stream", text="one\n"),
        form.new_output("stream", text="two\n"),
        form.new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": "<Figure>"}),
    ]
    files: dict[str, str] = {}
    text = to_markdown(notebook, "page", files.__setitem__)
    assert "x = 1\n```\n\n```{ .text .output }\none\ntwo\n```\n" in text
    assert "page-1.svg" in text
    assert "<Figure>" not in text
    assert files == {"page-1.svg": "<svg/>"}


def test_formulas_become_mathml() -> None:
    found = with_formulas(
        '<p><span class="arithmatex">\\(a_1 &lt; b\\)</span></p><div class="arithmatex">\\[x\\]</div>'
    )
    assert found.count("<math") == 2
    assert 'display="block"' in found
    assert "&lt;" in found or "&#x0003C;" in found
    assert "\\" not in found


def test_docstrings_are_read_as_markdown() -> None:
    text = rewritten("As :func:`~od.f` has W* and ``a<b``, <g, u>.\n\n.. math:: a\n    + b\n\nExample:\n    >>> 1 <b\n")
    assert "As `od.f` has W\\* and ``a<b``, &lt;g, u>." in text
    assert "$$a + b$$" in text
    assert "Examples:\n    >>> 1 <b" in text
    assert rewritten("References:\n    A, B.\n") == "**Source.** A, B.\n"


def test_wide_tables_of_words_become_cards() -> None:
    head = "<table><thead><tr><th>a</th><th>b</th><th>c</th></tr></thead><tbody>"
    words = f"{head}<tr><td>{'word ' * 10}</td><td>1</td><td></td></tr></tbody></table>"
    found = with_cards(words)
    assert found.startswith("<table data-cards>")
    assert '<td data-label="b">1</td>' in found
    numbers = f"{head}<tr><td>1</td><td>2</td><td>3</td></tr></tbody></table>"
    assert with_cards(numbers) == numbers


def test_commands_describe_themselves() -> None:
    text = with_commands("# Commands\n\n<!-- commands -->\n")
    assert "## `overdepth reproduce`" in text
    assert "--scaling" in text
    assert "```\noverdepth rates --preset imbalance --out rates\n```" in text
    assert all("None" not in section for section in described())
    assert with_commands("no mark") == "no mark"
