"""Uploads of models to the Hugging Face Hub, with a model card."""

import json
import re
from pathlib import Path

import ml_collections

from vdm.build import count_parameters
from vdm.configuration.stored import from_record
from vdm.exported import load_exported, load_exported_config
from vdm.files import EXPORTED_FILE, as_path, local_copy
from vdm.hub.download import one_sentence, parse_reference
from vdm.markdown import table
from vdm.shipped import checkpoint_names, find_checkpoint

_KINDS = {  # by config.data.condition
    "none": "unconditional",
    "label": "class-conditional",
    "text": "text-to-video",
    "action": "action-conditional",
}
_USAGE = """## Use

```
pip install "video-diffusion-jax[{extras}]"
```

```python
import vdm

model = vdm.load("{reference}")
videos = model.sample(4{condition})  # uint8 [n, frames, height, width, channels]
```
"""


def push(
    checkpoint: str,
    reference: str,
    *,
    private: bool = False,
    license: str = "",
    card: Path | None = None,
) -> str:
    """Uploads an exported file and a model card in one commit; returns the URL of the commit.

    Args:
      checkpoint: path of an exported file, or the name of a shipped checkpoint.
      reference: OWNER/NAME or OWNER/NAME@BRANCH; a missing repository or branch is created.
      private: whether only its owner sees the repository.
      license: identifier of the licence of the weights, such as 'apache-2.0'; default none.
      card: Markdown file of the card; default that of a shipped checkpoint, or a table of the
        configuration. The Hub's metadata precede it unless it starts with its own.

    Raises:
      ValueError, OSError: the message names the file or the reference.
    """
    repository, branch = parse_reference(reference)
    reference = f"hf://{repository}" + (f"@{branch}" if branch else "")
    path = find_checkpoint(checkpoint) or as_path(checkpoint)
    if path.is_dir():
        raise ValueError(
            f"{checkpoint} is a folder, and must be an exported file: --mode=export writes "
            f"{path / EXPORTED_FILE}"
        )
    params = load_exported(path)  # verifies the digest, too
    record, step = load_exported_config(path)
    config = from_record(record, path)
    usage = _usage(config, reference)
    if card is not None:
        try:
            page = card.read_text(encoding="utf-8-sig")  # with or without a byte order mark
        except UnicodeDecodeError as error:
            raise ValueError(f"{card} is not a Markdown file: it is no UTF-8 text") from error
    elif checkpoint in checkpoint_names():
        page = path.with_suffix(".md").read_text(encoding="utf-8")
        # Its relative links lead nowhere on the Hub.
        page = re.sub(r"\[([^\]]+)\]\(\.[^)]*\)", r"\1", page) + "\n" + usage
    else:
        page = "\n".join([*_described(config, step, params), "", usage])
    if not page.startswith("---\n"):
        page = _metadata(config, license) + page
    elif license:
        raise ValueError(f"--license is {license!r}, and must be in the metadata of {card}")
    with local_copy(path) as file, one_sentence(reference):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        # An existing repository keeps its visibility.
        if private and not api.repo_info(repository).private:
            raise ValueError("the repository exists and is public, and --private does not hide it")
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        commit = api.create_commit(
            repository,
            [
                CommitOperationAdd(EXPORTED_FILE, file),
                CommitOperationAdd("README.md", page.encode()),
            ],
            commit_message="Upload a model of vdm",
            revision=branch,
        )
    return commit.commit_url


def _usage(config: ml_collections.ConfigDict, reference: str) -> str:
    """Returns the commands that install vdm and sample the model."""
    condition = {
        "none": "",
        "label": ", label=0",
        "text": ', caption="..."',
        "action": f", action={(0,) * config.model.action_width}",
    }[config.data.condition]
    encodes = config.data.condition == "text" and config.data.text_encoder != "words"
    extras = "hub,text" if encodes else "hub"
    return _USAGE.format(reference=reference, condition=condition, extras=extras)


def _metadata(config: ml_collections.ConfigDict, license: str) -> str:
    """Returns the metadata of a model card, as YAML."""
    kind = _KINDS[config.data.condition]
    metadata: dict[str, object] = {
        "library_name": "video-diffusion-jax",
        "tags": ["vdm", "jax", "flax", "video-diffusion", "video-generation", kind],
    }
    if config.data.condition == "text":
        metadata["pipeline_tag"] = "text-to-video"
    if license:
        metadata["license"] = license
    # JSON is YAML.
    entries = [f"{name}: {json.dumps(value)}" for name, value in metadata.items()]
    return "\n".join(["---", *entries, "---", "", ""])


def _described(config: ml_collections.ConfigDict, step: int, params: dict) -> list[str]:
    """Returns the lines of a card without prose; paths of the configuration are not among them."""
    data, sample = config.data, config.sample
    size = f"{data.resolution}x{data.resolution} pixels, {data.channels} channels"
    rows = [
        ("file", f"`{EXPORTED_FILE}`, EMA weights with the configuration inside"),
        ("video", f"{data.frames} frames of {size}"),
        ("data set", data.name),
        ("condition", data.condition),
        ("parameters", f"{count_parameters(params):,}"),
        ("training steps", f"{step:,}"),
        ("sampler", f"{sample.sampler}, {sample.num_steps} steps"),
        ("guidance weight", sample.guidance_weight),
    ]
    title = f"# Video diffusion model, {_KINDS[data.condition]}"
    return [title, "", *table(("field", "value"), rows)]
