"""Sentences about trainings, on numbers chosen so that the right sentence is known."""

import re

from difflab.report.learning import build_learning_table, learning_course, learning_findings, learning_headline


def test_each_variant_is_compared_with_the_next_in_order(make_learning):
    learning = make_learning({"b": [[0.20, 0.21, 0.22]], "a": [[0.10, 0.11, 0.12]], "c": [[0.19, 0.23, 0.215]]})
    text = " ".join(learning_findings(learning))
    assert text.startswith(
        "Of 3 variants trained alike, with 3 seeds each (l), after 1,000 pictures a has the lowest held-out loss, 0.11"
    )
    assert "means of 3 seeds: 0.110 with a, 0.210 with b and 0.212 with c." in text
    assert "a is clearly ahead of b by 0.1000 [0.1000, 0.1000]" in text
    assert "b and c cannot be told apart" in text


def test_interval_of_a_gap_is_students(make_learning):
    """Gaps .1, .2, .3: mean .2, standard error .1 / sqrt 3, t(2) 4.303: .2 -+ .248."""
    learning = make_learning({"a": [[1.0, 1.0, 1.0]], "b": [[1.1, 1.2, 1.3]]})
    assert "no other can be told from it" in learning_headline(learning)
    wider = make_learning({"a": [[1.0, 1.0, 1.0]], "b": [[1.4, 1.5, 1.6]]})
    assert "clearly ahead of b, by 0.50 [0.25, 0.75]." in learning_headline(wider)


def test_a_leader_that_began_last_is_told(make_learning):
    learning = make_learning(
        {
            "late": [[0.5, 0.51, 0.52], [0.2, 0.21, 0.22], [0.1, 0.11, 0.12]],
            "early": [[0.4, 0.41, 0.42], [0.3, 0.31, 0.32], [0.2, 0.21, 0.22]],
        }
    )
    assert learning_course(learning) == (
        "It did not start so: after 1,000 pictures it is the last, clearly behind early (by 0.1000 [0.1000, 0.1000]); "
        "its mean is the lowest from 2,000 on, and clearly."
    )


def test_one_seed_and_one_variant_claim_nothing(make_learning):
    assert "cannot be told" not in " ".join(learning_findings(make_learning({"a": [[0.1]]})))
    text = " ".join(learning_findings(make_learning({"a": [[0.1]], "b": [[0.2]]})))
    assert "clearly" not in text
    assert "a is ahead of b by 0.10, from one seed" in text


def test_table_has_means_and_the_range_over_seeds(make_learning):
    table = build_learning_table(make_learning({"a": [[0.1, 0.2]]}))
    assert table.columns == ["held-out loss", "FD (f)"]
    assert table.lines[0].values[0] == ("0.15", "0.10 to 0.20")
    assert re.match("1.00 M", table.lines[0].parameters)
