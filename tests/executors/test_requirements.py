"""`install_requirements`: in environments of their own, from packages on this disk; nothing is
fetched.
"""

import os
import subprocess
import sys
import sysconfig
import textwrap
import zipfile

import pytest
from helpers import PATIENCE, ROOT, launched

from zflow import Flow
from zflow.errors import InvalidFlow
from zflow.executors import requirements

pytestmark = pytest.mark.slow

HERE = "--no-index\n--find-links .\n"

FLOW = """
    import sys
    from zflow import Document, Flow

    flow = Flow(install_requirements=True).add(uses=sys.argv[1], replicas=3).add(uses=sys.argv[-1])
    with flow:
        print(flow.post("/", Document())[0].text)
    """

# A pip that keeps a diary and installs an empty package for each plain line of a requirement file.
PIP = """
    import os, sys, sysconfig, time

    def note(word):
        with open(os.environ["DIARY"], "a") as diary:
            diary.write(f"{word} {os.path.basename(os.getcwd())}\\n")

    note("begin")
    time.sleep(0.3)
    for line in open(sys.argv[-1]):
        if line.strip().isidentifier():
            info = os.path.join(sysconfig.get_path("purelib"), line.strip() + "-1.0.dist-info")
            os.makedirs(info, exist_ok=True)
            with open(os.path.join(info, "METADATA"), "w") as metadata:
                metadata.write(f"Metadata-Version: 2.1\\nName: {line.strip()}\\nVersion: 1.0\\n")
    note("end")
    """


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def executor(folder, lines, imports=""):
    """Write an Executor's folder, with what it requires."""
    code = (
        f"{imports}\nfrom zflow import Executor, requests\n\nclass Encoder(Executor):\n    "
        "@requests\n"
    )
    write(
        folder / "executor.py",
        code
        + "    def say(self, docs, **kwargs):\n        docs.texts = [str(globals().get('V'))]\n",
    )
    write(folder / "requirements.txt", lines)
    return folder


def wheel(folder, name, version, source):
    """Write a wheel: what pip installs, without building anything."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: true\nTag: "
        "py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


class Environment:
    """A virtual environment that also sees the packages of this one, but installs into itself."""

    def __init__(self, folder):
        self.folder = folder
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True, timeout=60
        )
        self.python = folder / "env" / "bin" / "python"
        self.diary = folder / "diary"
        self.env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
            "DIARY": str(self.diary),
        }
        self.env = {name: value for name, value in self.env.items() if not name.startswith("PIP_")}

    def keep_a_diary(self):
        """Put a pip in the place of the real one."""
        write(self.folder / "pips" / "pip" / "__init__.py")
        write(self.folder / "pips" / "pip" / "__main__.py", PIP)
        self.env["PYTHONPATH"] = f"{self.folder / 'pips'}:{self.env['PYTHONPATH']}"

    def start(self, source, *arguments, **env):
        """Start a Python program."""
        command = [self.python, "-c", textwrap.dedent(source), *map(str, arguments)]
        options = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": self.folder,
        }
        return subprocess.Popen(command, env={**self.env, **env}, **options)

    def run(self, source, *arguments, **env):
        """Run a Python program to its end: its exit status,
        and what it wrote to stdout and stderr.
        """
        with self.start(source, *arguments, **env) as program:
            out, err = program.communicate(timeout=PATIENCE)
        return program.returncode, out, err

    def has(self, package):
        """Whether a package was installed here."""
        return bool(list(self.folder.glob(f"env/lib/*/site-packages/{package}-*.dist-info")))

    @property
    def entries(self):
        return self.diary.read_text().splitlines() if self.diary.exists() else []


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path)


# -- with pip --------------------------------------------------------------------------------------


def test_requirements_are_installed_before_the_executor_is_loaded(environment, tmp_path):
    folder = executor(
        tmp_path / "a",
        HERE + "zt_required >= 1  # of which there is one\n",
        "from zt_required import V",
    )
    wheel(folder, "zt_required", "1.5", "V = 'installed'")
    status, out, err = environment.run(FLOW, folder)
    assert (status, out) == (0, "installed\n"), err
    assert environment.has("zt_required")


def test_without_the_option_nothing_is_installed_and_the_error_names_it(environment, tmp_path):
    folder = executor(tmp_path / "a", HERE + "zt_required", "import zt_required")
    wheel(folder, "zt_required", "1.5", "")
    status, _, err = environment.run(FLOW.replace("install_requirements=True", ""), folder)
    assert status == 1
    assert (
        "ModuleNotFoundError: No module named 'zt_required'; say install_requirements=True to "
        "install " in err
    )
    assert not environment.has("zt_required")


def test_what_pip_said_is_in_the_error(environment, tmp_path):
    folder = executor(tmp_path / "a", "--no-index\nzt_nowhere")
    status, out, err = environment.run(FLOW, folder)
    assert (status, out) == (1, "")
    assert (
        "StartupFailed: pip could not install the requirements of executor 'executor0' and "
        "executor " in err
    )
    assert f"({folder}/requirements.txt); it said:" in err
    assert "ERROR: No matching distribution found for zt_nowhere" in err


def test_what_a_path_file_adds_is_found_at_once(environment, tmp_path):
    write(tmp_path / "elsewhere" / "zt_editable.py", "V = 'elsewhere'")
    folder = executor(tmp_path / "a", HERE + "zt_pth", "from zt_editable import V")
    wheel(folder, "zt_pth", "1.0", "")
    with zipfile.ZipFile(folder / "zt_pth-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("zt_pth.pth", f"{tmp_path}/elsewhere\n")
    status, out, err = environment.run(FLOW, folder)
    assert (status, out) == (0, "elsewhere\n"), err


def test_requirements_that_exclude_each_other(environment, tmp_path):
    first, second = (
        executor(tmp_path / "a", HERE + "zt_both == 1.0"),
        executor(tmp_path / "b", HERE + "zt_both == 2.0"),
    )
    wheel(first, "zt_both", "1.0", "")
    wheel(second, "zt_both", "2.0", "")
    status, _, err = environment.run(FLOW, first, second)
    assert status == 1
    assert (
        f"zt_both == 1.0 of {first}/requirements.txt (executor 'executor0') is not installed any "
        "more after " in err
    )


def test_the_documented_yaml_starts_with_a_folder_in_the_hub(environment, tmp_path):
    said = (
        "from zt_required import V as R\nimport os\nV = f'{R} "
        '{os.environ.get("CUDA_VISIBLE_DEVICES")}\''
    )
    folder = executor(tmp_path / "hub" / "jina-ai" / "CLIPEncoder", HERE + "zt_required", said)
    wheel(folder, "zt_required", "1.0", "V = 'clip'")
    write(
        folder / "config.yml",
        "jtype: Encoder\nmetas:\n  name: CLIPEncoder\npy_modules:\n- executor.py\n",
    )
    text = (
        "jtype: Flow\nexecutors:\n- uses: jinaai://jina-ai/CLIPEncoder\n  "
        "install_requirements: True\n  replicas: 5  \n"
    )
    path = write(tmp_path / "flow.yaml", text)
    env = {
        "ZFLOW_HUB": str(tmp_path / "hub"),
        "CUDA_VISIBLE_DEVICES": "RR",
        "CUDA_TOTAL_DEVICES": "3",
        "PATH": "/none",
    }
    command = [environment.python, "-m", "zflow", path]
    with launched(
        command, env={**environment.env, **env}, stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout.readline() == "executor0: 5 replicas\n"
        address = served.stdout.readline()
        assert address.startswith("serving at 127.0.0.1:")
        from zflow import Client, Document

        client = Client(port=int(address.split(":")[1].split(",")[0]))
        docs = client.post("/", [Document() for _ in range(40)], request_size=1)
        served.terminate()
    assert set(docs.texts) == {"clip 0", "clip 1", "clip 2"}


# -- when, and how often ---------------------------------------------------------------------------


def test_pip_runs_once_per_file_and_start_and_not_when_all_is_there(environment, tmp_path):
    environment.keep_a_diary()
    first, second = (
        executor(tmp_path / "a", "zt_one\nzt_two\n"),
        executor(tmp_path / "b", "zt_two\nzt_three\n"),
    )
    assert environment.run(FLOW, first, first)[:2] == (0, "None\n")
    assert environment.entries == ["begin a", "end a"]
    assert environment.run(FLOW, first, second)[:2] == (0, "None\n")
    assert environment.entries[2:] == ["begin b", "end b"]
    assert environment.run(FLOW, first, second)[:2] == (0, "None\n")
    assert len(environment.entries) == 4


def test_processes_that_install_into_one_environment_take_turns(environment, tmp_path):
    environment.keep_a_diary()
    folders = [
        executor(tmp_path / "a", "zt_one"),
        executor(tmp_path / "b", "./always"),
        executor(tmp_path / "a", "zt_one"),
    ]
    programs = [environment.start(FLOW, folder) for folder in folders]
    for program in programs:
        with program:
            assert program.communicate(timeout=PATIENCE)[0] == "None\n"
    assert environment.entries in (
        ["begin a", "end a", "begin b", "end b"],
        ["begin b", "end b", "begin a", "end a"],
    )


def test_an_environment_without_pip_says_how_to_get_one(environment, tmp_path):
    hide = "import importlib.util as u\nfind = u.find_spec\n"
    hide += "u.find_spec = lambda name: None if name == 'pip' else find(name)\n"
    status, _, err = environment.run(
        hide + textwrap.dedent(FLOW), executor(tmp_path / "a", "zt_one")
    )
    assert status == 1
    assert f"there is no pip in {tmp_path}/env. Run `{environment.python} -m ensurepip`" in err


def test_the_option_has_no_effect_where_there_is_nothing_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(requirements, "_pip_install", lambda *_: pytest.fail("pip was run"))
    bare = executor(tmp_path / "bare", "")
    (bare / "requirements.txt").unlink()
    flow = Flow(install_requirements=True).add().add(uses="BaseExecutor").add(uses=bare)
    flow.add(uses=executor(tmp_path / "off", "zt_one"), install_requirements=False)
    with flow:
        pass


def test_the_option_is_on_or_off():
    with pytest.raises(
        InvalidFlow, match=r"install_requirements must be True or False, not 'yes' \(executor 'x'\)"
    ):
        Flow().add(name="x", install_requirements="yes")


# -- reading requirements --------------------------------------------------------------------------


def pip_is_needed(path, text, monkeypatch):
    calls = []
    monkeypatch.setattr(requirements, "_pip_install", lambda *call: calls.append(call))
    requirements.install({str(write(path / "requirements.txt", text)): "executor 'x'"})
    return bool(calls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n\n",
        "msgpack\n",
        "\ufeffmsgpack>=0.5,<99 # comment\nnumpy\n",
        "no-such-package-zt; python_version < '3'\n",
        "MsgPack == 1.*\n",
    ],
)
def test_what_is_installed_needs_no_pip(tmp_path, monkeypatch, text):
    assert not pip_is_needed(tmp_path, text, monkeypatch)


@pytest.mark.parametrize(
    "text",
    [
        "no-such-package-zt",
        "msgpack>=99",
        "msgpack[extra]",
        "msgpack @ https://example.invalid/msgpack.whl",
        "-r other.txt",
        "-e .",
        "--pre\nmsgpack",
        "./package",
        "msgpack==1.0 --hash=sha256:00",
        "msgpack\\\n>=1",
        "${PACKAGE}",
        "msgpack\nnot a requirement",
    ],
)
def test_what_lacks_or_cannot_be_told_is_left_to_pip(tmp_path, monkeypatch, text):
    assert pip_is_needed(tmp_path, text, monkeypatch)


def test_without_packaging_pip_decides(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert pip_is_needed(tmp_path, "msgpack", monkeypatch)


def test_pip_finds_what_is_there_without_a_network(environment, tmp_path):
    folder = executor(
        tmp_path / "a", "--index-url https://example.invalid/simple\nmsgpack >= 0.5\n"
    )
    status, out, err = environment.run(FLOW, folder)
    assert (status, out) == (0, "None\n"), err


@pytest.mark.parametrize(
    ("error", "installed", "way_out"),
    [
        (
            ModuleNotFoundError("x", name="a.b"),
            False,
            "; say install_requirements=True to install {}/requirements.txt",
        ),
        (
            ModuleNotFoundError("x", name="a.b"),
            True,
            "; {}/requirements.txt was installed (install_requirements=True)",
        ),
        (
            ModuleNotFoundError("x", name="jina.x"),
            False,
            "; write `from zflow import ...` where the files in {} import",
        ),
        (ImportError("x", name="a"), False, ""),
        (ModuleNotFoundError("x"), False, ""),
        (None, False, ""),
    ],
)
def test_a_missing_package_has_a_way_out(tmp_path, error, installed, way_out):
    write(tmp_path / "requirements.txt", "a")
    hint = requirements.hint(error, str(tmp_path), installed)
    assert hint.startswith(way_out.format(tmp_path)) if way_out else hint == ""
