"""The widgets of the page: a form and an answer for each model. The only module that imports Gradio."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by Gradio when it is imported

import gradio as gr
from gradio import themes
from gradio.components import Component

from ..tasks.base import Task
from .render import STYLE, page_of, refusal
from .shelf import Place
from .tabs import Choice, Field, Line, Number, Sketch, Slider, Tab

TITLE = "flowmaps"
LEAD = "Samples in one or a few network evaluations. Everything runs on this machine."
WAITING = 64  # requests of all users that wait; more are told so
AT_ONCE = 2

Explain = Callable[[Exception], str]
Handler = Callable[..., tuple[str, str]]

CLICKS = """
const tell = (event) => {
  const place = event.target.closest('[data-place]');
  if (place) { event.preventDefault(); trigger('click', { place: place.dataset.place }); }
};
element.addEventListener('click', tell);
element.addEventListener('keydown', (event) => { if (event.key === 'Enter') tell(event); });
"""  # places of a drawing by their names, with the mouse or from the keyboard


def build(places: Sequence[Place], explain: Explain) -> gr.Blocks:
    """The page.

    Arguments:
        places: The modalities with their models.
        explain: From any exception to what the user is told.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, elem_classes="fm-page") as page:
        gr.HTML(f'<div class="fm-head"><h1>{TITLE}</h1><p>{LEAD}</p></div>')
        with gr.Tabs():
            for k, place in enumerate(places):
                with gr.Tab(place.title) as outer:
                    first = _place(place, explain)
                if first is not None:
                    event = page.load if k == 0 else outer.select
                    event(**first)
    return page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE)


def _place(place: Place, explain: Explain) -> dict | None:
    """One modality; what draws the first answer of its first model."""
    for line in place.missing:
        gr.HTML(refusal(line))
    if len(place.tabs) < 2:
        return _tab(place.tabs[0], explain) if place.tabs else None
    events = []
    with gr.Tabs():
        for tab in place.tabs:
            with gr.Tab(tab.name) as inner:
                events.append(_tab(tab, explain))
            if len(events) > 1:
                inner.select(**events[-1])
    return events[0]


def _tab(tab: Tab[Task], explain: Explain) -> dict:
    """The form of one model and its answers; what draws an answer."""
    fields = tab.fields()
    gr.HTML(f'<p class="fm-about">{tab.about}</p>')
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            widgets, lively = [], []
            for field in fields:
                widgets.append(_widget(field))
                if isinstance(field, Slider) and field.lively:
                    lively.append(widgets[-1].release)
                if isinstance(field, Sketch):
                    _sketch(field, widgets[-1])
                if isinstance(field, Line):
                    lively.append(widgets[-1].submit)
            go = gr.Button("Draw", variant="primary")
        with gr.Column(scale=3):
            answer = gr.HTML(min_height=320)
            text = gr.Textbox(label=tab.copied, lines=3, max_lines=8, buttons=["copy"], interactive=False,
                              visible=bool(tab.copied))  # fmt: skip
    wiring = {
        "fn": handler(tab, [field.name for field in fields], explain),
        "inputs": widgets,
        "outputs": [answer, text],
        "api_visibility": "private",
        "show_progress": "minimal",
        "trigger_mode": "always_last",
    }
    for event in (go.click, *lively):
        event(**wiring)
    return wiring


def _sketch(field: Sketch, box: gr.Textbox) -> None:
    """The picture of a text, and the tools of a click on it, which are there as soon as there is a text."""
    tool = gr.Radio(list(field.tools), value=field.tools[0], label="A click on the drawing", visible=False,
                    elem_classes="fm-tools")  # fmt: skip
    picture = gr.HTML(field.drawn("", ""), js_on_load=CLICKS)
    quick = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    box.change(lambda text: (field.drawn(text, ""), gr.Radio(visible=bool(text))), box, [picture, tool], **quick)
    picture.click(clicks(field), [box, tool], [box, picture], **quick)


def clicks(field: Sketch) -> Callable[[str, str, gr.EventData], tuple[object, object]]:
    """From a text, a tool and a click to the text after it; what cannot be is said beside the picture.

    A changed text is drawn by its own event, once: a picture that is drawn again under the mouse loses a click.
    """

    def click(text: str, tool: str, event: gr.EventData) -> tuple[object, object]:
        try:
            found = field.clicked(text, tool, str(getattr(event, "place", "")))
        except ValueError as error:
            return gr.skip(), field.drawn(text, str(error))
        return (found, gr.skip()) if found != text else (gr.skip(), field.drawn(text, ""))

    return click


def _widget(field: Field) -> Component:
    info = field.info or None
    if isinstance(field, Slider):
        return gr.Slider(field.least, field.most, field.start, step=field.step, label=field.label, info=info)
    if isinstance(field, Choice):
        return gr.Dropdown(list(field.options), label=field.label, info=info)
    if isinstance(field, Line):
        return gr.Textbox(label=field.label, info=info, placeholder=field.example, lines=field.lines)
    if isinstance(field, Number):
        return gr.Number(field.start, label=field.label, info=info)
    raise TypeError(f"no widget for {type(field).__name__}")


def handler(tab: Tab[Task], names: Sequence[str], explain: Explain) -> Handler:
    """From the values of a form to HTML and text; what goes wrong is said in their place."""

    def respond(*values: str | float | None) -> tuple[str, str]:
        try:
            answer = tab.ask(dict(zip(names, values, strict=True)))
        except Exception as error:
            return refusal(explain(error)), ""
        return page_of(answer), answer.text

    return respond


def serve(page: gr.Blocks, host: str, port: int | None, browser: bool) -> str:
    """Start to serve the page, in threads of its own; its address.

    Raises: OSError if there is no free port.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        theme=themes.Default(
            primary_hue="blue", neutral_hue="slate", font=("system-ui", "sans-serif"), font_mono=("monospace",)
        ),
        css=STYLE,
    )
    return address
