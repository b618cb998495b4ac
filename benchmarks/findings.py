"""What the papers found beside what a run of the problem sets found, as Markdown.

difflab reproduce all --scale demo --out runs/demo
python benchmarks/findings.py runs/demo > docs/results/findings.md
"""

from __future__ import annotations

import argparse

from difflab.report.chapters import TITLES
from difflab.report.claims import RULE, Found, claims_table, judged
from difflab.report.literature import CLAIMS
from difflab.report.load import load_chapters
from difflab.study.result import Result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of the results")
    options = parser.parse_args()
    chapters = load_chapters(options.folder)
    print("# What the papers found, and what was found here\n")
    print("The tables of [the report](../report/index.html), made by\n")
    print("```")
    print("difflab reproduce all --scale demo --out runs/demo")
    print("python benchmarks/findings.py runs/demo > docs/results/findings.md")
    print("```\n")
    print(
        "with the models that ship and the world `shapes`. Distances are FD with features of ours, brackets 95 %\n"
        "intervals (of differences paired ones). Real data: [CIFAR-10](cifar10-lab.md), [films](ucf101-lab.md).\n"
    )
    for chapter in chapters:
        each = judged(CLAIMS.get(chapter.problem_set or "", ()), Found(chapter.results, chapter.learnings))
        if each:
            print(f"## {TITLES[chapter.problem_set or '']}\n")
            print(f"{made_of(chapter.results)}\n")
            print(f"{claims_table(each)}\n")
    print(RULE)


def made_of(results: list[Result]) -> str:
    """The studies of a chapter, with their samples a cell."""
    return "Samples a cell: " + ", ".join(f"{r.study.base.count} in `{r.study.name}`" for r in results) + "."


if __name__ == "__main__":
    main()
