"""What the cells of a study share: the model, the features, the reference, the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from difflab.core.guidance import Guidance
from difflab.data.captions import clip_captions, scene_captions
from difflab.data.dataset import Captioned, Dataset
from difflab.data.excerpts import last_frames, single_frames
from difflab.data.shapes import CLASSES, SCENE_SIDE
from difflab.data.shapes_clips import CLASSES as CLIP_CLASSES
from difflab.data.sources import SHAPES
from difflab.errors import DifflabError
from difflab.score.adm import POINTWISE, REFERENCE_POINTS
from difflab.score.adm import Reference as AdmReference
from difflab.score.clipscore import ClipScorer
from difflab.score.extractors import Extractor
from difflab.score.fvd import frozen, shuffled
from difflab.score.statistics import Statistics
from difflab.study.demands import check_truth
from difflab.study.features import choose_features
from difflab.study.memory import trained_cut
from difflab.study.reference import Reference
from difflab.study.shelf import Shelf
from difflab.study.spec import VIEWS, Settings, Study, View
from difflab.study.store import Store
from difflab.zoo.clips import Extension, batches_of, blocks_of
from difflab.zoo.draw import Draw, calls_of, spacing_of
from difflab.zoo.model import Model

CAPTIONS_SEED = 3  # of the scenes and clips that models of captions are asked for


@dataclass(frozen=True)
class Bench:
    """Everything that the cells of a study share: the model, the features, the reference, the store."""

    study: Study
    store: Store
    shelf: Shelf
    batch: int
    measured: dict[tuple[int | None, View | None], AdmReference] = field(default_factory=dict)  # see `against_of`
    _warm: set[tuple[int | None, bool]] = field(default_factory=set)
    _of_length: dict[int | None, Model] = field(default_factory=dict)

    @cached_property
    def model(self) -> Model:
        """The model, with the classifier beside it if the study has one."""
        model = self.shelf.model(self.study.model, self.study.config)
        classifier = self.study.classifier
        return model if classifier is None else model.guided_by(self.shelf.classifier(classifier))

    def model_of(self, settings: Settings) -> Model:
        """The model, for clips of the length that a cell asks for, before they are extended."""
        if settings.frames not in self._of_length:
            self._of_length[settings.frames] = self.model.with_frames(settings.frames)
        return self._of_length[settings.frames]

    def frames_of(self, settings: Settings) -> int | None:
        """Frames of a cell's clips; None for pictures."""
        return settings.extend or self.model_of(settings).frames

    @cached_property
    def reference(self) -> Reference:
        """What samples are scored against, brought to the size, and for clips to the length, of the samples."""
        return self.reference_of(self.frames_of(self.study.base))

    def reference_of(self, frames: int | None, view: View | None = None) -> Reference:
        """The reference as clips of so many frames, None as pictures, and what of it a view is compared with."""
        s = self.study
        if view == "window":
            return self.reference_of(s.window)
        window, crop = trained_cut(self.model.card, frames)
        if window is not None:
            window = replace(window, stride=s.stride or window.stride, fps=s.fps or window.fps)
        reference = Reference(s.reference, s.split, self.model.card.side, s.skip_broken, window, crop)
        if view == "last":
            return replace(reference, last=s.window)
        return replace(reference, single=True) if view == "frames" else reference

    @cached_property
    def extractor(self) -> Extractor:
        """The feature network."""
        if self.study.features is not None:
            return self.shelf.extractor(self.study.features)
        clips = self.model.frames is not None
        return self.shelf.extractor(choose_features(self.study.reference, self.model.card.side, clips))

    @cached_property
    def picture_extractor(self) -> Extractor:
        """The feature network for single frames of clips."""
        return self.shelf.extractor(choose_features(self.study.reference, self.model.card.side))

    def extractor_of(self, view: View | None) -> Extractor:
        """The feature network for a view of samples."""
        return self.picture_extractor if view == "frames" else self.extractor

    @cached_property
    def clip(self) -> ClipScorer | None:
        """What scores pictures by their captions, where that is asked for."""
        return self.shelf.clip(self.study.clip) if "clipscore" in self.study.metrics else None

    def __getstate__(self) -> dict[str, Any]:
        """What goes along to another process: not the reference, of which workers are told what was measured."""
        stays = {"reference", "statistics", "against"}
        goes = {name: value for name, value in vars(self).items() if name not in stays}
        return goes | {"measured": {}, "shelf": self.shelf.only(self.study)}

    @property
    def extractors(self) -> list[Extractor]:
        """All feature networks that look at the samples."""
        return [self.extractor, *([self.picture_extractor] if "frames" in self.views else [])]

    @cached_property
    def statistics(self) -> Statistics:
        """The reference's statistics, kept in the store."""
        return self.against.statistics

    @cached_property
    def truth_known(self) -> bool:
        """Whether the truth checker looks at the samples: always on scenes, so that asking for it draws none again."""
        card = self.model.card
        clips = self.model.frames is not None
        classes = CLIP_CLASSES if clips else CLASSES
        check_truth(self.study, card.name, card.side, card.network.classes, classes, card.text is not None)
        shortest = min((self.frames_of(s) for s in self.study.cells()), key=lambda n: n or 0)
        return self.study.reference == SHAPES and card.side == SCENE_SIDE and shortest != 1

    @cached_property
    def against(self) -> AdmReference:
        """What the scores of the base setting compare with."""
        return self.against_of(self.frames_of(self.study.base))

    def against_of(self, frames: int | None, view: View | None = None) -> AdmReference:
        """What clips of so many frames, None for pictures, compare with in a view of them: the statistics, and
        for themselves features of single samples where a metric needs them."""
        if (frames, view) not in self.measured:
            reference, cache = self.reference_of(frames, view), self.store.root / "reference"
            extractor = self.extractor_of(view)
            alone = view is not None or not set(POINTWISE) & set(self.study.metrics)
            points = None if alone else reference.points(extractor, REFERENCE_POINTS, cache)
            self.measured[frames, view] = AdmReference(reference.statistics(extractor, cache), points)
        return self.measured[frames, view]

    @property
    def views(self) -> list[View]:
        """The views of clips that metrics ask for, besides the clips themselves."""
        return [VIEWS[metric] for metric in self.study.metrics if metric in VIEWS]

    def viewed(self, clips: np.ndarray, first: int) -> dict[str, np.ndarray]:
        """Features (n, d) of each view of clips (n, F, ..); `first` is the index of the first one."""
        return {c: self.extractor_of(c)(self.seen(clips, c, first)) for c in self.views}

    def seen(self, clips: np.ndarray, view: View, first: int) -> np.ndarray:
        if view == "frozen":
            return frozen(clips)
        if view == "shuffled":
            return shuffled(clips, self.study.base.seed, first)
        if view == "frames":
            return single_frames(clips, np.arange(first, first + len(clips)))
        window = self.study.window
        assert window is not None
        return last_frames(clips, window) if view == "last" else clips[:, :window]

    @cached_property
    def beside_training(self) -> Settings | None:
        """The cell whose samples are shown beside training samples: the first with the most network calls, if any."""
        return max(self.study.cells(), key=self.calls) if self.study.nearest else None

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The captions of the samples, sample i the same one in every cell; none for a model that is told none.

        Those of `shapes` are about scenes or clips that no training shows; of other references they are of its items in
        an order drawn at random, one of each. Raises DifflabError for a reference that has too few.
        """
        if self.model.card.text is None:
            return ()
        count = max(settings.count for settings in self.study.cells())
        if self.study.reference == SHAPES:
            tell = scene_captions if self.model.frames is None else clip_captions
            return tuple(tell(CAPTIONS_SEED, np.arange(count)))
        return captions_of(self.study, self.reference.dataset, count)

    def draw(self, settings: Settings) -> Draw:
        """How the samples of a cell are drawn."""
        return replace(draw_of(settings), prompts=self.captions)

    def batches(self, settings: Settings, rows: range) -> Iterator[np.ndarray]:
        """The samples of a cell with indices `rows`, some at a time: uint8 (b, H, W, C) or (b, F, H, W, C)."""
        model, draw = self.model_of(settings), self.draw(settings)
        s, how = settings, None
        if s.extend is not None and s.overlap is not None and s.reconstruction is not None:
            how = Extension(s.extend, s.overlap, s.reconstruction)
        return batches_of(model, draw, s.seed, rows, self.batch, how)

    def taps(self) -> set[str]:
        """What is kept of every sample besides its pictures.

        The few logits of a small network always are, so that asking for IS draws nothing again; Inception's thousand
        only where IS is asked for.
        """
        many = self.extractor.spatial
        logits = self.extractor.classifies and ("is" in self.study.metrics or not many)
        return {"features", "logits"} if logits else {"features"}

    def decides(self, settings: Settings) -> dict[str, Any]:
        """Everything that decides the numbers and the files of one cell; its hash is the cell's key."""
        card, classifier = self.model_of(settings).card, self.model.classifier
        guided = bool(settings.classifier_scale)  # a scale of 0 is a cell without it, under the same key
        told = settings.model_copy(update={"classifier_scale": settings.classifier_scale or None})
        return {
            **{f"as {view}": self.looks(view) for view in self.views},
            "weights": self.model.weights_hash,
            "network": card.network.model_dump(mode="json"),
            "schedule": card.schedule.model_dump(mode="json"),
            "output": [card.prediction, card.variance, card.rounding, card.guided_channels],
            "codec": self.model.codec.passport(),
            **({"classifier": classifier.weights_hash} if guided and classifier is not None else {}),
            "settings": told.model_dump(mode="json", exclude_none=True, exclude={"calls"})
            | {"spacing": spacing_of(self.model, draw_of(settings))},
            "features": self.extractor.passport(),
            "taps": sorted(self.taps()),
            "truth": self.truth_known and self.reference.fingerprint,
            "keep": self.study.keep,
            "chunk": self.study.chunk,
            "dtype": "float32",
            **self._told(settings),
        }

    def _told(self, settings: Settings) -> dict[str, Any]:
        """What decides what a model of captions is told."""
        if not self.captions:
            return {}
        said = "\n".join(self.captions[: settings.count])
        return {
            **({} if self.clip is None else {"clip": self.clip.passport()}),
            "captions": hashlib.sha256(said.encode()).hexdigest(),
            "text encoder": self.model.text_encoder.weights_hash(),
        }

    def looks(self, view: View) -> Any:
        """What decides the features of a view of samples, besides the samples."""
        if view in ("window", "last"):
            return self.study.window
        if view == "shuffled":
            return self.study.base.seed
        return self.extractor_of(view).passport() if view == "frames" else True

    def warm(self, settings: Settings) -> None:
        """Make the first passes for clips of a cell's length, which cost extra, before any clock runs; later calls do
        nothing."""
        goes_on = settings.extend is not None
        if (settings.frames, goes_on) in self._warm:
            return
        brief = Settings(
            steps=1, spacing="trailing", frames=settings.frames, overlap=settings.overlap,
            extend=(self.model_of(settings).frames or 0) + 1 if goes_on else None,
        )  # fmt: skip
        next(self.batches(brief, range(min(self.batch, self.study.chunk))))
        self._warm.add((settings.frames, goes_on))

    def calls(self, settings: Settings) -> int:
        """Network calls a sample in one cell. Raises DifflabError for an extension that the model cannot make."""
        return self.blocks(settings) * calls_of(self.model_of(settings), draw_of(settings))

    def blocks(self, settings: Settings) -> int:
        """In how many parts a sample of a cell is drawn. Raises DifflabError as `calls` does."""
        s = settings
        return 1 if s.extend is None or s.overlap is None else blocks_of(self.model_of(s), s.extend, s.overlap)


def captions_of(study: Study, dataset: Dataset | None, count: int) -> tuple[str, ...]:
    """A caption each of `count` items of a data set, both drawn at random. Raises DifflabError where it has too few."""
    if not isinstance(dataset, Captioned):
        raise DifflabError(
            f"{study.name}: {study.model} draws what captions say, but the reference {study.reference} has none; take "
            "one that does, such as MS-COCO or Something-Something V2."
        )
    draw = np.random.default_rng(CAPTIONS_SEED)
    known: list[tuple[str, ...]] = []
    for index in draw.permutation(len(dataset)):
        if len(known) == count:
            break
        if said := dataset.captions_of(int(index)):
            known.append(said)
    if len(known) < count:
        raise DifflabError(
            f"{study.name}: {count} samples need a caption each, but {study.reference} has {len(known)} items with "
            "such; take a smaller count, or data with captions."
        )
    return tuple(said[int(p * len(said))] for said, p in zip(known, draw.random(count), strict=True))


def draw_of(settings: Settings) -> Draw:
    """The sampler's part of a setting."""
    s = settings
    guidance = Guidance(
        s.guidance, s.guidance_channels, s.guidance_low, s.guidance_high, s.guidance_rescale, s.guidance_course
    )
    return Draw(s.sampler, s.steps, s.eta, s.spacing, s.official_grid, s.clip, None, s.classes, guidance, None,
                s.gamma, s.corrector or 0.0, classifier_scale=s.classifier_scale or 0.0)  # fmt: skip
