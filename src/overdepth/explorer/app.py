# /// script
# [tool.marimo.display]
# theme = "light"
# ///
"""The explorer as a marimo app: it lays out the controls of :mod:`overdepth.explorer.views`, and nothing else.

``overdepth explore`` serves it; ``python app.py --view=modes --depth=4`` runs it without a page.
"""

import marimo

app = marimo.App(width="full", app_title="overdepth explore", css_file="style.css")


@app.cell
def _():
    import marimo as mo

    from overdepth.explorer.controls import Choice, Slider, read, write
    from overdepth.explorer.drawing import PLOTLY
    from overdepth.explorer.page import body, standing
    from overdepth.explorer.views import VIEWS

    return Choice, PLOTLY, Slider, VIEWS, body, mo, read, standing, write


@app.cell
def _(VIEWS, mo):
    # Read once: a cell that went on listening to the address would build its controls anew at every move.
    asked = {**mo.cli_args().to_dict(), **mo.query_params().to_dict()}
    first = str(asked.get("view", "sweep" if asked.get("sweep") else next(iter(VIEWS))))
    unknown = [] if first in VIEWS else [f"view is {first!r}, expected one of {', '.join(VIEWS)}."]
    first = first if first in VIEWS else next(iter(VIEWS))
    kept = {first: asked}  # what was last set in every view
    return first, kept, unknown


@app.cell
def _(VIEWS, first, mo):
    tabs = mo.ui.radio([_view.title for _view in VIEWS.values()], value=VIEWS[first].title, inline=True)
    mo.Html(f'<div class="od-tabs">{tabs.text}</div>')
    return (tabs,)


@app.cell
def _(Choice, Slider, mo):
    def element(control, value):
        """Marimo's element for a control."""
        if isinstance(control, Slider):
            steps = list(control.steps)
            return mo.ui.slider(steps=steps, value=value, label=control.label, show_value=True, full_width=True)
        if isinstance(control, Choice):
            shown = {label: key for key, label in control.options.items()}
            return mo.ui.dropdown(
                shown, value=control.options[value], label=control.label, allow_select_none=False, full_width=True
            )
        return mo.ui.text(value=value, label=control.label, placeholder=control.placeholder, full_width=True)

    return (element,)


@app.cell
def _(VIEWS, element, kept, mo, read, tabs):
    view = next(_view for _view in VIEWS.values() if _view.title == tabs.value)
    _values, wrong = read(view.controls, kept.get(view.key, {}))
    dials = mo.ui.dictionary({_c.key: element(_c, _values[_c.key]) for _c in view.controls})
    return dials, view, wrong


@app.cell
def _(dials, element, kept, mo, read, view):
    further = view.further(dials.value)
    _values, _ = read(further, kept.get(view.key, {}))
    more = mo.ui.dictionary({_c.key: element(_c, _values[_c.key]) for _c in further})
    return further, more


@app.cell
def _(PLOTLY, body, dials, mo, more, standing, unknown, view, wrong):
    _wrong = [*unknown, *wrong]
    try:
        _shown = view.show({**dials.value, **more.value})
        _text, _pictures = (
            _shown.text,
            [
                (_p.title, _p.caption, standing(mo.ui.plotly(_p.figure, config=PLOTLY).text, f"{view.key}-{_i}"))
                for _i, _p in enumerate(_shown.pictures)
            ],
        )
    except ValueError as _error:
        _text, _pictures = "", []
        _wrong.append(str(_error))
    _controls = [_element.text for _group in (dials, more) for _element in _group.elements.values()]
    mo.Html(body(_controls, view.says, _text, _pictures, _wrong))
    return


@app.cell
def _(VIEWS, dials, further, kept, mo, more, view, write):
    _values = {**dials.value, **more.value}
    _address = {"view": view.key} if view.key != next(iter(VIEWS)) else {}
    _address.update(write([*view.controls, *further], _values))
    kept[view.key] = {_key: str(_value) for _key, _value in _values.items()}
    _params = mo.query_params()
    for _key in [_key for _key in _params.to_dict() if _key not in _address]:
        _params.remove(_key)
    for _key, _value in _address.items():
        if _params.get(_key) != _value:
            _params.set(_key, _value)
    return


if __name__ == "__main__":
    app.run()
