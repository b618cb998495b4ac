import re
from html.parser import HTMLParser

import pytest

from difflab.errors import DifflabError
from difflab.report import build_report, draw, load_results

VOID = {"meta", "br", "img", "link", "hr", "input", "path", "use"}


class Reader(HTMLParser):
    """Checks nesting, and collects anchors, links and outside resources."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.outside, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag != "path" and "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        for name in ("src", "xlink:href"):
            if name in attrs and not attrs[name].startswith(("data:", "#")):
                self.outside.append(attrs[name])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert not reader.open
    return reader


@pytest.fixture
def ddim(make_result):
    """Both DDIM studies, with times, pictures and a failed cell."""
    steps = [10, 20, 50, 100]
    first = make_result(
        {"steps": steps},
        {(s,): 40.0 / s for s in steps},
        name="ddim-steps",
        pictures=3,
        seconds=lambda s: s.steps * 0.2,
    )
    grid = {(eta, s): (1 + eta) * 40.0 / s for eta in (0.0, 0.5, 1.0) for s in steps}
    grid[1.0, 10] = None
    second = make_result(
        {"eta": [0.0, 0.5, 1.0], "steps": steps}, grid, name="ddim-eta", pictures=3, seconds=lambda s: s.steps * 0.2
    )
    return [first, second]


def test_page_is_one_file_that_opens_offline_and_whose_links_lead_somewhere(ddim, tmp_path):
    page = read(build_report(ddim, tmp_path / "out"))
    assert page.outside == []
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "url(http" not in (tmp_path / "out" / "index.html").read_text()


def test_page_says_what_the_problem_set_asks(ddim, tmp_path):
    text = " ".join("".join(read(build_report(ddim, tmp_path / "out")).text).split())
    assert "What “implicit” means" in text
    assert "they mean FID" in text
    assert "FD (shapes-image) is not FID." in text
    assert "the paper, CIFAR-10, FID" in text
    assert "The sampler gave NaN; raise steps." in text
    assert "difflab sample model --steps 50" in text
    assert "c0ffee" in text
    assert not re.search(r"\d\.\d{5}", text.split("References")[0])


def test_markdown_has_its_pictures_beside_it(ddim, tmp_path):
    build_report(ddim, tmp_path / "out")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)
    assert len(named) == len(list((tmp_path / "out" / "figures").iterdir())) > 0
    assert all((tmp_path / "out" / name).is_file() for name in named)
    anchors = set(re.findall(r'<a id="([^"]+)"', markdown))
    assert set(re.findall(r"\]\(#([^)]+)\)", markdown)) <= anchors


def test_markdown_tables_have_equally_many_columns_in_each_row(ddim, tmp_path):
    build_report(ddim, tmp_path / "out")
    for table in re.findall(r"(?:^\|.*\n)+", (tmp_path / "out" / "report.md").read_text(), flags=re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1


def test_same_results_give_the_same_bytes(ddim, tmp_path):
    one, two = build_report(ddim, tmp_path / "one"), build_report(ddim, tmp_path / "two")
    for path in sorted(one.parent.rglob("*.*")):
        assert path.read_bytes() == (two.parent / path.relative_to(one.parent)).read_bytes()


def test_text_from_the_study_is_escaped(steps_result, tmp_path):
    result = steps_result(3.0, 2.0, metric_name="FD (<script>alert(1)</script> $x_$)").model_copy(
        update={"notes": ["<b onclick=x>"]}
    )
    page = build_report([result], tmp_path / "out").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b onclick" not in page


@pytest.mark.parametrize("values", [(3.0,), (None,), (None, 2.0), (3.0, 3.0)])
def test_poor_results_still_make_a_report(steps_result, tmp_path, values):
    read(build_report([steps_result(*values)], tmp_path / "out", problem_set=None))


def test_axis_of_names_makes_a_report(make_result, tmp_path):
    samplers = make_result(
        {"sampler": ["ddim", "ddpm"], "clip": [True, None], "seed": [0, 1]},
        {(name, clip, seed): 3.0 for name in ("ddim", "ddpm") for clip in (True, None) for seed in (0, 1)},
        pictures=2,
        seconds=lambda s: 1.0,
    )
    read(build_report([samplers], tmp_path / "out", problem_set=None))


def test_no_answers_without_a_problem_set(ddim, tmp_path):
    text = build_report(ddim, tmp_path / "out", problem_set=None, title="Mine").read_text(encoding="utf-8")
    assert "implicit" not in text
    assert "<h1>Mine</h1>" in text


def test_studies_not_made_alike_are_said_not_to_compare(ddim, tmp_path):
    other = ddim[1].model_copy(update={"passport": {"weights": {"sha256": "decaf"}}})
    assert "they differ in weights sha256" in build_report([ddim[0], other], tmp_path / "out").read_text()


def test_print_tells_once_what_studies_were_made_with_alike(ddim, tmp_path):
    made = [{"interval": "95 %", "weights": {"sha256": name}} for name in ("decaf", "facade")]
    alike = [one.model_copy(update={"passport": passport}) for one, passport in zip(ddim, made, strict=True)]
    page = build_report(alike, tmp_path / "out").read_text(encoding="utf-8")
    assert re.findall(r'<tr( class="alike")?><td>interval</td>', page) == ["", ' class="alike"']
    assert re.findall(r'<tr( class="alike")?><td>weights / sha256</td>', page) == ["", ""]


def test_no_results_and_unknown_problem_sets_are_refused_in_one_sentence(ddim, tmp_path):
    with pytest.raises(DifflabError, match="no results"):
        build_report([], tmp_path / "out")
    with pytest.raises(DifflabError, match="Did you mean 'ddim'"):
        build_report(ddim, tmp_path / "out", problem_set="ddimm")
    assert not (tmp_path / "out").exists()


def test_results_of_a_problem_set_load_in_its_order(ddim, tmp_path):
    for result in ddim:
        result.save(tmp_path / result.study.name)
    loaded = load_results(tmp_path)
    assert [result.study.name for result in loaded] == ["ddim-steps", "ddim-eta"]
    assert loaded[0].cell(loaded[0].rows[0]).pictures(2).shape == (2, 4, 4, 3)


def test_results_of_one_study_load_from_its_own_folder(ddim, tmp_path):
    ddim[0].save(tmp_path)
    assert load_results(tmp_path) == [ddim[0]]


def test_missing_and_broken_records_are_named(tmp_path):
    with pytest.raises(DifflabError, match=r"no results\.json"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("[1, 2")
    with pytest.raises(DifflabError, match="no record of a study"):
        load_results(tmp_path)


@pytest.fixture
def told(make_result):
    """A study over the scale of guidance whose samples were told captions."""
    scales = [1.0, 2.0, 4.0]
    result = make_result(
        {"guidance": scales}, {(s,): 0.5 + s / 10 for s in scales}, metric="caption", metric_name="captions fulfilled",
        pictures=4,
    )  # fmt: skip
    rows = [
        row.model_copy(
            update={"scores": {**row.scores, "kind": row.scores["caption"], "colour": row.scores["caption"]}}
        )
        for row in result.rows
    ]
    names = {**result.metric_names, "kind": "kind as told", "colour": "colour as told"}
    captions = ["a small red circle at the top left", "a cross", "a large square on a grey background", "a circle"]
    return result.model_copy(update={"rows": rows, "metric_names": names, "captions": captions})


def test_captions_stand_beside_what_was_drawn_for_them(told):
    sheet = draw.strip(told)
    assert sheet is not None
    for word in ("small", "square", "background"):
        assert word in sheet


def test_aspects_of_captions_share_a_figure(told, tmp_path):
    build_report([told], tmp_path / "out", problem_set=None)
    drawn = {path.stem.split("-", 2)[2] for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"aspects", "quality-caption"} <= drawn
    assert not {"quality-kind", "quality-colour"} & drawn


def test_one_aspect_alone_has_its_own_figure(told, tmp_path):
    names = {name: told.metric_names[name] for name in ("caption", "kind")}
    build_report([told.model_copy(update={"metric_names": names})], tmp_path / "out", problem_set=None)
    drawn = {path.stem.split("-", 2)[2] for path in (tmp_path / "out" / "figures").iterdir()}
    assert "quality-kind" in drawn
    assert "aspects" not in drawn


@pytest.mark.parametrize("problem_set", ["samplers", "imagenet", "coco", "ssv2"])
def test_bonus_chapters_have_answers_that_lead_nowhere_wrong(problem_set, steps_result, tmp_path):
    page = build_report([steps_result(3.0, 2.0, 1.0)], tmp_path / "out", problem_set=problem_set)
    text = page.read_text(encoding="utf-8")
    assert "References</h2>" in text
    for target in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{target}"' in text, target


def test_steps_that_follow_from_calls_are_not_told_as_held_fixed(make_result, tmp_path):
    values = {(calls, name): 1.0 for calls in (4, 9) for name in ("ddim", "heun")}
    result = make_result({"calls": [4, 9], "sampler": ["ddim", "heun"]}, values)
    build_report([result], tmp_path / "out", problem_set=None)
    held = next(line for line in (tmp_path / "out" / "report.md").read_text().splitlines() if "Held fixed" in line)
    assert "steps" not in held


def test_distribution_is_shown_against_captions(told, tmp_path):
    rows = [
        row.model_copy(update={"scores": dict.fromkeys(("fid", "clipscore"), row.scores["caption"])})
        for row in told.rows
    ]
    names = {"fid": "FID", "clipscore": "CLIPScore (a-clip)"}
    build_report([told.model_copy(update={"rows": rows, "metric_names": names})], tmp_path / "out", problem_set="coco")
    assert any(path.stem.endswith("fid-clipscore") for path in (tmp_path / "out" / "figures").iterdir())
