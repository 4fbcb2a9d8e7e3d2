"""Every code block of README.md and docs/ does what the page says;
see `pages.py` for what may steer it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pages
import pytest
from pages import Block, BlockFailed

TO_RUN = [
    pytest.param(block, blocks[:at], id=str(block))
    for blocks in map(pages.read, pages.pages())
    for at, block in enumerate(blocks)
    if pages.runnable(block) and "serves" not in block.directives
]


@pytest.mark.parametrize(("block", "former"), TO_RUN)
def test_block_does_what_the_page_says(block: Block, former: list[Block], tmp_path: Path) -> None:
    pages.run(block, former, tmp_path)


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in pages.read(page):
        assert block.language in pages.LANGUAGES, (
            f"{block}: {block.language!r} is not one of {pages.LANGUAGES}"
        )
        unknown = set(block.directives) - pages.DIRECTIVES
        assert not unknown, f"{block}: unknown comment {unknown}; known are {pages.DIRECTIVES}"
        assert block.directives.get("not run", "x"), f"{block}: 'not run' has to give a reason"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as hosts of Markdown make them."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(
        r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")
    ):
        to = page.parent / target if target else page
        assert to.exists(), f"{page.name}: the link to {target} leads nowhere"
        assert not anchor or anchor in anchors(to), (
            f"{page.name}: {target} has no heading #{anchor}"
        )


def written(folder: Path, text: str) -> list[Block]:
    page = folder / "page.md"
    page.write_text(text.replace("~~~", "```"), encoding="utf-8")
    return pages.read(page)


def run_last(folder: Path, text: str) -> None:
    *former, block = written(folder, text)
    pages.run(block, former, folder)


def test_blocks_carry_their_comments_and_their_output(tmp_path: Path) -> None:
    first, second = written(
        tmp_path,
        "# Title\n<!-- file: a.py -->\n\n~~~python\nprint(1)\n~~~\n<!-- output "
        "-->\n~~~text\n1\n~~~\n"
        "<!-- not run: why -->\nprose\n  ~~~bash\n  true\n  ~~~\n",
    )
    assert (first.line, first.language, first.code, first.output) == (
        4,
        "python",
        "print(1)\n",
        "1\n",
    )
    assert first.directives == {"file": "a.py"}
    # Prose between comment and block parts them.
    assert (second.code, second.directives) == ("true\n", {})


def test_output_must_be_as_promised(tmp_path: Path) -> None:
    page = "~~~python\nprint('one'); print('two', 2)\n~~~\n<!-- output -->\n~~~text\n{}\n~~~\n"
    for promised in ("one\ntwo 2", "one\ntwo ...", "..."):
        assert pages.matches(promised, "one\ntwo 2\n")
    with pytest.raises(BlockFailed, match="should print"):
        run_last(tmp_path, page.format("one"))


def test_a_block_may_continue_another_and_use_its_files(tmp_path: Path) -> None:
    run_last(
        tmp_path,
        "<!-- file: data/a.yaml -->\n~~~yaml\na: 1\n~~~\n~~~python\nx = "
        "41\n~~~\n~~~bash\ntrue\n~~~\n"
        "<!-- continues -->\n~~~python\nassert x + 1 == 42 and open('data/a.yaml').read() == 'a: "
        "1\\n'\n~~~\n",
    )


def test_a_failing_block_fails_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(BlockFailed, match=r"(?s)page.md:1 ended with 1.*ZeroDivisionError"):
        run_last(tmp_path, "~~~python\n1 / 0\n~~~\n")


def test_console_commands_run_and_their_output_is_compared(tmp_path: Path) -> None:
    console = "~~~console\n$ echo a; test -e setup.cfg\na\n$ echo b\n{}\n~~~\n"
    with pytest.raises(BlockFailed, match="should print"):
        run_last(tmp_path, console.format("c"))


def test_a_block_that_hangs_or_leaves_a_process_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "GONE_WITHIN", 0.3)
    left = (
        "import subprocess\nsubprocess.Popen(['sleep', '7'], start_new_session=True, "
        "stdout=subprocess.DEVNULL)\n"
    )
    left = left.replace("stdout=", "stderr=subprocess.DEVNULL, stdout=")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(BlockFailed, match=r"left behind: .*sleep 7"):
        run_last(tmp_path / "a", f"~~~python\n{left}~~~\n")
    monkeypatch.setattr(pages, "TIME_LIMIT", 0.5)
    with pytest.raises(BlockFailed, match="did not end within"):
        run_last(tmp_path / "b", "~~~python\nimport time; time.sleep(8)\n~~~\n")


def test_a_block_that_serves_runs_while_the_next_one_does(tmp_path: Path) -> None:
    serve = (
        "import signal, sys, time; print('at :4242', flush=True); signal.sigwait({signal.SIGINT})"
    )
    run_last(
        tmp_path,
        f'<!-- serves -->\n~~~bash\n{sys.executable} -c "{serve}"\n~~~\n~~~python\nprint(1)\n~~~\n',
    )
