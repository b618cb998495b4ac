"""A study as the page shows it: its setting, table, findings and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from difflab.report.findings import findings
from difflab.report.gallery import learning_figure, study_figures
from difflab.report.learning import LearningTable, build_learning_table, learning_findings
from difflab.report.numbering import FigureView, Numbering, slug
from difflab.report.palette import Palette
from difflab.report.setting import flat, learning_setting, made_alike, study_setting
from difflab.report.table import Table, build_table
from difflab.study.learning import Learning
from difflab.study.result import Result


@dataclass(frozen=True)
class Section:
    """One study of the report. made: its passport, without what it varies."""

    trained: ClassVar[bool] = False
    result: Result
    anchor: str
    number: int
    table: Table
    findings: list[str]
    figures: list[FigureView]
    setting: dict[str, str]
    made: dict[str, str]
    machine: dict[str, str]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.result.study.name

    @property
    def question(self) -> str:
        """What the study asks; may be empty."""
        return self.result.study.question

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the numbers."""
        return self.result.notes


@dataclass(frozen=True)
class LearningSection:
    """One study of trainings."""

    trained: ClassVar[bool] = True
    learning: Learning
    anchor: str
    number: int
    table: LearningTable
    findings: list[str]
    figures: list[FigureView]
    setting: dict[str, str]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.learning.study.name

    @property
    def question(self) -> str:
        """What the study asks; may be empty."""
        return self.learning.study.question

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the numbers."""
        return [self.learning.study.remark] if self.learning.study.remark else []


def study_section(result: Result, palette: Palette, numbering: Numbering) -> Section:
    """A study of samples, its table and figures numbered next."""
    return Section(
        result=result,
        anchor=slug(result.study.name),
        number=numbering.table(),
        table=build_table(result),
        findings=findings(result),
        figures=[numbering.add(result.study.name, drawing) for drawing in study_figures(result, palette)],
        setting=study_setting(result),
        made=made_alike(result),
        machine=dict(flat(result.machine)),
    )


def learning_section(learning: Learning, numbering: Numbering) -> LearningSection:
    """A study of trainings, its table and figure numbered next."""
    return LearningSection(
        learning=learning,
        anchor=slug(learning.study.name),
        number=numbering.table(),
        table=build_learning_table(learning),
        findings=learning_findings(learning),
        figures=[numbering.add(learning.study.name, learning_figure(learning))],
        setting=learning_setting(learning),
    )
