from difflab.report.paper import beside_paper
from difflab.report.table import build_table


def test_table_marks_the_best_and_what_cannot_be_told_from_it(steps_result):
    table = build_table(steps_result(20.0, 5.1, 5.0))
    assert [line.entries[0].mark for line in table.lines] == ["", "tied", "best"]
    assert table.marks == {"best", "tied", ""}


def test_failed_cell_keeps_its_line_and_its_sentence(steps_result):
    line = build_table(steps_result(20.0, None)).lines[1]
    assert line.settings == ["20"]
    assert line.error == "The sampler gave NaN; raise steps."
    assert line.entries == []


def test_time_is_given_for_a_sample_and_for_the_cell(steps_result):
    line = build_table(steps_result(20.0, 10.0, seconds=lambda s: 90.0)).lines[0]
    assert (line.per_sample, line.whole, line.calls) == ("900 ms", "1 min 30 s", "10")


def test_lone_cell_is_not_called_best(steps_result):
    assert build_table(steps_result(20.0)).lines[0].entries[0].mark == ""


def test_paper_stands_beside_the_steps_both_have(steps_result):
    paper = beside_paper([steps_result(12.0, 6.0, 4.0, 3.0, 2.0)])
    assert paper.steps == [10, 20, 50, 100]
    ours, cifar, _ = paper.sources
    assert ours.lines[0].values[0] == ("12.0", "×4.0")
    assert cifar.lines[0].values[0] == ("13.4", "×3.2")


def test_paper_is_left_out_where_nothing_is_shared(make_result, steps_result):
    assert beside_paper([make_result({"steps": [7, 9]}, {(7,): 2.0, (9,): 1.0})]) is None
    assert beside_paper([steps_result(0.5, 0.9, metric="valid")]) is None
