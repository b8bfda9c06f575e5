"""The web page, built from Gradio components. It contacts no other hosts."""

import contextvars
import dataclasses
import html
import os
from collections.abc import Callable
from functools import partial
from typing import Any

# Gradio reads these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from vdm.demo.requests import (
    MAX_FRAMES,
    MAX_VIDEOS,
    Demo,
    RequestError,
    Settings,
    condition_field,
    default_settings,
)
from vdm.diffusion.samplers import SAMPLERS

# Browsers that enforce this policy contact only the page's own server.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
_INTRODUCTION = """# Video diffusion models
A trained model samples videos, or completes a clip: predicts it from its first frames, extends it,
or upsamples it. The same settings and seed give the same videos."""


class _OwnHostOnly:
    """ASGI middleware that sends a content security policy with each response."""

    def __init__(self, app: Callable) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self._app(scope, receive, send_with_policy)


def make_page(demo: Demo) -> gr.Blocks:
    """Builds the Gradio page of a demo."""
    # Deletes uploaded files after an hour.
    with gr.Blocks(
        title="Video diffusion models", analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        gr.Markdown(_INTRODUCTION)
        last = gr.State(None)  # the most recent videos of this visitor
        first = demo.checkpoints[0]
        with gr.Row():
            with gr.Column(scale=2):
                checkpoint = gr.Dropdown(demo.checkpoints, value=first, label="Model")
                common = _common_fields(demo.model(first).config)
                tabs = _tabs(demo.model(first).config)
            with gr.Column(scale=3):
                movie = gr.Video(label="Videos", autoplay=True, loop=True, height=420)
                summary = gr.Markdown(elem_id="summary")
                gr.Markdown("Frames: one row per video, one column per frame.")
                sheet = gr.Image(label="Frames", show_label=False, buttons=[])
                arrays = gr.File(label="Arrays (video, uint8), for NumPy", interactive=False)
        for task, (button, inputs) in tabs.items():
            button.click(
                partial(_answer, demo, task),
                [checkpoint, last, *common, *inputs],
                [last, movie, summary, sheet, arrays],
                concurrency_id="device",
                concurrency_limit=1,
                show_progress_on=movie,
                api_visibility="private",
            )
        checkpoint.change(partial(_fields_of, demo), checkpoint, common, api_visibility="private")
    return page


def launch(page: gr.Blocks, *, host: str, port: int, block: bool = True) -> str:
    """Serves a page until interrupted, or in the background if `block` is False.

    Returns:
      The address of the page.
    """
    from starlette.middleware import Middleware

    _, address, _ = page.queue().launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(_OwnHostOnly)]},
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    if block:
        print(f"The page is at {address}; Ctrl+C ends it.", flush=True)
        page.block_thread()
    return address


def _common_fields(config: Any) -> list[Any]:
    """Returns one component per field of `Settings`, in the same order."""
    default, (name, info, text) = default_settings(config), condition_field(config)
    condition = gr.Textbox(text, label=name or "Condition", info=info, visible=bool(name))
    with gr.Row():
        count = gr.Slider(1, MAX_VIDEOS, default.num_videos, step=1, label="Videos")
        weight = gr.Slider(
            0, 8, default.guidance_weight, step=0.1, label="Guidance weight", info="1: no guidance"
        )
    with gr.Row():
        sampler = gr.Dropdown(list(SAMPLERS), value=default.sampler, label="Sampler", min_width=100)
        steps = gr.Number(
            default.num_steps, precision=0, minimum=1, maximum=1024, label="Steps", min_width=80
        )
        seed = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed", min_width=80)
    return [condition, count, weight, sampler, steps, seed]


def _tabs(config: Any) -> dict[str, tuple[gr.Button, list[Any]]]:
    """Returns {task: (button, inputs)}; the inputs of a task are a clip and an option."""
    options: dict[str, tuple[Any, ...]] = {
        "sample": (),
        "predict": (config.predict.num_given, "Observed frames", "the first frames of the clip"),
        "extend": (2 * config.data.frames, "Frames", f"of the result, up to {MAX_FRAMES}"),
        "upsample": (config.upsample.factor, "Factor", "of height and width"),
    }
    tabs = {}
    for task, option in options.items():
        with gr.Tab(task.capitalize()):
            inputs: list[Any] = []
            if option:
                value, label, info = option
                clip = gr.File(label="Clip; without one, the first video on the right", height=120)
                inputs = [clip, gr.Number(value, precision=0, minimum=1, label=label, info=info)]
            tabs[task] = (gr.Button(task.capitalize(), variant="primary"), inputs)
    return tabs


def _fields_of(demo: Demo, checkpoint: str) -> list[Any]:
    """Returns updates that set the common fields to another model's defaults."""
    try:
        config = demo.model(checkpoint).config
    except (ValueError, OSError) as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
    default, (name, info, text) = default_settings(config), condition_field(config)
    return [
        gr.update(value=text, label=name or "Condition", info=info, visible=bool(name)),
        gr.update(),
        gr.update(value=default.guidance_weight),
        gr.update(value=default.sampler),
        gr.update(value=default.num_steps),
        gr.update(),
    ]


def _answer(
    demo: Demo,
    task: str,
    checkpoint: str,
    last: Any,
    *values: Any,
    progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by this default)
) -> tuple[Any, ...]:
    """Runs a request; displays errors as sentences on the page."""
    count = len(dataclasses.fields(Settings))
    names = [field.name for field in dataclasses.fields(Settings)]
    clip, option = values[count:] or (None, None)
    context = contextvars.copy_context()  # JAX calls `show` from another thread

    def show(step: int, steps: int, block: int) -> None:
        context.run(progress, (step, steps), desc=f"block {block}")

    progress(None, desc="compiling, at the first use of a task or sampler")
    try:
        settings = Settings(**dict(zip(names, values[:count], strict=True)))
        if None in (settings.num_steps, settings.seed):
            raise RequestError("Steps and seed must be numbers.")
        clip = last[0] if clip is None and last is not None else clip
        result = demo.run(task, checkpoint, settings, clip=clip, option=option, progress=show)
    except RequestError as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
    files = (str(result.movie), result.summary, str(result.sheet), str(result.arrays))
    return (result.videos, *files)
