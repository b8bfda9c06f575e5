"""Zeros with the shapes of any data set, for rehearsals and measurements without data."""

import dataclasses

import numpy as np

from vdm.data.batches import DataSet


@dataclasses.dataclass(frozen=True)
class Zeros(DataSet):
    """Examples of zeros, with label 0, a caption of zero vectors, or zero actions.

    The fields are from config.data and config.model. No token of a caption is masked.
    """

    frames: int
    resolution: int
    channels: int
    num_images: int
    condition: str
    text_tokens: int
    text_width: int
    action_width: int

    def example(self, index: int) -> dict[str, np.ndarray]:
        frame = (self.resolution, self.resolution, self.channels)
        out: dict[str, np.ndarray] = {"video": np.zeros((self.frames, *frame), np.float32)}
        condition: dict[str, np.ndarray] = {}
        if self.condition == "label":
            condition = {"label": np.zeros((), np.int32)}
        elif self.condition == "text":
            text = np.zeros((self.text_tokens, self.text_width), np.float32)
            condition = {"text": text, "text_mask": np.ones(self.text_tokens, bool)}
        if self.condition == "action":
            action = np.zeros((self.frames, self.action_width), np.float32)
            out |= {"action": action, "action_mask": np.ones(self.frames, bool)}
        if self.num_images:
            out["images"] = np.zeros((self.num_images, *frame), np.float32)
            out |= {
                f"image_{name}": np.stack([array] * self.num_images)
                for name, array in condition.items()
            }
        return out | condition

    def caption(self, index: int) -> str:
        return ""

    def label(self, index: int) -> int:
        return 0
