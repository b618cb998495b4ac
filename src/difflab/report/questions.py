"""The problem sets' questions, in their order: which studies answer each, and which part of the written answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from difflab.report.findings import headline, main_finding
from difflab.report.learning import learning_headline
from difflab.study.learning import Learning
from difflab.study.result import Result


@dataclass(frozen=True)
class Question:
    """One question.

    asked: its heading; studies: names, or their ends, the first of which answers it, while others go beyond it;
    written: the template below `answers/` with what is said in words; core: that in a sentence; timed: whether it asks
    for sampling time as well.
    """

    asked: str
    studies: tuple[str, ...] = ()
    written: str = ""
    core: str = ""
    timed: bool = False

    def has(self, study: str) -> bool:
        """Whether a study of that name belongs to it."""
        return study.endswith(self.studies) if self.studies else False

    def answer(self, results: Sequence[Result], learnings: Sequence[Learning]) -> str:
        """The core, then what the first of its studies found; empty where it is measured and nothing was."""
        ours = [result for name in self.studies for result in results if result.study.name.endswith(name)]
        found = (headline(ours[:1]) if self.timed else main_finding(ours[0])) if ours else []
        trained = [learning_headline(learning) for learning in learnings if self.has(learning.study.name)]
        return " ".join([*([self.core] if self.core else []), *found, *trained])


QUESTIONS: dict[str, tuple[Question, ...]] = {
    "ddim": (
        Question("Sampling steps against FID", ("ddim-steps", "ddim-grid")),
        Question("Eta against FID and sampling time", ("ddim-eta",), timed=True),
        Question(
            "What “implicit” means",
            written="ddim-implicit",
            core="With eta 0 the sampler is a fixed map from noise to a sample, and so the samples’ distribution is "
            "given by a procedure and not by a density that is written down: such a model is called implicit.",
        ),
        Question(
            "The limits of DDIM",
            written="ddim-limits",
            core="It needs tens of network calls, one after another, leaves an error of first order when they are few, "
            "carries the network’s errors along, and gives no likelihood.",
        ),
    ),
    "dit": (
        Question("Sampling steps (--num-sampling-steps) against FID", ("dit-steps",)),
        Question("Guidance scale (--cfg-scale) against FID", ("dit-cfg",), "dit-guidance"),
        Question(
            "What adaLN is, and why it does better than cross-attention and in-context tokens",
            ("dit-conditioning",),
            "dit-adaln",
            "In adaLN the condition sets scale and shift of every layer norm, and in adaLN-Zero a gate that begins at "
            "zero as well; it suits facts about the whole picture, reaches every channel directly, and costs hardly "
            "any multiplications.",
        ),
        Question(
            "The limits of DiT",
            written="dit-limits",
            core="Its work grows with the number of tokens and faster, it must be large and trained long, sampling "
            "more does not make up for a smaller model, and it can be no better than its autoencoder.",
        ),
    ),
    "vdm": (
        Question("Timesteps (--timesteps) against FVD, and the clips", ("vdm-steps",), "vdm-timesteps"),
        Question("Frames (--num_frames) against FVD, and the clips", ("vdm-frames", "vdm-extend"), timed=True),
        Question(
            "The limits of VDM",
            written="vdm-limits",
            core="It works on pixels, of which cost and memory leave few; it is made for clips of one length, holds "
            "frames together by attention alone, and easily memorises small data.",
        ),
    ),
    "samplers": (
        Question("How few network calls are enough", ("samplers",), "samplers-how"),
        Question(
            "What samplers cannot do",
            written="samplers-limits",
            core="None draws better than the network knows, and a polynomial needs a first place where something is "
            "told apart.",
        ),
    ),
    "imagenet": (
        Question("ImageNet, with and without a classifier that guides", ("ddim-imagenet",), "imagenet-how"),
        Question(
            "The limits",
            written="imagenet-limits",
            core="A forward is costly, a second network must be trained, and scores are tied to one evaluator.",
        ),
    ),
    "coco": (
        Question("Pictures by captions: what guidance trades", ("dit-text-coco",), "coco-how"),
        Question(
            "The limits",
            written="coco-limits",
            core="What the text encoder does not tell cannot be drawn, and attributes leak from one shape to another.",
        ),
    ),
    "ssv2": (
        Question("Clips by captions: what guidance trades", ("vdm-text-ssv2",), "ssv2-how"),
        Question(
            "The limits",
            written="ssv2-limits",
            core="The demo’s world is small, and a distance between clips does not read captions.",
        ),
    ),
}
