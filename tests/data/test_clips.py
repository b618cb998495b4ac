"""Films and clips of them, on films made here: every frame of one shows its own number."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from difflab.data import films as module
from difflab.data.clips import Window, describe_films, open_clips
from difflab.data.dataset import BrokenImageError, batches
from difflab.data.film_sets import holds_films
from difflab.data.films import Film, index_films, read_frames
from difflab.data.writers import save_samples
from difflab.errors import DifflabError


def picture(number: int, side: int = 32) -> np.ndarray:
    """Six bars that are white where the number has a one, which survives compression."""
    bits = [(number >> bit) & 1 for bit in range(6)]
    return np.array(bits, np.uint8).repeat(8)[None, :, None].repeat(side, 0).repeat(3, 2) * 255


def number_of(frame: np.ndarray) -> int:
    bars = frame.mean((0, 2)).reshape(6, -1).mean(1) > 127
    return int(sum(2**bit for bit, white in enumerate(bars) if white))


def film(path: Path, frames: int = 40, rate: int = 25, codec: str = "mpeg4", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "8", **options})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 32, 48, "yuv420p", 4_000_000
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/one.avi", "a/two.avi", "b/three.avi"):
        film(tmp_path / "films" / name)
    return tmp_path / "films"


@pytest.mark.parametrize(
    ("name", "codec", "options", "seeks"),
    [
        ("f.avi", "mpeg4", {}, True),
        ("b.avi", "mpeg4", {"bf": "2"}, False),  # stored in another order than shown, and AVI has no times
        ("f.mp4", "libx264", {"bf": "2"}, None),
        ("f.webm", "libvpx-vp9", {}, None),
    ],
)
def test_any_window_has_the_frames_that_were_asked_for(name, codec, options, seeks, tmp_path):
    film(tmp_path / name, codec=codec, **options)
    (found,) = index_films(tmp_path, [name])
    assert (found.frames, round(found.rate), found.width, found.height, found.problem) == (40, 25, 48, 32, None)
    assert seeks is None or found.seek == seeks
    for begin in (0, 1, 7, 8, 9, 25, 36):
        wanted = np.arange(begin, min(begin + 5, 40))
        assert [number_of(frame) for frame in read_frames(tmp_path, found, wanted)] == wanted.tolist()


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    film(tmp_path / "f.avi", frames=60)
    (found,) = index_films(tmp_path, ["f.avi"])
    seen = []
    decode = av.container.InputContainer.decode

    class Watched:
        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def __enter__(self):
            self.container.__enter__()
            return self

        def __exit__(self, *what):
            return self.container.__exit__(*what)

        def decode(self, *what):
            for frame in decode(self.container, *what):
                seen.append(frame.pts)
                yield frame

    opened = av.open
    monkeypatch.setattr(av, "open", lambda *what, **how: Watched(opened(*what, **how)))
    read_frames(tmp_path, found, np.arange(50, 54))
    assert len(seen) <= 8 + 4  # from the key frame before


def test_windows_are_random_by_seed_and_stay_inside(folder):
    clips = open_clips(folder, Window(6, stride=3), 16)
    begins = {int(clips.window.numbers(clips.films[0], (s,))[0]) for s in range(40)}
    assert min(begins) >= 0
    assert max(begins) <= 40 - 16
    assert len(begins) > 10
    np.testing.assert_array_equal(clips.item(1, (5,)).x, clips.item(1, (5,)).x)
    assert clips[0].x.shape == (6, 16, 16, 3)
    assert [clips[i].label for i in range(3)] == [0, 0, 1]
    assert clips.classes == ("a", "b")


@pytest.mark.parametrize(
    ("window", "numbers"),
    [
        (Window(4, start="first"), [0, 1, 2, 3]),
        (Window(4, start="middle"), [18, 19, 20, 21]),
        (Window(3, fps=12.5, start="first"), [0, 2, 4]),
        (Window(3, fps=50, start="first"), [0, 0, 1]),
        (Window(4, fps=15, start="first"), [0, 2, 3, 5]),  # 25 to 15: every 1.667th, to the nearest
        (Window(45, short="repeat"), [*range(40), *[39] * 5]),
        (Window(45, short="loop"), [*range(40), *range(5)]),
        (Window(5, stride=10, short="loop"), [0, 10, 20, 30, 0]),
    ],
)
def test_a_window_takes_these_frames(window, numbers):
    assert window.numbers(Film("f", "", 40, 25.0), (0,)).tolist() == numbers


def test_short_films_are_dropped_and_told(folder):
    film(folder / "a" / "short.avi", frames=5)
    clips = open_clips(folder, Window(16), 16)
    assert len(clips) == 3
    assert clips.description.endswith("left out: 1 too short")
    assert len(open_clips(folder, Window(16, short="repeat"), 16)) == 4
    with pytest.raises(DifflabError, match=r"none of 4 films has a clip of 99 frames \(the longest has 40 frames\)"):
        open_clips(folder, Window(99), 16)


def test_what_is_lost_or_repeated_is_told(folder):
    """The films have 25 frames a second or fewer: brought to 50, each frame comes twice."""
    film(folder / "a" / "short.avi", frames=5)
    with pytest.warns(UserWarning, match=r"0 broken films and 1 shorter than 16 frames are left out"):
        open_clips(folder, Window(16), 16).warn()
    with pytest.warns(UserWarning, match=r"4 of 4 films are slower than 50 frames a second; frames of"):
        open_clips(folder, Window(8, fps=50.0), 16).warn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_clips(folder, Window(2, fps=12.5), 16).warn()
        open_clips(folder, Window(4, fps=25.02), 16).warn()  # as good as their own
        open_clips(folder, Window(3, stride=2, fps=40.0), 16).warn()  # no frame comes twice


def test_broken_films_are_known_once_and_told(folder, monkeypatch):
    content = (folder / "a" / "one.avi").read_bytes()
    (folder / "a" / "one.avi").write_bytes(content[: len(content) * 9 // 10])
    (folder / "a" / "text.avi").write_text("no film")
    with av.open(str(folder / "a" / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    clips = open_clips(folder, Window(8), 16)
    assert len(clips) == 2
    told = {film.name: film.problem for film in clips.films if film.problem}
    assert "ends after" in told["a/one.avi"]
    assert "cannot be opened" in told["a/text.avi"]
    assert told["a/sound.mp4"] == "has no video stream"
    assert "left out: 3 broken" in clips.description
    with pytest.raises(BrokenImageError, match="no video stream"):
        read_frames(folder, Film("a/sound.mp4", "", problem="has no video stream"), np.arange(2))
    monkeypatch.setattr(module, "probe", lambda *_: pytest.fail("probed again"))
    assert open_clips(folder, Window(8), 16).description == clips.description


def test_a_changed_film_is_probed_again(folder):
    open_clips(folder, Window(8), 16)
    film(folder / "a" / "one.avi", frames=30)
    clips = open_clips(folder, Window(8), 16)
    assert {f.name: f.frames for f in clips.films}["a/one.avi"] == 30


def test_folders_of_frames_are_films_and_a_hole_is_told(tmp_path):
    for name, numbers in (("whole", range(1, 7)), ("hole", [0, 1, 3])):
        (tmp_path / name).mkdir()
        for i in numbers:
            Image.fromarray(picture(i)).save(tmp_path / name / f"img_{i:04d}.png")
    clips = open_clips(tmp_path, Window(4, start="first"), 16)
    (found,) = [one for one in clips.films if not one.problem]
    assert [number_of(frame) for frame in read_frames(tmp_path, found, np.arange(4))] == [1, 2, 3, 4]
    assert "hole has no frame 2, but goes on with 3" in clips.description


def ucf(root: Path) -> Path:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 Archery\r\n2 HandstandPushups\r\n")
    names = ["Archery/v_Archery_g08_c01.avi", "HandstandPushups/v_HandStandPushups_g01_c01.avi"]
    (lists / "trainlist01.txt").write_bytes(f"{names[0]} 1\r\nArchery/v_Archery_g09_c09.avi 1\r\n".encode())
    (lists / "testlist01.txt").write_bytes(f"{names[1]}\r\n".encode())
    for name in names:
        film(root / "UCF-101" / name)
    return root


def test_ucf101_by_its_lists_and_folders(tmp_path):
    root = ucf(tmp_path / "ucf")
    train, test = (open_clips(root, Window(4), 16, split=split) for split in ("train", "test"))
    assert len(train) == len(test) == 1  # a listed film that is not there is no loss
    assert (train[0].label, test[0].label) == (0, 1)
    assert len(open_clips(root / "UCF-101", Window(4), 16)) == 2
    with pytest.raises(DifflabError, match="UCF101 has no split 'val'"):
        open_clips(root, Window(4), 16, split="val")


def test_a_split_whose_films_are_not_there_is_told(tmp_path):
    root = ucf(tmp_path / "ucf")
    (root / "ucfTrainTestlist" / "trainlist01.txt").write_text("Archery/v_Archery_g09_c09.avi 1\n")
    with pytest.raises(DifflabError, match="names none that is there"):
        open_clips(root, Window(4), 16, split="train")


def test_something_something_has_captions_and_templates(tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "labels.json").write_text(json.dumps({"Holding something": "1", "Closing something": "0"}))
    record = {"id": "7", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}
    (labels / "train.json").write_text(json.dumps([record, {**record, "id": "8"}]))
    film(tmp_path / "20bn-something-something-v2" / "7.webm", codec="libvpx-vp9", rate=12)
    clips = open_clips(tmp_path, Window(4, stride=2), 16, split="train")
    assert (len(clips), clips[0].text, clips[0].label, clips.classes) == (
        1, "holding a cup", 1, ("Closing something", "Holding something"),
    )  # fmt: skip
    with pytest.raises(DifflabError, match="no labels of a split 'validation'"):
        open_clips(tmp_path, Window(4), 16, split="validation")


def test_other_files_beside_frames_do_not_matter_but_a_frame_twice_does(tmp_path):
    (tmp_path / "one").mkdir()
    for name in ("0001.png", "0002.png", "0003.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "one" / name)
    (tmp_path / "one" / "readme.txt").write_text("frames of a film")
    assert len(open_clips(tmp_path, Window(3), 8)) == 1
    (tmp_path / "one" / "x0003.png").write_bytes((tmp_path / "one" / "0003.png").read_bytes())
    with pytest.raises(DifflabError, match="has frame 3 twice"):
        open_clips(tmp_path, Window(3), 8)


def test_films_beside_their_thumbnails_are_films(tmp_path):
    film(tmp_path / "a" / "v1.avi", frames=8)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a" / "v1.png")
    assert open_clips(tmp_path, Window(8), 8).listed.names == ["a/v1.avi"]


def test_a_list_that_is_missing_is_told(tmp_path):
    root = ucf(tmp_path / "ucf")
    (root / "ucfTrainTestlist" / "classInd.txt").unlink()
    with pytest.raises(DifflabError, match=r"classInd.txt: cannot be read \(No such file or directory\)"):
        open_clips(root, Window(4), 16, split="train")


@pytest.mark.parametrize(
    ("name", "content"),
    [("classInd.txt", b"word"), ("classInd.txt", b"\xff\xfe1 a"), ("trainlist01.txt", b"\xff\xfe")],
)
def test_damaged_lists_of_ucf101_are_told(name, content, tmp_path):
    root = ucf(tmp_path / "ucf")
    (root / "ucfTrainTestlist" / name).write_bytes(content)
    with pytest.raises(DifflabError, match=rf"{name}: cannot be read, .* was expected"):
        open_clips(root, Window(4), 16, split="train")


@pytest.mark.parametrize(
    ("name", "content"),
    [("labels.json", "[1]"), ("labels.json", '{"a": "x"}'), ("train.json", '[{"label": "a"}]'), ("train.json", "{")],
)
def test_damaged_labels_of_something_something_are_told(name, content, tmp_path):
    (tmp_path / "20bn-something-something-v2").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "labels.json").write_text("{}")
    (tmp_path / "labels" / "train.json").write_text("[]")
    (tmp_path / "labels" / name).write_text(content)
    with pytest.raises(DifflabError, match=rf"{name}: cannot be read, .* was expected"):
        open_clips(tmp_path, Window(4), 16, split="train")


def test_films_are_described(folder):
    (folder / "a" / "text.avi").write_text("no film")
    lines = describe_films(folder)
    assert holds_films(folder)
    assert lines[0].endswith("4 films, 1 of them broken")
    assert "40 frames of" in lines[1]
    assert "text.avi: cannot be opened as a film" in lines[-1]
    with pytest.raises(DifflabError, match="has no split 'tset'"):
        describe_films(folder, "tset")


def test_a_film_among_pictures_does_not_make_them_films(folder):
    for number in range(5):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"holiday-{number}.jpg")
    assert not holds_films(folder)


def test_batches_of_clips(folder):
    (batch,) = batches(open_clips(folder, Window(4), 16), 8)
    assert batch.x.shape == (3, 4, 16, 16, 3)


def test_what_is_no_data_set_is_told(tmp_path):
    with pytest.raises(DifflabError, match="no such folder"):
        open_clips(tmp_path / "nothing", Window(4), 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DifflabError, match="no films in this folder"):
        open_clips(tmp_path / "empty", Window(4), 16)
    with pytest.raises(DifflabError, match="all must be positive"):
        Window(0)


def test_frames_of_different_sizes_are_told(tmp_path):
    for i in range(3):
        (tmp_path / "films" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 if i == 1 else 32, 32)).save(tmp_path / "films" / "a" / f"{i}.png")
    clips = open_clips(tmp_path / "films", Window(3, start="first"), 16)
    with pytest.raises(BrokenImageError, match=r"1\.png: is of 40x32 pixels, but others are of 32x32"):
        clips[0]


def test_clips_that_were_saved_as_a_folder_are_read_again(tmp_path):
    """Animated .png, one a clip, are films and not frames of one."""
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), dtype=np.uint8)
    save_samples(tmp_path / "set" / "drawn", clips)
    for folder in (tmp_path / "set" / "drawn", tmp_path / "set"):
        found = open_clips(folder, Window(4), 16)
        assert len(found) == 3
        np.testing.assert_array_equal(found[1].x, clips[1])
