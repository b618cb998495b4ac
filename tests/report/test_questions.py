"""Each question under its own number, answered at the head of its chapter; all links lead somewhere."""

import re
from pathlib import Path

import difflab.report
from difflab.report import Chapter, build_book
from difflab.report.questions import QUESTIONS
from difflab.study.presets import LEARNING, PROBLEM_SETS

ANSWERS = Path(difflab.report.__file__).parent / "answers"


def test_a_report_of_all_problem_sets_is_in_order_and_its_links_lead_somewhere(make_result, tmp_path):
    chapters = []
    for name, studies in PROBLEM_SETS.items():
        made = [make_result({"steps": [5, 10]}, {(5,): 8.0, (10,): 4.0}, name=study, paired=0.5) for study in studies]
        chapters.append(Chapter(name, made))
    page = build_book(chapters, tmp_path / "out")
    text, markdown = page.read_text(), (page.parent / "report.md").read_text()
    _links_resolve(text, markdown)
    _numbers_are_in_order(text, r"<b>{} (\d+)\.</b>")
    _numbers_are_in_order(markdown, r"\*\*{} (\d+)\.\*\*")
    for name, questions in QUESTIONS.items():
        asked = list(enumerate((question.asked for question in questions), 1))
        listed = [markdown.index(f"{i}. **[{one}](#set-{name}-{i}).** ") for i, one in asked]
        places = [markdown.index(f'<a id="set-{name}-{i}"></a>\n\n## {i}. {one}\n') for i, one in asked]
        assert listed + places == sorted(listed + places)
    assert "No study of this was run" not in text


def _links_resolve(text, markdown):
    targets = set(re.findall(r'href="#([^"]+)"', text))
    assert any(target.startswith("set-") for target in targets)
    assert any(target.startswith("fig-") for target in targets)
    assert not targets - set(re.findall(r'\bid="([^"]+)"', text))
    assert not set(re.findall(r"\]\(#([^)]+)\)", markdown)) - set(re.findall(r'<a id="([^"]+)"', markdown))


def _numbers_are_in_order(text, pattern):
    for kind in ("Figure", "Table"):
        numbers = [int(n) for n in re.findall(pattern.format(kind), text)]
        assert numbers == list(range(1, len(numbers) + 1)), kind


def test_every_shipped_study_and_every_written_part_has_its_question():
    for problem_set, studies in PROBLEM_SETS.items():
        questions = QUESTIONS[problem_set]
        for study in (*studies, *LEARNING.get(problem_set, ())):
            assert sum(question.has(study) for question in questions) == 1, study
    written = {question.written for questions in QUESTIONS.values() for question in questions if question.written}
    assert written | set(QUESTIONS) == {path.name.removesuffix(".md.j2") for path in ANSWERS.iterdir()}


def test_a_question_without_its_study_says_so_and_other_studies_are_not_lost(steps_result, tmp_path):
    page = build_book([Chapter("vdm", [steps_result(3.0, 2.0, name="mine")])], tmp_path / "out").read_text()
    assert page.count("No study of this was run.") == 4  # two questions, at the head and below their headings
    assert 'id="mine"' in page
