"""The configuration: every bound, every source, every word of an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiosd import config
from aiosd.__main__ import parse

ROOT = Path(__file__).parent.parent


def test_flags_win_over_the_file_which_wins_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "aiosd.toml"
    file.write_text("slots = 5\nquantum = 7\nsnapshot-ram = '3M'\n[limits]\nhello_s = 9\n")
    got = config.load(str(file), {"slots": 6, "quantum": None})
    assert (got.slots, got.quantum, got.threads) == (6, 7, 0)
    assert got.snapshot_ram == 3 * 1024**2
    assert got.limits.hello_s == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slotz = 5", "slotz: no such key, did you mean slots?"),
        ("slots = 0", "slots is 0, the least is 1"),
        ("slots = 257", "slots is 257, the limit is 256"),
        ("slots = true", "slots is True, expected a whole number"),
        ("slots = '5'", "slots is '5', expected a whole number"),
        ("model = 5", "model is 5, expected text in quotes"),
        ("policy = 'lifo'", "policy is 'lifo', expected one of fifo, rr"),
        ("snapshot_ram = 'much'", "'much' is not a size"),
        ("slots = 2\nlanes = 3", "lanes is 3, limit is the number of slots, 2"),
        ("[limits]\nhello = 1", "limits.hello: no such key, did you mean hello_s?"),
        ("[limit]\nhello_s = 1", "limit: no such table, did you mean limits?"),
        ("limits = 3", "limits is 3, expected a table [limits]"),
        ("slots = ", "Invalid value"),
        ("access = 3", "access is 3, expected a table [access]"),
        ("[access]\nrights = 'llm'", "access.rights is 'llm', expected a list of texts"),
        ("[access]\nrights = ['root']", "access.rights[0] is 'root', expected one of llm, "),
        ("[access.groups.a]\nmod = 'read'", "access.groups.a.mod: no such key, did you mean mode?"),
        ("[access.groups.'a b']\n", "access.groups: the name 'a b' isn't like"),
        ("[access.groups]\na = 1", "access.groups.a is 1, expected a table"),
        ("[mcp.a]\nargs = ['x']", "mcp.a has neither a command nor a url, expected one of them"),
        (
            "[mcp.a]\ncommand = 'x'\nurl = 'http://x'",
            "mcp.a has both a command and a url, expected one of them",
        ),
        ("[mcp.a]\nurl = 'ftp://x'", "mcp.a.url is 'ftp://x', expected a text like"),
        ("[mcp.a]\ncomand = 'x'", "mcp.a.comand: no such key, did you mean command?"),
        ("[mcp.'a.b']\ncommand = 'x'", "mcp: the name 'a.b' isn't like"),
        ("[mcp.a]\ncommand = 'x'\nread = ['y']", "mcp.a.read[0] is 'y', expected a text like"),
        ("[mcp.a]\ncommand = 'x'\nenv = ['y']", "mcp.a.env is ['y'], expected texts with names"),
        ("[mcp.a]\ncommand = 'x'\nenv = {A = 1}", "mcp.a.env.A is 1, expected text in quotes"),
        ("[mcp.a]\ncommand = 'x'\nenv = {'A B' = 'c'}", "mcp.a.env: the name 'A B' isn't like"),
        (
            "[mcp.a]\nurl = 'http://x'\nheaders = {a = \"b\\nc\"}",
            "mcp.a.headers.a holds what no header may",
        ),
        ("[[access.confirm]]\nown = 1", "access.confirm[0].own is 1, expected true or false"),
        (
            "[[access.confirm]]\nacts = ['see']",
            "access.confirm[0].acts[0] is 'see', expected one of",
        ),
        ("[access.confirm]\nown = true", "expected a list of tables"),
    ],
)
def test_a_bad_file_is_refused_with_words(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "aiosd.toml"
    file.write_text(text)
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(file), {})
    assert words in str(caught.value)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"nowhere\.toml: No such file"):
        config.load(str(tmp_path / "nowhere.toml"), {})


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512M", 512 * 1024**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("2kb", 2048),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, n_bytes: int) -> None:
    assert config.parse_bytes(text) == n_bytes


def test_what_check_config_prints_reads_back_to_the_same(tmp_path: Path) -> None:
    given = config.load(None, {"slots": 3, "policy": "fifo", "model": 'a"b\\c'})
    file = tmp_path / "out.toml"
    file.write_text(config.to_toml(given))
    assert config.load(str(file), {}) == given


def test_tables_in_tables_are_read_and_written_back(tmp_path: Path) -> None:
    file = tmp_path / "aiosd.toml"
    file.write_text(
        """
        [access]
        operators = ["aiosctl", "me"]
        [access.agents."1000:bot-*"]
        without = ["tool"]
        [access.groups.team]
        uid = 1000
        members = ["alice", "bob"]
        mode = "write"
        [[access.confirm]]
        agent = "@team"
        acts = ["delete"]
        name = "docs/*"
        own = true
        """
    )
    got = config.load(str(file), {})
    assert got.access.operators == ("aiosctl", "me")
    assert got.access.agents["1000:bot-*"].without == ("tool",)
    assert got.access.settings().groups[1000, "team"].members == {"alice", "bob"}
    assert got.access.confirm[0].rule().acts == {"delete"}
    file.write_text(config.to_toml(got))
    assert config.load(str(file), {}) == got


def test_servers_are_read_and_written_back(tmp_path: Path) -> None:
    file = tmp_path / "aiosd.toml"
    file.write_text(
        "[mcp.git]\ncommand = 'mcp-server-git'\nargs = ['-v']\nwrite = ['/srv/work']\n"
        "memory = '2G'\nenv = { HOME = '/srv', LANG = 'C' }\n"
        "[mcp.wiki]\nurl = 'http://127.0.0.1:1/mcp'\nheaders = { authorization = 'Bearer x' }\n"
    )
    got = config.load(str(file), {})
    assert sorted(got.mcp) == ["git", "wiki"]
    git = got.mcp["git"]
    assert (git.command, git.args, git.write) == ("mcp-server-git", ("-v",), ("/srv/work",))
    assert (git.memory, git.env) == (2 * 1024**3, {"HOME": "/srv", "LANG": "C"})
    assert (git.network, git.read, git.timeout_s) == (False, (), 60)
    assert got.mcp["wiki"].headers == {"authorization": "Bearer x"}
    file.write_text(config.to_toml(got))
    assert config.load(str(file), {}) == got


def test_the_reference_page_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "CONFIG.md").read_text()
    assert page == config.reference(), "run: python -m tests.make_docs"


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--slot-token=5", "no such argument: --slot-token, did you mean --slot-tokens?"),
        ("--sokcet", "no such argument: --sokcet, did you mean --socket?"),
        ("--zzz", "no such argument: --zzz; see aiosd --help"),
        ("start", "no such argument: start; see aiosd --help"),
    ],
)
def test_an_unknown_flag_is_an_error_with_the_nearest_known(
    capsys: pytest.CaptureFixture[str], flag: str, says: str
) -> None:
    with pytest.raises(SystemExit) as left:
        parse([flag])
    assert left.value.code == 2
    assert says in capsys.readouterr().err
