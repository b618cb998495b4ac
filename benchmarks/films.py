"""Clips read from films: ours, which begins at the key frame before, against a plain loop over each whole film.

python benchmarks/films.py FOLDER [--frames 16] [--size 64] [--clips 100]
"""

from __future__ import annotations

import argparse
import time

import av
import numpy as np

from difflab.data.clips import Window, open_clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--clips", type=int, default=100)
    options = parser.parse_args()
    began = time.perf_counter()
    clips = open_clips(options.folder, Window(options.frames), options.size)
    print(
        f"{clips.description}; opened in {time.perf_counter() - began:.2f} s, the index included where it was missing"
    )
    spent = {"ours": 0.0, "whole films": 0.0}
    for i in range(options.clips):  # in turn, so that a slow minute slows both alike
        index, seed = i % len(clips), (1, i)
        began = time.perf_counter()
        ours = clips.item(index, seed).x
        spent["ours"] += time.perf_counter() - began
        began = time.perf_counter()
        film = clips.films[clips.kept[index]]
        with av.open(str(clips.listed.root / film.name)) as container:
            every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        numbers = clips.window.numbers(film, seed)
        whole = np.stack([clips.transform(every[n]) for n in numbers])
        spent["whole films"] += time.perf_counter() - began
        assert (ours == whole).all(), film.name
    for name, seconds in spent.items():
        print(f"{name:<12} {options.clips / seconds:6.1f} clips/s")


if __name__ == "__main__":
    main()
