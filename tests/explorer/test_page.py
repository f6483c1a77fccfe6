"""The page's markup: everything that is not ours is shown as it is."""

from __future__ import annotations

from overdepth.explorer.page import body, inline


def test_text_is_escaped_and_marked_up() -> None:
    assert inline("a **b** `c`") == "a <b>b</b> <code>c</code>"
    assert inline("<script>alert(1)</script>") == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_a_view_has_its_parts() -> None:
    html = body(["<i>dial</i>"], "says", "text", [("<title>", "<caption>", "<b>figure</b>")], ["<wrong>"])
    for part in ("<i>dial</i>", "<b>figure</b>", "&lt;title&gt;", "&lt;caption&gt;", "&lt;wrong&gt;", 'role="alert"'):
        assert part in html
    assert "<wrong>" not in html
    assert "od-wrong" not in body([], "says", "text", [], [])
