"""A chapter as the templates see it: questions with answers, what the papers found, studies, words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from difflab.report import words
from difflab.report.claims import RULE, Found, Judged, claims_table, judged
from difflab.report.findings import headline
from difflab.report.gallery import headline_figure
from difflab.report.learning import learning_course, learning_headline
from difflab.report.literature import CLAIMS
from difflab.report.load import Chapter
from difflab.report.numbering import FigureView, Numbering, slug
from difflab.report.palette import Palette
from difflab.report.paper import PaperTable, beside_paper
from difflab.report.questions import QUESTIONS, Question
from difflab.report.sections import LearningSection, Section, learning_section, study_section
from difflab.report.setting import reference_text
from difflab.study.learning import Learning
from difflab.study.result import Result

TITLES = {
    "ddim": "DDIM: what steps and noise cost, and what they buy",
    "dit": "DiT: a transformer on latents, and what guidance trades",
    "vdm": "VDM: clips, and what steps and frames buy and cost",
    "samplers": "Beyond the questions: how few network calls are enough",
    "imagenet": "Bonus to DDIM: ImageNet, with and without a classifier that guides",
    "coco": "Bonus to DiT: pictures by captions (MS-COCO)",
    "ssv2": "Bonus to VDM: clips by captions (Something-Something V2)",
}
Write = Callable[..., str]  # a template's name and what it may use -> Markdown


@dataclass(frozen=True)
class Part:
    """A question with what answers it. number: 0 for studies that no question asked for, which then have no heading."""

    number: int
    heading: str
    anchor: str
    answer: str
    studies: list[Section | LearningSection]
    written: str


@dataclass(frozen=True)
class PapersView:
    """What the papers found beside what was found here: a Markdown table, its number, and how it was decided."""

    anchor: str
    number: int
    table: str
    rule: str
    verdicts: str


@dataclass(frozen=True)
class View:
    """A chapter. table: Table 1 of the DDIM paper beside ours; ending: what else was written, and references."""

    title: str
    anchor: str
    abstract: str
    headline: FigureView | None
    papers: PapersView | None
    parts: list[Part]
    table: PaperTable | None
    table_number: int
    ending: str

    @property
    def questions(self) -> list[Part]:
        """The numbered parts."""
        return [part for part in self.parts if part.number]

    @property
    def sections(self) -> list[Section]:
        """Its studies of samples, in the order in which they come."""
        return [study for part in self.parts for study in part.studies if isinstance(study, Section)]


def view(chapter: Chapter, numbering: Numbering, write: Write) -> View:
    """A chapter, its figures and tables numbered in the order in which they stand on the page."""
    name, results, palette = chapter.problem_set, chapter.results, Palette(chapter.results)
    first = (results or chapter.learnings)[0].study
    anchor = f"set-{slug(name or first.name)}"
    simplest = min(results, key=lambda result: len(result.study.axes), default=None)
    shown = (results[0] if name else simplest) if results else None
    drawn = headline_figure(shown, palette) if shown else None
    head = numbering.add(shown.study.name, drawn) if shown and drawn else None
    papers = _papers(chapter, anchor, numbering)
    questions = QUESTIONS[name] if name else ()
    studies = _studies(chapter, questions, palette, numbering)
    table = beside_paper(results) if name == "ddim" else None
    number = numbering.table() if table else 0
    tell = _teller(chapter, numbering, write)
    return View(
        title=TITLES[name] if name else first.question or first.name,
        anchor=anchor,
        abstract=_abstract(chapter),
        headline=head,
        papers=papers,
        parts=_parts(chapter, questions, studies, anchor, tell),
        table=table,
        table_number=number,
        ending=tell(name) if name else "",
    )


def _studies(
    chapter: Chapter, questions: Sequence[Question], palette: Palette, numbering: Numbering
) -> list[list[Section | LearningSection]]:
    """For each question its studies, numbered in this order, and last those that no question asked for."""
    groups: list[list[Section | LearningSection]] = []
    left: list[Result | Learning] = [*chapter.results, *chapter.learnings]
    for question in questions:
        ours = [one for name in question.studies for one in left if one.study.name.endswith(name)]
        groups.append([_study(one, palette, numbering) for one in ours])
        left = [one for one in left if one not in ours]
    return [*groups, [_study(one, palette, numbering) for one in left]]


def _study(one: Result | Learning, palette: Palette, numbering: Numbering) -> Section | LearningSection:
    return study_section(one, palette, numbering) if isinstance(one, Result) else learning_section(one, numbering)


def _parts(
    chapter: Chapter,
    questions: Sequence[Question],
    studies: list[list[Section | LearningSection]],
    anchor: str,
    tell: Callable[[str], str],
) -> list[Part]:
    parts = [
        Part(
            number=i + 1,
            heading=question.asked,
            anchor=f"{anchor}-{i + 1}",
            answer=question.answer(chapter.results, chapter.learnings) or "No study of this was run.",
            studies=ours,
            written=tell(question.written) if question.written else "",
        )
        for i, (question, ours) in enumerate(zip(questions, studies, strict=False))
    ]
    return [*parts, Part(0, "", f"{anchor}-more", "", studies[-1], "")] if studies[-1] else parts


def _teller(chapter: Chapter, numbering: Numbering, write: Write) -> Callable[[str], str]:
    """Renders a part of the written answers, which may link to figures and tell what trainings found."""
    remarked = {result.study.name for result in chapter.results if result.study.remark}
    trained = {
        learning.study.name: " ".join(filter(None, (learning_headline(learning), learning_course(learning))))
        for learning in chapter.learnings
    }
    return lambda name: write(
        f"answers/{name}.md.j2", figure=numbering.reference, trained=trained, remark=remarked.__contains__
    )


def _papers(chapter: Chapter, anchor: str, numbering: Numbering) -> PapersView | None:
    each = judged(CLAIMS.get(chapter.problem_set or "", ()), Found(chapter.results, chapter.learnings))
    if not each:
        return None
    return PapersView(f"{anchor}-papers", numbering.table(), claims_table(each), RULE, _tally(each))


def _tally(each: Sequence[Judged]) -> str:
    """How many findings agree, disagree, and so on: "3 agree, 1 cannot be told"."""
    said = {"agrees": ("agrees", "agree"), "disagrees": ("disagrees", "disagree")}
    counts = Counter(one.verdict for one in each)
    return words.listed(f"{n} {said.get(verdict, (verdict, verdict))[n > 1]}" for verdict, n in counts.items())


def _abstract(chapter: Chapter) -> str:
    """What was drawn and scored; for studies of one's own, whose chapter has no list of answers, what was found too."""
    told = [_setting(chapter.results)] if chapter.results else []
    if chapter.problem_set is None:
        told += [*headline(chapter.results), *map(learning_headline, chapter.learnings)]
    return " ".join(told)


def _setting(results: Sequence[Result]) -> str:
    first = results[0]
    metric = next(iter(first.metric_names))
    counts = {result.study.name: words.fixed(result.study.base.count, 0) for result in results}
    if len(set(counts.values())) == 1:
        samples = f"{counts[first.study.name]} samples were drawn at each setting"
    else:
        samples = f"samples were drawn, {words.listed(f'{n} at each setting of {name}' for name, n in counts.items())},"
    return (
        f"With the model {first.study.model}, {samples} and scored against {reference_text(first)}, by "
        f"{first.metric_names[metric]}."
    )
