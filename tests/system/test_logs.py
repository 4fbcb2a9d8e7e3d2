"""Log lines with the name of their process: in the user's own form,
or in a plain one where there is none.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from helpers import run_script

from zflow.system.logs import Named

LOGGING = (
    "import logging, sys\nfrom zflow.system.logs import name_lines\nlog = "
    "logging.getLogger('mine')\n"
)


def logged(folder: Path, source: str) -> list[str]:
    """The lines that a process of its own logs."""
    code, out, err = run_script(LOGGING + source, folder)
    assert (code, out) == (0, "")
    return err.splitlines()


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    return logging.LogRecord("mine", logging.WARNING, __file__, 1, message, arguments, None, **more)  # type: ignore[arg-type]


def test_a_line_of_another_formatter_gets_a_name() -> None:
    named = Named("encoder/rep-0", logging.Formatter("[%(name)s] %(message)s"))
    assert named.format(record("%d left", 3)) == "encoder/rep-0: [mine] 3 left"


def test_without_another_formatter_a_line_tells_its_level() -> None:
    assert (
        Named("encoder/rep-0", None).format(record("50% left")) == "encoder/rep-0: WARNING 50% left"
    )


def test_what_the_other_formatter_does_with_a_traceback_stays() -> None:
    inner = logging.Formatter("%(message)s")
    try:
        raise KeyError("x")
    except KeyError:
        failed = logging.LogRecord("mine", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    assert Named("encoder/rep-0", inner).format(failed) == "encoder/rep-0: " + inner.format(failed)
    assert inner.format(failed).endswith("KeyError: 'x'")


def test_where_nothing_is_configured_warnings_go_to_stderr(tmp_path: Path) -> None:
    source = (
        "name_lines('encoder/rep-0')\nlog.info('hidden')\nlog.warning('%d left', "
        "3)\nlogging.error('none')\n"
    )
    assert logged(tmp_path, source) == [
        "encoder/rep-0: WARNING 3 left",
        "encoder/rep-0: ERROR none",
    ]


def test_the_users_own_form_and_level_stay(tmp_path: Path) -> None:
    source = (
        "logging.basicConfig(format='[%(name)s] %(message)s', "
        "level='INFO')\nname_lines('encoder/rep-0')\n"
    )
    source += "log.info('ready')\nlog.debug('hidden')\n"
    assert logged(tmp_path, source) == ["encoder/rep-0: [mine] ready"]


@pytest.mark.parametrize("configured", ["", "logging.basicConfig(format='%(message)s!')\n"])
def test_a_name_takes_the_place_of_the_one_inherited(tmp_path: Path, configured: str) -> None:
    source = (
        configured
        + "for name in ('zflow', 'zflow', 'encoder/rep-0'): name_lines(name)\nlog.warning('here')\n"
    )
    line = "here!" if configured else "WARNING here"
    assert logged(tmp_path, source) == [f"encoder/rep-0: {line}"]


def test_every_handler_of_every_logger_gets_the_name_once(tmp_path: Path) -> None:
    source = """
one, two = logging.StreamHandler(), logging.StreamHandler()
shared = logging.Formatter("%(name)s %(message)s")
one.setFormatter(shared)
two.setFormatter(shared)
logging.getLogger("a.b.c")  # leaves a placeholder for a.b
for name in ("mine", "other"):
    logging.getLogger(name).addHandler(one)
    logging.getLogger(name).propagate = False
logging.getLogger().addHandler(two)
name_lines("encoder/rep-0")
log.warning("1")
logging.getLogger("other").warning("2")
logging.getLogger("a.b.c").warning("3")
"""
    assert logged(tmp_path, source) == [
        "encoder/rep-0: mine 1",
        "encoder/rep-0: other 2",
        "encoder/rep-0: a.b.c 3",
    ]
