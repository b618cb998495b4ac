"""What the cells of a study share: the model, the features, the reference, the store; opened once, checked first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from difflab.core.guidance import Guidance
from difflab.data.captions import clip_captions, scene_captions
from difflab.data.clips import FILM_SETS
from difflab.data.dataset import Captioned, Dataset
from difflab.data.excerpts import last_frames, single_frames
from difflab.data.shapes import CLASSES, SCENE_SIDE
from difflab.data.shapes_clips import CLASSES as CLIP_CLASSES
from difflab.data.sources import SHAPES
from difflab.devices import home
from difflab.errors import DifflabError
from difflab.score.adm import POINTWISE, REFERENCE_POINTS
from difflab.score.adm import Reference as AdmReference
from difflab.score.clipscore import ClipScorer
from difflab.score.extractors import Extractor
from difflab.score.fvd import frozen, shuffled
from difflab.score.statistics import Statistics
from difflab.study.features import choose_features, open_extractor
from difflab.study.memory import trained_cut, training_data
from difflab.study.reference import Reference
from difflab.study.spec import SAID, TRUTH, VIEWS, Metric, Settings, Study, View
from difflab.study.store import Store
from difflab.study.truth import spoken_of
from difflab.zoo.classifier import Classifier, open_classifier
from difflab.zoo.clips import Extension, batches_of, blocks_of
from difflab.zoo.load import load
from difflab.zoo.model import Model
from difflab.zoo.sampling import Draw, calls_of, check_conditions, plan, spacing_of

CAPTIONS_SEED = 3  # of the scenes and clips that models of captions are asked for

_OF_CLIPS: tuple[Metric, ...] = ("fvd", "kvd", "direction", "speed", *VIEWS)
_OF_BOTH: tuple[Metric, ...] = ("valid", "accuracy", "is", "caption", "kind", "colour", "size", "background")


@dataclass(frozen=True)
class Shelf:
    """Models, classifiers and feature networks on one device, each opened once for all studies of a run, which has an
    id."""

    device: str
    run: str = field(default_factory=lambda: uuid4().hex)
    _models: dict[tuple[str, str | None], Model] = field(default_factory=dict)
    _classifiers: dict[str, Classifier] = field(default_factory=dict)
    _extractors: dict[str, Extractor] = field(default_factory=dict)
    _clips: dict[str, ClipScorer] = field(default_factory=dict)

    def only(self, study: Study) -> Shelf:
        """The same without the models and classifiers of other studies."""
        models = {key: model for key, model in self._models.items() if key[0] == study.model}
        classifiers = {name: opened for name, opened in self._classifiers.items() if name == study.classifier}
        return replace(self, _models=models, _classifiers=classifiers)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrived in another process: what was opened is on its device now, and nobody draws in turn with it."""
        vars(self).update(state, device=str(home()), run=uuid4().hex)

    @classmethod
    def on(cls, device: str | None) -> Shelf:
        """An empty one on this device; None takes a GPU where there is one."""
        return cls(device or str(home()))

    def model(self, source: str, config: str | None) -> Model:
        """The model that `difflab.load` gives."""
        if (source, config) not in self._models:
            self._models[source, config] = load(source, config=config, device=self.device)
        return self._models[source, config]

    def classifier(self, source: str) -> Classifier:
        """The noisy classifier of that name or file."""
        if source not in self._classifiers:
            self._classifiers[source] = open_classifier(source, self.device)
        return self._classifiers[source]

    def extractor(self, name: str) -> Extractor:
        """The feature network of that name."""
        if name not in self._extractors:
            self._extractors[name] = open_extractor(name, self.device)
        return self._extractors[name]

    def clip(self, source: str) -> ClipScorer:
        """The CLIP of that name."""
        if source not in self._clips:
            self._clips[source] = ClipScorer(source, self.device)
        return self._clips[source]


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

    def problems(self) -> list[str]:
        """Everything that can be found missing or wrong before any work starts."""
        found = []
        for part in (self._model_fits, self._classifier_is_there, self._reference_is_there, self._features_are_there,
                     self._truth_is_known, self._clips_meet_clips, self._training_is_known):  # fmt: skip
            try:
                part()
            except DifflabError as error:
                found.append(str(error))
        return found

    def _model_fits(self) -> None:
        self.model.codec  # noqa: B018 (the autoencoder of a latent model is there, too)
        if self.captions:
            self.model.text_encoder  # noqa: B018
        else:
            check_conditions(self.model, None, 1)
        for settings in self.study.cells():
            try:
                plan(self.model_of(settings), self.draw(settings))
                self.calls(settings)
            except DifflabError as error:
                raise DifflabError(f"{self.study.name}: {error}") from error

    def _classifier_is_there(self) -> None:
        """Looked at apart, so that it is missed beside a model that is missing, too."""
        if self.study.classifier is not None:
            self.shelf.classifier(self.study.classifier)

    def _reference_is_there(self) -> None:
        try:
            lengths = dict.fromkeys(map(self.frames_of, self.study.cells()))
        except DifflabError:  # told of the model; without it one cannot say whether pictures or films are looked for
            if self.study.reference not in FILM_SETS and not Path(self.study.reference).is_dir():
                check_reference(self.study, Reference(self.study.reference, self.study.split))
            return
        for frames in lengths:
            check_reference(self.study, self.reference_of(frames))
            for view in self.views:
                check_reference(self.study, self.reference_of(frames, view))

    def _features_are_there(self) -> None:
        check_features(self.study, self.extractor)
        if "clipscore" in self.study.metrics and not self.captions:
            raise DifflabError(
                f"{self.study.name}: the metric 'clipscore' needs a model that draws what captions say; "
                f"{self.model.card.name} does not."
            )
        self.clip  # noqa: B018
        for view in self.views:
            self.extractor_of(view)

    def _clips_meet_clips(self) -> None:
        """Clips need features and metrics of clips, pictures those of pictures."""
        clips, study = self.model.frames is not None, self.study
        if self.extractor.clips != clips:
            what, other = ("clips", "pictures") if clips else ("pictures", "clips")
            raise DifflabError(
                f"{study.name}: {self.model.card.name} draws {what}, but the features {self.extractor.name} are of "
                f"{other}; choose others."
            )
        odd = [m for m in study.metrics if (m in _OF_CLIPS) != clips and m not in _OF_BOTH]
        if odd:
            raise DifflabError(
                f"{study.name}: the metric {odd[0]!r} is one of {'pictures' if clips else 'clips'}, but "
                f"{self.model.card.name} draws {'clips' if clips else 'pictures'}; take "
                f"{'fvd' if clips else 'fid'} or another."
            )
        fewest = min(self.frames_of(s) or 0 for s in study.cells())
        if clips and study.window is not None and study.window > fewest:
            raise DifflabError(
                f"{study.name}: window is {study.window}, but the shortest clips have {fewest} frames; take no more."
            )

    def _truth_is_known(self) -> None:
        if not self.truth_known or not self.captions:
            return
        fewest = min(settings.count for settings in self.study.cells())
        told = spoken_of(self.captions[:fewest])
        untold = [metric for metric in self.study.metrics if metric in SAID and metric not in told]
        if untold:
            raise DifflabError(
                f"{self.study.name}: none of {fewest} captions tells what the metric {untold[0]!r} looks for; take a "
                "larger count, or leave it out."
            )

    def _training_is_known(self) -> None:
        if self.study.nearest:
            training_data(self.study.name, self.model.card, self.frames_of(self.study.base))

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


class Measured(Protocol):
    """What a study says of how its samples are measured."""

    @property
    def name(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...


def check_reference(study: Measured, reference: Reference) -> None:
    """Raise DifflabError unless a study's reference is there, with the pictures that its metrics need."""
    lone = [metric for metric in study.metrics if metric in POINTWISE]
    if reference.dataset is None and lone and not reference.has_pictures:
        raise DifflabError(
            f"{study.name}: the metric {lone[0]!r} needs the reference's pictures, but {study.reference} holds "
            "statistics alone; give pictures, or an ADM reference batch."
        )


def check_features(study: Measured, extractor: Extractor) -> None:
    """Raise DifflabError where a metric needs classes and the features tell none."""
    if "is" in study.metrics and not extractor.classifies:
        raise DifflabError(
            f"{study.name}: the metric 'is' needs features that tell classes, but {extractor.name} have no such head; "
            "leave it out."
        )


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


def check_truth(
    study: Measured, model: str, side: int, classes: int | None, known: Sequence[str] = CLASSES, reads: bool = False
) -> None:
    """Raise DifflabError where a metric needs the truth checker, which cannot judge such a model."""
    asked = [metric for metric in TRUTH if metric in study.metrics]
    if asked and (study.reference != SHAPES or side != SCENE_SIDE):
        raise DifflabError(
            f"{study.name}: the metric {asked[0]!r} needs scenes of known truth; use it with the reference shapes and "
            f"a model of {SCENE_SIDE}x{SCENE_SIDE} pixels."
        )
    said = [metric for metric in asked if metric in SAID]
    if said and not reads:
        raise DifflabError(
            f"{study.name}: the metric {said[0]!r} needs a model that draws what captions say; {model} does not."
        )
    told = [metric for metric in asked if metric in ("accuracy", "direction")]
    if told == ["direction"] and reads:
        return
    if told and classes != len(known):
        raise DifflabError(
            f"{study.name}: the metric {told[0]!r} needs a model that is told the {len(known)} classes of shapes; "
            f"{model} is told {classes or 'none'}."
        )


def open_benches(
    studies: Sequence[tuple[Study, Store]], *, batch: int = 64, device: str | None = None, shelf: Shelf | None = None
) -> list[Bench]:
    """A bench for each study and its store, which share what they have in common.

    `device` None takes a GPU where there is one; a `shelf` has what was opened before, and a device of its own.

    Raises DifflabError that names everything the studies miss, all at once, before any work starts.
    """
    shelf = shelf or Shelf.on(device)
    benches = [Bench(study, store, shelf, batch) for study, store in studies]
    problems = list(dict.fromkeys(problem for bench in benches for problem in bench.problems()))
    if len(problems) > 1:
        raise DifflabError("\n".join([f"{len(problems)} things are missing or wrong:", *(f"- {p}" for p in problems)]))
    if problems:
        raise DifflabError(problems[0])
    return benches


def draw_of(settings: Settings) -> Draw:
    """The sampler's part of a setting."""
    s = settings
    guidance = Guidance(
        s.guidance, s.guidance_channels, s.guidance_low, s.guidance_high, s.guidance_rescale, s.guidance_course
    )
    return Draw(s.sampler, s.steps, s.eta, s.spacing, s.official_grid, s.clip, None, s.classes, guidance, None,
                s.gamma, s.corrector or 0.0, classifier_scale=s.classifier_scale or 0.0)  # fmt: skip
